import { signal } from "@preact/signals";
import { Component } from "preact";
import { useEffect } from "preact/hooks";
import { needs } from "./canary";
import { Feed } from "./events";
import { First } from "./first";
import { sparks, want } from "./history";
import { Icon, TONE_ICON } from "./icons";
import { Empty, Spark, StateBadge, Twice } from "./parts";
import { PlanButton } from "./plan";
import { Rolling, RestartAll } from "./rolling";
import { go, route, setQuery, to } from "./route";
import { phone, Rows } from "./rows";
import { byName, events, gaps, live, loaded, now, services } from "./state";
import type { Service } from "./types";
import { bytes, connections, count, cpu, plural, port, ports, rank, short, since, span, state, when, type Tone } from "./words";

/** The row that the keys have chosen. */
export const chosen = signal("");

export function filtered(): Service[] {
  const { query } = route.value;
  const text = (query.get("q") ?? "").toLowerCase();
  const tone = query.get("state");
  const all = services.value.filter(
    (service) =>
      (!tone || state(service)[1] === tone) &&
      (!text || service.name.toLowerCase().includes(text) || service.detail.toLowerCase().includes(text) || ports(service).some((one) => port(one).includes(text))),
  );
  const by = query.get("sort") ?? "name";
  const key: Record<string, (service: Service) => number> = {
    state: rank,
    conns: (service) => -(connections(service) ?? -1),
    memory: (service) => -(typeof service.memory === "number" ? service.memory : -1),
    cpu: (service) => -(typeof service.cpu_permille === "number" ? service.cpu_permille : -1),
  };
  const value = key[by];
  return value ? all.sort((one, other) => value(one) - value(other)) : all;
}

function restartWords(service: Service): string {
  const open = connections(service);
  return open ? `${plural(open, "connection")} will drain` : "nothing is open";
}
export const RestartButton = ({ service, shortcut }: { service: Service; shortcut?: string }) =>
  service.target === "down" || !service.generations.length ? (
    <Twice icon="play" word="Start" confirm={`start ${service.name}`} path={`services/${encodeURIComponent(service.name)}/start`} shortcut={shortcut} />
  ) : (
    <Twice icon="restart" word="Restart" confirm={restartWords(service)} path={`services/${encodeURIComponent(service.name)}/restart`} shortcut={shortcut} />
  );

function Attention() {
  const all = services.value.flatMap((service) => {
    const why = needs(service);
    return why ? [{ service, why }] : [];
  });
  all.sort((one, other) => rank(one.service) - rank(other.service));
  if (!all.length) {
    if (!services.value.length) return null;
    return (
      <section class="attention quiet" aria-label="Attention">
        <Icon name="good" size={20} />
        <p>
          <strong>Nothing needs you.</strong> {plural(services.value.length, "service")}, each as it is meant to be.
        </p>
      </section>
    );
  }
  const shown = all.slice(0, 6);
  return (
    <section class="attention" aria-labelledby="attention">
      <h2 id="attention">
        <Icon name="warn" size={18} /> {plural(all.length, "service")} {all.length === 1 ? "needs" : "need"} attention
      </h2>
      <ul>
        {shown.map(({ service, why }) => (
          <li key={service.name} class={state(service)[1]}>
            <Icon name={TONE_ICON[state(service)[1]]} size={18} />
            <a href={to.service(service.name)}>{service.name}</a>
            <span class="why">{why}</span>
            {service.next && <span class="next">{`${service.next.what} in ${span(Math.max(0, service.next.in_ms - (now.value - service.seen)))}`}</span>}
          </li>
        ))}
      </ul>
      {all.length > shown.length && (
        <a class="more" href="?sort=state">
          and {all.length - shown.length} more
        </a>
      )}
    </section>
  );
}

const COLUMNS: [string, string][] = [
  ["name", "Service"],
  ["state", "State"],
  ["", "Gen"],
  ["", "Ports"],
  ["conns", "Connections"],
  ["memory", "Memory"],
  ["cpu", "CPU"],
  ["", "Up"],
  ["", "Last exit"],
];

