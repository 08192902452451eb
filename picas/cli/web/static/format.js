// Numbers, times and sizes as people read them.

import { make } from "./dom.js";

const NUMBERS = new Intl.NumberFormat("en");
const UNITS = [["d", 86400], ["h", 3600], ["min", 60], ["s", 1]];

/** Return a number with its thousands apart. */
export function count(number) {
  return number === null || number === undefined ? null : NUMBERS.format(number);
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
  return number === null || number === undefined ? null : number.toLocaleString("en", { minimumFractionDigits: 1, maximumFractionDigits: 1 });
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

/** Return an element with a time in local time, of an RFC 3339 text; the day is left out if it is today. */
export function when(text) {
  if (!text) return null;
  const date = new Date(text);
  const shown = day(date) === day(new Date()) ? clock(date) : `${day(date)} ${clock(date, false)}`;
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
