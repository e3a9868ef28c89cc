// What stays true while things break: the dashboard, the daemon, the network, and many tabs.

import assert from "node:assert/strict";
import { execFileSync, spawn } from "node:child_process";
import { chmodSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { bin, browser, closeBrowser, dashboard, fake, freePort, open, until } from "./harness.mjs";

const closing = [];
after(async () => {
  for (const close of closing.reverse()) await close();
  await closeBrowser();
});
const live = (page) => page.waitForSelector(".truth.live");
const notes = (page) => page.evaluate(() => [...document.querySelectorAll(".feed .text")].map((one) => one.textContent).filter((text) => text.startsWith("note ")));

test("a dashboard that is killed and started again: no event is missed, no page reloaded", async () => {
  const instance = await fake("ten");
  closing.push(instance.close);
  let served = await dashboard(instance.socket);
  closing.push(() => served.close());
  const { page, wrong, close } = await open(`${served.url}events`);
  await live(page);
  await page.evaluate(() => (window.same = true));
  for (const signal of ["SIGKILL", "SIGTERM"]) {
    await instance.play({ records: { count: 3 } });
    await until("three notes", async () => (await notes(page)).length % 33 === 3);
    served.child.kill(signal);
    await served.ended;
    await page.waitForSelector(".truth.reconnecting, .truth.stale");
    await instance.play({ records: { count: 30 } });
    served = await dashboard(instance.socket, { port: served.port });
    await live(page);
    await until("all of them", async () => (await notes(page)).length % 33 === 0);
  }
  const all = await notes(page);
  assert.equal(all.length, 66);
  assert.deepEqual(all.reverse().map((text) => Number(text.slice(5))), [0, 1, 2, ...Array(30).keys(), 0, 1, 2, ...Array(30).keys()]);
  assert.ok(await page.evaluate(() => window.same), "the page was not loaded again");
  assert.equal(await page.locator(".gap").count(), 0);
  assert.deepEqual(await wrong(), []);
  await close();
});

test("a daemon that goes away: the values are told to be old, and nothing can be done meanwhile", async () => {
  const instance = await fake("ten");
  const served = await dashboard(instance.socket);
  closing.push(instance.close, served.close);
  const { page, close } = await open(`${served.url}s/web#token=${served.tokens().operate}`);
  await live(page);
  assert.ok(await page.getByRole("button", { name: "Restart" }).isEnabled());
  await instance.play({ away: {} });
  await page.waitForSelector(".truth.stale");
  await page.getByText("the daemon does not answer; services run on").waitFor();
  assert.ok(await page.getByRole("button", { name: "Restart" }).isDisabled());
  await page.waitForSelector("body.stale");
  await instance.play({ back: {} });
  await live(page);
  await until("buttons again", () => page.getByRole("button", { name: "Restart" }).isEnabled());
  await page.goto(`${served.url}events`);
  await page.getByRole("heading", { name: "Events" }).waitFor();
  await close();
});

test("offline and back", async () => {
  const instance = await fake("ten");
  const served = await dashboard(instance.socket);
  closing.push(instance.close, served.close);
  const { page, context, close } = await open(`${served.url}events`);
  await live(page);
  // What Chromium calls offline does not break connections to this machine that are open: the way there is cut as well.
  await context.setOffline(true);
  served.child.kill("SIGSTOP");
  await instance.play({ records: { count: 7 } });
  served.child.kill("SIGCONT");
  await context.setOffline(false);
  await until("all seven", async () => (await notes(page)).length === 7);
  await live(page);
  await close();
});

test("nine tabs have one stream, and when the one that has it closes another one takes over", async () => {
  const instance = await fake("ten");
  const served = await dashboard(instance.socket);
  closing.push(instance.close, served.close);
  const context = await (await browser()).newContext();
  const tabs = [];
  for (let number = 0; number < 9; number++) {
    const tab = await open(`${served.url}events`, { context });
    tabs.push(tab);
    await live(tab.page);
  }
  const streams = () => tabs.at(-1).page.evaluate(async () => (await (await fetch("api/v1/me", { headers: { "X-Stayput": "1" } })).json()).clients);
  assert.equal(await streams(), 1);
  await instance.play({ records: { count: 5 } });
  for (const { page } of tabs) await until("five everywhere", async () => (await notes(page)).length === 5);
  await tabs.shift().close();
  await instance.play({ records: { count: 5 } });
  for (const { page } of tabs) await until("ten everywhere", async () => (await notes(page)).length === 10);
  await until("one stream", async () => (await streams()) === 1);
  for (const tab of tabs) assert.deepEqual(await tab.wrong(), []);
  await context.close();
});

test("fifty thousand lines: ten thousand are kept, and the page stays quick", async () => {
  const instance = await fake("ten");
  const served = await dashboard(instance.socket);
  closing.push(instance.close, served.close);
  const { page, wrong, close } = await open(`${served.url}logs?svc=web`);
  await page.waitForSelector(".l", { state: "attached" });
  await instance.play({ lines: { service: "web", count: 50_000, "per_second": 10_000, text: "INFO one of very many" } });
  await page.getByText("#49999").waitFor({ state: "attached", timeout: 60_000 });
  const kept = await page.locator(".l").count();
  assert.ok(kept <= 10_000 && kept > 9_000, `${kept}`);
  await page.getByText("earlier lines are not shown").waitFor();
  const frames = await page.evaluate(async () => {
    const box = document.querySelector(".tail");
    const times = [];
    let last = performance.now();
    for (let step = 0; step < 60; step++) {
      box.scrollTop = box.scrollHeight * (1 - step / 60);
      await new Promise((done) => requestAnimationFrame(done));
      const at = performance.now();
      times.push(at - last);
      last = at;
    }
    return times.sort((one, other) => one - other);
  });
  console.log(`# scrolling through ${kept} lines: median frame ${frames[30].toFixed(1)} ms, longest ${frames.at(-1).toFixed(1)} ms`);
  assert.ok(frames[30] < 50, "scrolling is smooth");
  await page.getByPlaceholder("Find…").fill("#49998");
  await until("found", () => page.evaluate(() => CSS.highlights.get("found")?.size === 1));
  assert.deepEqual(await wrong(), []);
  await close();
});

test("a dashboard that stayput keeps: a restart fails no request, a SIGKILL refuses none, and the page misses nothing", async () => {
  const instance = await fake("ten");
  const runtime = mkdtempSync(join(tmpdir(), "stayput-web-run-"));
  chmodSync(runtime, 0o700);
  const port = await freePort();
  // A service is told the control socket of its own instance; this one is to show another one.
  const env = { ...process.env, XDG_RUNTIME_DIR: runtime };
  const stayput = (...args) => execFileSync(bin("stayput"), args, { env, encoding: "utf8" });
  const options = ["run", "--name", "page", "--soak", "300ms", "--drain", "2s"];
  const kept = spawn(bin("stayput"), [...options, "--", "env", `STAYPUT_CONTROL=${instance.socket}`, bin("stayput"), "dashboard", "--listen", `127.0.0.1:${port}`], { env, stdio: "ignore" });
  closing.push(instance.close, () => kept.kill(), () => rmSync(runtime, { recursive: true, force: true }));
  const url = `http://127.0.0.1:${port}/`;
  const serving = () => {
    try {
      const [service] = JSON.parse(stayput("status", "--json")).services;
      return service.phase === "ready" && service.generations.find((one) => one.phase === "ready");
    } catch {
      return null;
    }
  };
  const first = await until("it serves", () => fetch(`${url}healthz`).then(() => serving(), () => null), 20_000);
  const { page, wrong, close } = await open(`${url}events`);
  await live(page);
  await page.evaluate(() => (window.same = true));
  // Fresh connections, one after the other, for as long as it takes.
  const failed = [];
  let asked = 0;
  let goes = true;
  const asking = (async () => {
    while (goes) {
      asked++;
      const error = await fetch(`${url}healthz`, { headers: { Connection: "close" } }).then((answer) => (answer.ok ? null : answer.status), (error) => error.cause?.code ?? String(error));
      if (error) failed.push(error);
      await new Promise((done) => setTimeout(done, 5));
    }
  })();
  await instance.play({ records: { count: 3 } });
  await until("three notes", async () => (await notes(page)).length === 3);
  stayput("restart", "page");
  await instance.play({ records: { count: 7 } });
  await until("ten notes after a restart", async () => (await notes(page)).length === 10);
  assert.deepEqual(failed, [], `a restart of the dashboard failed some of ${asked} requests`);
  const second = await until("the second one serves", serving);
  assert.notEqual(second.pid, first.pid);
  process.kill(second.pid, "SIGKILL");
  await instance.play({ records: { count: 20 } });
  await until("thirty notes after a kill", async () => (await notes(page)).length === 30, 20_000);
  await live(page);
  goes = false;
  await asking;
  // What it had accepted and not answered dies with it; nobody is refused.
  assert.ok(failed.length <= 1 && !failed.includes("ECONNREFUSED"), `${failed} of ${asked}`);
  assert.ok(await page.evaluate(() => window.same), "the page was not loaded again");
  assert.deepEqual(await wrong(), []);
  await close();
});
