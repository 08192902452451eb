// Charts that are no curves over time: bars for labels, a lane for each pilot, and a map of shares.

import { fill, make, say, table, visible } from "./dom.js";
import { clock, count, day, inDigits } from "./format.js";
import { colour, themes, timeText } from "./plot.js";

const ABOVE = 26; // pixels above the rows, for what is of all rows together

const amount = (value) => (value === null || value === undefined ? "unknown" : inDigits(value, 0, value < 10 ? 2 : value < 100 ? 1 : 0));

/** Bars for labels, as a table: stacked in one line, or one line for each series. */
export class BarChart {
  constructor(chart, series) {
    this.chart = chart;
    this.series = series;
    this.body = make("div");
    const legend = series.length > 1
      ? make("ul", { class: "legend" }, series.map(({ label, colour: name }) => make("li", {}, make("span", { class: `swatch ${name}`, "aria-hidden": "true" }), label)))
      : null;
    this.element = make("figure", { class: "chart" }, legend, this.body);
  }

  stop() {}

  show(labels, values) {
    const { is_stacked: isStacked, title, x_title: xTitle, y_title: yTitle, rows: meanings } = this.chart;
    const sums = labels.map((_, place) => values.reduce((sum, series) => sum + (series[place] ?? 0), 0));
    const largest = Math.max(...(isStacked ? sums : values.flat()).map((value) => value ?? 0)) || 1;
    const piece = (value, name) => {
      const element = make("span", { class: `piece swatch ${name}` });
      element.style.width = `${(100 * (value ?? 0)) / largest}%`;
      element.hidden = !value;
      return element;
    };
    const bars = (place) => make("div", { class: isStacked ? "pieces stacked" : "pieces", "aria-hidden": "true" },
      this.series.map(({ colour: name }, number) => piece(values[number][place], name)));
    const columns = [
      { title: xTitle, kind: "bars", of: (place) => make("div", {}, visible(labels[place]), meanings[place] ? [" ", make("span", { class: "rest" }, visible(meanings[place]))] : null, bars(place)) },
      ...this.series.map(({ label }, number) => ({ title: this.series.length > 1 ? label : yTitle, kind: "number", of: (place) => amount(values[number][place]) })),
    ];
    fill(this.body, table(`${title}, in ${yTitle}`, columns, labels.map((_, place) => place), { isCaptionShown: this.series.length > 1 }));
  }
}

/** What the drawings on a canvas share: their size, their colours, the axis of time, and what is under the pointer. */
class Drawing {
  constructor(chart, rowHeight) {
    this.chart = chart;
    this.rowHeight = rowHeight;
    this.canvas = make("canvas", { role: "img", "aria-label": `${chart.title}. ${chart.text}` });
    this.readout = make("p", { class: "readout", "aria-hidden": "true" });
    this.numbers = make("div");
    this.element = make("figure", { class: "chart" }, this.legend(), this.canvas, this.readout,
      make("details", { ontoggle: (event) => event.target.open && !this.numbers.children.length && this.numbers.append(this.table()) },
        make("summary", {}, "Numbers"), this.numbers));
    this.canvas.addEventListener("pointermove", (event) => this.point(event));
    this.canvas.addEventListener("pointerleave", () => say(this.readout, ""));
    this.resizing = new ResizeObserver(() => this.draw());
    this.resizing.observe(this.element);
    this.restyle = () => this.draw();
    themes.addEventListener("change", this.restyle);
  }

  stop() {
    this.resizing.disconnect();
    themes.removeEventListener("change", this.restyle);
  }

  show() {
    this.draw();
  }

  draw() {
    const width = this.element.clientWidth;
    if (!width || !this.chart.rows.length) return;
    // Marks that are of all rows together are above these.
    this.above = this.chart.marks.some((mark) => mark.row < 0) ? ABOVE : 0;
    const height = this.above + this.rowHeight * this.chart.rows.length + 24;
    const scale = window.devicePixelRatio || 1;
    this.canvas.width = Math.round(width * scale);
    this.canvas.height = Math.round(height * scale);
    this.canvas.style.width = `${width}px`;
    this.canvas.style.height = `${height}px`;
    const pen = this.canvas.getContext("2d");
    pen.scale(scale, scale);
    pen.font = "12px system-ui, sans-serif";
    this.left = Math.min(110, width / 4);
    this.width = width - this.left - 4;
    const { start, end } = this.range();
    this.x = (time) => this.left + (this.width * (time - start)) / (end - start || 1);
    this.time = (x) => start + ((x - this.left) * (end - start)) / this.width;
    this.paint(pen);
    pen.fillStyle = colour("muted");
    const labels = Math.max(2, Math.floor(this.width / 110));
    for (let number = 0; number < labels; number += 1) {
      const time = start + ((end - start) * number) / (labels - 1);
      pen.textAlign = number === 0 ? "left" : number === labels - 1 ? "right" : "center";
      pen.fillText(timeText(time, end - start), this.x(time), height - 6);
    }
    pen.textAlign = "right";
    const every = Math.ceil(16 / this.rowHeight);
    this.chart.rows.forEach((label, row) => {
      if (row % every) return;
      const shown = visible(label);
      pen.fillText(shown.length > 15 ? `${shown.slice(0, 14)}…` : shown, this.left - 6, this.y(row) + Math.min(this.rowHeight, 14) - 2);
    });
    if (this.above) pen.fillText("retries", this.left - 6, this.above - 4);
  }

  y(row) {
    return this.above + row * this.rowHeight;
  }

  rowAt(event) {
    const row = Math.floor((event.offsetY - this.above) / this.rowHeight);
    return row >= 0 && row < this.chart.rows.length && event.offsetX >= this.left ? row : null;
  }

