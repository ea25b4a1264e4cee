// Who asks: the credential of this tab, sent as a header and kept nowhere but in sessionStorage; and
// the questions themselves, none of which may hang the page.
const API = "/api/v1", PATIENCE_MS = 5_000;
const element = (id) => document.getElementById(id);

export class Access {
  #credential = sessionStorage.opsCredential ?? "";
  #isOpen = false; // everything answers without a credential
  #isOffered = false; // the form came by itself once; who put it away is not asked again

  constructor() {
    element("door").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#take(element("credential").value.trim());
    });
    element("door-cancel").addEventListener("click", () => this.#shut());
    element("key").addEventListener("click", () => {
      if (!this.#credential) return this.demand("A token or an API key lets you see more, and act.");
      this.#isOffered = true;
      this.#keep("");
    });
    this.#keep(this.#credential);
    this.#greet();
  }

  // Who need not sign in is offered no door; who must, is shown it before anything is refused.
  async #greet() {
    const { status } = await this.#send("GET", `${API}/refunds?limit=1`, {});
    this.#isOpen = status === 200;
    element("mail").hidden = !this.#isOpen;
    this.#keep(this.#credential);
    if (status === 401 && !this.#credential) this.offer("Sign in to see more, and to act.");
  }

  // Show the form, and say why it is needed.
  demand(why) {
    element("door-why").textContent = why;
    if (!element("door").hidden) return;
    element("door").hidden = false;
    element("door").scrollIntoView({ block: "nearest" });
    element("credential").focus();
  }

  // The same, once.
  offer(why) {
    if (!this.#isOffered) this.demand(why);
    this.#isOffered = true;
  }

  // The text of /metrics, or { status, message }: 0 is no answer.
  async metrics() {
    const reply = await this.#send("GET", "/metrics", this.#headers());
    if (!reply.ok) return reply;
    return { status: reply.status, text: reply.text };
  }

  // What everybody may see, without the credential: a key for figures alone may not ask for drops.
  drops() {
    return this.#json("GET", "/drops?limit=100", {});
  }

  // One deed or question of an operator. `key`: of one wish, however often it is sent.
  operate(method, path, key, body) {
    return this.#json(method, path, { ...this.#headers(), ...(key && { "Idempotency-Key": key }) }, body);
  }

  // Why a 401 or 403 came, and what would be let in.
  why(status) {
    if (status === 403) return "This credential may not: it takes an operator's.";
    return this.#credential ? "This credential is not good, or no longer." : "It takes an operator.";
  }

  async #take(credential) {
    this.#keep(credential);
    element("door-why").textContent = "Asking …";
    const { status, message } = await this.metrics();
    if (status === 200) {
      this.#shut();
    } else {
      this.#keep("");
      const why = { 0: "The engine does not answer.", 403: "It is good, and may not look at this: it takes an operator's, or a key with the scope metrics." };
      element("door-why").textContent = why[status] ?? `Not let in: ${message}`;
      element("credential").focus();
    }
  }

  #shut() {
    element("door").hidden = true;
    element("credential").value = "";
    element("key").focus();
  }

  #keep(credential) {
    this.#credential = credential;
    if (credential) sessionStorage.opsCredential = credential;
    else sessionStorage.removeItem("opsCredential");
    element("key").textContent = credential ? "Sign out" : "Sign in";
    element("key").hidden = this.#isOpen && !credential;
  }

  #headers() {
    if (!this.#credential) return {};
    return this.#credential.startsWith("vr_") ? { "X-API-Key": this.#credential } : { Authorization: `Bearer ${this.#credential}` };
  }

  async #json(method, path, headers, body) {
    const { text, ...reply } = await this.#send(method, API + path, headers, body);
    return { ...reply, ...(text && { body: JSON.parse(text) }) };
  }

  async #send(method, path, headers, body) {
    try {
      const reply = await fetch(path, { method, headers, body: body && JSON.stringify(body), cache: "no-store", signal: AbortSignal.timeout(PATIENCE_MS) });
      const text = await reply.text(), { ok, status } = reply;
      return ok ? { ok, status, text } : { ok, status, message: problem(text) };
    } catch {
      return { ok: false, status: 0, message: "The engine does not answer." };
    }
  }
}

function problem(text) {
  try {
    return JSON.parse(text).message;
  } catch {
    return "Something that is not the engine answered.";
  }
}

// A name for one wish. Not randomUUID: that is missing where a page comes without TLS.
export const wish = () => [...crypto.getRandomValues(new Uint32Array(4))].map((each) => each.toString(36)).join("-");
