// Clients that others wrote: socket.io-client over WebSocket and polling, and python-socketio; each with a forced break.

import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { existsSync, renameSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { after, test } from "node:test";
import { promisify } from "node:util";
import { io } from "socket.io-client";
import { dashboard, fake, root, until } from "./harness.mjs";

const instance = await fake("ten");
const served = await dashboard(instance.socket);
after(() => {
  served.close();
  instance.close();
});
const within = (what, begin) => Promise.race([new Promise(begin), new Promise((_, fail) => setTimeout(() => fail(new Error(`no ${what} in time`)), 8_000).unref())]);
const number = (cursor) => Number(cursor.split("-")[1]);

for (const transport of ["websocket", "polling"]) {
  test(`socket.io-client over ${transport}: a break loses nothing`, async (t) => {
    let since;
    const got = [];
    const socket = io(served.url, {
      transports: [transport],
      auth: (give) => give({ token: served.tokens().view, ...(since && { since }) }),
      reconnectionDelay: 50,
    });
    t.after(() => socket.close());
    const heard = new Map();
    for (const name of ["hello", "status", "record", "gap", "reset", "denied"]) {
      socket.on(name, (data) => {
        // The first picture is the whole one; differences follow.
        if (!heard.has(name)) heard.set(name, data);
        if (name === "record") got.push(number((since = data.cursor)));
        if (name === "hello") since ??= data.cursor;
      });
    }
    await until("greeting and picture", () => heard.has("hello") && heard.has("status"));
    assert.equal(heard.get("status").services.length, 11);
    const first = number(heard.get("hello").cursor) + 1;
    await instance.play({ records: { count: 5 } });
    await until("five", () => got.length === 5);
    socket.io.engine.close();
    await until("broken", () => !socket.connected);
    await instance.play({ records: { count: 700 } });
    await until("all of them", () => got.length === 705, 15_000);
    assert.deepEqual(got, Array.from({ length: 705 }, (_, index) => first + index), "each once, in order");
    assert.deepEqual([heard.has("gap"), heard.has("reset"), heard.has("denied")], [false, false, false]);
    // And by an event, while it is connected.
    got.length = 0;
    socket.emit("resume", { since: `5eed-${first}` });
    await until("again", () => got.length === 704);
  });
}

test("without a token there is nothing, and other namespaces and events do not exist", async () => {
  const guarded = await dashboard(instance.socket, { args: ["--always-token"] });
  try {
    for (const auth of [{}, { token: "x".repeat(48) }]) {
      const socket = io(guarded.url, { auth, reconnection: false, forceNew: true });
      let data = 0;
      socket.on("status", () => data++);
      const why = await within("denied", (done) => socket.on("denied", done));
      assert.match(why.why, /token/);
      await until("hung up on", () => !socket.connected);
      assert.equal(data, 0);
      socket.close();
    }
    const admin = io(`${guarded.url}admin`, { auth: { token: guarded.tokens().operate }, reconnection: false, forceNew: true });
    assert.match((await within("connect_error", (done) => admin.on("connect_error", done))).message, /namespace/i);
    admin.close();
    const before = (await instance.play({ requests: {} })).length;
    const socket = io(guarded.url, { auth: { token: guarded.tokens().operate }, reconnection: false, forceNew: true });
    await within("status", (done) => socket.on("status", done));
    for (const name of ["restart", "stop", "call", "resume"]) socket.emit(name, { service: "web", since: "nonsense" });
    const record = within("record", (done) => socket.on("record", done));
    await instance.play({ records: { count: 1 } });
    await record;
    assert.equal((await instance.play({ requests: {} })).length, before);
    socket.close();
  } finally {
    guarded.close();
  }
});

test("a replaced token ends the connections that were opened with it", async () => {
  const old = served.tokens();
  const sockets = ["websocket", "polling"].map((transport) => io(served.url, { transports: [transport], auth: { token: old.view }, reconnection: false, forceNew: true }));
  let denied = 0;
  for (const socket of sockets) socket.on("denied", () => denied++);
  await Promise.all(sockets.map((socket) => within("status", (done) => socket.once("status", done))));
  const file = join(dirname(instance.socket), "dashboard.json");
  const put = (tokens) => {
    writeFileSync(`${file}.new`, JSON.stringify(tokens), { mode: 0o600 });
    renameSync(`${file}.new`, file);
  };
  put({ ...old, view: "0".repeat(48), operate: "1".repeat(48) });
  try {
    await until("both are told", () => denied === 2, 20_000);
    await until("and hung up on", () => sockets.every((socket) => !socket.connected));
  } finally {
    put(old);
  }
});

test("other origins are refused, upgrades and polls alike", async () => {
  for (const transport of ["polling", "websocket"]) {
    const headers = { Origin: "http://evil.example", ...(transport === "websocket" && { Connection: "Upgrade", Upgrade: "websocket", "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==" }) };
    const { stdout } = await promisify(execFile)("curl", ["-s", "-o", "/dev/null", "-m", "5", "-w", "%{http_code}", ...Object.entries(headers).flatMap(([name, value]) => ["-H", `${name}: ${value}`]), `${served.url}socket.io/?EIO=4&transport=${transport}`]);
    assert.equal(stdout, "403", transport);
  }
});

test("python-socketio: a break loses nothing", async () => {
  const python = process.env.STAYPUT_PYTHON ?? join(root, "target/testkit/venv/bin/python");
  assert.ok(existsSync(python), `${python} is not there: run cargo xtask setup`);
  const child = execFile(python, [join(root, "web/test/client.py"), served.url, served.tokens().view]);
  let said = "";
  child.stdout.on("data", (text) => (said += text));
  child.stderr.on("data", (text) => (said += text));
  const ended = new Promise((done) => child.on("exit", done));
  await until(`connected: ${said}`, () => said.includes("connected"));
  await instance.play({ records: { count: 5 } });
  await until("broken", () => said.includes("broken"));
  await instance.play({ records: { count: 50 } });
  child.stdin.end("go on\n");
  assert.equal(await ended, 0, said);
  assert.match(said, /55 in order/);
});
