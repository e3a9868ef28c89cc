import "./app.css";
import { effect } from "@preact/signals";
import { render } from "preact";
import { About, Denied, setTheme, theme, ThemeButton } from "./about";
import { needs } from "./canary";
import { Events } from "./events";
import { Icon, TONE_ICON, type IconName } from "./icons";
import "./keys";
import { Restart } from "./lanes";
import { Logs } from "./logs";
import { Overview } from "./overview";
import { Dialog, Empty } from "./parts";
import { PlanDialog } from "./plan";
import { Ports } from "./ports";
import { route, to } from "./route";
import { Service } from "./service";
import { begin, close, denied, live, lostSince, me, notes, now, pictureAt, reconnect, services, skew, upstream } from "./state";
import { clock, rank, span, state } from "./words";

setTheme(theme());

const PAGES: [string, string, IconName][] = [
  ["", "Overview", "house"],
  ["ports", "Ports", "cable"],
  ["events", "Events", "list"],
  ["logs", "Logs", "log"],
  ["about", "About", "info"],
];

/** Whether what is shown is true now. Always in sight. */
function Truth() {
  const down = upstream.value.state === "down";
  const since = lostSince.value || (upstream.value.since_ms ?? now.value) - skew.value;
  const words = {
    live: `Live ${span(now.value - pictureAt.value)}`,
    reconnecting: `Reconnecting (${Math.max(0, Math.round((now.value - since) / 1000))} s)`,
    // By the clock of the instance, as all other times here.
    stale: `Stale since ${clock(since + skew.value)}`,
  };
  return (
    <div class={`truth ${live.value}`}>
      <span role="status" aria-live="polite" class="hidden">
        {live.value}
      </span>
      <span aria-hidden="true">
        <i class="dot" /> {live.value === "live" ? "Live" : words[live.value]}
      </span>
      {live.value === "stale" && (down && !lostSince.value ? <small>the daemon does not answer; services run on</small> : <button type="button" onClick={reconnect}>Try now</button>)}
    </div>
  );
}

function Side() {
  const { page, parts } = route.value;
  const listed = services.value.length > 60 ? services.value.filter((service) => rank(service) < 2).slice(0, 40) : services.value;
  return (
    <nav class="side" aria-label="Pages">
      <ul class="pages">
        {PAGES.map(([path, word, icon]) => (
          <li key={path}>
            <a href={path || "."} aria-current={page === path ? "page" : undefined}>
              <Icon name={icon} size={18} />
              <span>{word}</span>
            </a>
          </li>
        ))}
      </ul>
      {listed.length > 0 && (
        <>
          <h2>{listed.length < services.value.length ? "Not as they should be" : "Services"}</h2>
          <ul class="names">
            {listed.map((service) => {
              const [word, tone] = state(service);
              return (
                <li key={service.name}>
                  <a href={to.service(service.name)} class={tone} aria-current={page === "s" && parts[0] === service.name ? "page" : undefined} title={word}>
                    <Icon name={TONE_ICON[tone]} size={14} />
                    <span>{service.name}</span>
                    <span class="hidden">, {word}</span>
                  </a>
                </li>
              );
            })}
          </ul>
        </>
      )}
    </nav>
  );
}

function Page() {
  const { page, parts } = route.value;
  if (denied.value?.status === 401) return <Denied />;
  if (page === "s" && parts[1] === "r") return <Restart />;
  if (page === "s") return <Service />;
  if (page === "ports") return <Ports />;
  if (page === "events") return <Events />;
  if (page === "logs") return <Logs />;
  if (page === "about") return <About />;
  if (page === "") return <Overview />;
  return <Empty icon="help" title="There is nothing at this address"><a href=".">overview</a></Empty>;
}

function title(): string {
  const { page, parts } = route.value;
  const attention = services.value.filter(needs).length;
  const name = page === "s" ? parts[0] : PAGES.find(([path]) => path === page)?.[1];
  return `${attention ? `(${attention}) ` : ""}${name ?? "stayput"} · ${me.value?.instance || "stayput"}`;
}

function App() {
  const attention = services.value.filter(needs).length;
  return (
    <>
      <button type="button" class="skip" onClick={() => document.querySelector<HTMLElement>("main")?.focus()}>
        To the content
      </button>
      <header class="top">
        <a class="brand" href="." aria-label="stayput: overview">
          <Icon name="anchor" size={22} />
          <b>stayput</b>
        </a>
        <p class="where">
          <b>{me.value?.instance || "…"}</b>
          <span>{me.value?.host}</span>
          {me.value?.read_only && <span class="tag">read-only</span>}
        </p>
        <Truth />
        <p class="sum">
          {services.value.length > 0 && (
            <>
              {services.value.length - attention} ok
              {attention > 0 && <a href="." class="bad">{attention} attention</a>}
            </>
          )}
        </p>
        <ThemeButton />
        <a class="button quiet icon-only" href="about" aria-label="Help and keys" title="Help and keys (?)">
          <Icon name="help" />
        </a>
      </header>
      <Side />
      <main id="main" tabIndex={-1}>
        <Page />
      </main>
      <div class="notes" role="status" aria-live="polite">
        {notes.value.map((one) => (
          <div key={one.id} class={`note ${one.kind}`}>
            <Icon name={one.kind === "failed" ? "bad" : "good"} size={18} />
            <p>
              {one.text}
              {one.hint && <small>{one.hint}</small>}
            </p>
            <button type="button" class="quiet icon-only" aria-label="Close this message" onClick={() => close(one.id)}>
              <Icon name="x" />
            </button>
          </div>
        ))}
      </div>
      <Dialog />
      <PlanDialog />
    </>
  );
}

effect(() => {
  document.title = title();
  document.body.classList.toggle("stale", live.value === "stale");
});
render(<App />, document.getElementById("app")!);
void begin();
