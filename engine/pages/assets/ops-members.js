// Memberships: found by user, tier, number or state, and ended with a reason. Nothing is asked until an operator asks.
const SHOWN = 50;
const element = (id) => document.getElementById(id);
const make = (tag, text = "", className = "") => Object.assign(document.createElement(tag), { textContent: text, className });
const moment = (text) => new Date(text).toLocaleString("en", { dateStyle: "medium", timeStyle: "short" });

export const nameOf = ({ tier, year, sequenceNum }) => `${tier} ${year} #${sequenceNum}`;

export class Members {
  #rows = new Map(); // by the membership's id

  // `revoke(membership)`: an operator wants to end one.
  constructor(access, revoke) {
    Object.assign(this, { access, revoke });
    element("find").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#find();
    });
    this.#tiers();
  }

  // One as the engine answered.
  change(membership) {
    const before = this.#rows.get(membership.id);
    if (!before) return;
    const row = this.#row(membership);
    before.replaceWith(row);
    row.focus();
  }

  async #tiers() {
    const { ok, body } = await this.access.operate("GET", "/memberships/tiers");
    if (ok) element("find-tier").append(...body.data.map(({ dropId, tier, year }) => new Option(`${tier} ${year}`, dropId)));
  }

  async #find() {
    const asked = new URLSearchParams({ limit: SHOWN });
    for (const [name, value] of new FormData(element("find"))) if (value.trim()) asked.set(name, value.trim());
    element("found").textContent = "Looking …";
    const { ok, status, message, body } = await this.access.operate("GET", `/memberships?${asked}`);
    if (status === 401 || status === 403) this.access.demand(`Memberships are not for everybody. ${this.access.why(status)}`);
    const rows = ok ? body.data : [];
    this.#rows.clear();
    element("members").replaceChildren(...rows.map((each) => this.#row(each)));
    const more = ok && body.nextCursor ? ` These are the newest ${SHOWN}: say more of the one you look for.` : "";
    element("found").textContent = ok ? `${rows.length ? `${rows.length} found.` : "There is no such membership."}${more}` : message;
  }

  #row(membership) {
    const item = make("li", "", "membership"), head = make("div", "", "head"), isOver = Boolean(membership.revokedAt);
    item.tabIndex = -1;
    item.dataset.membership = membership.id;
    head.append(make("h3", nameOf(membership)), make("span", isOver ? "revoked" : "live", `badge status-${isOver ? "ended" : "live"}`));
    const facts = make("p", `${membership.userId}, since ${moment(membership.mintedAt)}`, "quiet-text");
    if (isOver) facts.textContent += `; revoked ${moment(membership.revokedAt)}: ${membership.revokeReason}`;
    item.append(head, facts, make("code", membership.id));
    if (!isOver) {
      const button = Object.assign(make("button", "Revoke", "quiet"), { type: "button" });
      button.setAttribute("aria-label", `Revoke ${nameOf(membership)}`);
      button.addEventListener("click", () => this.revoke(membership));
      item.append(button);
    }
    this.#rows.set(membership.id, item);
    return item;
  }
}
