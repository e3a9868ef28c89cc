import { useState } from "preact/hooks";
import { Icon, type IconName } from "./icons";
import { base, setToken } from "./net";
import { Choice } from "./parts";
import { PlanButton } from "./plan";
import { begin, denied, instance, live, me, now, pictureAt, skew, upstream } from "./state";
import { plural, setZone, span, zone, zoneName } from "./words";

export const KEYS: [string, string][] = [
  ["/", "find"],
  ["g o", "overview"],
  ["g p", "ports"],
  ["g e", "events"],
  ["g l", "logs"],
  ["g a", "about"],
  ["j  k", "next or previous service"],
  ["Enter", "open the chosen service"],
  ["r", "restart it: press twice"],
  ["f", "follow the end of a log"],
  ["?", "these keys"],
];
export const Keys = () => (
  <dl class="keys">
    {KEYS.map(([keys, what]) => (
      <div key={keys}>
        <dt>{keys.split(" ").filter(Boolean).map((key) => <kbd key={key}>{key}</kbd>)}</dt>
        <dd>{what}</dd>
      </div>
    ))}
  </dl>
);

type Theme = "system" | "light" | "dark";
export const theme = () => (localStorage.getItem("stayput-theme") as Theme | null) ?? "system";
export function setTheme(value: Theme) {
  localStorage.setItem("stayput-theme", value);
  document.documentElement.dataset["theme"] = value;
}
const NEXT: Record<Theme, Theme> = { system: "light", light: "dark", dark: "system" };
const PICTURE: Record<Theme, IconName> = { system: "monitor", light: "sun", dark: "moon" };
export function ThemeButton() {
  const [value, setValue] = useState(theme());
  const press = () => {
    setTheme(NEXT[value]);
    setValue(NEXT[value]);
  };
  return (
    <button type="button" class="quiet icon-only" onClick={press} title={`Colours: ${value}`} aria-label={`Colours: ${value}; change`}>
      <Icon name={PICTURE[value]} />
    </button>
  );
}

/** Where a token can be put in by hand. */
export function TokenForm() {
  return (
    <form
      class="token"
      onSubmit={(event) => {
        event.preventDefault();
        const text = String(new FormData(event.currentTarget).get("token") ?? "");
        setToken(text.includes("token=") ? (text.split("token=").pop() ?? "") : text.trim());
        event.currentTarget.reset();
        void begin();
      }}
    >
      <label>
        Link or token
        <input name="token" type="password" autocomplete="off" spellcheck={false} required />
      </label>
      <button type="submit" class="primary">
        Use it
      </button>
    </form>
  );
}

export function Denied() {
  const why = denied.value!;
  return (
    <section class="card denied" aria-labelledby="denied">
      <Icon name="anchor" size={40} />
      <h1 id="denied">{why.kind === "no-token" ? "This page needs its link" : "This link is not valid any more"}</h1>
      <p>
        On the machine where stayput runs, <code>stayput dashboard --link</code> prints an address. Open it, or put it in here.
      </p>
      <TokenForm />
      <p class="source">{why.message}</p>
    </section>
  );
}

/** A browser whose clock is wrong still shows right times; who compares them with a watch should know. */
function clocks(): string {
  const off = Math.abs(skew.value);
  if (!pictureAt.value || off < 5_000) return "";
  return `; this browser's is ${span(off)} ${skew.value > 0 ? "behind" : "ahead"}`;
}

export function About() {
  const [chosen, setChosen] = useState(theme());
  const who = me.value;
  const all: [string, string][] = [
    ["Instance", who ? `${who.instance} on ${who.host}` : "not known"],
    ["stayput", who?.release ?? "not known"],
    ["Dashboard", `${who?.dashboard ?? "not known"}, ${who ? plural(who.clients, "live stream") : "streams not known"}`],
    ["You may", who?.read_only ? "look: it was started read-only" : who?.role === "operate" ? "look and act" : "look; the link of `stayput dashboard --link` lets you act"],
    ["Let in as", who?.by === "token" ? "bearer of the token" : "a program of the same user on this machine"],
    ["Values", live.value === "live" ? `live, ${now.value - pictureAt.value < 1000 ? "looked at just now" : `looked at ${span(now.value - pictureAt.value)} ago`}` : live.value],
    ["Configuration", instance.value?.source?.path ?? "none"],
    ["Guard, keeper, daemon", instance.value ? [instance.value.guard, instance.value.keeper, instance.value.daemon].map((one) => `pid ${one.pid}`).join(", ") : "not known"],
    ["Died and started again", instance.value ? `keeper ${instance.value.keeper_deaths}, daemon ${instance.value.daemon_deaths}` : "not known"],
    ["Times", `${zoneName()}, by the clock of ${who?.host ?? "the instance"}${clocks()}`],
    ["Daemon", upstream.value.state === "up" ? `answers${instance.value ? `, for ${span(instance.value.daemon_ms)}` : ""}` : `does not answer: ${upstream.value.why ?? ""}`],
  ];
  return (
    <>
      <section class="card" aria-labelledby="about">
        <div class="bar">
          <h1 id="about">About</h1>
          <PlanButton />
        </div>
        <dl class="config words">
          {all.map(([name, value]) => (
            <div key={name}>
              <dt>{name}</dt>
              <dd>{value}</dd>
            </div>
          ))}
        </dl>
        <p class="row">
          Colours
          <Choice
            label="Colours"
            value={chosen}
            options={[["system", "as the system"], ["light", "light"], ["dark", "dark"]]}
            on={(value) => {
              setTheme(value);
              setChosen(value);
            }}
          />
        </p>
        <p class="row">
          Times
          <Choice label="Times" value={zone.value} options={[["local", "of this browser"], ["utc", "UTC"]]} on={setZone} />
        </p>
        <p class="source">
          For programs: <a data-native href={`${base.pathname}api/v1/openapi.json`}>the API's description</a>, <a data-native href={`${base.pathname}plain`}>plain text</a>, <a data-native href={`${base.pathname}metrics`}>metrics</a>. In this page: <a data-native href={`${base.pathname}licences.txt`}>licences</a>.
        </p>
      </section>
      <section class="card" aria-labelledby="keys">
        <h2 id="keys">Keys</h2>
        <Keys />
      </section>
      {who?.role !== "operate" && (
        <section class="card" aria-labelledby="act">
          <h2 id="act">To act</h2>
          <TokenForm />
        </section>
      )}
    </>
  );
}
