// The charts of the report, drawn from its data.

import { BarChart, HeatMap, Lanes } from "./drawn.js";
import { fill, make, visible } from "./dom.js";
import { count, when } from "./format.js";
import { read } from "./live.js";
import { TimeChart } from "./plot.js";

const AGAIN = 1000; // milliseconds between two questions how far the charts are

/** The colours of what series stand for. */
const COLOURS = {
  done: "done", failed: "error", error: "error", stopped: "locked", locked: "locked", lost: "violet", todo: "todo", other: "muted",
  work: "blue", slots: "text", cost: "blue", median: "blue", most: "violet", largest: "locked", asked: "muted", share: "blue",
};

function drawing(chart) {
  const series = chart.series.map(({ name, role }) => ({ label: name, colour: COLOURS[role] ?? "blue", isFilled: role === "work" }));
  if (new Set(series.map((each) => each.colour)).size < series.length && series.length === 2) series[1].colour = "locked";
  if (chart.kind === "lanes") return new Lanes(chart);
  if (chart.kind === "heat") return new HeatMap(chart);
  if (!chart.is_time) return new BarChart(chart, series);
  return new TimeChart({
    title: chart.title,
    heading: false,
    unit: chart.y_title,
    width: chart.width,
    kind: chart.kind === "lines" ? "steps" : "areas",
    isStacked: chart.is_stacked,
    series,
    describe: () => chart.text,
  });
}

export class ChartsView {
  constructor() {
    this.title = "Charts";
    this.drawn = [];
    this.summary = make("p", { class: "summary", role: "status" }, "reading…");
    this.progress = make("progress", { max: 1, "aria-label": "Tokens that were read", hidden: true });
    this.list = make("div", { class: "charts" });
    this.element = make("div", {}, make("h1", {}, "Charts"), this.summary, this.progress, this.list);
  }

  start() {
    this.load();
  }

  stop() {
    this.isStopped = true;
    clearTimeout(this.timer);
    this.drawn.forEach((each) => each.stop());
  }

  async load() {
    try {
      const answer = await read("/api/charts.json");
      if (!this.isStopped) this.show(answer);
    } catch (error) {
      if (!this.isStopped) fill(this.summary, make("span", { class: "fault" }, error.message));
    }
  }

  show({ charts, read: readAt, reading, problem }) {
    if (reading) this.timer = setTimeout(() => this.load(), AGAIN);
    this.progress.hidden = !reading;
    if (reading?.total) this.progress.value = reading.handled / reading.total;
    const made = charts && ["The pool as it was at ", when(readAt), "."];
    if (problem) fill(this.summary, make("span", { class: "fault" }, visible(problem)));
    else if (reading) fill(this.summary, made, charts ? " It is being read again." : reading.total ? `Reading all ${count(reading.total)} documents of the pool…` : "Reading the pool…");
    else fill(this.summary, made, " ", make("code", {}, "picas report"), " makes a file with these and more.");
    if (!charts || readAt === this.readAt) return;
    this.readAt = readAt;
    this.drawn.forEach((each) => each.stop());
    this.drawn = charts.map(drawing);
    fill(this.list, charts.length ? null : make("p", { class: "empty" }, "Nothing has happened yet."), charts.map((chart, number) =>
      make("section", { class: `panel ${chart.is_time ? "wide" : ""}` }, make("h2", {}, chart.title), make("p", {}, chart.text), this.drawn[number].element,
        chart.note ? make("p", { class: "more" }, chart.note) : null)));
    charts.forEach((chart, number) => this.drawn[number].show(chart.x, chart.series.map((series) => series.values)));
  }
}
