// Takes the pictures in docs/screenshots: `node test/shots.mjs [NAME…]`. With SHOTS=DIRECTORY all sizes and themes go there, to be looked at.

import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { browser, closeBrowser, dashboard, fake, open, root, SIZES } from "./harness.mjs";

const out = process.env.SHOTS ?? join(root, "docs/screenshots");
mkdirSync(out, { recursive: true });
const only = process.argv.slice(2);
/** Kept beside the desktop in light colours. */
const KEPT = ["charts-desktop-dark", "first-phone-dark", "overview-desktop-dark", "restart-desktop-dark", "logs-desktop-dark", "overview-phone-light", "restart-phone-dark", "ports-phone-light"];
const instance = await fake("ten");
const served = await dashboard(instance.socket);
const SHOTS = [
  ["overview", ""],
  ["first", ""],
  ["service", "s/web"],
  ["trouble", "s/mail"],
  ["restart", "s/api", async (page) => {
    await page.waitForSelector("text=Live");
    await instance.play({ restart: { service: "api" } });
    await page.waitForSelector(".bar-draining");
    await page.waitForTimeout(700);
  }],
  ["share", "s/db", async (page) => {
    await page.getByRole("button", { name: "Share…" }).click();
    await page.getByRole("radio", { name: "until I decide" }).click();
    await page.waitForTimeout(200);
    await page.getByRole("button", { name: "Start it" }).click();
    await page.waitForSelector(".bar-share", { state: "attached" });
    await page.waitForTimeout(1500);
  }],
  ["ledger", "s/web/r/8"],
  ["ports", "ports"],
  ["events", "events"],
  ["logs", "logs", async (page) => {
    await page.waitForSelector(".l", { state: "attached" });
    await page.getByPlaceholder("Find…").fill("items");
    await page.waitForTimeout(300);
  }],
  ["about", "about"],
  ["processes", "s/web/processes", (page) => page.waitForSelector(".processes tbody tr")],
  ["charts", "s/web", async (page) => {
    await page.waitForSelector(".plot path");
    await page.locator("#charts").evaluate((heading) => heading.scrollIntoView());
    await page.waitForTimeout(200);
  }],
  ["reload", "", async (page) => {
    await page.getByRole("button", { name: "Reload…" }).click();
    await page.waitForSelector(".planned li");
  }],
];
const bare = await fake("empty");
const servedBare = await dashboard(bare.socket);
// To be looked at, not kept.
const LOOKED_AT = [
  ["hostile", "hostile", ""],
  ["hostile-service", "hostile", "s/__proto__"],
  ["thousand", "thousand", ""],
  ["thousand-ports", "thousand", "ports"],
  ["taken", null, "s/search"],
  ["remarks", null, "s/auth"],
  ["config", null, "s/api/config"],
  ["log", null, "s/mail/logs"],
  ["nobody", null, "s/nobody"],
];
const others = {};
if (process.env.SHOTS) {
  for (const [name, scene, path] of LOOKED_AT) {
    if (scene && !others[scene]) {
      const control = await fake(scene);
      others[scene] = [control, await dashboard(control.socket)];
    }
    SHOTS.push([name, path, null, scene]);
  }
}
for (const [size, viewport] of Object.entries(SIZES)) {
  for (const scheme of ["light", "dark"]) {
    for (const [name, path, then, scene] of SHOTS) {
      if (only.length && !only.includes(name)) continue;
      if (!process.env.SHOTS && !(size === "desktop" && scheme === "light") && !KEPT.includes(`${name}-${size}-${scheme}`)) continue;
      const from = name === "first" ? servedBare : scene ? others[scene][1] : served;
      const { page, close, wrong } = await open(`${from.url}${path}#token=${from.tokens().operate}`, { size: viewport, scheme });
      await page.waitForSelector("main > *:not(.skeleton)");
      await page.waitForTimeout(600);
      await then?.(page);
      await page.screenshot({ path: join(out, `${name}-${size}-${scheme}.png`) });
      for (const line of await wrong()) console.error(`${name} ${size} ${scheme}: ${line}`);
      await close();
    }
  }
}
for (const one of [served, servedBare, instance, bare, ...Object.values(others).flat()]) one.close();
await closeBrowser();
void browser;
