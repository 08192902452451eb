// The pool at a glance.

import { fill, make, outcomeMark, panel, say, table, tokenLink, visible } from "./dom.js";
import { count, rough, share, when } from "./format.js";
import { TimeChart } from "./plot.js";
import { failureColumns } from "./failures.js";
import { pilotColumns } from "./pilots.js";

const STATES = ["todo", "locked", "done", "error"];
const MEANINGS = { todo: "waiting", locked: "at work", done: "succeeded", error: "failed" };
const FAILED = ["failed", "time-out", "cancelled"];

export class OverviewView {
  constructor() {
    this.title = "Overview";
    this.cards = {};
    const cards = STATES.map((state) => {
      const number = make("span", { class: "number" }, "–");
      const part = make("span", { class: "part" });
      this.cards[state] = { number, part };
      return make("li", {}, make("a", { class: `card ${state}`, href: `#/tokens?state=${state}` },
        make("span", { class: "name" }, make("span", { class: "dot", "aria-hidden": "true" }), state),
        number, make("span", { class: "meaning" }, `${MEANINGS[state]} `, part)));
    });
    this.bar = make("div", { class: "bar", role: "img", "aria-label": "The states of all tokens" });
    this.pieces = STATES.toReversed?.() ?? [...STATES].reverse();
    this.progress = make("dl", { class: "facts" });
    this.pause = make("div");
    this.attention = make("div");
    this.chart = new TimeChart({
      title: "Attempts that have ended, by minute, in the last hour",
      heading: false,
      kind: "bars",
      unit: "attempts in a minute",
      isStacked: true,
      series: [{ label: "done", colour: "done" }, { label: "failed", colour: "error" }, { label: "put back", colour: "locked" }],
      describe: (times, [done, failed, back]) => {
        const sum = (numbers) => numbers.reduce((total, number) => total + number, 0);
        return `In the last hour, ${sum(done)} have succeeded, ${sum(failed)} have failed, ${sum(back)} were put back.`;
      },
    });
    this.chartBox = make("div", {}, this.chart.element);
    this.failures = make("div");
    this.pilots = make("div");
    this.newest = make("div");
    for (const box of [this.failures, this.pilots, this.newest]) fill(box, make("p", { class: "empty" }, "reading…"));
    this.element = make("div", {},
      make("h1", { class: "unseen" }, "Overview"),
      this.pause,
      make("ul", { class: "cards" }, cards), this.bar, this.progress, this.attention,
      make("div", { class: "columns" },
        make("div", {}, panel("Ends by minute", this.chartBox), panel("Why tokens have failed", this.failures)),
        make("div", {}, panel("Newest ends", this.newest), panel("Pilots", this.pilots))));
  }

  stop() {
    this.chart.stop();
  }

  hear(name, data) {
    if (name === "status") this.showStatus(data);
    if (name === "details") this.showDetails(data);
  }

  showStatus(status) {
    const total = STATES.reduce((sum, state) => sum + status[state], 0);
    for (const state of STATES) {
      say(this.cards[state].number, count(status[state]));
      say(this.cards[state].part, share(status[state], total));
    }
    const order = ["done", "error", "locked", "todo"];
    this.bar.setAttribute("aria-label", total
      ? `Of ${count(total)} tokens: ${order.map((state) => `${state} ${share(status[state], total)}`).join(", ")}`
      : "There are no tokens");
    if (!this.bar.children.length) this.bar.append(...order.map((state) => make("span", { class: state })));
    order.forEach((state, place) => {
      this.bar.children[place].style.flexGrow = status[state];
      this.bar.children[place].hidden = !status[state];
    });
    this.showProgress(status, total);
    this.showPause(status.paused);
    this.showAttention(status);
  }

  showProgress(status, total) {
    const rate = status.ended_per_minute;
    const left = status.todo + status.locked;
    const perMinute = rate === null ? null : `${rate >= 1 ? rate.toFixed(1) : rate.toPrecision(2)}/min`;
    const silent = status.pilots_silent ? `, ${count(status.pilots_silent)} silent` : "";
    const pairs = [
      ["tokens", count(total)],
      ["rate", perMinute && `${perMinute} over ${Math.round(status.window_seconds / 60)} min`],
      ["to go", left === 0 && total ? "nothing" : status.seconds_left === null ? null : `about ${rough(status.seconds_left)}`],
      ["pilots", status.pilots_running === null ? null : `${count(status.pilots_running)} running${silent}`],
      ["slots", status.slots ? `${count(status.slots_busy)} of ${count(status.slots)} busy` : null],
    ];
    const shown = pairs.filter(([, text]) => text);
    fill(this.progress, shown.map(([name, text]) => make("div", {}, make("dt", {}, name), make("dd", {}, text))));
  }

  showPause(paused) {
    if (!paused) {
      fill(this.pause);
      return;
    }
    const by = paused.by ? ` by ${visible(paused.by)}` : "";
    const since = paused.since ? [" since ", when(paused.since)] : [];
    fill(this.pause, make("p", { class: "notice" }, `The pool is paused${by}`, since, paused.message ? `: ${visible(paused.message)}` : "",
      ". ", make("code", {}, "picas resume"), " ends that."));
  }

