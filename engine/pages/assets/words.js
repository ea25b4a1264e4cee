// What the page says: of drops, of holds, of payments, of time.
import { until } from "./api.js";

const WHY = { // refunds' reasons
  sold_out: "nothing was left",
  limit: "you have as many as one buyer may have",
  paused: "the sale is paused",
  wrong_amount: "What you paid was not the price",
  already_paid: "You paid twice",
  refunded: "You paid for what was refunded",
  unknown_reservation: "You paid for nothing that we know of",
};
const STATES = {
  upcoming: "Not yet open",
  live: "On sale",
  sold_out: "Sold out",
  paused: "Paused",
  ended: "Ended",
  preparing: "Being prepared",
};

/** m:ss, or d and h; a countdown's. */
export function clock(ms) {
  const seconds = Math.max(0, Math.ceil(ms / 1000));
  if (seconds >= 86_400) return `${Math.floor(seconds / 86_400)} d ${Math.floor((seconds % 86_400) / 3600)} h`;
  if (seconds >= 3600) return `${Math.floor(seconds / 3600)} h ${Math.floor((seconds % 3600) / 60)} min`;
  return `${Math.floor(seconds / 60)}:${String(seconds % 60).padStart(2, "0")}`;
}

export function ago(moment) {
  const seconds = Math.floor(-until(moment) / 1000);
  if (seconds < 5) return "just now";
  if (seconds < 60) return `${seconds - (seconds % 5)} s ago`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ago`;
  return seconds < 86_400 ? `${Math.floor(seconds / 3600)} h ago` : `${Math.floor(seconds / 86_400)} d ago`;
}

export const many = (number, one, more) => `${number} ${number === 1 ? one : more}`;

/** How a drop stands by the clock and its figures: of these there is news before of its status. */
export function stateOf(drop) {
  if (["paused", "preparing", "ended"].includes(drop.status)) return drop.status;
  if (until(drop.startsAt) > 0) return "upcoming";
  if (drop.endsAt && until(drop.endsAt) <= 0) return "ended";
  return drop.availableStock + drop.heldStock > 0 ? "live" : "sold_out";
}

/** Everything is held: some may come back, so it is not sold out. */
export const isTaken = (drop) => stateOf(drop) === "live" && drop.availableStock === 0;

/** The badge on its picture. `held`: how many units of it are held by who looks. */
export function badge(drop, held) {
  const state = stateOf(drop);
  if (state === "upcoming") return `Opens in ${clock(until(drop.startsAt))}`;
  if (state === "live" && drop.endsAt && until(drop.endsAt) < 86_400_000) return `Ends in ${clock(until(drop.endsAt))}`;
  if (isTaken(drop)) return held ? "Held for you" : "All taken";
  return STATES[state];
}

/** Beside its figures: what they do not say. One's own hold may return too, but not to oneself. */
export function hint(drop, held) {
  const state = stateOf(drop);
  if (state === "paused") return drop.pausedReason === "audit" ? "Being checked. Holds stay valid." : "Back soon. Holds stay valid.";
  if (state === "preparing") return "Its units are being counted in.";
  const returning = drop.heldStock - held;
  return isTaken(drop) && returning > 0 ? `${many(returning, "hold", "holds")} may return` : "";
}

/** To who was too late, or asked for what others hold. */
export function taken(drop, { heldStock }) {
  const hope = heldStock > 0 ? ` ${many(heldStock, "hold", "holds")} may return: try again soon.` : "";
  return `Somebody was faster: ${drop.name} is ${hope ? "all taken" : "sold out"}.${hope}`;
}

/** What a button says that cannot be pressed. */
export const closed = (drop) => (stateOf(drop) === "upcoming" ? "Not yet" : STATES[stateOf(drop)]);

/** What became of a hold: a card's note, and what is said aloud when it changes. */
export function story(hold) {
  const payments = hold?.payments ?? [];
  const owed = payments.filter((payment) => payment.outcome === "refund_due");
  const back = owed.map(refund).join(" ");
  switch (hold?.status) {
    case "paying":
      if (back) return `${back} The ${what(hold)} can still be paid for.`;
      if (payments.at(-1)?.status === "failed") return `The card was declined and nothing was paid: try again, or give the ${what(hold)} back.`;
      return until(hold.expiresAt) > 0 ? "Waiting for the bank." : "The time to pay is over.";
    case "purchased":
      return `${hold.late ? `Your payment came late, but in time for another: ${what(hold)} ${numbers(hold)} is yours` : own(hold)}. ${back}`.trim();
    case "expired":
      return back || (hold.paid
        ? `The time to pay is over and the ${what(hold)} on sale again. If your payment still comes, you get what is left or your money back.`
        : `Your time ran out, and the ${what(hold)} can be had again.`);
    case "refunded": return "Your purchase was refunded.";
    default: return back;
  }
}

/** Which units: by their names, where they have some. */
export const numbers = (held) => (held.units ?? []).map((unit) => unit.name ?? unit.number).join(", ");

/** What a hold is of: a pair, or seats that were picked. */
export const what = (held) => {
  if (held.units?.[0]?.name === undefined) return "pair";
  return held.units.length === 1 ? "seat" : "seats";
};
export const titled = (held) => `${what(held)[0].toUpperCase()}${what(held).slice(1)} ${numbers(held)}`;
export const own = (held) => `${titled(held)} ${what(held) === "seats" ? "are" : "is"} yours`;

function refund({ amount, currency, status, reason }) {
  if (status === "refunded") return `You got ${amount} ${currency} back.`;
  const late = ["sold_out", "limit", "paused"].includes(reason);
  return `${late ? "Your payment came too late, and " : ""}${WHY[reason] ?? "It bought nothing"}: you get ${amount} ${currency} back.`;
}
