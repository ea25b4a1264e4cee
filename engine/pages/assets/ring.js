// A countdown as a ring that empties, with the time in its middle.
import { clock } from "./words.js";

const SVG = "http://www.w3.org/2000/svg";
export const URGENT_MS = 15_000;

/** `{element, paint(leftMs, totalMs)}`: `paint` as often as you like. A timer to screen readers,
 * which read it when asked and not every second. */
export function ring() {
  const element = document.createElement("span"), time = document.createElement("span");
  const drawing = document.createElementNS(SVG, "svg");
  element.className = "ring";
  element.setAttribute("role", "timer");
  drawing.setAttribute("viewBox", "0 0 48 48");
  drawing.setAttribute("aria-hidden", "true");
  const [, rest] = ["track", "rest"].map((name) => {
    const circle = document.createElementNS(SVG, "circle");
    for (const [key, value] of Object.entries({ class: name, cx: 24, cy: 24, r: 21, pathLength: 100 })) {
      circle.setAttribute(key, value);
    }
    return drawing.appendChild(circle);
  });
  rest.setAttribute("stroke-dasharray", "100 100");
  element.append(drawing, time);

  function paint(left, total) {
    const share = Math.min(1, Math.max(0, left / Math.max(total, 1)));
    rest.setAttribute("stroke-dashoffset", (100 * (share - 1)).toFixed(1)); // empties clockwise
    element.classList.toggle("urgent", left <= URGENT_MS);
    const text = clock(left);
    if (time.textContent !== text) time.textContent = text;
  }

  return { element, paint };
}
