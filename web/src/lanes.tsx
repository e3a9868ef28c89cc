// A restart as lanes: the listener, the old generation, the new one; marks where something happened; the sentence that sums it up; and
// the same as a table, because a picture is not for everybody.

import { useEffect, useState } from "preact/hooks";
import { Icon } from "./icons";
import { Words } from "./last";
import { Badge, Choice } from "./parts";
import { route, to } from "./route";
import { byName, events, now, skew } from "./state";
import type { EventRecord, Ledger, Service } from "./types";
import { clock, count, OUTCOME, percent, plural, port, ports, span, verdict } from "./words";

const MARKS: Record<string, string> = {
  "restart-requested": "requested",
  spawned: "started",
  listening: "listening",
  ready: "ready",
  canary: "canary",
  switched: "switched",
  settled: "settled",
  "stop-signal": "stop signal",
  killed: "killed",
  gone: "exited",
  "not-ready": "never ready",
  "rolling-back": "rolling back",
  "rolled-back": "rolled back",
  crashed: "crashed",
};

export type Story = { from: number | null; to: number; marks: EventRecord[]; over: boolean };

const number = (value: unknown) => (typeof value === "number" ? value : null);

/** What belongs to the restart that began generation `to`. */
export function story(service: string, to: number): Story | null {
  const mine = events.value.filter((event) => event.service === service);
  const begin = mine.find((event) => event.generation === to && ["spawned", "listening", "ready", "switched"].includes(event.kind));
  if (!begin) return null;
  const from = mine.map((event) => (event.generation === to || event.data?.["to"] === to ? number(event.data?.["from"]) : null)).find((id) => id !== null) ?? null;
  const asked = mine.findLast((event) => event.kind === "restart-requested" && event.at_ms <= begin.at_ms && begin.at_ms - event.at_ms < 600_000);
  const next = mine.find((event) => event.generation !== null && event.generation > to && event.kind === "spawned");
  const marks = mine.filter(
    (event) =>
      event === asked ||
      (event.at_ms >= (asked ?? begin).at_ms && (!next || event.at_ms < next.at_ms) && (event.generation === to || event.generation === from) && MARKS[event.kind]),
  );
  const current = byName.value.get(service);
  const running = current?.ledger?.to === to && current.ledger.outcome === "running";
  // Who goes in the end: the old one, or the new one if it did not get the connections.
  const failed = marks.some((mark) => mark.kind === "rolled-back" || mark.kind === "not-ready");
  const going = current?.generations.some((one) => one.id === (failed ? to : from) && one.phase !== "exited");
  return { from, to, marks, over: !running && !going };
}

/** Restarts that are remembered, the newest first. */
export function restarts(service: string): number[] {
  const all = events.value.filter((event) => event.service === service && event.kind === "switched" && event.generation !== null && event.data?.["from"] != null);
  return [...new Set(all.map((event) => event.generation as number))].reverse();
}

const at = (told: Story, kind: string, generation: number | null) => told.marks.find((mark) => mark.kind === kind && mark.generation === generation)?.at_ms;

/** A finer clock, while something is under way; once a second for who wants less motion. */
function useClock(runs: boolean): number {
  const [at, set] = useState(Date.now());
  useEffect(() => {
    if (!runs) return;
    const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
    const timer = setInterval(() => set(Date.now()), calm ? 1000 : 60);
    return () => clearInterval(timer);
  }, [runs]);
  return Math.max(at, now.value);
}

/** Words for the marks, in as many rows as it takes for none to cover another. */
function labels(marks: EventRecord[], place: (mark: EventRecord) => number) {
  const ends: number[] = [];
  return marks.map((mark) => {
    const at = place(mark);
    // A letter is a little less than a hundredth of the width.
    const width = (MARKS[mark.kind]?.length ?? 0) * 0.0085 + 0.02;
    const begin = at > 0.88 ? at - width : at;
    let row = ends.findIndex((end) => end < begin);
    if (row < 0) row = Math.min(ends.length, 5);
    ends[row] = begin + width;
    return { mark, at, row };
  });
}

