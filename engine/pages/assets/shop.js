// The demo shop: stock as it moves; a pair is held, paid for at the provider's page, or given back.
// Who is logged in is one buyer in every window; else every tab is a buyer of its own. What became of a payment is asked of the shop, never guessed.
import * as api from "./api.js";
import { card, purchase } from "./card.js";
import * as dock from "./dock.js";
import * as drops from "./drops.js";
import * as holds from "./holds.js";
import { live } from "./live.js";
import * as login from "./login.js";
import { URGENT_MS } from "./ring.js";
import { choose } from "./seats.js";
import { clock, own, stateOf, story, taken } from "./words.js";

const LOOPBACK = ["localhost", "127.0.0.1", "[::1]"];
const CONNECTION = {
  socket: "Live",
  stream: "Live, by stream",
  retrying: "Reconnecting …",
  polling: "Every few seconds",
};
const SHOWN = { live: ["live"], upcoming: ["upcoming", "preparing"], over: ["sold_out", "ended", "paused"] };
const cards = new Map();
const $ = (id) => document.getElementById(id);
const guest = () => (sessionStorage.me ??= "guest-" + crypto.getRandomValues(new Uint32Array(1))[0].toString(36));
let me = login.who()?.id ?? guest();
let arrive;
const arrived = new Promise((done) => { arrive = done; }); // there are drops to show, or none
let line = null, state = "retrying", isPainting = false;
let mayBuy = true; // not where buyers must be logged in, and nobody is

const { say } = dock;
const nameOf = (hold) => drops.get(hold.dropId)?.name ?? "Your pair";

// ── what the buyer does ─────────────────────────────────────────────────────────────────────────

const acts = {
  async reserve(drop) {
    const { ok, message, ...answer } = await api.reserve(drop.id, me);
    const known = answer.details?.reservationId; // held before: by this name, in another window
    if (ok) holds.remember(answer);
    else if (known) await look({ id: known, userId: me });
    const refusal = answer.error === "SOLD_OUT" ? taken(drop, answer.details) : message;
    say(ok ? `${drop.name}: ${own(answer)} until the clock runs out.` : refusal);
    await settle(drop.id);
  },

  choose: (drop) => choose(drop, me, async (held, note) => {
    holds.remember(held);
    say(`${drop.name}: ${own(held)} until the clock runs out.${note}`);
    await settle(drop.id);
    go(drop.id);
  }),

  async pay(hold) {
    // Of a hold whose payment has begun, the same link comes back: that is how a card is tried again.
    const begun = await api.pay(hold);
    if (!begun.ok) return failed(hold, begun);
    holds.remember(hold, { status: begun.status, expiresAt: begun.expiresAt, paid: true });
    if (!begun.payUrl) return confirm(hold);
    const url = new URL(begun.payUrl);
    if (LOOPBACK.includes(url.hostname)) { // the mock provider's page: when it is late, and the way back
      url.searchParams.set("expiresAt", begun.expiresAt);
      url.searchParams.set("return", `${location.origin}/?reservation=${hold.id}`);
    }
    if (/^https?:$/.test(url.protocol)) location.assign(url);
  },

  async extend(hold) {
    const longer = await api.extend(hold);
    if (!longer.ok && longer.error !== "EXTENSION_USED") return failed(hold, longer);
    holds.remember(hold, longer.ok ? { expiresAt: longer.expiresAt, extended: true } : { extended: true });
    say(longer.ok ? `${nameOf(hold)}: ${clock(holds.left(longer))} more to decide.` : longer.message);
    paint();
  },

  async giveBack(hold) {
    const reply = await api.giveBack(hold);
    if (!reply.ok) return failed(hold, reply);
    holds.remember(hold, { status: "released" });
    say(`${nameOf(hold)} is on sale again.`);
    await settle(hold.dropId);
  },
};

async function confirm(hold) { // where no provider is set up, confirming is buying
  const bought = await api.buy(hold);
  if (!bought.ok) return failed(hold, bought);
  holds.remember(hold, { status: "purchased" });
  say(`Bought: ${nameOf(hold)}.`);
  await settle(hold.dropId);
}

async function failed(hold, reply) {
  await look(hold);
  say(reply.message);
  await settle(hold.dropId);
}

