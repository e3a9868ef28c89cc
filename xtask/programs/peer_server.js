// The same answer in Node, for pm2's cluster: the half second of start comes first, and SIGINT (pm2's stop signal) ends it politely.
"use strict";
const fs = require("fs");
const http = require("http");

if (process.env.PEER_STARTS) fs.appendFileSync(process.env.PEER_STARTS, `${process.pid}\n`);
setTimeout(() => {
  const server = http.createServer((request, response) => {
    const n = new URL(request.url, "http://server").searchParams.get("n") || "";
    response.setHeader("Content-Type", "application/json");
    response.setHeader("Connection", "close");
    response.end(JSON.stringify({ pid: process.pid, generation: "", n }));
  });
  server.listen(Number(process.env.PEER_PORT), "127.0.0.1", () => process.send && process.send("ready"));
  const stop = () => server.close(() => process.exit(0));
  process.on("SIGINT", stop);
  process.on("SIGTERM", stop);
}, 500);
