// A map of named units: rows of seats, one tab stop, arrow keys; states by colour, mark and word.
import { make } from "./card.js";

const WORDS = { free: "free", held: "held", sold: "sold", mine: "yours", picked: "picked" };
const MARKS = { free: "", held: "…", sold: "×", mine: "★", picked: "✓" };
const APART = "[\\s\\-_.:/]*";
const SPLITS = [
  new RegExp(`^(.*\\d)${APART}([A-Za-z]{1,2})$`), // 12A, F1-A
  new RegExp(`^(.*?\\D)${APART}(\\d+)$`), // A12, Row 3 Seat 7
];

/** `[row, seat]` of a name; a name that has no such parts is a seat of no row. */
export function split(name) {
  for (const pattern of SPLITS) {
    const found = pattern.exec(name);
    if (found) return [found[1].replace(/[\s\-_.:/]+$/, ""), found[2]];
  }
  return ["", name];
}

/** Units by row, in the order of their numbers: neighbours stand beside each other. Where most rows
 * would have one seat only, there are none. */
export function rowsOf(units) {
  const rows = new Map();
  for (const unit of units.toSorted((a, b) => a.number - b.number)) {
    const [row, seat] = split(unit.name);
    if (!rows.has(row)) rows.set(row, []);
    rows.get(row).push({ ...unit, label: seat });
  }
  if (rows.size * 2 <= units.length || rows.size === 1) return rows;
  return new Map([["", units.map((unit) => ({ ...unit, label: unit.name }))]]);
}

/** The numbers of the best `count` free units beside each other in one row; null: no row has so many.
 * A row further back is as bad as a seat further from the middle. Where there are no rows there is
 * no middle either: the first ones. */
export function bestRun(rows, count, isFree) {
  let best = null, least = Infinity;
  [...rows].forEach(([row, members], back) => {
    for (let first = 0; first + count <= members.length; first++) {
      const off = row ? Math.abs(2 * first + count - members.length) / 2 : first;
      if (back + off >= least) continue;
      const run = members.slice(first, first + count).map((unit) => unit.number);
      if (run.every(isFree)) [best, least] = [run, back + off];
    }
  });
  return best;
}

/** `{element, draw(units), paint(number, state), focus(), state(number), name(number), …}`. `press`
 * hears of a seat that was chosen: its number. */
export function seatmap(label, press) {
  const element = make("div", "seats"), seats = new Map();
  let order = [], at = null, rows = new Map();
  element.setAttribute("role", "grid");
  element.setAttribute("aria-label", label);
  element.setAttribute("aria-multiselectable", "true");

  function draw(units) {
    seats.clear();
    const drawn = [];
    rows = rowsOf(units);
    for (const [row, members] of rows) {
      const line = make("div", row ? "line" : "line loose");
      line.setAttribute("role", "row");
      if (row) {
        const head = line.appendChild(make("span", "row-name", row));
        head.setAttribute("role", "rowheader");
      }
      for (const unit of members) line.append(seat(unit));
      drawn.push(line);
    }
    element.replaceChildren(...drawn);
    order = [...element.querySelectorAll(".seat")];
    point(order[0] ?? null);
  }

  function seat({ number, name, label: text }) {
    const cell = make("button", "seat free");
    cell.type = "button";
    cell.tabIndex = -1;
    cell.dataset.number = number;
    cell.setAttribute("role", "gridcell");
    cell.append(make("span", "", text), make("i"));
    cell.lastChild.setAttribute("aria-hidden", "true");
    seats.set(number, { cell, name, state: "" });
    paint(number, "free");
    return cell;
  }

  function paint(number, state) {
    const known = seats.get(number);
    if (!known || known.state === state) return;
    known.state = state;
    known.cell.className = `seat ${state}`;
    known.cell.lastChild.textContent = MARKS[state];
    known.cell.setAttribute("aria-label", `${known.name}, ${WORDS[state]}`);
    known.cell.setAttribute("aria-selected", String(state === "picked"));
    known.cell.setAttribute("aria-disabled", String(!["free", "picked"].includes(state)));
  }

  /** The one seat that Tab comes to. */
  function point(cell) {
    if (at) at.tabIndex = -1;
    at = cell;
    if (at) at.tabIndex = 0;
  }

  function move(cell) {
    if (!cell) return;
    point(cell);
    cell.focus();
    cell.scrollIntoView({ block: "nearest", inline: "nearest" });
  }

  /** The seat above or below, as they stand on the screen: lines may be broken. */
  function across(cell, step) {
    let found = null, index = order.indexOf(cell) + step;
    while (order[index]?.offsetTop === cell.offsetTop) index += step;
    const top = order[index]?.offsetTop;
    const off = (other) => Math.abs(other.offsetLeft - cell.offsetLeft);
    for (; order[index] && order[index].offsetTop === top; index += step) {
      if (!found || off(order[index]) < off(found)) found = order[index];
    }
    return found;
  }

  function edge(cell, step) {
    let index = order.indexOf(cell);
    while (order[index + step]?.offsetTop === cell.offsetTop) index += step;
    return order[index];
  }

  const KEYS = {
    ArrowRight: (cell) => order[order.indexOf(cell) + 1],
    ArrowLeft: (cell) => order[order.indexOf(cell) - 1],
    ArrowDown: (cell) => across(cell, 1),
    ArrowUp: (cell) => across(cell, -1),
    Home: (cell, all) => (all ? order[0] : edge(cell, -1)),
    End: (cell, all) => (all ? order.at(-1) : edge(cell, 1)),
  };
  element.addEventListener("keydown", (pressed) => {
    const cell = pressed.target.closest(".seat"), key = KEYS[pressed.key];
    if (!cell || !key || pressed.altKey || pressed.metaKey) return;
    pressed.preventDefault();
    move(key(cell, pressed.ctrlKey));
  });
  element.addEventListener("click", ({ target }) => { // Enter and Space come as clicks, too
    const cell = target.closest(".seat");
    if (!cell) return;
    point(cell);
    press(Number(cell.dataset.number));
  });

  return {
    element, draw, paint,
    focus: () => at?.focus(),
    state: (number) => seats.get(number)?.state,
    name: (number) => seats.get(number)?.name ?? String(number),
    best: (count) => bestRun(rows, count, (number) => ["free", "picked"].includes(seats.get(number).state)),
    hasRows: () => !rows.has(""),
    areOfOneRow: (numbers) => [...rows.values()].some((members) => numbers.every((number) => members.some((unit) => unit.number === number))),
    numbers: () => [...seats.keys()],
    numberOf: (name) => [...seats].find(([, known]) => known.name === name)?.[0],
  };
}
