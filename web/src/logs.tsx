// Lines as they come, up to ten thousand of them, all in the page: the browser's own search, copying and screen readers work.
//
// Preact does not see them. They are appended in chunks of two hundred, and a chunk that is out of sight costs nothing
// (content-visibility). What a line says is put in as text, never as markup.

import { useEffect, useRef, useState } from "preact/hooks";
import { Icon } from "./icons";
import { follow, save, type Refused } from "./net";
import { Choice } from "./parts";
import { route, setQuery } from "./route";
import { note, services } from "./state";
import type { LogLine } from "./types";
import { clock, day, zone, zoneName } from "./words";

const KEPT = 10_000;
const CHUNK = 200;
/** This near to the end counts as the end. */
const NEAR = 40;

/** A few lines, as nodes of a page that is drawn by the framework. */
export const Lines = ({ lines }: { lines: LogLine[] }) => (
  <div class="tail few wrap" role="log" aria-live="off" aria-label="Last lines" tabIndex={0}>
    {lines.map((line, index) => (
      <div key={index} class={`l ${line.o} ${line.l ?? ""}`}>
        <span class="t" title={day(line.t)}>{clock(line.t, true)}</span>
        <span class="g" title={`generation ${line.g}`}>{line.g}</span>
        <span class="o">{line.o}</span>
        <span class="x">{line.x.map(([words, look], piece) => (look ? <span key={piece} class={look}>{words}</span> : words))}</span>
      </div>
    ))}
  </div>
);

function shown(line: LogLine, many: boolean): HTMLElement {
  const row = document.createElement("div");
  row.className = `l ${line.o}${line.l ? ` ${line.l}` : ""}`;
  row.dataset["t"] = String(line.t);
  const put = (name: string, text: string, title = "") => {
    const piece = document.createElement("span");
    piece.className = name;
    piece.textContent = text;
    if (title) piece.title = title;
    row.append(piece);
  };
  put("t", clock(line.t, true), `${day(line.t)} ${clock(line.t, true)}`);
  if (many) put("s", line.s);
  put("g", String(line.g), `generation ${line.g}`);
  put("o", line.o);
  const text = document.createElement("span");
  text.className = "x";
  for (const [words, look] of line.x) {
    if (look) {
      const piece = document.createElement("span");
      piece.className = look;
      piece.textContent = words;
      text.append(piece);
    } else text.append(words);
  }
  if (line.c) text.append(" …");
  if (!line.x.length) text.append("\u00a0");
  row.append(text);
  return row;
}

/** The scroller, without a framework: lines in, marks on what is searched for. */
class Tail {
  lines = 0;
  dropped = 0;
  private waiting: Node[] = [];
  private frame = 0;
  constructor(
    readonly box: HTMLElement,
    private readonly grew: () => void,
  ) {}

  add(nodes: Node[]) {
    this.waiting.push(...nodes);
    // A tab that nobody sees draws nothing; what it cannot keep is not kept twice.
    if (this.waiting.length > KEPT) this.waiting.splice(0, this.waiting.length - KEPT);
    this.frame ||= requestAnimationFrame(() => this.draw());
  }

  private draw() {
    this.frame = 0;
    const { box } = this;
    for (const node of this.waiting.splice(0)) {
      let chunk = box.lastElementChild;
      if (!chunk || chunk.childElementCount >= CHUNK) {
        chunk = document.createElement("div");
        chunk.className = "chunk";
        box.append(chunk);
      }
      chunk.append(node);
      this.lines++;
    }
    while (this.lines > KEPT && box.firstElementChild) {
      const gone = box.firstElementChild.childElementCount;
      const { scrollTop, scrollHeight } = box;
      box.firstElementChild.remove();
      this.lines -= gone;
      this.dropped += gone;
      // Who reads further up keeps the place.
      if (scrollTop > 0) box.scrollTop = scrollTop - (scrollHeight - box.scrollHeight);
    }
    this.grew();
  }

  clear() {
    cancelAnimationFrame(this.frame);
    this.frame = 0;
    this.waiting = [];
    this.lines = this.dropped = 0;
    this.box.replaceChildren();
  }
}

const escaped = (text: string) => text.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");

