// What an operator does to a drop or a membership: named, explained and confirmed in a dialog; what came of it is said.
import { wish } from "./ops-access.js";
import { count, many } from "./vitals.js";

const element = (id) => document.getElementById(id);
const MENDED = {
  expire: "end overdue holds", reap: "close dead workers' intents", recount: "count again what is on its way",
  tell: "tell the bouncer", seat: "tell the bouncer which units are free", pause: "pause the drop", resume: "let the drop go on", wait: "wait for Redis",
};

// Words for each deed: what will happen, the button, and what is said when it was done.
const DEEDS = {
  pause: {
    title: (name) => `Pause ${name}?`,
    text: ({ heldStock }) => `Within a second nobody can reserve any more. Who holds a unit keeps it and can still buy it: ${many(heldStock, "unit")} just now. Resume lets it go on.`,
    yes: "Pause", done: "is paused",
  },
  resume: {
    title: (name) => `Let ${name} go on?`,
    text: ({ pausedReason, availableStock }) => pausedReason === "audit"
      ? "The auditor paused it, because its rows do not add up. This overrules the auditor, who pauses it again in the next round if nothing was mended. Reconcile counts first, and lets it go on by itself if it adds up."
      : `Within a second everybody can reserve again. Free just now: ${many(availableStock, "unit")}.`,
    yes: "Resume", done: "goes on",
  },
  close: {
    title: (name) => `Close ${name}?`,
    text: ({ heldStock, availableStock }) => `The sale ends now, for everybody. What is free stays unsold: ${many(availableStock, "unit")}. What is held can still be bought until it runs out: ${many(heldStock, "unit")}. Only a later end opens it again (velvetrope drop change).`,
    yes: "Close the sale", done: "is closed", isGrave: true,
  },
};

export class Deeds {
  #now = null; // the deed that is asked about: { act }

  // `say` tells everybody; `changed(drop)` shows what the engine answered.
  constructor(access, say, changed) {
    Object.assign(this, { access, say, changed });
    this.dialog = element("ask");
    element("ask-yes").addEventListener("click", () => this.#act());
    this.dialog.addEventListener("close", () => { this.#now = null; });
  }

  ask(deed, drop) {
    const name = `${drop.name} (drop ${drop.id})`;
    if (deed === "reconcile") return this.#reconcile(drop, name);
    const { title, text, yes, done, isGrave } = DEEDS[deed], key = wish();
    this.#open(title(name), text(drop), yes, isGrave);
    this.#ready(async (isStillAsked) => {
      const reply = await this.access.operate("POST", `/drops/${drop.id}/${deed}`, key);
      if (reply.ok) this.changed(reply.body);
      if (!isStillAsked()) return this.#late(reply, `${name} ${done}.`, title(name));
      if (!this.#settled(reply, title(name).replace(/\?$/, ""))) return;
      this.dialog.close();
      this.say(`${name} ${done}.`);
    });
  }

  // End a membership. `changed(membership)` shows what the engine answered. Asked again with another reason, it is
  // another wish.
  revoke(membership, name, changed) {
    const title = `Revoke ${name}?`, keys = new Map();
    this.#open(title, `It is ${membership.userId}'s. Within a second its pass, its device and its encounters are worth nothing; nobody else gets the number, and nothing brings it back. The reason is kept, and its member is told it.`, "Revoke", true);
    element("ask-why").hidden = false;
    this.#ready(async (isStillAsked) => {
      const reason = element("ask-reason").value.trim();
      if (!reason) {
        element("ask-said").textContent = "Say why.";
        return element("ask-reason").focus();
      }
      if (!keys.has(reason)) keys.set(reason, wish());
      const reply = await this.access.operate("POST", `/memberships/${membership.id}/revoke`, keys.get(reason), { reason });
      if (!isStillAsked()) return this.#late(reply, `${name} is revoked.`, title);
      if (!this.#settled(reply, title.replace(/\?$/, ""))) return;
      this.dialog.close();
      changed(reply.body);
      this.say(`${name} is revoked.`);
    });
  }

  // First what would be done; then, if there is anything, whether to do it.
  async #reconcile(drop, name) {
    const path = `/drops/${drop.id}/reconcile`, key = wish();
    this.#open(`Reconcile ${name}`, "Looking for what would be mended. Nothing is changed yet …", "Mend it", false);
    const mine = this.#now = {};
    const found = await this.access.operate("POST", `${path}?dryRun=true`);
    if (this.#now !== mine || !this.#settled(found, `Reconciling ${name}`)) return;
    this.#findings(found.body);
    if (!found.body.found.length) {
      element("ask-text").textContent = found.body.clean ? "Its rows add up, and there is nothing to mend." : "Its rows do not add up, and only a person can mend that: docs/OPERATIONS.md, When the auditor paused a drop.";
      element("ask-no").textContent = "Good";
      return;
    }
    element("ask-text").textContent = "Nothing was changed yet. This would be done, as keepers do by themselves within seconds:";
    this.#ready(async (isStillAsked) => {
      const mended = await this.access.operate("POST", path, key);
      if (!isStillAsked()) return this.#late(mended, `${name} was reconciled.`, `Reconciling ${name}`);
      if (!this.#settled(mended, `Reconciling ${name}`)) return;
      const done = mended.body.found.filter((each) => each.done).length;
      const words = `${done} of ${mended.body.found.length} mended; its rows ${mended.body.clean ? "add up" : "do not add up"}`;
      this.#findings(mended.body);
      element("ask-text").textContent = `Done: ${words}.`;
      element("ask-no").textContent = "Good";
      element("ask-yes").hidden = true;
      element("ask-no").focus();
      this.say(`${name}: ${words}.`);
    });
  }

