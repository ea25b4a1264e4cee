// Behind the link of a mail: whoever fetches it, a scanner too, has done nothing. A person presses the button.
import * as api from "./api.js";
import { submits, tell } from "./forms.js";

const form = document.getElementById("confirm-form"), button = form.querySelector("button");
const token = new URLSearchParams(location.search).get("token") ?? "";
// What a link from a mail brings shall stand in no history, and no address that is sent on.
history.replaceState(null, "", location.pathname);

function over(words, isGood = false) {
  button.hidden = true;
  tell(form, words, isGood);
}

const WHY = {
  EXPIRED: "This link is too old. Ask for another one on the new device.",
  NOT_FOUND: "This link was used, or another one was sent since: the newest one counts.",
};

submits(form, async () => {
  const reply = await api.confirmReforge(token);
  if (reply.ok) {
    over("Done: the new device signs for your membership now, and the one before no more.", true);
  } else if (WHY[reply.error]) {
    over(WHY[reply.error]);
    return null;
  }
  return reply;
});

if (!token) over("There is no token here: open the link from your mail once more.");
