// A table that has a thousand rows and shows thirty.

import type { ComponentChildren } from "preact";
import { signal } from "@preact/signals";
import { useEffect, useRef, useState } from "preact/hooks";

const narrow = matchMedia("(max-width: 720px)");
/** Rows are cards here, and higher. */
export const phone = signal(narrow.matches);
narrow.addEventListener("change", () => (phone.value = narrow.matches));

/** Below this many all rows are in the page, so that the browser's own search finds them. */
const ALL = 120;
const BEYOND = 12;

export function Rows<T>(props: { items: T[]; height: number; columns: number; row: (item: T, index: number) => ComponentChildren }) {
  const { items, height, columns, row } = props;
  const body = useRef<HTMLTableSectionElement>(null);
  const [top, setTop] = useState(0);
  const [view, setView] = useState(900);
  const windowed = items.length > ALL;
  useEffect(() => {
    if (!windowed) return;
    const look = () => {
      setTop(Math.max(0, -(body.current?.getBoundingClientRect().top ?? 0)));
      setView(innerHeight);
    };
    look();
    addEventListener("scroll", look, { passive: true });
    addEventListener("resize", look);
    return () => {
      removeEventListener("scroll", look);
      removeEventListener("resize", look);
    };
  }, [windowed]);
  if (!windowed) return <tbody>{items.map(row)}</tbody>;
  // In steps, so that not every scrolled pixel is a new set of rows.
  const first = Math.max(0, Math.floor(top / height / 4) * 4 - BEYOND);
  const last = Math.min(items.length, first + Math.ceil(view / height) + 2 * BEYOND + 4);
  const space = (rows: number) =>
    rows > 0 && (
      <tr aria-hidden="true" class="space">
        <td colSpan={columns} style={{ height: `${rows * height}px` }} />
      </tr>
    );
  return (
    <tbody ref={body}>
      {space(first)}
      {items.slice(first, last).map((item, index) => row(item, first + index))}
      {space(items.length - last)}
    </tbody>
  );
}
