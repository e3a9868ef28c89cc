// How values went: asked for what is shown, a few at a time, and again when it is old.

import { signal } from "@preact/signals";
import { get } from "./net";
import { live } from "./state";
import type { Sample } from "./types";

type History = { step_ms: number; series: { service: string; samples: Sample[] }[] };
export const sparks = signal<Map<string, (number | null)[]>>(new Map());

const FRESH = 30_000;
const AT_ONCE = 30;
const asked = new Map<string, number>();
let queue: string[] = [];
let busy = false;

/** A row is shown that wants its line. */
export function want(name: string) {
  if (Date.now() - (asked.get(name) ?? 0) < FRESH) return;
  asked.set(name, Date.now());
  queue.push(name);
  if (!busy) void work();
}

async function work() {
  busy = true;
  await new Promise((done) => setTimeout(done, 50));
  while (queue.length && live.value === "live") {
    const names = queue.splice(0, AT_ONCE);
    try {
      const history = await get<History>(`history?points=42&services=${names.map(encodeURIComponent).join(",")}`);
      const next = new Map(sparks.value);
      for (const series of history.series) next.set(series.service, series.samples.map((sample) => sample.connections));
      sparks.value = next;
    } catch {
      break;
    }
  }
  queue = [];
  busy = false;
}

export const history = (service: string, range: "hour" | "day") =>
  get<History>(`history?range=${range}&services=${encodeURIComponent(service)}`).then((all) => ({ step_ms: all.step_ms, samples: all.series[0]?.samples ?? [] }));