/** After an act: its card shows what is; without a line the figures are asked for as well. */
async function settle(dropId) {
  cards.get(dropId)?.again();
  if (state !== "live") await refresh();
  paint();
}

async function look(hold) {
  const wasBought = holds.get(hold.id)?.status === "purchased";
  const news = await holds.look(hold);
  if (news) say(`${nameOf(hold)}: ${news}`);
  if ((holds.get(hold.id)?.status === "purchased") !== wasBought) listPurchases();
  paint();
}

// ── what the shop tells ─────────────────────────────────────────────────────────────────────────

const hear = {
  connected: ({ serverTime }) => api.heardTime(serverTime, true),

  snapshot({ room, serverTime, drops: list, reservations }) {
    api.heardTime(serverTime);
    if (room === "drops") showAll(list);
    if (reservations) theseAreMine(reservations);
  },

  stock_update: drops.move,
  new_drop: drops.put,
  drop_update: drops.put,
  new_purchase: drops.bought,

  reservation_update({ reservationId, ...fresh }) {
    if (!reservationId || fresh.userId !== me) return; // somebody's: the figures say it
    const hold = holds.get(reservationId);
    if (hold?.status === fresh.status && hold.expiresAt === fresh.expiresAt) return;
    look(hold ?? { id: reservationId, userId: me });
  },

  reservation_expired: (ended) => hear.reservation_update({ ...ended, status: "expired" }),
};

function showAll(list) {
  drops.replace(list);
  $("empty").hidden = drops.all().length > 0;
  $("empty").textContent = "There are no drops yet: velvetrope seed puts twenty on show.";
  sort();
  arrive();
}

/** All that live of mine. What was thought alive and is not among them has ended meanwhile. */
function theseAreMine(reservations) {
  const known = new Set(reservations.map((hold) => hold.id));
  for (const hold of reservations.toReversed()) {
    const mine = holds.get(hold.id);
    if (!mine || holds.alive(mine)) holds.remember(hold);
    else look(mine); // ended, as far as we know: which is the newer?
  }
  for (const hold of holds.all(me)) if (holds.alive(hold) && !known.has(hold.id)) look(hold);
}

/** As a line would tell it, by asking. Null: no answer. */
async function ask() {
  const [list, mine] = await Promise.all([api.drops(), api.holdsOf(me)]);
  if (!list.ok) return null;
  api.heardTime(list.data[0]?.serverTime);
  return { room: "drops", drops: list.data, reservations: mine.ok ? mine.data : undefined };
}

async function refresh() {
  const snapshot = await ask();
  if (snapshot) hear.snapshot(snapshot);
}

async function listPurchases() {
  const whose = me, mine = await api.purchasesOf(me);
  if (whose !== me) return;
  showGlass(mine.error === "UNAUTHORIZED");
  if (!mine.ok) return;
  $("count").textContent = mine.data.length;
  $("count").hidden = !mine.data.length;
  $("none").hidden = mine.data.length > 0;
  $("purchases").replaceChildren(...mine.data.map(purchase));
}

/** Who may only look is told so once, instead of at every button. */
function showGlass(isGlass) {
  mayBuy = !isGlass;
  $("glass").hidden = !isGlass;
  $("farewell").textContent = login.who() ? "" : login.farewell();
  $("who").hidden = isGlass || Boolean(login.who());
  $("mine").hidden = isGlass;
  paint();
}

async function connect() {
  line?.close();
  line = null;
  const whose = me, auth = await login.introduction(me);
  if (whose !== me || line) return; // somebody else meanwhile
  line = live({
    rooms: ["drops", "me"],
    auth,
    poll: ask,
    onEvent(event, data) {
      hear[event]?.(data);
      soon();
    },
    onState(now, way) {
      state = now;
      $("state").dataset.state = now;
      $("state").textContent = cards.size || now !== "retrying" ? CONNECTION[way ?? now] : "Connecting …";
    },
  });
}

// ── what is seen ────────────────────────────────────────────────────────────────────────────────

/** On sale first; those one holds before all. Who fights over a pair must not see it jump away: so
 * only at first, and when asked. What is new later comes in front. */
