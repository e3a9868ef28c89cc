// Plain Node http, no graceful shutdown of its own: node server.js --port N [--host H]
"use strict";
const fs = require("fs");
const http = require("http");

const option = (name, fallback) => {
  const at = process.argv.indexOf(name);
  return at < 0 ? fallback : process.argv[at + 1];
};
const fault = process.env.TESTKIT_FAULT;
if (fault && fs.existsSync(fault)) throw new Error(`this version is broken: ${fault} exists`);

http
  .createServer((request, response) => {
    const url = new URL(request.url, "http://server");
    const body = JSON.stringify({
      pid: process.pid,
      generation: process.env.STAYPUT_GENERATION || "",
      n: url.searchParams.get("n") || "",
    });
    const send = () => {
      response.setHeader("Content-Type", "application/json");
      response.end(body);
    };
    if (url.pathname === "/slow") setTimeout(send, Number(url.searchParams.get("ms") || 100));
    else send();
  })
  .listen(Number(option("--port")), option("--host", "127.0.0.1"));
