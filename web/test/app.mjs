// A server that knows nothing of restarts: it answers, writes a line for each request, and keeps what asks for /hold until it goes.

import { createServer } from "node:http";

const [port] = process.argv.slice(2).map(Number);
createServer((request, response) => {
  console.log(`INFO ${request.method} ${request.url}`);
  if (request.url === "/hold") response.write("held\n");
  else response.end("hello\n");
}).listen(port, "127.0.0.1");