type RowProps = { service: Service; index: number; spark: (number | null)[] | undefined; minute: number; chosen: boolean };
/** A row is drawn again only if something in it changed: with a thousand of them that is what keeps the page quick. */
class Row extends Component<RowProps> {
  override shouldComponentUpdate(next: RowProps) {
    const props = this.props;
    return next.service !== props.service || next.spark !== props.spark || next.minute !== props.minute || next.chosen !== props.chosen || next.index !== props.index;
  }
  override componentDidMount() {
    want(this.props.service.name);
  }
  override componentDidUpdate() {
    want(this.props.service.name);
  }
  render({ service, index, spark, chosen }: RowProps) {
    const [, tone] = state(service);
    const generations = service.generations.map((one) => one.id).reverse();
    const { old, queued } = service.connections;
    return (
      <tr class={`${tone} ${chosen ? "chosen" : ""}`} aria-rowindex={index + 2} data-name={service.name}>
        <th scope="row">
          <a href={to.service(service.name)}>{service.name}</a>
          {service.own && <small class="own">this page</small>}
        </th>
        <td>
          <StateBadge service={service} />
          <small class="detail">{service.detail}</small>
        </td>
        <td class="number" data-label="gen">
          {generations.length ? generations.join("→") : <span class="none">none</span>}
        </td>
        <td data-label="ports" class="ports">
          {ports(service).map((one) => (
            <a href={`ports?q=${one.port}`} class={one.held ? "port held" : "port"} key={one.inode} title={one.held ? "held: it outlives the process" : "not held"}>
              {port(one)}
            </a>
          ))}
          {service.waiting.map((one) => (
            <a href={`ports?q=${encodeURIComponent(one.address)}`} class="port taken" key={one.address} title={one.holder ?? "somebody has it"}>
              {one.address.replace(/^(127\.0\.0\.1|0\.0\.0\.0):/, ":")} taken
            </a>
          ))}
          {!ports(service).length && !service.waiting.length && <span class="none">none</span>}
        </td>
        <td class="conns" data-label="connections">
          <span class="number">{short(service.connections.new)}</span>
          <Spark values={spark ?? []} />
          {!!old && old !== "not measured" && <small class="old">+{old} old</small>}
          {!!queued && queued !== "not measured" && <small class="queued">{queued} wait</small>}
        </td>
        <td class="number wide">{typeof service.memory === "number" ? bytes(service.memory) : <Missing service={service} />}</td>
        <td class="number wide">{typeof service.cpu_permille === "number" ? cpu(service.cpu_permille) : <Missing service={service} />}</td>
        <td class="number" data-label="up">{service.uptime_ms === null ? <span class="none">not up</span> : span(since(service, service.uptime_ms))}</td>
        <td class="exit wide">
          {service.next_run_ms ? `next ${when(service.next_run_ms)}` : service.last_exit ? <span title={service.last_exit.ended}>{`${service.last_exit.status} (${service.last_exit.why ?? "by itself"})${service.crashes > 1 ? ` ×${service.crashes}` : ""}`}</span> : <span class="none">none</span>}
        </td>
      </tr>
    );
  }
}

/** What does not run uses nothing; of what does, nobody could say. */
const Missing = ({ service }: { service: Service }) => <span class="none">{service.generations.length ? "?" : "none"}</span>;

const TONES: [Tone, string][] = [
  ["bad", "trouble"],
  ["warn", "waiting"],
  ["busy", "changing"],
  ["good", "running"],
  ["idle", "idle"],
];

