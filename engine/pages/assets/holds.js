// What this tab holds: kept while the tab lives, put right by whatever the shop tells of it.
import * as api from "./api.js";
import { story } from "./words.js";

const LATE_MS = 15 * 60_000; // so long a payment is looked for whose time is over
const kept = new Map(JSON.parse(sessionStorage.holds ?? "[]").map((hold) => [hold.id, hold])); // oldest first

export const left = (hold) => api.until(hold.expiresAt);
export const alive = (hold) => hold?.status === "paying" || (hold?.status === "active" && left(hold) > 0);
export const get = (id) => kept.get(id);
export const all = (user) => [...kept.values()].filter((hold) => hold.userId === user);
export const isEmpty = () => kept.size === 0;

/** Of a buyer's holds of a drop, the one to show: a live one, else the newest. */
export function of(dropId, user) {
  const held = all(user).filter((hold) => hold.dropId === dropId);
  return held.findLast(alive) ?? held.at(-1);
}

const isOver = (hold) => ["expired", "released"].includes(hold.status);
export const isOpen = (hold) => // something may still become of it
  hold.status === "paying" || (hold.paid && isOver(hold) && left(hold) > -LATE_MS) ||
  (hold.payments ?? []).some((payment) => payment.outcome === "refund_due" && payment.status !== "refunded");

/** Its own flags stay: what was done here, which the shop does not tell. `total` is the span, in
 * ms, of which `left` is left: from when its deadline was last set. */
export function remember(hold, fresh = {}) {
  const known = { ...kept.get(hold.id), ...hold, ...fresh };
  const isMoved = kept.get(hold.id)?.expiresAt !== known.expiresAt;
  if (isMoved || !known.total) known.total = Math.max(left(known), 1);
  kept.set(hold.id, known);
  sessionStorage.holds = JSON.stringify([...kept.values()]);
  return known;
}

/** Asks what became of a hold. Returns what there is to say of it that is new, or "". */
export async function look(hold) {
  const { ok, message, ...fresh } = await api.hold(hold.id, hold.userId);
  if (!ok) return "";
  const known = kept.get(hold.id) ?? hold;
  const before = story(known), late = known.late || (isOver(known) && fresh.status === "purchased");
  const after = story(remember(known, { ...fresh, late }));
  return after !== before ? after : "";
}
