// What is one's own: purchases, profile, notifications, sessions, password, and the way out.
import * as api from "./api.js";
import { make, purchase } from "./card.js";
import { say } from "./dock.js";
import { fill, submits, tell } from "./forms.js";
import * as login from "./login.js";

const CHANNELS = { pushEnabled: "Push message", emailEnabled: "E-mail", smsEnabled: "Text message" };
const TOPICS = {
  transactionNotifications: "What I bought, and my money",
  securityAlerts: "My account’s safety",
  productUpdates: "New drops",
  marketingUpdates: "Offers",
  tradeExecutedEnabled: "Trades that were made",
  orderFilledEnabled: "Orders that were filled",
  orderCancelledEnabled: "Orders that were cancelled",
  positionLiquidatedEnabled: "Positions that were closed",
  fundingPaymentEnabled: "Funding payments",
  priceAlertEnabled: "Prices I watch",
  marginWarningEnabled: "Margin warnings",
};
const ENDED = {
  new_session_on_different_device: "another device logged in",
  user_logout: "you logged out",
  user_logout_all: "you logged out everywhere",
  expired: "its time was over",
  password_changed: "the password was changed",
  password_reset: "the password was set anew",
  refresh_reused: "its login was used in two places",
};
const NIGHT = ["22:00", "07:00"];
const HERE = Intl.DateTimeFormat().resolvedOptions().timeZone || "UTC";
const $ = (id) => document.getElementById(id);
let me = null; // of login.js
let user = null; // as the shop knows it, with its version

/** Everything of who is logged in; null: of nobody any more. */
export async function show(record) {
  me = record;
  user = null;
  for (const form of $("in").querySelectorAll("form")) { form.reset(); tell(form, ""); }
  for (const id of ["purchases", "sessions"]) $(id).replaceChildren();
  if ($("sure").open) $("sure").close();
  if (!me) return;
  $("hello").textContent = me.username ?? "you";
  await Promise.all([showProfile(), showPurchases(), showNews(), showSessions()]);
}

const isStill = (whose) => whose === me; // nobody logged out while it was asked

// ── purchases ───────────────────────────────────────────────────────────────────────────────────

async function showPurchases() {
  const whose = me, found = await api.purchasesOf(me.id);
  if (!isStill(whose)) return;
  $("purchases").replaceChildren(...(found.ok ? found.data.map(purchase) : []));
  $("none").hidden = found.ok && found.data.length > 0;
  $("none").textContent = found.ok ? "Nothing yet. What you buy is listed here." : found.message;
}

// ── profile ─────────────────────────────────────────────────────────────────────────────────────

async function showProfile(isForced = true) {
  const whose = me, found = await api.me();
  if (!isStill(whose)) return found;
  if (found.ok) learn(found.user ?? found, isForced);
  else tell($("profile-form"), found.message);
  return found;
}

function learn(found, isForced = true) {
  user = found;
  fill($("profile-form"), isForced ? { ...user, currentPassword: "" } : user, isForced);
  $("password-form").elements.username.value = user.email ?? user.username ?? "";
  $("hello").textContent = user.username ?? "you";
  if (user.username !== login.who()?.username) login.rename(user);
}

submits($("profile-form"), async (given) => {
  if (!user) return showProfile();
  const changed = Object.entries(given).filter(([name, value]) => name !== "currentPassword" && value !== (user[name] ?? ""));
  if (!changed.length) return tell($("profile-form"), "Nothing was changed.", true);
  const wish = Object.fromEntries(changed.map(([name, value]) => [name, value || null]));
  if (given.currentPassword) wish.currentPassword = given.currentPassword;
  const reply = await api.changeUser(user.id, { ...wish, version: user.version });
  if (reply.ok) {
    learn(reply.user ?? reply);
    tell($("profile-form"), "Saved.", true);
  } else if (reply.error === "VERSION_CONFLICT") {
    // Whoever it was wins nothing by having been first: both are shown, and one's own is kept.
    if ((await showProfile(false)).ok) tell($("profile-form"), "Your profile was changed meanwhile, in another window or on another device. What you typed is still here, all else is as it is now: look it over, and save again.");
    return null;
  }
  return reply;
});

// ── notifications ───────────────────────────────────────────────────────────────────────────────

for (const [id, words] of [["channels", CHANNELS], ["topics", TOPICS]]) {
  for (const [name, text] of Object.entries(words)) {
    const label = make("label", "tick"), box = make("input");
    box.type = "checkbox";
    box.name = name;
    label.append(box, ` ${text}`);
    $(id).append(label);
  }
}
const ZONES = new Set(["UTC", HERE, ...(Intl.supportedValuesOf?.("timeZone") ?? [])]);
$("quiet-zone").append(...[...ZONES].map((zone) => new Option(zone.replaceAll("_", " "), zone)));

