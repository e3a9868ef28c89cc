// A real instance behind the page: `stayput up`, a server that knows nothing of restarts, and the dashboard that comes with it. What the page
// says is compared with what the command line says.

import assert from "node:assert/strict";
import { get } from "node:http";
import { createServer } from "node:net";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { closeBrowser, freePort, open, real, root, until } from "./harness.mjs";

let instance;
let url;
let site;
before(async () => {
  const [port, web] = [await freePort(), await freePort()];
  [url, site] = [`http://127.0.0.1:${port}/`, `http://127.0.0.1:${web}/`];
  instance = await real(`
dashboard = { listen = ${port} }
[service.web]
command = ["${process.execPath}", "${join(root, "web/test/app.mjs")}", "${web}"]
port = "127.0.0.1:${web}"
soak = "500ms"
drain = "20s"
`);
});
after(async () => {
  await closeBrowser();
  await instance?.close();
});
const live = (page) => page.waitForSelector(".truth.live");
const shown = (page) => page.evaluate(() => [...document.querySelectorAll(".feed li")].map((one) => one.id.slice(2)).reverse());

/** A connection that stays open until `end`. */
const hold = () =>
  new Promise((done, fail) => {
    const request = get(`${site}hold`, { agent: false }, (response) => response.once("data", () => done({ end: () => request.destroy() })));
    request.on("error", fail);
  });

/** Asks again and again on fresh connections; what failed is in the result of `stop`. */
function asking() {
  const failed = [];
  let asked = 0;
  let goes = true;
  const work = (async () => {
    while (goes) {
      asked++;
      const error = await fetch(`${url}healthz`, { headers: { Connection: "close" } }).then((answer) => (answer.ok ? null : answer.status), (error) => error.cause?.code ?? String(error));
      if (error) failed.push(error);
    }
  })();
  return { failed, count: () => asked, stop: async () => ((goes = false), await work, [asked, failed]) };
}

/** Remembers every word of the strip that says whether the page is true, and for how long it said so. */
const watchTruth = (page) =>
  page.evaluate(() => {
    window.same = true;
    window.truths = [];
    const strip = document.querySelector(".truth");
    let at = performance.now();
    let was = strip.className;
    new MutationObserver(() => {
      if (strip.className === was) return;
      window.truths.push([was.replace("truth ", ""), Math.round(performance.now() - at)]);
      [at, was] = [performance.now(), strip.className];
    }).observe(strip, { attributes: true, attributeFilter: ["class"] });
  });

test("a restart of a real service is watched from the press to its ledger, and the page says what the command line says", async () => {
  const { page, wrong, close } = await open((await instance.link()).replace("/#", "/s/web#"));
  await live(page);
  const kept = await hold();
  await page.getByRole("button", { name: "Restart" }).click();
  await page.getByRole("button", { name: /Confirm/ }).click();
  await page.locator("svg .bar-draining").waitFor({ state: "attached", timeout: 20_000 });
  await until("the old generation is shown with its connection", () => page.getByText("draining, 1 open").count(), 20_000);
  kept.end();
  await page.getByText("restart web: done").waitFor({ timeout: 20_000 });
  const { ledger } = await until("the old one is gone", async () => {
    const service = await instance.service("web");
    return service.generations.length === 1 && service.ledger?.outcome === "switched" && service;
  }, 20_000);
  assert.deepEqual([ledger.drained, ledger.cut, ledger.listener_gap], [1, 0, false]);
  await page.getByText(/1 drained · 0 cut/).first().waitFor();
  await page.getByRole("radio", { name: "Table" }).click();
  for (const step of ["requested", "started", "listening", "ready", "switched", "stop signal", "exited"]) {
    await page.locator(".twin").getByRole("cell", { name: step, exact: true }).first().waitFor();
  }
  assert.deepEqual(await wrong(), []);
  await close();
});

