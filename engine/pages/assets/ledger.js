// The ledger's page: its newest links, live; whether it is whole; and a proof to take away.
import * as api from "./api.js";
import { SHOWN, chain } from "./chain.js";
import { live } from "./live.js";
import * as login from "./login.js";
import { many } from "./words.js";

const CONNECTION = { socket: "Live", stream: "Live, by stream", retrying: "Reconnecting …", polling: "Every few seconds" };
const ASK_AGAIN_MS = 1_000;
// Why a chain is broken, and what that means to who reads it.
const REASONS = {
  changed: "what it says is not what was sealed: somebody changed it afterwards.",
  removed: "a link is missing here: somebody took it out.",
  inserted: "a link stands here that was never sealed: somebody put it in.",
  reordered: "links stand in another order than they were sealed in.",
  truncated: "the end of the chain is missing: the signed head knows of more.",
  wrong_nonce: "its nonce does not fit its hash.",
  bad_head: "the head's signature does not fit: it was not made with our key.",
  changed_record: "the booking or purchase that it tells of says something else now.",
  removed_record: "the booking or purchase that it tells of is gone.",
  missing_record: "there is a booking or purchase that no record tells of.",
  doubled_record: "two records tell of the same fact.",
  bad_keys: "the list of keys is not what the links say of them.",
  other_history: "it is another history than the one that was signed.",
};
const $ = (id) => document.getElementById(id);
const drawn = chain($("chain"));
const me = login.who()?.id ?? sessionStorage.me;
let publicKey = "";

function show(entries) {
  drawn.put(entries);
  $("empty").hidden = drawn.newest() > 0;
  $("empty").textContent = "Nothing is sealed yet: book a slot or buy something, and look again in a second.";
  if (!publicKey && drawn.newest()) learnKey();
  if (!$("sequence").value && drawn.newest()) propose(drawn.newest());
}

async function ask() {
  const found = await api.ledger(SHOWN);
  return found.ok ? { room: "ledger", entries: found.data } : null;
}

async function verify() {
  if ($("verify").getAttribute("aria-disabled")) return;
  $("verify").setAttribute("aria-disabled", "true");
  tell("", "Every link is being checked …");
  let verdict = await api.verify();
  while (verdict.ok && verdict.valid === undefined) { // a long chain: how far the look is
    tell("", `Every link is being checked: ${verdict.checked.toLocaleString("en")} of ${many(verdict.entries.toLocaleString("en"), "record", "records")} so far …`);
    await new Promise((done) => setTimeout(done, ASK_AGAIN_MS));
    verdict = await api.verify();
  }
  $("verify").removeAttribute("aria-disabled");
  if (!verdict.ok) return tell("", verdict.message);
  const records = many(verdict.entries.toLocaleString("en"), "record", "records");
  if (!verdict.valid) return tell("broken", `✗ Broken${verdict.invalidAt ? ` at #${verdict.invalidAt}` : ""}: ${REASONS[verdict.reason] ?? verdict.reason}`);
  const others = verdict.uncheckedKeys?.length ? " Of links under keys that we have no more, only what the public can check was checked." : "";
  tell("whole", `✓ Whole: ${records}, each as it was sealed, in this order, and every booking and purchase has its own.${others}`);
}

function tell(state, text) {
  $("verdict").dataset.state = state;
  $("verdict").textContent = text;
}

// ── a proof to take away ────────────────────────────────────────────────────────────────────────

function propose(sequence) {
  $("sequence").value = sequence;
  command();
}

function command() {
  $("command").textContent = `python check_proof.py proof-${Number($("sequence").value) || 1}.json ${publicKey}`.trimEnd();
}

$("sequence").addEventListener("input", command);
$("proof").addEventListener("submit", async (submitted) => {
  submitted.preventDefault();
  const sequence = Number($("sequence").value);
  const { ok, message } = await api.proof(sequence);
  if (!ok) { $("own").textContent = message; return; }
  const link = document.createElement("a");
  link.href = api.proofOf(sequence); // the very bytes, not what a page makes of them
  link.download = `proof-${sequence}.json`;
  link.click();
  learnKey(); // there may be another since
  $("own").textContent = `proof-${sequence}.json is in your downloads.`;
});

/** The purchases of who sits here, as far as they are sealed. */
async function mine() {
  const found = me ? await api.purchasesOf(me) : { ok: false };
  if (!found.ok) return;
  const sealed = found.data.filter((bought) => bought.ledger?.sequence);
  $("mine-sealed").replaceChildren(...sealed.map((bought) => new Option(`${bought.drop?.name ?? "purchase"}`, bought.ledger.sequence)));
  if (!sealed.length) return;
  propose(sealed[0].ledger.sequence);
  $("own").textContent = `Yours: ${sealed.slice(0, 5).map((bought) => `#${bought.ledger.sequence}`).join(", ")}.`;
}

/** The key is no part of the proof that is checked with it: it is asked for by itself. */
async function learnKey() {
  const found = await api.ledgerKey();
  if (found.ok) publicKey = found.publicKey;
  command();
}

$("verify").onclick = verify;
login.showOn($("account"));
live({
  rooms: ["ledger"],
  poll: ask,
  onEvent(event, data) {
    api.heardTime(data.serverTime);
    if (event === "snapshot") show(data.entries ?? []);
    if (event === "ledger_update") show([data.entry]);
  },
  onState(now, way) {
    $("state").dataset.state = now;
    $("state").textContent = CONNECTION[way ?? now];
  },
});
mine();
setInterval(drawn.tick, 5_000);