  showAttention(status) {
    const lines = [];
    const tokens = (number) => (number === 1 ? "1 token" : `${count(number)} tokens`);
    for (const kind of status.without_pilot) {
      const needs = [
        `${kind.cores} ${kind.cores === 1 ? "core" : "cores"}`,
        kind.memory_mb && `${count(kind.memory_mb)} MB`,
        kind.gpus && `${kind.gpus} ${kind.gpus === 1 ? "GPU" : "GPUs"}`,
        kind.tags.length && kind.tags.map(visible).join(", "),
        kind.walltime_seconds && rough(kind.walltime_seconds),
        kind.longest_attempt_seconds && `more time than ${rough(kind.longest_attempt_seconds)}`,
      ].filter(Boolean);
      lines.push(`No running pilot has what ${tokens(kind.count)} in todo ${kind.count === 1 ? "needs" : "need"}: ${needs.join(", ")}`);
    }
    if (status.invalid_needs) {
      const example = status.invalid_needs.token ? [", for example ", tokenLink(status.invalid_needs.token)] : [];
      lines.push([`Invalid needs, which pilots ignore, in ${tokens(status.invalid_needs.count)}`, example, `: ${visible(status.invalid_needs.fault)}`]);
    }
    if (status.in_no_state) lines.push(`${tokens(status.in_no_state)} in no state, because lock or done is missing or invalid: no pilot takes ${status.in_no_state === 1 ? "it" : "them"}`);
    if (status.of_type_task) lines.push(`${count(status.of_type_task)} of type “task” instead of “token”: no pilot takes ${status.of_type_task === 1 ? "it" : "them"}`);
    if (status.in_conflict) lines.push(`${tokens(status.in_conflict)} with conflicting revisions, of which pilots see one`);
    const text = JSON.stringify([status.without_pilot, status.invalid_needs, status.in_no_state, status.of_type_task, status.in_conflict]);
    if (text === this.attentionText) return;
    this.attentionText = text;
    const most = 10;
    const more = lines.length > most ? [`and ${lines.length - most} more: picas status lists them`] : [];
    fill(this.attention, lines.length ? make("section", { class: "panel attention" }, make("h2", {}, "Needs a person"),
      make("ul", {}, [...lines.slice(0, most), ...more].map((line) => make("li", {}, line)))) : null);
  }

  showDetails(details) {
    const lacking = make("p", { class: "empty" }, "Unknown: there is no design document Report. An administrator of the database creates it with ", make("code", {}, "picas views"), ".");
    if (details.minutes) {
      if (this.chartBox.firstChild !== this.chart.element) fill(this.chartBox, this.chart.element);
      const times = details.minutes.map((minute) => Date.parse(minute.start) / 1000);
      const sum = (minute, wanted) => Object.entries(minute.by_outcome).reduce((total, [outcome, number]) => total + (wanted(outcome) ? number : 0), 0);
      this.chart.show(times, [
        details.minutes.map((minute) => sum(minute, (outcome) => outcome === "done")),
        details.minutes.map((minute) => sum(minute, (outcome) => FAILED.includes(outcome))),
        details.minutes.map((minute) => sum(minute, (outcome) => outcome !== "done" && !FAILED.includes(outcome))),
      ]);
    } else fill(this.chartBox, lacking.cloneNode(true));
    this.showFailures(details, lacking);
    this.showPilots(details);
    if (!details.newest) fill(this.newest, lacking);
    else if (!details.newest.length) fill(this.newest, make("p", { class: "empty" }, "No attempt has ended yet."));
    else {
      fill(this.newest, table("Newest ends of attempts", [
        { title: "token", kind: "id", of: (end) => tokenLink(end.token) },
        { title: "time", of: (end) => when(end.time) },
        { title: "outcome", of: (end) => outcomeMark(end.outcome) },
        { title: "reason", kind: "long", of: (end) => (end.reason ? visible(end.reason) : "") },
      ], details.newest));
    }
  }

  showFailures(details, lacking) {
    if (!details.errors) {
      fill(this.failures, lacking.cloneNode(true));
      return;
    }
    if (!details.errors.length) {
      fill(this.failures, make("p", { class: "empty" }, "No token is in error."));
      return;
    }
    const more = details.in_other_errors ? `, ${count(details.in_other_errors)} more tokens in others` : "";
    fill(this.failures, table("Groups of failures", failureColumns(details.errors), details.errors),
      make("p", { class: "more" }, make("a", { href: "#/failures" }, "All groups, and how to retry them"), more));
  }

  showPilots(details) {
    if (!details.pilots.length) {
      fill(this.pilots, make("p", { class: "empty" }, "No pilot is running."));
      return;
    }
    const rest = details.pilots_known - details.pilots.length;
    fill(this.pilots, table("Pilots", pilotColumns(true), details.pilots),
      make("p", { class: "more" }, make("a", { href: "#/pilots" }, rest > 0 ? `All ${count(details.pilots_known)} pilots` : "More on these pilots")));
  }
}
