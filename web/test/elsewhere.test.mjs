// Somebody else's desk: behind a proxy, over TLS, in another time zone, with a wrong clock, without scripts, with a keyboard alone.

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { createServer, request } from "node:http";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { browser, closeBrowser, dashboard, fake, open, until } from "./harness.mjs";

let instance;
const closing = [];
before(async () => {
  instance = await fake("ten");
});
after(async () => {
  for (const close of closing.reverse()) await close();
  await closeBrowser();
  instance?.close();
});
const live = (page) => page.waitForSelector(".truth.live");
async function serve(options) {
  const served = await dashboard(instance.socket, options);
  closing.push(served.close);
  return served;
}

/** A reverse proxy that knows nothing of us: it mounts the dashboard below a path and says who asked. */
async function proxy(port, seen) {
  const server = createServer((asked, answer) => {
    seen.push(asked.url);
    if (!asked.url.startsWith("/ops/")) return answer.writeHead(404).end();
    const headers = { ...asked.headers, "x-forwarded-for": "192.0.2.7", "x-forwarded-proto": "http" };
    const passed = request({ port, host: "127.0.0.1", path: asked.url, method: asked.method, headers }, (response) => {
      answer.writeHead(response.statusCode, response.headers);
      response.pipe(answer);
    });
    passed.on("error", () => answer.destroy());
    answer.on("close", () => passed.destroy());
    asked.pipe(passed);
  });
  await new Promise((done) => server.listen(0, "127.0.0.1", done));
  closing.push(() => (server.closeAllConnections(), server.close()));
  return `http://127.0.0.1:${server.address().port}/ops/`;
}

test("behind a reverse proxy below a path: every page, an action, and nothing asked for beside the path", async () => {
  const served = await serve({ args: ["--base-path", "/ops"] });
  const seen = [];
  const url = await proxy(served.port, seen);
  const { page, context, wrong, close } = await open(url);
  // Through a proxy nobody is the same user.
  await page.getByRole("heading", { name: "This page needs its link" }).waitFor();
  await page.goto(`${url}s/web#token=${served.tokens().operate}`);
  await page.reload();
  await live(page);
  assert.equal(page.url(), `${url}s/web`);
  for (const [link, path] of [["Ports", "ports"], ["Events", "events"], ["Logs", "logs"], ["About", "about"], ["Overview", ""]]) {
    await page.getByRole("navigation", { name: "Pages" }).getByRole("link", { name: link }).click();
    assert.equal(page.url(), url + path);
    await page.waitForSelector("main > *:not(.skeleton)");
  }
  await page.goto(`${url}s/web/logs`);
  await page.waitForSelector(".l", { state: "attached" });
  await page.goto(`${url}s/auth`);
  await live(page);
  await page.getByRole("button", { name: "Restart", exact: true }).click();
  await page.getByRole("button", { name: /^Confirm/ }).click();
  await page.getByText("restart auth: done").waitFor();
  await page.goto(`${url}about`);
  for (const link of ["the API's description", "licences"]) {
    const address = await page.getByRole("link", { name: link }).evaluate((one) => one.href);
    assert.equal((await context.request.get(address)).status(), 200, address);
  }
  assert.deepEqual(seen.filter((path) => !path.startsWith("/ops/") && path !== "/favicon.ico"), []);
  assert.deepEqual(await wrong(), []);
  await close();
});

