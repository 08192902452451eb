"use strict";
/*
 * The view engine: runs map and reduce functions with CouchDB's helpers. Each function is compiled once, in its own
 * context.
 *
 * Documents and results enter and leave the context as JSON, so that a function can't change the original. A function
 * that hangs is stopped and not called again.
 */

const vm = require("node:vm");

const CALL_MS = 5_000; // CouchDB's limit for a function
const CACHED = 200; // compiled functions that are kept
const COMPLAINTS = 3; // exceptions of one function that are logged

const HELPERS = `
(function () {
  let rows = [];
  globalThis.emit = function (key, value) { rows.push([key, value]); };
  globalThis.log = function () {};
  globalThis.isArray = Array.isArray;
  globalThis.toJSON = JSON.stringify;
  globalThis.sum = function (values) { return values.reduce(function (a, b) { return a + b; }, 0); };
  return {
    map: function (fun, json) {
      rows = [];
      fun(JSON.parse(json));
      return JSON.stringify(rows);
    },
    reduce: function (fun, json) {
      const result = fun.apply(null, JSON.parse(json));
      return result === undefined ? "null" : JSON.stringify(result);
    },
  };
})()`;

/** A map or reduce function, compiled from its source; throws a SyntaxError if the source is not a function. */
class Compiled {
  constructor(source) {
    const context = vm.createContext({});
    const helpers = vm.runInContext(HELPERS, context);
    const text = source.trim().replace(/;+$/, "");
    const fun = new vm.Script(`(${text}\n)`).runInContext(context, { timeout: CALL_MS });
    if (typeof fun !== "function") throw new SyntaxError("Expression does not eval to a function.");
    this.context = context;
    this.complaints = 0;
    this.hangs = false;
    context.__map = (json) => helpers.map(fun, json);
    context.__reduce = (json) => helpers.reduce(fun, json);
  }

  /** Returns the rows that the function emits for a document, as [key, value] pairs. */
  map(doc) {
    return this.#call(MAP, doc);
  }

  reduce(keys, values, rereduce) {
    return this.#call(REDUCE, [keys, values, rereduce]);
  }

  complain(what, err) {
    if (this.complaints++ < COMPLAINTS) console.error(`${what}: ${(err && err.message) || err}`);
  }

  #call(script, argument) {
    if (this.hangs) throw new Error("the function took too long and is not called again");
    this.context.__json = JSON.stringify(argument);
    try {
      return JSON.parse(script.runInContext(this.context, { timeout: CALL_MS }));
    } catch (err) {
      if (err && err.code === "ERR_SCRIPT_EXECUTION_TIMEOUT") this.hangs = true;
      throw err;
    }
  }
}

const MAP = new vm.Script("__map(__json)");
const REDUCE = new vm.Script("__reduce(__json)");

const compiled = new Map();

function compile(source) {
  let fun = compiled.get(source);
  if (!fun) {
    fun = new Compiled(source);
    if (compiled.size >= CACHED) compiled.delete(compiled.keys().next().value);
    compiled.set(source, fun);
  }
  return fun;
}

/** Returns the sum of numbers, or of lists of numbers element by element. */
function sumOf(values, fail) {
  let total = 0;
  for (const value of values) {
    if (Array.isArray(value)) {
      const list = Array.isArray(total) ? total : [total];
      value.forEach((item, i) => {
        if (typeof item !== "number") throw fail("_sum");
        list[i] = (list[i] || 0) + item;
      });
      total = list;
    } else if (typeof value !== "number") {
      throw fail("_sum");
    } else if (Array.isArray(total)) {
      total[0] += value;
    } else {
      total += value;
    }
  }
  return total;
}

function statsOf(values, fail) {
  let [total, least, most, squares] = [0, Infinity, -Infinity, 0];
  for (const value of values) {
    if (typeof value !== "number") throw fail("_stats");
    total += value;
    squares += value * value;
    least = Math.min(least, value);
    most = Math.max(most, value);
  }
  return { sum: total, count: values.length, min: least, max: most, sumsqr: squares };
}

const BUILT_IN = {
  _sum: sumOf,
  _stats: statsOf,
  _count: (values) => values.length,
};

/** Returns the plug-in for PouchDB, with the methods `query` and `viewCleanup`. `load` requires a package by name. */
function viewEngine(load) {
  const { BuiltInError, NotFoundError } = load("pouchdb-mapreduce-utils");
  const fail = (name) => new BuiltInError(`the built-in ${name} reduces only numbers`);

  function mapper(source, emit) {
    const fun = compile(source);
    return (doc) => {
      try {
        for (const [key, value] of fun.map(doc)) emit(key, value);
      } catch (err) {
        fun.complain(`a map function, on the document ${doc._id}`, err);
      }
    };
  }

  function reducer(source) {
    const name = source.trim();
    if (BUILT_IN[name]) return (keys, values) => BUILT_IN[name](values, fail);
    const fun = compile(source);
    return (keys, values, rereduce) => fun.reduce(keys, values, rereduce);
  }

  function check(ddoc, view) {
    if (typeof ddoc.views[view].map !== "string")
      throw new NotFoundError(`${ddoc._id} has no map function in the view ${view}`);
  }

  const engine = load("pouchdb-abstract-mapreduce")("mrviews", mapper, reducer, check);
  return { query: engine.query, viewCleanup: engine.viewCleanup };
}

/** Returns the first fault in the views of a design document, as [error, reason]; null if there is none. */
function designProblem(doc) {
  if ((doc.language || "javascript") !== "javascript") return null; // indexes for _find have no functions
  const views = doc.views;
  if (views === undefined) return null;
  if (views === null || typeof views !== "object" || Array.isArray(views)) {
    return ["invalid_design_doc", "`views` parameter must be an object."];
  }
  for (const [name, view] of Object.entries(views)) {
    const problem = viewProblem(name, view);
    if (problem) return problem;
  }
  return null;
}

function viewProblem(name, view) {
  if (name === "lib") return null;
  if (!view || typeof view.map !== "string") {
    return ["invalid_design_doc", `The view '${name}' needs a map function, as a string.`];
  }
  for (const kind of ["map", "reduce"]) {
    const source = view[kind];
    if (source === undefined || source === null || source === "") continue;
    if (typeof source !== "string")
      return ["invalid_design_doc", `The ${kind} function in the '${name}' view must be a string.`];
    if (kind === "reduce" && source.startsWith("_")) {
      if (BUILT_IN[source.trim()]) continue;
      return ["invalid_design_doc", `The embedded server has no built-in reduce function ${source}.`];
    }
    try {
      compile(source);
    } catch (err) {
      return ["compilation_error", `Compilation of the ${kind} function in the '${name}' view failed: ${err.message}`];
    }
  }
  return null;
}

module.exports = { viewEngine, designProblem };
