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

/** `signer`: `{device, key, waits}`: the device that signs for it, its key if it is this browser, and whether this
 * browser waits to be it. `tier`: of which it is, if that is known. `acts`: pass, copy, register, meet, move, each
 * told the membership. */
export function numbered(membership, signer, tier, acts) {
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
    : `Yours since ${date(membership.mintedAt)}. ${words(signer)}`;
  if (isOver) return element;
  const row = element.appendChild(make("div", "row"));
  const may = [button("Download the pass", name, () => acts.pass(membership), "")];
  if (signer.key) may.push(button("Meet somebody", name, () => acts.meet(membership, signer.key)));
  else if (signer.device) may.push(button("Move it to this device", name, () => acts.move(membership, signer.device)));
  else may.push(button("Register this device", name, () => acts.register(membership)));
  may.push(button("Copy its id", name, () => acts.copy(membership)));
  row.append(...may);
  return element;
}

function words({ device, key, waits }) {
  if (key) return "This device signs for it.";
  if (!device) return "No device signs for it yet.";
  const until = waits ? " until you press the button behind the link that was mailed" : "";
  return `Another device signs for it${until}: ${device.deviceId}.`;
}
