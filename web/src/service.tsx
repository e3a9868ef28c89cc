import { useEffect, useRef, useState } from "preact/hooks";
import { CanaryButton, Decision, shares } from "./canary";
import { Charts } from "./chart";
import { Feed } from "./events";
import { Icon } from "./icons";
import { RestartCard, restarts } from "./lanes";
import { LastWords } from "./last";
import { LogView } from "./logs";
import { get, Refused } from "./net";
import { RestartButton } from "./overview";
import { Fields, PlanButton } from "./plan";
import { Processes } from "./processes";
import { ask, Badge, Empty, Source, StateBadge, Twice, whyNot } from "./parts";
import { route, to } from "./route";
import { act, byName, events, loaded, mayAct, now } from "./state";
import type { Fact, Plan, Service as OneService } from "./types";
import { address, bytes, connections, count, cpu, plural, since, source, span, trouble, when, type Tone } from "./words";

const FACTS = [
  ["process", "Process", true],
  ["listening", "Listening", true],
  ["accepting", "Accepting", true],
  ["probe", "Probe", true],
  ["looping", "Looping", false],
] as const;
/** Good is what it should be: for `looping` that is no. */
const tone = (fact: Fact, good: boolean): Tone => (fact.is === "unknown" ? "idle" : (fact.is === "yes") === good ? "good" : "bad");

function Facts({ service }: { service: OneService }) {
  return (
    <ul class="facts" aria-label="What is known">
      {FACTS.map(([key, word, good]) => {
        const fact = service.facts[key];
        return (
          <li key={key} class={tone(fact, good)}>
            <span class="name">{word}</span>
            <Badge tone={tone(fact, good)}>{fact.is}</Badge>
            <span class="what">{fact.detail}</span>
            <Source evidence={fact.evidence} />
          </li>
        );
      })}
    </ul>
  );
}

function Figures({ service }: { service: OneService }) {
  const { connections: open } = service;
  const all: [string, string, string?][] = [
    ["Connections", count(open.new), typeof open.old === "number" && open.old > 0 ? `+${open.old} of older generations` : undefined],
    ["Waiting", count(open.queued)],
    ["Memory", bytes(service.memory), service.usage && typeof service.memory === "number" ? source(service.usage) : undefined],
    ["CPU", cpu(service.cpu_permille)],
    ["Processes", count(service.processes), service.replicas > 1 ? `${service.replicas} replicas` : undefined],
    ["Up", service.uptime_ms === null ? "not up" : span(since(service, service.uptime_ms))],
    ["Restarts", count(service.restarts), service.crashes ? plural(service.crashes, "crash").replace("crashs", "crashes") : undefined],
  ];
  return (
    <dl class="figures">
      {all.map(([name, value, also]) => (
        <div key={name}>
          <dt>{name}</dt>
          <dd class={value === "not measured" ? "none" : ""}>
            {value}
            {also && <small>{also}</small>}
          </dd>
        </div>
      ))}
    </dl>
  );
}

/** What is not as it was asked for, and does no harm yet. */
function Notes({ service }: { service: OneService }) {
  const all = service.generations.flatMap((one) => one.notes.map((note) => `Generation ${one.id}: ${note}`));
  if (service.watch?.problem) all.push(`Files: ${service.watch.problem}`);
  if (!all.length) return null;
  return (
    <ul class="remarks" aria-label="Not as it was asked for">
      {all.map((text) => (
        <li key={text}>
          <Icon name="info" /> {text}
        </li>
      ))}
    </ul>
  );
}

function stopIt(service: OneService) {
  const open = connections(service);
  const closing = service.generations.flatMap((one) => one.listeners).concat(service.held).map(address);
  ask({
    title: `Stop ${service.name}?`,
    text: (
      <>
        {service.own && <p>It is what shows this page: the page ends with it. In a terminal, <code>stayput start {service.name}</code> brings it back.</p>}
        <p>
          {open === null ? "How many connections are open is not measured." : open ? `${plural(open, "open connection")} will be cut.` : "No connection is open."}{" "}
          {closing.length ? "Its ports are closed, and connections to them are refused until it is started again:" : "It holds no port."}
        </p>
        {closing.length > 0 && (
          <ul>
            {[...new Set(closing)].map((one) => (
              <li key={one}>
                <code>{one}</code>
              </li>
            ))}
          </ul>
        )}
      </>
    ),
    word: `Stop ${service.name}`,
    danger: true,
    yes: () => void act(`services/${encodeURIComponent(service.name)}/stop`),
  });
}

function Timeline({ service }: { service: OneService }) {
  const mine = events.value.filter((event) => event.service === service.name).slice(-60).reverse();
  const running = service.ledger?.outcome === "running" && service.ledger.to !== null ? service.ledger.to : undefined;
  const newest = running ?? service.ledger?.to ?? restarts(service.name)[0];
  const older = restarts(service.name).filter((id) => id !== newest);
  return (
    <>
      <LastWords service={service} />
      {newest != null && <RestartCard name={service.name} id={newest} />}
      <Charts name={service.name} />
      <section class="card" aria-labelledby="happened">
        <div class="bar">
          <h2 id="happened">What happened</h2>
          <a href={`events?service=${encodeURIComponent(service.name)}`}>all of its events</a>
        </div>
        {older.length > 0 && (
          <p class="row">
            Earlier restarts:{" "}
            {older.slice(0, 12).map((id) => (
              <a key={id} class="chip" href={to.restart(service.name, id)}>
                to generation {id}
              </a>
            ))}
          </p>
        )}
        <Feed events={mine} own />
      </section>
    </>
  );
}

