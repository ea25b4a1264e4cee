// One slot on the board: its name, how it stands, how warm it is and was, and what one can do.
import { until } from "./api.js";
import { make } from "./card.js";
import { ring } from "./ring.js";
import { clock } from "./words.js";

const SVG = "http://www.w3.org/2000/svg";
const WIDTH = 120, HEIGHT = 28, SPAN = 6; // °C around the target that the drawing shows at least
export const HOLD_MS = 120_000;
const WORDS = { AVAILABLE: "Free", RESERVED: "Held", OCCUPIED: "Booked" };
const WARM = { NORMAL: "cold enough", WARNING: "▲ too warm", CRITICAL: "■ critical" };

export const degrees = (value) => `${value.toFixed(1).replace("-", "−")}\u00a0°C`;

/** What is wrong with a slot's temperature, to who is about to use it; "" if nothing is. */
export function alarm({ name, tempStatus, temperature, targetTemp }) {
  if (tempStatus === "NORMAL") return "";
  const figures = `${degrees(temperature)}, target ${degrees(targetTemp)}`;
  return tempStatus === "CRITICAL"
    ? `■ ${name} is critical: ${figures}. What is put there may spoil.`
    : `▲ ${name} is too warm: ${figures}.`;
}

function write(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** The last readings as a line, and the target as another. */
function sparkline() {
  const element = document.createElementNS(SVG, "svg");
  element.setAttribute("viewBox", `0 0 ${WIDTH} ${HEIGHT}`);
  element.setAttribute("preserveAspectRatio", "none");
  element.setAttribute("aria-hidden", "true");
  const [target, line] = ["target", "line"].map((name) => {
    const drawn = document.createElementNS(SVG, "polyline");
    drawn.setAttribute("class", name);
    return element.appendChild(drawn);
  });

  function paint(readings, goal) {
    const values = readings.map((reading) => reading.temperature);
    const low = Math.min(goal - SPAN / 2, ...values), high = Math.max(goal + SPAN / 2, ...values);
    const y = (value) => (HEIGHT - 2 - ((value - low) / (high - low)) * (HEIGHT - 4)).toFixed(1);
    const step = WIDTH / Math.max(values.length - 1, 1);
    target.setAttribute("points", `0,${y(goal)} ${WIDTH},${y(goal)}`);
    line.setAttribute("points", values.map((value, index) => `${(index * step).toFixed(1)},${y(value)}`).join(" "));
  }
  return { element, paint };
}

/** `{element, paint(slot, mayAct)}`; `acts`: hold, book, giveBack, release, each told the slot. */
export function tile(acts) {
  const element = make("li", "slot"), head = make("div", "slot-head"), name = make("h3"), state = make("p", "slot-state");
  const warm = make("p", "warm"), value = warm.appendChild(make("b")), note = warm.appendChild(make("span"));
  const drawing = sparkline(), countdown = ring(), foot = make("div", "slot-foot"), more = make("p"), row = make("div", "row");
  head.append(name, state, countdown.element);
  foot.append(more, row);
  element.append(head, warm, drawing.element, foot);
  element.tabIndex = -1;
  let shown = "";

  function paint(slot, mayAct) {
    const isHeld = Boolean(slot.reservation), isBooked = Boolean(slot.booking), left = slot.expiresAt ? until(slot.expiresAt) : 0;
    element.className = `slot ${slot.status} ${slot.tempStatus}`;
    element.classList.toggle("mine", isHeld || isBooked);
    write(name, slot.name);
    write(state, slot.withdrawn ? "Out of service" : isHeld || isBooked ? `${WORDS[slot.status]} by you` : WORDS[slot.status]);
    write(value, degrees(slot.temperature));
    write(note, ` ${WARM[slot.tempStatus]}, target\u00a0${degrees(slot.targetTemp)}`);
    drawing.paint(slot.history, slot.targetTemp);
    countdown.element.hidden = !isHeld;
    if (isHeld) countdown.paint(left, HOLD_MS);
    const others = slot.status === "RESERVED" && !isHeld && left > 0 ? `Free again in ${clock(left)} at most` : "";
    write(more, isBooked ? `Manifest ${slot.booking.manifestId}` : others);
    const wanted = [slot.status, isHeld, isBooked, slot.withdrawn, mayAct].join();
    if (wanted === shown) return; // leave the focus where it is
    shown = wanted;
    const isFocused = row.contains(document.activeElement);
    row.replaceChildren(...buttons(slot, mayAct, isHeld, isBooked));
    if (isFocused) (row.querySelector("button") ?? element).focus({ preventScroll: true });
  }

  function buttons(slot, mayAct, isHeld, isBooked) {
    if (!mayAct || slot.withdrawn) return [];
    if (isHeld) return [button("Book", slot, acts.book), button("Give back", slot, acts.giveBack, "quiet")];
    if (isBooked) return [button("Release", slot, acts.release, "quiet")];
    return slot.status === "AVAILABLE" ? [button("Hold", slot, acts.hold)] : [];
  }

  return { element, paint, again: () => { shown = ""; } };
}

function button(label, slot, act, className = "") {
  const made = make("button", className, label);
  made.type = "button";
  made.setAttribute("aria-label", `${label} ${slot.name}`); // there are twenty called "Hold"
  made.onclick = async () => {
    if (made.getAttribute("aria-disabled")) return;
    made.setAttribute("aria-disabled", "true"); // not `disabled`: the focus stays
    await act(slot);
    made.removeAttribute("aria-disabled");
  };
  return made;
}
