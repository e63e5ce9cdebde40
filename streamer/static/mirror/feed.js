/**
 * The list of changes: newest first, at most 500 rows, drawn at most once per animation frame.
 *
 * Everything that came from a database is put into text nodes, never parsed as HTML.
 */

import { Story } from "./story.js";
import { changes, fullTime, iso, timeOfDay } from "./words.js";

const CAPACITY = 500;
const CALM = 5;
const SIGNS = { created: "+", changed: "~", deleted: "−" };

export class Feed extends EventTarget {
  #body;
  #template;
  #story;
  /** What came and is not drawn: changes, and {skipped} for those that came but were not sent. */
  #waiting = [];
  #fresh = 0;
  #frame = null;
  #paused = false;
  #autopaused = false;
  #cleared = false;
  #drawn = [];

  constructor({ body, template, storyTemplate, address }) {
    super();
    this.#body = body;
    this.#template = template;
    this.#story = new Story(storyTemplate, address);
    body.addEventListener("click", (event) => {
      const row = event.target.closest("tr.change");
      // Selecting text in a row is no wish to open it.
      if (row && getSelection().isCollapsed) this.#toggle(row);
    });
    document.addEventListener("visibilitychange", () => this.#schedule());
  }

  get paused() {
    return this.#paused;
  }

  /** How many changes came while paused. */
  get fresh() {
    return this.#fresh;
  }

  get size() {
    return this.#body.childElementCount;
  }

  /** @param {() => void} drawn called once the page shows it, or keeps it for later because of a pause */
  add({ changes: lines, skipped, reset }, drawn) {
    if (reset) {
      // After a reconnect, too: what is held still by a pause stays until that ends.
      this.#waiting = [];
      this.#cleared = true;
    } else {
      this.#fresh += lines.length + skipped;
    }
    if (skipped) this.#waiting.push({ skipped });
    this.#waiting.push(...lines);
    this.#bound();
    this.#drawn.push(drawn);
    this.#schedule();
  }

  pause() {
    this.#paused = true;
    this.#fresh = 0;
    this.#report();
  }

  resume() {
    this.#paused = this.#autopaused = false;
    this.#schedule();
    this.#report();
  }

  #bound() {
    const over = this.#waiting.length - CAPACITY;
    if (over <= 0) return;
    const dropped = this.#waiting.splice(0, over + 1);
    this.#waiting.unshift({ skipped: dropped.reduce((sum, line) => sum + (line.skipped ?? 1), 0) });
  }

  #schedule() {
    if (this.#frame === null && !document.hidden) {
      this.#frame = requestAnimationFrame(() => {
        this.#frame = null;
        this.#draw();
      });
    }
  }

  #draw() {
    if (!this.#paused) {
      if (this.#cleared) this.#body.replaceChildren();
      const rows = this.#waiting.map((line) => ("skipped" in line ? gap(line.skipped) : this.#row(line)));
      // A flood is not made easier to follow by animating it.
      if (!this.#cleared && rows.length <= CALM) for (const row of rows) row.classList.add("arrived");
      this.#waiting = [];
      this.#fresh = 0;
      this.#cleared = false;
      this.#body.prepend(...rows.reverse());
      while (this.#body.childElementCount > CAPACITY) this.#body.lastElementChild.remove();
    }
    for (const drawn of this.#drawn.splice(0)) drawn();
    this.#report();
  }

  #row(line) {
    const row = document.importNode(this.#template.content, true).firstElementChild;
    const [time, source, operation, model, key, what] = row.children;
    row.dataset.kind = line.kind;
    row.dataset.stream = line.stream;
    row.dataset.ts = line.ts;
    const moment = time.querySelector("time");
    moment.dateTime = iso(line.ts);
    moment.title = fullTime(line.ts);
    moment.textContent = timeOfDay(line.ts);
    source.textContent = line.source;
    operation.querySelector(".sign").textContent = SIGNS[line.kind];
    operation.querySelector(".word").textContent = line.op;
    operation.firstElementChild.title = line.kind;
    model.textContent = line.model;
    key.textContent = line.key;
    key.title = line.key;
    what.textContent = line.summary;
    return row;
  }

  /** An open change must not run away: opening pauses, closing the last one goes on. */
  #toggle(row) {
    const open = this.#story.toggle(row);
    if (open && !this.#paused) {
      this.#autopaused = true;
      this.pause();
    } else if (!open && this.#autopaused && !this.#body.querySelector("tr.detail")) {
      this.resume();
    }
  }

  #report() {
    this.dispatchEvent(new Event("report"));
  }
}

function gap(skipped) {
  const row = document.createElement("tr");
  row.className = "gap";
  row.setAttribute("role", "row");
  const cell = row.insertCell();
  cell.setAttribute("role", "cell");
  cell.textContent = `${changes(skipped)} more, not listed`;
  return row;
}
