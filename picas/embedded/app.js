"use strict";
/*
 * The HTTP routes: access control, then our own routes where express-pouchdb is wrong or incomplete, then
 * express-pouchdb.
 *
 * Requests for documents, attachments, changes and databases are answered here, because express-pouchdb differs from
 * CouchDB there in ways that lose data or hang. express-pouchdb answers _all_docs, views, _find, _bulk_get, _revs_diff,
 * _compact and the web interface.
 */

const { randomUUID } = require("node:crypto");

const { Guard, gate, screen, sessionRoutes } = require("./auth.js");
const { changes } = require("./changes.js");
const { HttpError, INDEX_MARK } = require("./databases.js");
const { designProblem } = require("./views.js");

const BODY_LIMIT = 256 * 1024 * 1024; // bytes in the body of a request
const UUIDS = 1000; // the largest count in one request, as in CouchDB
const FIND_LIMIT = 25; // rows of a _find without a limit, as in CouchDB
const PARTS = [
  "routes/404",
  "routes/active-tasks",
  "routes/all-docs",
  "routes/bulk-get",
  "routes/cluster",
  "routes/compact",
  "routes/db",
  "routes/ddoc-info",
  "routes/documents",
  "routes/attachments",
  "routes/fauxton",
  "routes/find",
  "routes/replicate",
  "routes/revs-diff",
  "routes/view-cleanup",
  "routes/views",
];
const SYSTEM_NAMES = ["_users", "_replicator", "_global_changes"];
const NAME = /^[a-z][a-z0-9_$()+-]*$/;
const OF_DATABASE = [
  "_all_docs",
  "_bulk_docs",
  "_bulk_get",
  "_changes",
  "_compact",
  "_ensure_full_commit",
  "_explain",
  "_find",
  "_index",
  "_revs_diff",
  "_security",
  "_view_cleanup",
];
const OF_DESIGN = ["_view", "_info"];
const CLIENTS_FAULT = ["doc_validation", "badarg"]; // PouchDB answers these with 500
// CouchDB's default for a new database
const ADMINS_ONLY = { members: { roles: ["_admin"] }, admins: { roles: ["_admin"] } };

function createApp(load, databases, config) {
  const express = load("express");
  const guard = new Guard(config.username, config.password);
  const app = express();
  app.disable("x-powered-by");
  app.enable("case sensitive routing");
  app.set("query parser", "simple"); // brackets in a key must not become lists

  const json = express.json({ limit: BODY_LIMIT, type: () => true });
  const raw = express.raw({ limit: BODY_LIMIT, type: () => true });
  const pouch = load("express-pouchdb")(databases.PouchDB, { mode: "custom", overrideMode: { include: PARTS } });

  app.use(harden);
  app.use(screen);
  app.get("/_up", (req, res) => res.json({ status: "ok" }));
  app.use(gate(guard));
  sessionRoutes(app, guard, express);
  app.use("/_utils", (req, res, next) => pouchAt("/_utils", pouch, req, res, next));
  app.use(normalize);
  serverRoutes(app, databases, json);
  app.use("/:db", nameRoute);
  databaseRoutes(app, databases);
  app.use((req, res, next) => (targetOf(req).attachment ? raw : json)(req, res, next));
  documentRoutes(app, databases);
  app.use(pouch);
  app.use(sendError);
  return app;
}

/** Passes the errors of an async handler to the error handler. */
function wrap(handler) {
  return (req, res, next) => Promise.resolve(handler(req, res, next)).catch(next);
}

/** Keeps browsers from showing the web interface inside a foreign page, and from running data as a script. */
function harden(req, res, next) {
  res.set("Content-Security-Policy", "frame-ancestors 'self'");
  res.set("X-Content-Type-Options", "nosniff");
  next();
}