/** Marks what is searched for, with ranges: the lines themselves are not touched. */
function mark(box: HTMLElement, text: string): Range[] {
  const ranges: Range[] = [];
  if (text.length > 1) {
    const wanted = new RegExp(escaped(text), "gi");
    const walker = document.createTreeWalker(box, NodeFilter.SHOW_TEXT);
    while (walker.nextNode() && ranges.length < 5_000) {
      const node = walker.currentNode as Text;
      if (!node.parentElement?.closest(".x")) continue;
      for (const match of node.data.matchAll(wanted)) {
        const range = new Range();
        range.setStart(node, match.index);
        range.setEnd(node, match.index + match[0].length);
        ranges.push(range);
      }
    }
  }
  if ("highlights" in CSS) {
    if (ranges.length) CSS.highlights.set("found", new Highlight(...ranges));
    else CSS.highlights.delete("found");
  }
  return ranges;
}

/** A gap in words, between lines. */
function gapLine(text: string): HTMLElement {
  const gap = document.createElement("div");
  gap.className = "l gap";
  gap.textContent = `── ${text} ──`;
  return gap;
}

const LEVELS = [
  ["", "All levels"],
  ["warn", "Warnings"],
  ["error", "Errors"],
] as const;
const STREAMS = [
  ["", "Both"],
  ["stdout", "stdout"],
  ["stderr", "stderr"],
] as const;