async function showNews() {
  const whose = me, found = await api.preferences(me.id);
  if (!isStill(whose)) return;
  if (found.ok) learnNews(found);
  else tell($("news-form"), found.message);
}

function learnNews(wanted) {
  const isNew = !wanted.updatedAt; // never set: this browser's clock is the better guess
  const timezone = isNew ? HERE : wanted.timezone;
  if (!ZONES.has(timezone)) $("quiet-zone").append(new Option(timezone, timezone));
  fill($("news-form"), {
    ...wanted, timezone,
    quietHoursStart: (wanted.quietHoursStart ?? NIGHT[0]).slice(0, 5),
    quietHoursEnd: (wanted.quietHoursEnd ?? NIGHT[1]).slice(0, 5),
  });
  $("zone-hint").textContent = isNew
    ? "The clock is a guess, by this browser’s."
    : timezone === HERE ? "" : `This browser goes by ${HERE.replaceAll("_", " ")}.`;
}

submits($("news-form"), async ({ quietHoursStart, quietHoursEnd, ...given }) => {
  const reply = await api.prefer(me.id, { ...given, quietHoursStart: quietHoursStart || null, quietHoursEnd: quietHoursEnd || null });
  if (!reply.ok) return reply;
  learnNews(reply);
  tell($("news-form"), "Saved.", true);
  return reply;
});

$("news-reset").onclick = async () => {
  const reply = await api.resetPreferences(me.id);
  if (reply.ok) learnNews(reply);
  tell($("news-form"), reply.ok ? "The defaults hold again." : reply.message, reply.ok);
};

// ── sessions ────────────────────────────────────────────────────────────────────────────────────

async function showSessions() {
  const whose = me, found = await api.sessions(me.id);
  if (!isStill(whose)) return;
  $("sessions").replaceChildren(...(found.ok ? found.data.map(session) : []));
  $("sessions-told").textContent = found.ok ? "" : found.message;
}

const moment = (text) => new Date(text).toLocaleString("en", { dateStyle: "medium", timeStyle: "short" });

function session(one) {
  const element = make("li", one.isActive ? "live" : ""), words = make("p");
  const name = one.deviceName ?? `${one.platform}, ${one.deviceId}`;
  words.append(make("b", "", name), one.id === me.session ? " (this one)" : "", make("br"));
  words.append(one.isActive
    ? `Since ${moment(one.createdAt)}`
    : `${moment(one.createdAt)} to ${moment(one.terminatedAt)}: ${ENDED[one.terminationReason] ?? "ended"}`);
  element.append(words);
  if (!one.isActive) return element;
  const end = make("button", "quiet", "End");
  end.type = "button";
  end.setAttribute("aria-label", `End: ${name}`);
  end.onclick = () => ends(api.endSession(one.id), one.id === me.session);
  element.append(end);
  return element;
}

async function ends(asking, isMine) {
  const reply = await asking;
  if (!reply.ok && reply.error !== "UNAUTHORIZED") {
    $("sessions-told").textContent = reply.message;
    return;
  }
  if (!isMine) return showSessions();
  login.leave();
  say("You are logged out.");
}
$("end-all").onclick = () => ends(api.endSessions(me.id), true);

// ── password, and leaving ───────────────────────────────────────────────────────────────────────

submits($("password-form"), async ({ currentPassword, newPassword }) => {
  const reply = await api.changePassword({ currentPassword, newPassword });
  if (!reply.ok) return reply;
  $("password-form").reset();
  if (reply.token) login.enter(reply);
  tell($("password-form"), "Your password is changed. Everywhere else it takes the new one now.", true);
  return reply;
});

const LEAVING = {
  delete: ["Delete your account?", "You are logged out at once and cannot log in again. What you hold and bought stays yours to this shop."],
  erase: ["Erase your account?", "You are logged out at once, and your name, e-mail, phone and wallet are removed for good. Nobody can bring them back."],
};
let leaving = "";

for (const what of Object.keys(LEAVING)) {
  $(what).onclick = () => {
    leaving = what;
    [$("sure-title").textContent, $("sure-what").textContent] = LEAVING[what];
    $("sure-word").textContent = user?.username ?? what;
    $("sure-form").reset();
    tell($("sure-form"), "");
    $("sure").showModal();
    $("sure-name").focus();
  };
}
$("sure-no").onclick = () => $("sure").close();
submits($("sure-form"), async ({ word }) => {
  if (word !== $("sure-word").textContent) return { ok: false, message: `Type ${$("sure-word").textContent}, to the letter.` };
  const reply = await api.deleteUser(me.id, leaving === "erase");
  if (!reply.ok) return reply;
  $("sure").close();
  login.leave();
  say(leaving === "erase" ? "Your account is erased." : "Your account is deleted.");
  return reply;
});
