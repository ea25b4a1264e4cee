// The demo shop: polls stock, holds a pair, pays for it at the provider's page or gives it back. Every
// tab is a buyer of its own. What became of a payment is asked of the shop, never guessed.
const API = "/api/v1";
const LATE_MS = 15 * 60_000; // so long a payment is looked for whose time is over
const LOOPBACK = ["localhost", "127.0.0.1", "[::1]"];
const WHY = { // refunds' reasons
  sold_out: "nothing was left",
  limit: "you have as many as one buyer may have",
  paused: "the sale is paused",
  wrong_amount: "What you paid was not the price",
  already_paid: "You paid twice",
  refunded: "You paid for what was refunded",
  unknown_reservation: "You paid for nothing that we know of",
};
const holds = new Map(JSON.parse(sessionStorage.holds ?? "[]").map((hold) => [hold.id, hold])); // oldest first
const cards = new Map();
let me = (sessionStorage.me ??= "guest-" + crypto.getRandomValues(new Uint32Array(1))[0].toString(36));
let skew = 0; // the server's clock less ours, in ms
let drops = [];

const say = (text) => { document.getElementById("said").textContent = text; };
const now = () => Date.now() + skew;
const left = (hold) => Date.parse(hold.expiresAt) - now();
const mine = (drop) => [...holds.values()].filter((hold) => hold.dropId === drop.id).at(-1);
const alive = (hold) => hold?.status === "paying" || (hold?.status === "active" && left(hold) > 0);
const nameOf = (hold) => drops.find((drop) => drop.id === hold.dropId)?.name ?? "Your pair";

function remember(hold, fresh) {
  // Its own flags stay: what was done here, which the shop does not tell.
  holds.set(hold.id, { ...hold, ...fresh });
  sessionStorage.holds = JSON.stringify([...holds.values()]);
  return holds.get(hold.id);
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
  const { ok, message, ...hold } = await send("POST", "/reservations", { dropId: drop.id, userId: me });
  if (ok) remember(hold);
  say(ok ? `Pair ${hold.units[0].number} of ${drop.name} is yours until the clock runs out.` : message);
  await refresh();
}

async function pay(hold) {
  // Of a hold whose payment has begun, the same link comes back: that is how a card is tried again.
  const begun = await send("POST", `/reservations/${hold.id}/pay`, { userId: me });
  if (!begun.ok) return failed(hold, begun);
  remember(hold, { status: begun.status, expiresAt: begun.expiresAt, paid: true });
  if (!begun.payUrl) return confirm(hold);
  const url = new URL(begun.payUrl);
  if (LOOPBACK.includes(url.hostname)) { // the mock provider's page: when it is late, and the way back
    url.searchParams.set("expiresAt", begun.expiresAt);
    url.searchParams.set("return", `${location.origin}/?reservation=${hold.id}`);
  }
  if (/^https?:$/.test(url.protocol)) location.assign(url);
}

async function confirm(hold) {
  const purchase = await send("POST", "/purchases", { reservationId: hold.id, userId: me });
  if (!purchase.ok) return failed(hold, purchase);
  remember(hold, { status: "purchased" });
  say(`Bought: ${nameOf(hold)}.`);
  await refresh();
}

async function extend(hold) {
  const longer = await send("POST", `/reservations/${hold.id}/extend`, { userId: me });
  if (!longer.ok && longer.error !== "EXTENSION_USED") return failed(hold, longer);
  remember(hold, longer.ok ? { expiresAt: longer.expiresAt, extended: true } : { extended: true });
  say(longer.ok ? `${nameOf(hold)}: ${clock(left(longer))} more to decide.` : longer.message);
  paint();
}

async function giveBack(hold) {
  const reply = await send("DELETE", `/reservations/${hold.id}?userId=${encodeURIComponent(me)}`);
  if (!reply.ok) return failed(hold, reply);
  remember(hold, { status: "released" });
  say(`${nameOf(hold)} is on sale again.`);
  await refresh();
}

