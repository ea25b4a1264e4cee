"""A hold lives longer once by its buyer's wish, once by payment, and never beyond its cap."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import datetime
from urllib.parse import quote

import asyncpg
import msgspec
import pytest

from engine.infra.settings import Settings
from loadtest.chaos.pgproxy import PgProxy
from tests.support.http import Reply
from tests.support.keeping import Keeping
from tests.support.shop import Shop
from tests.support.wait import wait_until


async def _extend(shop: Shop, hold: Reply, buyer: str = "ann", key: str | None = None) -> Reply:
    headers = {"idempotency-key": key} if key else None
    path = f"/reservations/{hold.json['id']}/extend"
    return await shop.send("POST", path, {"userId": buyer}, headers)


async def _pay(shop: Shop, hold: Reply, buyer: str = "ann", key: str | None = None) -> Reply:
    headers = {"idempotency-key": key} if key else None
    path = f"/reservations/{hold.json['id']}/pay"
    return await shop.send("POST", path, {"userId": buyer}, headers)


def _seconds(hold: Reply, later: Reply) -> float:
    """From the one deadline to the other."""
    first, second = (datetime.fromisoformat(each.json["expiresAt"]) for each in (hold, later))
    return (second - first).total_seconds()


async def _life(settings: Settings, hold: Reply) -> float:
    """Seconds from a hold's birth to its deadline, by the row."""
    database = await asyncpg.connect(settings.database_url)
    seconds = await database.fetchval(
        "SELECT extract(epoch FROM expires_at - created_at) FROM reservations WHERE id = $1",
        hold.json["id"],
    )
    await database.close()
    return float(seconds)


@pytest.mark.parametrize(
    ("terms", "life"),
    [
        ({"holdSeconds": 60, "maxHoldSeconds": 120}, 120),
        ({"holdSeconds": 60, "maxHoldSeconds": 75}, 75),
        ({"holdSeconds": 60, "maxHoldSeconds": 900}, 120),
    ],
)
async def test_100_parallel_extends_let_a_hold_live_to_its_cap_and_not_longer(
    shop: Shop, settings: Settings, terms: dict[str, int], life: float
) -> None:
    drop_id = await shop.open_drop(1, **terms)
    hold = await shop.reserve(drop_id, "ann")

    keys = [None] * 50 + [f"key-{n}" for n in range(50)]
    replies = await asyncio.gather(*(_extend(shop, hold, key=key) for key in keys))

    assert Counter(reply.status for reply in replies) == {200: 1, 409: 99}
    assert {reply.error for reply in replies if reply.status == 409} == {"EXTENSION_USED"}
    assert await _life(settings, hold) == life


async def test_a_hold_whose_cap_is_its_own_time_cannot_be_extended(shop: Shop) -> None:
    drop_id = await shop.open_drop(1, holdSeconds=60, maxHoldSeconds=60)
    hold = await shop.reserve(drop_id, "ann")

    assert (await _extend(shop, hold)).error == "EXTENSION_USED"


async def test_the_same_key_extends_once_and_is_answered_twice(shop: Shop) -> None:
    drop_id = await shop.open_drop(2, holdSeconds=60, maxPerBuyer=2)
    hold, other = await shop.reserve(drop_id, "ann"), await shop.reserve(drop_id, "ann")

    first, again = await _extend(shop, hold, key="k"), await _extend(shop, hold, key="k")
    mistaken = await _extend(shop, other, key="k")

    assert (first.status, again.status, again.body) == (200, 200, first.body)
    assert again.headers["idempotent-replayed"] == "true"
    assert (mistaken.status, mistaken.error) == (422, "IDEMPOTENCY_MISMATCH")


@pytest.mark.parametrize("verb", [_extend, _pay])
async def test_a_repeated_answer_tells_the_present_status(shop: Shop, verb: object) -> None:
    assert callable(verb)
    hold = await shop.reserve(await shop.open_drop(1), "ann")
    first = await verb(shop, hold, key="k")
    await shop.release(hold.json["id"], "ann")

    again = await verb(shop, hold, key="k")

    assert (again.status, again.json) == (200, first.json | {"status": "released"})


@pytest.mark.parametrize("verb", [_extend, _pay])
async def test_only_a_live_hold_of_ones_own_lives_longer(shop: Shop, verb: object) -> None:
    assert callable(verb)
    drop_id = await shop.open_drop(3, maxPerBuyer=3)
    bought, given_back, mine = [await shop.reserve(drop_id, "ann") for _ in range(3)]
    await shop.confirm(bought.json["id"], "ann")
    await shop.release(given_back.json["id"], "ann")
    nobodys = Reply(201, {}, msgspec.json.encode({"id": "0190a000-0000-7000-8000-000000000000"}))
    malformed = Reply(201, {}, msgspec.json.encode({"id": "17"}))

    assert (await verb(shop, mine, "bob")).error == "NOT_YOUR_RESERVATION"
    assert (await verb(shop, bought)).json["details"] == {"status": "purchased"}
    assert (await verb(shop, given_back)).json["details"] == {"status": "released"}
    assert (await verb(shop, nobodys)).status == 404
    assert (await verb(shop, malformed)).status == 404
    assert (await verb(shop, mine)).status == 200


