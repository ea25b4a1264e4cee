"""A token is good for one buyer, until it expires, if this service's secret signed it."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any

import jwt
import pytest

from engine.identity import tokens
from engine.identity.errors import TokenExpired
from engine.identity.models import Caller as Known
from engine.identity.tokens import Tokens
from engine.infra.errors import Unauthorized
from tests.identity.conftest import JWT_SECRET, Caller
from tests.support.wait import wait_until

FAR = 4_000_000_000
GOOD: dict[str, Any] = {
    "sub": "ann",
    "iss": "velvetrope",
    "aud": "velvetrope",
    "iat": 1_700_000_000,
    "exp": FAR,
}
RSA_LIKE = "-----BEGIN PUBLIC KEY-----\nMIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8A\n-----END PUBLIC KEY-----"


def _signed(
    claims: dict[str, Any], secret: str = JWT_SECRET, algorithm: str = "HS256", **headers: Any
) -> str:
    """Signed whatever the claims are: `jwt.encode` itself refuses some."""
    whole = json.dumps(claims).encode()
    return jwt.PyJWS().encode(whole, secret, algorithm, {"typ": "at+jwt"} | headers)


def _without(name: str) -> dict[str, Any]:
    return {claim: value for claim, value in GOOD.items() if claim != name}


def _forged(**headers: Any) -> str:
    parts = [{"typ": "at+jwt"} | headers, GOOD]
    return ".".join(_word(part) for part in parts) + "."


def _word(part: dict[str, Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=")


def _promoted() -> str:
    """Ann's own good token with the role of an admin written over it."""
    header, _, signature = tokens.create(JWT_SECRET, "ann", 3_600).split(".")
    return f"{header}.{_word(GOOD | {'role': 'admin'})}.{signature}"


