"use strict";
/*
 * The databases of the embedded server: lists, opens, creates and removes them.
 *
 * On disk, a database is a leveldb folder, and the list of databases is read from the disk: a database survives a crash
 * if its creation was acknowledged. In memory, it is a name in a set.
 */

const fs = require("node:fs");
const path = require("node:path");

const { viewEngine } = require("./views.js");

const INDEX_BATCH = 500; // documents that a view indexes at a time
const INDEX_MARK = "-mrview-"; // part of the name of a store that holds a view

/** An error for the client: an HTTP status, and CouchDB's `error` (the name) and `reason`. */
class HttpError extends Error {
  constructor(status, name, reason) {
    super(reason);
    this.status = status;
    this.name = name;
    this.reason = reason;
  }
}

function missingDatabase() {
  return new HttpError(404, "not_found", "Database does not exist.");
}

class Databases {
  /** `folder` holds the data, null for memory; `load` requires a package by name. */
  constructor(load, folder) {
    const adapter = folder ? "leveldb" : "memory";
    const PouchDB = load("pouchdb-core")
      .plugin(load("pouchdb-adapter-http"))
      .plugin(load(`pouchdb-adapter-${adapter}`))
      .plugin(load("pouchdb-replication"))
      .plugin(viewEngine(load));
    const options = { adapter, view_update_changes_batch_size: INDEX_BATCH };
    this.folder = folder;
    if (folder) options.prefix = folder + path.sep;
    this.PouchDB = PouchDB.defaults(options);
    // express-pouchdb needs these two.
    this.PouchDB.allDbs = (callback) => this.#allDbs(callback);
    this.PouchDB.__dbCacheMap = new Map();
    this.open_ = this.PouchDB.__dbCacheMap;
    this.names = new Set(this.#namesOnDisk());
    this.turn = Promise.resolve();
  }

  has(name) {
    return this.names.has(name);
  }

  list() {
    return [...this.names].sort();
  }

  /** Returns an open database; throws a 404 if there is none of that name. */
  async get(name) {
    if (!this.has(name)) throw missingDatabase();
    const db = this.open_.get(name);
    return db || this.#inTurn(() => this.#open(name));
  }

  /** Creates a database; throws a 412 if it exists. */
  create(name) {
    return this.#inTurn(async () => {
      if (this.has(name)) {
        throw new HttpError(412, "file_exists", "The database could not be created, the file already exists.");
      }
      await this.#connect(name);
      this.names.add(name);
    });
  }

  /** Removes a database and its contents; throws a 404 if there is none of that name. */
  remove(name) {
    return this.#inTurn(async () => {
      if (!this.has(name)) throw missingDatabase();
      const db = await this.#open(name);
      this.names.delete(name);
      this.open_.delete(name);
      await db.destroy();
    });
  }

  /** Closes all databases, at the end of the process. */
  async close() {
    await this.turn;
    if (!this.folder) return;
    await Promise.all([...this.open_.values()].map((db) => db.close()));
  }

  /** Returns the size of a database on disk, in bytes (0 in memory). */
  async size(name) {
    if (!this.folder) return 0;
    const folder = path.join(this.folder, name);
    let total = 0;
    for (const file of await fs.promises.readdir(folder)) {
      // leveldb may have removed the file
      const stat = await fs.promises.stat(path.join(folder, file)).catch(() => null);
      total += stat ? stat.size : 0;
    }
    return total;
  }

  async #open(name) {
    if (!this.has(name)) throw missingDatabase();
    return this.open_.get(name) || this.#connect(name);
  }

  async #connect(name) {
    const db = new this.PouchDB(name);
    db.on("error", (err) => console.error(`database ${name}: ${(err && err.message) || err}`));
    db.setMaxListeners(0); // each waiting changes feed is a listener
    await db.info();
    this.open_.set(name, db);
    return db;
  }

  #namesOnDisk() {
    if (!this.folder) return [];
    fs.mkdirSync(this.folder, { recursive: true, mode: 0o700 });
    const isDatabase = (name) => !name.includes(INDEX_MARK) && fs.existsSync(path.join(this.folder, name, "CURRENT"));
    return fs.readdirSync(this.folder).filter(isDatabase);
  }

  #allDbs(callback) {
    const names = Promise.resolve(this.list());
    if (callback) names.then((list) => callback(null, list));
    return names;
  }

  /** Runs one task after the other: create, open or remove. A failure does not affect the next task. */
  #inTurn(task) {
    const result = this.turn.then(task);
    this.turn = result.catch(() => {});
    return result;
  }
}

module.exports = { Databases, HttpError, INDEX_MARK };
