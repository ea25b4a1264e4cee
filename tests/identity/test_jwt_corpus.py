"""Tokens as attackers write them, through the real door of one running worker: 401 for each."""

from __future__ import annotations

import asyncio
import base64
import hmac
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from engine.identity import tokens
from engine.identity.models import Device
from engine.identity.sessions import Sessions, end_all
from engine.infra.ids import new_id
from engine.infra.settings import Settings
from engine.ops.devstack import Server
from engine.runtime import ground
from tests.support.clones import cloned
from tests.support.http import Crowd
from tests.support.live import Live
from tests.support.people import add_user

SECRET, OLD, HMAC_SECRET = "s" * 40, "o" * 40, "h" * 40
KID, PHONE = tokens.kid_of(SECRET), Device("phone", "ios")
NOW = int(time.time())
GOOD: dict[str, Any] = {
    "sub": "ann",
    "iss": "velvetrope",
    "aud": "velvetrope",
    "iat": NOW - 60,
    "exp": NOW + 172_800,
    "role": "admin",
}
RSA_KEY = rsa.generate_private_key(65_537, 2_048)
EC_KEY, ED_KEY = ec.generate_private_key(ec.SECP256R1()), ed25519.Ed25519PrivateKey.generate()


def _pem(key: Any) -> bytes:
    found: bytes = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return found


def _word(part: Any) -> str:
    raw = part if isinstance(part, bytes) else json.dumps(part).encode()
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def _by_hand(header: Any, claims: Any, secret: bytes = SECRET.encode()) -> str:
    """HS256, whatever header and claims are: libraries refuse to write some of them."""
    signed = f"{_word(header)}.{_word(claims)}"
    return f"{signed}.{_word(hmac.digest(secret, signed.encode(), 'sha256'))}"


def _token(secret: bytes = SECRET.encode(), /, *, claims: Any = None, **header: Any) -> str:
    head = {"alg": "HS256", "typ": "at+jwt", "kid": KID} | header
    return _by_hand(head, GOOD | (claims or {}), secret)


def _without(name: str) -> str:
    claims = {claim: value for claim, value in GOOD.items() if claim != name}
    return _by_hand({"alg": "HS256", "typ": "at+jwt"}, claims)


def _unsigned(alg: str, signature: str = "") -> str:
    return f"{_word({'alg': alg, 'typ': 'at+jwt', 'kid': KID})}.{_word(GOOD)}.{signature}"


def _swapped(key: Any, alg: str, **header: Any) -> str:
    return jwt.encode(GOOD, key, alg, {"typ": "at+jwt", **header})