async function failed(hold, reply) {
  await look(hold);
  say(reply.message);
  cards.get(hold.dropId).shown = ""; // its buttons work again
  await refresh();
}

// What became of a hold, in words: a card's note, and what is said aloud when it changes.
function story(hold) {
  const payments = hold?.payments ?? [];
  const back = payments.filter((payment) => payment.outcome === "refund_due").map((payment) => refund(hold, payment)).join(" ");
  switch (hold?.status) {
    case "paying":
      if (back) return `${back} The pair can still be paid for.`;
      if (payments.at(-1)?.status === "failed") return "The card was declined and nothing was paid: try again, or give the pair back.";
      return left(hold) > 0 ? "Waiting for the bank." : "The time to pay is over.";
    case "purchased":
      return `${hold.late ? "Your payment came late, but there was another: pair" : "Pair"} ${hold.units[0].number} is yours. ${back}`;
    case "expired":
      return back || (hold.paid
        ? "The time to pay is over and the pair is on sale again. If your payment still comes, you get a pair or your money back."
        : "Your time ran out.");
    case "refunded": return "Your purchase was refunded.";
    default: return back;
  }
}

function refund(hold, { amount, currency, status, reason }) {
  if (status === "refunded") return `You got ${amount} ${currency} back.`;
  const late = ["sold_out", "limit", "paused"].includes(reason);
  return `${late ? "Your payment came too late, and " : ""}${WHY[reason] ?? "It bought nothing"}: you get ${amount} ${currency} back.`;
}

async function look(hold) {
  const { ok, message, ...fresh } = await send("GET", `/reservations/${hold.id}?userId=${encodeURIComponent(hold.userId)}`);
  if (!ok) return;
  const before = story(hold), late = hold.late || (isOver(hold) && fresh.status === "purchased");
  const after = story(remember(hold, { ...fresh, late }));
  if (after && after !== before) say(`${nameOf(hold)}: ${after}`);
}

const isOver = (hold) => ["expired", "released"].includes(hold.status);
const isOpen = (hold) => // something may still become of it
  hold.status === "paying" || (hold.paid && isOver(hold) && left(hold) > -LATE_MS) ||
  (hold.payments ?? []).some((payment) => payment.outcome === "refund_due" && payment.status !== "refunded");

async function comeBack() {
  const id = new URLSearchParams(location.search).get("reservation");
  if (!id) return;
  history.replaceState(null, "", "/");
  if (!holds.has(id)) {
    const { ok, message, ...hold } = await send("GET", `/reservations/${encodeURIComponent(id)}`);
    if (!ok) return say(message);
    if (!holds.size) me = sessionStorage.me = hold.userId; // a new tab, come from the provider's page
    remember(hold, { paid: true });
  }
  await look(holds.get(id));
  const hold = holds.get(id), shown = cards.get(hold.dropId);
  paint();
  say(`${nameOf(hold)}: ${story(hold) || hold.status}`);
  shown?.article.scrollIntoView({ block: "center" });
  shown?.article.focus({ preventScroll: true });
}

function make(tag, className = "") {
  const made = document.createElement(tag);
  made.className = className;
  return made;
}

function card(drop) {
  const article = make("article"), picture = make("img"), text = make("div");
  article.tabIndex = -1;
  picture.src = drop.imageUrl ?? "";
  picture.alt = "";
  picture.hidden = !drop.imageUrl;
  picture.loading = "lazy";
  const title = make("h2"), price = make("span"), stock = make("span", "stock"), note = make("p", "note"), row = make("span", "row");
  title.textContent = drop.name;
  title.id = `drop-${drop.id}`;
  article.setAttribute("aria-labelledby", title.id);
  price.textContent = `${drop.price} ${drop.currency}`;
  text.append(title, price, stock, note, row);
  article.append(picture, text);
  document.getElementById("drops").append(article);
  return { article, stock, note, row, shown: "" };
}