function sort(anew = !cards.size) {
  const sorted = drops.sorted(me).map((drop) => cardOf(drop).article);
  if (anew) $("drops").append(...sorted);
  else $("drops").prepend(...sorted.filter((article) => !article.isConnected));
  filter();
}

function cardOf(drop) {
  if (!cards.has(drop.id)) cards.set(drop.id, card(drop, acts));
  return cards.get(drop.id);
}

function filter() { // when chosen; what sells out meanwhile stays in sight
  const { value } = document.querySelector("#filter input:checked");
  for (const [id, { article }] of cards) {
    const drop = drops.get(id);
    article.hidden = !drop || !(value === "all" || SHOWN[value].includes(stateOf(drop)) || holds.alive(holds.of(id, me)));
  }
}

function soon() {
  if (isPainting) return;
  isPainting = true;
  requestAnimationFrame(paint);
}

function paint() {
  isPainting = false;
  for (const [id, { article }] of cards) if (!drops.has(id)) { article.remove(); cards.delete(id); }
  const isMore = drops.all().some((drop) => !cards.has(drop.id));
  for (const drop of drops.all()) {
    let hold = holds.of(drop.id, me);
    if (hold?.status === "active" && holds.left(hold) <= 0) {
      hold = holds.remember(hold, { status: "expired" });
      say(`${drop.name}: ${story(hold)}`);
    }
    const { article, paint: show } = cardOf(drop), before = article.dataset.state;
    show(drop, hold, mayBuy);
    if (before === "upcoming" && article.dataset.state === "live") say(`${drop.name} is on sale now.`);
    warn(drop, hold);
  }
  if (isMore) sort();
  const held = holds.all(me).filter((hold) => holds.alive(hold) && drops.has(hold.dropId));
  dock.paint(held.map((hold) => ({ hold, name: nameOf(hold) })), ({ dropId }) => go(dropId));
}

/** Once, to whom the ring says nothing. */
function warn(drop, hold) {
  if (!holds.alive(hold) || hold.warned === hold.expiresAt || hold.total < 2 * URGENT_MS || holds.left(hold) > URGENT_MS) return;
  holds.remember(hold, { warned: hold.expiresAt });
  say(`${drop.name}: ${clock(holds.left(hold))} left.`);
}

function go(dropId) {
  const article = cards.get(dropId)?.article;
  if (!article) return;
  article.hidden = false;
  const { top, bottom } = article.getBoundingClientRect();
  if (top < 0 || bottom > innerHeight) article.scrollIntoView({ block: "start" }); // under the header: that cuts nothing
  article.focus({ preventScroll: true });
}

// ── who one is, and where one comes from ────────────────────────────────────────────────────────

function become(name) {
  me = name;
  if (!login.who()) $("name").value = sessionStorage.me = name;
  $("who").hidden = Boolean(login.who());
  for (const shown of cards.values()) shown.again();
  connect();
  listPurchases();
  paint();
}

async function comeBack() {
  const id = new URLSearchParams(location.search).get("reservation");
  if (!id) return;
  history.replaceState(null, "", "/");
  if (!holds.get(id)) {
    const { ok, message, ...hold } = await api.hold(id);
    if (!ok) return say(message);
    if (holds.isEmpty() && !login.who()) me = sessionStorage.me = hold.userId; // a new tab, come from the provider's page
    holds.remember(hold, { paid: true });
  }
  await look(holds.get(id));
  return holds.get(id);
}

$("who").addEventListener("submit", (submitted) => {
  submitted.preventDefault();
  const name = $("name").value.trim();
  if (!name || name === me) return;
  become(name);
  say(`You are ${name} now.`);
});
login.onChange((record) => {
  const name = record?.id ?? guest();
  if (name !== me) become(name);
  if (!record && login.farewell()) say(login.farewell());
});
login.showOn($("account"));
$("filter").addEventListener("change", () => sort(true));
addEventListener("pageshow", (shown) => { if (shown.persisted) location.reload(); }); // back from the provider by the browser's own way

const returned = await comeBack();
become(me);
if (returned) {
  await arrived;
  paint();
  say(`${nameOf(returned)}: ${story(returned) || returned.status}`);
  go(returned.dropId);
}
setInterval(paint, 500);
setInterval(() => holds.all(me).filter(holds.isOpen).forEach(look), 2000); // payments: the provider tells the shop, the shop tells who asks
