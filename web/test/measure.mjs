// Measures what docs/DASHBOARD.md says: `node test/measure.mjs`. STAYPUT_BIN_DIR chooses the build.

import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { request } from "node:http";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import { closeBrowser, dashboard, fake, open, root, until } from "./harness.mjs";

const say = (name, value) => console.log(`${name.padEnd(58)} ${value}`);
const share = (all, part) => all.sort((one, other) => one - other)[Math.min(all.length - 1, Math.floor(all.length * part))];
const pss = (pid) => Number(/^Pss:\s+(\d+)/m.exec(readFileSync(`/proc/${pid}/smaps_rollup`, "utf8"))[1]) / 1024;
const anonymous = (pid) => Number(/^Anonymous:\s+(\d+)/m.exec(readFileSync(`/proc/${pid}/smaps_rollup`, "utf8"))[1]) / 1024;

const instance = await fake("ten");
const served = await dashboard(instance.socket);
say("JavaScript, gzipped, KB", (gzipSync(readFileSync(join(root, "crates/dashboard/assets/app.js")), { level: 9 }).length / 1024).toFixed(1));

const lcps = [];
const views = [];
for (let run = 0; run < 10; run++) {
  const { page, close } = await open("about:blank");
  await page.addInitScript(() => {
    new PerformanceObserver((list) => (window.lcp = list.getEntries().at(-1).startTime)).observe({ type: "largest-contentful-paint", buffered: true });
    new MutationObserver(() => {
      if (!window.rows && document.querySelector("tr[data-name]")) window.rows = performance.now();
    }).observe(document, { childList: true, subtree: true });
  });
  await page.goto(served.url);
  await page.locator("tr[data-name]").first().waitFor();
  await until("a paint", () => page.evaluate(() => window.lcp > 0 && window.rows > 0));
  lcps.push(await page.evaluate(() => window.lcp));
  views.push(await page.evaluate(() => window.rows));
  await close();
}
say("first rows with data, ms, median and worst of 10", `${share(views, 0.5).toFixed(0)}, ${share(views, 1).toFixed(0)}`);
say("largest contentful paint, ms, median and worst of 10", `${share(lcps, 0.5).toFixed(0)}, ${share(lcps, 1).toFixed(0)}`);

{
  const { page, close } = await open(`${served.url}events`);
  await page.waitForSelector(".truth.live");
  await page.evaluate(() => {
    window.seen = [];
    new MutationObserver((changes) => {
      const at = Date.now();
      for (const node of changes.flatMap((change) => [...change.addedNodes])) {
        const time = node.querySelector?.("time");
        if (time && node.textContent.includes("note ")) window.seen.push(at - new Date(time.dateTime).getTime());
      }
    }).observe(document.body, { childList: true, subtree: true });
  });
  for (let number = 1; number <= 200; number++) {
    await instance.play({ records: { count: 1 } });
    await until("it is there", () => page.evaluate((count) => window.seen.length >= count, number));
  }
  const seen = await page.evaluate(() => window.seen);
  say("from an event to the page, ms, median, p95, worst of 200", [0.5, 0.95, 1].map((part) => share(seen, part)).join(", "));
  await close();
}
{
  const { page, close } = await open(`${served.url}logs?svc=web`);
  await page.waitForSelector(".l", { state: "attached" });
  await page.evaluate(() => {
    window.tasks = [];
    new PerformanceObserver((list) => window.tasks.push(...list.getEntries().map((entry) => Math.round(entry.duration)))).observe({ type: "longtask" });
  });
  await instance.play({ lines: { service: "web", count: 5000, "per_second": 500 } });
  await page.getByText("#4999").waitFor({ state: "attached", timeout: 30_000 });
  say("tasks over 50 ms at 500 log lines/s for 10 s", JSON.stringify(await page.evaluate(() => window.tasks)));
  await close();
}
await closeBrowser();

const streams = [];
const stream = () =>
  new Promise((done, fail) => {
    const asked = request(`${served.url}api/v1/stream`, { headers: { "X-Stayput": "1" }, agent: false }, (response) => {
      let text = "";
      response.on("data", (chunk) => {
        text = text.slice(-2000) + chunk;
        if (text.includes('"full":true')) done(asked);
      });
      response.on("error", () => {});
    });
    asked.on("error", fail);
    asked.end();
    streams.push(asked);
  });
for (let number = 0; number < 10; number++) await stream();
say("memory with 10 clients: PSS and private, MB", `${pss(served.pid).toFixed(1)}, ${anonymous(served.pid).toFixed(1)}`);
for (let number = streams.length; number < 1000; number++) await stream();
const begun = Date.now();
await instance.play({ records: { count: 1 } });
const metrics = execFileSync("curl", ["-s", `${served.url}metrics`], { encoding: "utf8" });
say("clients that hold of 1000", /stayput_dashboard_streams (\d+)/.exec(metrics)[1]);
say("an answer beside them, ms", Date.now() - begun);
say("memory with 1000 clients: PSS and private, MB", `${pss(served.pid).toFixed(1)}, ${anonymous(served.pid).toFixed(1)}`);
for (const one of streams) one.destroy();
served.close();
instance.close();
