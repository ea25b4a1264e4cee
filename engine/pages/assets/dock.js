// Wherever one has scrolled: what was said last, at the head, where no button stands that is needed
// next; and all that is held, at the foot.
import { left } from "./holds.js";
import { ring } from "./ring.js";

const SAID_MS = 12_000;
const said = document.getElementById("said"), nav = document.getElementById("holds");
const chips = new Map();
let silence = 0;

/** Says it to eyes and, politely, to ears. Only what the buyer waits for: figures move in silence. */
export function say(text) {
  said.textContent = text;
  clearTimeout(silence);
  silence = setTimeout(() => { said.textContent = ""; }, SAID_MS);
}

/** `held`: what lives, each with its drop's `name`; `show(hold)` goes to where it is. */
export function paint(held, show) {
  const ids = new Set(held.map(({ hold }) => hold.id));
  for (const [id, { element }] of chips) if (!ids.has(id)) { element.remove(); chips.delete(id); }
  for (const { hold, name } of held) {
    if (!chips.has(hold.id)) chips.set(hold.id, chip(name, () => show(hold)));
    chips.get(hold.id).countdown.paint(left(hold), hold.total);
  }
  nav.hidden = !held.length;
}

function chip(name, show) {
  const element = document.createElement("button"), countdown = ring();
  element.type = "button";
  element.className = "chip";
  element.append(countdown.element, name);
  element.onclick = show;
  nav.append(element);
  return { element, countdown };
}
