// One drop on the page: its picture, its stock, its newest buyers, and what this buyer can do.
import { alive, left } from "./holds.js";
import { ring } from "./ring.js";
import { ago, badge, closed, hint, isTaken, own, stateOf, story, titled } from "./words.js";

const STILL = matchMedia("(prefers-reduced-motion: reduce)");
const FLASH_MS = 700, CALM_MS = 400; // a rush must not flicker
const FIGURES = [["availableStock", "free"], ["heldStock", "held"], ["soldStock", "sold"]];

export function make(tag, className = "", text = "") {
  const made = document.createElement(tag);
  made.className = className;
  made.textContent = text;
  return made;
}

const isNamed = (drop) => drop.pick === "named";

function write(element, text) { // untouched text keeps a reader's place
  if (element.textContent !== text) element.textContent = text;
}

/** A button that can be pressed once: what comes of it paints another. */
function button(label, drop, act, className = "") {
  const made = make("button", className, label);
  made.type = "button";
  made.disabled = !act;
  made.setAttribute("aria-describedby", `drop-${drop.id}`); // there are twenty called "Reserve"
  if (act) made.onclick = () => {
    made.setAttribute("aria-disabled", "true"); // not `disabled`: the focus stays
    made.onclick = null;
    act();
  };
  return made;
}

/** The stock: a bar of three parts, and the figures in words. Not live to screen readers: a rush
 * would talk without end; it is read when they come by. */
function gauge() {
  const element = make("div", "stock"), bar = make("div", "bar"), legend = make("p", "figures");
  bar.setAttribute("aria-hidden", "true");
  const shown = new Map();
  let flashed = 0;
  for (const [figure, word] of FIGURES) {
    const part = bar.appendChild(make("span", word)), entry = legend.appendChild(make("span", word));
    const number = entry.appendChild(make("b"));
    entry.append(` ${word}`);
    shown.set(figure, { part, number });
  }
  const total = legend.appendChild(make("span", "total"));
  element.append(bar, legend);

  function paint(drop) {
    const mayFlash = Date.now() > flashed + CALM_MS;
    for (const [figure, { part, number }] of shown) {
      const text = drop[figure].toLocaleString("en");
      if (number.textContent === text) continue;
      if (number.textContent && mayFlash) {
        flash(number, drop[figure] > Number(number.textContent.replaceAll(",", "")));
        flashed = Date.now();
      }
      number.textContent = text;
      part.style.flexGrow = drop[figure];
      part.hidden = !drop[figure];
    }
    write(total, `of ${drop.totalStock.toLocaleString("en")}`);
  }
  return { element, paint };
}

function flash(number, hasRisen) {
  if (STILL.matches) return;
  const from = getComputedStyle(number).getPropertyValue(hasRisen ? "--rose" : "--fell");
  number.animate([{ backgroundColor: from }, { backgroundColor: "transparent" }], FLASH_MS);
}

/** The hold: its ring, which pair it is, and until when. */
function stub() {
  const element = make("div", "stub"), countdown = ring(), words = make("p");
  element.append(countdown.element, words);
  element.hidden = true;

  function paint(hold) {
    element.hidden = !alive(hold);
    if (element.hidden) return;
    countdown.paint(left(hold), hold.total);
    write(words, `${own(hold)}${hold.status === "paying" ? " to pay for" : ""}`);
  }
  return { element, paint };
}

/** The three who bought last. */
function buyers() {
  const element = make("div", "buyers"), list = make("ul");
  element.append(make("h3", "", "Latest buyers"), list);
  let shown = "";

  function paint(recent = []) {
    element.hidden = !recent.length;
    const key = (one) => one.username + one.purchasedAt, names = recent.map(key).join();
    if (names !== shown) {
      list.replaceChildren(...recent.map((one) => {
        const entry = make("li");
        entry.append(make("b", "", one.username), " ", make("time"));
        entry.lastChild.dateTime = one.purchasedAt;
        return entry;
      }));
      if (shown && recent.length && !shown.includes(key(recent[0]))) list.firstChild.classList.add("new");
      shown = names;
    }
    for (const time of list.querySelectorAll("time")) write(time, ago(time.dateTime));
  }
  return { element, paint };
}

/** The way to the map of a drop whose units have names; it is open to who has some, too. */
function seats(drop, acts, label, className = "quiet") {
  if (!isNamed(drop) || stateOf(drop) !== "live") return [];
  const made = button(label, drop, () => {}, className);
  made.onclick = () => acts.choose(drop); // as often as one likes
  return [made];
}

