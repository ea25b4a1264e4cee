"""A receipt counts if who is configured vouches for it, and not otherwise: forged, altered,
expired, foreign ones are refused with a sentence that repeats nothing of them.
"""

from __future__ import annotations

import json
import random
from base64 import b64encode
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA224
from cryptography.hazmat.primitives.serialization import Encoding

from engine.infra.errors import Misconfigured
from engine.infra.settings import Settings, read
from engine.membership import receipts
from engine.membership.errors import InvalidReceipt
from engine.membership.receipts import LENGTH_MAX, Verifier
from engine.membership.storekit import AHEAD_SECONDS, LEAF_MARK
from tests.membership.apple import (
    BUNDLE,
    DAY,
    ISSUER,
    LEAF,
    NOW,
    ROOT,
    but,
    claims,
    packed,
    signed,
    x5c,
)

SECRET = "a secret of the receipts' tests, long enough"
OLDER = "an-older-secret-of-the-receipts-tests"
ONE = SECRET.replace(" ", "-")


async def _why(verifier: Verifier, text: str) -> str:
    """The sentence that a receipt is refused with, without its head."""
    with pytest.raises(InvalidReceipt) as refused:
        await verifier.verify(text)
    said = refused.value
    assert (said.status, said.code, said.details) == (422, "INVALID_RECEIPT", {})
    assert len(said.message) < 90, "nothing of the receipt is in it"
    return said.message.removeprefix("Invalid receipt: ")


# none


async def test_where_nobody_verifies_any_text_is_a_receipt() -> None:
    verifier = Verifier.of(Settings())

    found = await verifier.verify("receipt-1")

    assert verifier.is_trusting
    assert found.transaction_id is None
    known = "fea5396a7f4325c408b1b65b33a4d77ba5486ceba941804d8889a8546cfbab96"
    assert found.hash.hex() == known
    assert (await verifier.verify("ö" * LENGTH_MAX)).hash == sha256(
        b"\xc3\xb6" * LENGTH_MAX
    ).digest()


@pytest.mark.parametrize("verifier", ["none", "hmac", "jws"])
@pytest.mark.parametrize("text", ["", "x" * (LENGTH_MAX + 1), "\ud800"])
async def test_no_verifier_takes_nothing_too_much_or_no_text(
    verifier: str, text: str, of: Callable[..., Verifier]
) -> None:
    wanted = "it is not text" if text == "\ud800" else "want 1 to 49152 characters"
    assert await _why(of(verifier), text) == wanted


# hmac


def _shops(payload: object, secret: str = ONE) -> str:
    """A receipt of a shop, of an object or of its bytes."""
    part = packed(payload if isinstance(payload, bytes) else json.dumps(payload).encode())
    return f"{part}.{packed(receipts._signed(secret.encode(), part))}"


GOOD = {"transactionId": "t-1", "bundleId": BUNDLE, "environment": "Production"}
WHOLE = _shops(GOOD)
HALF, SIGNATURE = WHOLE.split(".")
LAST = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"


