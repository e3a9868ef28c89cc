import {
  Anchor, Ban, Cable, CalendarClock, Check, ChevronRight, CircleCheck, CircleDashed, CircleQuestionMark, CircleX, Download, Hourglass,
  House, Info, Link, List, Monitor, Moon, Pause, Play, RefreshCw, RotateCw, ScrollText, Search, Split, Square, Sun, TriangleAlert, Undo2, Unplug, X,
} from "lucide";
import type { Tone } from "./words";

const ALL = {
  anchor: Anchor, ban: Ban, cable: Cable, calendar: CalendarClock, check: Check, right: ChevronRight, good: CircleCheck, idle: CircleDashed,
  help: CircleQuestionMark, bad: CircleX, download: Download, hourglass: Hourglass, house: House, info: Info, link: Link, list: List,
  monitor: Monitor, moon: Moon, pause: Pause, play: Play, busy: RefreshCw, restart: RotateCw, log: ScrollText, search: Search, split: Split, stop: Square,
  sun: Sun, warn: TriangleAlert, undo: Undo2, unplug: Unplug, x: X,
};
export type IconName = keyof typeof ALL;

/** A drawing beside a word: never the only thing that says something, so hidden from readers. */
export function Icon({ name, size = 16 }: { name: IconName; size?: number }) {
  return (
    <svg class="icon" width={size} height={size} viewBox="0 0 24 24" aria-hidden="true">
      {ALL[name].map(([Tag, attributes]: any, index) => (
        <Tag key={index} {...attributes} />
      ))}
    </svg>
  );
}
export const TONE_ICON: Record<Tone, IconName> = { good: "good", busy: "busy", warn: "warn", bad: "bad", idle: "idle" };
