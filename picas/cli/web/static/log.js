// The log of a token: its end, or what its program prints now.

import { fill, make, say, visible } from "./dom.js";
import { bytes } from "./format.js";

const TAIL = 65536; // bytes of a log that are fetched
const KEPT = 200000; // characters that are shown of what is printed live
const COLOURS = /\u001b\[[0-9;]*m/g;

/** Return the output of a program as text: without colours, each line on its own, other control characters escaped. */
export function readable(text) {
  return visible(text.replace(COLOURS, "").replace(/\r\n?/g, "\n"));
}

export class LogPanel {
  constructor(frame, id) {
    this.frame = frame;
    this.id = id;
    this.isErr = false;
    this.isLive = false;
    this.text = "";
    this.token = null;
    this.buttons = [["output", false], ["error output", true]].map(([label, isErr]) =>
      make("button", { type: "button", "aria-pressed": String(isErr === this.isErr), onclick: () => this.choose(isErr) }, label));
    this.note = make("p", { class: "note" });
    this.pre = make("pre", { class: "log", tabindex: "0", role: "region", "aria-label": "The log", hidden: true });
    this.element = make("section", { class: "panel" },
      make("div", { class: "heading" }, make("h2", {}, "Log"), make("div", { class: "choice", role: "group", "aria-label": "Which output" }, this.buttons)),
      this.note, this.pre);
  }

  stop() {
    this.isStopped = true;
  }

  choose(isErr) {
    this.isErr = isErr;
    this.buttons.forEach((button, number) => button.setAttribute("aria-pressed", String((number === 1) === isErr)));
    this.text = "";
    this.begin();
  }

  /** Show the log of a token, anew if the token has changed. */
  show(token) {
    this.token = token;
    this.begin();
  }

  begin() {
    const isLocked = this.token.state === "locked";
    if (isLocked) {
      if (this.hasEnded) this.frame.follow(null, false); // a new attempt has begun meanwhile
      this.isLive = true;
      this.hasEnded = false;
      this.frame.follow(this.id, this.isErr);
      if (!this.text) {
        fill(this.note, "at work: the first lines come with the next heartbeat of the pilot");
        this.pre.hidden = true;
      }
      return;
    }
    if (this.isLive) this.frame.follow(null, false);
    this.isLive = false;
    this.load();
  }

  hear(name, data) {
    if (!this.isLive) return;
    if (data.has_ended) this.hasEnded = true;
    if (name === "log") {
      this.text = ((data.is_anew ? "" : this.text) + data.text).slice(-KEPT);
      if (this.text) this.write(this.text);
      fill(this.note, this.text ? "live" : "at work: the first lines come with the next heartbeat of the pilot");
    } else if (data.problem) fill(this.note, visible(data.problem));
  }

  write(text) {
    const isAtEnd = this.pre.hidden || this.pre.scrollHeight - this.pre.scrollTop - this.pre.clientHeight < 40;
    this.pre.hidden = false;
    say(this.pre, readable(text));
    if (isAtEnd) this.pre.scrollTop = this.pre.scrollHeight;
  }

  async load() {
    const isErr = this.isErr;
    const query = new URLSearchParams({ token: this.id, err: isErr ? "1" : "0" });
    const name = `logs_${this.id}.${isErr ? "err" : "out"}`;
    if (!this.token.attachments.some((attachment) => attachment.name === name)) {
      fill(this.note, isErr ? "There is no log of the error output." : "There is no log of the output.");
      this.pre.hidden = true;
      return;
    }
    try {
      const answer = await fetch(`/log?${query}&tail=${TAIL}`);
      const content = await answer.arrayBuffer();
      if (this.isStopped || this.isLive || isErr !== this.isErr) return;
      const text = new TextDecoder().decode(content);
      if (!answer.ok) {
        let line = text;
        try {
          line = JSON.parse(text).error;
        } catch {
          // it is a line of text
        }
        fill(this.note, visible(line));
        return;
      }
      const size = Number(answer.headers.get("X-Picas-Size"));
      const attempt = answer.headers.get("X-Picas-Attempt");
      const whole = make("a", { href: `/log?${query}`, target: "_blank", rel: "noopener" }, size > content.byteLength ? `all ${bytes(size)}` : "as a file");
      const part = size > content.byteLength ? `the last ${bytes(content.byteLength)} of it, ` : size ? `${bytes(size)}, ` : "empty, ";
      fill(this.note, attempt ? `of attempt ${attempt}: ` : "", part, whole);
      this.text = text;
      this.pre.hidden = !size;
      if (size) this.write(text);
    } catch {
      fill(this.note, "picas web does not answer: is it still running?");
    }
  }
}