ITS_OWN = {"kty": "oct", "k": _word(b"b" * 40)}
WELL = _token()
CORPUS = {
    # no algorithm, or another
    "none": _unsigned("none"),
    "None": _unsigned("None"),
    "nOnE": _unsigned("nOnE"),
    "none, with a signature": _unsigned("none", WELL.rpartition(".")[2]),
    "no algorithm at all": _by_hand({"typ": "at+jwt", "kid": KID}, GOOD),
    "an algorithm that is a list": _by_hand({"typ": "at+jwt", "alg": ["HS256"]}, GOOD),
    "an algorithm that is null": _by_hand({"typ": "at+jwt", "alg": None}, GOOD),
    "hs256": _token(alg="hs256"),
    "HS384": _swapped(SECRET * 2, "HS384"),
    "HS512": _swapped(SECRET * 2, "HS512"),
    "RS256": _swapped(RSA_KEY, "RS256"),
    "RS256 under our kid": _swapped(RSA_KEY, "RS256", kid=KID),
    "PS256": _swapped(RSA_KEY, "PS256"),
    "ES256": _swapped(EC_KEY, "ES256", kid=KID),
    "EdDSA": _swapped(ED_KEY, "EdDSA", kid=KID),
    "RS256 said, HMAC done": _token(alg="RS256"),
    "ES256 said, HMAC done": _token(alg="ES256"),
    "ES256 with a signature of zeros": _unsigned("ES256", _word(bytes(64))),
    # keys of their own
    "another secret": _token(b"b" * 40),
    "no secret": _token(b""),
    "a public RSA key as secret": _token(_pem(RSA_KEY)),
    "a public EC key as secret": _token(_pem(EC_KEY)),
    "our kid as secret": _token(KID.encode()),
    "the secret of refresh tokens": _token(HMAC_SECRET.encode()),
    "jwk": _token(b"b" * 40, jwk=ITS_OWN),
    "jwk without a kid": _by_hand(
        {"alg": "HS256", "typ": "at+jwt", "jwk": ITS_OWN}, GOOD, b"b" * 40
    ),
    "jku": _token(b"b" * 40, jku="https://evil.example/keys.json"),
    "x5u": _token(b"b" * 40, x5u="https://evil.example/cert.pem"),
    "x5c": _token(b"b" * 40, x5c=["MIIB"]),
    # kid
    "kid is a path": _token(b"", kid="../../../../../../dev/null"),
    "kid is our own settings": _token(b"", kid="/proc/self/environ"),
    "kid is SQL": _token(b"b" * 40, kid="x' UNION SELECT 'bbbbbbbb' -- "),
    "kid is a command": _token(kid="| sleep 5"),
    "kid is unknown": _token(kid="0" * 16),
    "kid is the other secret's": _token(kid=tokens.kid_of(OLD)),
    "kid is longer": _token(kid=KID + "0"),
    "kid is in capitals": _token(kid=KID.upper() + "X"),
    "kid is empty": _token(kid=""),
    "kid is a number": _token(kid=0),
    "kid is a list": _token(kid=[KID]),
    "kid is an object": _token(kid={"$ne": None}),
    "kid is true": _token(kid=True),
    # critical and type
    "crit": _token(crit=["exp"]),
    "crit, unknown": _token(crit=["b64"], b64=False),
    "crit, empty": _token(crit=[]),
    "b64": _token(b64=False),
    "type JWT": _token(typ="JWT"),
    "type of a refresh token": _token(typ="rt+jwt"),
    "type in capitals": _token(typ="AT+JWT"),
    "no type": _by_hand({"alg": "HS256", "kid": KID}, GOOD),
    "type is null": _token(typ=None),
    # time
    "expired": _token(claims={"exp": NOW - 1}),
    "expired long ago": _token(claims={"exp": 0}),
    "expired, negative": _token(claims={"exp": -(10**18)}),
    "exp is text": _token(claims={"exp": "tomorrow"}),
    "exp is null": _token(claims={"exp": None}),
    "exp is a list": _token(claims={"exp": [NOW + 86_400]}),
    "exp is endless": _by_hand(
        {"alg": "HS256", "typ": "at+jwt"},
        json.dumps(GOOD).replace(str(GOOD["exp"]), "1e999").encode(),
    ),
    "exp is no number": _by_hand(
        {"alg": "HS256", "typ": "at+jwt"},
        json.dumps(GOOD).replace(str(GOOD["exp"]), "NaN").encode(),
    ),
    "no exp": _without("exp"),
    "not valid yet": _token(claims={"nbf": NOW + 86_400}),
    "nbf is text": _token(claims={"nbf": "x"}),
    "issued in the future": _token(claims={"iat": NOW + 86_400}),
    "iat is text": _token(claims={"iat": "now"}),
    "no iat": _without("iat"),
    # who for whom
    "another audience": _token(claims={"aud": "elsewhere"}),
    "other audiences": _token(claims={"aud": ["elsewhere", "there"]}),
    "an audience that is an object": _token(claims={"aud": {"velvetrope": 1}}),
    "no audience": _without("aud"),
    "another issuer": _token(claims={"iss": "elsewhere"}),
    "an issuer that begins as ours": _token(claims={"iss": "velvetrope.evil.example"}),
    "a list of issuers": _token(claims={"iss": ["velvetrope"]}),
    "no issuer": _without("iss"),
    "no subject": _without("sub"),
    "an empty subject": _token(claims={"sub": ""}),
    "a subject that is a number": _token(claims={"sub": 7}),
    "a subject that is an object": _token(claims={"sub": {"$ne": ""}}),
    "a subject of 129 characters": _token(claims={"sub": "a" * 129}),
    "a null byte in the subject": _token(claims={"sub": "ann\0"}),
    "half a character in the subject": _token(claims={"sub": "ann\ud800"}),
    # sessions
    "a session that is none": _token(claims={"sid": "1"}),
    "a session that is nothing": _token(claims={"sid": ""}),
    "a session that is null": _token(claims={"sid": None}),
    "a session that is a number": _token(claims={"sid": 1}),
    "a list of sessions": _token(claims={"sid": [new_id()]}),
    "a session that is SQL": _token(claims={"sid": "' OR true --"}),
    "a session that never was": _token(claims={"sid": new_id()}),
    # broken
    "nothing": "",
    "dots": "..",
    "one part": WELL.partition(".")[0],
    "two parts": WELL.rpartition(".")[0],
    "an empty signature": WELL.rpartition(".")[0] + ".",
    "half a signature": WELL[:-20],
    "one character less": WELL[:-1],
    "one character more": WELL + "A",
    "padded": WELL + "=",
    "four parts": WELL + ".a",
    "five parts, as if encrypted": ".".join(["a"] * 5),
    "another header": f"{_word({'alg': 'HS256', 'typ': 'at+jwt'})}.{WELL.split('.', 1)[1]}",
    "other claims": ".".join(
        [WELL.split(".")[0], _word(GOOD | {"sub": "bob"}), WELL.split(".")[2]]
    ),
    "plain base64": WELL.replace("-", "+").replace("_", "/") + "/+",
    "claims that are a list": _by_hand({"alg": "HS256", "typ": "at+jwt"}, [GOOD]),
    "claims that are no JSON": _by_hand({"alg": "HS256", "typ": "at+jwt"}, b"{"),
    "claims in Latin-1": _by_hand({"alg": "HS256", "typ": "at+jwt"}, b'{"sub": "\xe9"}'),
    "a header that is a list": _by_hand(["HS256"], GOOD),
    "a header that is no JSON": _by_hand(b"\xff\xfe", GOOD),
    "ten thousand brackets": _by_hand({"alg": "HS256", "typ": "at+jwt"}, b"[" * 7_000),
    "huge": _token(claims={"sub": "a" * 9_000}),
    "huge nonsense": "a" * 12_000,
    "garbage": "\u00e9\u00ff\u0080.\u00a0.\u00fe",
    "a number": "1" * 400,
}


