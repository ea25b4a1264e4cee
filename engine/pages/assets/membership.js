// The members' page: tiers as they run out, one's own cards, the device that signs for them, whom one met.
import * as api from "./api.js";
import { make } from "./card.js";
import { say } from "./dock.js";
import { titled } from "./engraved.js";
import { submits, tell } from "./forms.js";
import * as keyring from "./keyring.js";
import { live } from "./live.js";
import * as login from "./login.js";
import { nameOf, numbered } from "./numbered.js";
import { stateOf } from "./words.js";

const CONNECTION = { socket: "Live", stream: "Live, by stream", retrying: "Reconnecting …", polling: "Every few seconds" };
const STATES = { upcoming: "not yet open", sold_out: "all given", paused: "paused", ended: "over", preparing: "being prepared" };
const KEYLESS = "This browser keeps no keys here: it does so at an address with https, if it may store data.";
const PLACE_MS = 8_000;
const $ = (id) => document.getElementById(id);
const guest = () => (sessionStorage.me ??= "guest-" + crypto.getRandomValues(new Uint32Array(1))[0].toString(36));
let me = login.who()?.id ?? guest();
let tiers = [], mine = [];
let painted = ""; // what the cards say
let acting = null, signing = null, moving = null; // the membership of a dialog, its key here, the device it leaves

// ── tiers ───────────────────────────────────────────────────────────────────────────────────────

async function listTiers() {
  const found = await api.tiers();
  if (!found.ok) return null;
  const isOpen = (tier) => Number(stateOf({ heldStock: 0, ...tier }) === "live");
  tiers = found.data.sort((a, b) => isOpen(b) - isOpen(a) || b.dropId - a.dropId);
  paintTiers();
  return {};
}

function option() {
  const label = make("label", "tier"), radio = make("input"), words = make("span"), left = make("span", "left"), meter = make("progress");
  radio.type = "radio";
  radio.name = "dropId";
  radio.required = true;
  meter.setAttribute("aria-hidden", "true"); // the words beside it say the same
  label.append(radio, words, left, meter);
  return { label, radio, words, left, meter };
}
const options = new Map();

function paintTiers() {
  const ids = tiers.map((tier) => tier.dropId);
  for (const [id, { label }] of options) if (!ids.includes(id)) { label.remove(); options.delete(id); }
  for (const tier of tiers) {
    if (!options.has(tier.dropId)) options.set(tier.dropId, option());
    const { label, radio, words, left, meter } = options.get(tier.dropId), state = stateOf({ heldStock: 0, ...tier });
    if (!label.isConnected) $("tiers").append(label);
    radio.value = tier.dropId;
    radio.disabled = state !== "live";
    write(words, `${titled(tier.tier)} ${tier.year}`);
    write(left, state === "live" || state === "paused"
      ? `${tier.availableStock.toLocaleString("en")} of ${tier.totalStock.toLocaleString("en")} left${state === "paused" ? ", paused" : ""}`
      : STATES[state]);
    meter.max = Math.max(tier.totalStock, 1);
    meter.value = tier.availableStock;
  }
  $("no-tiers").hidden = tiers.length > 0;
  $("no-tiers").textContent = "There are no tiers yet: velvetrope seed opens one.";
  const open = [...options.values()].filter(({ radio }) => !radio.disabled);
  if (open.length && !open.some(({ radio }) => radio.checked)) open[0].radio.checked = true;
}

function write(element, text) { // untouched text keeps a reader's place
  if (element.textContent !== text) element.textContent = text;
}

/** News of a drop's figures: newer is what has the greater (epoch, version). A list does not tell the epoch. */
function move({ dropId, ...figures }) {
  const tier = tiers.find((one) => one.dropId === dropId), epoch = tier?.epoch ?? figures.epoch;
  if (!tier || figures.epoch < epoch || (figures.epoch === epoch && figures.version <= tier.version)) return;
  Object.assign(tier, figures);
  paintTiers();
}

submits($("mint-form"), async ({ receiptData, originalTransactionId }) => {
  const dropId = Number(new FormData($("mint-form")).get("dropId"));
  const reply = await api.mint({ receiptData, userId: me, dropId, ...(originalTransactionId && { originalTransactionId }) });
  if (!reply.ok) return reply;
  const isKnown = mine.some(({ id }) => id === reply.membership.id);
  for (const id of ["mint-receipt", "mint-transaction"]) $(id).value = "";
  await listMine();
  const card = cardOf(reply.membership.id);
  card?.classList.add("fresh");
  card?.scrollIntoView({ block: "center" });
  card?.focus({ preventScroll: true });
  say(isKnown ? `That receipt gave you ${nameOf(reply.membership)} before.` : `${nameOf(reply.membership)} is yours.`);
  return reply;
});