def _odd_end(text: str) -> str:
    """The same bytes, written with bits at the end that say nothing."""
    return text[:-1] + LAST[LAST.index(text[-1]) + 1]


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with two roots."""
    path = tmp_path_factory.mktemp("roots") / "roots.pem"
    path.write_bytes(b"".join(c.public_bytes(Encoding.PEM) for c in (OTHER_ROOT, CHAIN[2])))
    return path


@pytest.fixture
def of(roots: Path) -> Callable[..., Verifier]:
    """`of("hmac")` is such a verifier whose clock says `NOW`."""

    def make(verifier: Any, clock: receipts.Clock = lambda: NOW, **other: Any) -> Verifier:
        given = Settings(
            receipt_verifier=verifier,
            receipt_secret=f"{ONE} {OLDER}",
            receipt_roots=str(roots),
            receipt_bundle_id=BUNDLE,
        )
        return Verifier.of(given.__class__(**{**_fields(given), **other}), clock)

    return make


def _fields(given: Settings) -> dict[str, Any]:
    return {name: getattr(given, name) for name in given.__struct_fields__}


async def test_a_shops_receipt_holds_by_either_secret(of: Callable[..., Verifier]) -> None:
    verifier = of("hmac")

    for secret in (ONE, OLDER):
        found = await verifier.verify(_shops(GOOD, secret))
        assert found.transaction_id == "t-1"
        assert found.hash == sha256(_shops(GOOD, secret).encode()).digest()
    assert not verifier.is_trusting
    rotated = of("hmac", receipt_secret=ONE)
    assert await _why(rotated, _shops(GOOD, OLDER)) == "its signature is not ours"
    timed = GOOD | {"issuedAt": NOW + AHEAD_SECONDS, "expiresAt": NOW + 1}
    assert (await verifier.verify(_shops(timed))).transaction_id == "t-1"


async def test_a_shops_receipt_that_says_little_is_of_production(
    of: Callable[..., Verifier],
) -> None:
    little = _shops({"transactionId": "t-1"})
    sandbox = _shops({"transactionId": "t-1", "environment": "Sandbox"})

    anyones = of("hmac", receipt_bundle_id="")
    assert (await anyones.verify(little)).transaction_id == "t-1"
    assert await _why(anyones, sandbox) == "it is from another environment"
    assert await _why(of("hmac"), little) == "it is of another app"
    tested = of("hmac", receipt_bundle_id="", receipt_environment="Sandbox")
    assert await _why(tested, little) == "it is from another environment"
    anywhere = of("hmac", receipt_bundle_id="", receipt_environment="any")
    for receipt in (little, sandbox):
        assert (await anywhere.verify(receipt)).transaction_id == "t-1"


NOT_OURS, NO_BASE64 = "its signature is not ours", "it is not base64url"
NO_TRANSACTION, NO_OBJECT = "it names no transaction", "it is not a JSON object"
BAD_SHOPS = {
    "one part": (HALF, "it is not two parts with a dot between"),
    "no signature": (f"{HALF}.", NO_BASE64),
    "no payload": (f".{SIGNATURE}", NOT_OURS),
    "three parts": (f"{WHOLE}.{SIGNATURE}", NO_BASE64),
    "another secret": (_shops(GOOD, "x" * 32), NOT_OURS),
    "an altered payload": (f"{packed(b'{}')}.{SIGNATURE}", NOT_OURS),
    "a cut signature": (f"{HALF}.{SIGNATURE[:-2]}", NO_BASE64),
    "a short signature": (f"{HALF}.{packed(b'x')}", NOT_OURS),
    "a padded signature": (f"{WHOLE}=", NO_BASE64),
    "the same signature, written otherwise": (f"{HALF}.{_odd_end(SIGNATURE)}", NO_BASE64),
    "a space behind": (f"{WHOLE} ", NO_BASE64),
    "a line's end behind": (f"{WHOLE}\n", NO_BASE64),
    "standard base64": (f"{HALF}.{b64encode(b'>>>???' * 4).decode()}", NO_BASE64),
    "letters that are none": (f"{HALF}.ÄÖ", NO_BASE64),
    "a signed nothing": (_shops(b""), NO_BASE64),
    "signed bytes": (_shops(b"\xff\xfe"), NO_OBJECT),
    "a signed list": (_shops([GOOD]), NO_OBJECT),
    "signed NaN": (_shops(b'{"transactionId": "t", "expiresAt": NaN}'), NO_OBJECT),
    "a name twice": (_shops(b'{"transactionId": "a", "transactionId": "b"}'), NO_OBJECT),
    "too deep": (_shops(b'{"a":' + b"[" * 20_000), NO_OBJECT),
    "no transaction": (_shops({k: GOOD[k] for k in ("bundleId", "environment")}), NO_TRANSACTION),
    "a number for it": (_shops(GOOD | {"transactionId": 1}), NO_TRANSACTION),
    "an empty one": (_shops(GOOD | {"transactionId": ""}), NO_TRANSACTION),
    "a long one": (_shops(GOOD | {"transactionId": "x" * 129}), NO_TRANSACTION),
    "a NUL in it": (_shops(GOOD | {"transactionId": "x\0"}), NO_TRANSACTION),
    "half a letter in it": (_shops(GOOD | {"transactionId": "\ud800"}), NO_TRANSACTION),
    "another app": (_shops(GOOD | {"bundleId": "com.example.other"}), "it is of another app"),
    "another environment": (
        _shops(GOOD | {"environment": "Sandbox"}),
        "it is from another environment",
    ),
    "no environment": (_shops(GOOD | {"environment": None}), "it is from another environment"),
    "expired": (_shops(GOOD | {"expiresAt": NOW}), "it has expired"),
    "of the future": (
        _shops(GOOD | {"issuedAt": NOW + AHEAD_SECONDS + 1}),
        "it is from the future",
    ),
    "an end that is text": (_shops(GOOD | {"expiresAt": "soon"}), "its expiresAt is not a time"),
    "an end that is true": (_shops(GOOD | {"expiresAt": True}), "its expiresAt is not a time"),
    "an end without end": (
        _shops(b'{"transactionId": "t", "bundleId": "%s", "expiresAt": 1e999}' % BUNDLE.encode()),
        "its expiresAt is not a time",
    ),
    "a huge issuedAt": (_shops(GOOD | {"issuedAt": 10**400}), "its issuedAt is not a time"),
}


@pytest.mark.parametrize("name", BAD_SHOPS)
async def test_a_shops_receipt_that_is_none_is_refused(
    name: str, of: Callable[..., Verifier]
) -> None:
    text, wanted = BAD_SHOPS[name]

    assert await _why(of("hmac"), text) == wanted


# jws

CHAIN = [LEAF.make(), ISSUER.make(), ROOT.make()]
OTHER_ROOT = but(ROOT, name="other", issuer="other")
HEAD = {"alg": "ES256", "x5c": x5c(*CHAIN)}
APPLES = signed(HEAD, claims())
FIRST, MIDDLE, THIRD = APPLES.split(".")


def _by(*chain: x509.Certificate, curve: str = "secp256r1") -> str:
    """A receipt that brings this chain."""
    head = {"alg": "ES256", "x5c": x5c(*chain)}
    return signed(head, claims(), curve=curve) if curve == "secp256r1" else _unsigned(head)


def _unsigned(head: object) -> str:
    return f"{packed(json.dumps(head).encode())}.{MIDDLE}.{THIRD}"


def _says(**other: Any) -> str:
    return signed(HEAD, claims(**other))


async def test_what_apple_signed_is_of_its_original_transaction(
    of: Callable[..., Verifier],
) -> None:
    verifier = of("jws")

    found = await verifier.verify(APPLES)
    again = await verifier.verify(_says(transactionId="2000000000000003"))  # restored

    assert not verifier.is_trusting
    assert found.transaction_id == again.transaction_id == "2000000000000001"
    assert found.hash == sha256(APPLES.encode()).digest() != again.hash
    kept = {"expiresDate": (NOW + DAY) * 1_000, "type": "Auto-Renewable Subscription"}
    for good in (kept, {"expiresDate": 1}, {"signedDate": (NOW + AHEAD_SECONDS) * 1_000}):
        assert (await verifier.verify(_says(**good))).transaction_id == found.transaction_id
    header = HEAD | {"typ": "JWT", "kid": "x", "jku": "https://example.org"}
    assert (await verifier.verify(signed(header, claims()))).transaction_id == found.transaction_id
    sandbox = of("jws", receipt_environment="Sandbox")
    assert (await sandbox.verify(_says(environment="Sandbox"))).hash
    assert await _why(sandbox, APPLES) == "it is from another environment"


async def test_a_root_of_ours_may_have_issued_the_chains_root(of: Callable[..., Verifier]) -> None:
    crossed = but(ROOT, issuer="other")
    short = but(ROOT, issuer="other", path_length=0)

    found = await of("jws").verify(_by(CHAIN[0], CHAIN[1], crossed))

    assert found.transaction_id == "2000000000000001"
    assert await _why(of("jws"), _by(CHAIN[0], CHAIN[1], short)) == TOO_LONG


NOT_TRUSTED = "it does not stand on a root that we trust"
NOT_ISSUED = "its certificates do not issue each other"
NO_ISSUER = "its certificates may not issue any"
NO_SIGNER = "its certificate may not sign receipts"
NOT_FOR = "its certificates are not for receipts"
NOT_READ = "its certificates cannot be read"
TOO_LONG = "its chain is longer than its certificates allow"
NOT_NOW = "a certificate of it is not valid now"
ASKS = "its certificates ask for what we do not understand"
NO_ES256 = "it is not signed by ES256"
NO_CHAIN = "it does not bring its 3 certificates"
THEIRS = "its signature is not that of its certificate"
TWO_ALGS = b'{"alg": "none", "alg": "ES256"}'
leaf, issuer, root = CHAIN
BAD_CHAINS = {
    "a root of nobody": (_by(leaf, issuer, but(ROOT, name="r", issuer="r")), NOT_TRUSTED),
    "a root called like ours": (_by(leaf, issuer, but(ROOT, name="root", signer="r")), NOT_TRUSTED),
    "all made up": (
        _by(leaf, issuer, but(ROOT, signer="leaf", name="root", until=NOW + DAY)),
        NOT_TRUSTED,
    ),
    "a root in the middle": (_by(leaf, root, root), NOT_ISSUED),
    "the wrong way round": (_by(root, issuer, leaf), NOT_TRUSTED),
    "a leaf of another": (_by(but(LEAF, issuer="root"), issuer, root), NOT_ISSUED),
    "a leaf signed by another": (_by(but(LEAF, signer="leaf"), issuer, root), NOT_ISSUED),
    "an issuer signed by itself": (_by(leaf, but(ISSUER, signer="issuer"), root), NOT_ISSUED),
    "an issuer that is none": (
        _by(leaf, but(ISSUER, is_ca=False, path_length=None), root),
        NO_ISSUER,
    ),
    "an issuer that may not": (_by(leaf, but(ISSUER, signs_certificates=False), root), NO_ISSUER),
    "an issuer without constraints": (_by(leaf, but(ISSUER, is_ca=None), root), NOT_FOR),
    "an issuer without a usage": (_by(leaf, but(ISSUER, signs_certificates=None), root), NOT_FOR),
    "an issuer without a mark": (_by(leaf, but(ISSUER, mark=None), root), NOT_FOR),
    "an issuer with the leaf's mark": (_by(leaf, but(ISSUER, mark=LEAF_MARK), root), NOT_FOR),
    "an issuer with a weak key": (
        _by(but(LEAF, issuer_curve="secp224r1"), but(ISSUER, curve="secp224r1"), root),
        "its certificates have weak keys",
    ),
    "an issuer with a small key": (
        _by(but(LEAF, issuer_curve="rsa1024"), but(ISSUER, curve="rsa1024"), root),
        "its certificates have weak keys",
    ),
    "a leaf that is an issuer": (_by(but(LEAF, is_ca=True), issuer, root), NO_SIGNER),
    "a leaf that may not sign": (_by(but(LEAF, signs=False), issuer, root), NO_SIGNER),
    "a leaf without a usage": (_by(but(LEAF, signs_certificates=None), issuer, root), NOT_FOR),
    "a leaf without a mark": (_by(but(LEAF, mark=None), issuer, root), NOT_FOR),
    "a leaf of P-384": (
        _by(but(LEAF, curve="secp384r1"), issuer, root, curve="secp384r1"),
        "its certificate has no P-256 key",
    ),
    "a leaf signed with SHA-224": (
        _by(but(LEAF, algorithm=SHA224()), issuer, root),
        "its certificates are signed by a broken algorithm",
    ),
    "a leaf that asks for more": (_by(but(LEAF, critical=True), issuer, root), ASKS),
    "an issuer that asks for more": (_by(leaf, but(ISSUER, critical=True), root), ASKS),
    "a leaf that ended": (_by(but(LEAF, until=NOW - 1), issuer, root), NOT_NOW),
    "a leaf that begins": (_by(but(LEAF, since=NOW + 1), issuer, root), NOT_NOW),
    "an issuer that ended": (_by(leaf, but(ISSUER, until=NOW - 1), root), NOT_NOW),
    "no chain": (signed({"alg": "ES256"}, claims()), NO_CHAIN),
    "a chain of two": (_by(leaf, issuer), NO_CHAIN),
    "a chain of four": (_by(leaf, issuer, root, root), NO_CHAIN),
    "a chain that is text": (signed(HEAD | {"x5c": "abc"}, claims()), NO_CHAIN),
    "a chain of numbers": (
        signed(HEAD | {"x5c": [1, 2, 3]}, claims()),
        "its certificates are not base64",
    ),
    "a chain in base64url": (
        signed(HEAD | {"x5c": ["-_-_", "-_-_", "-_-_"]}, claims()),
        "its certificates are not base64",
    ),
    "a chain of junk": (signed(HEAD | {"x5c": ["AAAA"] * 3}, claims()), NOT_READ),
    "junk behind a certificate": (
        signed(
            HEAD
            | {
                "x5c": [
                    b64encode(leaf.public_bytes(Encoding.DER) + b"x").decode(),
                    *x5c(*CHAIN[1:]),
                ]
            },
            claims(),
        ),
        NOT_READ,
    ),
}
BAD_APPLES = BAD_CHAINS | {
    "one part": ("x", "it is not three parts with dots between"),
    "four parts": (f"{APPLES}.x", "it is not three parts with dots between"),
    "no signature": (f"{FIRST}.{MIDDLE}.", NO_BASE64),
    "a header that is no JSON": (f"{packed(b'x')}.{MIDDLE}.{THIRD}", NO_OBJECT),
    "a header with a name twice": (
        f"{packed(TWO_ALGS)}.{MIDDLE}.{THIRD}",
        NO_OBJECT,
    ),
    "alg none": (_unsigned(HEAD | {"alg": "none"}), NO_ES256),
    "alg HS256": (_unsigned(HEAD | {"alg": "HS256"}), NO_ES256),
    "alg ES384": (_unsigned(HEAD | {"alg": "ES384"}), NO_ES256),
    "alg in small letters": (_unsigned(HEAD | {"alg": "es256"}), NO_ES256),
    "no alg": (_unsigned({"x5c": HEAD["x5c"]}), NO_ES256),
    "crit": (signed(HEAD | {"crit": ["b64"]}, claims()), "it asks for what we do not understand"),
    "b64": (signed(HEAD | {"b64": False}, claims()), "it asks for what we do not understand"),
    "another's signature": (signed(HEAD, claims(), key="thief"), THEIRS),
    "its own key in the header": (
        signed(HEAD | {"jwk": {"kty": "EC", "crv": "P-256"}}, claims(), key="thief"),
        THEIRS,
    ),
    "an altered payload": (
        f"{FIRST}.{packed(json.dumps(claims(originalTransactionId='x')).encode())}.{THIRD}",
        THEIRS,
    ),
    "a signature of zeros": (f"{FIRST}.{MIDDLE}.{packed(bytes(64))}", THEIRS),
    "a signature in DER": (
        f"{FIRST}.{MIDDLE}.{packed(bytes(70))}",
        "its signature is not one of ES256",
    ),
    "the same, written otherwise": (f"{FIRST}.{MIDDLE}.{_odd_end(THIRD)}", NO_BASE64),
    "a payload that is a list": (signed(HEAD, [claims()]), NO_OBJECT),
    "a payload with a name twice": (signed(HEAD, b'{"bundleId": 1, "bundleId": 2}'), NO_OBJECT),
    "no signedDate": (_says(signedDate=None), "it does not say when it was signed"),
    "a signedDate of the future": (
        _says(signedDate=(NOW + AHEAD_SECONDS + 1) * 1_000),
        "it is from the future",
    ),
    "a signedDate before its certificate": (
        _says(signedDate=(NOW - 101 * DAY) * 1_000),
        "it was signed while its certificate was not valid",
    ),
    "a signedDate in seconds": (
        _says(signedDate=NOW),
        "it was signed while its certificate was not valid",
    ),
    "a signedDate of text": (_says(signedDate="2026"), "its signedDate is not a time"),
    "another app": (_says(bundleId="com.example.other"), "it is of another app"),
    "no app": (_says(bundleId=None), "it is of another app"),
    "the sandbox": (_says(environment="Sandbox"), "it is from another environment"),
    "no environment": (_says(environment=None), "it is from another environment"),
    "no original transaction": (_says(originalTransactionId=None), NO_TRANSACTION),
    "a number for it": (_says(originalTransactionId=2_000), NO_TRANSACTION),
    "revoked": (_says(revocationDate=(NOW - DAY) * 1_000), "Apple has revoked it"),
    "revoked, oddly": (_says(revocationDate=0), "Apple has revoked it"),
    "a subscription that ended": (
        _says(type="Auto-Renewable Subscription", expiresDate=NOW * 1_000),
        "it has expired",
    ),
    "something that ended": (_says(type=None, expiresDate=(NOW - 1) * 1_000), "it has expired"),
}


@pytest.mark.parametrize("name", BAD_APPLES)
async def test_what_apple_did_not_sign_so_is_refused(
    name: str, of: Callable[..., Verifier]
) -> None:
    text, wanted = BAD_APPLES[name]

    assert await _why(of("jws"), text) == wanted


async def test_a_chain_is_verified_once_and_not_beyond_its_first_certificates_end(
    of: Callable[..., Verifier], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = NOW
    verifier = of("jws", lambda: now)
    assert isinstance(verifier, receipts.Apples)
    storekit, looks = verifier._storekit, 0
    verified = storekit._verified

    def count(encoded: list[bytes]) -> Any:
        nonlocal looks
        looks += 1
        return verified(encoded)

    monkeypatch.setattr(storekit, "_verified", count)
    brief = _by(leaf, but(ISSUER, until=NOW + 10), root)
    for text in (brief, brief, APPLES, _says(transactionId="x")):
        await verifier.verify(text)
    assert looks == 2

    now = NOW + 10
    await verifier.verify(brief)
    now += 1

    assert await _why(verifier, brief) == NOT_NOW
    assert await _why(verifier, brief) == NOT_NOW
    assert (await verifier.verify(APPLES)).hash
    assert len(storekit._known) == 1


async def test_a_forged_chain_takes_no_place_among_those_remembered(
    of: Callable[..., Verifier],
) -> None:
    verifier = of("jws")
    assert isinstance(verifier, receipts.Apples)

    for text, _ in BAD_CHAINS.values():
        with pytest.raises(InvalidReceipt):
            await verifier.verify(text)

    assert verifier._storekit._known == {}


@pytest.mark.filterwarnings("ignore::cryptography.utils.CryptographyDeprecationWarning")
async def test_whatever_is_changed_of_a_receipt_is_a_refusal_and_nothing_else(
    of: Callable[..., Verifier],
) -> None:
    """Certificates are read by a parser that has many ways to complain."""
    chance, verifier = random.Random(7), of("jws")
    ders = [each.public_bytes(Encoding.DER) for each in CHAIN]
    for _ in range(400):
        changed = [bytearray(der) for der in ders]
        for _ in range(chance.choice((1, 1, 2, 8))):
            der = chance.choice(changed)
            der[chance.randrange(len(der))] = chance.choice((0, 1, 0x30, 0x7F, 0x80, 0xFF))
        head = {"alg": "ES256", "x5c": [b64encode(der).decode() for der in changed]}
        if changed != ders:
            with pytest.raises(InvalidReceipt):
                await verifier.verify(_unsigned(head))
        letters = list(APPLES)
        letters[chance.randrange(len(letters))] = chance.choice("Aa0.-_ \n=é")
        if "".join(letters) != APPLES:
            with pytest.raises(InvalidReceipt):
                await verifier.verify("".join(letters))


# Settings


@pytest.mark.parametrize(
    ("other", "mend"),
    [
        ({"receipt_secret": ""}, "RECEIPT_SECRET is missing or shorter than 32 bytes: export"),
        ({"receipt_secret": f"{ONE} short"}, "RECEIPT_SECRET is missing or shorter"),
        ({"verifier": "jws", "receipt_bundle_id": ""}, "set RECEIPT_BUNDLE_ID"),
        ({"verifier": "jws", "receipt_roots": ""}, "RECEIPT_ROOTS: want a PEM file of roots"),
        ({"verifier": "jws", "receipt_roots": "/nowhere"}, "RECEIPT_ROOTS: want a PEM file"),
        ({"verifier": "jws", "receipt_roots": __file__}, "RECEIPT_ROOTS: want a PEM file"),
    ],
)
def test_what_is_missing_is_said_with_its_mend(
    other: dict[str, Any], mend: str, of: Callable[..., Verifier]
) -> None:
    with pytest.raises(Misconfigured, match=mend):
        of(**{"verifier": "hmac"} | other)


def test_a_certificate_that_may_issue_nothing_is_no_root(
    of: Callable[..., Verifier], tmp_path: Path
) -> None:
    path = tmp_path / "leaf.pem"
    path.write_bytes(leaf.public_bytes(Encoding.PEM))

    with pytest.raises(Misconfigured, match="RECEIPT_ROOTS"):
        of("jws", receipt_roots=str(path))


def test_only_three_verifiers_are_known() -> None:
    with pytest.raises(Misconfigured, match="want hmac or jws or none"):
        read({"RECEIPT_VERIFIER": "apple"})
