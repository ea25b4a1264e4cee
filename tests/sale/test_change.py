"""PATCH /drops/{id}: what may be changed in mid-sale, what each change means, and what stays."""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import Any

import asyncpg
import msgspec
import pytest

from engine.infra.settings import Settings
from engine.runtime import Ground
from engine.sale import drops
from tests.support.http import Reply
from tests.support.keeping import Keeping
from tests.support.shop import Shop
from tests.support.wait import wait_until

MOVING = {"serverTime", "version"}  # what a drop's page shows anew every time


def _fields(reply: Reply) -> list[str]:
    assert (reply.status, reply.error) == (400, "VALIDATION_ERROR"), reply.body
    return [problem["field"] for problem in reply.json["details"]["fields"]]


def _still(drop: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in drop.items() if name not in MOVING}


# ── one field at a time ──────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("told", "shown"),
    [
        ({"name": "  Borealis "}, {"name": "Borealis"}),
        ({"price": "99.5"}, {"price": "99.50"}),
        ({"price": 0}, {"price": "0.00"}),
        ({"imageUrl": "/pictures/00-a.svg"}, {"imageUrl": "/pictures/00-a.svg"}),
        ({"image_url": None}, {"imageUrl": None}),
        ({"startsAt": "2020-01-01"}, {"startsAt": "2020-01-01T00:00:00.000Z"}),
        ({"dropStartTime": "2021-01-01T02:00+02:00"}, {"startsAt": "2021-01-01T00:00:00.000Z"}),
        ({"endsAt": "2190-01-01"}, {"endsAt": "2190-01-01T00:00:00.000Z"}),
        ({"ends_at": None}, {"endsAt": None}),
        ({"holdSeconds": 90}, {"holdSeconds": 90}),
        ({"maxHoldSeconds": 60}, {"maxHoldSeconds": 60}),
        ({"hold_seconds": 300, "maxHoldSeconds": 300}, {"holdSeconds": 300, "maxHoldSeconds": 300}),
        ({"maxPerBuyer": 7}, {"maxPerBuyer": 7}),
        ({"max_per_buyer": None}, {"maxPerBuyer": None}),
        ({"maxPerOrder": 100}, {"maxPerOrder": 100}),
        ({"cooldownFactor": 1_000}, {"cooldownFactor": 1_000}),
        ({"cooldown_factor": 0}, {"cooldownFactor": 0}),
        ({"addStock": 4}, {"totalStock": 9, "availableStock": 9}),
        ({"withdraw_stock": 4}, {"availableStock": 1, "withdrawnStock": 4}),
        (
            {"withdrawStock": "all"},
            {"availableStock": 0, "withdrawnStock": 5, "status": "sold_out"},
        ),
    ],
    ids=str,
)
async def test_what_is_named_changes_and_nothing_else(
    shop: Shop, told: dict[str, Any], shown: dict[str, Any]
) -> None:
    terms = {"imageUrl": "/a.svg", "endsAt": "2180-01-01T00:00:00Z", "maxPerBuyer": 2}
    drop_id = await shop.open_drop(5, **terms)
    before = await shop.show(drop_id)

    reply = await shop.change(drop_id, **told)

    assert reply.status == 200, reply.body
    after = await shop.show(drop_id)
    assert _still(after) == _still(before) | shown
    assert _still(reply.json) == {n: v for n, v in _still(after).items() if n != "recentPurchases"}
    assert await shop.settled(drop_id), "the bouncer heard of it"