// ── my memberships ──────────────────────────────────────────────────────────────────────────────

const cardOf = (id) => $("cards").querySelector(`[data-id="${CSS.escape(id)}"]`);

async function listMine() {
  const whose = me, found = await api.membershipsOf(me);
  if (whose !== me) return; // somebody else meanwhile
  showGlass(found.error === "UNAUTHORIZED");
  mine = found.ok ? found.data : [];
  const signers = await Promise.all(mine.map(signerOf));
  if (whose !== me) return;
  const cards = mine.map((one, index) => [one, signers[index], tiers.find(({ dropId }) => dropId === one.dropId)]);
  // The press that brings a window to the front is meant for a button: it stays, if nothing changed.
  if (painted !== (painted = JSON.stringify(cards))) paintCards(cards);
  $("none").hidden = mine.length > 0;
  $("none").textContent = found.ok ? "None yet. A receipt gets you one, below." : found.message;
  $("met").hidden = !mine.length;
  await listEncounters();
}

function paintCards(cards) {
  const focused = document.activeElement.closest(".member"), label = document.activeElement.getAttribute("aria-label");
  $("cards").replaceChildren(...cards.map((card) => numbered(...card, acts)));
  const card = focused && cardOf(focused.dataset.id), again = label && card?.querySelector(`button[aria-label="${CSS.escape(label)}"]`);
  (again || card)?.focus({ preventScroll: true });
}

/** Which device signs for a membership: this browser, if it has the very key. */
async function signerOf(membership) {
  if (membership.revokedAt) return {};
  const [found, keys] = await Promise.all([api.devicesOf(membership.id, me), keyring.canSign ? keyring.keysOf(membership.id).catch(() => []) : []]);
  const known = found.ok ? found.data : [], device = known.find((one) => !one.revokedAt);
  const has = (one, key) => bare(one.publicKey) === bare(key.pem);
  const key = device && keys.find((each) => has(device, each));
  return { device, key, waits: !key && keys.some((each) => !known.some((one) => has(one, each))) };
}
const bare = (pem) => pem.replaceAll(/\s/g, "");

const acts = {
  async pass(membership) {
    const { ok, file, message } = await api.pass(membership.id, me);
    if (!ok) return say(message);
    const link = make("a");
    link.href = URL.createObjectURL(file);
    link.download = `${membership.tier}-${membership.year}-${membership.sequenceNum}.pkpass`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
    say(`The pass of ${nameOf(membership)} is downloaded: open it on your phone.`);
  },

  async copy({ id }) {
    await navigator.clipboard.writeText(id).then(() => say("Its id is copied."), () => say(`Its id: ${id}`));
  },

  async register(membership) {
    if (!keyring.canSign) return say(KEYLESS);
    const asked = await api.challenge(membership.id, me);
    if (!asked.ok) return say(asked.message);
    const key = await keyring.newKey(membership.id).catch(() => null);
    if (!key) return say(KEYLESS);
    const signature = await keyring.prove(key, asked.challenge);
    const { ok, error, message } = await api.registerDevice(membership.id, {
      userId: me, deviceId: key.deviceId, publicKey: key.pem, challenge: asked.challenge, signature,
    });
    if (!ok) await drop(key, error);
    await listMine();
    say(ok ? `This device signs for ${nameOf(membership)} now.` : message);
  },

  meet(membership, key) {
    acting = membership;
    signing = key;
    $("meet-form").reset();
    showToken("");
    open("meet", `${nameOf(membership)} meets somebody`);
  },

  move(membership, device) {
    if (!keyring.canSign) return say(KEYLESS);
    acting = membership;
    moving = device;
    $("move-old").textContent = device.deviceId;
    $("move-form").querySelector("[type=submit]").hidden = false;
    open("move", `Move ${nameOf(membership)} to this device?`);
  },
};

function open(dialog, title) {
  $(`${dialog}-title`).textContent = title;
  tell($(`${dialog}-form`), "");
  $(dialog).showModal();
  $(dialog).querySelector("input, button").focus();
}
for (const dialog of ["meet", "move"]) $(`${dialog}-no`).onclick = () => $(dialog).close();

/** A key that was refused is good for nothing; one whose answer got lost may count by now. */
async function drop(key, error) {
  if (!["LOST", "OUTCOME_UNKNOWN"].includes(error)) await keyring.forget(key);
}

