"""The members' pages: what a mailed link opens, cards that always look the same, tokens that a
browser signs."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import jwt
import pytest

from engine.membership.receipts import LENGTH_MAX
from engine.pages.routes import ASSETS, POLICY
from tests.support.shop import Shop

FOLDER = Path(__file__).parents[2] / "engine" / "pages" / "assets"
TOKEN = "vrf_" + "5" * 43
SENDER = "01a20281-61b8-721e-b1b2-4e9ca59238e9"
RECEIVER = "01a20281-6216-742d-ab1f-20a4692ed9d5"
# A document that remembers what was written into it.
TRIAL = """
import { strict as assert } from "node:assert";
class Element {
  constructor(tag) { Object.assign(this, { tag, attributes: {}, children: [], textContent: "" }); }
  setAttribute(name, value) { this.attributes[name] = String(value); }
  appendChild(child) { this.children.push(child); return child; }
}
globalThis.document = { createElementNS: (space, tag) => new Element(tag) };
const { engraved, titled } = await import("./engraved.js");
const keyring = await import("./keyring.js");

const text = (picture) => JSON.stringify(picture).replaceAll(/cloth-\\d+/g, "");
const card = { tier: "genesis", year: "2025", number: 7, of: 999, serial: "<b>x</b>" };
assert.equal(text(engraved(card)), text(engraved({ ...card })));
assert.notEqual(text(engraved(card)), text(engraved({ ...card, number: 8 })));
assert.equal(engraved(card).attributes["aria-label"], "Genesis 2025, number 7 of 999");
assert.match(engraved({ ...card, note: "Revoked" }).attributes["aria-label"], /revoked$/i);
assert.doesNotMatch(text(engraved({ ...card, number: 10_000_000, of: 0 })), /NaN|undefined|null/);
for (const tier of ["genesis", "A", "a_b-c", "x".repeat(32)]) {
  const label = engraved({ ...card, tier }).attributes["aria-label"];
  assert.ok(label.startsWith(titled(tier)), label);
}
const made = await crypto.subtle.generateKey(
  { name: "ECDSA", namedCurve: "P-256" }, false, ["sign", "verify"]);
await assert.rejects(crypto.subtle.exportKey("pkcs8", made.privateKey));
const spki = Buffer.from(await crypto.subtle.exportKey("spki", made.publicKey)).toString("base64");
const mine = { membershipId: process.argv[2], key: made.privateKey };
const token = await keyring.encounter(
  mine, process.argv[3], { lat: 59.33, lng: 18.07 }, 1_800_000_000_999);
console.log(JSON.stringify({ spki, token }));
"""

KEYS = """
import { strict as assert } from "node:assert";
globalThis.navigator ??= {};
// A database that keeps one table, by the path that it is given.
const rows = new Map();
let path = "";
const store = {
  add: (row) => { assert.ok(!rows.has(row[path])); rows.set(row[path], row); return {}; },
  getAll: () => ({ result: [...rows.values()] }),
  delete: (key) => { rows.delete(key); return {}; },
};
const base = {
  createObjectStore: (name, { keyPath }) => { path = keyPath; },
  close() {},
  transaction() {
    const turn = { objectStore: () => store };
    setImmediate(() => turn.oncomplete());
    return turn;
  },
};
globalThis.indexedDB = {
  open() {
    const asking = { result: base };
    setImmediate(() => { path || asking.onupgradeneeded(); asking.onsuccess(); });
    return asking;
  },
};
const keyring = await import("./keyring.js");
const first = await keyring.newKey("a"), other = await keyring.newKey("b");
const second = await keyring.newKey("a");
assert.deepEqual(await keyring.keysOf("a"), [first, second]);
await keyring.forget(second);
assert.deepEqual(await keyring.keysOf("a"), [first], "what was refused took no other with it");
assert.deepEqual(await keyring.keysOf("b"), [other]);
"""


async def test_the_pages_and_all_they_need_come_from_here(shop: Shop) -> None:
    for page in ("/membership", "/reforge/confirm"):
        reply = await shop.visit("GET", page)
        assert reply.status == 200
        assert reply.headers["content-type"] == "text/html; charset=utf-8"
        assert reply.headers["content-security-policy"] == POLICY.decode()
        text = reply.body.decode()
        wanted = set(re.findall(r'"(?:/assets|\.)/([\w.-]+\.(?:js|css|svg))"', text))
        unread = set(wanted)
        while unread:
            found = set(re.findall(r'"\./([\w-]+\.js)"', (FOLDER / unread.pop()).read_text()))
            unread |= found - wanted
            wanted |= found
        assert wanted <= set(ASSETS)
        assert not re.search(r"https?://", text)


async def test_a_mailed_link_is_kept_by_nobody_and_does_nothing_by_itself(shop: Shop) -> None:
    for method in ("GET", "HEAD"):  # as a scanner of mails does, first of all
        reply = await shop.visit(method, f"/reforge/confirm?token={TOKEN}")

        assert reply.status == 200
        assert reply.headers["cache-control"] == "no-store"
        assert TOKEN.encode() not in reply.body
    page = (FOLDER / "reforge.html").read_text()
    script = (FOLDER / "reforge.js").read_text()
    assert '<meta name="referrer" content="no-referrer">' in page
    assert "submits(form" in script.partition("confirmReforge")[0]


async def test_a_link_with_a_token_is_nothing_to_a_log(
    shop: Shop, capsys: pytest.CaptureFixture[str]
) -> None:
    for method, path in (("GET", "/reforge/confirm"), ("PUT", "/reforge/confirm"), ("GET", "/no")):
        reply = await shop.visit(method, f"{path}?token={TOKEN}")
        assert TOKEN.encode() not in reply.body

    out, err = capsys.readouterr()
    assert TOKEN not in out + err


def said_by_node(folder: Path, script: str, *words: str) -> str:
    """What a script says that imports the pages' own."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed: cards, keys and tokens were not tried")
    for name in ("engraved.js", "keyring.js"):
        shutil.copy(FOLDER / name, folder)
    (folder / "package.json").write_text('{"type": "module"}')
    (folder / "trial.js").write_text(script)
    done = subprocess.run(
        [node, "trial.js", *words],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_key_that_was_refused_takes_no_other_with_it(tmp_path: Path) -> None:
    """The one that signs, and one that waits for its mailed link, stay what they are."""
    said_by_node(tmp_path, KEYS)


def test_cards_are_always_the_same_and_what_a_browser_signs_is_es256(tmp_path: Path) -> None:
    made = json.loads(said_by_node(tmp_path, TRIAL, SENDER, RECEIVER))
    pem = f"-----BEGIN PUBLIC KEY-----\n{made['spki']}\n-----END PUBLIC KEY-----"
    claims = jwt.decode(
        made["token"],
        pem,
        algorithms=["ES256"],
        audience=RECEIVER,
        options={"verify_exp": False, "verify_iat": False},
    )
    place = (claims["lat"], claims["lng"])
    assert (claims["sub"], claims["iat"], place) == (SENDER, 1_800_000_000, (59.33, 18.07))
    assert claims["exp"] == claims["iat"] + 300
    assert len(claims["jti"]) == 36


def test_a_receipt_may_be_as_long_as_the_api_takes_it() -> None:
    field = f'name="receiptData" rows="4" maxlength="{LENGTH_MAX}"'
    assert field in (FOLDER / "membership.html").read_text()


def test_no_tier_of_members_is_offered_by_the_shop() -> None:
    assert 'drop.pick !== "minted"' in (FOLDER / "drops.js").read_text()
