"use strict";
/*
 * Access control: one name and one password, by HTTP Basic or by the cookie that CouchDB's web interface uses.
 *
 * Only /_up, the files of the web interface, and /_session, for the login, need no password. A browser that knows the
 * password sends it with requests of any web page, so requests of foreign pages are rejected first.
 */

const { createHmac, randomBytes, timingSafeEqual } = require("node:crypto");

const COOKIE = "AuthSession";
const SESSION_MS = 12 * 3600 * 1000;
const SAFE = ["GET", "HEAD"];
const LOGIN = [...SAFE, "POST", "DELETE"];
const LOGIN_LIMIT = 4096; // bytes in the body of a login, which is read without a password
const LOCAL = ["127.0.0.1", "localhost", "[::1]"];

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
    return this.#validSession(cookie) ? "cookie" : null;
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

/** True if the client calls this server by a name that no other server has. (It may use another port: a tunnel.) */
function isLocal(host) {
  return host === undefined || LOCAL.includes(host.toLowerCase().replace(/:\d*$/, ""));
}

/** True if the request comes from no web page, or from a page of this server. */
function isOurs(origin, host) {
  return origin === undefined || origin === `http://${host}` || origin === `https://${host}`;
}

/** Rejects requests of foreign pages: they name the page as their origin, or use a name that leads here by a trick. */
function screen(req, res, next) {
  const { host, origin } = req.headers;
  if (isLocal(host) && isOurs(origin, host)) return next();
  const reason = "Requests of pages from other servers, and requests to this server by other names, are refused.";
  return res.status(403).json({ error: "forbidden", reason });
}

/** True for requests that need no password. */
function isOpen(req) {
  if (req.path === "/_session") return LOGIN.includes(req.method);
  return SAFE.includes(req.method) && (req.path === "/_up" || /^\/_utils(\/|$)/.test(req.path));
}

/** Lets a request take its time once it is complete: until then, the server ends a connection that is silent. */
function liftTimeout(req) {
  const lift = () => req.socket.setTimeout(0);
  const hasBody = req.headers["transfer-encoding"] !== undefined || Number(req.headers["content-length"]) > 0;
  if (hasBody) req.once("end", lift);
  else lift();
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
    if (req.authenticated) liftTimeout(req);
    if (req.authenticated || isOpen(req)) return next();
    const known = req.authenticated === null;
    return deny(req, res, known ? "Name or password is incorrect." : "You are not authorized to access this server.");
  };
}

/** The routes of /_session, as in CouchDB: current user, login, logout. */
function sessionRoutes(app, guard, express) {
  const parsers = [express.json({ limit: LOGIN_LIMIT }), express.urlencoded({ extended: false, limit: LOGIN_LIMIT })];
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

module.exports = { Guard, gate, screen, sessionRoutes };
