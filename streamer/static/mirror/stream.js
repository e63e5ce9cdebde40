/**
 * The socket to the server: reopened after any end with a random pause, given up where that is no use.
 *
 * Events: "message" (detail: the decoded message) and "state" (detail: {state, at}) with the states
 * connecting, open, waiting (until the time `at`), unauthorized and forbidden.
 */

const FIRST_PAUSE = 500;
const LONGEST_PAUSE = 30_000;
/** The server says something every 5 seconds. */
const SILENCE = 15_000;
const ENDINGS = { 4401: "unauthorized", 4403: "forbidden" };

export class Stream extends EventTarget {
  #address;
  #probe;
  #socket = null;
  #failures = 0;
  #retry = null;
  #watch = null;
  #ended = false;

  /**
   * @param {() => string} address what to connect to, asked anew each time
   * @param {string} probe an address that answers 401 or 403 when the socket's refusal can't say so
   */
  constructor(address, probe) {
    super();
    this.#address = address;
    this.#probe = probe;
    document.addEventListener("visibilitychange", () => this.#nudge());
    addEventListener("online", () => this.#nudge());
  }

  open() {
    clearTimeout(this.#retry);
    this.#retry = null;
    this.#tell("connecting");
    const socket = new WebSocket(this.#address());
    let opened = false;
    socket.addEventListener("open", () => {
      opened = true;
      this.#tell("open");
      this.#expect();
    });
    socket.addEventListener("message", (event) => {
      // A server that accepts and then fails is not a success yet; one that speaks is.
      this.#failures = 0;
      this.#expect();
      this.dispatchEvent(new CustomEvent("message", { detail: JSON.parse(event.data) }));
    });
    socket.addEventListener("close", (event) => {
      if (socket === this.#socket) this.#closed(event.code, opened);
    });
    this.#socket = socket;
  }

  send(message) {
    if (this.#socket?.readyState === WebSocket.OPEN) this.#socket.send(JSON.stringify(message));
  }

  async #closed(code, opened) {
    this.#socket = null;
    clearTimeout(this.#watch);
    const ending = ENDINGS[code] ?? (opened ? undefined : await this.#refusal());
    if (ending) {
      this.#ended = true;
      this.#tell(ending);
      return;
    }
    const pause = Math.random() * Math.min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** this.#failures);
    this.#failures += 1;
    this.#retry = setTimeout(() => this.open(), pause);
    this.#tell("waiting", Date.now() + pause);
  }

  /** A refused handshake looks like a dead line to a page: ask whether it is the session. */
  async #refusal() {
    try {
      const answer = await fetch(this.#probe, { headers: { Accept: "application/json" } });
      return { 401: "unauthorized", 403: "forbidden" }[answer.status];
    } catch {
      return undefined; // No answer at all: the line is dead indeed.
    }
  }

  /** Somebody looks again, or there is a network again: no reason to wait any longer. */
  #nudge() {
    if (document.hidden || this.#ended) return;
    if (this.#retry !== null) this.open();
    else if (this.#socket?.readyState === WebSocket.OPEN) this.#expect();
  }

  #expect() {
    clearTimeout(this.#watch);
    this.#watch = setTimeout(() => {
      // A hidden page acknowledges nothing, so it is told nothing.
      if (document.hidden) return;
      const socket = this.#socket;
      this.#closed(1006, true);
      socket?.close();
    }, SILENCE);
  }

  #tell(state, at = null) {
    this.dispatchEvent(new CustomEvent("state", { detail: { state, at } }));
  }
}
