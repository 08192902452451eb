// What is live on the page comes over one stream of server-sent events. A page that nobody sees has none.

const SILENCE = 15000; // milliseconds without an event after which the connection counts as lost
const AGAIN = 3000; // milliseconds until the next try
const HIDDEN = 20000; // milliseconds after which a page that nobody sees gives up its connection
const NAMES = ["status", "details", "pulse", "log", "log-state"];

export class Live {
  /** @param {(name: string, data: object) => void} listener is called with each event, and with "connection" */
  constructor(listener) {
    this.listener = listener;
    this.query = "";
    this.source = null;
    this.watchdog = null;
    this.retry = null;
    this.hiding = null;
    document.addEventListener("visibilitychange", () => this.heedVisibility());
  }

  /** Open the stream; with a token, also for what its program prints. */
  open(token = null, isErr = false) {
    const query = token === null ? "" : `?follow=${encodeURIComponent(token)}&err=${isErr ? 1 : 0}`;
    if (this.source && query === this.query) return;
    this.query = query;
    this.connect();
  }

  connect() {
    this.close();
    const source = new EventSource(`/api/events${this.query}`);
    this.source = source;
    for (const name of NAMES) {
      source.addEventListener(name, (event) => {
        if (source !== this.source) return;
        this.heard();
        this.listener(name, JSON.parse(event.data));
      });
    }
    source.onerror = () => source === this.source && this.lose();
    this.watchdog = setTimeout(() => this.lose(), SILENCE);
  }

  heard() {
    clearTimeout(this.watchdog);
    this.watchdog = setTimeout(() => this.lose(), SILENCE);
    this.listener("connection", { isOpen: true });
  }

  lose() {
    this.close();
    this.listener("connection", { isOpen: false });
    this.retry = setTimeout(() => this.connect(), AGAIN);
  }

  close() {
    clearTimeout(this.watchdog);
    clearTimeout(this.retry);
    this.source?.close();
    this.source = null;
  }

  heedVisibility() {
    clearTimeout(this.hiding);
    if (document.hidden) this.hiding = setTimeout(() => this.close(), HIDDEN);
    else if (!this.source) this.connect();
  }
}

/** Return the answer to a request, as JSON. */
export async function read(path, parameters = {}) {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(parameters)) {
    for (const each of Array.isArray(value) ? value : [value]) {
      if (each !== null && each !== undefined && each !== "") query.append(name, each);
    }
  }
  let answer;
  try {
    answer = await fetch(`${path}?${query}`);
  } catch {
    throw new Error("picas web does not answer: is it still running?");
  }
  const text = await answer.text();
  if (answer.ok) return JSON.parse(text);
  let line = text;
  try {
    line = JSON.parse(text).error;
  } catch {
    // it is a line of text
  }
  throw new Error(line);
}
