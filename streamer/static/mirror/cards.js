/** The source cards: one per source, renewed in place, those in trouble first. */

import "./sparkline.js";
import { ago, changes, count, duration, fullTime, timeOfDay } from "./words.js";

/** How many cards are shown before somebody asks for all of them. */
const SHOWN = 12;
const SHOWN_NARROW = 4;
/** How many mirrors are named before they are only counted. */
const NAMED = 3;
const narrow = matchMedia("(max-width: 640px)");

const STATES = {
  halted: { word: "halted", tone: "bad" },
  refused: { word: "refused", tone: "bad" },
  stalled: { word: "stalled", tone: "warn" },
  connecting: { word: "connecting", tone: "busy" },
  loading: { word: "loading", tone: "busy" },
  catching_up: { word: "catching up", tone: "busy" },
  recording: { word: "recording", tone: "good" },
  live: { word: "live", tone: "good" },
  new: { word: "not followed yet", tone: "idle" },
  stopped: { word: "stopped", tone: "idle" },
};
const VERIFIED = {
  identical: { icon: "identical", tone: "good" },
  comparing: { icon: "comparing", tone: "busy" },
  differences: { icon: "differences", tone: "warn" },
  repaired: { icon: "differences", tone: "idle" },
  refused: { icon: "refused", tone: "idle" },
};
const ORDER = Object.keys(STATES);
const CONNECTED = new Set(["live", "catching_up", "loading", "recording"]);

class Card {
  constructor(template) {
    // Imported, not cloned: only so the custom element inside is one before it is on the page.
    this.element = document.importNode(template.content, true).firstElementChild;
    const part = (selector) => this.element.querySelector(selector);
    this.use = part("use");
    this.name = part(".name");
    this.state = part(".state");
    this.words = part(".words");
    this.progress = part("progress");
    this.behind = part(".behind-title");
    this.changesBehind = part(".changes-behind");
    this.secondsBehind = part(".seconds-behind");
    this.rate = part(".rate");
    this.spark = part("mirror-spark");
    this.last = part(".last");
    this.cursor = part(".cursor");
    this.verified = part(".verified");
    this.verifiedUse = part(".verified use");
    this.verifiedWords = part(".verified .outcome");
    this.heard = part(".heard");
    this.problem = part(".problem");
    this.code = part(".problem .code");
    this.text = part(".problem .text");
    this.retry = part(".retry");
  }

  update(data, now) {
    this.data = data;
    const state = STATES[data.state] ?? { word: data.state, tone: "idle" };
    this.element.dataset.tone = state.tone;
    this.element.dataset.state = data.state;
    this.use.setAttribute("href", `#icon-${data.state}`);
    set(this.name, data.name);
    set(this.state, state.word);
    set(this.words, words(data));
    this.#behind(data);
    this.#compared(data);
    set(this.rate, data.rate.toFixed(data.rate < 10 ? 1 : 0));
    this.spark.values = data.spark;
    set(this.cursor, data.cursor ? String(data.cursor) : "nothing yet");
    this.problem.hidden = !data.last_error;
    if (data.last_error) {
      this.code.hidden = !data.last_error.code;
      set(this.code, data.last_error.code);
      set(this.text, data.last_error.text);
    }
    this.tick(now);
  }

  /** What changes by the mere passing of time. */
  tick(now) {
    const { cursor, heard_at, next_try_at, attempts, state } = this.data;
    set(this.last, cursor ? ago(cursor, now) : "none yet");
    this.last.title = cursor ? fullTime(cursor) : "";
    set(this.heard, heard_at && !CONNECTED.has(state) ? `Last heard ${ago(heard_at, now)}, at ${timeOfDay(heard_at)}` : "");
    const waits = next_try_at !== null && !CONNECTED.has(state);
    this.retry.hidden = !waits;
    if (waits) {
      const seconds = Math.ceil((next_try_at - now) / 1_000_000);
      set(this.retry, `Next try ${seconds > 0 ? `in ${duration(seconds)}` : "now"}, after ${tries(attempts)}`);
    }
  }

