// The slots board: freezers as they stand, live; a slot is held, booked with a manifest, or given back.
import * as api from "./api.js";
import { make } from "./card.js";
import * as dock from "./dock.js";
import { live } from "./live.js";
import * as login from "./login.js";
import { split } from "./seatmap.js";
import { HOLD_MS, alarm, degrees, tile } from "./slot.js";
import { clock, many } from "./words.js";

const CONNECTION = { socket: "Live", stream: "Live, by stream", retrying: "Reconnecting …", polling: "Every few seconds" };
const READINGS = 12;
const $ = (id) => document.getElementById(id);
const slots = new Map(), tiles = new Map();
const guest = () => (sessionStorage.me ??= "guest-" + crypto.getRandomValues(new Uint32Array(1))[0].toString(36));
let me = login.who()?.id ?? guest();
let state = "retrying", mayAct = true, booking = null;
const { say } = dock;

// ── what is known ───────────────────────────────────────────────────────────────────────────────

/** All slots, with what of them is mine. Null: no answer. */
async function ask() {
  const found = await api.slots(me);
  return found.ok ? { room: "slots", found: found.data } : null;
}

async function refresh() {
  const all = await ask();
  if (all) hear.snapshot(all);
}

const hear = {
  connected: ({ serverTime }) => api.heardTime(serverTime, true),

  snapshot({ serverTime, slots: told, found }) {
    api.heardTime(serverTime);
    for (const slot of found ?? []) {
      slots.set(slot.id, { ...slot, expiresAt: slot.reservation?.expiresAt ?? slots.get(slot.id)?.expiresAt });
    }
    if (told) {
      const ids = new Set(told.map((slot) => slot.slotId));
      for (const id of slots.keys()) if (!ids.has(id)) slots.delete(id);
      for (const slot of told) put(slot);
      refresh(); // the readings, and what is mine, are told to who asks
    }
    paint();
  },

  slot_update(told) {
    const before = slots.get(told.slotId);
    put(told);
    const slot = slots.get(told.slotId), isMine = before?.reservation || before?.booking;
    if (before?.tempStatus !== slot.tempStatus && slot.tempStatus === "CRITICAL") say(`${slot.name} is critical: ${degrees(slot.temperature)}.`);
    if (before && before.status !== slot.status && isMine) look(slot, before);
  },
};

/** News of a slot. */
function put({ slotId, measuredAt, ...told }) {
  const known = slots.get(slotId) ?? { history: [] };
  const isNew = measuredAt > (known.history.at(-1)?.recordedAt ?? "");
  slots.set(slotId, {
    ...known, ...told, id: slotId,
    history: isNew ? [...known.history, { temperature: told.temperature, recordedAt: measuredAt }].slice(-READINGS) : known.history,
    reservation: told.status === "RESERVED" ? known.reservation : null,
    booking: told.status === "OCCUPIED" ? known.booking : null,
  });
}

/** What became of one that was mine. */
async function look({ id }, before = {}) {
  const { ok, message, ...fresh } = await api.slot(id, me);
  if (!ok) return say(message);
  slots.set(id, { ...slots.get(id), ...fresh, expiresAt: fresh.reservation?.expiresAt ?? null });
  const hasLapsed = before.reservation && !fresh.reservation && !fresh.booking && Date.parse(before.reservation.expiresAt) <= api.now() + 1_000;
  if (hasLapsed) say(`${fresh.name}: your time ran out.`);
  paint();
}

// ── what one does ───────────────────────────────────────────────────────────────────────────────

const acts = {
  async hold(slot) {
    const { ok, error, reservation, ...answer } = await api.holdSlot(slot.id, me);
    const message = error === "SLOT_NOT_AVAILABLE" ? `Somebody was faster: ${slot.name} is taken.` : answer.message;
    if (ok) Object.assign(slots.get(slot.id), { status: "RESERVED", reservation, expiresAt: reservation.expiresAt });
    say(ok ? `${slot.name} is yours for ${clock(HOLD_MS)}: book it with a manifest. ${alarm(slots.get(slot.id))}` : message);
    await settle(slot);
  },

  book({ id }) {
    booking = slots.get(id);
    $("book-title").textContent = `Book ${booking.name}`;
    $("book-said").textContent = "";
    $("book-sure").firstElementChild.checked = false;
    warn();
    $("book").showModal();
    $("manifestId").focus();
  },

  async giveBack(slot) {
    const { reservation } = slots.get(slot.id);
    const { ok, message } = await api.giveBack({ id: reservation.id, userId: me });
    if (ok) Object.assign(slots.get(slot.id), { status: "AVAILABLE", reservation: null });
    say(ok ? `${slot.name} is free again.` : message);
    await settle(slot);
  },

  async release(slot) {
    const { ok, message } = await api.releaseBooking(slots.get(slot.id).booking.id);
    if (ok) Object.assign(slots.get(slot.id), { status: "AVAILABLE", booking: null });
    say(ok ? `${slot.name} is released; the ledger says so.` : message);
    await settle(slot);
  },
};

