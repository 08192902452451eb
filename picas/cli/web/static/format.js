// Numbers, times and sizes as people read them.

import { make } from "./dom.js";

const APART = "\u202f"; // between thousands, as in the report
const RECENT = 12 * 3600 * 1000; // milliseconds for which a time is shown without its day
const MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
const UNITS = [["d", 86400], ["h", 3600], ["min", 60], ["s", 1]];

/** Return a number with its thousands apart, and so many decimals. */
export function inDigits(number, least, most) {
  return number.toLocaleString("en", { minimumFractionDigits: least, maximumFractionDigits: most }).replaceAll(",", APART);
}

/** Return a number with its thousands apart, null for an unknown one. */
export function count(number) {
  return number === null || number === undefined ? null : inDigits(number, 0, 3);
}

/** Return a duration in one unit, rounded to two digits: "50 s", "1.5 h", "22 h". */
export function rough(seconds) {
  if (seconds === null || seconds === undefined) return null;
  for (const [unit, length] of UNITS) {
    const number = Number((seconds / length).toPrecision(2));
    if (number >= 1 || unit === "s") return `${number} ${unit}`;
  }
  return null;
}

/** Return a number of seconds with one digit: "12.3". */
export function seconds(number) {
  return number === null || number === undefined ? null : inDigits(number, 1, 1);
}

/** Return a number of bytes: "12 B", "1.5 kB", "3.0 MB". */
export function bytes(size) {
  if (size === null || size === undefined) return "size unknown";
  let power = 0;
  let number = size;
  while (number >= 1000 && power < 3) {
    number /= 1000;
    power += 1;
  }
  return `${number.toFixed(Math.min(power, 1))} ${["B", "kB", "MB", "GB"][power]}`;
}

const two = (number) => String(number).padStart(2, "0");

/** Return the time of day of a date, in local time. */
export function clock(date, withSeconds = true) {
  const minutes = `${two(date.getHours())}:${two(date.getMinutes())}`;
  return withSeconds ? `${minutes}:${two(date.getSeconds())}` : minutes;
}

/** Return the day of a date, in local time. */
export function day(date) {
  return `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())}`;
}

/** Return the day of a date for people, in local time: "29 Nov". */
export function shortDay(date) {
  return `${date.getDate()} ${MONTHS[date.getMonth()]}`;
}

/** Return an element with a time in local time, of an RFC 3339 text; the day is left out if that was lately. */
export function when(text) {
  if (!text) return null;
  const date = new Date(text);
  const now = new Date();
  const isRecent = Math.abs(now - date) < RECENT;
  const shownDay = date.getFullYear() === now.getFullYear() ? shortDay(date) : day(date);
  const shown = isRecent ? clock(date) : `${shownDay} ${clock(date, false)}`;
  return make("time", { datetime: text, title: `${day(date)} ${clock(date)} (${zone()})` }, shown);
}

/** Return the name of the time zone of this browser. */
export function zone() {
  return Intl.DateTimeFormat().resolvedOptions().timeZone || "local time";
}

/** Return a part of a whole as a percentage that says 0 % and 100 % only if that is so. */
export function share(part, whole) {
  if (!whole) return "";
  const percent = (100 * part) / whole;
  if (part > 0 && percent < 1) return "< 1 %";
  if (part < whole && percent > 99) return "> 99 %";
  return `${Math.round(percent)} %`;
}
