// The pilots.

import { fill, make, table, visible } from "./dom.js";
import { count, rough, when } from "./format.js";
import { read } from "./live.js";

function mark(pilot) {
  const [kind, text] = pilot.silent_since ? ["locked", "silent"] : pilot.state === "running" ? ["done", "running"] : ["error", visible(pilot.state)];
  const since = pilot.silent_since ? [" since ", when(pilot.silent_since)] : [];
  return make("span", { class: `state ${kind}` }, make("span", { class: "dot", "aria-hidden": "true" }), text, since);
}

/** Return the name of a pilot: its host, and what tells it from others there. */
function name(pilot) {
  const id = pilot.id.replace(/^picas_pilot_/, "");
  const rest = pilot.host && id.startsWith(`${pilot.host}_`) ? id.slice(pilot.host.length + 1) : null;
  return rest === null ? visible(id) : [visible(pilot.host), " ", make("span", { class: "rest" }, visible(rest))];
}

/** Return the columns of a table of pilots. */
export function pilotColumns(isShort) {
  const columns = [
    { title: "pilot", kind: "id", of: name },
    { title: "state", of: mark },
    { title: "job", less: true, of: (pilot) => pilot.job_id && visible(pilot.job_id) },
    { title: "slots", kind: "number", of: (pilot) => (pilot.slots === null ? null : pilot.slots_busy === null ? count(pilot.slots) : `${pilot.slots_busy} of ${pilot.slots}`) },
    { title: "time left", kind: "number", less: true, of: (pilot) => (pilot.silent_since ? null : rough(pilot.time_left_seconds)) },
    { title: "done", kind: "number", of: (pilot) => count(pilot.done) },
    { title: "failed", kind: "number", of: (pilot) => count(pilot.failed) },
    { title: "started", less: true, of: (pilot) => when(pilot.start) },
    { title: "release", less: true, of: (pilot) => pilot.version && visible(pilot.version) },
  ];
  return isShort ? columns.filter(({ title }) => !["job", "started", "release", "time left"].includes(title)) : columns;
}

export class PilotsView {
  constructor() {
    this.title = "Pilots";
    this.summary = make("p", { class: "summary" });
    this.list = make("div");
    this.element = make("div", {}, make("h1", {}, "Pilots"), this.summary, make("section", { class: "panel" }, this.list));
  }

  start() {
    this.load();
  }

  hear(name) {
    if (name === "details") this.load();
  }

  async load() {
    try {
      const { items } = await read("/api/pilots.json");
      const silent = items.filter((pilot) => pilot.silent_since).length;
      const running = items.filter((pilot) => pilot.state === "running").length - silent;
      const dead = items.length - running - silent;
      const busy = items.reduce((sum, pilot) => sum + (pilot.silent_since ? 0 : pilot.slots_busy ?? 0), 0);
      const text = [`${count(running)} running`, silent && `${count(silent)} silent`, dead && `${count(dead)} found dead`, `${count(busy)} ${busy === 1 ? "slot" : "slots"} busy`].filter(Boolean).join(", ");
      fill(this.summary, text);
      fill(this.list, items.length ? table("Pilots", pilotColumns(false), items) : make("p", { class: "empty" }, "No pilot is running."));
    } catch (error) {
      fill(this.summary, error.message);
    }
  }
}
