// Asks of the shop: with a key for every wish, again when an answer is lost, by the server's clock,
// and in the name of who is logged in.
import * as login from "./login.js";

const API = "/api/v1";
const PASSWORDS = new Set(["/users/password", "/users/login"]); // where a 401 is about a password
const TRIES = { GET: 2, else: 5 }; // a wish is definite within 8 s, if it is asked for again
let skew = null; // the server's clock less ours, in ms

/** The server's time now, in ms. Deadlines are its own. */
export const now = () => Date.now() + (skew ?? 0);
export const until = (moment) => Date.parse(moment) - now();

/** Learns the time from an answer. It was told on the way here, so the latest clock is the truest;
 * `afresh`: after a break, when ours may have been set. */
export function heardTime(serverTime, afresh = false) {
  if (!serverTime) return;
  const told = Date.parse(serverTime) - Date.now();
  skew = afresh || skew === null ? told : Math.max(skew, told);
}

/** The answer with `ok` in it, or `{ok: false, error, message}`; throws nothing. What is a file comes as
 * `{ok, file}`. */
export async function send(method, path, body, key = crypto.randomUUID()) {
  // One key for one wish: if the answer gets lost, the same wish is sent again, not a second one.
  const headers = method === "GET" ? {} : { "Idempotency-Key": key };
  const tries = TRIES[method] ?? TRIES.else;
  let stale = null; // a token that was refused
  for (let attempt = 1; ; attempt++) {
    try {
      const token = await login.bearer(), credential = token && { Authorization: `Bearer ${token}` };
      const reply = await fetch(API + path, { method, headers: { ...headers, ...credential }, body: body && JSON.stringify(body) });
      const answer = await read(reply);
      if (reply.status === 401 && token && !stale && !PASSWORDS.has(path)) {
        const renewed = await login.renew(stale = token);
        // Whose login is over may still look, but does nothing as somebody else.
        if (renewed || method === "GET") continue;
        return { ...answer, ok: false, message: login.farewell() || answer.message };
      }
      const mayYet = reply.status === 503 || (reply.status === 500 && answer.retryable);
      if (!mayYet || attempt >= tries) {
        heardTime(answer.serverTime);
        return { ...answer, ok: reply.ok };
      }
    } catch {
      if (attempt >= tries) return { ok: false, error: "LOST", message: "The shop cannot be reached. Try again in a moment." };
    }
    await new Promise((done) => setTimeout(done, 250 * 2 ** attempt + Math.random() * 250));
  }
}

async function read(reply) {
  if (reply.status === 204) return {};
  const isJson = reply.headers.get("Content-Type")?.startsWith("application/json");
  return isJson ? reply.json() : { file: await reply.blob() };
}

export const drops = () => send("GET", "/drops?limit=100");
export const holdsOf = (user) => send("GET", `/reservations?limit=100&userId=${encodeURIComponent(user)}`);
export const purchasesOf = (user) => send("GET", `/purchases/mine?limit=100&userId=${encodeURIComponent(user)}`);
export const hold = (id, user) =>
  send("GET", `/reservations/${encodeURIComponent(id)}${user ? `?userId=${encodeURIComponent(user)}` : ""}`);
/** `wish`: `{ units: [names] }`, `{ quantity }` of neighbours where units have names, or nothing. */
export const reserve = (dropId, userId, wish = {}) => send("POST", "/reservations", { dropId, userId, ...wish });
/** Every unit of a drop with its name, and how it stands. */
export async function units(dropId) {
  const all = { ok: true, units: [] };
  for (let cursor = ""; cursor !== null;) {
    const page = await send("GET", `/drops/${dropId}/units?limit=1000${cursor && `&cursor=${cursor}`}`);
    if (!page.ok) return page;
    all.units.push(...page.data);
    // What changes between two pages may be missed in one of them: the oldest of them counts.
    all.version ??= page.version;
    all.epoch ??= page.epoch;
    cursor = page.nextCursor ?? null;
  }
  return all;
}
export const pay = (held) => send("POST", `/reservations/${held.id}/pay`, { userId: held.userId });
export const extend = (held) => send("POST", `/reservations/${held.id}/extend`, { userId: held.userId });
export const buy = (held) => send("POST", "/purchases", { reservationId: held.id, userId: held.userId });
export const giveBack = (held) =>
  send("DELETE", `/reservations/${held.id}?userId=${encodeURIComponent(held.userId)}`);