@pytest.fixture(scope="module")
async def door(
    template: str, valkey_server: Server, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Live]:
    """One worker for all of them."""
    async with cloned(template) as database:
        settings = Settings(
            database_url=database,
            redis_url=valkey_server.url,
            jwt_secret=SECRET,
            jwt_secret_previous=OLD,
            hmac_secret=HMAC_SECRET,
            data_dir=tmp_path_factory.mktemp("data"),
            log_level="error",
            rate_failed_auth_per_address="off",
        )
        async with Live.behind(settings) as live:
            live.crowd = Crowd(f"http://127.0.0.1:{live.port}/api/v1")  # type: ignore[attr-defined]
            yield live
            await live.crowd.close()  # type: ignore[attr-defined]


async def _status(door: Live, token: str) -> tuple[int, str]:
    """What the worker says to it on a real connection, on a public and on an admin's route."""
    crowd: Crowd = door.crowd  # type: ignore[attr-defined]
    reader, writer = await asyncio.open_connection("127.0.0.1", door.port)
    line = f"GET /api/v1/drops HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {token}\r\n\r\n"
    writer.write(line.encode("latin-1"))
    status = int((await reader.readline()).split()[1])
    writer.close()
    headers = {"authorization": f"Bearer {token}"}
    if token.isascii():
        reply = await crowd.send("POST", "/drops/1/pause", None, headers)
        return status, f"{reply.status} {reply.error}"
    return status, "401 UNAUTHORIZED"


@pytest.mark.parametrize("name", CORPUS)
async def test_a_forged_token_opens_nothing(door: Live, name: str) -> None:
    assert await _status(door, CORPUS[name]) == (401, "401 UNAUTHORIZED")


async def test_the_tokens_that_they_are_made_of_are_good(door: Live) -> None:
    """Or all those would be refused for another reason."""
    for good in (
        WELL,
        _token(claims={"aud": ["velvetrope"]}),
        _by_hand({"alg": "HS256", "typ": "at+jwt"}, GOOD),
        _token(OLD.encode(), kid=tokens.kid_of(OLD)),
        _token(jku="https://evil.example", jwk=ITS_OWN),  # signed by us: never looked at
    ):
        assert await _status(door, good) == (200, "404 NOT_FOUND")


async def test_a_session_is_good_for_its_own_account_until_it_ends(door: Live) -> None:
    async with ground(door.settings) as base:
        sessions = Sessions(door.settings)
        ann, bob = [await add_user(base.settings.database_url) for _ in range(2)]
        entered = await sessions.enter(base.postgres, ann, PHONE)
        sid = entered.session.id

        assert (await _status(door, entered.token))[0] == 200
        assert (await _status(door, _token(claims={"sub": bob, "sid": sid})))[0] == 401
        promoted = await _status(door, _token(claims={"sub": ann, "sid": sid}))
        assert promoted == (200, "403 FORBIDDEN")  # a session's role is the database's
        cyd = await sessions.enter(base.postgres, await add_user(base.settings.database_url), PHONE)
        async with base.postgres.transaction() as session:
            await end_all(session, cyd.session.user_id, "user_logout")
        assert (await _status(door, cyd.token))[0] == 401
