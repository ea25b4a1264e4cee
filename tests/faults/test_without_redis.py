"""Postgres sells alone while Redis is away: same answers, same promises, and back by itself."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from engine.infra import sql
from engine.infra.postgres import Session
from engine.infra.settings import Settings
from engine.ops import devstack
from engine.runtime import Ground
from engine.sale import store
from tests.faults.test_redis_forgets import redis_of
from tests.support.ghosts import strand
from tests.support.locks import stock_locked, waiting_claims
from tests.support.pause import paused
from tests.support.shop import Shop
from tests.support.wait import wait_until

NOBODY = "redis://127.0.0.1:1/0"  # refuses every connection


@pytest.fixture
async def alone(settings: Settings) -> AsyncIterator[Shop]:
    """A worker that has no Redis."""
    async with Shop.open(msgspec.structs.replace(settings, redis_url=NOBODY)) as opened:
        yield opened


async def test_every_answer_is_the_same_without_a_bouncer(alone: Shop) -> None:
    drop_id = await alone.open_drop(3, maxPerBuyer=2, maxPerOrder=2)

    ann = await alone.reserve(drop_id, "ann", "a", 2)
    too_many = await alone.reserve(drop_id, "bob", None, 3)
    limited = await alone.reserve(drop_id, "ann", None, 1)
    bob = await alone.reserve(drop_id, "bob", "b")
    late = [await alone.reserve(drop_id, "eve", key) for key in (None, "e", None)]
    again = await alone.reserve(drop_id, "ann", "a", 2)

    assert [each.status for each in (ann, bob, again)] == [201] * 3
    assert again.body == ann.body
    assert (too_many.status, too_many.error) == (400, "VALIDATION_ERROR")
    assert limited.error == "LIMIT_REACHED"
    assert limited.json["details"]["remaining"] == 0
    assert [each.error for each in late] == ["SOLD_OUT"] * 3
    assert late[0].json["details"] == {"availableStock": 0, "heldStock": 3}
    assert (await alone.confirm(ann.json["id"], "ann")).status == 201
    assert (await alone.release(bob.json["id"], "bob")).status == 204
    assert (await alone.reserve(999_999, "ann")).status == 404
    audit = await alone.audit(drop_id)
    assert (audit["clean"], audit["bouncer"], audit["drift"]) == (True, None, None)
    assert audit["undersell"] == {"units": 0, "seconds": 0.0}


async def test_a_window_and_a_pause_hold_without_a_bouncer(alone: Shop) -> None:
    soon = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    early = await alone.open_drop(3, startsAt=soon)
    drop_id = await alone.open_drop(3)
    assert (await alone.reserve(drop_id, "ann")).status == 201

    refused = await alone.reserve(early, "ann")
    await alone.send("POST", f"/drops/{drop_id}/pause")
    stopped = await alone.reserve(drop_id, "bob")
    await alone.send("POST", f"/drops/{drop_id}/resume")
    resumed = await alone.reserve(drop_id, "bob")
    await alone.send("POST", f"/drops/{drop_id}/close")

    assert (refused.error, stopped.error, resumed.status) == ("NOT_STARTED", "PAUSED", 201)
    assert (await alone.reserve(drop_id, "eve")).error == "ENDED"


async def test_a_unit_that_comes_back_is_offered_within_a_second(alone: Shop) -> None:
    drop_id = await alone.open_drop(1)
    hold = await alone.reserve(drop_id, "ann")
    assert (await alone.reserve(drop_id, "bob")).error == "SOLD_OUT"

    assert (await alone.release(hold.json["id"], "ann")).status == 204
    back = time.monotonic()

    async def offered() -> bool:
        return (await alone.reserve(drop_id, "bob")).status == 201

    await wait_until(offered, "the unit is offered again")
    assert time.monotonic() - back < 1


async def test_a_crowd_that_is_refused_costs_postgres_a_look_in_a_while(
    alone: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    drop_id = await alone.open_drop(5)
    asked: Counter[str] = Counter()
    call = Session.call

    async def counted(session: Session, query: sql.Query, **words: Any) -> Any:
        asked[query.name] += 1
        return await call(session, query, **words)

    monkeypatch.setattr(Session, "call", counted)
    began = time.monotonic()
    for _ in range(40):
        replies = await asyncio.gather(*(alone.reserve(drop_id, f"b{n}") for n in range(50)))
        assert {reply.status for reply in replies} <= {201, 409}
    looks = (time.monotonic() - began) / 0.1 + 2

    assert asked["claim_units"] <= 2
    assert asked["offers"] <= looks
    assert (await alone.stock(drop_id))["heldStock"] == 5


@pytest.mark.parametrize("word", ["sold_out", "paused"])
async def test_a_copy_that_a_worker_without_redis_has_in_its_hands_is_not_refused_elsewhere(
    shop: Shop, alone: Shop, ground: Ground, settings: Settings, word: str
) -> None:
    """It left no intent, so the bouncer of the other worker cannot know of it."""
    drop_id = await shop.open_drop(2)
    await strand(ground, drop_id, 2)  # now the bouncer says "sold out"
    async with redis_of(settings.redis_url) as client:  # and has done so for long
        await client.hset(ground.bouncer._key(drop_id, "drop"), "born_ms", 1)
    async with stock_locked(settings.database_url, drop_id) as lock:
        first = asyncio.create_task(alone.reserve(drop_id, "ann", "key"))
        await wait_until(lambda: _waits(lock), "the claim is in Postgres's hands")
        if word == "paused":
            assert (await shop.send("POST", f"/drops/{drop_id}/pause")).status == 200
        copy = asyncio.create_task(shop.reserve(drop_id, "ann", "key"))
        await asyncio.wait([copy], timeout=0.3)
        assert not copy.done(), (await copy).body
    held, told = await first, await copy

    assert held.status == 201
    assert (told.status, told.json["id"]) == (201, held.json["id"])


async def _waits(lock: Any) -> bool:
    return await waiting_claims(lock) == 1


async def test_postgres_remembers_only_for_a_while_that_somebody_sold_without_intents(
    ground: Ground,
) -> None:
    queries = sql.load("engine")

    async def is_direct() -> bool:
        return (await store.look_up_requests(ground.postgres, []))[1]

    assert not await is_direct()
    await ground.postgres.call(queries["mark_direct"], seconds=0.3)
    assert await is_direct()

    async def is_over() -> bool:
        return not await is_direct()

    await wait_until(is_over, "the mark is over")


async def test_a_redis_that_hangs_costs_one_time_out_and_not_one_for_each_batch(
    settings: Settings, tmp_path: Path
) -> None:
    valkey = devstack.start_valkey(tmp_path / "valkey", durable=False)
    try:
        hasty = msgspec.structs.replace(settings, redis_url=valkey.url, intent_ttl_ms=1_500)
        async with Shop.open(hasty) as shop:
            drop_id = await shop.open_drop(100)
            assert (await shop.reserve(drop_id, "first")).status == 201
            with paused(valkey):
                began = time.monotonic()
                replies = [await shop.reserve(drop_id, f"b{n}") for n in range(30)]
                took = time.monotonic() - began
            assert {reply.status for reply in replies} == {201}
            assert took < 3, f"{took:.1f} s for 30 holds"
            assert (await shop.reserve(drop_id, "late")).status == 201
            # What was asked while it hung may run once it goes on; then nobody is left to close it.
            await wait_until(lambda: _mended(shop, drop_id), "the bouncer is back and exact")
    finally:
        valkey.stop()


async def _mended(shop: Shop, drop_id: int) -> bool:
    assert (await shop.send("POST", f"/drops/{drop_id}/reconcile")).status == 200
    return await shop.settled(drop_id)


async def test_drops_that_are_stuck_do_not_stop_the_others(alone: Shop, settings: Settings) -> None:
    """Few claims at once, of all drops together: two that wait must leave room."""
    stuck = [await alone.open_drop(10) for _ in range(2)]
    sound = await alone.open_drop(10)
    async with (
        stock_locked(settings.database_url, stuck[0]) as lock,
        stock_locked(settings.database_url, stuck[1]),
    ):
        waiting = [
            asyncio.create_task(alone.reserve(drop_id, f"x{n}")) for drop_id in stuck for n in "ab"
        ]

        async def are_stuck() -> bool:
            return await waiting_claims(lock) == 2

        await wait_until(are_stuck, "both have a claim in Postgres's hands")

        replies = [await alone.reserve(sound, f"b{n}") for n in range(3)]

        assert [reply.status for reply in replies] == [201] * 3
        assert not any(each.done() for each in waiting)
    await asyncio.gather(*waiting)


async def test_a_copy_that_is_stuck_does_not_spoil_its_neighbours_refusals(
    alone: Shop, settings: Settings
) -> None:
    """Those refused together are looked up together, and one of them waits for its other copy."""
    drop_id = await alone.open_drop(50)
    async with Shop.open(msgspec.structs.replace(settings, redis_url=NOBODY)) as second:
        async with stock_locked(settings.database_url, drop_id) as lock:
            first = asyncio.create_task(alone.reserve(drop_id, "ann", "key"))
            await wait_until(lambda: _waits(lock), "the claim is in Postgres's hands")
            assert (await second.send("POST", f"/drops/{drop_id}/pause")).status == 200

            copy = asyncio.create_task(second.reserve(drop_id, "ann", "key"))
            crowd = [
                second.reserve(drop_id, f"b{n}", f"k{n}" if n % 2 else None) for n in range(20)
            ]
            words = Counter(reply.error for reply in await asyncio.gather(*crowd))

            assert words == {"PAUSED": 20}
            assert not first.done(), "the lock was let go before the neighbours had their answers"
        await asyncio.gather(first, copy)
