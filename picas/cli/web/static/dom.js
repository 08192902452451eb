// Building the page. Text only ever becomes text: nothing here takes HTML.

/** Return a new element. Attributes that begin with "on" are listeners; those that are null or false are left out. */
export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** Replace what is in an element; the link or button in it that has the focus keeps it, if there is one like it. */
export function fill(element, ...children) {
  const focused = element.contains(document.activeElement) ? document.activeElement : null;
  const key = focused && focusKey(focused);
  element.replaceChildren(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  if (key) [...element.querySelectorAll("a, button, summary, [tabindex]")].find((other) => focusKey(other) === key)?.focus();
}

function focusKey(element) {
  return `${element.tagName} ${element.getAttribute("href") ?? element.textContent}`;
}

/** Set the text of an element, if it is another one. */
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/**
 * Return a table. A column is {title, of, kind, less}: `of` returns a cell's content for a row, a text or an element;
 * `kind` is "number", "id", "long" or nothing; `less` says that narrow screens do without it.
 */
export function table(caption, columns, rows, { isCaptionShown = false } = {}) {
  const classes = (column) => [column.kind, column.less ? "less" : ""].filter(Boolean).join(" ") || null;
  const head = columns.map((column) => make("th", { scope: "col", class: classes(column) }, column.title));
  const body = rows.map((row) =>
    make("tr", {}, columns.map((column, number) => {
      const content = column.of(row) ?? "–";
      return number === 0
        ? make("th", { scope: "row", class: classes(column) }, content)
        : make("td", { class: classes(column) }, content);
    })),
  );
  return make("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": caption },
    make("table", {},
      make("caption", { class: isCaptionShown ? null : "unseen" }, caption),
      make("thead", {}, make("tr", {}, head)),
      make("tbody", {}, body)));
}

/** Return a panel: a section with a heading. */
export function panel(title, ...children) {
  return make("section", { class: "panel" }, make("h2", {}, title), children);
}

/** Return a state with its mark. */
export function stateMark(state) {
  return make("span", { class: `state ${state ?? "none"}` }, make("span", { class: "dot", "aria-hidden": "true" }), state ?? "no state");
}

/** Return the outcome of an attempt with its mark. */
export function outcomeMark(outcome) {
  const kind = outcome === "done" ? "done" : ["failed", "time-out", "cancelled"].includes(outcome) ? "error" : "locked";
  return make("span", { class: `state ${kind}` }, make("span", { class: "dot", "aria-hidden": "true" }), outcome ?? "unknown");
}

const SHORT = 16; // characters of an id that is never broken into lines

/** Return a link to a token. */
export function tokenLink(id) {
  return make("a", { href: `#/token/${encodeURIComponent(id)}`, class: id.length <= SHORT ? "whole" : null }, visible(id));
}

const CONTROLS = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u2028-\u202e\u2066-\u2069]/g;

/** Return a text with its control characters in the form \x1b, as the command shows it. */
export function visible(text) {
  return String(text).replace(CONTROLS, (found) => {
    const code = found.charCodeAt(0);
    return code < 256 ? `\\x${code.toString(16).padStart(2, "0")}` : `\\u${code.toString(16).padStart(4, "0")}`;
  });
}
