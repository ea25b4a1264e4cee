// The drops: a row each, with its units as a bar, their last five minutes, and what can be done.
import { areas, forget } from "./chart.js";
import { count, many, time } from "./vitals.js";

const STATES = ["sold", "held", "free", "withdrawn"]; // as they lie in the bar, and from the bottom up
const FIGURES = { sold: "soldStock", held: "heldStock", free: "availableStock", withdrawn: "withdrawnStock" };
const STATUS = {
  preparing: "being filled", upcoming: "not yet open", live: "live", sold_out: "sold out", ended: "ended", paused: "paused",
};
const OPEN = ["preparing", "upcoming", "live", "sold_out", "paused"];
const POINTS = 300; // a second each
const UNDERSELL_SECONDS = 8, INTENT_SECONDS = 8; // as signs.js: then a row needs a look

function make(tag, text = "", className = "") {
  return Object.assign(document.createElement(tag), { textContent: text, className });
}

export class Drops {
  #rows = new Map(); // by the drop's id
  #at = []; // the moments of the curves

  // `act(deed, drop)`: an operator wants something of a drop.
  constructor(list, act) {
    Object.assign(this, { list, act });
    this.filter = document.getElementById("filter");
    this.filter.addEventListener("change", () => this.#sift());
  }

  // All there are, the newest first; what is not among them goes.
  replace(drops) {
    const ids = new Set(drops.map((drop) => drop.id));
    for (const [id, row] of this.#rows) {
      if (ids.has(id)) continue;
      forget(row.canvas);
      row.item.remove();
      this.#rows.delete(id);
    }
    for (const drop of drops) this.#put(drop);
    drops.forEach((drop, place) => { // only who is out of place is moved: the focus stays where it is
      const { item } = this.#rows.get(drop.id);
      if (this.list.children[place] !== item) this.list.insertBefore(item, this.list.children[place] ?? null);
    });
    this.#sift();
  }

  // One drop as it is now, if that is newer than what is known.
  change(drop) {
    const known = this.#rows.get(drop.id)?.drop;
    if (known && older(drop, known)) return;
    const isNew = !known;
    this.#put({ ...known, ...drop });
    if (isNew) this.list.prepend(this.#rows.get(drop.id).item);
    this.#sift();
  }

  // Stock that moved: a `stock_update`.
  move({ dropId, ...figures }) {
    if (this.#rows.has(dropId)) this.change({ ...figures, id: dropId });
  }

  // A second went by: what /metrics says of each drop, if it may be read. `isKnown`: the stock that is
  // shown is so; else the curves have a gap. `isLive`: it comes from elsewhere, and is newer.
  tick(reading, isKnown, isLive) {
    const of = (name) => reading?.by(name, "drop") ?? new Map();
    const [drift, undersell, since, intents, oldest] = ["drift_units", "undersell_units", "undersell_seconds", "open_intents", "oldest_intent_seconds"].map(of);
    if (reading && !isLive) this.#stock(reading);
    this.#at.push(Date.now());
    if (this.#at.length > POINTS) this.#at.shift();
    for (const [id, row] of this.#rows) {
      const drop = String(id);
      row.ills = ills({
        drift: drift.get(drop), undersell: undersell.get(drop), since: since.get(drop),
        intents: intents.get(drop), oldest: oldest.get(drop), paused: row.drop.pausedReason,
      });
      row.state.textContent = row.ills.text;
      row.state.classList.toggle("warning", row.ills.isWrong);
      STATES.forEach((state, index) => {
        row.past[index].push(isKnown ? row.drop[FIGURES[state]] : 0);
        if (row.past[index].length > POINTS) row.past[index].shift();
      });
      if (!isKnown) row.calm = 0;
      if (row.calm++ <= POINTS && !row.item.hidden) { // what has not moved in all that time looks the same
        areas(row.canvas, this.#at, STATES.map((state, index) => [state, row.past[index]]), row.drop.totalStock);
      }
    }
    if (this.filter.value === "wrong") this.#sift();
  }

  #stock(reading) {
    for (const [{ drop, state }, units] of reading.samples("stock_units")) {
      const row = this.#rows.get(Number(drop));
      if (row && row.drop[FIGURES[state]] !== units) this.#put({ ...row.drop, [FIGURES[state]]: units });
    }
  }

  #put(drop) {
    const row = this.#rows.get(drop.id) ?? this.#row(drop);
    const was = row.drop;
    row.drop = drop;
    row.name.textContent = drop.name;
    row.badge.textContent = drop.pausedReason === "audit" ? "paused by the auditor" : STATUS[drop.status] ?? drop.status;
    row.badge.className = `badge status-${drop.status}`;
    const isPaused = drop.status === "paused", isOver = drop.status === "ended";
    label(row.pause, isPaused ? "Resume" : "Pause", drop);
    label(row.close, "Close", drop);
    label(row.reconcile, "Reconcile", drop);
    row.pause.hidden = row.close.hidden = isOver;
    if (was && STATES.every((state) => was[FIGURES[state]] === drop[FIGURES[state]])) return;
    row.calm = 0;
    STATES.forEach((state, index) => {
      row.units[index].textContent = count(drop[FIGURES[state]]);
      row.parts[index].style.flexGrow = drop[FIGURES[state]];
    });
    row.total.textContent = count(drop.totalStock);
    row.canvas.setAttribute("aria-label", `${drop.name}, its last five minutes; now ${STATES.map((state) => `${drop[FIGURES[state]]} ${state}`).join(", ")}`);
  }

  #row(drop) {
    const item = make("li", "", "drop"), name = make("span"), title = make("h3"), badge = make("span");
    item.dataset.drop = drop.id;
    title.append(name, make("small", ` #${drop.id}`));
    const head = make("div", "", "head"), state = make("p", "", "ills");
    head.append(title, badge, state);
    const figures = make("dl"), bar = make("div", "", "bar"), units = [], parts = [];
    bar.setAttribute("aria-hidden", "true"); // the figures below it say the same
    for (const each of STATES) {
      const pair = make("div"), value = make("dd");
      pair.append(make("dt", each, each), value);
      figures.append(pair);
      units.push(value);
      parts.push(make("i", "", each));
    }
    const pair = make("div"), total = make("dd");
    pair.append(make("dt", "of", "of"), total);
    figures.append(pair);
    bar.append(...parts);
    const stock = make("div", "", "stock"), canvas = make("canvas");
    stock.append(bar, figures);
    canvas.setAttribute("role", "img");
    const deeds = make("div", "", "row deeds");
    const [pause, close, reconcile] = ["pause", "close", "reconcile"].map((deed) => {
      const button = Object.assign(make("button", "", "quiet"), { type: "button" });
      button.addEventListener("click", () => {
        const { drop: present } = this.#rows.get(drop.id);
        this.act(deed === "pause" && present.status === "paused" ? "resume" : deed, present);
      });
      return button;
    });
    deeds.append(pause, close, reconcile);
    item.append(head, stock, canvas, deeds);
    this.list.append(item);
    const row = { item, name, badge, state, units, parts, total, canvas, pause, close, reconcile, past: STATES.map(() => []), ills: ills({}), calm: 0 };
    this.#rows.set(drop.id, row);
    return row;
  }

  #sift() {
    let shown = 0;
    for (const { item, drop, ills } of this.#rows.values()) {
      item.hidden = (this.filter.value === "open" && !OPEN.includes(drop.status)) || (this.filter.value === "wrong" && !ills.isWrong);
      shown += item.hidden ? 0 : 1;
    }
    document.getElementById("no-drops").hidden = shown > 0;
  }
}

// A drop's epoch is not told by HTTP: then its version alone decides.
function older(drop, known) {
  if (drop.epoch !== undefined && known.epoch !== undefined && drop.epoch !== known.epoch) return drop.epoch < known.epoch;
  return drop.version < known.version;
}

function label(button, word, drop) {
  if (button.textContent !== word) button.textContent = word;
  button.setAttribute("aria-label", `${word} ${drop.name}, drop ${drop.id}`);
}

// What is the matter with a drop, in words.
function ills({ drift, undersell, since, intents, oldest, paused }) {
  const found = [];
  if (paused === "audit") found.push("its rows do not add up");
  if (undersell) found.push(`${many(undersell, "free unit")} out of reach for ${time(since)}`);
  if (drift) found.push(`drift ${drift > 0 ? "+" : "−"}${count(Math.abs(drift))}`);
  if (oldest) found.push(`oldest intent ${time(oldest)}`);
  if (intents) found.push(`${count(intents)} on their way`);
  const isWrong = paused === "audit" || (undersell > 0 && since > UNDERSELL_SECONDS) || oldest > INTENT_SECONDS;
  return { text: found.join(" · "), isWrong };
}
