// The dashboard: reads /metrics once a second and listens to the room `drops`. What it does not know it
// shows as unknown, and a question that hangs holds nothing else up.
import { Chart } from "./chart.js";
import { live } from "./live.js";
import { Access } from "./ops-access.js";
import { Deeds } from "./ops-deeds.js";
import { Drops } from "./ops-drops.js";
import { Members, nameOf } from "./ops-members.js";
import { Judge, SIGNS } from "./signs.js";
import { Reading, Span, count, time } from "./vitals.js";

const EVERY_MS = 1_000;
const SPAN_MS = 10_000; // rates and quantiles are those of so long: /metrics is a second old at most,
const SPAN_LEAST_MS = 2_000; // so of less they would be guesses
const POINTS = 300;
const SAID_MS = 15_000; // what was done stays to be read, and not for ever
const REFRESH_MS = 15_000; // drops that open or end by the clock are told by nobody
const SHAPES = { healthy: "●", warning: "▲", critical: "■", unknown: "?" };
const COLOURS = ["c1", "c2", "c3", "c4", "c5", "c6"];
const element = (id) => document.getElementById(id);

const judge = new Judge();
const readings = []; // the last SPAN_MS of them
const stillSince = new Map(); // drop → [free units, since when]
let first = null; // the reading when this page was opened
let heardAt = 0, line = "retrying", isSeen = false; // whether what is shown of the drops is so

// ── vital signs ───────────────────────────────────────────────────────────────────────────────

function tile({ id, label, page }) {
  const item = document.createElement("li");
  item.id = `sign-${id}`;
  const parts = ["h3", "p", "p", "p"].map((tag) => item.appendChild(document.createElement(tag)));
  parts.forEach((part, index) => { part.className = ["", "value", "state", "note"][index]; });
  parts[0].textContent = label;
  if (page) {
    const link = item.appendChild(document.createElement("a"));
    [link.href, link.textContent, link.className] = [...page, "note"];
  }
  element("signs").append(item);
  return [item, ...parts.slice(1)];
}
const tiles = new Map(SIGNS.map((sign) => [sign.id, tile(sign)]));

function write(part, text) {
  if (part.textContent !== text) part.textContent = text;
}

function showSign(sign, level, value, note, alerts = []) {
  const [item, ...parts] = tiles.get(sign.id);
  item.className = level;
  item.classList.toggle("long", value.length > 7);
  const state = level === "info" ? "" : `${SHAPES[level]} ${[level, ...alerts].join(" · ")}`;
  [value, state, note].forEach((text, index) => write(parts[index], text));
}

function showSigns(present) {
  const levels = new Map();
  for (const sign of SIGNS) {
    const { level, alerts } = judge.of(sign, present);
    levels.set(sign, level);
    showSign(sign, level, ...sign.show(present), alerts);
  }
  if (!present.span) return overall("unknown", "Looking …");
  for (const level of ["critical", "warning", "unknown"]) {
    const bad = SIGNS.filter((sign) => levels.get(sign) === level);
    if (bad.length) return overall(level, `${level[0].toUpperCase()}${level.slice(1)}: ${bad.map((sign) => sign.label).join(", ")}`);
  }
  overall("healthy", "All is well");
}

function showNothing(level, why) {
  for (const sign of SIGNS) showSign(sign, sign.rules ? "unknown" : "info", "–", "");
  overall(level, why);
}

function overall(level, text) {
  element("overall").className = `badge ${level}`;
  write(element("overall"), `${SHAPES[level]} ${text}`);
}

// For how many seconds a drop's free units have not changed, as far as this page saw.
function watch(now) {
  for (const [{ drop }, units] of now.samples("stock_units", { state: "free" })) {
    if (stillSince.get(drop)?.[0] !== units) stillSince.set(drop, [units, now.at]);
  }
  return (drop) => (now.at - (stillSince.get(drop)?.[1] ?? now.at)) / 1000;
}

// ── charts ────────────────────────────────────────────────────────────────────────────────────

// Lines by name, which may come later than the first moment; null where there was nothing.
class Lines {
  constructor(id, options) {
    this.chart = new Chart(element(id), options);
    Object.assign(this, { at: [], values: new Map() });
  }