function button(label, act, quiet) {
  const made = make("button", quiet ? "quiet" : "");
  made.textContent = label;
  made.disabled = !act;
  if (act) made.onclick = () => { made.disabled = true; act(); };
  return made;
}

function clock(ms) {
  const seconds = Math.max(0, Math.ceil(ms / 1000));
  if (seconds >= 86400) return `${Math.floor(seconds / 86400)} d ${Math.floor((seconds % 86400) / 3600)} h`;
  return `${Math.floor(seconds / 60)}:${String(seconds % 60).padStart(2, "0")}`;
}

function words(drop, hold) {
  if (drop.status === "upcoming") return `opens in ${clock(Date.parse(drop.startsAt) - now())}`;
  const returning = drop.availableStock === 0 && drop.heldStock > 0 ? `, ${drop.heldStock} may return` : "";
  const stock = `${drop.availableStock} of ${drop.totalStock} left${returning}`;
  if (!alive(hold)) return stock;
  return hold.status === "paying" ? `${stock} · yours to pay for: ${clock(left(hold))}` : `${stock} · yours for ${clock(left(hold))}`;
}

function buttons(drop, hold, opened) {
  if (alive(hold)) {
    const failed = hold.payments?.some((each) => each.status === "failed");
    const waiting = hold.payments?.some((each) => each.status === "pending"); // who waits need not press
    const made = [button(hold.status !== "paying" ? "Pay" : failed ? "Try again" : "Go to payment", () => pay(hold), waiting)];
    if (hold.status === "active" && !hold.extended) made.push(button("More time", () => extend(hold), true));
    return [...made, button("Give it back", () => giveBack(hold), true)];
  }
  if (hold?.status === "purchased" && drop.maxPerBuyer === 1) return [button("Bought", null)];
  if (drop.status === "live" || opened) return [button(drop.availableStock ? "Reserve" : "Try anyway", () => reserve(drop))];
  return [button({ upcoming: "Not yet", sold_out: "Sold out", ended: "Ended", paused: "Paused", preparing: "Preparing" }[drop.status], null)];
}

function paint() {
  document.getElementById("me").textContent = me;
  for (const drop of drops) {
    if (!cards.has(drop.id)) cards.set(drop.id, card(drop));
    const shown = cards.get(drop.id);
    let hold = mine(drop);
    if (hold?.status === "active" && left(hold) <= 0) {
      hold = remember(hold, { status: "expired" });
      say(`${drop.name}: ${story(hold)}`);
    }
    const lines = [words(drop, hold), story(hold)];
    if (shown.stock.textContent !== lines[0]) shown.stock.textContent = lines[0];
    if (shown.note.textContent !== lines[1]) shown.note.textContent = lines[1];
    const opened = drop.status === "upcoming" && Date.parse(drop.startsAt) <= now();
    const state = [hold?.id, hold?.status, hold?.extended, hold?.payments?.length, drop.status, opened, drop.availableStock > 0].join();
    if (shown.shown === state) continue; // leave the focus where it is
    shown.shown = state;
    shown.row.replaceChildren(...buttons(drop, hold, opened));
  }
}

async function refresh() {
  const list = await send("GET", "/drops?limit=100");
  if (!list.ok) return say(list.message);
  if (!cards.size) document.getElementById("drops").replaceChildren();
  drops = list.data;
  if (drops.length) skew = Date.parse(drops[0].serverTime) - Date.now();
  else say("There are no drops yet: `velvetrope seed` puts twenty on show.");
  await Promise.all([...holds.values()].filter(isOpen).map(look));
  paint();
}

await refresh();
await comeBack();
setInterval(paint, 250);
setInterval(refresh, 1000);
addEventListener("pageshow", (shown) => { if (shown.persisted) location.reload(); }); // back from the provider by the browser's own way
