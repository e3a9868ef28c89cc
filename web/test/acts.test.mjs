// What can be done, beyond one press: a share first, all services, and what the page says about what is not as it was asked for.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { closeBrowser, dashboard, fake, open, until } from "./harness.mjs";

let instance;
let served;
before(async () => {
  instance = await fake("ten");
  served = await dashboard(instance.socket);
});
after(async () => {
  await closeBrowser();
  served?.close();
  instance?.close();
});
const live = (page) => page.waitForSelector(".truth.live");
const last = async () => (await instance.play({ requests: {} })).at(-1);
const at = (path) => `${served.url}${path}#token=${served.tokens().operate}`;
/** So many frames are drawn. */
const frames = (page, count) => page.evaluate(async (count) => { for (; count; count--) await new Promise((done) => requestAnimationFrame(done)); }, count);

test("a share first, and then all: the page shows it, asks, and decides", async () => {
  const { page, wrong, close } = await open(at("s/api"));
  await live(page);
  await page.getByRole("button", { name: "Share…" }).click();
  const dialog = page.getByRole("dialog");
  await dialog.getByRole("radio", { name: "10 %" }).click();
  await dialog.getByRole("radio", { name: "until I decide" }).click();
  await dialog.getByText("until you give it all of them, or none").waitFor();
  await dialog.getByRole("button", { name: "Start it" }).click();
  const decision = page.getByRole("region", { name: "A generation with a share" });
  await decision.getByText("Generation 4 has 10 % of the new connections, generation 3 the rest. It stays so until somebody decides.").waitFor();
  assert.deepEqual(await last(), { restart: { services: ["api"], wait: true, parallel: null, canary: { permille: 100, for_ms: null } } });
  await page.locator("svg .bar-share").waitFor({ state: "attached" });
  await page.getByText("10 % for").waitFor();
  // Elsewhere it is said, too.
  await page.getByRole("link", { name: "stayput: overview" }).click();
  await page.getByText("generation 4 has 10 % of the new connections and waits for a decision").waitFor();
  await page.goBack();
  await decision.getByRole("button", { name: "Give it all" }).click();
  await decision.getByRole("button", { name: "Confirm: all new connections to generation 4" }).click();
  await decision.waitFor({ state: "detached" });
  await page.getByText("decide api: done").waitFor();
  assert.deepEqual(await last(), { decide: { service: "api", switch: true } });
  await page.locator(".restart .badge").getByText("switched").waitFor();
  assert.deepEqual(await wrong(), []);
  await close();
});

test("a share that is taken back: the old generation goes on, and the lanes stand still", async () => {
  const { page, wrong, close } = await open(at("s/db"));
  await live(page);
  await page.getByRole("button", { name: "Share…" }).click();
  await page.getByRole("dialog").getByRole("radio", { name: "1 minute" }).click();
  await page.getByRole("dialog").getByRole("button", { name: "Start it" }).click();
  const decision = page.getByRole("region", { name: "A generation with a share" });
  await decision.getByText(/It gets all of them in \d+ s/).waitFor();
  await decision.getByRole("button", { name: "Take it back" }).click();
  await decision.getByRole("button", { name: "Confirm: none to generation 2; it finishes what it has" }).click();
  await page.locator(".restart .badge").getByText("rolled back").waitFor();
  await page.getByText("it was called off").first().waitFor();
  const lanes = () => page.locator(".lanes svg").innerHTML();
  const still = await lanes();
  await frames(page, 20);
  assert.equal(await lanes(), still, "it is over");
  assert.deepEqual(await wrong(), []);
  await close();
});

