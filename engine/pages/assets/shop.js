// The demo shop: polls stock, holds a unit, buys it or gives it back. Every tab is a buyer of its own.
const API = "/api/v1";
const me = (sessionStorage.me ??= "guest-" + crypto.getRandomValues(new Uint32Array(1))[0].toString(36));
const holds = new Map(Object.entries(JSON.parse(sessionStorage.holds ?? "{}"))); // drop id -> hold
const bought = new Set(JSON.parse(sessionStorage.bought ?? "[]"));
const cards = new Map();
let skew = 0; // the server's clock less ours, in ms
let drops = [];

document.getElementById("me").textContent = me;
const say = (text) => { document.getElementById("said").textContent = text; };
const now = () => Date.now() + skew;

function remember() {
  sessionStorage.holds = JSON.stringify(Object.fromEntries(holds));
  sessionStorage.bought = JSON.stringify([...bought]);
}

async function send(method, path, body) {
  // One key for one wish: if the answer gets lost, the same wish is sent again, not a second one.
  const headers = method === "GET" ? {} : { "Idempotency-Key": crypto.randomUUID() };
  for (let attempt = 1; ; attempt++) {
    try {
      const reply = await fetch(API + path, { method, headers, body: body && JSON.stringify(body) });
      const json = reply.status === 204 ? {} : await reply.json();
      if (reply.status !== 503 || attempt === 3) return { ok: reply.ok, ...json };
    } catch (lost) {
      if (attempt === 3) return { ok: false, message: "The shop cannot be reached." };
    }
    await new Promise((done) => setTimeout(done, 500 * attempt));
  }
}

async function reserve(drop) {
  const hold = await send("POST", "/reservations", { dropId: drop.id, userId: me });
  if (hold.ok) { holds.set(String(drop.id), hold); remember(); }
  say(hold.ok ? `Pair ${hold.units[0].number} of ${drop.name} is yours until the clock runs out.` : hold.message);
  await refresh();
}

async function buy(drop, hold) {
  const purchase = await send("POST", "/purchases", { reservationId: hold.id, userId: me });
  holds.delete(String(drop.id));
  if (purchase.ok) bought.add(drop.id);
  remember();
  say(purchase.ok ? `Bought: ${drop.name}.` : purchase.message);
  await refresh();
}

async function giveBack(drop, hold) {
  const reply = await send("DELETE", `/reservations/${hold.id}?userId=${encodeURIComponent(me)}`);
  holds.delete(String(drop.id));
  remember();
  say(reply.ok ? `${drop.name} is on sale again.` : reply.message);
  await refresh();
}

function card(drop) {
  const article = document.createElement("article");
  const picture = document.createElement("img");
  picture.src = drop.imageUrl ?? "";
  picture.alt = "";
  picture.hidden = !drop.imageUrl;
  picture.loading = "lazy";
  const text = document.createElement("div");
  const [title, price, stock, row] = ["h2", "span", "span", "span"].map((tag) => document.createElement(tag));
  title.textContent = drop.name;
  price.textContent = `${drop.price} ${drop.currency}`;
  stock.className = "stock";
  row.className = "row";
  text.append(title, price, stock, row);
  article.append(picture, text);
  document.getElementById("drops").append(article);
  return { stock, row, shown: "" };
}

function button(label, act, quiet) {
  const made = document.createElement("button");
  made.textContent = label;
  made.className = quiet ? "quiet" : "";
  made.disabled = !act;
  if (act) made.onclick = () => { made.disabled = true; act(); };
  return made;
}

function clock(ms) {
  const seconds = Math.max(0, Math.ceil(ms / 1000));
  if (seconds >= 86400) return `${Math.floor(seconds / 86400)} d ${Math.floor((seconds % 86400) / 3600)} h`;
  return `${Math.floor(seconds / 60)}:${String(seconds % 60).padStart(2, "0")}`;
}

function words(drop) {
  if (drop.status === "upcoming") return `opens in ${clock(Date.parse(drop.startsAt) - now())}`;
  const returning = drop.availableStock === 0 && drop.heldStock > 0 ? `, ${drop.heldStock} may return` : "";
  return `${drop.availableStock} of ${drop.totalStock} left${returning}`;
}

function paint() {
  for (const drop of drops) {
    if (!cards.has(drop.id)) cards.set(drop.id, card(drop));
    const { stock, row } = cards.get(drop.id);
    let hold = holds.get(String(drop.id));
    if (hold && Date.parse(hold.expiresAt) <= now()) { holds.delete(String(drop.id)); remember(); hold = undefined; }
    stock.textContent = words(drop) + (hold ? ` · yours for ${clock(Date.parse(hold.expiresAt) - now())}` : "");
    const opened = drop.status === "upcoming" && Date.parse(drop.startsAt) <= now();
    const state = [hold?.id, bought.has(drop.id), drop.status, opened, drop.availableStock > 0].join();
    if (cards.get(drop.id).shown === state) continue; // leave the focus where it is
    cards.get(drop.id).shown = state;
    if (hold) row.replaceChildren(button("Buy", () => buy(drop, hold)), button("Give back", () => giveBack(drop, hold), true));
    else if (bought.has(drop.id)) row.replaceChildren(button("Bought", null));
    else if (drop.status === "live" || opened) row.replaceChildren(button(drop.availableStock ? "Reserve" : "Try anyway", () => reserve(drop)));
    else row.replaceChildren(button({ upcoming: "Not yet", sold_out: "Sold out", ended: "Ended", paused: "Paused", preparing: "Preparing" }[drop.status], null));
  }
}

async function refresh() {
  const list = await send("GET", "/drops?limit=100");
  if (!list.ok) return say(list.message);
  if (!cards.size) document.getElementById("drops").replaceChildren();
  drops = list.data;
  if (drops.length) skew = Date.parse(drops[0].serverTime) - Date.now();
  else say("There are no drops yet: `velvetrope seed` puts twenty on show.");
  paint();
}

await refresh();
setInterval(paint, 250);
setInterval(refresh, 1000);
