// Drawing with uPlot: bars and lines over time, in the colours of the page, each with a text beside it.

import { make, say, table } from "./dom.js";
import { clock, count, day, shortDay } from "./format.js";

const HEIGHT = 190;
/** Says when the page changes between light and dark. */
export const themes = window.matchMedia("(prefers-color-scheme: dark)");

/** Return the value of a colour of the page. */
export function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}

function axes(largest) {
  const common = {
    stroke: colour("muted"),
    grid: { stroke: colour("line"), width: 1 },
    ticks: { stroke: colour("line"), width: 1, size: 4 },
    font: "12px system-ui, sans-serif",
  };
  const short = (number) => (number >= 1e6 ? `${number / 1e6}M` : number >= 1e4 ? `${number / 1e3}k` : count(number));
  return [
    { ...common, size: 28, space: 60, values: (plot, splits) => labels(splits) },
    {
      ...common,
      size: 46,
      incrs: largest !== null && largest <= 10 ? [1, 2, 5] : undefined,
      values: (plot, splits) => splits.map((split) => (split === null ? "" : short(split))),
    },
  ];
}

/** Return a time: with the day if all the time that is shown is longer than half a day. */
export function timeText(time, length) {
  const date = new Date(time * 1000);
  return length > 43200 ? `${shortDay(date)} ${clock(date, false)}` : clock(date, false);
}

function labels(splits) {
  const isLong = splits[splits.length - 1] - splits[0] > 43200;
  return splits.map((split) => {
    const date = new Date(split * 1000);
    return isLong && clock(date) === "00:00:00" ? shortDay(date) : clock(date, false);
  });
}

/**
 * A chart over time that can be given new numbers.
 *
 * @param {{title: string, series: {label: string, colour: string}[], kind: "bars" | "steps" | "areas",
 *   unit?: string, isStacked?: boolean, describe?: (times: number[], values: number[][]) => string}} options
 */
export class TimeChart {
  constructor(options) {
    this.options = options;
    this.data = null;
    this.plot = null;
    this.canvas = make("div", { class: "plot", role: "img", "aria-label": options.title });
    this.readout = make("p", { class: "readout", "aria-hidden": "true" });
    this.numbers = make("div");
    const legend = options.series.map(({ label, colour: name }) =>
      make("li", {}, make("span", { class: `swatch ${name}`, "aria-hidden": "true" }), label));
    this.element = make("figure", { class: "chart" },
      options.heading === false ? null : make("figcaption", {}, options.title),
      make("ul", { class: "legend" }, legend, options.unit ? make("li", { class: "rest" }, options.unit) : null), this.canvas, this.readout,
      make("details", { ontoggle: (event) => event.target.open && this.showNumbers() }, make("summary", {}, "Numbers"), this.numbers));
    this.resizing = new ResizeObserver(() => this.resize());
    this.resizing.observe(this.canvas);
    this.restyle = () => this.draw();
    themes.addEventListener("change", this.restyle);
  }

  stop() {
    this.resizing.disconnect();
    themes.removeEventListener("change", this.restyle);
    this.plot?.destroy();
  }

  /** Show numbers: times in seconds since the epoch, and the values of each series. */
  show(starts, series) {
    const { width } = this.options;
    // The last step has an end too.
    const times = width && starts.length ? [...starts, starts[starts.length - 1] + width] : starts;
    const values = width && starts.length ? series.map((each) => [...each, each[each.length - 1]]) : series;
    const text = JSON.stringify([times, values]);
    if (text === this.text) return;
    this.text = text;
    this.data = [times, values];
    this.canvas.setAttribute("aria-label", `${this.options.title}. ${this.options.describe?.(times, values) ?? ""}`);
    if (this.numbers.parentElement.open) this.showNumbers();
    this.draw();
  }

  stacked() {
    const [times, values] = this.data;
    if (!this.options.isStacked) return [times, ...values];
    // The sums of a series and those below it; the largest is drawn first, and the others over it.
    const sums = [];
    values.forEach((series, number) => {
      sums.push(series.map((value, place) => (value ?? 0) + (number ? sums[number - 1][place] : 0)));
    });
    return [times, ...sums.reverse()];
  }

  draw() {
    if (!this.data || !this.canvas.isConnected) return;
    this.plot?.destroy();
    const data = this.stacked();
    const { series, kind, isStacked } = this.options;
    const ordered = isStacked ? [...series].reverse() : series;
    const paths = kind === "bars" ? uPlot.paths.bars({ size: [0.8, 40], align: 1 }) : uPlot.paths.stepped({ align: 1 });
    const largest = Math.max(...data.slice(1).flat().filter((value) => value !== null), 0);
    this.plot = new uPlot(
      {
        width: Math.max(this.canvas.clientWidth, 100),
        height: HEIGHT,
        legend: { show: false },
        cursor: { y: false, points: { show: false }, drag: { x: false, y: false } },
        scales: { x: { time: true }, y: { range: [0, Math.max(largest * 1.05, 1)] } },
        axes: axes(largest),
        series: [
          {},
          ...ordered.map(({ label, colour: name, isFilled }) => ({
            label,
            paths,
            points: { show: false },
            stroke: colour(name),
            width: kind === "steps" ? 1.5 : 0,
            fill: kind === "steps" ? (isFilled ? `${colour(name)}40` : undefined) : colour(name),
          })),
        ],
        hooks: { setCursor: [(plot) => this.read(plot.cursor.idx)] },
      },
      data,
      this.canvas,
    );
  }

  read(place) {
    if (place === null || place === undefined) {
      say(this.readout, "");
      return;
    }
    const [times, values] = this.data;
    const parts = this.options.series.map(({ label }, number) => `${label} ${count(values[number][place]) ?? "unknown"}`);
    say(this.readout, `${timeText(times[place], times[times.length - 1] - times[0])}  ${parts.join(", ")}`);
  }

  resize() {
    if (!this.plot) {
      this.draw();
      return;
    }
    const width = Math.max(this.canvas.clientWidth, 100);
    if (Math.abs(width - this.plot.width) > 1) this.plot.setSize({ width, height: HEIGHT });
  }

  showNumbers() {
    if (!this.data) return;
    const [times, values] = this.data;
    const columns = [
      { title: "time", of: (place) => `${day(new Date(times[place] * 1000))} ${clock(new Date(times[place] * 1000), false)}` },
      ...this.options.series.map(({ label }, number) => ({ title: label, kind: "number", of: (place) => count(values[number][place]) })),
    ];
    this.numbers.replaceChildren(table(this.options.title, columns, times.map((_, place) => place)));
  }
}
