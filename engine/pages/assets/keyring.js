// This browser as a member's device: for each membership a key that signs and that nobody can read, not even
// this page. It lies in IndexedDB; who clears the browser's data has lost it, and moves the membership anew.
// A new one takes no other's place: that may sign, or a mailed link may be about to make it sign.
const ALGORITHM = { name: "ECDSA", namedCurve: "P-256" }, SIGNATURE = { name: "ECDSA", hash: "SHA-256" };
const LIVES_S = 300; // a token of an encounter is good for so long

export const canSign = Boolean(globalThis.crypto?.subtle && globalThis.indexedDB); // without TLS a browser does not

const base64 = (bytes) => btoa(String.fromCharCode(...new Uint8Array(bytes)));
const base64url = (bytes) => base64(bytes).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
const bytes = (text) => new TextEncoder().encode(text);

function opened() {
  return new Promise((done, fail) => {
    const asking = indexedDB.open("membership", 1);
    asking.onupgradeneeded = () => asking.result.createObjectStore("keys", { keyPath: "deviceId" });
    asking.onsuccess = () => done(asking.result);
    asking.onerror = () => fail(asking.error);
  });
}

async function within(mode, act) {
  const base = await opened();
  try {
    return await new Promise((done, fail) => {
      const turn = base.transaction("keys", mode), asked = act(turn.objectStore("keys"));
      turn.oncomplete = () => done(asked.result);
      turn.onerror = turn.onabort = () => fail(turn.error);
    });
  } finally {
    base.close();
  }
}

/** What it has for a membership: `{membershipId, deviceId, key, pem}` each. */
export const keysOf = async (membershipId) =>
  (await within("readonly", (keys) => keys.getAll())).filter((each) => each.membershipId === membershipId);
export const forget = ({ deviceId }) => within("readwrite", (keys) => keys.delete(deviceId));

/** What this device calls itself: for people, who read it in a mail; no two keys' are the same. */
function named() {
  const system = navigator.userAgentData?.platform ?? navigator.platform;
  return `Browser on ${system || "a computer"}, ${crypto.randomUUID().slice(0, 8)}`;
}

/** A new key for a membership. */
export async function newKey(membershipId) {
  const { privateKey, publicKey } = await crypto.subtle.generateKey(ALGORITHM, false, ["sign", "verify"]);
  const lines = base64(await crypto.subtle.exportKey("spki", publicKey)).match(/.{1,64}/g).join("\n");
  const pem = `-----BEGIN PUBLIC KEY-----\n${lines}\n-----END PUBLIC KEY-----\n`;
  const made = { membershipId, deviceId: named(), key: privateKey, pem };
  await within("readwrite", (keys) => keys.add(made));
  return made;
}

/** A text's signature, as JOSE writes it: r and s, base64url. */
const sign = async ({ key }, text) => base64url(await crypto.subtle.sign(SIGNATURE, key, bytes(text)));

/** Proves to who made the challenge that this device has the key. */
export const prove = (made, challenge) =>
  sign(made, ["velvetrope device v1", made.membershipId, made.deviceId, challenge].join("\n"));

/** A token that says: I, a member, met that one. `place`: {lat, lng} or nothing; `at`: the server's time in ms. */
export async function encounter(mine, receiverId, place, at) {
  const iat = Math.floor(at / 1000);
  const claims = { sub: mine.membershipId, aud: receiverId, jti: crypto.randomUUID(), iat, exp: iat + LIVES_S, ...place };
  const head = [{ alg: "ES256", typ: "JWT" }, claims].map((part) => base64url(bytes(JSON.stringify(part)))).join(".");
  return `${head}.${await sign(mine, head)}`;
}