function buttons(drop, hold, acts, mayBuy) {
  if (alive(hold)) {
    const hasFailed = hold.payments?.at(-1)?.status === "failed";
    const waits = hold.payments?.some((each) => each.status === "pending"); // who waits need not press
    const label = hold.status !== "paying" ? "Pay" : hasFailed ? "Try again" : "Go to payment";
    const made = [button(label, drop, waits ? null : () => acts.pay(hold))];
    if (hold.status === "active" && !hold.extended) made.push(button("More time", drop, () => acts.extend(hold), "quiet"));
    made.push(button("Give it back", drop, () => acts.giveBack(hold), "quiet"));
    return [...made, ...seats(drop, acts, "More seats")];
  }
  if (hold?.status === "purchased" && drop.maxPerBuyer === 1) return [button("Bought", drop, null)];
  if (stateOf(drop) !== "live") return [button(closed(drop), drop, null)];
  if (!mayBuy) return [button("Log in to buy", drop, null)];
  if (isNamed(drop)) return seats(drop, acts, "Choose seats", "");
  return [button(drop.availableStock ? "Reserve" : "Try anyway", drop, () => acts.reserve(drop))];
}

/** `{article, paint(drop, hold, mayBuy), again()}`; `again`: its buttons work again, whatever they show. */
export function card(drop, acts) {
  const article = make("article"), picture = make("div", "picture"), text = make("div", "text");
  article.tabIndex = -1;
  article.dataset.drop = drop.id;
  article.setAttribute("aria-labelledby", `drop-${drop.id}`);
  const image = picture.appendChild(make("img")), mark = picture.appendChild(make("span", "badge"));
  image.alt = "";
  image.width = 640;
  image.height = 480;
  image.loading = "lazy";
  image.decoding = "async";
  const head = make("div", "head"), title = make("h2"), price = make("p", "price");
  title.id = `drop-${drop.id}`;
  head.append(title, price);
  const stock = gauge(), more = make("p", "hint"), held = stub(), note = make("p", "note");
  const row = make("div", "row"), newest = buyers();
  picture.append(held.element);
  text.append(head, stock.element, more, note, row, newest.element);
  article.append(picture, text);
  let shown = "", isBroken = false;
  image.onerror = () => { isBroken = true; }; // seen by the next painting

  function paint(drop, hold, mayBuy) {
    const state = stateOf(drop), mine = alive(hold) ? hold.quantity ?? 1 : 0;
    article.dataset.state = state;
    article.classList.toggle("mine", alive(hold));
    if (drop.imageUrl && image.getAttribute("src") !== drop.imageUrl) {
      image.src = drop.imageUrl;
      isBroken = false;
    }
    image.hidden = !drop.imageUrl || isBroken;
    picture.dataset.initial = image.hidden ? [...drop.name][0] : "";
    picture.classList.toggle("bare", image.hidden);
    write(title, drop.name);
    write(price, `${drop.price} ${drop.currency}`);
    write(mark, badge(drop, mine));
    mark.classList.toggle("taken", isTaken(drop));
    mark.classList.toggle("yours", isTaken(drop) && mine > 0);
    stock.paint(drop);
    write(more, hint(drop, mine));
    held.paint(hold);
    write(note, story(hold));
    newest.paint(drop.recentPurchases);
    const wanted = [
      hold?.id, hold?.status, alive(hold), hold?.extended, state, drop.availableStock > 0, drop.maxPerBuyer, mayBuy,
      ...(hold?.payments ?? []).map((payment) => payment.status),
    ].join();
    if (shown === wanted) return; // leave the focus where it is
    shown = wanted;
    const isFocused = row.contains(document.activeElement);
    row.replaceChildren(...buttons(drop, hold, acts, mayBuy));
    if (!isFocused) return;
    (row.querySelector("button:enabled") ?? article).focus({ preventScroll: true });
    row.scrollIntoView({ block: "nearest" }); // who pressed one sees what there is to press now
  }

  return { article, paint, again: () => { shown = ""; } };
}

/** A purchase in the list of mine. */
export function purchase(bought) {
  const element = make("li"), drop = bought.drop, words = make("p");
  if (drop?.imageUrl) {
    const image = element.appendChild(make("img"));
    image.src = drop.imageUrl;
    image.alt = "";
    image.loading = "lazy";
  }
  words.append(make("b", "", drop?.name ?? `Drop ${bought.dropId}`), make("br"));
  const state = bought.status === "refunded" ? "refunded" : new Date(bought.purchasedAt).toLocaleString("en", { dateStyle: "medium", timeStyle: "short" });
  words.append(`${titled(bought)} · ${bought.amount} ${bought.currency} · ${state}`);
  element.append(words);
  return element;
}