WRONG: list[tuple[dict[str, Any], str]] = [
    ({}, "body"),
    ({"colour": "red"}, "body"),
    ({"name": None}, "name"),
    ({"name": " "}, "name"),
    ({"price": "free"}, "price"),
    ({"price": None}, "price"),
    ({"currency": "EUR"}, "currency"),
    ({"imageUrl": "javascript:alert(1)"}, "imageUrl"),
    ({"startsAt": None}, "startsAt"),
    ({"startsAt": "soon"}, "startsAt"),
    ({"startsAt": "2181-01-01"}, "endsAt"),
    ({"endsAt": "2019-01-01"}, "endsAt"),
    ({"endsAt": "2201-01-01"}, "endsAt"),
    ({"holdSeconds": 0}, "holdSeconds"),
    ({"holdSeconds": 86_401}, "holdSeconds"),
    ({"holdSeconds": None}, "holdSeconds"),
    ({"holdSeconds": 121}, "maxHoldSeconds"),
    ({"maxHoldSeconds": 59}, "maxHoldSeconds"),
    ({"maxPerBuyer": 0}, "maxPerBuyer"),
    ({"maxPerBuyer": 10_001}, "maxPerBuyer"),
    ({"maxPerOrder": 101}, "maxPerOrder"),
    ({"maxPerOrder": None}, "maxPerOrder"),
    ({"totalStock": 10}, "totalStock"),
    ({"addStock": 0}, "addStock"),
    ({"addStock": -1}, "addStock"),
    ({"addStock": None}, "addStock"),
    ({"addStock": 1_000_001}, "addStock"),
    ({"addStock": 999_996}, "addStock"),
    ({"addStock": 1, "add_stock": 1}, "addStock"),
    ({"withdrawStock": 0}, "withdrawStock"),
    ({"withdrawStock": 50_001}, "withdrawStock"),
    ({"withdrawStock": "some"}, "withdrawStock"),
    ({"addStock": 1, "withdrawStock": 1}, "withdrawStock"),
    ({"add_stock": 1, "withdraw_stock": "all"}, "withdrawStock"),
]


async def test_what_cannot_be_is_a_400_that_names_the_field_and_nothing_changes(
    shop: Shop,
) -> None:
    terms = {"startsAt": "2020-01-01", "endsAt": "2180-01-01", "maxPerBuyer": 2}
    drop_id = await shop.open_drop(5, **terms)
    before = await shop.show(drop_id)

    for told, field in WRONG:
        assert _fields(await shop.change(drop_id, **told)) == [field], told
    for told, field in WRONG[2:]:  # what is right beside what is wrong changes nothing either
        both: dict[str, Any] = {"maxPerBuyer": 3, "imageUrl": "/b.svg"} | told
        reply = await shop.change(drop_id, **both)
        assert _fields(reply) == [field], told

    assert _still(await shop.show(drop_id)) == _still(before)


async def test_a_drop_that_is_not_there_is_a_404(shop: Shop) -> None:
    for id in ("999999", "0", "abc", "%00"):
        for told in ({"name": "x"}, {"addStock": 1}, {"withdrawStock": "all"}):
            reply = await shop.send("PATCH", f"/drops/{id}", told)
            assert (reply.status, reply.error) == (404, "NOT_FOUND"), (id, told)


@pytest.mark.parametrize(
    ("told", "status"),
    [
        ({"withdrawStock": 6}, 409),
        ({"addStock": 3, "maxHoldSeconds": 1}, 400),
        ({"withdrawStock": 3, "endsAt": "2019-01-01"}, 400),
        ({"withdrawStock": 3, "maxHoldSeconds": 1}, 400),
    ],
    ids=str,
)
async def test_a_change_with_one_bad_part_changes_nothing_at_all(
    shop: Shop, told: dict[str, Any], status: int
) -> None:
    drop_id = await shop.open_drop(5, startsAt="2020-01-01")
    before = await shop.show(drop_id)

    reply = await shop.change(drop_id, name="Changed", price="1.00", **told)

    assert reply.status == status, reply.body
    after = await shop.show(drop_id)
    assert _still(after) == _still(before)
    assert after["version"] == before["version"]
    assert await shop.settled(drop_id)


# ── stock ────────────────────────────────────────────────────────────────────────────────────────