test("over TLS", async () => {
  const [cert, key] = ["cert.pem", "key.pem"].map((name) => join(instance.directory, name));
  execFileSync("openssl", ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "1", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-keyout", key, "-out", cert], { stdio: "ignore" });
  const served = await serve({ args: ["--tls-cert", cert, "--tls-key", key] });
  const context = await (await browser()).newContext({ ignoreHTTPSErrors: true });
  const { page, wrong } = await open(`https://localhost:${served.port}/s/web#token=${served.tokens().operate}`, { context });
  await live(page);
  await until("it may act", () => page.getByRole("button", { name: "Restart", exact: true }).isEnabled());
  assert.deepEqual(await wrong(), []);
  await context.close();
});

test("the link that only looks: everything is there, and nothing can be done", async () => {
  const served = await serve({ args: ["--always-token"] });
  const { page, wrong, close } = await open(`${served.url}#token=${served.tokens().view}`);
  await live(page);
  await page.locator("tr[data-name]").first().waitFor();
  for (const path of ["", "s/web", "ports"]) {
    await page.goto(served.url + path);
    await live(page);
    await page.waitForSelector("main > *:not(.skeleton)");
    const buttons = page.getByRole("main").getByRole("button", { name: /Restart|Share…|Roll back|Stop…|Let go…|Hold…/ });
    assert.ok((await buttons.count()) > 0);
    for (const button of await buttons.all()) assert.ok(await button.isDisabled(), `${path}: ${await button.textContent()}`);
  }
  assert.deepEqual(await wrong(), []);
  await close();
});

test("a browser elsewhere, whose clock is wrong by hours: its zone, the instance's time, and no value that is older than it is", async () => {
  const served = await serve({});
  const zone = "Asia/Kathmandu";
  const context = await (await browser()).newContext({ timezoneId: zone });
  await context.addInitScript(() => {
    const right = Date.now.bind(Date);
    Date.now = () => right() - 5.5 * 3_600_000;
  });
  const { page, wrong } = await open(`${served.url}events`, { context });
  await live(page);
  const at = await page.locator(".feed time").first().getAttribute("datetime");
  const there = (utc) => new Intl.DateTimeFormat("en-GB", { timeZone: utc ? "UTC" : zone, hour: "2-digit", minute: "2-digit", second: "2-digit" }).format(new Date(at));
  const shown = () => page.locator(".feed time").first().textContent();
  // A day that changes between the two is no mistake.
  assert.equal((await shown()).split(" ").at(-1), there(false));
  const day = (ms) => new Intl.DateTimeFormat("en-CA", { timeZone: zone }).format(new Date(ms));
  if (day(at) === day(Date.now())) assert.equal(await shown(), there(false), "what happened today needs no date, whatever day the browser has");
  await page.goto(`${served.url}about`);
  await page.getByText(/by the clock of .*; this browser's is 5 h behind/).waitFor();
  await page.getByRole("radio", { name: "UTC" }).click();
  await page.getByText(/^UTC, by the clock of/).waitFor();
  await page.goto(`${served.url}events`);
  await until("in UTC", async () => (await shown()).endsWith(there(true)));
  await page.goto(`${served.url}s/web`);
  await live(page);
  await until("fresh evidence", async () => (await page.locator(".facts .source").first().textContent()).match(/just now|\b\d s ago/));
  served.child.kill("SIGKILL");
  await page.waitForSelector(".truth.stale");
  const [, stale] = (await page.locator(".truth").textContent()).match(/Stale since (\d\d:\d\d:\d\d)/);
  const seconds = (text) => text.split(":").reduce((sum, part) => sum * 60 + Number(part), 0);
  const off = Math.abs(seconds(stale) - seconds(new Date().toISOString().slice(11, 19)));
  assert.ok(Math.min(off, 86_400 - off) < 60, `${stale} is the instance's time`);
  assert.deepEqual(await wrong(), []);
  await context.close();
});

test("without scripts there is a way to a page that needs none", async () => {
  const served = await serve({});
  const context = await (await browser()).newContext({ javaScriptEnabled: false });
  const page = await context.newPage();
  await page.goto(served.url);
  await page.getByRole("link", { name: "The state as a plain page" }).click();
  await page.getByRole("row", { name: /^mail looping/ }).waitFor();
  assert.equal(await page.getByRole("row").count(), 12);
  await page.getByRole("listitem").filter({ hasText: /mail\s+! generation 11 exited with status 1/ }).waitFor();
  await context.close();
});

test("with the keyboard alone: a restart, from the address to the ledger", async () => {
  const served = await serve({});
  const { page, wrong, close } = await open(`${served.url}#token=${served.tokens().operate}`);
  await live(page);
  await page.keyboard.press("Tab");
  assert.equal(await page.evaluate(() => document.activeElement.textContent), "To the content");
  await page.keyboard.press("Enter");
  assert.equal(await page.evaluate(() => document.activeElement.id), "main");
  const focus = async (name) => {
    for (let steps = 0; steps < 80; steps++) {
      await page.keyboard.press("Tab");
      if ((await page.evaluate(() => document.activeElement.textContent.trim())) === name) return;
    }
    throw new Error(`no way to ${name} by Tab`);
  };
  await focus("web");
  await page.keyboard.press("Enter");
  await page.getByRole("heading", { name: "web", exact: true }).waitFor();
  await focus("Stop…");
  await page.keyboard.press("Enter");
  await until("the dialog has the focus, on what does nothing", () => page.evaluate(() => document.activeElement.textContent.trim() === "Cancel"));
  await page.keyboard.press("Escape");
  await until("and gives it back", () => page.evaluate(() => document.activeElement.textContent.trim() === "Stop…"));
  await page.keyboard.press("Shift+Tab");
  await page.keyboard.press("r");
  await page.keyboard.press("r");
  await page.getByText("restart web: done").waitFor();
  await page.getByText(/12 drained · 0 cut/).first().waitFor();
  assert.deepEqual(await wrong(), []);
  await close();
});
