"use strict";
/*
 * The changes feed: the changes since a sequence number, answered immediately (normal), after the next change
 * (longpoll), or one by one as they happen (continuous).
 */

const { HttpError } = require("./databases.js");

const TIMEOUT_MS = 60_000; // as in CouchDB: a feed without changes and without a heartbeat ends after this
const FEEDS = ["normal", "longpoll", "continuous"];
const PASSED_ON = ["include_docs", "conflicts", "attachments", "descending", "style", "limit"];

/** Returns the options for PouchDB; throws an HttpError if the request is not supported. */
async function optionsOf(db, query, body) {
  const options = { since: query.since === undefined ? 0 : query.since, return_docs: true };
  for (const name of PASSED_ON) {
    if (query[name] !== undefined) options[name] = query[name];
  }
  if (options.limit !== undefined) options.limit = Math.max(1, Number(options.limit) || 1);
  const filter = query.filter === undefined ? undefined : String(query.filter);
  if (filter === undefined) return options;
  if (filter === "_doc_ids") {
    options.doc_ids = body.doc_ids || query.doc_ids;
    if (!Array.isArray(options.doc_ids)) throw new HttpError(400, "bad_request", "`doc_ids` must be a list.");
  } else if (filter === "_selector") {
    options.selector = body.selector;
    if (!options.selector || typeof options.selector !== "object")
      throw new HttpError(400, "bad_request", "`selector` must be an object.");
  } else if (filter === "_view") {
    await lookUp(db, query.view, "views");
    Object.assign(options, { filter, view: query.view });
  } else {
    await lookUp(db, filter, "filters");
    Object.assign(options, { filter, query_params: query });
  }
  return options;
}

/** Throws a 404 if a design document has no such filter or view; PouchDB does not check this. */
async function lookUp(db, name, member) {
  const [ddoc, fun, ...more] = String(name).split("/");
  if (!fun || more.length || ddoc.startsWith("_")) {
    throw new HttpError(
      400,
      "bad_request",
      `The embedded server can't filter by ${name}: name a function of a design document, as ddoc/name.`,
    );
  }
  const doc = await db.get(`_design/${ddoc}`);
  const found = doc[member] && doc[member][fun];
  if (!found) throw new HttpError(404, "not_found", `missing json key: ${member}.${fun}`);
}

/** Answers a request for the changes of `db`; in `query`, values that are JSON are parsed. */
async function changes(db, query, req, res) {
  const feed = query.feed === undefined ? "normal" : String(query.feed);
  if (!FEEDS.includes(feed)) throw new HttpError(400, "bad_request", `The embedded server has no feed=${feed}.`);
  const options = await optionsOf(db, query, req.body || {});
  if (feed === "continuous") return follow(db, options, query, res, true);
  const { results, last_seq } = await db.changes(options);
  if (feed === "normal" || results.length) return res.json({ results, last_seq, pending: 0 });
  return follow(db, { ...options, since: last_seq }, query, res, false);
}

/** Writes changes as they happen: all, or only the first. Ends after the time-out or when the client disconnects. */
function follow(db, options, query, res, continuous) {
  const heartbeat = query.heartbeat === true ? TIMEOUT_MS : Number(query.heartbeat) || 0;
  const patience = Number(query.timeout) || (heartbeat ? 0 : TIMEOUT_MS);
  let last = options.since;
  let rows = 0;
  let timer;

  const listener = db.changes({ ...options, live: true, return_docs: false });
  const beat = heartbeat ? setInterval(() => res.write("\n"), heartbeat) : null;
  const finish = once(() => {
    clearInterval(beat);
    clearTimeout(timer);
    listener.cancel();
    res.end(
      continuous
        ? `${JSON.stringify({ last_seq: last, pending: 0 })}\n`
        : `\n],\n"last_seq":${JSON.stringify(last)},"pending":0}\n`,
    );
  });
  const wait = () => {
    clearTimeout(timer);
    if (patience) timer = setTimeout(finish, patience);
  };

  res.set("Content-Type", "application/json");
  if (!continuous) res.write('{"results":[\n');
  wait();
  res.once("close", finish);
  listener.on("change", (change) => {
    if (res.writableEnded) return;
    last = change.seq;
    res.write(JSON.stringify(change) + (continuous ? "\n" : ""));
    rows += 1;
    if (!continuous || rows === options.limit) finish();
    else wait();
  });
  listener.on("error", (err) => {
    console.error(`a feed of changes: ${err && err.message}`);
    finish();
  });
  listener.on("complete", finish);
}

function once(fun) {
  let done = false;
  return () => {
    if (done) return;
    done = true;
    fun();
  };
}

module.exports = { changes };
