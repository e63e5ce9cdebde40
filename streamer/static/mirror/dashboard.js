/** The live page: joins the socket, the cards, the list of changes, the filters and the keyboard. */

import { Cards } from "./cards.js";
import { Feed } from "./feed.js";
import { Stream } from "./stream.js";
import { changes, count, duration } from "./words.js";

const FILTERS = ["source", "model", "op", "text"];
const TYPING_PAUSE = 250;
const SUMMARY_EVERY = 10_000;

const find = (id) => document.getElementById(id);
const form = find("filters");
const pause = find("pause");
const notice = find("notice");

const cards = new Cards({
  list: find("cards"),
  template: find("card-template"),
  summary: find("sources-summary"),
  empty: find("no-sources"),
  more: find("all-sources"),
});
const feed = new Feed({
  body: find("feed").tBodies[0],
  template: find("row-template"),
  storyTemplate: find("detail-template"),
  address: (stream, ts) => `changes/${encodeURIComponent(stream)}/${ts}/`,
});
const stream = new Stream(() => {
  const address = new URL("live/", location.href);
  address.protocol = address.protocol.replace("http", "ws");
  address.search = query();
  return address.href;
}, "status.json");

/** The server's clock minus this one, microseconds. */
let offset = 0;
let heard = false;
let seen = 0;
const serverNow = () => Date.now() * 1000 + offset;

// What the server says

stream.addEventListener("message", ({ detail: message }) => {
  if (message.type === "error") {
    show(message.message);
    return;
  }
  offset = message.now - Date.now() * 1000;
  heard = true;
  seen += message.reset ? 0 : message.changes.length + message.skipped;
  show(message.problem);
  cards.update(message.sources, message.gone, message.now);
  if (message.sources.length || message.gone.length) offerSources();
  feed.add(message, () => stream.send({ type: "seen", n: message.n }));
});

const CONNECTION = {
  connecting: () => "connecting",
  open: () => "connected",
  waiting: (at) => {
    const seconds = Math.ceil((at - Date.now()) / 1000);
    return seconds > 0 ? `no connection, next try in ${duration(seconds)}` : "no connection, trying";
  },
  unauthorized: () => "logged out",
  forbidden: () => "no permission",
};
let connection = { state: "connecting", at: null };

stream.addEventListener("state", ({ detail }) => {
  connection = detail;
  document.body.dataset.connection = detail.state;
  find("connection").dataset.state = detail.state;
  if (detail.state === "unauthorized") show("Your session has ended. Reload the page to log in again.");
  if (detail.state === "forbidden") show("You may no longer look at the oplog.");
  tick();
});

function show(text) {
  if (notice.textContent !== text) notice.textContent = text;
  notice.hidden = !text;
}

// The list of changes

feed.addEventListener("report", () => {
  pause.setAttribute("aria-pressed", String(feed.paused));
  pause.textContent = feed.paused ? `${feed.fresh ? `${count(feed.fresh)} new — resume` : "Resume"}` : "Pause";
  const filtered = query() !== "";
  find("no-changes").hidden = !heard || feed.size > 0 || filtered;
  find("no-matches").hidden = !heard || feed.size > 0 || !filtered;
  find("feed").hidden = feed.size === 0;
  find("clear").hidden = !filtered;
});

const turn = () => (feed.paused ? feed.resume() : feed.pause());
pause.addEventListener("click", turn);

// Filters, which are in the page's address too

function wanted() {
  const data = new FormData(form);
  return Object.fromEntries(FILTERS.map((name) => [name, String(data.get(name) ?? "").trim()]));
}

function query() {
  const chosen = Object.entries(wanted()).filter(([, value]) => value);
  return chosen.length ? `?${new URLSearchParams(chosen)}` : "";
}

function restore() {
  const asked = new URLSearchParams(location.search);
  for (const name of FILTERS) {
    const value = asked.get(name) ?? "";
    if (name === "source" && value) offer(value);
    form.elements[name].value = value;
  }
}

let applied = "";
let typing = null;

function apply() {
  clearTimeout(typing);
  if (query() === applied) return;
  applied = query();
  history.replaceState(null, "", location.pathname + applied);
  feed.resume();
  stream.send({ type: "filter", ...wanted() });
}

form.addEventListener("input", () => {
  clearTimeout(typing);
  typing = setTimeout(apply, TYPING_PAUSE);
});
form.addEventListener("change", apply);
form.addEventListener("submit", (event) => {
  event.preventDefault();
  apply();
});
// The values are cleared after the event.
form.addEventListener("reset", () => setTimeout(apply));

function offer(name) {
  const select = form.elements.source;
  if (![...select.options].some((option) => option.value === name)) select.add(new Option(name, name));
}

function offerSources() {
  cards.names.forEach(offer);
}

// Keys

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const typing = event.target.closest("input, select, textarea");
  if (event.key === "Escape" && typing) {
    event.preventDefault(); // It would empty a search field.
    typing.blur();
  } else if (!typing && event.key === "/") {
    event.preventDefault();
    form.elements.text.focus();
    form.elements.text.select();
  } else if (!typing && event.key === "p") {
    turn();
  }
});

// Time passes

function tick() {
  cards.tick(serverNow());
  find("connection").querySelector(".words").textContent = CONNECTION[connection.state](connection.at);
}

function summarize() {
  const words = `${changes(seen)} in the last ${duration(SUMMARY_EVERY / 1000)}`;
  find("summary").textContent = `${words}, ${CONNECTION[connection.state](connection.at)}`;
  find("changes-summary").textContent = seen ? words : "";
  seen = 0;
}

setInterval(tick, 1000);
setInterval(summarize, SUMMARY_EVERY);
restore();
applied = query();
stream.open();
