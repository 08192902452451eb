// The frame of the page: which view is shown, and what all views say about the connection.

import { fill, make, say, visible } from "./dom.js";
import { clock, count, when } from "./format.js";
import { Live, read } from "./live.js";
import { ChartsView } from "./charts.js";
import { FailuresView } from "./failures.js";
import { OverviewView } from "./overview.js";
import { PilotsView } from "./pilots.js";
import { TokenView } from "./token.js";
import { TokensView } from "./tokens.js";

const SPOKEN = 60000; // milliseconds between two times that a screen reader is told the counts
const OLD = 12; // seconds after which what was read counts as old

const main = document.getElementById("main");
const known = { status: null, details: null, pulse: null, isOpen: true, lostAt: null };
let view = null;
let spokenAt = -Infinity;

const live = new Live((name, data) => {
  if (name === "connection") {
    if (data.isOpen !== known.isOpen) known.lostAt = data.isOpen ? null : new Date();
    known.isOpen = data.isOpen;
    showConnection();
    return;
  }
  if (name in known) known[name] = data;
  if (name === "pulse") showConnection();
  if (name === "status") speak(data);
  view?.hear?.(name, data);
});

const frame = {
  known,
  /** Follow what the program of a token prints, null for none. */
  follow: (token, isErr) => live.open(token, isErr),
};

/** Return what a part of an address stands for. One that somebody has typed or cut off may be no encoded text. */
function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

function route() {
  const isPlace = !location.hash || location.hash.startsWith("#/");
  if (!isPlace && view) {
    // The link that skips to the content; who is there already stays.
    if (!main.contains(document.activeElement)) main.focus();
    return;
  }
  const hash = isPlace && location.hash ? location.hash : "#/";
  const [path, query = ""] = hash.slice(2).split("?", 2);
  const [name, ...rest] = path.split("/");
  const parameters = new URLSearchParams(query);
  const views = {
    "": () => new OverviewView(frame),
    tokens: () => new TokensView(frame, parameters),
    token: () => new TokenView(frame, decoded(rest.join("/"))),
    failures: () => new FailuresView(),
    pilots: () => new PilotsView(frame),
    charts: () => new ChartsView(frame),
  };
  view?.stop?.();
  const isFirst = view === null;
  view = views[Object.hasOwn(views, name) ? name : ""]();
  live.open();
  fill(main, view.element);
  document.title = `${view.title} – ${poolName} – picas`;
  for (const link of document.querySelectorAll("header nav a")) {
    const target = link.getAttribute("href");
    const isHere = target === `#/${name}` || (name === "token" && target === "#/tokens");
    if (isHere) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  for (const event of ["status", "details"]) if (known[event]) view.hear?.(event, known[event]);
  if (!isFirst) {
    main.focus({ preventScroll: true });
    window.scrollTo(0, 0);
  }
  view.start?.();
}

function showConnection() {
  const { isOpen, pulse, lostAt } = known;
  const notices = [];
  let text = "live";
  let kind = "good";
  if (!isOpen) {
    [text, kind] = ["page disconnected", "bad"];
    notices.push(`This page has lost picas web at ${clock(lostAt ?? new Date())}, and shows what it knew then. It tries again. Is the command still running, and the tunnel open?`);
  } else if (pulse?.away_since) {
    [text, kind] = ["server away", "bad"];
    notices.push(["The server of the pool is away since ", when(pulse.away_since), `: ${visible(pulse.problem ?? "")}. These are the last numbers.`]);
  } else if (pulse?.indexing) {
    [text, kind] = ["indexing", "fair"];
    notices.push(`The server is ${visible(pulse.indexing)}. Until then, something is missing here, or old.`);
  } else if (pulse?.problem) {
    const isOld = pulse.age_seconds > OLD;
    [text, kind] = isOld ? ["nothing can be read", "bad"] : ["not all can be read", "fair"];
    notices.push([`${isOld ? "Nothing" : "Not all"} can be read: ${visible(pulse.problem).replace(/\.$/, "")}.`, isOld ? [" These are the last numbers, of ", when(pulse.read), "."] : ""]);
  } else if (pulse && pulse.age_seconds > OLD) {
    [text, kind] = ["waiting", "fair"];
    notices.push(["The server has not answered since ", when(pulse.read), "."]);
  }
  const connection = document.getElementById("connection");
  connection.dataset.kind = kind;
  say(document.getElementById("connection-text"), text);
  document.body.classList.toggle("stale", kind === "bad");
  const shown = document.getElementById("notices");
  const wanted = notices.map((notice) => make("p", { class: "notice" }, notice));
  if (shown.textContent !== wanted.map((each) => each.textContent).join("")) shown.replaceChildren(...wanted);
}

function speak(status) {
  const now = performance.now();
  if (now - spokenAt < SPOKEN) return;
  spokenAt = now;
  const states = ["todo", "locked", "done", "error"];
  say(document.getElementById("spoken"), states.map((state) => `${state} ${count(status[state])}`).join(", "));
}

let poolName = "";
window.addEventListener("hashchange", route);
try {
  const pool = await read("/api/pool.json");
  poolName = visible(pool.database);
  const shown = document.getElementById("pool");
  say(shown, poolName);
  shown.title = pool.server;
} catch {
  // the connection says so
}
route();