function pouchAt(prefix, pouch, req, res, next) {
  req.url = prefix + (req.url === "/" && !/^\/_utils\//.test(req.originalUrl) ? "" : req.url);
  req.baseUrl = "";
  pouch(req, res, next);
}

/** Changes a request to what express-pouchdb expects, where CouchDB accepts more. */
function normalize(req, res, next) {
  req.url = req.url.replace(/^(\/[^/?]+)\/_(design|local)%2[fF]/, "$1/_$2/");
  req.headers.accept = "application/json"; // the answer is JSON, whatever the client prefers
  const type = (req.headers["content-type"] || "").trim().toLowerCase();
  if (targetOf(req).attachment) return next();
  if (type.startsWith("text/plain") || (req.method === "POST" && type.includes("urlencoded"))) {
    // A web page may send these anywhere without asking first.
    throw new HttpError(415, "bad_content_type", "Content-Type must be application/json");
  }
  if (type.startsWith("multipart/")) {
    throw new HttpError(
      415,
      "bad_content_type",
      "The embedded server accepts attachments one by one or inline, not as multipart.",
    );
  }
  req.headers["content-type"] = "application/json"; // without it, the body would count as empty
  return next();
}

/** Parses a path: the database, and a document (id), an attachment of it, or something special such as _all_docs. */
function targetOf(req) {
  if (req.target && req.target.url === req.url) return req.target;
  const parts = req.path.split("/").slice(1).map(decode);
  const [db, ...rest] = parts;
  const target = { url: req.url, db };
  const prefix = rest[0] === "_design" || rest[0] === "_local" ? `${rest.shift()}/` : "";
  if (prefix && rest[0] === undefined) {
    target.special = prefix.slice(0, -1);
  } else if (!prefix && rest[0] && rest[0].startsWith("_")) {
    target.special = rest[0];
  } else if (rest[0]) {
    const more = rest.slice(1);
    if (prefix && more[0] && more[0].startsWith("_")) {
      target.special = more[0];
      target.ofDesign = true;
    } else {
      target.id = prefix + rest[0];
      if (more.length) target.attachment = more.join("/");
    }
  }
  req.target = target;
  return target;
}

function decode(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    throw new HttpError(400, "bad_request", "The path is not valid.");
  }
}

/** Returns the query parameters; a value that is JSON is parsed. */
function parsed(query) {
  const values = {};
  for (const [name, value] of Object.entries(query)) {
    try {
      values[name] = JSON.parse(value);
    } catch {
      values[name] = value;
    }
  }
  return values;
}

// Routes of the server.

