import { Icon, type IconName } from "./icons";
import { Choice, Empty } from "./parts";
import { route, setQuery, to } from "./route";
import { events, gaps } from "./state";
import type { EventRecord } from "./types";
import { clock, day, plural, when } from "./words";

const LEVEL: Record<EventRecord["level"], [IconName, string, string]> = {
  good: ["good", "good", "reached"],
  info: ["right", "idle", "info"],
  trouble: ["warn", "bad", "trouble"],
};

/** With `own` all are of one service, which need not be named. */
export function Feed({ events, chosen, own = false }: { events: EventRecord[]; chosen?: string | null; own?: boolean }) {
  if (!events.length) return <p class="none">nothing has happened yet</p>;
  return (
    <ol class="feed">
      {events.map((event) => {
        const [icon, tone, word] = LEVEL[event.level] ?? LEVEL.info;
        return (
          <li key={event.cursor} id={`e-${event.cursor}`} class={`${tone} ${chosen === event.cursor ? "chosen" : ""}`} aria-current={chosen === event.cursor || undefined}>
            <a class="time" href={`events?at=${event.cursor}`} title={`${day(event.at_ms)} ${clock(event.at_ms, true)}`}>
              <time dateTime={new Date(event.at_ms).toISOString()}>{when(event.at_ms)}</time>
            </a>
            <Icon name={icon} size={15} />
            <span class="hidden">{word}: </span>
            {!own &&
              (event.service ? (
                <a class="who" href={to.service(event.service)} title={event.service}>
                  {event.service}
                </a>
              ) : (
                <span class="who none">instance</span>
              ))}
            <span class="text">{event.text}</span>
            {event.service && event.kind === "switched" && event.generation !== null && event.data?.["from"] != null && (
              <a class="more" href={to.restart(event.service, event.generation)}>
                the restart
              </a>
            )}
          </li>
        );
      })}
    </ol>
  );
}

const LEVELS = [
  ["", "All"],
  ["good", "Reached"],
  ["trouble", "Trouble"],
] as const;
const SHOWN = 400;

export function Events() {
  const { query } = route.value;
  const [level, service, text, at] = ["level", "service", "q", "at"].map((name) => query.get(name) ?? "") as [string, string, string, string];
  const fits = (event: EventRecord) =>
    (!level || event.level === level) &&
    (!service || event.service === service) &&
    (!text || `${event.text} ${event.kind} ${event.service ?? ""}`.toLowerCase().includes(text.toLowerCase()));
  const all = events.value.filter(fits);
  const index = at ? all.findIndex((event) => event.cursor === at) : -1;
  // Around the one that a link means, or the newest.
  const shown = (index >= 0 ? all.slice(Math.max(0, index - SHOWN / 2), index + SHOWN / 2) : all.slice(-SHOWN)).reverse();
  return (
    <section class="card" aria-labelledby="events">
      <div class="bar">
        <h1 id="events">Events</h1>
        <Choice label="Level" value={level as ""} options={LEVELS} on={(value) => setQuery("level", value)} />
        {service && (
          <button type="button" class="chip" aria-pressed="true" onClick={() => setQuery("service", null)}>
            {service} <Icon name="x" size={13} />
            <span class="hidden">remove this filter</span>
          </button>
        )}
        <label class="search">
          <Icon name="search" />
          <span class="hidden">Find in events</span>
          <input type="search" data-search placeholder="Text, kind, service…" value={text} onInput={(event) => setQuery("q", event.currentTarget.value)} />
        </label>
      </div>
      {at && index < 0 && <p class="gap">The event {at} is not kept any more.</p>}
      {gaps.value.map((gap, key) => (
        <p class="gap" key={key}>
          {gap}
        </p>
      ))}
      {shown.length ? <Feed events={shown} chosen={at} /> : <Empty icon="list" title={all.length ? "No event fits" : "Nothing has happened yet"} />}
      {all.length > shown.length && <p class="none">{plural(all.length - shown.length, "more event")} are kept; a filter shows them.</p>}
    </section>
  );
}
