// Who is logged in: the same in all windows of this browser, and kept over its restart.
//
// It is kept in localStorage, tokens and all (decision 32). A script in this page could read them there,
// in sessionStorage or off the wire alike; what keeps it out is a policy without inline or foreign
// scripts, and pages that only ever write text. What was stolen all the same is of little use: a
// refresh token is good for one use, its second use ends the session, and so does the next login.
const KEY = "login", API = "/api/v1";
const EARLY_MS = 60_000; // so long before its end a token is renewed
const TRIES = 3, AGAIN_MS = 700; // a lost answer is given again for ten seconds
const hearers = new Set();
let isOpen; // whether the shop believes whoever is named; asked once a page

const WHY = { // reasons for which sessions end
  new_session_on_different_device: "You were logged out because you logged in on another device.",
  password_changed: "You were logged out because your password was changed. Log in with the new one.",
  password_reset: "You were logged out because your password was set anew. Log in with the new one.",
  deleted: "You were logged out because this account was deleted.",
  user_deleted: "You were logged out because this account was deleted.",
  user_erased: "You were logged out because this account was erased.",
  suspended: "You were logged out because this account is suspended. Ask the shop why.",
  user_suspended: "You were logged out because this account is suspended. Ask the shop why.",
  refresh_reused: "You were logged out because your login was used in two places. If that was not you, change your password.",
  expired: "You were logged out because you were away for long. Log in again.",
};
const OVER = "You were logged out. Log in again.";

function kept() {
  try {
    return JSON.parse(localStorage.getItem(KEY)) ?? {};
  } catch { // nothing that we wrote
    return {};
  }
}

function keep(record) {
  localStorage.setItem(KEY, JSON.stringify(record));
  for (const hear of hearers) hear(who());
}

/** `{id, username, role, session, token, refreshToken, endsAt}` of who is logged in, or null. */
export function who() {
  const record = kept();
  return record.token ? record : null;
}

/** Why the last login ended, if not by its owner's wish; or "". */
export const farewell = () => kept().farewell ?? "";

/** Calls `hear(who())` when somebody logs in or out, in this window or another. */
export function onChange(hear) {
  hearers.add(hear);
}
addEventListener("storage", ({ key }) => {
  if (key === KEY || key === null) for (const hear of hearers) hear(who());
});

/** From an answer that has tokens in it: now one is logged in. */
export function enter({ user, session, token, refreshToken }) {
  const { exp, iat } = JSON.parse(atob(token.split(".")[1].replaceAll("-", "+").replaceAll("_", "/")));
  keep({
    ...who(), ...(user && { id: user.id, username: user.username, role: user.role }),
    ...(session && { session: session.id }), token, refreshToken,
    endsAt: Date.now() + (exp - iat) * 1000, // by our clock, whatever it says
  });
}

/** Profile fields that pages show. */
export function rename({ username }) {
  if (who()) keep({ ...who(), username });
}

/** Logged out. `reason`: of a session that ended without being asked to. */
export function leave(reason) {
  if (who()) keep(reason === undefined ? {} : { farewell: WHY[reason] ?? OVER });
}

/** The token to send, renewed in time; null: nobody is logged in. */
export async function bearer() {
  const record = who();
  if (!record || record.endsAt > Date.now() + EARLY_MS) return record?.token ?? null;
  return (await renew(record.token))?.token ?? null;
}

/** A new token for one that is stale; null: it is over. One window asks, the others see what it got. */
export function renew(stale) {
  return alone(async () => {
    const record = who();
    if (record?.token !== stale) return record;
    const { status, answer } = await ask(record.refreshToken);
    if (status === 200) enter(answer);
    else if (status === 401) leave(answer.details?.reason ?? "");
    return who();
  });
}

const alone = (work) => (navigator.locks ? navigator.locks.request(KEY, work) : work());

async function ask(refreshToken) {
  for (let attempt = 1; attempt <= TRIES; attempt++) {
    try {
      const body = JSON.stringify({ refreshToken });
      const reply = await fetch(`${API}/users/refresh`, { method: "POST", body });
      if (reply.status < 500) return { status: reply.status, answer: await reply.json() };
    } catch { /* no answer */ }
    await new Promise((done) => setTimeout(done, AGAIN_MS * attempt));
  }
  return { status: 0, answer: {} }; // whether it is over is not known
}

/** What a line to the shop says who it is: live.js's `auth`. */
export async function introduction(guest) {
  const record = who();
  if (!record) return { userId: guest };
  isOpen ??= fetch(`${API}/reservations?limit=1&userId=${record.id}`).then((reply) => reply.ok, () => false);
  if (await isOpen) return { userId: record.id };
  return { get token() { return who()?.token ?? ""; } }; // read anew when the line is
}

/** The link to the account, in a page's head. */
export function showOn(link) {
  const paint = () => {
    const record = who();
    link.textContent = record ? record.username ?? "Account" : "Log in";
    if (record) link.setAttribute("aria-label", `${link.textContent}, your account`);
    else link.removeAttribute("aria-label");
  };
  onChange(paint);
  paint();
}