const WIDTH = 1000;
function Lanes({ service, told }: { service: Service | undefined; told: Story }) {
  const clockNow = useClock(!told.over);
  const begin = told.marks[0]!.at_ms;
  const last = told.marks[told.marks.length - 1]!.at_ms;
  const end = told.over ? last : Math.max(last, clockNow + skew.value);
  const length = Math.max(end - begin, 1000) * 1.04;
  const x = (ms: number) => ((ms - begin) / length) * WIDTH;
  const starting = at(told, "spawned", told.to) ?? begin;
  const switched = told.marks.find((mark) => mark.kind === "switched")?.at_ms;
  const stop = at(told, "stop-signal", told.from);
  const gone = at(told, "gone", told.from);
  const failed = told.marks.find((mark) => ["not-ready", "rolling-back", "rolled-back", "crashed"].includes(mark.kind) && (mark.generation === told.to || mark.data?.["from"] === told.to));
  const bar = (from: number, till: number, kind: string, y: number) =>
    till > from && <rect class={`bar-${kind}`} x={x(from)} y={y} width={Math.max(2, x(till) - x(from))} height={26} rx={3} />;
  const step = [250, 500, 1000, 2000, 5000, 10_000, 30_000, 60_000, 300_000].find((step) => length / step <= 9) ?? 600_000;
  const ticks = Array.from({ length: Math.floor(length / step) + 1 }, (_, index) => index * step);
  const ready = at(told, "ready", told.to);
  const shared = at(told, "canary", told.to);
  const oldEnd = gone ?? end;
  const words = labels(told.marks, (mark) => x(mark.at_ms) / WIDTH);
  const draining = service?.generations.find((one) => one.id === told.from);
  const fresh = service?.generations.find((one) => one.id === told.to);
  const names = [
    ["Listener", service ? ports(service).map(port).join(" ") || "none known" : "none known"],
    [told.from === null ? "Before" : `Generation ${told.from}`, told.from === null ? "nobody served" : draining ? `${draining.phase}, ${count(draining.connections)} open` : gone ? "gone" : "not there"],
    [`Generation ${told.to}`, fresh ? `${fresh.phase}, ${count(fresh.connections)} open` : failed ? "failed" : "not there"],
  ];
  return (
    <div class="lanes">
      <dl>
        {names.map(([name, fact]) => (
          <div key={name}>
            <dt>{name}</dt>
            <dd>{fact}</dd>
          </div>
        ))}
      </dl>
      <svg viewBox={`0 0 ${WIDTH} 190`} preserveAspectRatio="none" role="img" aria-label="The restart over time; the table below says the same">
        {ticks.map((ms) => (
          <line key={ms} class="tick" x1={x(begin + ms)} x2={x(begin + ms)} y1={0} y2={170} />
        ))}
        {bar(begin, end, service?.ledger?.listener_gap ? "gap" : "held", 14)}
        {told.from !== null && (
          <>
            {bar(begin, switched ?? oldEnd, "serving", 70)}
            {switched && bar(switched, stop ?? oldEnd, "draining", 70)}
            {stop && bar(stop, oldEnd, "stopping", 70)}
          </>
        )}
        {bar(starting, ready ?? failed?.at_ms ?? switched ?? end, "starting", 126)}
        {ready && bar(ready, shared ?? switched ?? failed?.at_ms ?? end, "ready", 126)}
        {shared && bar(shared, switched ?? failed?.at_ms ?? end, "share", 126)}
        {switched && bar(switched, failed?.at_ms ?? end, "serving", 126)}
        {told.marks.map((mark) => (
          <line key={mark.cursor} class={`mark ${mark.level}`} x1={x(mark.at_ms)} x2={x(mark.at_ms)} y1={4} y2={170} />
        ))}
      </svg>
      <div class="marks" aria-hidden="true" style={{ height: `${Math.max(0, ...words.map(({ row }) => row)) * 16 + 24}px` }}>
        {words.map(({ mark, at, row }) => (
          <span key={mark.cursor} class={`${mark.level} ${at > 0.88 ? "late" : ""}`} style={{ left: `${at * 100}%`, top: `${row * 16}px` }}>
            {MARKS[mark.kind]}
          </span>
        ))}
      </div>
      <div class="axis" aria-hidden="true">
        {ticks.map((ms) => (
          <span key={ms} style={{ left: `${(x(begin + ms) / WIDTH) * 100}%` }}>
            {ms % 1000 ? `${ms / 1000} s` : ms ? span(ms) : "0"}
          </span>
        ))}
      </div>
    </div>
  );
}

const LEGEND = [
  ["held", "port held"],
  ["serving", "takes the connections"],
  ["draining", "drains"],
  ["share", "has a share"],
  ["starting", "starts"],
  ["stopping", "stops"],
] as const;