export function LogView({ services: names }: { services: string }) {
  const { query } = route.value;
  const [stream, grep, generation, at] = ["stream", "grep", "gen", "at"].map((name) => query.get(name) ?? "") as [string, string, string, string];
  const previous = query.get("previous") === "1";
  const level = query.get("level") ?? "";
  const box = useRef<HTMLDivElement>(null);
  const tail = useRef<Tail | null>(null);
  const [following, setFollowing] = useState(true);
  const [paused, setPaused] = useState(false);
  const [wrap, setWrap] = useState(() => localStorage.getItem("stayput-wrap") !== "no");
  const [more, setMore] = useState(false);
  const [find, setFind] = useState("");
  const [found, setFound] = useState({ count: 0, index: -1 });
  const [said, setSaid] = useState({ lines: 0, dropped: 0, state: "connecting", held: 0 });
  const stopped = useRef({ following: true, paused: false, held: [] as Node[] });
  stopped.current.following = following;
  stopped.current.paused = paused;
  const many = !names || names.includes(",") || names.includes("*");

  const asked = new URLSearchParams();
  if (names) asked.set("services", names);
  if (stream) asked.set("stream", stream);
  if (grep) asked.set("grep", grep);
  if (/^\d+$/.test(generation)) asked.set("generation", generation);
  if (previous) asked.set("previous", "true");
  const wanted = asked.toString();

  const chase = useRef(0);
  /** A chunk out of sight has the height that it had: it may grow as soon as it is in sight, and the end goes on. */
  const toEnd = (frames = 5, was = 0) => {
    cancelAnimationFrame(chase.current);
    const node = box.current;
    // Who has scrolled up since then stays there.
    if (!node || (node.scrollTop < was - 1 && node.scrollTop < node.scrollHeight - node.clientHeight - 1)) return;
    const end = node.scrollHeight;
    node.scrollTop = end;
    const top = node.scrollTop;
    if (frames > 0) chase.current = requestAnimationFrame(() => toEnd(node.scrollHeight === end ? frames - 1 : 5, top));
  };

  useEffect(() => {
    tail.current = new Tail(box.current!, () => {
      const { lines, dropped } = tail.current!;
      setSaid((old) => ({ ...old, lines, dropped }));
      if (stopped.current.following && !at) toEnd();
    });
    return () => {
      cancelAnimationFrame(chase.current);
      tail.current?.clear();
      if ("highlights" in CSS) CSS.highlights.delete("found");
    };
  }, []);

  useEffect(() => {
    const view = tail.current!;
    view.clear();
    stopped.current.held = [];
    setSaid({ lines: 0, dropped: 0, state: "connecting", held: 0 });
    // After a break it goes on behind the last line that came. Lines of one time cannot be told apart by it: those that are there
    // already are known by their place.
    let last = 0;
    let places = new Set<string>();
    const from = Number(at) || 0;
    const where = () => {
      const query = new URLSearchParams(wanted);
      if (last) {
        query.set("since_ms", String(last));
        query.set("lines", String(KEPT));
      } else if (from) {
        query.set("since_ms", String(Math.max(0, from - 5_000)));
        query.set("lines", String(KEPT));
      } else query.set("lines", "1000");
      return `logs/stream?${query}`;
    };
    const put = (nodes: Node[]) => {
      if (!stopped.current.paused) return view.add(nodes);
      stopped.current.held.push(...nodes);
      stopped.current.held.splice(0, Math.max(0, stopped.current.held.length - KEPT));
      setSaid((old) => ({ ...old, held: stopped.current.held.length }));
    };
    const stop = follow(
      where,
      ({ event, data }) => {
        if (event === "lines") {
          const fresh = (data as LogLine[]).filter((line) => {
            if (line.t < last) return true;
            const place = `${line.s} ${line.g} ${line.o} ${line.p}`;
            if (line.p && places.has(place)) return false;
            if (line.t > last) {
              last = line.t;
              places = new Set();
            }
            places.add(place);
            return true;
          });
          if (fresh.length) put(fresh.map((line) => shown(line, many)));
        } else if (event === "log-gap") {
          put([gapLine(`${data.dropped_bytes === null ? "some output" : `${data.dropped_bytes.toLocaleString("en")} bytes`} of ${data.service} missing: ${data.why}`)]);
        } else if (event === "broken") setSaid((old) => ({ ...old, state: "reconnecting" }));
      },
      (state, why?: Refused) => {
        if (why) note("failed", why.message, why.hint);
        setSaid((old) => ({ ...old, state: state === "open" ? "live" : why ? "refused" : "reconnecting" }));
      },
    );
    return stop;
  }, [wanted, at]);

  // A place that a link means.
  useEffect(() => {
    if (!at || !said.lines) return;
    const line = [...box.current!.querySelectorAll<HTMLElement>(".l")].find((one) => Number(one.dataset["t"]) >= Number(at));
    if (line && !box.current!.querySelector(".here")) {
      line.classList.add("here");
      line.scrollIntoView({ block: "center" });
      setFollowing(false);
    }
  }, [said.lines, at]);

  const ranges = useRef<Range[]>([]);
  useEffect(() => {
    const timer = setTimeout(() => {
      ranges.current = mark(box.current!, find);
      setFound((old) => ({ count: ranges.current.length, index: Math.min(old.index, ranges.current.length - 1) }));
    }, 120);
    return () => clearTimeout(timer);
  }, [find, said.lines]);
  const jump = (step: number) => {
    const { length } = ranges.current;
    if (!length) return;
    const index = (found.index < 0 ? (step > 0 ? 0 : length - 1) : found.index + step + length) % length;
    setFollowing(false);
    ranges.current[index]!.startContainer.parentElement?.scrollIntoView({ block: "center" });
    setFound({ count: length, index });
  };

  const scrolled = () => {
    const node = box.current;
    // The last event of a box comes when it is gone.
    if (!node) return;
    setFollowing(node.scrollHeight - node.scrollTop - node.clientHeight < NEAR);
  };
  /** A click on the time of a line puts it into the address: a link to this line. */
  const link = (event: MouseEvent) => {
    const row = (event.target as Element).closest<HTMLElement>(".t")?.parentElement;
    if (row?.dataset["t"]) setQuery("at", row.dataset["t"]);
  };
  const unpause = () => {
    setPaused(!paused);
    stopped.current.paused = !paused;
    if (paused) {
      tail.current!.add(stopped.current.held.splice(0));
      setSaid((old) => ({ ...old, held: 0 }));
    }
  };
  const jumpTo = (text: string) => {
    const time = new Date(zone.value === "utc" ? `${text}Z` : text).getTime();
    if (Number.isFinite(time)) setQuery("at", String(time));
  };
  const download = (raw: boolean) => {
    const file = `${names.replace(/[^\w.@-]+/g, "-") || "all"}.log`;
    save(`logs/download?${wanted}${raw ? "&raw=true" : ""}`, file).catch((error: Refused) => note("failed", error.message, error.hint));
  };

  return (
    <section class="card log" aria-label="Log">
      <div class="bar">
        <button type="button" aria-pressed={paused} onClick={unpause}>
          <Icon name={paused ? "play" : "pause"} /> {paused ? `Go on${said.held ? ` (${said.held.toLocaleString("en")} new)` : ""}` : "Pause"}
        </button>
        <label class="search">
          <Icon name="search" />
          <span class="hidden">Find in the log</span>
          <input
            type="search"
            data-search
            placeholder="Find…"
            value={find}
            onInput={(event) => setFind(event.currentTarget.value)}
            onKeyDown={(event) => event.key === "Enter" && jump(event.shiftKey ? -1 : 1)}
          />
          {find.length > 1 && (
            <output>
              {found.count ? `${found.index + 1 || "–"}/${found.count.toLocaleString("en")}` : "none"}
            </output>
          )}
        </label>
        <button type="button" class="more-tools" aria-expanded={more} onClick={() => setMore(!more)}>
          {more ? "Less" : "More"}
        </button>
        <div class={`tools ${more ? "open" : ""}`}>
          <button type="button" disabled={find.length < 2 && !grep} aria-pressed={!!grep} onClick={() => setQuery("grep", grep ? null : escaped(find))} title="Show only the lines that have it">
            {grep ? <>Only “{grep}” <Icon name="x" size={13} /></> : "Only these"}
          </button>
          <Choice label="Level" value={level as ""} options={LEVELS} on={(value) => setQuery("level", value)} />
          <Choice label="Stream" value={stream as ""} options={STREAMS} on={(value) => setQuery("stream", value)} />
          <span class="right" />
          <button type="button" aria-pressed={wrap} onClick={() => { setWrap(!wrap); localStorage.setItem("stayput-wrap", wrap ? "no" : "yes"); }}>
            Wrap
          </button>
          <button type="button" onClick={() => download(false)} title="All that is kept, with times">
            <Icon name="download" /> <span class="hidden">Download</span>
          </button>
          <span class="break" />
          <label class="time">
            Go to
            <input type="datetime-local" step="1" title={`In ${zoneName()}; a click on the time of a line does it, too`} onChange={(event) => jumpTo(event.currentTarget.value)} />
          </label>
          <label class="gen">
            Generation
            <input type="number" min={1} placeholder="any" value={generation} onInput={(event) => setQuery("gen", event.currentTarget.value)} />
          </label>
          <button type="button" aria-pressed={previous} onClick={() => setQuery("previous", previous ? null : "1")} title="What the generation before this one wrote">
            Run before
          </button>
        </div>
      </div>
      {said.dropped > 0 && <p class="gap">{said.dropped.toLocaleString("en")} earlier lines are not shown here any more; the download has them.</p>}
      <div ref={box} class={`tail ${wrap ? "wrap" : ""} ${level ? `from-${level}` : ""}`} role="log" aria-live="off" aria-label="Lines" tabIndex={0} onScroll={scrolled} onClick={link} />
      <div class="foot">
        <span role="status">
          {said.lines.toLocaleString("en")} lines, {said.state}
          {paused && ", paused"}
        </span>
        {!following && (
          <button
            type="button"
            class="primary"
            data-key="f"
            onClick={() => {
              if (at) setQuery("at", null);
              setFollowing(true);
              toEnd();
            }}
          >
            Follow the end
          </button>
        )}
      </div>
    </section>
  );
}

export function Logs() {
  const { query } = route.value;
  const chosen = (query.get("svc") ?? "").split(",").filter(Boolean);
  const toggle = (name: string) => setQuery("svc", (chosen.includes(name) ? chosen.filter((one) => one !== name) : [...chosen, name]).join(","));
  const offered = services.value.slice(0, 40).map((service) => service.name);
  return (
    <>
      <h1 class="hidden">Logs</h1>
      <div class="pick" role="group" aria-label="Of which services">
        <button type="button" class="chip" aria-pressed={!chosen.length} onClick={() => setQuery("svc", null)}>
          all
        </button>
        {[...new Set([...chosen, ...offered])].map((name) => (
          <button type="button" class="chip" key={name} aria-pressed={chosen.includes(name)} onClick={() => toggle(name)}>
            {name}
          </button>
        ))}
      </div>
      <LogView key={chosen.join(",")} services={chosen.join(",")} />
    </>
  );
}