test("who did what is told: by the page and by the command line", async () => {
  const asked = async () => (await instance.events()).filter((event) => event.kind === "restart-requested" && event.service === "web");
  const [first] = await asked();
  assert.match(first.text, /^restart requested by dashboard: operator's token from 127\.0\.0\.1 \(pid \d+, uid \d+\)$/);
  assert.equal(first.data.pid, (await instance.service("dashboard")).generations[0].pid, "the kernel vouches for the dashboard's process");
  await instance.stayput("restart", "web");
  const { page, wrong, close } = await open(`${url}s/web`);
  await page.getByText(/^restart requested by stayput \(pid \d+, uid \d+\)/).first().waitFor();
  assert.match((await asked()).at(-1).text, /by stayput \(pid/);
  assert.deepEqual(await wrong(), []);
  await close();
});

test("the processes of a real service: its tree, its sockets, what it uses", async () => {
  const { page, wrong, close } = await open(`${url}s/web/processes`);
  const { pid } = (await instance.service("web")).generations[0];
  const row = page.locator(".processes tbody tr", { hasText: "app.mjs" });
  await row.waitFor();
  assert.equal(await row.locator("th").innerText(), String(pid));
  await row.getByText("main process").waitFor();
  await row.getByText(new URL(site).host).waitFor();
  const kept = await hold();
  await row.locator("td[data-label=connections]", { hasText: /^1$/ }).waitFor();
  kept.end();
  await row.locator("td[data-label=connections]", { hasText: /^0$/ }).waitFor();
  await row.locator("td[data-label=memory]", { hasText: /MB$/ }).waitFor();
  await row.locator("td[data-label=cpu]", { hasText: / %$/ }).waitFor();
  assert.deepEqual(await wrong(), []);
  await close();
});

test("values of the last hour come from the daemon, and the newest one is drawn", async () => {
  const history = async () => (await (await fetch(`${url}api/v1/history?services=web`, { headers: { "X-Stayput": "1" } })).json()).series[0];
  const { samples } = await until("two samples", async () => { const series = await history(); return series?.samples.length > 1 && series; }, 40_000);
  assert.ok(samples.at(-1).memory > 1e6 && samples.at(-1).connections !== null, JSON.stringify(samples.at(-1)));
  const { page, wrong, close } = await open(`${url}s/web`);
  await page.getByRole("heading", { name: "How it went" }).waitFor();
  await page.locator(".plot path").first().waitFor({ state: "attached" });
  await page.getByText("As a table").click();
  await page.getByRole("table", { name: "How it went" }).getByRole("row").nth(2).waitFor();
  assert.deepEqual(await wrong(), []);
  await close();
});

test("a port is held and let go from the page, and is so on this machine", async () => {
  const port = await freePort();
  const bound = () => new Promise((done) => {
    const server = createServer();
    server.once("error", (error) => done(error.code));
    server.listen(port, "127.0.0.1", () => server.close(() => done("free")));
  });
  assert.equal(await bound(), "free");
  const { page, wrong, close } = await open((await instance.link()).replace("/#", "/ports#"));
  await live(page);
  await page.getByLabel("Hold for").selectOption("web");
  await page.getByLabel("Port, or address:port").fill(`127.0.0.1:${port}`);
  await page.getByRole("button", { name: "Hold…" }).click();
  await page.getByRole("dialog").getByRole("button", { name: "Hold", exact: true }).click();
  await page.getByText(`hold web 127.0.0.1:${port}: done`).waitFor();
  assert.equal(await bound(), "EADDRINUSE");
  const row = page.locator("tr", { hasText: `127.0.0.1:${port}` });
  await row.getByRole("button", { name: "Let go…" }).click();
  await page.getByRole("dialog").getByRole("button", { name: "Let go" }).click();
  await page.getByText(`release web 127.0.0.1:${port}: done`).waitFor();
  assert.equal(await bound(), "free");
  await row.waitFor({ state: "detached" });
  assert.deepEqual(await wrong(), []);
  await close();
});

test("lines of a real service appear as they are written", async () => {
  const { page, wrong, close } = await open(`${url}s/web/logs`);
  await live(page);
  await page.getByText("INFO GET /hold").first().waitFor({ state: "attached" });
  for (let number = 0; number < 3; number++) {
    await fetch(`${site}live-${number}`);
    await page.getByText(`INFO GET /live-${number}`).waitFor({ state: "attached" });
  }
  assert.deepEqual(await wrong(), []);
  await close();
});

test("the dashboard is restarted and killed under an open page: nobody is refused, no event is missed, and it is never old", async () => {
  const { page, wrong, close } = await open(`${url}events`);
  await live(page);
  await watchTruth(page);
  const requests = asking();
  await instance.stayput("restart", "dashboard");
  assert.deepEqual(requests.failed, [], `a restart of the dashboard failed some of ${requests.count()} requests`);
  const second = await until("one generation again", async () => {
    const { generations } = await instance.service("dashboard");
    return generations.length === 1 && generations[0].phase === "ready" && generations[0];
  }, 20_000);
  assert.deepEqual(requests.failed, [], `the end of the old one failed some of ${requests.count()} requests`);
  await page.waitForFunction(() => window.truths.length >= 2);
  process.kill(second.pid, "SIGKILL");
  await instance.stayput("restart", "web");
  await until("another one serves", async () => {
    const { generations } = await instance.service("dashboard");
    return generations[0]?.phase === "ready" && generations[0].pid !== second.pid;
  }, 20_000);
  await live(page);
  const [asked, failed] = await requests.stop();
  // What it had accepted and not answered dies with it; nobody is refused.
  assert.ok(failed.length <= 1 && !failed.includes("ECONNREFUSED"), `${failed} of ${asked}`);
  const told = (await instance.events()).map((event) => event.cursor);
  await until("the page has the newest event", async () => (await shown(page)).includes(told.at(-1)));
  const all = await shown(page);
  assert.deepEqual(all.slice(0, told.length), told, "every event, once, in order");
  assert.equal(await page.locator(".gap").count(), 0);
  const truths = await page.evaluate(() => window.truths);
  const lost = truths.filter(([word]) => word !== "live");
  console.log(`# ${asked} requests, ${failed.length} lost with what was killed; the page said ${JSON.stringify(truths)} ms`);
  assert.ok(lost.length >= 2, "it was told both times that the stream broke");
  assert.ok(lost.every(([word, ms]) => word === "reconnecting" && ms < 3_000), JSON.stringify(truths));
  assert.ok(await page.evaluate(() => window.same), "the page was not loaded again");
  assert.deepEqual(await wrong(), []);
  await close();
});

test("an instance without a configuration shows how to add a service, and gets one", async () => {
  const bare = await real();
  try {
    const { page, wrong, close } = await open(await bare.link());
    await page.getByRole("heading", { name: "No service yet" }).waitFor();
    await page.getByText(bare.file, { exact: true }).first().waitFor();
    const example = await page.locator(".first pre").first().innerText();
    const port = await freePort();
    // What the page tells to write is what is written, on a port of this test.
    assert.match(example, /^\[service\.web\]\ncommand = ".*8000"/);
    bare.write(example.replace("8000", port));
    await page.getByRole("button", { name: "Reload…" }).click();
    await page.getByRole("dialog").getByText("it is new in the file").waitFor();
    await page.getByRole("button", { name: /Apply/ }).click();
    await page.getByText("reload: done").waitFor({ timeout: 20_000 });
    await page.locator("tr[data-name=web]").getByText("running").waitFor({ timeout: 20_000 });
    assert.ok((await fetch(`http://127.0.0.1:${port}/`)).ok);
    assert.equal(await page.getByRole("heading", { name: "No service yet" }).count(), 0);
    assert.deepEqual(await wrong(), []);
    await close();
  } finally {
    await bare.close();
  }
});