submits($("move-form"), async () => {
  const membership = acting, key = await keyring.newKey(membership.id).catch(() => null);
  if (!key) return { ok: false, message: KEYLESS };
  const reply = await api.reforge({ membershipId: membership.id, userId: me, oldDeviceId: moving.deviceId, newDeviceId: key.deviceId, newPublicKey: key.pem });
  if (!reply.ok) {
    await drop(key, reply.error);
    return reply;
  }
  $("move-form").querySelector("[type=submit]").hidden = true;
  tell($("move-form"), "A mail is on its way to the account’s address. Open its link within a day, on any device, and press the button there: until then all stays as it is.", true);
  await listMine();
  return reply;
});

// ── whom I met ──────────────────────────────────────────────────────────────────────────────────

function showToken(token) {
  $("meet-token").value = token;
  for (const id of ["signed", "meet-copy", "meet-verify"]) $(id).hidden = !token;
}

submits($("meet-form"), async ({ receiver, place }) => {
  const where = place ? await here() : {};
  if (!where) return { ok: false, message: "This device does not tell where it is. Sign without it." };
  showToken(await keyring.encounter(signing, receiver.toLowerCase(), where, api.now()));
  tell($("meet-form"), "Signed.", true);
  $("meet-token").select();
  return null;
});

const here = () => new Promise((done) => {
  if (!navigator.geolocation) return done(null);
  navigator.geolocation.getCurrentPosition(
    ({ coords }) => done({ lat: coords.latitude, lng: coords.longitude }), () => done(null), { timeout: PLACE_MS },
  );
});

$("meet-copy").onclick = () => navigator.clipboard.writeText($("meet-token").value)
  .then(() => tell($("meet-form"), "Copied.", true), () => $("meet-token").select());
$("meet-verify").onclick = async () => {
  const reply = await api.verifyEncounter($("meet-token").value, me);
  if (!reply.ok) return tell($("meet-form"), reply.message);
  $("meet").close();
  await listEncounters();
  say("That you met is written down.");
};

submits($("verify-form"), async ({ token }) => {
  const reply = await api.verifyEncounter(token, me);
  if (!reply.ok) return reply;
  $("verify-form").reset();
  await listEncounters();
  tell($("verify-form"), "Verified: that you met is written down.", true);
  return reply;
});

async function listEncounters() {
  if (!mine.length) return;
  const whose = me, found = await api.encountersOf(me);
  if (whose !== me || !found.ok) return;
  $("nobody").hidden = found.data.length > 0;
  $("encounters").replaceChildren(...found.data.map(encounter));
}

function encounter({ initiatorId, receiverId, encounteredAt, lat, lng }) {
  const own = mine.find(({ id }) => id === initiatorId || id === receiverId);
  const other = own?.id === initiatorId ? receiverId : initiatorId, element = make("li");
  const when = new Date(encounteredAt).toLocaleString("en", { dateStyle: "medium", timeStyle: "short" });
  const where = lat == null ? "" : `, at ${lat.toFixed(4)}, ${lng.toFixed(4)}`;
  element.append(make("b", "", own ? nameOf(own) : "You"), " met ", make("code", "", other), make("br"), make("span", "soft", `${when}${where}`));
  return element;
}

// ── who one is ──────────────────────────────────────────────────────────────────────────────────

function showGlass(isGlass) {
  $("glass").hidden = !isGlass;
  $("own").hidden = $("mint-fields").hidden = isGlass;
  $("mint-form").querySelector(".row").hidden = isGlass;
  $("mint-receipt").required = !isGlass;
  $("who").hidden = isGlass || Boolean(login.who());
  $("farewell").textContent = login.who() ? "" : login.farewell();
}

function become(name) {
  me = name;
  mine = [];
  painted = "";
  if (!login.who()) $("name").value = sessionStorage.me = name;
  for (const dialog of ["meet", "move"]) $(dialog).close();
  $("cards").replaceChildren();
  return listMine();
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

await listTiers();
become(me);
live({
  rooms: ["drops"],
  poll: listTiers,
  onEvent(event, data) {
    if (event === "connected") api.heardTime(data.serverTime, true);
    if (event === "snapshot" || event === "new_drop" || event === "drop_update") listTiers();
    if (event === "stock_update") move(data);
  },
  onState(now, way) {
    $("state").dataset.state = now;
    $("state").textContent = CONNECTION[way ?? now];
  },
});
// Who comes back from pressing the button behind the link sees what signs now; of two windows side by side both
// are visible all the time, and one has the focus.
window.addEventListener("focus", listMine);
document.addEventListener("visibilitychange", () => { if (document.visibilityState === "visible") listMine(); });
