/** <mirror-spark>: a line of numbers over time; null where a number is not known. */

const SVG = "http://www.w3.org/2000/svg";
const WIDTH = 120;
const HEIGHT = 28;

class MirrorSpark extends HTMLElement {
  #area = document.createElementNS(SVG, "polygon");
  #line = document.createElementNS(SVG, "polyline");
  #title = document.createElementNS(SVG, "title");
  #shown = null;

  connectedCallback() {
    if (this.firstChild) return;
    const svg = document.createElementNS(SVG, "svg");
    svg.setAttribute("viewBox", `0 0 ${WIDTH} ${HEIGHT}`);
    svg.setAttribute("preserveAspectRatio", "none");
    svg.setAttribute("role", "img");
    this.#area.setAttribute("class", "area");
    this.#line.setAttribute("class", "line");
    this.#line.setAttribute("fill", "none");
    this.#line.setAttribute("vector-effect", "non-scaling-stroke");
    this.#title.textContent = "Changes per second: nothing known yet";
    svg.append(this.#title, this.#area, this.#line);
    this.append(svg);
  }

  /** @param {(number | null)[]} values oldest first */
  set values(values) {
    const shown = values.join();
    if (shown === this.#shown) return;
    this.#shown = shown;
    const known = values.map((value, index) => [index, value]).filter(([, value]) => value !== null);
    const peak = Math.max(0, ...known.map(([, value]) => value));
    const step = WIDTH / Math.max(1, values.length - 1);
    const y = (value) => HEIGHT - 2 - (peak ? (value / peak) * (HEIGHT - 4) : 0);
    const points = known.map(([index, value]) => `${(index * step).toFixed(1)},${y(value).toFixed(1)}`);
    this.#line.setAttribute("points", points.join(" "));
    const ends = known.length ? [known.at(-1)[0], known[0][0]].map((index) => `${(index * step).toFixed(1)},${HEIGHT}`) : [];
    this.#area.setAttribute("points", [...points, ...ends].join(" "));
    this.#title.textContent = known.length
      ? `Changes per second over the last five minutes: at most ${peak}, ${known.at(-1)[1]} at the end`
      : "Changes per second: nothing known yet";
  }
}

customElements.define("mirror-spark", MirrorSpark);