export function Account({ ledger }: { ledger: Ledger }) {
  const rows: [string, string, string][] = [
    ["Refused", count(ledger.refused), "connections that were turned away"],
    ["Drained", count(ledger.drained), "old connections that ended by themselves"],
    ["Cut", count(ledger.cut), "old connections in use when the stop signal went out"],
    ["Idle closed", count(ledger.idle_closed), "idle keep-alive connections that ended with the old generation"],
    ["Queued", count(ledger.queued), "connections that waited at the switch"],
    ["Accepted", count(ledger.accepted), "connections that the new generation has taken"],
    ["Lost", count(ledger.lost), "connections that a failed generation took with it"],
  ];
  if (ledger.canary) {
    const { permille, lasted_ms } = ledger.canary;
    rows.unshift(["First share", `${percent(permille)} ${lasted_ms === null ? "never" : `for ${span(lasted_ms)}`}`, "what the new generation had of the new connections before it got all of them"]);
  }
  return (
    <dl class="ledger">
      {rows.map(([name, value, what]) => (
        <div key={name} class={["Refused", "Cut", "Lost"].includes(name) && value !== "0" && value !== "not measured" ? "bad" : ""}>
          <dt title={what}>{name}</dt>
          <dd class={value === "not measured" ? "none" : ""}>{value}</dd>
        </div>
      ))}
    </dl>
  );
}

/** One restart, small on the service's page and whole on its own. */
export function RestartCard({ name, id, whole = false }: { name: string; id: number; whole?: boolean }) {
  const [view, setView] = useState<"lanes" | "table">("lanes");
  const service = byName.value.get(name);
  const told = story(name, id);
  const ledger = service?.ledger?.to === id ? service.ledger : null;
  const [word, tone] = ledger ? OUTCOME[ledger.outcome] : told?.marks.some((mark) => ["rolled-back", "rolling-back", "not-ready"].includes(mark.kind)) ? (["failed", "bad"] as const) : (["switched", "good"] as const);
  const asked = told?.marks.find((mark) => mark.kind === "restart-requested");
  return (
    <section class="card restart" aria-labelledby={`r-${id}`}>
      <div class="bar">
        <h2 id={`r-${id}`}>
          Restart {told?.from != null && `${told.from} → `}
          {id}
        </h2>
        <Badge tone={tone}>{word}</Badge>
        {asked && (
          <small class="source">
            {asked.text}, {clock(asked.at_ms)}
          </small>
        )}
        {!whole && <Choice label="Shown as" value={view} options={[["lanes", "Lanes"], ["table", "Table"]]} on={setView} />}
        {!whole && (
          <a class="more" href={to.restart(name, id)}>
            <Icon name="link" /> Link
          </a>
        )}
      </div>
      {!told && <p class="none">The events of this restart are not kept any more.</p>}
      {told && view === "lanes" && (
        <>
          <Lanes service={service} told={told} />
          <ul class="legend" aria-hidden="true">
            {LEGEND.map(([kind, word]) => (
              <li key={kind}>
                <i class={`bar-${kind}`} /> {word}
              </li>
            ))}
          </ul>
        </>
      )}
      {told && (view === "table" || whole) && (
        <table class="twin">
          <caption class="hidden">Each step with its time</caption>
          <thead>
            <tr>
              <th scope="col">After</th>
              <th scope="col">Generation</th>
              <th scope="col">Step</th>
              <th scope="col">Fact</th>
            </tr>
          </thead>
          <tbody>
            {told.marks.map((mark) => (
              <tr key={mark.cursor}>
                <td class="number">{mark.at_ms === told.marks[0]!.at_ms ? "0" : span(mark.at_ms - told.marks[0]!.at_ms)}</td>
                <td class="number">{mark.generation}</td>
                <td>{MARKS[mark.kind]}</td>
                <td>{mark.text}</td>
              </tr>
            ))}
          </tbody>
        </table>
      )}
      {ledger ? (
        <>
          <p class={`verdict ${tone}`} aria-live="polite">
            {verdict(ledger)}
            {ledger.outcome === "running" && " so far"}
          </p>
          {ledger.reason && <p class="why">{ledger.reason}</p>}
          {ledger.notes.map((note) => (
            <p class="why" key={note}>
              {note}
            </p>
          ))}
          <Account ledger={ledger} />
          {(ledger.outcome === "not-ready" || (ledger.outcome === "rolled-back" && !ledger.canary)) && (
            <>
              <h3>What generation {id} wrote last</h3>
              <Words name={name} generation={id} again={ledger.outcome} />
            </>
          )}
        </>
      ) : (
        told?.over && <p class="none">Its ledger was replaced by that of a later restart. {plural(told.marks.length, "step")} are kept.</p>
      )}
    </section>
  );
}

export function Restart() {
  const { parts } = route.value;
  const [name = "", , id = "0"] = parts;
  return (
    <>
      <p class="crumbs">
        <a href={to.service(name)}>{name}</a> <Icon name="right" /> restart
      </p>
      <h1 class="hidden">
        Restart of {name} to generation {id}
      </h1>
      <RestartCard name={name} id={Number(id)} whole />
    </>
  );
}
