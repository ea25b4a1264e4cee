// What is known of the drops, and of the epoch and version at which it was said.
import * as holds from "./holds.js";
import { stateOf } from "./words.js";

const ORDER = ["live", "upcoming", "paused", "preparing", "sold_out", "ended"];
const known = new Map();

export const get = (id) => known.get(id);
export const has = (id) => known.has(id);
export const all = () => [...known.values()];

const isNewer = (drop, fresh, orSame) =>
  drop.epoch !== undefined && fresh.epoch !== undefined && drop.epoch !== fresh.epoch
    ? fresh.epoch > drop.epoch
    : fresh.version > drop.version || (orSame && fresh.version === drop.version);

/** A freezer is a drop, too, and so is a tier of members, but nothing for a shop: they have pages of their own. */
const isListed = (drop) => drop.listed !== false && drop.pick !== "minted";

/** All of them: what is not in the list is no longer shown. */
export function replace(list) {
  known.clear();
  for (const drop of list.filter(isListed)) known.set(drop.id, drop);
}

/** One, with all its terms: these may change at the same version. */
export function put(fresh) {
  const drop = known.get(fresh.id);
  if (!isListed(fresh)) known.delete(fresh.id);
  else if (!drop) known.set(fresh.id, fresh);
  else if (isNewer(drop, fresh, true)) Object.assign(drop, fresh);
}

/** One's figures. */
export function move({ dropId, ...figures }) {
  const drop = known.get(dropId);
  if (drop && isNewer(drop, figures, false)) Object.assign(drop, figures);
}

/** Somebody bought; a snapshot may have told of it before. */
export function bought({ dropId, ...buyer }) {
  const drop = known.get(dropId);
  const recent = drop?.recentPurchases ?? [];
  const isKnown = recent.some((one) => one.username === buyer.username && one.purchasedAt === buyer.purchasedAt);
  if (!drop || isKnown) return;
  const newest = [buyer, ...recent].sort((a, b) => b.purchasedAt.localeCompare(a.purchasedAt));
  drop.recentPurchases = newest.slice(0, 3);
}

/** In the order to show them: what `user` holds, what is on sale, what opens next, the rest. */
export function sorted(user) {
  const rank = (drop) => (holds.alive(holds.of(drop.id, user)) ? -1 : ORDER.indexOf(stateOf(drop)));
  const within = (drop) => (stateOf(drop) === "upcoming" ? Date.parse(drop.startsAt) : -drop.id);
  return all().sort((a, b) => rank(a) - rank(b) || within(a) - within(b));
}
