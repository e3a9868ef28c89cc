// Node's cluster: a primary that binds and two workers that each run server.js: node cluster.js --port N [--host H]
"use strict";
const cluster = require("cluster");

if (cluster.isPrimary) {
  cluster.fork();
  cluster.fork();
} else {
  require("./server.js");
}