/** A configured value as it would be written. */
function shown(value: unknown): string {
  if (value === null || value === undefined) return "not set";
  if (Array.isArray(value)) return value.length ? value.map(shown).join(", ") : "none";
  if (typeof value === "object") return Object.entries(value).map(([key, one]) => `${key} = ${shown(one)}`).join(", ");
  return String(value);
}

/** What the file says by now, where that is something else. */
function OnDisk({ service }: { service: OneService }) {
  const [plan, setPlan] = useState<Plan | null>(null);
  useEffect(() => {
    setPlan(null);
    // Without a plan there is nothing to compare with; the button says why.
    get<Plan>("plan").then(setPlan, () => {});
  }, [service.name, service.generations[0]?.id]);
  const change = plan?.changes.find((one) => one.service === service.name);
  if (!plan?.path || (!change && !plan.errors.length)) return null;
  return (
    <section class="card" aria-labelledby="disk">
      <div class="bar">
        <h2 id="disk">{plan.errors.length ? "The file on disk has errors" : "The file on disk says something else"}</h2>
        <small class="source">{change?.why ?? plan.errors[0]?.message}</small>
        <span class="more">
          <PlanButton />
        </span>
      </div>
      {change && <Fields fields={change.fields} />}
    </section>
  );
}

function Config({ service }: { service: OneService }) {
  type Report = { origin: { path: string | null; line: number } | null; fields: Record<string, unknown> };
  const [report, setReport] = useState<Report | Refused | null>(null);
  useEffect(() => {
    setReport(null);
    get<Report>(`services/${encodeURIComponent(service.name)}/config`).then(setReport, setReport);
  }, [service.name, service.generations[0]?.id]);
  if (!report) return <div class="card skeleton" aria-busy="true" />;
  if (report instanceof Error) return <Empty icon="bad" title={report.message} />;
  return (
    <>
      <OnDisk service={service} />
      <section class="card" aria-labelledby="config">
        <div class="bar">
          <h2 id="config">Configuration in force</h2>
          {report.origin && <small class="source">line {report.origin.line}{report.origin.path && ` of ${report.origin.path}`}</small>}
        </div>
        <dl class="config">
          {Object.entries(report.fields).map(([name, value]) => {
            const ms = name.endsWith("_ms") && typeof value === "number";
            return (
              <div key={name}>
                <dt>{ms ? name.slice(0, -3) : name}</dt>
                <dd class={value === null ? "none" : ""}>{ms ? span(value as number) : shown(value)}</dd>
              </div>
            );
          })}
        </dl>
        <p class="source">
          <Icon name="ban" size={13} /> Of the environment only the names leave the daemon, and of a command line no password, token or key.
        </p>
      </section>
    </>
  );
}

const TABS = [
  ["", "Timeline"],
  ["logs", "Log"],
  ["processes", "Processes"],
  ["config", "Config"],
] as const;

export function Service() {
  const [name = "", tab = ""] = route.value.parts;
  const service = byName.value.get(name);
  const tabs = useRef<HTMLElement>(null);
  if (!service) {
    if (!loaded.value) return <div class="card skeleton" aria-busy="true" />;
    return (
      <Empty icon="help" title={`There is no service “${name}” in this instance`}>
        <a href="">all services</a>
      </Empty>
    );
  }
  const why = trouble(service);
  return (
    <>
      <header class="head">
        <p class="crumbs">
          <a href="">Overview</a> <Icon name="right" size={14} /> {service.name}
        </p>
        <div class="row">
          <h1>{service.name}</h1>
          <StateBadge service={service} />
          {service.own && <span class="tag">this page</span>}
          {!why?.includes(service.detail) && !shares(service) && <span class="detail">{service.detail}</span>}
        </div>
        <code class="command">{service.command}</code>
        <div class="row actions">
          <RestartButton service={service} shortcut="r" />
          <CanaryButton service={service} />
          {service.generations.length > 0 && service.restarts > 0 && (
            <Twice icon="undo" word="Roll back" confirm="the command and environment before the last change" path={`services/${encodeURIComponent(service.name)}/rollback`} />
          )}
          {service.target === "up" && (
            <button type="button" disabled={!mayAct.value} title={whyNot()} onClick={() => stopIt(service)}>
              <Icon name="stop" /> Stop…
            </button>
          )}
        </div>
      </header>
      {why && !service.waiting.length && (
        <p class="alarm" role="status">
          <Icon name="warn" size={18} /> {why}
          {service.next && <b>{service.next.what} in {span(Math.max(0, service.next.in_ms - (now.value - service.seen)))}</b>}
        </p>
      )}
      <Decision service={service} />
      {service.waiting.map((one) => (
        <p class="alarm" key={one.address}>
          <Icon name="ban" size={18} /> {one.address} is taken by {one.holder ?? "somebody who cannot be seen"}. It starts by itself as soon as the port is free.
        </p>
      ))}
      {service.after.some((one) => !one.met) && <p class="source">It waits for {service.after.filter((one) => !one.met).map((one) => `${one.service} (${one.when})`).join(", ")}.</p>}
      {service.next_run_ms && <p class="source">Its next run is at {when(service.next_run_ms)}.</p>}
      <Notes service={service} />
      <Facts service={service} />
      <Figures service={service} />
      <nav class="tabs" aria-label="About this service" ref={tabs}>
        {TABS.map(([key, word]) => (
          <a key={key} href={to.service(service.name, key)} aria-current={tab === key ? "page" : undefined}>
            {word}
          </a>
        ))}
      </nav>
      {tab === "logs" ? <LogView key={name} services={name} /> : tab === "processes" ? <Processes service={service} /> : tab === "config" ? <Config service={service} /> : <Timeline service={service} />}
    </>
  );
}
