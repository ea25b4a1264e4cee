// The account's page: the ways in, and, once one is in, what is one's own (mine.js).
import * as api from "./api.js";
import { say } from "./dock.js";
import { fill, refuse, submits, tell } from "./forms.js";
import * as login from "./login.js";
import * as mine from "./mine.js";

const WAYS = ["login", "register", "forgot", "reset"];
const $ = (id) => document.getElementById(id);
const asked = new URLSearchParams(location.search);
const LINK = /^#reset=(\w+)$/;
let proof = ""; // from the link in a mail: good for one new password
let shown; // whose account is on the page

const way = () => (WAYS.includes(location.hash.slice(1)) ? location.hash.slice(1) : "login");

function show() {
  const me = login.who(), isOut = !me || (proof && way() === "reset");
  $("out").hidden = !isOut;
  $("in").hidden = isOut;
  for (const id of WAYS) $(id).hidden = id !== way();
  $("farewell").textContent = me ? "" : login.farewell();
  if (shown !== me?.id) {
    shown = me?.id;
    mine.show(me);
  }
  if (way() === "reset" && !proof) tell($("reset-form"), "A new password takes the link from your mail: open it once more, or send another one.");
}

/** Where one came from, if that is a page of ours. */
function back() {
  const from = new URL(asked.get("next") ?? "", location.href);
  return asked.has("next") && from.origin === location.origin ? from.href : "";
}

function come(answer, words) {
  login.enter(answer);
  for (const form of $("out").querySelectorAll("form")) form.reset();
  if (back()) return location.replace(back());
  history.replaceState(null, "", "/account");
  show();
  $("main").focus();
  say(words);
}

submits($("login-form"), async (given) => {
  const reply = await api.logIn(given);
  if (reply.ok) come(reply, "You are logged in.");
  else if (reply.error === "UNAUTHORIZED") {
    refuse($("login-form"), { message: "E-mail and password do not fit. Try again, or have a link sent to choose a new password." });
    $("login-password").select();
    return null;
  }
  return reply;
});

submits($("register-form"), async ({ referralKey, ...given }) => {
  const reply = await api.register({ ...given, ...(referralKey && { referralKey }) });
  if (reply.ok && reply.token) come(reply, "Your account is ready, and you are logged in.");
  else if (reply.ok) go("login", "Your account is ready: log in.");
  else if (reply.error === "INVITATION_NEEDED" || reply.details?.fields?.some(({ field }) => field === "referralKey")) {
    invite();
    $("register-referral").focus();
  }
  return reply;
});

submits($("forgot-form"), async (given) => {
  const reply = await api.forgotPassword(given.email);
  // Whether there is such an account is nobody's business.
  if (reply.ok) tell($("forgot-form"), "If there is an account with this address, a link is on its way. Look into your mail, and open it within 30 minutes.", true);
  return reply;
});

submits($("reset-form"), async (given) => {
  const reply = await api.resetPassword(proof, given.password);
  if (!reply.ok) return reply;
  proof = "";
  $("reset-form").reset();
  login.leave();
  go("login", "Your new password is set: log in with it.");
  return reply;
});

function go(to, words) {
  location.hash = to;
  show();
  tell($(`${to}-form`), words, true);
  $(`${to}-form`).querySelector("input").focus();
}

/** The shop is open to who was invited. */
function invite(key = "") {
  $("invitation").hidden = false;
  $("register-referral").required = true;
  if (key) $("register-referral").value = key;
}

$("logout").onclick = async () => {
  const reply = await api.logOut();
  if (!reply.ok && reply.error !== "UNAUTHORIZED") return say(reply.message);
  login.leave();
  say("You are logged out.");
  $("login-email").focus();
};

/** What a link from a mail brings shall stand in no history, and no address that is sent on. */
function takeProof() {
  const found = LINK.exec(location.hash);
  if (!found) return;
  proof = found[1];
  history.replaceState(null, "", "/account#reset");
}
takeProof();
if (asked.has("invitation")) invite(asked.get("invitation"));
fill($("login-form"), { email: "" });
login.showOn($("account"));
login.onChange(show);
addEventListener("hashchange", () => { takeProof(); show(); });
show();
