// What a service, or one generation of it, wrote last: of something that failed that says more than we can.

import { useEffect, useState } from "preact/hooks";
import { Lines } from "./logs";
import { get } from "./net";
import type { LogLine, Service } from "./types";
import { to } from "./route";
import { when } from "./words";

const LAST = 12;

/** `again` changes when there may be more to say. */
export function Words({ name, generation, again = "" }: { name: string; generation?: number; again?: string }) {
  const [lines, setLines] = useState<LogLine[] | null>(null);
  useEffect(() => {
    let gone = false;
    const of = generation === undefined ? "" : `&generation=${generation}`;
    get<{ lines: LogLine[] }>(`logs?services=${encodeURIComponent(name)}&lines=${LAST}${of}`).then(
      (all) => gone || setLines(all.lines.slice(-LAST)),
      // The log's own page says why it cannot be read.
      () => gone || setLines(null),
    );
    return () => void (gone = true);
  }, [name, generation, again]);
  if (!lines) return null;
  return lines.length ? <Lines lines={lines} /> : <p class="none">nothing</p>;
}

const SPEAKS = ["looping", "backing-off", "given-up", "failed", "unhealthy", "deaf", "not-listening"];

/** Of a service that does not work by itself. */
export function LastWords({ service }: { service: Service }) {
  const { last_exit: exit } = service;
  if (!SPEAKS.includes(service.state)) return null;
  return (
    <section class="card" aria-labelledby="words">
      <div class="bar">
        <h2 id="words">What it wrote last</h2>
        {exit && <small class="source">generation {exit.generation} {exit.ended}{exit.at_ms !== null && `, ${when(exit.at_ms)}`}</small>}
        <a href={to.service(service.name, "logs")}>the whole log</a>
      </div>
      <Words name={service.name} again={`${service.state} ${exit?.generation} ${exit?.at_ms}`} />
    </section>
  );
}