async def test_more_than_is_free_cannot_be_withdrawn_and_then_nothing_is(shop: Shop) -> None:
    drop_id = await shop.open_drop(5)
    await shop.confirm((await shop.reserve(drop_id, "ann")).json["id"], "ann")
    await shop.reserve(drop_id, "bob")

    reply = await shop.change(drop_id, withdrawStock=4)

    assert (reply.status, reply.error) == (409, "SOLD_OUT")
    assert reply.json["details"] == {"availableStock": 3, "heldStock": 1}
    stock = await shop.stock(drop_id)
    figures = stock["availableStock"], stock["heldStock"], stock["soldStock"]
    assert (*figures, stock["withdrawnStock"]) == (3, 1, 1, 0)
    assert (await shop.change(drop_id, withdrawStock=3)).status == 200
    assert (await shop.change(drop_id, withdrawStock="all")).status == 200  # all of nothing
    assert await shop.settled(drop_id)


async def test_a_hold_that_comes_back_is_on_sale_whatever_was_withdrawn(shop: Shop) -> None:
    drop_id = await shop.open_drop(3)
    hold = (await shop.reserve(drop_id, "ann")).json
    await shop.change(drop_id, withdrawStock="all")
    assert (await shop.reserve(drop_id, "bob")).error == "SOLD_OUT"

    await shop.release(hold["id"], "ann")

    async def on_sale() -> Reply | None:
        reply = await shop.reserve(drop_id, "bob")
        return reply if reply.status == 201 else None

    bobs = await wait_until(on_sale, "it is on sale: a worker believes a moment in SOLD_OUT")
    assert bobs is not None
    assert bobs.json["units"] == hold["units"]
    assert (await shop.stock(drop_id))["withdrawnStock"] == 2
    assert await shop.settled(drop_id)


async def test_all_of_a_shelf_too_long_for_one_request_is_refused(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drops, "WITHDRAWN_MAX", 4)
    drop_id = await shop.open_drop(5)

    assert _fields(await shop.change(drop_id, withdrawStock="all")) == ["withdrawStock"]
    assert (await shop.change(drop_id, withdrawStock=4)).status == 200
    assert (await shop.change(drop_id, withdrawStock="all")).json["withdrawnStock"] == 5


