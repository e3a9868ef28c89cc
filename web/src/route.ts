// Addresses. Every view has one; what is filtered is in it too.

import { signal } from "@preact/signals";
import { base } from "./net";

export type Route = { page: string; parts: string[]; query: URLSearchParams };

function read(): Route {
  const path = location.pathname.startsWith(base.pathname) ? location.pathname.slice(base.pathname.length) : "";
  const [page = "", ...parts] = path.split("/").map((part) => {
    try {
      return decodeURIComponent(part);
    } catch {
      return part;
    }
  });
  return { page, parts, query: new URLSearchParams(location.search) };
}
export const route = signal(read());

export const to = {
  service: (name: string, tab = "") => `s/${encodeURIComponent(name)}${tab ? `/${tab}` : ""}`,
  restart: (name: string, id: number) => `s/${encodeURIComponent(name)}/r/${id}`,
  logs: (query: Record<string, string>) => `logs?${new URLSearchParams(query)}`,
};

export function go(href: string, replace = false) {
  const url = new URL(href, base);
  history[replace ? "replaceState" : "pushState"](null, "", url);
  route.value = read();
  if (!replace) {
    scrollTo(0, 0);
    document.querySelector<HTMLElement>("main")?.focus({ preventScroll: true });
  }
}

/** Sets one thing in the address; nothing takes it out. */
export function setQuery(name: string, value: string | null) {
  const url = new URL(location.href);
  if (value) url.searchParams.set(name, value);
  else url.searchParams.delete(name);
  go(url.href, true);
}

addEventListener("popstate", () => (route.value = read()));
document.addEventListener("click", (event) => {
  const link = (event.target as Element).closest?.("a");
  if (!link || event.defaultPrevented || event.button !== 0 || event.metaKey || event.ctrlKey || event.shiftKey || link.target || link.download) return;
  const url = new URL(link.href);
  if (url.origin !== base.origin || !url.pathname.startsWith(base.pathname) || link.dataset["native"] !== undefined) return;
  event.preventDefault();
  go(url.href);
});
