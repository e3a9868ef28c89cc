// Values as a person reads them.

import { signal } from "@preact/signals";
import { now, pictureAt, skew } from "./state";
import type { Evidence, Ledger, Listener, Measured, Service } from "./types";

export const plural = (count: number, word: string) => `${count.toLocaleString("en")} ${word}${count === 1 ? "" : "s"}`;

export function span(ms: number): string {
  const seconds = Math.max(0, Math.round(ms / 1000));
  if (ms < 950 && ms > 0) return `${Math.round(ms)} ms`;
  if (seconds < 120) return `${seconds} s`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 120) return `${minutes} min`;
  const hours = Math.floor(minutes / 60);
  return hours < 48 ? `${hours} h` : `${Math.floor(hours / 24)} d`;
}

export const count = (value: Measured) => (typeof value === "number" ? value.toLocaleString("en") : "not measured");
export const short = (value: Measured) => (typeof value === "number" ? value.toLocaleString("en") : "?");

export function bytes(value: Measured): string {
  if (typeof value !== "number") return value;
  for (const [unit, size] of [["GB", 1e9], ["MB", 1e6], ["kB", 1e3]] as const) {
    if (value >= size) return `${(value / size).toFixed(value >= size * 100 ? 0 : 1)} ${unit}`;
  }
  return `${value} B`;
}

export const percent = (permille: number) => `${permille / 10} %`;
export const cpu = (permille: Measured) => (typeof permille === "number" ? `${(permille / 10).toFixed(1)} %` : permille);

const two = (n: number, width = 2) => String(n).padStart(width, "0");
/** In which zone times are shown: that of this browser, or UTC, which logs elsewhere often have. */
export const zone = signal<"local" | "utc">(localStorage.getItem("stayput-zone") === "utc" ? "utc" : "local");
export function setZone(value: "local" | "utc") {
  localStorage.setItem("stayput-zone", value);
  zone.value = value;
}
export const zoneName = () => (zone.value === "utc" ? "UTC" : Intl.DateTimeFormat().resolvedOptions().timeZone);
/** A time as if its zone were UTC: what is read of it by the functions for UTC is what is to be shown. */
const shifted = (ms: number) => new Date(zone.value === "utc" ? ms : ms - new Date(ms).getTimezoneOffset() * 60_000);
export function clock(ms: number, fine = false): string {
  const at = shifted(ms);
  const text = `${two(at.getUTCHours())}:${two(at.getUTCMinutes())}:${two(at.getUTCSeconds())}`;
  return fine ? `${text}.${two(at.getUTCMilliseconds(), 3)}` : text;
}
export const day = (ms: number) => {
  const at = shifted(ms);
  return `${at.getUTCFullYear()}-${two(at.getUTCMonth() + 1)}-${two(at.getUTCDate())}`;
};
/** Today is what it is where the services run: a browser's clock may be wrong. */
export const when = (ms: number) => (day(ms) === day(now.value + skew.value) ? clock(ms) : `${day(ms)} ${clock(ms)}`);

/** How long something has gone on that the API gave as an age when its service was last sent. */
export const since = (service: Service, ms: number) => ms + Math.max(0, now.value - service.seen);
/** Where a value comes from and how old it is: looked at again with each picture. */
export const source = (evidence: Evidence) => {
  const age = evidence.age_ms + Math.max(0, now.value - pictureAt.value);
  return `${evidence.source}, ${age < 1000 ? "just now" : `${span(age)} ago`}`;
};

export const address = (listener: { address: string; port: number }) =>
  listener.address.includes(":") ? `[${listener.address}]:${listener.port}` : `${listener.address}:${listener.port}`;
/** Short where it says as much: the usual addresses are left out. */
export const port = (listener: { address: string; port: number }) =>
  ["127.0.0.1", "0.0.0.0"].includes(listener.address) ? `:${listener.port}` : address(listener);

export type Tone = "good" | "busy" | "warn" | "bad" | "idle";
const STATES: Record<string, [word: string, tone: Tone]> = {
  running: ["running", "good"],
  working: ["working", "good"],
  restarting: ["restarting", "busy"],
  handover: ["handing over", "busy"],
  soaking: ["on probation", "busy"],
  starting: ["starting", "busy"],
  stopping: ["stopping", "busy"],
  "waiting-for": ["waiting", "warn"],
  "waiting-for-port": ["port taken", "bad"],
  "backing-off": ["backing off", "warn"],
  looping: ["crash loop", "bad"],
  "given-up": ["given up", "bad"],
  deaf: ["accepts nobody", "bad"],
  unhealthy: ["unhealthy", "bad"],
  "not-listening": ["not listening", "bad"],
  wedged: ["cannot be ended", "bad"],
  failed: ["failed", "bad"],
  scheduled: ["scheduled", "idle"],
  done: ["done", "idle"],
  stopped: ["stopped", "idle"],
  disabled: ["disabled", "idle"],
};
export const state = (service: Service): [word: string, tone: Tone] => STATES[service.state] ?? [service.state, "warn"];
const TROUBLE: Tone[] = ["bad", "warn"];
const RANK: Tone[] = ["bad", "warn", "busy", "good", "idle"];
export const rank = (service: Service) => RANK.indexOf(state(service)[1]);

/** Why a service needs somebody, or nothing. */
export function trouble(service: Service): string | null {
  const waits = service.held.filter((held) => held.queue !== 0);
  if (waits.length && service.target === "up") {
    const text = waits.map((held) => `${port(held)} is held, nobody accepts (${count(held.queue)} waiting)`).join(", ");
    return `${service.detail}; ${text}`;
  }
  const trap = service.generations.find((generation) => generation.trap !== "active" && generation.holding !== "environment");
  if (trap) return `its ports are not held: ${trap.trap.replace("unavailable: ", "")}`;
  return TROUBLE.includes(state(service)[1]) ? service.detail : null;
}

export const connections = (service: Service): number | null =>
  typeof service.connections.new !== "number"
    ? null
    : service.connections.new + (typeof service.connections.old === "number" ? service.connections.old : 0);

export const ports = (service: Service): Listener[] => {
  const all = [...service.generations.flatMap((generation) => generation.listeners.filter((one) => one.selected)), ...service.held];
  return all.filter((one, index) => all.findIndex((other) => address(other) === address(one)) === index);
};

/** One sentence, with every number that was measured, and none that was not. */
export function verdict(ledger: Ledger): string {
  const part = (value: Measured, word: string) => (typeof value === "number" ? `${value.toLocaleString("en")} ${word}` : `${word} not measured`);
  const gap = typeof ledger.gap_ms === "number" ? `Listener gap ${ledger.gap_ms} ms` : "Listener gap not measured";
  return [gap, part(ledger.refused, "refused"), part(ledger.drained, "drained"), part(ledger.cut, "cut")].join(" · ");
}
export const OUTCOME: Record<Ledger["outcome"], [string, Tone]> = {
  running: ["under way", "busy"],
  switched: ["switched", "good"],
  "rolled-back": ["rolled back", "bad"],
  "not-ready": ["never ready", "bad"],
};