@pytest.mark.parametrize("verb", [_extend, _pay])
async def test_a_hold_past_its_deadline_lives_no_longer_though_nobody_swept(
    shop: Shop, verb: object
) -> None:
    assert callable(verb)
    drop_id = await shop.open_drop(1, holdSeconds=1)
    hold = await shop.reserve(drop_id, "ann")

    async def is_over() -> bool:
        shown = (await shop.send("GET", f"/reservations/{hold.json['id']}")).json
        return bool(shown["status"] == "expired")

    await wait_until(is_over, "the deadline has passed")

    late = await verb(shop, hold)
    assert (late.status, late.error) == (410, "HOLD_EXPIRED")
    assert (await shop.stock(drop_id))["heldStock"] == 1


async def test_payment_adds_its_time_once_however_often_it_begins(
    shop: Shop, settings: Settings
) -> None:
    drop_id = await shop.open_drop(1, holdSeconds=60, maxHoldSeconds=100, paySeconds=300)
    hold = await shop.reserve(drop_id, "ann")
    extended = await _extend(shop, hold)

    replies = await asyncio.gather(*(_pay(shop, hold) for _ in range(20)))
    too_late = await _extend(shop, hold)

    assert _seconds(hold, extended) == 40
    assert {reply.status for reply in replies} == {200}
    assert {_seconds(extended, reply) for reply in replies} == {300}
    assert {reply.json["status"] for reply in replies} == {"paying"}
    assert too_late.json["details"] == {"status": "paying"}
    assert await _life(settings, hold) == 400
    assert (await shop.confirm(hold.json["id"], "ann")).status == 201
    assert await shop.settled(drop_id)


async def test_a_buyer_who_was_about_to_pay_may_give_it_back(shop: Shop) -> None:
    drop_id = await shop.open_drop(1)
    hold = await shop.reserve(drop_id, "ann")
    await _pay(shop, hold)

    assert (await shop.release(hold.json["id"], "ann")).status == 204
    assert await shop.settled(drop_id)
    assert (await shop.reserve(drop_id, "bob")).status == 201


async def test_the_answer_to_pay_says_where(settings: Settings) -> None:
    told = msgspec.structs.replace(settings, payment_url="https://bank.example/pay?shop=7")
    async with Shop.open(told) as shop:
        hold = await shop.reserve(await shop.open_drop(1), "ann")
        paying = await _pay(shop, hold)

    link = f"https://bank.example/pay?shop=7&reservationId={hold.json['id']}"
    until = quote(paying.json["expiresAt"], safe="")
    assert paying.json["payUrl"] == f"{link}&amount=120.00&currency=USD&expiresAt={until}"


async def test_a_new_deadline_has_a_bell_of_its_own(shop: Shop, settings: Settings) -> None:
    """With polling off nothing but the second bell could free the unit."""
    async with Keeping(settings, sweeper_poll_ms=0, reconciler_ms=0):
        drop_id = await shop.open_drop(2, holdSeconds=1, paySeconds=1, maxPerBuyer=2)
        extended, paying = [await shop.reserve(drop_id, "ann") for _ in range(2)]
        assert (await _extend(shop, extended)).status == 200
        assert (await _pay(shop, paying)).status == 200

        async def is_free() -> bool:
            return (await shop.stock(drop_id))["availableStock"] == 2

        await wait_until(is_free, "the second bells have rung", seconds=8)


@pytest.mark.parametrize("verb", [_extend, _pay])
async def test_a_lost_reply_is_told_as_unknown_and_the_key_finds_out(
    settings: Settings, verb: object
) -> None:
    assert callable(verb)
    async with (
        PgProxy.open(settings.database_url) as line,
        Shop.open(msgspec.structs.replace(settings, database_url=line.url)) as far,
    ):
        hold = await far.reserve(await far.open_drop(1), "ann")
        trap = line.arm("COMMIT;", "lose")
        lost = await verb(far, hold, key="k")
        assert trap.caught.is_set()
        found = await verb(far, hold, key="k")

    assert (lost.status, lost.error) == (503, "OUTCOME_UNKNOWN")
    assert (found.status, found.headers.get("idempotent-replayed")) == (200, "true")
