// Small things that many pages use.

import { signal } from "@preact/signals";
import type { ComponentChildren } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import { Icon, TONE_ICON, type IconName } from "./icons";
import { act, mayAct, now, live, me } from "./state";
import type { Evidence, Service } from "./types";
import { source, state, type Tone } from "./words";

/** A state: shape, word and colour; any two of them are enough. */
export function Badge({ tone, children }: { tone: Tone; children: ComponentChildren }) {
  return (
    <span class={`badge ${tone}`}>
      <Icon name={TONE_ICON[tone]} size={14} />
      {children}
    </span>
  );
}
export function StateBadge({ service }: { service: Service }) {
  const [word, tone] = state(service);
  return <Badge tone={tone}>{word}</Badge>;
}

/** Where a value comes from and how old it is. */
export function Source({ evidence }: { evidence: Evidence | null }) {
  return <small class="source">{evidence ? source(evidence) : "nobody looked"}</small>;
}

export function Empty({ icon, title, children }: { icon: IconName; title: string; children?: ComponentChildren }) {
  return (
    <div class="empty">
      <Icon name={icon} size={32} />
      <p class="title">{title}</p>
      {children}
    </div>
  );
}

/** Why a button does nothing now. */
export function whyNot(): string | undefined {
  if (mayAct.value) return undefined;
  if (live.value !== "live") return "not while the values are old";
  if (me.value?.read_only) return "this dashboard is read-only";
  return "open the link that `stayput dashboard --link` prints to act";
}

/**
 * A button that asks once more in its own place. What it would do is said before the second press; the first one changes nothing.
 */
export function Twice(props: { icon: IconName; word: string; confirm: string; path: string; body?: unknown; shortcut?: string; danger?: boolean }) {
  const [asked, setAsked] = useState(0);
  useEffect(() => {
    if (!asked) return;
    const timer = setTimeout(() => setAsked(0), 8_000);
    return () => clearTimeout(timer);
  }, [asked]);
  const press = () => {
    if (!asked) return setAsked(Date.now());
    setAsked(0);
    void act(props.path, props.body ?? {});
  };
  return (
    <span class="twice">
      <button type="button" class={asked ? (props.danger ? "danger" : "primary") : ""} onClick={press} disabled={!mayAct.value} title={whyNot()} data-key={props.shortcut}>
        <Icon name={props.icon} />
        {asked ? `Confirm: ${props.confirm}` : props.word}
      </button>
      {asked > 0 && (
        <button type="button" class="quiet" onClick={() => setAsked(0)}>
          Cancel
        </button>
      )}
    </span>
  );
}

type Asked = { title: string; text: ComponentChildren; word: string; danger: boolean; yes: () => void };
const asked = signal<Asked | null>(null);
/** A question in front of everything, for what cannot be taken back. */
export const ask = (question: Asked) => (asked.value = question);

export function Dialog() {
  const dialog = useRef<HTMLDialogElement>(null);
  const question = asked.value;
  useEffect(() => {
    if (question) dialog.current?.showModal();
    else dialog.current?.close();
  }, [question]);
  return (
    <dialog ref={dialog} onClose={() => (asked.value = null)} aria-labelledby="question">
      {question && (
        <form method="dialog">
          <h2 id="question">{question.title}</h2>
          <div>{question.text}</div>
          <p class="row end">
            <button type="submit" class="quiet" autofocus>
              Cancel
            </button>
            <button
              type="button"
              class={question.danger ? "danger" : "primary"}
              disabled={!mayAct.value}
              onClick={() => {
                asked.value = null;
                question.yes();
              }}
            >
              {question.word}
            </button>
          </p>
        </form>
      )}
    </dialog>
  );
}

const STEPS: Record<string, number> = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 };
/** Buttons of a set of which one is chosen: one stop of the Tab key, arrows between them. */
export function Choice<T extends string>(props: { label: string; value: T; options: readonly (readonly [T, string])[]; on: (value: T) => void }) {
  const set = useRef<HTMLDivElement>(null);
  const at = Math.max(0, props.options.findIndex(([value]) => value === props.value));
  const move = (event: KeyboardEvent) => {
    const step = STEPS[event.key];
    if (!step) return;
    event.preventDefault();
    const { length } = props.options;
    const next = (at + step + length) % length;
    props.on(props.options[next]![0]);
    (set.current?.children[next] as HTMLElement).focus();
  };
  return (
    <div class="choice" role="radiogroup" aria-label={props.label} ref={set} onKeyDown={move}>
      {props.options.map(([value, word], index) => (
        <button type="button" role="radio" aria-checked={value === props.value} tabIndex={index === at ? 0 : -1} key={value} onClick={() => props.on(value)}>
          {word}
        </button>
      ))}
    </div>
  );
}

/** The last values as a line. The numbers are beside it; this is their shape. */
export function Spark({ values, width = 84, height = 22 }: { values: (number | null)[]; width?: number; height?: number }) {
  const known = values.filter((value) => value !== null);
  if (known.length < 2) return <svg class="spark" width={width} height={height} aria-hidden="true" />;
  const most = Math.max(1, ...known);
  const x = (index: number) => (index / (values.length - 1)) * (width - 2) + 1;
  const y = (value: number) => height - 2 - (value / most) * (height - 4);
  let path = "";
  let open = false;
  values.forEach((value, index) => {
    if (value === null) return (open = false);
    path += `${open ? "L" : "M"}${x(index).toFixed(1)} ${y(value).toFixed(1)}`;
    open = true;
    return;
  });
  return (
    <svg class={known.some((value) => value > 0) ? "spark" : "spark flat"} width={width} height={height} aria-hidden="true">
      <path d={path} />
    </svg>
  );
}

export const useNow = () => now.value;