  #open(title, text, yes, isGrave) {
    element("ask-title").textContent = title;
    element("ask-text").textContent = text;
    element("ask-found").replaceChildren();
    element("ask-said").textContent = "";
    element("ask-why").hidden = true;
    element("ask-reason").value = "";
    element("ask-no").textContent = "Cancel";
    Object.assign(element("ask-yes"), { textContent: yes, hidden: true, disabled: false });
    element("ask-yes").classList.toggle("grave", Boolean(isGrave));
    this.dialog.showModal();
    element("ask-no").focus(); // who presses Enter without reading has done nothing
  }

  #ready(act) {
    this.#now = { act };
    element("ask-yes").hidden = false;
  }

  async #act() {
    const mine = this.#now;
    if (!mine?.act) return;
    element("ask-yes").disabled = true;
    element("ask-said").textContent = "Asking the engine …";
    await mine.act(() => this.#now === mine);
    if (this.#now === mine) element("ask-yes").disabled = false;
  }

  // The answer came when the dialog was closed, or asked about something else: say it aside.
  #late(reply, done, what) {
    this.say(reply.ok ? done : `${what.replace(/\?$/, "")}: not done, as far as we know: ${reply.message}`);
  }

  // Whether it was done. If not, why: here, to try again with the same key, or at the door.
  #settled(reply, what) {
    if (reply.ok) {
      element("ask-said").textContent = "";
      return true;
    }
    if (reply.status === 401 || reply.status === 403) {
      this.dialog.close();
      this.access.demand(`${what}: refused. ${this.access.why(reply.status)}`);
    } else {
      element("ask-said").textContent = `Not done, as far as we know: ${reply.message} Trying again does it once.`;
    }
    return false;
  }

  #findings({ found, problems, offenders }) {
    const lines = found.map(({ action, count: times, detail, done }) => `${MENDED[action] ?? action}${times ? ` (${count(times)})` : ""}: ${detail}${done ? " ✓ done" : ""}`);
    const wrong = problems.map((problem) => `does not add up: ${problem}`);
    const named = offenders.length ? [`the first of them: ${offenders.join(", ")}`] : [];
    element("ask-found").replaceChildren(...[...lines, ...wrong, ...named].map((text) => Object.assign(document.createElement("li"), { textContent: text })));
  }
}
