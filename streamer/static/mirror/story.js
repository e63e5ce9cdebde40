/** One change in full, below its row: the changed fields before and after, and the way to its neighbours. */

import { count, fullTime } from "./words.js";

export class Story {
  #template;
  #address;

  /** @param {(stream: string, ts: string) => string} address where a change is told in full */
  constructor(template, address) {
    this.#template = template;
    this.#address = address;
  }

  /** Open or close the story of a row; return whether it is open now. */
  toggle(row) {
    const button = row.querySelector(".expander");
    const open = button.getAttribute("aria-expanded") !== "true";
    button.setAttribute("aria-expanded", String(open));
    if (open) {
      const detail = document.importNode(this.#template.content, true).firstElementChild;
      row.after(detail);
      this.#load(detail, row.dataset.stream, row.dataset.ts);
    } else if (row.nextElementSibling?.classList.contains("detail")) {
      row.nextElementSibling.remove();
    }
    return open;
  }

  async #load(detail, stream, ts) {
    const part = (selector) => detail.querySelector(selector);
    part(".title").textContent = "Loading…";
    try {
      const answer = await fetch(this.#address(stream, ts), { headers: { Accept: "application/json" } });
      if (!answer.ok) throw new Error(answer.status === 404 ? "This change is no longer in the oplog." : `The server answered ${answer.status}.`);
      this.#tell(detail, part, await answer.json());
    } catch (error) {
      part(".title").textContent = "This change cannot be shown.";
      note(part(".note"), error.message);
    }
  }

  #tell(detail, part, story) {
    part(".title").textContent = `${story.model} ${story.key}`;
    part(".when").textContent = `${story.kind} ${fullTime(story.ts)}, cursor ${story.ts}`;
    note(part(".note"), story.note);
    part(".fields").hidden = story.fields.length === 0;
    part(".fields tbody").replaceChildren(...story.fields.map((field) => fieldRow(field, story.known)));
    part(".rest").textContent = rest(story);
    for (const [selector, ts] of [[".earlier", story.previous], [".later", story.next]]) {
      const button = part(selector);
      button.hidden = ts === null;
      button.onclick = () => this.#load(detail, story.stream, ts);
    }
  }
}

function note(node, text) {
  node.hidden = !text;
  node.textContent = text;
}

function rest(story) {
  if (story.kind === "changed" && !story.fields.length) return "It was saved with the values that it had.";
  if (!story.unchanged) return "";
  return story.unchanged === 1 ? "1 field stayed as it was." : `${count(story.unchanged)} fields stayed as they were.`;
}

function fieldRow({ name, before, after }, known) {
  const row = document.createElement("tr");
  const head = document.createElement("th");
  head.scope = "row";
  head.textContent = name;
  const [first, second] = [valueCell(before, "before", known), valueCell(after, "after", true)];
  if (before?.type === "string" && after?.type === "string") mark(first.firstChild, second.firstChild);
  row.append(head, first, second);
  return row;
}

function valueCell(value, side, known) {
  const cell = document.createElement("td");
  cell.className = side;
  const text = document.createElement("span");
  cell.append(text);
  if (value === null) {
    text.className = "absent";
    text.textContent = known ? "—" : "not known";
  } else {
    text.className = `value ${value.type}`;
    text.textContent = value.text === "" ? "(empty)" : value.text;
    if (value.text === "") text.className = "absent";
    if (value.cut) cell.append(quiet(` … ${count(value.cut)} more characters`));
  }
  return cell;
}

function quiet(text) {
  const node = document.createElement("span");
  node.className = "quiet";
  node.textContent = text;
  return node;
}

/** Point out the part in which two texts differ, if they have enough in common. */
function mark(first, second) {
  const [one, other] = [[...first.textContent], [...second.textContent]];
  const shorter = Math.min(one.length, other.length);
  let start = 0;
  while (start < shorter && one[start] === other[start]) start += 1;
  let end = 0;
  while (end < shorter - start && one.at(-1 - end) === other.at(-1 - end)) end += 1;
  if (start + end < 4) return;
  for (const [node, letters] of [[first, one], [second, other]]) {
    const middle = document.createElement("mark");
    middle.textContent = letters.slice(start, letters.length - end).join("");
    node.replaceChildren(letters.slice(0, start).join(""), middle, letters.slice(letters.length - end).join(""));
  }
}
