// Behind the link of a mail: whoever fetches it, a scanner too, has done nothing. A person presses the button.
import * as api from "./api.js";
import { submits } from "./forms.js";

const $ = (id) => document.getElementById(id);
const form = $("confirm-form");
const key = crypto.randomUUID(); // of this page: a press after an answer that got lost is told that answer
const token = new URLSearchParams(location.search).get("token") ?? "";
// What a link from a mail brings shall stand in no history, and no address that is sent on.
history.replaceState(null, "", location.pathname);

/** What came of it stands in place of the question. */
function over([title, words], isGood = false) {
  form.hidden = true;
  $("ask-title").textContent = title;
  $("ask-text").textContent = words;
  $("ask-text").classList.add("told");
  $("ask-text").classList.toggle("good", isGood);
  $("ask").focus();
}

const DONE = ["Your membership has moved", "The new device signs for it now, and the one before does not any more."];
const WHY = {
  EXPIRED: ["This link is too old", "It moved nothing. Ask for another one on the new device."],
  NOT_FOUND: ["This link moves nothing any more", "It was used, or another one was sent since: the newest one counts. Your memberships’ page says which device signs."],
};
const NONE = ["There is no token here", "Open the link from your mail once more."];

submits(form, async () => {
  const reply = await api.confirmReforge(token, key);
  if (reply.ok) over(DONE, true);
  else if (WHY[reply.error]) {
    over(WHY[reply.error]);
    return null;
  }
  return reply;
});

if (!token) over(NONE);
