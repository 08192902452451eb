// A list of tokens, page by page.

import { fill, make, stateMark, table, tokenLink, visible } from "./dom.js";
import { count, seconds, when } from "./format.js";
import { read } from "./live.js";

const STATES = ["todo", "locked", "done", "error"];
const AGAIN = 4000; // milliseconds between two looks at a list that is live
const LIVE_MAX = 500; // a list for which more tokens were read is not read again by itself
const FILTERS = ["prefix", "match", "where", "since"];

const short = (value) => {
  if (value === null || value === undefined) return "";
  const text = typeof value === "string" ? value : JSON.stringify(value);
  return visible(text.length > 200 ? `${text.slice(0, 200)}…` : text);
};

function columnsFor(state) {
  const all = {
    id: { title: "token", kind: "id", of: (token) => tokenLink(token.id) },
    state: { title: "state", of: (token) => stateMark(token.state) },
    since: { title: "since", of: (token) => when(token.since) },
    host: { title: "host", less: true, of: (token) => token.host && visible(token.host) },
    pilot: { title: "pilot", less: true, of: (token) => token.pilot && visible(token.pilot.replace(/^picas_pilot_/, "")) },
    attempts: { title: "attempts", kind: "number", less: true, of: (token) => count(token.attempts) },
    seconds: { title: "seconds", kind: "number", of: (token) => seconds(token.seconds) },
    group: { title: "group", kind: "id", less: true, of: (token) => token.group && make("a", { href: `#/tokens?state=error&reason=${encodeURIComponent(token.group)}` }, token.group) },
    reason: { title: "reason", kind: "long", of: (token) => (token.reason ? visible(token.reason) : "") },
    input: { title: "input", kind: "long", of: (token) => short(token.input) },
  };
  const names = {
    todo: ["id", "attempts", "input"],
    locked: ["id", "since", "host", "pilot", "attempts", "input"],
    done: ["id", "since", "seconds", "host", "attempts", "input"],
    error: ["id", "since", "attempts", "group", "reason", "host"],
  };
  return (names[state] ?? ["id", "state", "since", "host", "attempts", "reason"]).map((name) => all[name]);
}

export class TokensView {
  constructor(frame, parameters) {
    this.frame = frame;
    this.parameters = parameters;
    this.state = STATES.includes(parameters.get("state")) ? parameters.get("state") : null;
    this.title = this.state ? `Tokens in ${this.state}` : "Tokens";
    this.tabs = make("ul", { class: "tabs" });
    this.summary = make("p", { class: "summary", role: "status" }, "reading…");
    this.list = make("div");
    this.pager = make("nav", { class: "pager", "aria-label": "Pages of the list" });
    this.element = make("div", {}, make("h1", {}, "Tokens"),
      make("nav", { "aria-label": "States" }, this.tabs), this.form(), this.advice(),
      make("section", { class: "panel" }, this.summary, this.list, this.pager));
    this.showTabs(frame.known.status);
  }

  /** Return the address of this list with some parameters changed. */
  address(changes) {
    const query = new URLSearchParams(this.parameters);
    query.delete("after");
    for (const [name, value] of Object.entries(changes)) {
      if (value) query.set(name, value);
      else query.delete(name);
    }
    const text = query.toString();
    return text ? `#/tokens?${text}` : "#/tokens";
  }

  showTabs(status) {
    const tab = (state, label) => make("li", {}, make("a", {
      href: this.address({ state, reason: state === "error" ? this.parameters.get("reason") : null }),
      "aria-current": this.state === state ? "true" : null,
    }, label, status && state ? make("span", { class: "count" }, ` ${count(status[state])}`) : null));
    fill(this.tabs, tab(null, "all"), STATES.map((state) => tab(state, state)));
  }

  form() {
    const field = (name, label, hint) => {
      const id = `filter-${name}`;
      return make("div", { class: "field" }, make("label", { for: id }, label),
        make("input", { id, name, value: this.parameters.get(name), placeholder: hint, autocomplete: "off", autocapitalize: "off", spellcheck: "false" }));
    };
    const hasFilter = FILTERS.some((name) => this.parameters.get(name)) || this.parameters.get("reason");
    const submit = (event) => {
      event.preventDefault();
      const given = new FormData(event.target);
      location.hash = this.address(Object.fromEntries(FILTERS.map((name) => [name, given.get(name).trim()])));
    };
    return make("form", { class: "filters", onsubmit: submit, "aria-label": "Filters" },
      field("prefix", "id begins with", "token_1"),
      field("match", "reason contains", "out of memory"),
      field("where", "field", "exit_code = 1"),
      field("since", "within the last", "2h"),
      make("button", { type: "submit" }, "Filter"),
      hasFilter ? make("a", { class: "button", href: this.state ? `#/tokens?state=${this.state}` : "#/tokens" }, "Clear") : null);
  }

  /** Return a line that says how to retry exactly the tokens of a group. */
  advice() {
    const reason = this.parameters.get("reason");
    if (!reason || !/^r[0-9a-f]{4}$/.test(reason)) return null;
    return make("p", { class: "advice" }, "Failures of the group ", make("code", {}, reason), ". To retry exactly these, in a terminal: ",
      make("code", {}, `picas retry error --reason ${reason}`));
  }

  start() {
    this.load();
  }

  stop() {
    this.isStopped = true;
    clearTimeout(this.timer);
  }

  hear(name, data) {
    if (name !== "status") return;
    const counts = JSON.stringify(STATES.map((state) => data[state]));
    if (counts === this.counts) return;
    const isFirst = this.counts === undefined;
    this.counts = counts;
    this.showTabs(data);
    if (!isFirst && this.isLive && !this.timer) {
      this.timer = setTimeout(() => {
        this.timer = null;
        if (!this.isStopped) this.load();
      }, Math.max(0, AGAIN - (performance.now() - this.loadedAt)));
    }
  }

  async load() {
    const query = Object.fromEntries(["state", "reason", "after", ...FILTERS].map((name) => [name, this.parameters.get(name)]));
    try {
      const page = await read("/api/tokens.json", { ...query, brief: 1 });
      if (!this.isStopped) this.show(page);
    } catch (error) {
      if (this.isStopped) return;
      fill(this.summary, make("span", { class: "fault" }, visible(error.message)));
      if (!this.list.children.length) fill(this.pager);
    }
    this.loadedAt = performance.now();
  }

  show(page) {
    const { items, next, scanned } = page;
    this.isLive = scanned <= LIVE_MAX;
    const after = this.parameters.get("after");
    const isFiltered = FILTERS.some((name) => name !== "prefix" && this.parameters.get(name));
    const more = page.is_partial ? `, and there are more to read` : "";
    const first = next && !after && !page.is_partial ? "the first " : "";
    const what = items.length === 1 ? "1 token" : `${first}${count(items.length)} tokens`;
    const readText = isFiltered ? ` of ${count(scanned)} that were read${more}` : "";
    const nothing = after && !page.is_partial ? "There are no more tokens." : page.is_partial ? "" : "No token matches.";
    fill(this.summary, items.length || readText ? `${what}${readText}${after ? ", further down the list" : ""}` : nothing);
    fill(this.list, items.length ? table(this.title, columnsFor(this.state), items) : null);
    fill(this.pager,
      after ? make("a", { class: "button", href: this.address({}) }, "First page") : null,
      next ? make("a", { class: "button", href: this.address({ after: next }) }, page.is_partial ? "Read on" : "Next page") : null);
  }
}
