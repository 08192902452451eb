"use strict";
/*
 * Access control: one name and one password, by HTTP Basic or by the cookie that CouchDB's web interface uses.
 *
 * Only /_up, the files of the web interface, and /_session, for the login, need no password.
 */

const { createHmac, randomBytes, timingSafeEqual } = require("node:crypto");

const COOKIE = "AuthSession";
const SESSION_MS = 12 * 3600 * 1000;
const SAFE = ["GET", "HEAD"];

class Guard {
  constructor(username, password) {
    this.username = username;
    this.key = randomBytes(32);
    this.nameMark = this.#mark(username);
    this.passwordMark = this.#mark(password);
  }

  /** True if the name and the password are correct; takes the same time whichever is wrong. */
  accepts(name, password) {
    const nameOk = timingSafeEqual(this.#mark(String(name)), this.nameMark);
    const passwordOk = timingSafeEqual(this.#mark(String(password)), this.passwordMark);
    return nameOk && passwordOk;
  }

  /** Returns how a request is authenticated: "default" (Basic), "cookie", "" (no credentials), or null (invalid). */
  check(req) {
    const header = req.headers.authorization;
    if (header !== undefined) return this.#basic(header) ? "default" : null;
    const cookie = sessionCookie(req);
    if (!cookie) return "";
    return this.#validSession(cookie) && sameOrigin(req) ? "cookie" : null;
  }

  /** Returns a new value for the session cookie. */
  session() {
    const until = (Date.now() + SESSION_MS).toString(16);
    return `${until}.${this.#mark(`session ${until}`).toString("base64url")}`;
  }

  #validSession(cookie) {
    const [until, proof] = cookie.split(".");
    const given = this.#mark(proof || "");
    const wanted = this.#mark(this.#mark(`session ${until}`).toString("base64url"));
    return timingSafeEqual(given, wanted) && parseInt(until, 16) > Date.now();
  }

  #basic(header) {
    const [scheme, value] = header.split(/\s+/, 2);
    if (scheme.toLowerCase() !== "basic") return false;
    const text = Buffer.from(value || "", "base64").toString("utf8");
    const colon = text.indexOf(":");
    return colon >= 0 && this.accepts(text.slice(0, colon), text.slice(colon + 1));
  }

  #mark(text) {
    return createHmac("sha256", this.key).update(text, "utf8").digest();
  }
}

function sessionCookie(req) {
  for (const pair of (req.headers.cookie || "").split(";")) {
    const [name, value] = pair.trim().split("=", 2);
    if (name === COOKIE) return value;
  }
  return "";
}

/** A browser also sends the cookie with requests of pages from other servers on this machine: these must not write. */
function sameOrigin(req) {
  const origin = req.headers.origin;
  return SAFE.includes(req.method) || !origin || origin === `http://${req.headers.host}`;
}

/** True for requests that need no password. */
function isOpen(req) {
  if (req.path === "/_up" || req.path === "/_session") return true;
  return SAFE.includes(req.method) && (req.path === "/_utils" || req.path.startsWith("/_utils/"));
}

function deny(req, res, reason) {
  // For a request by a script, the header would open the browser's own dialogue above the login page.
  const script = req.headers["sec-fetch-mode"] && req.headers["sec-fetch-mode"] !== "navigate";
  if (!script) res.set("WWW-Authenticate", 'Basic realm="PiCaS"');
  res.status(401).json({ error: "unauthorized", reason });
}

/** Rejects requests without valid credentials. */
function gate(guard) {
  return (req, res, next) => {
    req.authenticated = guard.check(req);
    if (req.authenticated || isOpen(req)) return next();
    const known = req.authenticated === null;
    return deny(req, res, known ? "Name or password is incorrect." : "You are not authorized to access this server.");
  };
}

/** The routes of /_session, as in CouchDB: current user, login, logout. */
function sessionRoutes(app, guard, parsers) {
  const cookie = { httpOnly: true, sameSite: "strict", path: "/" };
  const user = { name: guard.username, roles: ["_admin"] };

  app.get("/_session", (req, res) => {
    if (req.authenticated === null && req.headers.authorization)
      return deny(req, res, "Name or password is incorrect.");
    const info = { authentication_handlers: ["cookie", "default"] };
    if (req.authenticated) info.authenticated = req.authenticated;
    return res.json({ ok: true, userCtx: req.authenticated ? user : { name: null, roles: [] }, info });
  });

  app.post("/_session", ...parsers, (req, res) => {
    const { name, username, password } = req.body || {};
    if (!guard.accepts(name === undefined ? username : name, password))
      return deny(req, res, "Name or password is incorrect.");
    res.cookie(COOKIE, guard.session(), { ...cookie, maxAge: SESSION_MS });
    return res.json({ ok: true, ...user });
  });

  app.delete("/_session", (req, res) => {
    res.clearCookie(COOKIE, cookie);
    res.json({ ok: true });
  });
}

module.exports = { Guard, gate, sessionRoutes };
