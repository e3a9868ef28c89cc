// What the browser tests share: a fake or a real instance behind a real dashboard, and Debian's Chromium in front of it.

import { execFile, spawn } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { basename, dirname, join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { chromium } from "playwright-core";

const here = dirname(fileURLToPath(import.meta.url));
export const root = join(here, "../..");
export const bin = (name) => join(process.env.STAYPUT_BIN_DIR ?? join(root, "target/debug"), name);
const CHROMIUM = process.env.CHROMIUM ?? "/usr/bin/chromium";

export const SIZES = { desktop: { width: 1440, height: 900 }, phone: { width: 360, height: 800 } };

/** Waits for a condition, not for a time. */
export async function until(what, condition, within = 10_000) {
  const end = Date.now() + within;
  for (;;) {
    const value = await condition();
    if (value) return value;
    if (Date.now() > end) throw new Error(`not within ${within} ms: ${what}`);
    await new Promise((done) => setTimeout(done, 20));
  }
}

export const freePort = () =>
  new Promise((done) => {
    const server = createServer();
    server.listen(0, "127.0.0.1", () => {
      const { port } = server.address();
      server.close(() => done(port));
    });
  });

/** A control server without an instance, played by lines on its input. */
export async function fake(scene) {
  const directory = mkdtempSync(join(tmpdir(), "stayput-web-"));
  const socket = join(directory, "control.sock");
  const child = spawn(bin("fakecontrol"), [socket, scene], { stdio: ["pipe", "pipe", "inherit"] });
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  const answer = async () => {
    const { value } = await lines.next();
    const said = JSON.parse(value);
    if (said.error) throw new Error(said.error);
    return said.ok;
  };
  await answer();
  return {
    socket,
    directory,
    play: async (what) => {
      child.stdin.write(`${JSON.stringify(what)}\n`);
      return answer();
    },
    close: () => {
      child.kill();
      rmSync(directory, { recursive: true, force: true });
    },
  };
}

/** A dashboard for a control socket. */
export async function dashboard(socket, { port, args = [] } = {}) {
  const listen = port ?? (await freePort());
  const child = spawn(bin("stayput"), ["dashboard", "--listen", `127.0.0.1:${listen}`, ...args], {
    env: { ...process.env, STAYPUT_CONTROL: socket },
    stdio: ["ignore", "pipe", "pipe"],
  });
  const said = [];
  const keep = (text) => said.push(String(text));
  child.stdout.on("data", keep);
  child.stderr.on("data", keep);
  const url = `http://127.0.0.1:${listen}/`;
  await until(`the dashboard listens: ${said.join("")}`, async () => {
    if (child.exitCode !== null) throw new Error(`the dashboard ended: ${said.join("")}`);
    return said.join("").includes("listening on");
  });
  const tokens = () => JSON.parse(readFileSync(join(dirname(socket), "dashboard.json"), "utf8"));
  return {
    url,
    port: listen,
    pid: child.pid,
    child,
    said,
    tokens,
    link: () => `${url}#token=${tokens().operate}`,
    ended: new Promise((done) => child.on("exit", done)),
    close: () => child.kill("SIGKILL"),
  };
}

let shared;
export const browser = async () =>
  (shared ??= await chromium.launch({ executablePath: CHROMIUM, args: ["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"] }));
export const closeBrowser = async () => shared?.close();

/** A page that remembers what must not happen: errors, alerts, violations of the policy. */
export async function open(url, { size = SIZES.desktop, scheme = "light", context, reducedMotion } = {}) {
  const own = context ?? (await (await browser()).newContext({ viewport: size, colorScheme: scheme, reducedMotion }));
  const page = await own.newPage();
  const wrong = [];
  page.on("pageerror", (error) => wrong.push(`error: ${error}`));
  page.on("dialog", (dialog) => {
    wrong.push(`alert: ${dialog.message()}`);
    void dialog.dismiss();
  });
  page.on("console", (message) => {
    if (message.type() === "error" && !/Failed to load resource|net::ERR/.test(message.text())) wrong.push(`console: ${message.text()}`);
  });
  await page.addInitScript(() => {
    window.violations = [];
    document.addEventListener("securitypolicyviolation", (event) => window.violations.push(`${event.violatedDirective} ${event.blockedURI} ${event.sample}`));
  });
  await page.goto(url);
  return {
    page,
    context: own,
    wrong: async () => [...wrong, ...(await page.evaluate(() => window.violations).catch(() => []))],
    close: () => (context ? page.close() : own.close()),
  };
}

/** A real instance with its dashboard, from `stayput up -d` to `stayput down`; without a configuration there is the dashboard alone. */
export async function real(config = null) {
  const directory = mkdtempSync(join(tmpdir(), "stayput-real-"));
  const file = join(directory, "stayput.toml");
  const env = { ...process.env, XDG_RUNTIME_DIR: directory, XDG_STATE_HOME: join(directory, "state") };
  const write = (text) => writeFileSync(file, `${text}\n[logs]\ndirectory = "logs"\n`);
  const run = promisify(execFile);
  const stayput = async (...args) => (await run(bin("stayput"), args, { env, cwd: directory, maxBuffer: 1 << 26 })).stdout;
  const close = async () => {
    await stayput("down").catch(() => {});
    rmSync(directory, { recursive: true, force: true });
    // Without a configuration nothing says where else the logs of root are to be.
    rmSync(join("/var/log/stayput", basename(directory)), { recursive: true, force: true });
  };
  if (config !== null) write(config);
  await stayput("up", "-d").catch(async (error) => {
    await close();
    throw new Error(`stayput up: ${error.stdout}${error.stderr}`);
  });
  return {
    file,
    write,
    stayput,
    close,
    service: async (name) => JSON.parse(await stayput("status", "--json")).services.find((one) => one.name === name),
    /** All events that are kept, oldest first. */
    events: async () => (await stayput("events", "--json")).trim().split("\n").map((line) => JSON.parse(line)),
    link: async () => (await stayput("dashboard", "--link")).trim(),
  };
}
