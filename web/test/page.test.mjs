// Every page and every action, in a real browser against a scripted instance.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { after, test } from "node:test";
import { browser, closeBrowser, dashboard, fake, open, SIZES, until } from "./harness.mjs";

const AXE = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const closing = [];
after(async () => {
  for (const close of closing.reverse()) await close();
  await closeBrowser();
});

async function serve(scene, options) {
  const instance = await fake(scene);
  const served = await dashboard(instance.socket, options);
  closing.push(instance.close, served.close);
  return { instance, served };
}
const live = (page) => page.waitForSelector(".truth.live");
const { instance, served } = await serve("ten");

/** It fits into its window, and nobody is kept out. */
async function isSound(page, path) {
  const width = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
  assert.ok(width <= 0, `${path} is ${width} px too wide`);
  await page.evaluate(AXE);
  const found = await page.evaluate(async () => (await axe.run(document, { runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"] })).violations);
  const serious = found.filter((one) => ["serious", "critical"].includes(one.impact));
  assert.deepEqual(serious.map((one) => `${path}: ${one.id}: ${one.nodes.map((node) => node.html.slice(0, 120)).slice(0, 3).join(" | ")}`), []);
}

test("the page opens without a token for its own user, and looks", async () => {
  const { page, wrong, close } = await open(served.url);
  await live(page);
  await page.getByRole("heading", { name: "3 services need attention" }).waitFor();
  assert.equal(await page.locator("tr[data-name]").count(), 11);
  await page.goto(`${served.url}s/web`);
  await page.getByRole("heading", { name: "web", exact: true }).waitFor();
  const restart = page.getByRole("button", { name: "Restart" });
  assert.ok(await restart.isDisabled(), "who only looks has no way to act");
  assert.match(await restart.getAttribute("title"), /dashboard --link/);
  assert.deepEqual(await wrong(), []);
  await close();
});

test("the token goes from the address into the tab, and on to the next tab", async () => {
  const context = await (await browser()).newContext();
  const first = await open(served.link(), { context });
  await live(first.page);
  assert.equal(first.page.url(), served.url, "it does not stay in the address");
  assert.deepEqual(await context.cookies(), [], "and is no cookie");
  assert.equal(await first.page.evaluate(() => JSON.stringify(localStorage)).then((text) => text.includes("token")), false);
  const second = await open(`${served.url}about`, { context });
  await second.page.getByText("look and act").waitFor();
  await context.close();
});

test("without the right to look there is a way in, and no data", async () => {
  const { instance, served } = await serve("ten", { args: ["--always-token"] });
  const { page, wrong, close } = await open(served.url);
  await page.getByRole("heading", { name: "This page needs its link" }).waitFor();
  assert.equal(await page.locator("tr[data-name]").count(), 0);
  await page.getByLabel("Link or token").fill(`${served.url}#token=${served.tokens().view}`);
  await page.getByRole("button", { name: "Use it" }).click();
  await live(page);
  await page.locator("tr[data-name]").first().waitFor();
  assert.deepEqual(await wrong(), []);
  await close();
  void instance;
});

test("each page has an address, and shows itself on both sizes in both themes without serious findings", async (t) => {
  const pages = ["", "s/web", "s/mail", "s/web/logs", "s/web/processes", "s/web/config", "s/web/r/8", "ports", "events", "logs", "about", "s/nobody", "nowhere"];
  for (const [name, size] of Object.entries(SIZES)) {
    for (const scheme of ["light", "dark"]) {
      await t.test(`${name}, ${scheme}`, async () => {
        const { page, wrong, close } = await open(served.link(), { size, scheme });
        await live(page);
        for (const path of pages) {
          await page.evaluate((path) => {
            const link = document.createElement("a");
            link.href = path || ".";
            document.body.append(link);
            link.click();
            link.remove();
          }, path);
          await page.waitForSelector("main > *:not(.skeleton)");
          if (path.endsWith("logs")) await page.waitForSelector(".l", { state: "attached" });
          await until("no skeleton", async () => !(await page.locator(".skeleton").count()));
          await isSound(page, path);
        }
        assert.deepEqual(await wrong(), []);
        await close();
      });
    }
  }
});

test("a restart is watched from the second press to its ledger", async () => {
  const { page, wrong, close } = await open(`${served.url}s/api#token=${served.tokens().operate}`);
  await live(page);
  await page.getByRole("button", { name: "Restart" }).click();
  const confirm = page.getByRole("button", { name: "Confirm: 138 connections will drain" });
  await confirm.waitFor();
  assert.equal((await instance.play({ requests: {} })).length, 0, "the first press changes nothing");
  await confirm.click();
  await page.getByRole("heading", { name: "Restart 3 → 4" }).waitFor();
  await page.getByText("under way").waitFor();
  await page.locator("svg .bar-draining").waitFor({ state: "attached" });
  await page.getByText("Listener gap 0 ms · 0 refused · 12 drained · 0 cut", { exact: true }).waitFor();
  await page.getByText("restart api: done").waitFor();
  await page.getByRole("radio", { name: "Table" }).click();
  for (const step of ["requested", "started", "listening", "ready", "switched", "stop signal", "exited"]) {
    await page.locator(".twin").getByRole("cell", { name: step, exact: true }).waitFor();
  }
  await page.getByRole("link", { name: "Link" }).click();
  assert.equal(new URL(page.url()).pathname, "/s/api/r/4");
  await page.reload();
  await page.getByText("12 drained").waitFor();
  assert.deepEqual(await wrong(), []);
  await close();
});

test("what cannot be taken back asks first, and names what it costs", async () => {
  const { page, wrong, close } = await open(`${served.url}s/web#token=${served.tokens().operate}`);
  await live(page);
  const before = (await instance.play({ requests: {} })).length;
  await page.getByRole("button", { name: "Stop…" }).click();
  const dialog = page.getByRole("dialog");
  await dialog.getByText("214 open connections will be cut").waitFor();
  await dialog.getByText("127.0.0.1:8080").waitFor();
  await dialog.getByRole("button", { name: "Cancel" }).click();
  assert.equal((await instance.play({ requests: {} })).length, before);
  await page.goto(`${served.url}ports`);
  await page.getByRole("button", { name: "Let go…" }).click();
  await dialog.getByText("3 connections that wait there will be refused").waitFor();
  await dialog.getByRole("button", { name: "Let go" }).click();
  await page.getByText("127.0.0.1:2525: done").waitFor();
  assert.deepEqual((await instance.play({ requests: {} })).at(-1), { release: { service: "mail", address: "127.0.0.1:2525" } });
  await page.getByLabel("Hold for").selectOption("legacy");
  await page.getByLabel("Port, or address:port").fill("127.0.0.1:8099");
  await page.getByRole("button", { name: "Hold…" }).click();
  await dialog.getByRole("button", { name: "Hold", exact: true }).click();
  await page.getByText("hold legacy 127.0.0.1:8099: done").waitFor();
  await page.goto(`${served.url}s/auth`);
  await live(page);
  await page.getByRole("button", { name: "Stop…" }).click();
  await dialog.getByRole("button", { name: "Stop auth" }).click();
  await page.getByText("stop auth: done").waitFor();
  await page.locator("h1 + .badge").getByText("stopped").waitFor();
  await page.getByRole("button", { name: "Start" }).click();
  await page.getByRole("button", { name: "Confirm: start auth" }).click();
  await page.locator("h1 + .badge").getByText("running").waitFor();
  await page.getByRole("button", { name: "Roll back" }).waitFor({ state: "detached" });
  assert.deepEqual(await wrong(), []);
  await close();
});

test("a reload shows its plan first", async () => {
  const { page, close } = await open(served.link());
  await live(page);
  await page.getByRole("button", { name: "Reload…" }).click();
  const dialog = page.getByRole("dialog");
  await dialog.getByText("python3 -m api --port 9000 --workers 4").waitFor();
  await dialog.getByText("values of the environment are not shown").waitFor();
  await dialog.getByRole("button", { name: "Apply 4 changes" }).click();
  await page.getByText("reload: done").waitFor();
  await page.getByRole("button", { name: "Reload…" }).click();
  await dialog.getByText("Nothing would change").waitFor();
  await close();
});

test("a refusal is said, with what to do", async () => {
  const { page, close } = await open(`${served.url}s/web#token=${served.tokens().view}`);
  await live(page);
  const status = await page.evaluate(async () => {
    const response = await fetch("api/v1/services/web/restart", { method: "POST", body: "{}", headers: { "Content-Type": "application/json", "X-Stayput": "1", Authorization: `Bearer ${sessionStorage.getItem("stayput-token")}` } });
    return [response.status, (await response.json()).error.kind];
  });
  assert.deepEqual(status, [403, "view-only"]);
  await close();
});

test("read-only hides nothing and does nothing", async () => {
  const { served } = await serve("ten", { args: ["--read-only"] });
  const { page, close } = await open(`${served.url}s/web#token=${served.tokens().operate}`);
  await live(page);
  await page.getByText("read-only").waitFor();
  assert.ok(await page.getByRole("button", { name: "Restart" }).isDisabled());
  await close();
});

test("the keyboard reaches everything", async () => {
  const { page, close } = await open(served.link());
  await live(page);
  await page.keyboard.press("/");
  assert.equal(await page.evaluate(() => document.activeElement?.getAttribute("type")), "search");
  await page.keyboard.type("mai");
  await until("one row", async () => (await page.locator("tr[data-name]").count()) === 1);
  await page.keyboard.press("Escape");
  await page.getByRole("searchbox").fill("");
  await page.getByRole("searchbox").blur();
  for (const [keys, path] of [["gp", "/ports"], ["ge", "/events"], ["gl", "/logs"], ["?", "/about"], ["go", "/"]]) {
    for (const key of keys) await page.keyboard.press(key);
    assert.equal(new URL(page.url()).pathname, path, keys);
  }
  await page.evaluate(() => document.activeElement?.blur());
  await page.keyboard.press("j");
  await page.keyboard.press("j");
  await page.locator("tr.chosen[data-name=auth]").waitFor();
  await page.keyboard.press("Enter");
  await page.getByRole("heading", { name: "auth", exact: true }).waitFor();
  await page.keyboard.press("r");
  await page.getByRole("button", { name: /Confirm/ }).waitFor();
  await close();
});

test("logs: find, filter, streams, pause, the run before, a time, a file", async () => {
  const { page, wrong, close } = await open(`${served.url}logs?svc=web,api`);
  await page.waitForSelector(".l", { state: "attached" });
  assert.deepEqual(await page.evaluate(() => [...new Set([...document.querySelectorAll(".l .s")].map((one) => one.textContent))].sort()), ["api", "web"]);
  assert.ok(await page.locator(".l .f2").count(), "colours stay");
  await page.getByPlaceholder("Find…").fill("checkout");
  await until("marks", () => page.evaluate(() => CSS.highlights.get("found")?.size > 3));
  await page.getByRole("button", { name: "Only these" }).click();
  await until("only those", () => page.evaluate(() => { const all = [...document.querySelectorAll(".l .x")]; return all.length > 3 && all.every((one) => one.textContent.includes("checkout")); }));
  await page.getByRole("button", { name: /Only “checkout”/ }).click();
  await page.getByPlaceholder("Find…").fill("");
  await page.getByRole("radio", { name: "stderr" }).click();
  await until("only stderr", () => page.evaluate(() => { const all = [...document.querySelectorAll(".l")]; return all.length > 3 && all.every((one) => one.classList.contains("err")); }));
  await page.getByRole("radio", { name: "Both" }).click();
  await page.getByRole("radio", { name: "Warnings" }).click();
  await until("no other lines in sight", () => page.evaluate(() => { const all = [...document.querySelectorAll(".l")].filter((one) => one.checkVisibility()); return all.length > 3 && all.every((one) => one.matches(".error, .warn")); }));
  await page.getByRole("radio", { name: "All levels" }).click();
  await page.getByRole("spinbutton").fill("7");
  await page.getByRole("spinbutton").blur();
  await until("one generation", () => page.evaluate(() => { const all = [...document.querySelectorAll(".l .g")]; return all.length > 3 && all.every((one) => one.textContent === "7"); }));
  await page.getByRole("spinbutton").fill("");
  await page.getByRole("spinbutton").blur();
  // What comes while it is paused is not shown.
  await until("all generations again", () => page.evaluate(() => new Set([...document.querySelectorAll(".l .g")].map((one) => one.textContent)).size > 1));
  await page.getByRole("button", { name: "Pause" }).click();
  const count = () => page.locator(".l").count();
  const before = await count();
  await instance.play({ lines: { service: "web", count: 5, "per_second": 100, text: "while paused" } });
  await page.getByRole("button", { name: "Go on (5 new)" }).click();
  await page.getByText("while paused #4").waitFor();
  assert.equal(await count(), before + 5);
  await page.goto(`${served.url}s/web/logs?previous=1`);
  await page.waitForSelector(".l", { state: "attached" });
  assert.deepEqual(await page.evaluate(() => [...new Set([...document.querySelectorAll(".l .g")].map((one) => one.textContent))]), ["7"]);
  const at = await page.evaluate(() => document.querySelectorAll(".l")[20].dataset.t);
  await page.goto(`${served.url}s/web/logs?at=${at}`);
  await page.waitForSelector(".l.here");
  assert.equal(await page.locator(".l.here").getAttribute("data-t"), at);
  const [download] = await Promise.all([page.waitForEvent("download"), page.getByRole("button", { name: "Download" }).click()]);
  assert.equal(download.suggestedFilename(), "web.log");
  assert.match(readFileSync(await download.path(), "utf8"), /^\d{4}-\d\d-\d\dT[\d:.]+Z web 7 out /m);
  assert.deepEqual(await wrong(), []);
  await close();
});

test("follow stops when one scrolls up, and goes on at the end", async () => {
  const { page, close } = await open(`${served.url}logs?svc=web`);
  await page.waitForSelector(".l", { state: "attached" });
  const distance = () => page.evaluate(() => { const box = document.querySelector(".tail"); return box.scrollHeight - box.scrollTop - box.clientHeight; });
  await until("at the end", async () => (await distance()) < 5);
  await page.evaluate(() => (document.querySelector(".tail").scrollTop = 200));
  const button = page.getByRole("button", { name: "Follow the end" });
  await button.waitFor();
  await instance.play({ lines: { service: "web", count: 20, "per_second": 1000 } });
  await page.getByText("#19").waitFor({ state: "attached" });
  assert.ok((await distance()) > 100, "the place is kept");
  await page.keyboard.press("f");
  await until("at the end again", async () => (await distance()) < 5);
  await close();
});

test("hostile names, texts and lines stay text", async () => {
  const { served } = await serve("hostile");
  for (const path of ["", "s/__proto__", "s/constructor", "ports", "events", "logs", "about", `s/${encodeURIComponent("../../etc/passwd?#%00")}`]) {
    const { page, wrong, close } = await open(`${served.url}${path}#token=${served.tokens().operate}`);
    await live(page);
    await page.waitForSelector("main > *:not(.skeleton)");
    if (path === "logs") {
      await page.waitForSelector(".l", { state: "attached" });
      assert.equal(await page.locator(".tail a").count(), 0, "no link out of a line");
      await page.getByPlaceholder("Find…").fill("<img");
      await until("marks", () => page.evaluate(() => CSS.highlights.get("found")?.size > 3));
    }
    if (path === "") {
      await page.locator("tr[data-name] th a").last().click();
      await page.waitForSelector("h1");
      for (const tab of ["Log", "Processes", "Config", "Timeline"]) await page.getByRole("link", { name: tab, exact: true }).last().click();
    }
    assert.deepEqual(await page.evaluate(() => [document.querySelectorAll("main img, main script, main iframe, [onerror]").length, [...document.querySelectorAll("a")].filter((a) => !/^https?:/.test(a.href)).length]), [0, 0]);
    assert.deepEqual(await wrong(), [], path);
    await close();
  }
});

test("a thousand services: few rows, all of them found", async () => {
  const { instance, served } = await serve("thousand");
  const { page, wrong, close } = await open(served.url);
  await page.locator("tr[data-name]").first().waitFor();
  assert.ok((await page.locator("tr[data-name]").count()) < 80);
  assert.equal(await page.locator("table.grid").getAttribute("aria-rowcount"), "1001");
  await page.evaluate(() => scrollTo(0, document.body.scrollHeight * 0.6));
  await until("rows of the middle", () => page.evaluate(() => [...document.querySelectorAll("tr[data-name]")].some((row) => row.dataset.name > "svc-0500")));
  await page.evaluate(() => scrollTo(0, 0));
  await page.getByRole("searchbox").fill("svc-0777");
  await page.locator("tr[data-name=svc-0777]").waitFor();
  await page.getByRole("searchbox").fill("");
  await page.evaluate(() => {
    window.tasks = [];
    new PerformanceObserver((list) => window.tasks.push(...list.getEntries().map((entry) => Math.round(entry.duration)))).observe({ type: "longtask" });
  });
  await instance.play({ touch: {} });
  await until("the change", () => page.evaluate(() => document.querySelector("tr[data-name] .detail")?.textContent?.endsWith(".")));
  console.log(`# a change of all thousand: long tasks ${JSON.stringify(await page.evaluate(() => window.tasks))} ms`);
  assert.deepEqual(await wrong(), []);
  await close();
});

test("an instance without services says how to get one", async () => {
  const { served } = await serve("empty");
  for (const size of Object.values(SIZES)) {
    for (const scheme of ["light", "dark"]) {
      const { page, wrong, close } = await open(served.url, { size, scheme });
      await page.getByRole("heading", { name: "No service yet" }).waitFor();
      await isSound(page, "first");
      await page.getByText("/srv/shop/stayput.toml").waitFor();
      await page.getByRole("radio", { name: "One after the other" }).click();
      await page.getByText('after = ["db"]').waitFor();
      await page.getByText("stayput reload shop").waitFor();
      await page.getByText("stayput dashboard --link").waitFor();
      await isSound(page, "first");
      for (const path of ["ports", "events", "logs"]) {
        await page.goto(served.url + path);
        await live(page);
        await isSound(page, path);
      }
      assert.deepEqual(await wrong(), []);
      await close();
    }
  }
});

test("charts: lines, a gap where nothing was measured, the same as a table, and nothing at all", async () => {
  const { page, wrong, close } = await open(`${served.url}s/web`);
  await page.locator(".plot path").first().waitFor({ state: "attached" });
  assert.deepEqual(await page.locator(".plot figcaption").evaluateAll((all) => all.map((one) => one.firstChild.textContent)), ["Connections", "Memory", "CPU", "Restarts so far"]);
  assert.equal(await page.locator(".plot").first().locator("rect.hole").count(), 1, "the samples in which connections were not measured");
  assert.equal(await page.locator(".plot rect.hole").count(), 1, "and nowhere else");
  const starts = await page.locator(".plot").first().locator(".line-1 path:not(.area)").getAttribute("d");
  assert.equal(starts.match(/M/g).length, 2, "no line across the gap");
  await page.getByText("As a table").focus();
  await page.keyboard.press("Enter");
  const table = page.getByRole("table", { name: "How it went" });
  assert.ok((await table.getByRole("row").count()) > 10);
  await page.getByRole("radio", { name: "Last day" }).click();
  await until("the requests of a day", () => page.evaluate(() => performance.getEntriesByType("resource").some((one) => one.name.includes("range=day"))));
  await page.goto(`${served.url}s/mail`);
  await page.getByText("not measured in this time").first().waitFor();
  assert.equal(await page.getByText("not measured in this time").count(), 2, "memory and CPU of what does not run");
  assert.deepEqual(await wrong(), []);
  await close();
});

test("processes: a tree, and what could not be read is said to be so", async () => {
  const { page, wrong, close } = await open(`${served.url}s/web/processes`);
  await page.locator(".processes tbody tr").first().waitFor();
  const rows = await page.locator(".processes tbody th").allInnerTexts();
  assert.equal(rows.length, 4);
  assert.deepEqual(await page.locator(".processes tbody tr").evaluateAll((all) => all.map((row) => [row.querySelector("th").className, row.querySelector("small").textContent.split(",")[0]])), [
    ["number", "main process"],
    ...Array(3).fill(["number child", `child of ${rows[0]}`]),
  ]);
  await page.getByText("4 processes in all").waitFor();
  await page.goto(`${served.url}s/mail/processes`);
  await page.getByText("No process of it lives", { exact: true }).waitFor();
  assert.deepEqual(await wrong(), []);
  await close();
});

test("who wants less motion gets none", async () => {
  const { page, close } = await open(served.url, { reducedMotion: "reduce" });
  await live(page);
  assert.equal(await page.evaluate(() => document.getAnimations().length), 0);
  await close();
});
