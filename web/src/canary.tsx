// A restart in two steps: how large a share, and for how long, is asked in a dialog; what decides about it stands on the service's page as long as
// the share lasts.

import { signal } from "@preact/signals";
import { Icon } from "./icons";
import { ask, Choice, Twice, whyNot } from "./parts";
import { act, mayAct, now } from "./state";
import type { Service } from "./types";
import { percent, since, span, trouble } from "./words";

const SHARES = [["10", "1 %"], ["50", "5 %"], ["100", "10 %"], ["250", "25 %"], ["500", "50 %"]] as const;
const TIMES = [["60000", "1 minute"], ["600000", "10 minutes"], ["", "until I decide"]] as const;
const share = signal<(typeof SHARES)[number][0]>("50");
const time = signal<(typeof TIMES)[number][0]>("60000");

const Question = () => (
  <>
    <p>A new generation gets this share of the new connections; the old one keeps the rest. If it fails meanwhile the old one has all of them again at once.</p>
    <p class="field">
      Share <Choice label="Share" value={share.value} options={SHARES} on={(value) => (share.value = value)} />
    </p>
    <p class="field">
      For <Choice label="For" value={time.value} options={TIMES} on={(value) => (time.value = value)} />
    </p>
    <p class="source">{time.value ? "Then it gets all of them." : "Then it stays at its share until you give it all of them, or none."}</p>
  </>
);

/** Two generations have to be able to live side by side: whether they are, the daemon knows, and says why not. */
export const CanaryButton = ({ service }: { service: Service }) =>
  service.target === "up" && service.kind === "service" && service.generations.some((one) => one.listeners.some((listener) => listener.selected)) ? (
    <button
      type="button"
      disabled={!mayAct.value}
      title={whyNot()}
      onClick={() =>
        ask({
          title: `Restart ${service.name} with a share first`,
          text: <Question />,
          word: "Start it",
          danger: false,
          yes: () => void act(`services/${encodeURIComponent(service.name)}/restart`, { canary: { permille: Number(share.value), for_ms: time.value ? Number(time.value) : null } }),
        })
      }
    >
      <Icon name="split" /> Share…
    </button>
  ) : null;

/** The share that a generation has now, if one has. */
export function shares({ ledger }: Service) {
  const canary = ledger?.outcome === "running" ? ledger.canary : undefined;
  return canary && canary.lasted_ms !== null ? canary : null;
}

/** The generation that keeps its share until somebody decides, if one does. */
function waits(service: Service): string | null {
  const canary = shares(service);
  return canary && canary.for_ms === null
    ? `generation ${service.ledger!.to} has ${percent(canary.permille)} of the new connections and waits for a decision`
    : null;
}

/** Why somebody should look at it, if somebody should. */
export const needs = (service: Service): string | null =>
  service.target === "up" || service.state === "failed" ? (trouble(service) ?? waits(service)) : null;

/** The generation that has a share now, and what is to become of it. */
export function Decision({ service }: { service: Service }) {
  const { ledger } = service;
  const canary = shares(service);
  if (!canary) return null;
  const left = canary.for_ms === null ? null : Math.max(0, canary.for_ms - since(service, canary.lasted_ms ?? 0));
  const path = `services/${encodeURIComponent(service.name)}/decide`;
  void now.value;
  return (
    <section class="decision" aria-label="A generation with a share">
      <p>
        <Icon name="split" size={18} /> Generation {ledger!.to} has <b>{percent(canary.permille)}</b> of the new connections, generation {ledger!.from} the rest.{" "}
        {left === null ? "It stays so until somebody decides." : `It gets all of them in ${span(left)}.`}
      </p>
      <p class="row">
        <Twice icon="check" word="Give it all" confirm={`all new connections to generation ${ledger!.to}`} path={path} body={{ switch: true }} />
        <Twice icon="undo" word="Take it back" confirm={`none to generation ${ledger!.to}; it finishes what it has`} path={path} body={{ switch: false }} />
      </p>
    </section>
  );
}
