/** Numbers and times in words. Times of the server are epoch microseconds. */

const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });
const day = new Intl.DateTimeFormat(undefined, { dateStyle: "medium" });
const full = new Intl.DateTimeFormat(undefined, { dateStyle: "full", timeStyle: "long" });
const number = new Intl.NumberFormat();
const UNITS = [[86_400, "d"], [3_600, "h"], [60, "min"], [1, "s"]];

export const count = (value) => number.format(value);
export const changes = (value) => (value === 1 ? "1 change" : `${count(value)} changes`);
export const iso = (micros) => new Date(micros / 1000).toISOString();
export const fullTime = (micros) => full.format(micros / 1000);

/** The time of day, with its milliseconds; with the date if that is not today. */
export function timeOfDay(micros) {
  const date = new Date(micros / 1000);
  const time = `${clock.format(date)}.${String(date.getMilliseconds()).padStart(3, "0")}`;
  return date.toDateString() === new Date().toDateString() ? time : `${day.format(date)} ${time}`;
}

/** 0.4 s, 12 s, 3 min 20 s, 5 h 2 min: the largest unit and the next one. */
export function duration(seconds) {
  if (seconds < 10) return `${Math.round(seconds * 10) / 10} s`;
  const whole = Math.round(seconds);
  const first = UNITS.findIndex(([size]) => whole >= size);
  let rest = whole;
  const parts = [];
  for (const [size, unit] of UNITS.slice(first, first + 2)) {
    if (rest >= size) parts.push(`${count(Math.floor(rest / size))} ${unit}`);
    rest %= size;
  }
  return parts.join(" ");
}

/** How long ago in whole seconds, for text that is renewed every second. */
export function ago(micros, now) {
  const seconds = Math.max(0, Math.floor((now - micros) / 1_000_000));
  return seconds < 2 ? "just now" : `${duration(seconds)} ago`;
}