BAD = {
    "no algorithm": _forged(alg="none"),
    "no algorithm, in disguise": _forged(alg="nOnE"),
    "no signature": _forged(alg="HS256"),
    "another HMAC": _signed(GOOD, JWT_SECRET + JWT_SECRET, "HS512"),
    "a longer HMAC with the right secret": _signed(GOOD, JWT_SECRET * 2, "HS384"),
    "another secret": _signed(GOOD, "b" * 40),
    "a secret of the caller's own in the header": _signed(
        GOOD, "b" * 40, jwk={"kty": "oct", "k": "YmJiYg"}
    ),
    "a key's address in the header": _signed(GOOD, "b" * 40, jku="https://evil.example/keys"),
    "a key's path in the header": _signed(GOOD, "b" * 40, kid="../../dev/null"),
    "another issuer": _signed(GOOD | {"iss": "elsewhere"}),
    "a list of issuers": _signed(GOOD | {"iss": ["velvetrope"]}),
    "no issuer": _signed(_without("iss")),
    "no subject": _signed(_without("sub")),
    "an empty subject": _signed(GOOD | {"sub": ""}),
    "a subject of 129 characters": _signed(GOOD | {"sub": "a" * 129}),
    "a null byte in the subject": _signed(GOOD | {"sub": "ann\0"}),
    "a line feed in the subject": _signed(GOOD | {"sub": "ann\n"}),
    "half a character in the subject": _signed(GOOD | {"sub": "ann\ud800"}),
    "a subject that is a number": _signed(GOOD | {"sub": 7}),
    "a subject that is an object": _signed(GOOD | {"sub": {"$ne": ""}}),
    "no end": _signed(_without("exp")),
    "an end that is no time": _signed(GOOD | {"exp": "tomorrow"}),
    "not valid yet": _signed(GOOD | {"nbf": FAR - 1}),
    "issued in the future": _signed(GOOD | {"iat": FAR - 1}),
    "no audience": _signed(_without("aud")),
    "no moment of issue": _signed(_without("iat")),
    "a session that is none": _signed(GOOD | {"sid": "../../1"}),
    "a list of sessions": _signed(GOOD | {"sid": ["a"]}),
    "for another audience": _signed(GOOD | {"aud": "elsewhere"}),
    "a refresh token": _signed(GOOD, typ="rt+jwt"),
    "any JWT": _signed(GOOD, typ="JWT"),
    "no type": _signed(GOOD, typ=None),
    "a critical extension": _signed(GOOD, crit=["exp"], exp=FAR),
    "a role written over": _promoted(),
    "one character too many": _signed(GOOD) + "A",
    "an empty part": _signed(GOOD).replace(".", "..", 1),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_token_is_refused(name: str) -> None:
    known = Tokens(JWT_SECRET)

    for _ in range(2):  # a refusal is not remembered as a welcome
        with pytest.raises(Unauthorized):
            known.caller(BAD[name])


def test_a_public_key_is_no_secret() -> None:
    """The old confusion: a verifier that holds an RSA key reads HS256 signed with its text."""
    forged = base64.urlsafe_b64encode(b"0" * 32).decode().rstrip("=")

    with pytest.raises(Unauthorized):
        Tokens(RSA_LIKE).caller(_forged(alg="RS256") + forged)


def test_a_good_token_is_its_buyer_and_can_be_shown_again() -> None:
    known, token = Tokens(JWT_SECRET), tokens.create(JWT_SECRET, "ann", 60)

    assert known.caller(token) == known.caller(token) == Known("buyer", "ann")


def test_without_a_secret_no_token_is_good() -> None:
    with pytest.raises(Unauthorized):
        Tokens("").caller(jwt.encode(GOOD, "x" * 32, headers={"typ": "at+jwt"}))


def test_a_secret_that_was_replaced_is_good_for_the_tokens_it_signed() -> None:
    other = "another secret, long enough for a token"
    old, new = tokens.create(JWT_SECRET, "ann", 60), tokens.create(other, "ann", 60)
    unnamed = _signed(GOOD)  # its issuer knows the secret, and not how we call it

    rotated = Tokens(other, JWT_SECRET)

    assert {rotated.caller(each).subject for each in (old, new, unnamed)} == {"ann"}
    for foreign in (old, unnamed):
        with pytest.raises(Unauthorized):
            Tokens(other).caller(foreign)
    with pytest.raises(Unauthorized):  # kid says which secret it is, and no other is tried
        rotated.caller(_signed(GOOD, JWT_SECRET, kid=tokens.kid_of(other)))


def test_an_expired_token_says_that_it_has_expired() -> None:
    with pytest.raises(TokenExpired):
        Tokens(JWT_SECRET).caller(tokens.create(JWT_SECRET, "ann", -1))


async def test_a_token_expires_while_it_is_remembered() -> None:
    known, token = Tokens(JWT_SECRET), tokens.create(JWT_SECRET, "ann", 1)
    assert known.caller(token).subject == "ann"

    async def has_expired() -> bool:
        try:
            known.caller(token)
        except TokenExpired:
            return True
        return False

    await wait_until(has_expired, "the token has expired", seconds=5)


@pytest.mark.parametrize(
    "role", ["Admin", "ADMIN", "admin ", ["admin"], {"admin": True}, True, None, "root", ""]
)
def test_only_the_word_admin_makes_an_admin(role: object) -> None:
    assert Tokens(JWT_SECRET).caller(_signed(GOOD | {"role": role})).kind == "buyer"


def test_a_memory_full_of_tokens_forgets_and_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "REMEMBERED_MAX", 3)
    known = Tokens(JWT_SECRET)

    for n in range(10):
        assert known.caller(tokens.create(JWT_SECRET, f"b{n}", 60)).subject == f"b{n}"

    assert len(known._known) <= 3


async def test_a_buyers_token_opens_no_admin_route(
    buyer: Callable[[str], Caller], drop: int
) -> None:
    ann = buyer("ann")

    told = {
        await ann.is_told("POST", "/drops", {"name": "Mine", "price": 1, "totalStock": 1}),
        await ann.is_told("POST", f"/drops/{drop}/pause"),
        await ann.is_told("POST", f"/drops/{drop}/resume"),
        await ann.is_told("POST", f"/drops/{drop}/close"),
    }

    assert told == {(403, "FORBIDDEN")}
    assert (await ann.asks("GET", f"/drops/{drop}")).json["status"] == "live"


async def test_a_bad_token_is_a_401_over_http(bearer: Callable[[str], Caller], drop: int) -> None:
    for token in BAD.values():
        told = await bearer(token).is_told("POST", "/reservations", {"dropId": drop})
        assert told == (401, "UNAUTHORIZED")