test("a version that never became ready: the old one goes on, and the page says what the new one wrote last", async () => {
  const { page, wrong, close } = await open(at("s/web"));
  await live(page);
  assert.equal(await instance.play({ fail: { service: "web" } }), true);
  await page.locator(".restart .badge").getByText("never ready").waitFor();
  await page.getByRole("heading", { name: "What generation 9 wrote last" }).waitFor();
  await page.locator(".restart .few").getByText("ImportError: no module named jwt").waitFor();
  await page.getByText("its main process exited with status 1", { exact: true }).waitFor();
  const lanes = () => page.locator(".lanes svg").innerHTML();
  const still = await lanes();
  await frames(page, 20);
  assert.equal(await lanes(), still, "it is over");
  await page.goto(`${served.url}s/mail`);
  await page.getByRole("heading", { name: "What it wrote last" }).waitFor();
  await page.locator(".few").getByText("ConnectionRefusedError").last().waitFor();
  assert.deepEqual(await wrong(), []);
  await close();
});

test("what is not as it was asked for is said: limits, files, a restart without overlap", async () => {
  const { page, wrong, close } = await open(at("s/auth"));
  await live(page);
  const remarks = page.getByRole("list", { name: "Not as it was asked for" });
  await remarks.getByText("Generation 4: memory = 256 MB is not in force").waitFor();
  await remarks.getByText("raise fs.inotify.max_user_watches").waitFor();
  await page.locator(".restart").getByText("without overlap: it wants [::]:9100").waitFor();
  await page.goto(`${served.url}s/auth/processes`);
  await page.getByText("ports held by sockets of ours").waitFor();
  assert.deepEqual(await wrong(), []);
  await close();
});

test("the configuration in force, and what the file on disk says by now", async () => {
  const { page, wrong, close } = await open(at("s/api/config"));
  await live(page);
  await page.getByRole("heading", { name: "The file on disk says something else" }).waitFor();
  await page.locator("ins", { hasText: "--workers 4" }).waitFor();
  await page.getByRole("button", { name: "Reload…" }).click();
  await page.getByRole("dialog").getByRole("button", { name: "Close" }).click();
  await Promise.all([page.waitForResponse(/api\/v1\/plan$/), page.goto(`${served.url}s/db/config`)]);
  await page.getByRole("heading", { name: "Configuration in force" }).waitFor();
  await frames(page, 3);
  assert.equal(await page.getByText("The file on disk says").count(), 0);
  assert.deepEqual(await wrong(), []);
  await close();
});

test("a set of buttons is one stop of the keyboard, with arrows between", async () => {
  const { page, close } = await open(at("about"));
  await live(page);
  const chosen = () => page.evaluate(() => [document.activeElement.textContent, document.activeElement.getAttribute("aria-checked")]);
  await page.getByRole("radio", { name: "as the system" }).focus();
  await page.keyboard.press("ArrowRight");
  await until("the next one", async () => (await chosen()).join() === "light,true");
  await page.keyboard.press("ArrowLeft");
  await page.keyboard.press("ArrowLeft");
  await until("around the end", async () => (await chosen()).join() === "dark,true");
  await page.keyboard.press("Tab");
  await until("and out of it", async () => (await chosen()).join() === "of this browser,true");
  await close();
});

// The last one: it goes on in the background.
test("all services at once: how many is said first, and how far it is meanwhile", async () => {
  const { page, wrong, close } = await open(at(""));
  await live(page);
  await page.getByRole("button", { name: "Restart all…" }).click();
  const dialog = page.getByRole("dialog");
  await dialog.getByText(/\d+ open connections will drain, not counting those that are not measured/).waitFor();
  await dialog.getByRole("radio", { name: "two" }).click();
  await dialog.getByRole("button", { name: /^Restart \d+ services$/ }).click();
  const rolling = page.getByRole("region", { name: "Restart of all services" });
  await rolling.getByText(/Restarting all services: \d+ of \d+ done, under way: \w+/).waitFor();
  await rolling.getByText(/: [1-9]\d* of \d+ done/).waitFor();
  assert.ok((await rolling.getByRole("progressbar").getAttribute("value")) >= 1);
  assert.deepEqual(await last(), { restart: { services: ["*"], wait: true, parallel: 2, canary: null } });
  assert.deepEqual(await wrong(), []);
  await close();
});
