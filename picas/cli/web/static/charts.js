// The charts of the report.

import { make } from "./dom.js";

export class ChartsView {
  constructor() {
    this.title = "Charts";
    this.element = make("div", {}, make("h1", {}, "Charts"));
  }
}