  add(at, found) {
    for (const name of found.keys()) if (!this.values.has(name)) this.values.set(name, new Array(this.at.length).fill(null));
    this.at.push(at);
    for (const [name, values] of this.values) values.push(found.get(name) ?? null);
    if (this.at.length > POINTS) [this.at, ...this.values.values()].forEach((each) => each.shift());
    for (const [name, values] of this.values) if (values.every((value) => value === null)) this.values.delete(name);
    if (!document.hidden) this.chart.show({ at: this.at, series: this.#series() });
  }

  // The greatest of the window; each keeps its colour as long as the others stay the same.
  #series() {
    const height = new Map([...this.values].map(([name, values]) => [name, Math.max(...values)]));
    const shown = [...this.values.keys()].sort((a, b) => height.get(b) - height.get(a)).slice(0, COLOURS.length);
    return [...this.values].filter(([name]) => shown.includes(name)).map(([name, values], index) => ({ name, colour: COLOURS[index], values }));
  }
}

const charts = {
  rates: new Lines("chart-rates", { format: count, floor: 4 }),
  latency: new Lines("chart-latency", { format: time, floor: 0.004 }),
  refusals: new Lines("chart-refusals", { format: count, floor: 4 }),
  batches: new Lines("chart-batches", { format: count, floor: 4 }),
};

function showCharts(at, span) {
  const none = new Map();
  charts.rates.add(at, span ? new Map([["holds", "holds"], ["purchases", "purchases"], ["expired", "expiries"], ["given back", "releases"]].map(([name, metric]) => [name, span.rate(metric)])) : none);
  charts.latency.add(at, span ? new Map(["reserve", "purchase"].flatMap((operation) => [0.99, 0.5].map((q) => [`${operation} p${q * 100}`, span.quantile(q, "request_seconds", { operation })])).filter(([, value]) => value !== null)) : none);
  // Codes that were not heard in all that time are left out.
  for (const [code, rates] of charts.refusals.values) if (!rates.some(Boolean)) charts.refusals.values.delete(code);
  charts.refusals.add(at, span ? new Map([...span.rates("refusals", "code")].filter(([code, rate]) => rate || charts.refusals.values.has(code))) : none);
  charts.batches.add(at, span ? span.means("batch_requests", "combiner") : none);
}

// ── drops and deeds ───────────────────────────────────────────────────────────────────────────

const access = new Access();
let saying = 0;
function say(text) {
  clearTimeout(saying);
  element("said").textContent = text;
  saying = setTimeout(() => { element("said").textContent = ""; }, SAID_MS);
}
const drops = new Drops(element("drops"), (deed, drop) => deeds.ask(deed, drop));
const deeds = new Deeds(access, say, (drop) => drops.change(drop));
const members = new Members(access, (one) => deeds.revoke(one, nameOf(one), (fresh) => members.change(fresh)));

async function ask() {
  const { ok, body } = await access.drops();
  return ok ? { room: "drops", drops: body.data } : null;
}

async function refresh() {
  const found = await ask();
  if (found) drops.replace(found.drops);
}

live({
  rooms: ["drops"],
  onEvent(event, data) {
    if (event === "snapshot") drops.replace(data.drops);
    if (event === "stock_update") drops.move(data);
    if (event === "new_drop" || event === "drop_update") drops.change(data);
  },
  onState(state) { line = state; },
  poll: ask,
});

// ── the clock ─────────────────────────────────────────────────────────────────────────────────

async function look() {
  const { status, text, message } = await access.metrics(), at = Date.now();
  if (status !== 200) return blind(status, message, at);
  const now = new Reading(text, at);
  heardAt = at;
  first ??= now;
  readings.push(now);
  while (readings[1] && at - readings[1].at >= SPAN_MS) readings.shift();
  const span = at - readings[0].at >= SPAN_LEAST_MS ? new Span(readings[0], now) : null;
  showSigns({ now, span, opened: first === now ? null : new Span(first, now), still: watch(now) });
  showCharts(at, span);
  isSeen = now.sum("postgres_up") === 1;
  drops.tick(now, isSeen, line === "live");
}

function blind(status, message, at) {
  readings.length = 0; // rates over the gap would be wrong
  showCharts(at, null);
  isSeen = status === 401 || status === 403;
  drops.tick(null, isSeen, true);
  if (status === 401 || status === 403) {
    showNothing("unknown", "Sign in to see more");
    access.offer(`The figures are not for everybody. ${access.why(status)}`);
  } else {
    showNothing("critical", status === 0 ? "No worker answers" : message);
  }
}

function clock() {
  const ago = Math.round((Date.now() - heardAt) / 1000);
  const stock = isSeen || !heardAt ? { live: "stock live", polling: "stock polled", retrying: "stock: connecting" }[line] : "stock as last known";
  write(element("heard"), `${heardAt ? (ago < 3 ? "figures up to date" : `figures of ${time(ago)} ago`) : "nothing heard yet"} · ${stock}`);
  element("heard").classList.toggle("late", heardAt > 0 && (ago >= 3 || !isSeen));
}

async function run() {
  for (;;) {
    const began = Date.now();
    await look();
    clock();
    await new Promise((done) => setTimeout(done, Math.max(100, EVERY_MS - (Date.now() - began))));
  }
}

showNothing("unknown", "Looking …");
setInterval(clock, EVERY_MS);
setInterval(refresh, REFRESH_MS);
refresh();
run();