  marks(pen) {
    const together = this.chart.marks.filter((mark) => mark.row < 0);
    const most = Math.max(...together.map((mark) => mark.count), 1);
    pen.fillStyle = colour("muted");
    for (const { x, count: number } of together) {
      const tall = Math.max(1, ((ABOVE - 4) * number) / most);
      pen.fillRect(this.x(x), this.above - 2 - tall, Math.max(1, this.x(x + this.chart.width) - this.x(x) - 0.5), tall);
    }
    for (const { row, x, role } of this.chart.marks) {
      if (row < 0) continue;
      const [center, middle] = [this.x(role === "retry" ? x + this.chart.width / 2 : x), this.y(row + 0.5)];
      if (role === "death") {
        const arm = Math.max(2.5, Math.min(4, this.rowHeight / 2));
        pen.strokeStyle = colour("error");
        pen.lineWidth = 2;
        pen.beginPath();
        pen.moveTo(center - arm, middle - arm);
        pen.lineTo(center + arm, middle + arm);
        pen.moveTo(center - arm, middle + arm);
        pen.lineTo(center + arm, middle - arm);
        pen.stroke();
      } else {
        pen.fillStyle = colour("text");
        pen.fillRect(center - 0.5, this.y(row) + 1, 1, Math.max(2, this.rowHeight - 2));
      }
    }
  }
}

const stamp = (time) => `${day(new Date(time * 1000))} ${clock(new Date(time * 1000), false)}`;
const percent = (share) => (share === null || share === undefined ? "unknown" : `${Math.round(100 * share)} %`);

/** A lane for each pilot, the busier the darker. */
export class Lanes extends Drawing {
  constructor(chart) {
    super(chart, Math.max(5, Math.min(18, 600 / Math.max(chart.rows.length, 1))));
  }

  legend() {
    return make("ul", { class: "legend" },
      make("li", {}, make("span", { class: "swatch blue", "aria-hidden": "true" }), "a pilot, the fuller the busier"),
      make("li", {}, "× found dead"), make("li", {}, "| a retry begins"));
  }

  range() {
    const { spans, x, width } = this.chart;
    return { start: Math.min(...spans.map((span) => span.start), x[0] ?? Infinity), end: Math.max(...spans.map((span) => span.end), (x[x.length - 1] ?? -Infinity) + width) };
  }

  paint(pen) {
    for (const { row, start, end, share } of this.chart.spans) {
      pen.globalAlpha = share === null ? 0.25 : 0.25 + 0.75 * share;
      pen.fillStyle = colour("blue");
      pen.fillRect(this.x(start), this.y(row) + 1, Math.max(1, this.x(end) - this.x(start)), this.rowHeight - 2);
    }
    pen.globalAlpha = 1;
    this.marks(pen);
  }

  point(event) {
    const row = this.rowAt(event);
    const span = row === null ? null : this.chart.spans.find((each) => each.row === row);
    say(this.readout, span ? `${visible(this.chart.rows[row])}  ${span.role}, ${stamp(span.start)} to ${stamp(span.end)}, ${percent(span.share)} at work` : "");
  }

  table() {
    const retries = (row) => this.chart.marks.filter((mark) => mark.row === row && mark.role === "retry").reduce((sum, mark) => sum + mark.count, 0);
    return table("Pilots", [
      { title: "pilot", of: (span) => visible(this.chart.rows[span.row]) },
      { title: "state", of: (span) => span.role },
      { title: "from", of: (span) => stamp(span.start) },
      { title: "to", of: (span) => stamp(span.end) },
      { title: "at work", kind: "number", of: (span) => percent(span.share) },
      { title: "retries", kind: "number", of: (span) => count(retries(span.row)) },
    ], this.chart.spans);
  }
}

/** A row for some pilots, a column for some time: the share of their slots that was at work. */
export class HeatMap extends Drawing {
  constructor(chart) {
    super(chart, Math.max(8, Math.min(18, 480 / Math.max(chart.rows.length, 1))));
  }

  legend() {
    return make("ul", { class: "legend" },
      make("li", {}, make("span", { class: "swatch blue", "aria-hidden": "true" }), "at work, the fuller the more"),
      make("li", {}, "× pilots found dead"));
  }

  range() {
    const { x, width } = this.chart;
    return { start: x[0], end: x[x.length - 1] + width };
  }

  paint(pen) {
    const { x, width, series } = this.chart;
    pen.fillStyle = colour("blue");
    series.forEach(({ values }, row) => {
      values.forEach((share, column) => {
        if (share === null) return;
        pen.globalAlpha = 0.08 + 0.92 * share;
        const [from, to] = [this.x(x[column]), this.x(x[column] + width)];
        pen.fillRect(from, this.y(row) + 0.5, Math.max(1, to - from - 0.5), this.rowHeight - 1);
      });
    });
    pen.globalAlpha = 1;
    this.marks(pen);
  }

  point(event) {
    const row = this.rowAt(event);
    const { x, width, series, rows } = this.chart;
    const column = Math.floor((this.time(event.offsetX) - x[0]) / width);
    const share = row === null ? undefined : series[row].values[column];
    say(this.readout, share === undefined ? "" : `pilots ${rows[row]}, ${stamp(x[column])}: ${share === null ? "none running" : `${percent(share)} at work`}`);
  }

  table() {
    const { x, series } = this.chart;
    return table("The share of the pilots' slots that was at work", [
      { title: "pilots", of: (each) => each.name },
      ...x.map((time, column) => ({ title: stamp(time), kind: "number", of: (each) => (each.values[column] === null ? null : percent(each.values[column])) })),
    ], series);
  }
}
