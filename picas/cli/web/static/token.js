// A token, with its attempts and its logs.

import { fill, make, outcomeMark, panel, stateMark, table, visible } from "./dom.js";
import { bytes, count, rough, seconds, when } from "./format.js";
import { LogPanel } from "./log.js";
import { read } from "./live.js";

const AGAIN = 2000; // milliseconds between two looks at the token
const LONGEST = 20000; // characters of a value that are shown

const pretty = (value) => {
  const text = typeof value === "string" ? value : JSON.stringify(value, null, 2);
  return visible(text.length > LONGEST ? `${text.slice(0, LONGEST)}\n… ${count(text.length - LONGEST)} more characters` : text);
};

export class TokenView {
  constructor(frame, id) {
    this.frame = frame;
    this.id = id;
    this.title = visible(id);
    this.state = make("span");
    this.facts = make("dl", { class: "facts" });
    this.why = make("div");
    this.values = make("div");
    this.attempts = make("div");
    this.errors = make("div");
    this.problem = make("p", { class: "fault" });
    this.log = new LogPanel(frame, id);
    this.content = make("div", { hidden: true }, this.facts, this.why, this.attempts, this.log.element, this.errors, this.values);
    this.element = make("div", {}, make("div", { class: "heading" }, make("h1", { class: "id" }, visible(id)), this.state), this.problem, this.content);
  }

  start() {
    this.load();
  }

  stop() {
    this.isStopped = true;
    clearTimeout(this.timer);
    this.log.stop();
  }

  hear(name, data) {
    if (name === "log" || name === "log-state") {
      this.log.hear(name, data);
      if (data.has_ended) this.later(0);
    }
    if (name === "status") {
      const counts = JSON.stringify([data.todo, data.locked, data.done, data.error]);
      if (this.counts !== undefined && counts !== this.counts) this.later(AGAIN);
      this.counts = counts;
    }
  }

  later(milliseconds) {
    if (this.timer) return;
    this.timer = setTimeout(() => {
      this.timer = null;
      if (!this.isStopped) this.load();
    }, Math.max(milliseconds, AGAIN - (performance.now() - (this.loadedAt ?? 0))));
  }

  async load() {
    try {
      const token = await read("/api/token.json", { id: this.id });
      if (this.isStopped) return;
      fill(this.problem);
      if (token.rev !== this.rev) this.show(token);
      this.rev = token.rev;
    } catch (error) {
      if (!this.isStopped) fill(this.problem, visible(error.message));
    }
    this.loadedAt = performance.now();
  }

  show(token) {
    this.content.hidden = false;
    fill(this.state, token.type === "token" ? stateMark(token.state) : `type ${visible(token.type ?? "none")}: this is no token`);
    this.showFacts(token);
    this.showAttempts(token);
    this.showErrors(token);
    this.showValues(token);
    this.log.show(token);
    if (token.state === "todo") this.explain();
    else fill(this.why);
  }

  showFacts(token) {
    const { needs, locked_by: lock } = token;
    const parts = [
      `${needs.cores} ${needs.cores === 1 ? "core" : "cores"}`,
      needs.memory_mb && `${count(needs.memory_mb)} MB`,
      needs.gpus && `${needs.gpus} ${needs.gpus === 1 ? "GPU" : "GPUs"}`,
      needs.tags.length && needs.tags.map(visible).join(", "),
      needs.walltime_seconds && rough(needs.walltime_seconds),
    ].filter(Boolean);
    const pairs = [
      ["since", when(token.since)],
      ["locked by", lock && visible(lock.pilot?.replace(/^picas_pilot_/, "") ?? "a client of an older release")],
      ["host", lock?.host && visible(lock.host)],
      ["job", lock?.job_id && visible(lock.job_id)],
      ["exit code", token.exit_code === null ? null : visible(token.exit_code)],
      ["needs", parts.join(", ")],
      ["priority", token.priority === null ? null : count(token.priority)],
      ["not before", when(token.not_before)],
      ["failures", token.scrub_count ? count(token.scrub_count) : null],
      ["lost pilots", token.lost_count ? count(token.lost_count) : null],
    ];
    fill(this.facts, pairs.filter(([, text]) => text).map(([name, text]) => make("div", {}, make("dt", {}, name), make("dd", {}, text))));
  }

  async explain() {
    try {
      const { reasons } = await read("/api/why.json", { id: this.id });
      if (this.isStopped) return;
      fill(this.why, panel("Why it does not run", make("ul", {}, reasons.map((reason) => make("li", {}, visible(reason.text))))));
    } catch {
      fill(this.why);
    }
  }

  showAttempts(token) {
    if (!token.attempts.length) {
      fill(this.attempts);
      return;
    }
    const columns = [
      { title: "#", kind: "number", of: (each) => String(each.number) },
      { title: "outcome", of: (each) => outcomeMark(each.outcome) },
      { title: "reason", kind: "long", of: (each) => (each.reason ? visible(each.reason) : "") },
      { title: "start", of: (each) => when(each.start) },
      { title: "seconds", kind: "number", of: (each) => seconds(each.seconds) },
      { title: "cpu s", kind: "number", less: true, of: (each) => seconds(each.cpu_seconds) },
      { title: "MB", kind: "number", less: true, of: (each) => seconds(each.max_memory_mb) },
      { title: "cores", kind: "number", less: true, of: (each) => count(each.cores) },
      { title: "host", less: true, of: (each) => each.host && visible(each.host) },
      { title: "job", less: true, of: (each) => each.job_id && visible(each.job_id) },
      { title: "exit", kind: "number", of: (each) => (each.exit_code === null ? null : visible(each.exit_code)) },
    ];
    const used = columns.filter((column) => ["#", "outcome", "reason"].includes(column.title) || token.attempts.some((each) => column.of(each)));
    fill(this.attempts, panel("Attempts", table("Attempts, the last one first", used, [...token.attempts].reverse())));
  }

  showErrors(token) {
    const entries = token.errors.map((error) => make("li", {},
      make("p", {}, when(error.time) ?? "at an unknown time", " ", visible(error.message ?? "no message")),
      error.traceback ? make("details", {}, make("summary", {}, "Traceback"), make("pre", { tabindex: "0" }, visible(error.traceback))) : null));
    fill(this.errors, entries.length ? panel("Errors", make("ul", { class: "errors" }, entries)) : null);
  }

  showValues(token) {
    const pairs = [["input", token.input], ["output", token.output], ["uploads", token.uploads], ...Object.entries(token.fields)]
      .filter(([, value]) => value !== null && value !== undefined && value !== "");
    const attachments = token.attachments.map((each) => make("li", {}, make("span", { class: "id" }, visible(each.name)), ` ${bytes(each.size_bytes)}`));
    fill(this.values,
      pairs.length ? panel("Fields", make("dl", { class: "values" }, pairs.map(([name, value]) => [make("dt", {}, visible(name)), make("dd", {}, make("pre", { tabindex: "0" }, pretty(value)))]))) : null,
      attachments.length ? panel("Attachments", make("ul", {}, attachments), make("p", { class: "more" }, "To save them, in a terminal: ", make("code", {}, "picas export --logs FOLDER"), ".")) : null);
  }
}
