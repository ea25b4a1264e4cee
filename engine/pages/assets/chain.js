// The ledger drawn as a chain: links newest first, each with the hash of the one before it.
import { make } from "./card.js";
import { ago, many } from "./words.js";

export const SHOWN = 30; // records
const ACTIONS = {
  BOOKING_CONFIRMED: "Booked", BOOKING_RELEASED: "Booking released", TEMP_CRITICAL: "Too warm",
  PURCHASED: "Bought", REFUNDED: "Refunded", MINTED: "Minted", KEY_ROTATED: "New keys",
};
const NAMED_MAX = 4; // records of a block that are listed

const short = (hash) => `${(hash ?? "").slice(0, 10)}…`;

/** Records by the link that they are in, newest first; those of a block share its hash. */
export function linksOf(entries) {
  const links = [];
  for (const entry of entries.toSorted((a, b) => b.sequence - a.sequence)) {
    const last = links.at(-1);
    if (last?.dataHash === entry.dataHash) last.entries.push(entry);
    else links.push({ dataHash: entry.dataHash, previousHash: entry.previousHash, nonce: entry.nonce, entries: [entry] });
  }
  return links;
}

/** A hash as a patch of colour: two that are equal look equal. */
function hash(label, value) {
  const element = make("span", "hash"), patch = element.appendChild(make("i"));
  patch.style.background = `hsl(${parseInt(value.slice(0, 4), 16) % 360} 55% 50%)`;
  patch.setAttribute("aria-hidden", "true");
  element.append(`${label} `, make("code", "", short(value)));
  element.title = value;
  return element;
}

function drawLink(link, older, isNew) {
  const element = make("li", isNew ? "link new" : "link"), count = link.entries.length;
  const [newest, oldest] = [link.entries[0].sequence, link.entries.at(-1).sequence];
  element.append(make("h3", "", count === 1 ? `#${newest}` : `#${oldest} to #${newest}, a block`));
  const list = element.appendChild(make("ul"));
  for (const entry of link.entries.slice(0, NAMED_MAX)) {
    const item = list.appendChild(make("li")), time = make("time");
    time.dateTime = entry.timestamp;
    time.textContent = ago(entry.timestamp);
    item.append(make("b", "", ACTIONS[entry.action] ?? entry.action), ` · ${short(entry.subject)} `, time);
  }
  if (count > NAMED_MAX) list.append(make("li", "", `and ${many(count - NAMED_MAX, "more", "more")}`));
  const hashes = element.appendChild(make("p", "hashes"));
  hashes.append(hash("this", link.dataHash), hash("before", link.previousHash), make("span", "nonce", `nonce ${link.nonce}`));
  if (older) {
    const isNext = older.dataHash === link.previousHash;
    element.append(make("p", isNext ? "tie" : "tie open", isNext ? `linked to #${older.entries[0].sequence}` : "others lie between"));
  }
  return element;
}

/** `{put(entries), newest()}`: keeps the newest records, and draws them when there are others. */
export function chain(list) {
  let known = new Map(), shown = "";

  function put(entries) {
    const before = new Set(known.keys());
    for (const entry of entries) known.set(entry.sequence, entry);
    known = new Map([...known].sort(([a], [b]) => b - a).slice(0, SHOWN));
    const wanted = [...known.keys()].join();
    if (wanted === shown) return;
    const isFirst = !shown, links = linksOf([...known.values()]);
    shown = wanted;
    const isNew = (link) => !isFirst && link.entries.some((entry) => !before.has(entry.sequence));
    list.replaceChildren(...links.map((link, index) => drawLink(link, links[index + 1], isNew(link))));
  }

  function tick() {
    for (const time of list.querySelectorAll("time")) time.textContent = ago(time.dateTime);
  }
  return { put, tick, newest: () => known.keys().next().value ?? 0 };
}
