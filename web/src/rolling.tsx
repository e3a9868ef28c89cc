// All services restarted, some at a time: asked for in a dialog, and watched until the last one is done.

import { signal } from "@preact/signals";
import { Icon } from "./icons";
import { ask, Choice, whyNot } from "./parts";
import { to } from "./route";
import { act, events, mayAct, operations, services } from "./state";
import type { Service } from "./types";
import { connections, plural, rank } from "./words";

const AT_ONCE = [["1", "one"], ["2", "two"], ["5", "five"], ["20", "twenty"]] as const;
const atOnce = signal<(typeof AT_ONCE)[number][0]>("1");
const meant = (service: Service) => !service.own && service.target === "up" && service.kind === "service" && service.generations.length > 0;

function Question({ all }: { all: Service[] }) {
  const open = all.map(connections);
  const known = open.reduce<number>((sum, one) => sum + (one ?? 0), 0);
  return (
    <>
      <p>
        Those that others need come first; the first that fails ends it, and the rest is left as it is. {plural(known, "open connection")} will drain
        {open.includes(null) && ", not counting those that are not measured"}.
      </p>
      <p class="field">
        At a time <Choice label="At a time" value={atOnce.value} options={AT_ONCE} on={(value) => (atOnce.value = value)} />
      </p>
    </>
  );
}

export function RestartAll() {
  const all = services.value.filter(meant);
  if (all.length < 2) return null;
  return (
    <button
      type="button"
      disabled={!mayAct.value}
      title={whyNot()}
      onClick={() =>
        ask({
          title: `Restart all ${all.length} running services?`,
          text: <Question all={all} />,
          word: `Restart ${all.length} services`,
          danger: false,
          yes: () => void act("services/*/restart", { parallel: Number(atOnce.value) }),
        })
      }
    >
      <Icon name="restart" /> Restart all…
    </button>
  );
}

const ENDS = ["switched", "not-ready", "rolled-back"];

/** How far it is. */
export function Rolling() {
  const operation = operations.value.findLast((one) => one.action === "restart" && one.service === "*");
  if (operation?.state !== "running") return null;
  const ended = new Set(events.value.filter((event) => event.at_ms >= operation.at_ms && ENDS.includes(event.kind)).map((event) => event.service));
  const all = services.value.filter((service) => meant(service) || ended.has(service.name));
  const done = all.filter((service) => ended.has(service.name)).length;
  const busy = all.filter((service) => rank(service) === 2 && !ended.has(service.name));
  return (
    <section class="card rolling" aria-label="Restart of all services">
      <p role="status">
        <Icon name="restart" /> Restarting all services: <b>{done} of {all.length}</b> done
        {busy.length > 0 && ", under way: "}
        {busy.slice(0, 5).map((service, index) => (
          <>
            {index > 0 && ", "}
            <a href={to.service(service.name)}>{service.name}</a>
          </>
        ))}
      </p>
      <progress max={all.length} value={done} aria-label="Services that are done" />
    </section>
  );
}