function Table() {
  const shown = filtered();
  const { query } = route.value;
  const sort = query.get("sort") ?? "name";
  const minute = Math.floor(now.value / (services.value.length > 120 ? 10_000 : 1_000));
  const counts = new Map<Tone, number>();
  for (const service of services.value) counts.set(state(service)[1], (counts.get(state(service)[1]) ?? 0) + 1);
  return (
    <section class="card services" aria-labelledby="services">
      <div class="bar">
        <h2 id="services">Services</h2>
        <div class="filters" role="group" aria-label="Show only">
          {TONES.filter(([tone]) => counts.get(tone)).map(([tone, word]) => (
            <button type="button" key={tone} class={`chip ${tone}`} aria-pressed={query.get("state") === tone} onClick={() => setQuery("state", query.get("state") === tone ? null : tone)}>
              <Icon name={TONE_ICON[tone]} size={14} /> {counts.get(tone)} {word}
            </button>
          ))}
        </div>
        <label class="search">
          <Icon name="search" />
          <span class="hidden">Find a service</span>
          <input type="search" data-search placeholder="Name, port, state…" value={query.get("q") ?? ""} onInput={(event) => setQuery("q", event.currentTarget.value)} />
        </label>
        <RestartAll />
        <PlanButton />
      </div>
      <table class="grid" aria-rowcount={shown.length + 1}>
        <thead>
          <tr aria-rowindex={1}>
            {COLUMNS.map(([key, word]) => (
              <th scope="col" key={word} class={["Memory", "CPU", "Last exit"].includes(word) ? "wide" : ""} aria-sort={key && key === sort ? "ascending" : undefined}>
                {key ? (
                  <button type="button" class="sort" onClick={() => setQuery("sort", key === "name" ? null : key)}>
                    {word}
                    {key === sort && <span aria-hidden="true"> ▾</span>}
                  </button>
                ) : (
                  word
                )}
              </th>
            ))}
          </tr>
        </thead>
        <Rows items={shown} height={phone.value ? 76 : 57} columns={COLUMNS.length} row={(service, index) => <Row key={service.name} service={service} index={index} spark={sparks.value.get(service.name)} minute={minute} chosen={chosen.value === service.name} />} />
      </table>
      {!shown.length && services.value.length > 0 && (
        <Empty icon="search" title="No service fits">
          <button type="button" onClick={() => go("")}>
            Show all {count(services.value.length)}
          </button>
        </Empty>
      )}
    </section>
  );
}

/** Ports at a glance: what is held, and what stands beside a port without getting in. */
function Strip() {
  const all = services.value.flatMap((service) => [
    ...ports(service).map((one) => ({ key: `${service.name} ${port(one)}`, port: one.port, text: port(one), service, tone: service.held.includes(one) ? "bad" : one.held ? "good" : "warn" })),
    ...service.waiting.map((one) => ({ key: `${service.name} ${one.address}`, port: Number(one.address.split(":").pop()), text: one.address.replace(/^127\.0\.0\.1:/, ":"), service, tone: "bad" })),
  ]);
  all.sort((one, other) => one.port - other.port);
  return (
    <section class="card" aria-labelledby="strip">
      <div class="bar">
        <h2 id="strip">Ports</h2>
        <a href="ports">with evidence</a>
      </div>
      <ul class="strip">
        {all.slice(0, 40).map((one) => (
          <li key={one.key}>
            <a href={`ports?q=${one.port}`} class={one.tone}>
              <Icon name={TONE_ICON[one.tone as Tone]} size={13} />
              <b>{one.text}</b> {one.service.name}
            </a>
          </li>
        ))}
      </ul>
      {all.length > 40 && <a class="more" href="ports">and {all.length - 40} more</a>}
      {!all.length && <p class="none">no port is held</p>}
    </section>
  );
}

export function Overview() {
  useEffect(() => {
    if (chosen.value && !byName.value.has(chosen.value)) chosen.value = "";
  });
  if (!loaded.value) {
    return live.value === "stale" ? (
      <Empty icon="unplug" title="The daemon does not answer">
        <p>Services and their ports do not depend on it. It is started again by itself; this page goes on as soon as it answers.</p>
      </Empty>
    ) : (
      <div class="card skeleton" aria-busy="true">
        <p class="hidden">Loading</p>
      </div>
    );
  }
  if (services.value.every((service) => service.own)) return <First />;
  return (
    <>
      <Attention />
      <Rolling />
      <Table />
      <div class="two">
        <section class="card" aria-labelledby="last">
          <div class="bar">
            <h2 id="last">Last events</h2>
            <a href="events">all of them</a>
          </div>
          {gaps.value.length > 0 && <p class="gap">{gaps.value[gaps.value.length - 1]}</p>}
          <Feed events={events.value.slice(-10).reverse()} />
        </section>
        <Strip />
      </div>
    </>
  );
}