const named = (user) => `userId=${encodeURIComponent(user)}`;
/** All slots; with a reservation and a booking where these are `user`'s. */
export const slots = (user) => send("GET", `/slots?limit=1000&${named(user)}`);
export const slot = (id, user) => send("GET", `/slots/${id}?${named(user)}`);
export const holdSlot = (slotId, userId) => send("POST", "/hold", { slotId, userId });
export const book = (wish) => send("POST", "/book", wish);
export const releaseBooking = (id) => send("DELETE", `/bookings/${encodeURIComponent(id)}`);
export const simulate = (what) => send("POST", `/simulate/${what}`);

export const ledger = (count) => send("GET", `/ledger?limit=${count}`);
export const ledgerKey = () => send("GET", "/ledger/key");
export const verify = () => send("GET", "/ledger/verify");
export const proof = (sequence) => send("GET", `/ledger/${sequence}/proof`);
export const proofOf = (sequence) => `${API}/ledger/${sequence}/proof`;

// ── memberships ─────────────────────────────────────────────────────────────────────────────────

export const tiers = () => send("GET", "/memberships/tiers");
export const mint = (wish) => send("POST", "/mint", wish);
export const membershipsOf = (user) => send("GET", `/memberships/mine?limit=20&${named(user)}`);
export const pass = (membershipId, userId) => send("POST", "/issue-pass", { membershipId, userId });
export const challenge = (id, userId) => send("POST", `/memberships/${id}/devices/challenge`, { userId });
export const registerDevice = (id, wish) => send("POST", `/memberships/${id}/devices`, wish);
export const devicesOf = (id, user) => send("GET", `/memberships/${id}/devices?limit=20&${named(user)}`);
export const reforge = (wish) => send("POST", "/devices/reforge/init", wish);
export const confirmReforge = (token, key) => send("POST", "/devices/reforge/confirm", { token }, key);
export const verifyEncounter = (token, userId) => send("POST", "/encounters/verify", { token, userId });
export const encountersOf = (user) => send("GET", `/encounters/mine?limit=100&${named(user)}`);

// ── accounts ────────────────────────────────────────────────────────────────────────────────────

/** What this browser is to the account's owner: one device, however many windows. */
function device() {
  localStorage.device ??= crypto.randomUUID();
  const system = navigator.userAgentData?.platform ?? navigator.platform;
  return { deviceId: localStorage.device, platform: "web", deviceName: `Browser on ${system || "a computer"}` };
}
export const register = (wish) => send("POST", "/users/register", { ...wish, ...device() });
export const logIn = (wish) => send("POST", "/users/login", { ...wish, ...device() });
export const logOut = () => send("POST", "/users/logout");
export const me = () => send("GET", "/users/me");
export const changeUser = (id, fields) => send("PUT", `/users/${id}`, fields);
export const changePassword = (wish) => send("POST", "/users/password", wish);
export const forgotPassword = (email) => send("POST", "/users/password/reset", { email });
export const resetPassword = (token, password) => send("POST", "/users/password/reset/confirm", { token, password });
export const deleteUser = (id, erase) => send("DELETE", `/users/${id}${erase ? "?erase=true" : ""}`);
export const sessions = (user) => send("GET", `/sessions/user/${user}?includeInactive=true&limit=10`);
export const endSession = (id) => send("DELETE", `/sessions/${id}`);
export const endSessions = (user) => send("DELETE", `/sessions/user/${user}/all`);
export const preferences = (user) => send("GET", `/notifications/preferences/${user}`);
export const prefer = (user, wish) => send("PUT", `/notifications/preferences/${user}`, wish);
export const resetPreferences = (user) => send("POST", `/notifications/preferences/${user}/reset`);

// Who comes back to a window learns at once that the login ended meanwhile, not at the next wish.
document.addEventListener("visibilitychange", () => { if (document.visibilityState === "visible" && login.who()) me(); });