  /** What came of comparing the rows with the source's. */
  #compared({ name, verified }) {
    this.verified.hidden = !verified;
    if (!verified) return;
    const { state, words, as_of, cursor } = verified;
    const { icon, tone } = VERIFIED[state] ?? VERIFIED.refused;
    this.verified.dataset.tone = tone;
    this.verifiedUse.setAttribute("href", `#icon-${icon}`);
    set(this.verifiedWords, as_of === null ? words : `${words} as of ${timeOfDay(as_of)}`);
    if (as_of !== null) this.verified.title = `Compared ${fullTime(as_of)}, at the cursor ${cursor}`;
    else this.verified.title = state === "differences" ? `manage.py mirrorverify ${name} --repair` : "";
  }

  #behind(data) {
    const connected = CONNECTED.has(data.state);
    set(this.behind, connected ? "Behind" : "Behind, as last heard");
    set(this.changesBehind, connected || data.heard_at ? changes(data.changes_behind) : "unknown");
    set(this.secondsBehind, data.seconds_behind === null ? "" : duration(data.seconds_behind));
    this.progress.hidden = data.state !== "catching_up";
    this.progress.max = Math.max(1, data.position + data.changes_behind);
    this.progress.value = data.position;
  }
}

export class Cards {
  #cards = new Map();
  #order = "";
  #all = false;

  constructor({ list, template, summary, empty, more }) {
    Object.assign(this, { list, template, summary, empty, more });
    more.addEventListener("click", () => {
      this.#all = !this.#all;
      this.#arrange();
    });
    narrow.addEventListener("change", () => this.#arrange());
  }

  get names() {
    return [...this.#cards.keys()];
  }

  update(sources, gone, now) {
    for (const name of gone) {
      this.#cards.get(name)?.element.remove();
      this.#cards.delete(name);
    }
    for (const source of sources) {
      if (!this.#cards.has(source.name)) this.#cards.set(source.name, new Card(this.template));
      this.#cards.get(source.name).update(source, now);
    }
    if (sources.length || gone.length) this.#arrange();
    this.empty.hidden = this.#cards.size > 0;
  }

  tick(now) {
    for (const card of this.#cards.values()) card.tick(now);
  }

  #arrange() {
    const rank = ({ data }) => (data.kind === "local" ? -1 : ORDER.indexOf(data.state));
    const differs = ({ data }) => Number(data.verified?.state === "differences");
    const cards = [...this.#cards.values()].sort(
      (one, other) =>
        rank(one) - rank(other) || differs(other) - differs(one) || one.data.name.localeCompare(other.data.name),
    );
    const order = cards.map(({ data }) => data.name).join("\n");
    if (order !== this.#order) this.list.replaceChildren(...cards.map(({ element }) => element));
    this.#order = order;
    const shown = narrow.matches ? SHOWN_NARROW : SHOWN;
    cards.forEach(({ element }, index) => (element.hidden = !this.#all && index >= shown));
    this.more.hidden = cards.length <= shown;
    this.more.setAttribute("aria-expanded", String(this.#all));
    set(this.more, this.#all ? "Show fewer" : `Show all ${count(cards.length)}`);
    set(this.summary, tally(cards));
  }
}

function tally(cards) {
  if (cards.length < 2) return "";
  const states = cards.map(({ data }) => data.state);
  return ORDER.filter((state) => states.includes(state))
    .map((state) => `${count(states.filter((other) => other === state).length)} ${STATES[state].word}`)
    .join(", ");
}

function words(data) {
  const followed = followers(data.mirrors);
  const state = followed && data.state === "recording" ? "" : data.state_words;
  const skipped = data.skipped ? `${changes(data.skipped)} skipped: not in MIRROR["MODELS"] here` : "";
  return [state, followed, skipped].filter(Boolean).join("; ");
}

function followers(mirrors) {
  if (!mirrors.length) return "";
  if (mirrors.length > NAMED) {
    const furthest = Math.max(...mirrors.map(({ changes_behind }) => changes_behind));
    return `followed by ${count(mirrors.length)} mirrors, the furthest ${changes(furthest)} behind`;
  }
  const names = mirrors.map(({ name, changes_behind }) =>
    changes_behind ? `${name} (${changes(changes_behind)} behind)` : name,
  );
  return `followed by ${names.join(", ")}`;
}

function tries(attempts) {
  return attempts === 1 ? "1 attempt" : `${count(attempts)} attempts`;
}

/** Touch the page only where something changed. */
function set(node, text) {
  if (node.textContent !== text) node.textContent = text;
}
