// One membership on the page: its card, what signs for it, and what its member can do.
import { make } from "./card.js";
import { engraved, titled } from "./engraved.js";

const date = (text) => new Date(text).toLocaleDateString("en", { dateStyle: "long" });

export const nameOf = ({ tier, year, sequenceNum }) => `${titled(tier)} ${year} #${sequenceNum}`;

function button(label, name, act, className = "quiet") {
  const made = make("button", className, label);
  made.type = "button";
  made.setAttribute("aria-label", `${label}: ${name}`); // there are many called so
  made.onclick = async () => {
    if (made.getAttribute("aria-disabled")) return;
    made.setAttribute("aria-disabled", "true"); // not `disabled`: the focus stays
    await act();
    made.removeAttribute("aria-disabled");
  };
  return made;
}

/** `key`: this browser's for it, if it has one; `tier`: of which it is, if that is known. `acts`: pass, copy,
 * register, meet, move, each told the membership. */
export function numbered(membership, key, tier, acts) {
  const element = make("li", "member"), name = nameOf(membership), isOver = Boolean(membership.revokedAt);
  element.tabIndex = -1;
  element.dataset.id = membership.id;
  element.append(engraved({
    tier: membership.tier, year: membership.year, number: membership.sequenceNum,
    of: tier?.totalStock, serial: membership.id, note: isOver ? "Revoked" : "",
  }));
  const told = element.appendChild(make("p", "soft"));
  told.textContent = isOver
    ? `Revoked on ${date(membership.revokedAt)}${membership.revokeReason ? `: ${membership.revokeReason}` : ""}.`
    : `Yours since ${date(membership.mintedAt)}. ${signer(key)}`;
  if (isOver) return element;
  const row = element.appendChild(make("div", "row"));
  const may = [button("Download the pass", name, () => acts.pass(membership), "")];
  if (key?.isActive) may.push(button("Meet somebody", name, () => acts.meet(membership)));
  else may.push(button("Register this device", name, () => acts.register(membership)), button("Move it here", name, () => acts.move(membership)));
  may.push(button("Copy its id", name, () => acts.copy(membership)));
  row.append(...may);
  return element;
}

function signer(key) {
  if (key?.isActive) return `This device signs for it, as ${key.deviceId}.`;
  return key ? "This device waits for the button behind the link that was mailed." : "This device does not sign for it.";
}