async def test_all_of_a_shelf_that_is_still_being_filled_cannot_be_withdrawn(
    shop: Shop, ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is put there afterwards would be on sale, though all of it was called off."""
    monkeypatch.setattr(drops, "SLICE", 4)
    drop_id = await shop.open_drop(10)
    assert await drops.fill(ground.postgres) == 6
    before = await shop.stock(drop_id)

    refused = await shop.change(drop_id, "all of it", withdrawStock="all", name="Changed")

    assert (refused.status, refused.error) == (409, "PREPARING")
    assert refused.json["retryable"] is True
    assert (await shop.stock(drop_id), (await shop.show(drop_id))["name"]) == (before, "Aurora")
    while await drops.fill(ground.postgres):
        pass
    gone = await shop.change(drop_id, "all of it", withdrawStock="all")
    assert (gone.json["availableStock"], gone.json["withdrawnStock"]) == (0, 10)


async def test_stock_is_added_once_however_often_the_request_is_sent(shop: Shop) -> None:
    drop_id = await shop.open_drop(1)

    copies = [shop.change(drop_id, "more", addStock=10, name="More") for _ in range(5)]
    first, *others = sorted(
        await asyncio.gather(*copies), key=lambda reply: "idempotent-replayed" in reply.headers
    )
    later = await shop.change(drop_id, "more", name="More", add_stock=10)

    assert {reply.status for reply in (first, *others, later)} == {200}
    assert "idempotent-replayed" not in first.headers
    assert all(reply.headers["idempotent-replayed"] == "true" for reply in (*others, later))
    assert {reply.body for reply in (*others, later)} == {first.body}
    assert (await shop.stock(drop_id))["totalStock"] == 11
    mismatch = await shop.change(drop_id, "more", addStock=11, name="More")
    assert (mismatch.status, mismatch.error) == (422, "IDEMPOTENCY_MISMATCH")
    await shop.change(drop_id, "once more", addStock=10, name="More")
    assert (await shop.stock(drop_id))["totalStock"] == 21
    assert await shop.settled(drop_id)


async def test_a_refused_change_may_succeed_later_under_the_same_key(shop: Shop) -> None:
    drop_id = await shop.open_drop(2)
    assert (await shop.change(drop_id, "k", withdrawStock=3)).status == 409

    await shop.change(drop_id, addStock=1)

    assert (await shop.change(drop_id, "k", withdrawStock=3)).status == 200
    assert (await shop.change(drop_id, "k", withdrawStock=3)).json["withdrawnStock"] == 3
    assert (await shop.stock(drop_id))["withdrawnStock"] == 3


async def test_a_drop_has_at_most_a_million_units(shop: Shop) -> None:
    drop_id = await shop.open_drop(1)

    assert (await shop.change(drop_id, addStock=999_999)).json["totalStock"] == 1_000_000
    assert _fields(await shop.change(drop_id, addStock=1)) == ["addStock"]


async def test_a_large_addition_is_put_on_the_shelf_by_a_keeper_while_the_sale_goes_on(
    shop: Shop, settings: Settings
) -> None:
    drop_id = await shop.open_drop(3)
    assert (await shop.reserve(drop_id, "early")).status == 201

    shown = (await shop.change(drop_id, addStock=25_000)).json

    figures = (shown["totalStock"], shown["availableStock"])
    assert (shown["status"], figures) == ("live", (25_003, 10_002)), "one slice is there at once"
    assert (await shop.reserve(drop_id, "before")).status == 201  # nobody fills yet
    sold = 2
    async with Keeping(settings):

        async def full() -> bool:
            nonlocal sold
            reply = await shop.reserve(drop_id, f"b{sold}")
            if reply.status == 201:
                sold += 1
            else:
                assert reply.error == "SOLD_OUT"  # never PREPARING again
            return (await shop.stock(drop_id))["totalStock"] == 25_003

        await wait_until(full, "all is on the shelf", seconds=20)
        await wait_until(lambda: shop.settled(drop_id), "the bouncer knows")
    assert (await shop.stock(drop_id))["availableStock"] == 25_003 - sold
    print(f"{sold - 2} sold while 25,000 were put on the shelf")


# ── terms ────────────────────────────────────────────────────────────────────────────────────────


async def test_a_lowered_limit_takes_nothing_from_anybody_and_refuses_more(shop: Shop) -> None:
    drop_id = await shop.open_drop(10, maxPerBuyer=3)
    holds = [(await shop.reserve(drop_id, "ann")).json["id"] for _ in range(2)]

    await shop.change(drop_id, maxPerBuyer=1)

    refused = await shop.reserve(drop_id, "ann")
    assert refused.error == "LIMIT_REACHED"
    details = refused.json["details"]
    assert (details["limit"], details["remaining"]) == (1, 0)
    assert (await shop.reserve(drop_id, "bob")).status == 201
    assert (await shop.reserve(drop_id, "bob")).error == "LIMIT_REACHED"
    assert {(await shop.confirm(hold, "ann")).status for hold in holds} == {201}
    assert await shop.settled(drop_id), "more than the limit, and no broken promise"


@pytest.mark.parametrize("limit", [4, None])
async def test_a_raised_limit_counts_at_once(shop: Shop, limit: int | None) -> None:
    drop_id = await shop.open_drop(10, maxPerBuyer=1)
    await shop.reserve(drop_id, "ann")
    assert (await shop.reserve(drop_id, "ann")).error == "LIMIT_REACHED"

    await shop.change(drop_id, maxPerBuyer=limit, maxPerOrder=3)

    assert (await shop.reserve(drop_id, "ann", quantity=3)).status == 201
    more = await shop.reserve(drop_id, "ann")
    assert more.status == (201 if limit is None else 409)
    await shop.change(drop_id, maxPerBuyer=1)
    assert (await shop.reserve(drop_id, "ann")).error == "LIMIT_REACHED"
    assert await shop.settled(drop_id)


async def test_what_one_order_may_hold_is_changed_for_the_next_order(shop: Shop) -> None:
    drop_id = await shop.open_drop(10, maxPerBuyer=None, maxPerOrder=2)
    assert _fields(await shop.reserve(drop_id, "ann", quantity=3)) == ["quantity"]

    await shop.change(drop_id, maxPerOrder=3)

    assert (await shop.reserve(drop_id, "ann", quantity=3)).status == 201


async def test_a_new_hold_time_is_for_new_holds(shop: Shop) -> None:
    drop_id = await shop.open_drop(2, holdSeconds=60)
    old = (await shop.reserve(drop_id, "ann")).json

    await shop.change(drop_id, holdSeconds=5)

    new = (await shop.reserve(drop_id, "bob")).json
    lives = [_moment(hold["expiresAt"]) - _moment(hold["serverTime"]) for hold in (old, new)]
    assert [round(life) for life in lives] == [60, 5]
    now = (await shop.send("GET", f"/reservations/{old['id']}")).json
    assert now["expiresAt"] == old["expiresAt"]


def _moment(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


async def test_changes_at_the_same_moment_lose_nothing_of_each_other(
    shop: Shop, settings: Settings
) -> None:
    """All of them stand before the drop's row when it is let go."""
    drop_id = await shop.open_drop(5)
    parts: list[dict[str, Any]] = [{"name": "New"}, {"price": "9.00"}, {"maxPerBuyer": 8}]
    connection = await asyncpg.connect(settings.database_url)
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"

    async def all_wait() -> bool:
        await connection.execute("SELECT pg_stat_clear_snapshot()")
        return int(await connection.fetchval(waiting)) == len(parts)

    async with connection.transaction():
        await connection.execute("SELECT FROM drops WHERE id = $1 FOR UPDATE", drop_id)
        changes = asyncio.gather(*(shop.change(drop_id, **part) for part in parts))
        await wait_until(all_wait, "all stand before the row")
        await connection.execute("UPDATE drops SET hold_seconds = 77 WHERE id = $1", drop_id)
    replies = await changes
    await connection.close()

    assert {reply.status for reply in replies} == {200}
    drop = await shop.show(drop_id)
    assert (drop["name"], drop["price"], drop["maxPerBuyer"]) == ("New", "9.00", 8)
    assert drop["holdSeconds"] == 77


async def test_adding_and_withdrawing_at_the_same_moment_both_happen(shop: Shop) -> None:
    """They lock stock and drop in opposite order, which must not become a deadlock."""
    drop_id = await shop.open_drop(100)

    adding = [shop.change(drop_id, addStock=3) for _ in range(6)]
    taking = [shop.change(drop_id, withdrawStock=2) for _ in range(6)]
    both = [change for pair in zip(adding, taking, strict=True) for change in pair]
    replies = await asyncio.gather(*both)

    assert {reply.status for reply in replies} == {200}
    stock = await shop.stock(drop_id)
    assert (stock["totalStock"], stock["withdrawnStock"]) == (118, 12)
    assert await shop.settled(drop_id)


@pytest.mark.parametrize("redis", ["there", "away"])
async def test_sold_out_is_not_for_ever_while_more_units_were_promised_than_are_there(
    settings: Settings, redis: str
) -> None:
    if redis == "away":
        settings = msgspec.structs.replace(settings, redis_url="redis://127.0.0.1:1/0")
    async with Shop.open(settings) as shop:
        drop_id = await shop.open_drop(1, maxPerBuyer=None, maxPerOrder=100)
        held = await shop.reserve(drop_id, "ann")
        assert (await shop.confirm(held.json["id"], "ann")).status == 201

        async def is_final() -> bool:
            return (await shop.reserve(drop_id, "bob")).json["retryable"] is False

        await wait_until(is_final, "all is sold, for ever")
        await shop.change(drop_id, addStock=20_000)  # 10,000 of them are there at once
        while (await shop.stock(drop_id))["availableStock"]:
            left = (await shop.stock(drop_id))["availableStock"]
            await shop.change(drop_id, withdrawStock=left)

        refused = await shop.reserve(drop_id, "bob")

        assert (refused.error, refused.json["retryable"]) == ("SOLD_OUT", True)
        assert (await shop.send("GET", f"/drops/{drop_id}")).json["status"] == "live"