function serverRoutes(app, databases, json) {
  const vendor = { name: "PiCaS embedded server" };
  const uuid = randomUUID().replaceAll("-", "");
  app.get("/", (req, res) => res.json({ couchdb: "Welcome", version: "3.0.0", uuid, features: [], vendor }));
  app.get("/_node/:node/_config", (req, res) => res.json({})); // no settings; the web interface asks for them
  app.get("/_all_dbs", (req, res) => res.json(databases.list()));
  app.get("/_uuids", (req, res) => {
    const count = Number(req.query.count === undefined ? 1 : req.query.count);
    if (!(count >= 0 && count <= UUIDS)) throw new HttpError(400, "bad_request", "count parameter too large");
    res.set("Cache-Control", "must-revalidate, no-cache");
    res.json({ uuids: Array.from({ length: count }, () => randomUUID().replaceAll("-", "")) });
  });
  app.post(
    "/_dbs_info",
    json,
    wrap(async (req, res) => {
      const keys = (req.body && req.body.keys) || [];
      const rows = keys.map(async (key) =>
        databases.has(key) ? { key, info: await infoOf(databases, key) } : { key, error: "not_found" },
      );
      res.json(await Promise.all(rows));
    }),
  );
  app.post("/_replicate", json, (req, res, next) => {
    for (const end of ["source", "target"]) {
      const place = req.body[end];
      if (typeof place === "string" && (/^https?:\/\//.test(place) || databases.has(place))) continue;
      throw new HttpError(
        404,
        "db_not_found",
        `The ${end} must be a database of this server, or the URL of a database of another server.`,
      );
    }
    next();
  });
}

// Routes of a database.

/** True for names such as _all_dbs, which are not databases. */
function isServers(name) {
  return name.startsWith("_") && !SYSTEM_NAMES.includes(name);
}

function nameRoute(req, res, next) {
  const { db } = req.params;
  if (isServers(db)) return next();
  const short = db.length <= 200 && !db.includes(INDEX_MARK);
  if ((NAME.test(db) && short) || SYSTEM_NAMES.includes(db)) return next();
  throw new HttpError(
    400,
    "illegal_database_name",
    `Name: '${db}'. Only lowercase characters (a-z), digits (0-9), and any of the characters ` +
      "_, $, (, ), +, and - are allowed. Must begin with a letter.",
  );
}

async function infoOf(databases, name) {
  const db = await databases.get(name);
  const [info, size] = await Promise.all([db.info(), databases.size(name)]);
  return {
    db_name: name,
    doc_count: info.doc_count,
    update_seq: info.update_seq,
    sizes: { file: size, external: size, active: size },
    disk_size: size,
    data_size: size,
    compact_running: false,
    instance_start_time: "0",
  };
}

function databaseRoutes(app, databases) {
  app.put(
    "/:db",
    wrap(async (req, res) => {
      const { db } = targetOf(req);
      if (isServers(db)) throw new HttpError(400, "illegal_database_name", `Name: '${db}'.`);
      await databases.create(db);
      res.location(`/${encodeURIComponent(db)}`);
      res.status(201).json({ ok: true });
    }),
  );
  app.delete(
    "/:db",
    wrap(async (req, res) => {
      if (req.query.rev)
        throw new HttpError(400, "bad_request", "You tried to DELETE a database with a ?rev= parameter.");
      await databases.remove(targetOf(req).db);
      res.json({ ok: true });
    }),
  );
  app.get(
    "/:db",
    wrap(async (req, res, next) => {
      const { db } = targetOf(req);
      if (isServers(db)) return next();
      return res.json(await infoOf(databases, db));
    }),
  );
}

// Routes of documents.

/** Translates an error of PouchDB to CouchDB's names. */
function toAnswer(err) {
  if (err instanceof HttpError) return { error: err.name, reason: err.reason };
  const plain = !err.name || /Error$/.test(err.name); // a JavaScript error, not PouchDB's
  return { error: plain ? "internal_server_error" : err.name, reason: err.reason || err.message || String(err) };
}

function sendError(err, req, res, next) {
  if (res.headersSent) return next(err);
  if (err.type === "entity.too.large")
    return res.status(413).json({ error: "too_large", reason: "the request entity is too large" });
  if (err.type === "entity.parse.failed")
    return res.status(400).json({ error: "bad_request", reason: "invalid UTF-8 JSON" });
  const status = CLIENTS_FAULT.includes(err.name) ? 400 : err.status || 500;
  if (status >= 500 && !(err instanceof HttpError))
    console.error(`${req.method} ${req.path}: ${err.stack || err.message}`);
  return res.status(status).json(toAnswer(err));
}

function isObject(value) {
  return value !== null && typeof value === "object" && !Array.isArray(value);
}

/** Returns the revision in the query string or in If-Match. */
function revOf(req) {
  if (req.query.rev) return req.query.rev;
  const header = req.headers["if-match"];
  return header ? header.replace(/^"|"$/g, "") : undefined;
}

function checkDesign(doc) {
  if (!String(doc._id).startsWith("_design/") || doc._deleted) return null;
  return designProblem(doc);
}

function documentRoutes(app, databases) {
  app.use(
    wrap(async (req, res, next) => {
      const target = targetOf(req);
      if (target.db === "" || isServers(target.db)) return next();
      const db = await databases.get(target.db);
      if (target.special) return special(db, target, req, res, next);
      if (target.attachment) return attachment(db, target, req, res, next);
      if (target.id) return document(db, target, req, res);
      return req.method === "POST" ? saveDocument(db, req.body, undefined, req, res) : next();
    }),
  );
}

function special(db, target, req, res, next) {
  const { special: name } = target;
  if (!(target.ofDesign ? OF_DESIGN : OF_DATABASE).includes(name)) {
    throw new HttpError(501, "not_implemented", `The embedded server has no ${name}.`);
  }
  const post = req.method === "POST";
  if (name === "_bulk_docs" && post) return bulkDocs(db, req, res);
  if (name === "_changes" && (post || req.method === "GET")) return changes(db, parsed(req.query), req, res);
  if (name === "_security") return security(db, req, res);
  if (name === "_ensure_full_commit") return res.status(201).json({ ok: true, instance_start_time: "0" });
  if (name === "_bulk_get" && post && isObject(req.body) && req.body.docs?.length === 0)
    return res.json({ results: [] }); // PouchDB would never answer
  if (name === "_find" && isObject(req.body) && req.body.limit === undefined) req.body.limit = FIND_LIMIT;
  if (name === "_view") viewQuery(req);
  return next();
}

/** CouchDB 3 has `update` where older releases and PouchDB have `stale`. */
function viewQuery(req) {
  if (req.query.update === "false") req.query.stale = "ok";
  if (req.query.update === "lazy") req.query.stale = "update_after";
}

async function security(db, req, res) {
  const id = "_local/_security";
  const stored = await db.get(id).catch((err) => {
    if (err.status === 404) return null;
    throw err;
  });
  if (req.method === "PUT") {
    if (!isObject(req.body)) throw new HttpError(400, "bad_request", "Request body must be a JSON object");
    await db.put({ _id: id, _rev: stored ? stored._rev : undefined, security: req.body });
    return res.json({ ok: true });
  }
  return res.json(stored ? stored.security : ADMINS_ONLY);
}

async function bulkDocs(db, req, res) {
  const body = req.body;
  if (!isObject(body) || !Array.isArray(body.docs))
    throw new HttpError(400, "bad_request", "POST body must include `docs` parameter.");
  if (!body.docs.every(isObject)) throw new HttpError(400, "bad_request", "Document must be a JSON object");
  const rows = [];
  const good = [];
  body.docs.forEach((doc, i) => {
    doc._id = doc._id === undefined ? randomUUID().replaceAll("-", "") : doc._id;
    const problem = checkDesign(doc);
    if (problem) rows[i] = { id: doc._id, error: problem[0], reason: problem[1] };
    else good.push(i);
  });
  const options = { new_edits: body.new_edits !== false };
  const results = await db.bulkDocs(
    good.map((i) => body.docs[i]),
    options,
  );
  if (!options.new_edits) return res.status(201).json(results.filter((row) => row.error).map(toRow));
  results.forEach((row, k) => {
    rows[good[k]] = toRow(row, body.docs[good[k]]._id);
  });
  return res.status(201).json(rows);
}

function toRow(row, id) {
  return row.error ? { id: row.id || id, ...toAnswer(row) } : { ok: true, id: row.id, rev: row.rev };
}

function document(db, target, req, res) {
  const { id } = target;
  if (req.method === "PUT") return saveDocument(db, req.body, id, req, res);
  if (req.method === "DELETE") return removeDocument(db, id, req, res);
  if (req.method === "GET" || req.method === "HEAD") return readDocument(db, id, req, res);
  if (req.method === "COPY") return copyDocument(db, id, req, res);
  throw new HttpError(405, "method_not_allowed", "Only DELETE,GET,HEAD,PUT,COPY allowed");
}

async function readDocument(db, id, req, res) {
  const options = parsed(req.query);
  if (req.query.rev) options.rev = req.query.rev;
  const doc = await db.get(id, options);
  if (doc._rev) res.set("ETag", `"${doc._rev}"`);
  res.json(doc);
}

async function saveDocument(db, doc, id, req, res) {
  const empty = !isObject(doc) || (!req.headers["transfer-encoding"] && !Number(req.headers["content-length"]));
  if (empty) throw new HttpError(400, "bad_request", "Document must be a JSON object");
  if (id !== undefined) {
    if (doc._id !== undefined && doc._id !== id)
      throw new HttpError(400, "bad_request", "Document ID must match the one in the URL.");
    doc._id = id;
  } else if (doc._id === undefined) {
    doc._id = randomUUID().replaceAll("-", "");
  }
  doc._rev = doc._rev || revOf(req);
  await store(db, doc, req.query.new_edits !== "false", req, res);
}

async function store(db, doc, newEdits, req, res) {
  if (doc._rev === undefined) delete doc._rev;
  const problem = checkDesign(doc);
  if (problem) throw new HttpError(400, problem[0], problem[1]);
  const result = await db.put(doc, { new_edits: newEdits });
  const rev = result.rev || doc._rev;
  res.set("ETag", `"${rev}"`);
  res.location(`/${encodeURIComponent(targetOf(req).db)}/${encodeURIComponent(doc._id)}`);
  res.status(201).json({ ok: true, id: doc._id, rev });
}

async function copyDocument(db, id, req, res) {
  const destination = req.headers.destination || "";
  if (!destination || /^https?:/.test(destination)) {
    throw new HttpError(400, "bad_request", "COPY needs the id of a document in the header Destination.");
  }
  const [to, query] = destination.split("?", 2);
  const doc = await db.get(id, { rev: req.query.rev, attachments: true });
  doc._id = decode(to);
  doc._rev = new URLSearchParams(query || "").get("rev") || undefined;
  await store(db, doc, true, req, res);
}

async function removeDocument(db, id, req, res) {
  const rev = revOf(req);
  if (!rev) {
    await db.get(id); // throws a 404 if there is no such document
    throw new HttpError(409, "conflict", "Document update conflict.");
  }
  const result = await db.remove({ _id: id, _rev: rev });
  res.json({ ok: true, id, rev: result.rev });
}

async function attachment(db, target, req, res, next) {
  const { id, attachment: name } = target;
  if (req.method === "PUT") {
    const type = req.headers["content-type"] || "application/octet-stream";
    const body = Buffer.isBuffer(req.body) ? req.body : Buffer.alloc(0);
    const result = await db.putAttachment(id, name, revOf(req) || null, body, type);
    res.set("ETag", `"${result.rev}"`);
    return res.status(201).json({ ok: true, id, rev: result.rev });
  }
  if (req.method === "DELETE") {
    const rev = revOf(req);
    if (!rev) throw new HttpError(409, "conflict", "Document update conflict.");
    const result = await db.removeAttachment(id, name, rev);
    return res.json({ ok: true, id, rev: result.rev });
  }
  res.set("Content-Security-Policy", "sandbox"); // as in CouchDB: a task may have written a page with a script
  return next();
}

module.exports = { createApp };
