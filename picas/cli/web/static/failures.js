// Why tokens have failed: alike failures together, and how to retry exactly those.

import { fill, make, table, tokenLink, visible } from "./dom.js";
import { count } from "./format.js";
import { read } from "./live.js";

/** Return the columns of a table of groups of failures. */
export function failureColumns(groups) {
  const largest = Math.max(...groups.map((group) => group.count));
  const weight = (group) => {
    const piece = make("span", { class: "weight", "aria-hidden": "true" });
    piece.style.width = `${Math.max(2, (100 * group.count) / largest)}%`;
    return [count(group.count), piece];
  };
  return [
    { title: "group", kind: "id", of: (group) => (group.group ? make("a", { href: `#/tokens?state=error&reason=${encodeURIComponent(group.group)}` }, visible(group.group)) : "–") },
    { title: "tokens", kind: "number", of: weight },
    { title: "reason of one of them", kind: "long", of: (group) => (group.reason ? visible(group.reason) : "no reason known") },
    { title: "example", kind: "id", less: true, of: (group) => tokenLink(group.token) },
  ];
}

export class FailuresView {
  constructor() {
    this.title = "Failures";
    this.summary = make("p", { class: "summary", role: "status" }, "reading…");
    this.list = make("div");
    this.element = make("div", {}, make("h1", {}, "Why tokens have failed"), this.summary, make("section", { class: "panel" }, this.list));
  }

  start() {
    this.load();
  }

  stop() {
    this.isStopped = true;
  }

  hear(name) {
    if (name === "details") this.load();
  }

  async load() {
    try {
      const { items } = await read("/api/errors.json");
      if (!this.isStopped) this.show(items);
    } catch (error) {
      if (!this.isStopped) fill(this.summary, make("span", { class: "fault" }, visible(error.message)));
    }
  }

  show(groups) {
    if (!groups) {
      fill(this.summary, "Unknown: there is no design document Report. An administrator of the database creates it with ", make("code", {}, "picas views"), ".");
      fill(this.list);
      return;
    }
    const total = groups.reduce((sum, group) => sum + group.count, 0);
    fill(this.summary, groups.length ? `${count(total)} ${total === 1 ? "token" : "tokens"} in ${count(groups.length)} ${groups.length === 1 ? "group" : "groups"}. To retry the tokens of a group, give its line to a terminal.` : "");
    const text = JSON.stringify(groups);
    if (text === this.text) return;
    this.text = text;
    const retry = { title: "retry", kind: "long", less: true, of: (group) => (group.group ? make("code", {}, `picas retry error --reason ${visible(group.group)}`) : null) };
    fill(this.list, groups.length ? table("Groups of failures", [...failureColumns(groups), retry], groups) : make("p", { class: "empty" }, "No token is in error."));
  }
}
