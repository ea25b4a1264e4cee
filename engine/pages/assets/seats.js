// Choosing seats: the map of a named drop, live, in a dialog. What is picked is only a wish; seats are
// held all at once or not at all, and who comes second is told which ones went.
import * as api from "./api.js";
import { make } from "./card.js";
import * as holds from "./holds.js";
import { live } from "./live.js";
import { seatmap } from "./seatmap.js";
import { many } from "./words.js";

const BEST_TRIES = 3; // so often somebody may be faster, until the shop is asked for any run
const AGAIN_MS = [700, 2_000]; // before it is asked which of the seats that went were sold
const dialog = document.getElementById("chooser");
const part = Object.fromEntries(
  ["title", "said", "map", "stage", "more", "picked", "hold", "best", "count", "close"].map((name) => [name, document.getElementById(`chooser-${name}`)]),
);
let open = null; // what is shown: { drop, user, map, taken, sold, picked, version, line, held }

/** Shows the map of a drop to `user`; `done(hold)` is told of what was held. */
export async function choose(drop, user, done) {
  close();
  const map = seatmap(`Seats of ${drop.name}`, press);
  const mine = open = {
    drop, user, map, done, taken: new Set(), sold: new Set(), picked: new Set(),
    epoch: 0, version: -1, line: null, asking: 0, most: Math.min(drop.maxPerOrder, drop.maxPerBuyer ?? Infinity),
  };
  part.title.textContent = drop.name;
  say("Loading the seats …");
  part.count.replaceChildren(...Array.from({ length: Math.min(mine.most, 10) }, (_, n) => new Option(n + 1, n + 1)));
  part.count.value = String(Math.min(2, mine.most));
  part.map.replaceChildren(part.stage, map.element);
  part.stage.hidden = true;
  tell();
  dialog.showModal();
  const found = await api.units(drop.id);
  if (open !== mine) return;
  if (!found.ok) return say(found.message);
  map.draw(found.units);
  part.stage.hidden = !map.hasRows();
  hint();
  learn(found);
  say(`${many(drop.availableStock, "seat is", "seats are")} free. Arrow keys move, Enter picks; up to ${mine.most} at once.`);
  map.focus();
  mine.line = listen(mine);
}

function listen(mine) {
  return live({
    rooms: [`drop:${mine.drop.id}`],
    onEvent(event, data) {
      if (open !== mine) return;
      if (event === "snapshot" && data.units) stand(data.units);
      else if (event === "snapshot") again(mine); // too many to be told one by one: by asking
      if (event === "units_update") move(mine, data);
      if (event === "new_purchase") again(mine); // held ones were sold: which?
    },
    poll: async () => {
      const found = await api.units(mine.drop.id);
      if (open === mine && found.ok) learn(found);
      return null; // shown already, and not a line's snapshot
    },
  });
}

// ── what is known ───────────────────────────────────────────────────────────────────────────────

/** All of it, by asking. */
function learn({ units, epoch, version }) {
  open.sold = new Set(units.filter((unit) => unit.status === "sold").map((unit) => unit.number));
  if (epoch === open.epoch && version < open.version) return paint(); // the line knew more
  stand({ epoch, version, taken: units.filter((unit) => unit.status !== "free").map((unit) => unit.number) });
}

/** All of it, by the line. */
function stand({ epoch, version, taken }) {
  if (epoch === open.epoch && version < open.version) return;
  Object.assign(open, { epoch, version, taken: new Set(taken) });
  for (const number of open.sold) if (!open.taken.has(number)) open.sold.delete(number);
  lose();
  paint();
}

function move(mine, { epoch, since, version, taken, freed }) {
  if (epoch === mine.epoch && version <= mine.version) return;
  if (epoch !== mine.epoch || since !== mine.version) return again(mine, 0); // something was missed
  mine.version = version;
  for (const number of taken) mine.taken.add(number);
  for (const number of freed) { mine.taken.delete(number); mine.sold.delete(number); }
  lose();
  paint();
}

/** Asks soon, once, however much happens until then. */
function again(mine, wait = AGAIN_MS[0] + Math.random() * AGAIN_MS[1]) {
  if (mine.asking) return;
  mine.asking = setTimeout(async () => {
    const found = await api.units(mine.drop.id);
    mine.asking = 0;
    if (open === mine && found.ok) learn(found);
  }, wait);
}

/** What was picked and went to somebody else is named; the rest stays picked. */
function lose() {
  const gone = [...open.picked].filter((number) => open.taken.has(number) && !isMine(number));
  if (!gone.length || open.isHolding) return;
  for (const number of gone) open.picked.delete(number);
  say(`Somebody was faster: ${gone.map(open.map.name).join(", ")} just went. ${rest()}`);
  tell();
}

const rest = () => (open.picked.size ? `Still picked: ${[...open.picked].map(open.map.name).join(", ")}.` : "Pick another.");

