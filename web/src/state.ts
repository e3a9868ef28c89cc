// What is known, as signals. Nothing here is guessed: a button that was pressed changes nothing until the event says so.

import { batch, computed, signal } from "@preact/signals";
import { askSiblings, get, post, Refused, type Frame, type StreamState } from "./net";
import { share } from "./share";
import type { EventRecord, Instance, Me, Operation, Service } from "./types";

export const services = signal<Service[]>([]);
export const instance = signal<Instance | null>(null);
export const events = signal<EventRecord[]>([]);
export const me = signal<Me | null>(null);
export const loaded = signal(false);
/** Since when it is not live, by our clock; 0: it is. */
export const lostSince = signal(Date.now());
export const upstream = signal<{ state: string; since_ms?: number; why?: string }>({ state: "up" });
export const denied = signal<Refused | null>(null);
export const operations = signal<Operation[]>([]);
export const notes = signal<{ id: string; kind: string; text: string; hint?: string | null }[]>([]);
/** When the last picture came, by our clock. */
export const pictureAt = signal(0);
/** Ticks each second while the page is shown: ages are counted from it. */
export const now = signal(Date.now());
/** The dashboard's clock less ours. */
export const skew = signal(0);
/** Events were lost on the way: said in the list. */
export const gaps = signal<string[]>([]);

export const byName = computed(() => new Map(services.value.map((service) => [service.name, service])));
/** After this long without a stream the values are old. */
const STALE_AFTER = 3_000;
export const live = computed<"live" | "reconnecting" | "stale">(() => {
  if (lostSince.value === 0 && upstream.value.state === "up") return "live";
  const since = lostSince.value || (upstream.value.since_ms ?? 0) - skew.value;
  return now.value - since < STALE_AFTER ? "reconnecting" : "stale";
});
export const mayAct = computed(() => me.value?.role === "operate" && !me.value.read_only && live.value === "live");

const EVENTS = 3_000;
let cursor = "";

const KEYS = /^([0-9a-f]+)-(\d+)$/;
const order = (event: EventRecord) => Number(KEYS.exec(event.cursor)?.[2] ?? 0);

/** Puts events where they belong; each is there once. */
function remember(fresh: EventRecord[]) {
  const known = new Set(events.value.map((event) => event.cursor));
  const added = fresh.filter((event) => !known.has(event.cursor));
  if (!added.length) return;
  const all = events.value.concat(added);
  all.sort((one, other) => one.at_ms - other.at_ms || order(one) - order(other));
  events.value = all.slice(-EVENTS);
}

function picture(data: any) {
  const at = Date.now();
  pictureAt.value = at;
  skew.value = data.at_ms - at;
  instance.value = data.instance;
  for (const service of data.services as Service[]) service.seen = at;
  const sort = (all: Service[]) => all.sort((one, other) => (one.name < other.name ? -1 : 1));
  if (data.full) {
    services.value = sort(data.services);
  } else if (data.services.length || data.gone.length) {
    const next = new Map(services.value.map((service) => [service.name, service]));
    for (const name of data.gone as string[]) next.delete(name);
    for (const service of data.services as Service[]) next.set(service.name, service);
    const grew = next.size !== services.value.length || data.gone.length > 0;
    services.value = grew ? sort([...next.values()]) : [...next.values()];
  }
  loaded.value = true;
}

function operated(operation: Operation) {
  operations.value = [...operations.value.filter((known) => known.id !== operation.id), operation].slice(-50);
  if (operation.state === "running") return;
  const what = [operation.action, operation.service === "*" ? "all services" : operation.service, operation.address].filter(Boolean).join(" ");
  if (operation.state === "done") note("done", `${what}: done`);
  else note("failed", `${what}: ${operation.message ?? operation.state}`, operation.hint);
}

export function note(kind: "done" | "failed" | "info", text: string, hint?: string | null) {
  const id = `${Date.now()}-${Math.random()}`;
  notes.value = [...notes.value.slice(-3), { id, kind, text, hint: hint ?? null }];
  // What failed stays until it is closed.
  if (kind !== "failed") setTimeout(() => close(id), 6_000);
}
export function close(id: string) {
  notes.value = notes.value.filter((one) => one.id !== id);
}

function on({ event, data, id }: Frame) {
  batch(() => {
    if (id) cursor = id;
    if (event === "status") picture(data);
    else if (event === "record") remember([data]);
    else if (event === "hello") {
      if (!cursor && data.cursor) cursor = data.cursor;
      if (me.value) me.value = { ...data, role: me.value.role, by: me.value.by };
    } else if (event === "operation") operated(data);
    else if (event === "upstream") upstream.value = data;
    else if (event === "gap") gaps.value = [...gaps.value, `${data.missed ?? "some"} events are missing before this`].slice(-20);
    else if (event === "reset") {
      gaps.value = [...gaps.value, "the daemon was started anew: its earlier events are gone"].slice(-20);
      cursor = "";
    } else if (event === "denied") denied.value = new Refused(401, "replaced", data.why, null);
  });
}

function told(state: StreamState, why?: Refused) {
  batch(() => {
    if (state === "open") {
      lostSince.value = 0;
      denied.value = null;
    } else {
      if (!lostSince.value) lostSince.value = Date.now();
      if (why) denied.value = why;
    }
  });
}

const everything = (): Frame[] => [
  ...(cursor ? [{ event: "hello", data: { ...me.value, cursor } }] : []),
  ...(loaded.value
    ? [{ event: "status", data: { full: true, at_ms: Date.now() + skew.value, instance: instance.value, services: services.value, gone: [] } }]
    : []),
  { event: "upstream", data: upstream.value },
  ...events.value.map((record) => ({ event: "record", data: record, id: record.cursor })),
];

let again: (() => void) | null = null;

/** Begins. Called once, and again when a token was given. Nothing waits for anything else that it does not need. */
export async function begin(): Promise<void> {
  denied.value = null;
  if (again) again();
  else again = share(() => (cursor ? `stream?since=${encodeURIComponent(cursor)}` : "stream"), everything, on, told);
  const siblings = askSiblings();
  try {
    me.value = await get<Me>("me");
  } catch (error) {
    if (error instanceof Refused && error.status === 401) {
      if (await siblings) return begin();
      denied.value = error;
      return;
    }
  }
  get<{ events: EventRecord[] }>("events?limit=400").then(
    (past) => remember(past.events),
    // The stream says what is wrong.
    () => {},
  );
  // Who may look already may be able to act with what another tab has.
  if (await siblings) me.value = await get<Me>("me").catch(() => me.value);
}

/** Asks for the live stream at once, not after the pause. */
export const reconnect = () => again?.();

/** Does something, and says at once if it was refused; how it ends comes as an event. */
export async function act(path: string, body: unknown = {}) {
  try {
    operated(await post<Operation>(path, body));
  } catch (error) {
    const refused = error as Refused;
    note("failed", refused.message, refused.hint);
  }
}

const tick = () => {
  if (!document.hidden) now.value = Date.now();
};
setInterval(tick, 1000);
document.addEventListener("visibilitychange", tick);
