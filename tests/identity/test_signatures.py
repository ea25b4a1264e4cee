"""Only who knows the secret speaks for the provider, and only for five minutes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from engine.infra.errors import Misconfigured
from engine.infra.settings import Settings
from tests.support.provider import SECRET, signed
from tests.support.shop import Shop

BODY = b'{"reference":"p","reservationId":"x","status":"failed","amount":"1.00","currency":"USD"}'
OTHER = "another-secret-of-32-bytes-or-more-"


async def _send(shop: Shop, headers: dict[str, str], body: bytes = BODY) -> int:
    reply = await shop.send("POST", "/payments/callback", body, headers)
    assert reply.status == 200 or reply.error == "UNAUTHORIZED"
    return reply.status


async def test_a_signature_is_good_for_its_own_body_and_secret(shop: Shop) -> None:
    good = signed(BODY)

    assert await _send(shop, good) == 200
    assert await _send(shop, good, BODY.replace(b"failed", b"succeeded")) == 401
    assert await _send(shop, signed(BODY, OTHER)) == 401
    assert await _send(shop, good | {"webhook-id": "msg_other"}) == 401


async def test_bytes_that_are_no_text_are_refused(shop: Shop) -> None:
    body = b"\xdf" + BODY

    assert await _send(shop, signed(body), body) == 401


@pytest.mark.parametrize("minutes", [-6, 6])
async def test_a_signature_of_another_time_is_refused(shop: Shop, minutes: int) -> None:
    when = datetime.now(UTC) + timedelta(minutes=minutes)

    assert await _send(shop, signed(BODY, when=when)) == 401


@pytest.mark.parametrize(
    "damage",
    [
        {"webhook-signature": ""},
        {"webhook-signature": "v1"},
        {"webhook-signature": "v1,"},
        {"webhook-signature": "v1,a,b"},
        {"webhook-signature": "v1,é"},
        {"webhook-signature": "v2,AAAA " * 500},
        {"webhook-timestamp": ""},
        {"webhook-timestamp": "now"},
        {"webhook-timestamp": "9" * 400},
        {"webhook-timestamp": "nan"},
        {"webhook-timestamp": "inf"},
        {"webhook-timestamp": "-1e400"},
        {"webhook-id": ""},
    ],
)
async def test_headers_that_are_no_signature_are_refused(
    shop: Shop, damage: dict[str, str]
) -> None:
    assert await _send(shop, signed(BODY)) == 200
    assert await _send(shop, signed(BODY) | damage) == 401


async def test_a_body_that_is_no_text_is_refused(shop: Shop) -> None:
    assert await _send(shop, signed(BODY)) == 200
    assert await _send(shop, signed(BODY), b"\xff\xfe\x00") == 401


async def test_without_headers_nobody_speaks_for_the_provider(shop: Shop) -> None:
    assert await _send(shop, {}) == 401


async def test_two_secrets_are_in_force_while_one_takes_the_others_place(
    settings: Settings,
) -> None:
    both = msgspec.structs.replace(settings, payment_secret=f"{OTHER} {SECRET}")
    async with Shop.open(both) as shop:
        assert await _send(shop, signed(BODY)) == 200
        assert await _send(shop, signed(BODY, OTHER)) == 200
        assert await _send(shop, signed(BODY, "neither-of-them-is-this-one-here-")) == 401


async def test_without_a_secret_no_signature_is_good(settings: Settings) -> None:
    async with Shop.open(msgspec.structs.replace(settings, payment_secret="")) as shop:
        assert await _send(shop, signed(BODY)) == 401


async def test_a_secret_anybody_could_guess_is_refused_at_the_start(settings: Settings) -> None:
    short = msgspec.structs.replace(settings, payment_secret=f"{SECRET} short")
    with pytest.raises(Misconfigured, match="PAYMENT_SECRET"):
        async with Shop.open(short):
            pass