function owned() {
  const mine = holds.all(open.user).filter((hold) => hold.dropId === open.drop.id);
  return new Set(mine.filter((hold) => holds.alive(hold) || hold.status === "purchased").flatMap((hold) => (hold.units ?? []).map((unit) => unit.number)));
}
const isMine = (number) => owned().has(number);

// ── what is seen ────────────────────────────────────────────────────────────────────────────────

function paint() {
  const own = owned();
  for (const number of open.map.numbers()) open.map.paint(number, stateOf(number, own));
}

function stateOf(number, own) {
  if (own.has(number)) return "mine";
  if (open.picked.has(number)) return "picked";
  if (open.sold.has(number)) return "sold";
  return open.taken.has(number) ? "held" : "free";
}

/** Where a map is wider than its window: on which side there is more of it. */
function hint() {
  const { scrollLeft, scrollWidth, clientWidth } = part.map;
  const isRight = scrollLeft + clientWidth < scrollWidth - 1;
  part.map.classList.toggle("more", isRight);
  part.more.textContent = isRight ? "More seats to the right →" : scrollLeft > 1 ? "← More seats to the left" : "";
}

function say(text) {
  part.said.textContent = text;
}

function tell() {
  const { picked, drop, map } = open, count = picked.size;
  const names = [...picked].sort((a, b) => a - b).map(map.name).join(", ");
  part.picked.textContent = count ? `${names} · ${(Number(drop.price) * count).toFixed(2)} ${drop.currency}` : "Nothing picked yet.";
  part.hold.textContent = count ? `Hold ${many(count, "seat", "seats")}` : "Hold";
  part.hold.disabled = !count;
  bestOf();
}

function bestOf() {
  const count = Number(part.count.value);
  part.best.textContent = count === 1 ? "The best one" : `Best ${count} beside each other`;
}

// ── what the buyer does ─────────────────────────────────────────────────────────────────────────

function press(number) {
  const state = open.map.state(number), name = open.map.name(number);
  if (state === "picked") open.picked.delete(number);
  else if (state === "mine") return say(`${name} is yours already.`);
  else if (state !== "free") return say(`${name} is ${state}${state === "held" ? ": it may come back." : "."}`);
  else if (open.picked.size >= open.most) return say(`${many(open.most, "seat", "seats")} at most: let one go first.`);
  else open.picked.add(number);
  say(`${name} ${state === "picked" ? "let go" : "picked"}. ${open.picked.size} of ${open.most}.`);
  paint();
  tell();
}

/** The best run of one row that is drawn. Whose runs all go to faster ones, or who wants more than a
 * row has, gets what the shop finds: neighbours by their numbers, which may go round a row's end. */
async function best() {
  const mine = open, count = Number(part.count.value);
  for (let tries = 0; tries < BEST_TRIES; tries++) {
    const run = mine.map.best(count);
    if (!run) break;
    const error = await hold({ units: run.map(mine.map.name) });
    if (error !== "SLOT_NOT_AVAILABLE" || open !== mine) return;
  }
  await hold({ quantity: count });
}

/** Holds them, and closes the map; or says why not, and returns the refusal. */
async function hold(wish) {
  const mine = open;
  if (!mine || mine.isHolding) return;
  mine.isHolding = true; // what goes now may go to us
  const answer = await api.reserve(mine.drop.id, mine.user, wish);
  mine.isHolding = false;
  if (answer.ok) {
    if (open === mine) close();
    mine.done(answer, wish.quantity ? apart(mine.map, answer.units) : "");
  }
  if (answer.ok || open !== mine) return;
  if (answer.error !== "SLOT_NOT_AVAILABLE") {
    lose();
    say(answer.error === "SOLD_OUT" && wish.quantity ? scattered(wish.quantity, answer.details) : answer.message);
    return answer.error;
  }
  say(answer.message);
  for (const name of answer.details?.units ?? []) {
    const number = mine.map.numberOf(name);
    if (number) mine.taken.add(number);
  }
  lose();
  paint();
  again(mine, 0);
  return answer.error;
}

/** To who wanted neighbours, and got some that the map does not show beside each other. */
function apart(map, units) {
  const isOne = !map.hasRows() || map.areOfOneRow(units.map((unit) => unit.number));
  return isOne ? "" : " They are not beside each other in one row: no row had so many.";
}

/** To who wants more beside each other than there are. */
function scattered(count, { availableStock, longestRun } = {}) {
  if (!availableStock) return "Nothing is free now. What is held may come back.";
  const most = longestRun ? `: ${longestRun} at most` : "";
  return count > 1 ? `No ${count} free seats are beside each other${most}.` : "Somebody was faster: try again.";
}

function close() {
  if (!open) return;
  open.line?.close();
  clearTimeout(open.asking);
  open = null;
  if (dialog.open) dialog.close();
}

part.hold.onclick = () => hold({ units: [...open.picked].sort((a, b) => a - b).map(open.map.name) });
part.best.onclick = best;
part.count.onchange = bestOf;
part.close.onclick = close;
part.map.addEventListener("scroll", hint, { passive: true });
addEventListener("resize", hint);
dialog.addEventListener("close", close);