/** In the dialog, as the sensors say: a critical slot is booked only by who says so. */
function warn() {
  if (!booking) return;
  const { tempStatus } = slots.get(booking.id) ?? booking, isCritical = tempStatus === "CRITICAL";
  const text = alarm(slots.get(booking.id) ?? booking);
  if ($("book-warm").textContent !== text) $("book-warm").textContent = text;
  $("book-sure").hidden = !isCritical;
  $("book-sure").firstElementChild.required = isCritical;
}

async function settle(slot) {
  tiles.get(slot.id)?.again();
  paint();
  await look(slot);
}

$("manifest").addEventListener("submit", async (submitted) => {
  submitted.preventDefault();
  const given = Object.fromEntries([...new FormData($("manifest"))].filter(([, value]) => value !== ""));
  if (given.quantity) given.quantity = Number(given.quantity);
  const slot = booking, { ok, message, ...booked } = await api.book({ ...given, reservationId: slot.reservation?.id, userId: me });
  if (!ok) {
    $("book-said").textContent = message;
    return look(slot);
  }
  $("book").close();
  Object.assign(slots.get(slot.id), { status: "OCCUPIED", reservation: null, booking: booked.booking });
  say(`${slot.name} is booked; within a second it stands in the ledger.`);
  await settle(slot);
});
$("book-no").onclick = () => $("book").close();

for (const [id, path] of [["traffic", "traffic"], ["failure", "failure"]]) {
  $(id).onclick = async () => {
    const { ok, error, message } = await api.simulate(path);
    if (["UNAUTHORIZED", "FORBIDDEN"].includes(error)) $(id).hidden = true;
    say(ok ? `${message}.` : message);
    if (state !== "live") await refresh();
  };
}

// ── what is seen ────────────────────────────────────────────────────────────────────────────────

function draw() { // anew, when there are others than before: else the focus would be lost
  const ids = [...slots.keys()].join();
  if ($("freezers").dataset.shown === ids) return;
  $("freezers").dataset.shown = ids;
  for (const id of tiles.keys()) if (!slots.has(id)) tiles.delete(id);
  const freezers = Map.groupBy([...slots.values()].sort((a, b) => a.id - b.id), (slot) => split(slot.name)[0]);
  $("freezers").replaceChildren(...[...freezers].map(([name, members]) => {
    const section = make("section", "freezer"), list = make("ul", "slots");
    section.append(make("h2", "", name ? `Freezer ${name}` : "Slots"), list);
    for (const { id } of members) {
      if (!tiles.has(id)) tiles.set(id, tile(acts));
      list.append(tiles.get(id).element);
    }
    return section;
  }));
  if (!slots.size) $("freezers").append(make("p", "", "There are no slots yet: velvetrope seed makes twenty."));
}

function paint() {
  draw();
  warn();
  for (const slot of slots.values()) tiles.get(slot.id).paint(slot, mayAct);
  const all = [...slots.values()], count = (status) => all.filter((slot) => slot.status === status).length;
  const bad = all.filter((slot) => slot.tempStatus === "CRITICAL").length;
  $("sums").textContent = all.length ? `${count("AVAILABLE")} free, ${count("RESERVED")} held, ${count("OCCUPIED")} booked${bad ? `; ${many(bad, "slot is", "slots are")} critical` : ""}` : "";
  const held = all.filter((slot) => slot.reservation);
  dock.paint(
    held.map((slot) => ({ hold: { id: slot.reservation.id, slotId: slot.id, expiresAt: slot.expiresAt, total: HOLD_MS }, name: slot.name })),
    ({ slotId }) => { tiles.get(slotId)?.element.scrollIntoView({ block: "center" }); tiles.get(slotId)?.element.focus({ preventScroll: true }); },
  );
}

function become(name) {
  me = name;
  if (!login.who()) $("name").value = sessionStorage.me = name;
  for (const slot of slots.values()) slot.reservation = slot.booking = null;
  refresh();
  enter();
}

login.onChange((record) => {
  const name = record?.id ?? guest();
  if (name !== me) become(name);
  if (!record && login.farewell()) say(login.farewell());
});
login.showOn($("account"));

$("who").addEventListener("submit", (submitted) => {
  submitted.preventDefault();
  const name = $("name").value.trim();
  if (!name || name === me) return;
  become(name);
  say(`You are ${name} now.`);
});

async function enter() {
  const mine = await api.holdsOf(me);
  mayAct = mine.error !== "UNAUTHORIZED";
  $("glass").hidden = mayAct;
  $("who").hidden = !mayAct || Boolean(login.who());
  if (!mayAct) for (const id of ["traffic", "failure"]) $(id).hidden = true;
  paint();
}

if (!login.who()) $("name").value = me;
live({
  rooms: ["slots"],
  poll: ask,
  onEvent(event, data) {
    hear[event]?.(data);
    paint();
  },
  onState(now, way) {
    state = now;
    $("state").dataset.state = now;
    $("state").textContent = slots.size || now !== "retrying" ? CONNECTION[way ?? now] : "Connecting …";
  },
});
enter();
setInterval(paint, 500);
