// The keyboard: everything it does is a button somewhere too.

import { chosen, filtered } from "./overview";
import { go, route, to } from "./route";

const GO: Record<string, string> = { o: "", p: "ports", e: "events", l: "logs", a: "about" };
let after = "";

addEventListener("keydown", (event) => {
  if (event.defaultPrevented || event.metaKey || event.ctrlKey || event.altKey) return;
  const target = event.target as HTMLElement;
  const { key } = event;
  if (target.matches("input, textarea, select")) {
    if (key === "Escape") target.blur();
    return;
  }
  if (document.querySelector("dialog[open]")) return;
  const done = () => event.preventDefault();
  if (after === "g" && key in GO) {
    after = "";
    done();
    return go(GO[key]!);
  }
  after = key === "g" ? "g" : "";
  if (key === "/") {
    done();
    document.querySelector<HTMLInputElement>("[data-search]")?.focus();
  } else if (key === "?") {
    done();
    go("about");
  } else if (key === "r" || key === "f") {
    const button = document.querySelector<HTMLButtonElement>(`button[data-key="${key}"]:not(:disabled)`);
    if (button) {
      done();
      button.focus();
      button.click();
    } else if (key === "r" && route.value.page === "" && chosen.value) go(to.service(chosen.value));
  } else if ((key === "j" || key === "k") && route.value.page === "") {
    const names = filtered().map((service) => service.name);
    const at = names.indexOf(chosen.value);
    const next = names[Math.max(0, Math.min(names.length - 1, at + (key === "j" ? 1 : -1)))];
    if (next === undefined) return;
    done();
    chosen.value = next;
    const row = [...document.querySelectorAll<HTMLElement>("tr[data-name]")].find((one) => one.dataset["name"] === next);
    if (row) row.scrollIntoView({ block: "nearest" });
    else scrollBy(0, key === "j" ? 57 : -57);
  } else if (key === "Enter" && route.value.page === "" && chosen.value && target === document.body) {
    done();
    go(to.service(chosen.value));
  } else if (key === "Escape" && chosen.value) chosen.value = "";
});
