"use strict";
/*
 * The embedded server of PiCaS: starts, reports its port, and ends with its parent process.
 *
 * It reads one JSON line from stdin: {modules, folder, host, port, username, password, connections, stall}, where
 * `connections` is their largest number, and `stall` the time in milliseconds after which one with an incomplete
 * request is closed. It writes one JSON line to stdout: {port}, or {error, message} before it ends with exit code 1. It runs
 * until stdin closes, which happens when its parent ends for any reason.
 */

const { AsyncLocalStorage } = require("node:async_hooks");
const http = require("node:http");
const { createRequire } = require("node:module");
const path = require("node:path");

const { Databases } = require("./databases.js");
const { createApp } = require("./app.js");

const KEEP_ALIVE_MS = 65_000; // longer than clients keep an idle connection
const REQUEST_MS = 1_800_000; // the longest time for sending a request with a large attachment
const FINISH_MS = 1_000; // how long running requests may take after the server was told to stop
const STOP_MS = 4_000; // after this, it ends in any case

/** Calls `onLine` with the first line of stdin, and `onEnd` when stdin closes. */
function followStdin(onLine, onEnd) {
  let text = "";
  let seen = false;
  process.stdin.setEncoding("utf8");
  process.stdin.on("data", (chunk) => {
    if (seen) return;
    text += chunk;
    const end = text.indexOf("\n");
    if (end < 0) return;
    seen = true;
    onLine(text.slice(0, end));
    text = "";
  });
  process.stdin.once("close", onEnd);
  process.stdin.once("error", onEnd);
}

/** Logs exceptions that no code catches, and answers the request that caused them. */
function survive(requests) {
  const note = (err) => {
    console.error(`stray exception: ${(err && err.stack) || err}`);
    const res = requests.getStore();
    if (res && !res.headersSent) {
      res.statusCode = 500;
      res.setHeader("Content-Type", "application/json");
      res.end(JSON.stringify({ error: "internal_server_error", reason: String((err && err.message) || err) }) + "\n");
    }
  };
  process.on("uncaughtException", note);
  process.on("unhandledRejection", note);
  process.stderr.on("error", () => {}); // the reader is gone
}

/** Answers data that is not an HTTP request, such as the rest of a body that is longer than its Content-Length. */
function refuse(err, socket) {
  if (!socket.writable) return socket.destroy();
  const isLate = err.code === "ERR_HTTP_REQUEST_TIMEOUT";
  const body = JSON.stringify({ error: "bad_request", reason: `not a valid HTTP request: ${err.message}` }) + "\n";
  return socket.end(
    `HTTP/1.1 ${isLate ? "408 Request Timeout" : "400 Bad Request"}\r\nContent-Type: application/json\r\n` +
      `Content-Length: ${Buffer.byteLength(body)}\r\nConnection: close\r\n\r\n${body}`,
  );
}

function say(answer) {
  process.stdout.write(JSON.stringify(answer) + "\n");
}

/** Ends the process within STOP_MS: refuses new requests, waits briefly for running ones, closes the databases. */
function stopper(server, databases) {
  let stopping = false;
  return () => {
    if (stopping) return;
    stopping = true;
    setTimeout(() => process.exit(0), STOP_MS).unref();
    setTimeout(() => server.closeAllConnections(), FINISH_MS).unref();
    server.close(async () => {
      await databases.close().catch((err) => console.error(String(err)));
      process.exit(0);
    });
    server.closeIdleConnections();
  };
}

function start(config, onServer) {
  const load = createRequire(path.join(config.modules, "package.json"));
  const databases = new Databases(load, config.folder);
  const app = createApp(load, databases, config);
  const requests = new AsyncLocalStorage();
  survive(requests);

  const server = http.createServer({ connectionsCheckingInterval: config.stall / 4 }, (req, res) =>
    requests.run(res, () => app(req, res)),
  );
  server.keepAliveTimeout = KEEP_ALIVE_MS;
  server.timeout = config.stall; // without a byte; lifted once a request is complete, and its password correct
  server.headersTimeout = config.stall;
  server.requestTimeout = REQUEST_MS;
  server.maxConnections = config.connections;
  server.on("clientError", refuse);
  server.once("error", (err) => {
    say({ error: err.code || "error", message: err.message });
    process.exit(1);
  });
  server.listen({ host: config.host, port: config.port }, () => {
    onServer(stopper(server, databases));
    say({ port: server.address().port });
  });
}

function main() {
  console.log = console.error; // stdout is for the one JSON line
  let stop = () => process.exit(0);
  process.on("SIGTERM", () => stop());
  process.on("SIGINT", () => stop());
  followStdin(
    (line) => {
      try {
        start(JSON.parse(line), (stopServer) => {
          stop = stopServer;
        });
      } catch (err) {
        say({ error: err.code || err.name, message: err.message });
        process.exit(1);
      }
    },
    () => stop(),
  );
}

main();
