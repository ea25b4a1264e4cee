"""INV-1, INV-2: a crowd that picks. No seat twice, no partial pick, and the bouncer's bitmap is the
shelf at the end, whatever happened in the middle."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from pathlib import Path

import asyncpg
import pytest

from engine.infra.settings import Settings
from engine.runtime import Ground
from tests.faults.test_redis_forgets import redis_of
from tests.support.http import Reply
from tests.support.seats import agrees
from tests.support.service import Service
from tests.support.wait import wait_until

SEATS, BUYERS = 1_000, 500


async def _pick(service: Service, drop_id: int, buyer: str, units: list[str]) -> Reply:
    body = {"dropId": drop_id, "userId": buyer, "units": units}
    return await service.send("POST", "/reservations", body)


async def _agree(settings: Settings, ground: Ground, drop_id: int, seconds: float) -> None:
    async with redis_of(settings.redis_url) as client:

        async def same() -> bool:
            return await agrees(client, ground, drop_id)

        await wait_until(same, "the bitmap is the shelf", seconds=seconds)


async def _rows(settings: Settings, drop_id: int) -> tuple[set[int], list[int], list[int]]:
    """What is on the shelf, what is picked, and what live holds have."""
    database = await asyncpg.connect(settings.database_url)
    try:
        shelf = await database.fetch("SELECT number FROM units WHERE drop_id = $1", drop_id)
        picks = await database.fetch("SELECT number FROM picks WHERE drop_id = $1", drop_id)
        held = await database.fetch(
            "SELECT unnest(units) AS number FROM reservations"
            " WHERE drop_id = $1 AND state = 'active'",
            drop_id,
        )
    finally:
        await database.close()
    return ({r[0] for r in shelf}, [r[0] for r in picks], [r[0] for r in held])


@pytest.mark.slow
@pytest.mark.parametrize(
    "flushes", [1, pytest.param(0, marks=pytest.mark.at_length)], ids=["flushall", "calm"]
)
async def test_five_hundred_buyers_pick_three_of_a_thousand_seats_each(
    service: Service, settings: Settings, ground: Ground, flushes: int
) -> None:
    """Each at random, and at random again while his are gone; some want whichever are adjacent."""
    drop_id = await service.open_drop(
        SEATS, pick="named", maxPerBuyer=None, maxPerOrder=3, holdSeconds=600
    )
    dice, held, replies = random.Random(8), list[list[str]](), list[Reply]()

    async def buyer(number: int) -> None:
        for _ in range(4):
            units = [str(n) for n in sorted(dice.sample(range(1, SEATS + 1), 3))]
            if number % 10:
                reply = await _pick(service, drop_id, f"b{number}", units)
            else:
                reply = await service.reserve(drop_id, f"b{number}", None, 3)
            replies.append(reply)
            if reply.status == 201:
                got = [unit["name"] for unit in reply.json["units"]]
                first = int(got[0])
                whole = units if number % 10 else [str(n) for n in range(first, first + 3)]
                assert got == whole, "a partial pick, or another's"
                held.append(got)
                return
            if reply.error == "SLOT_NOT_AVAILABLE":
                assert set(reply.json["details"]["units"]) <= set(units)

    crowd = asyncio.gather(*(buyer(number) for number in range(BUYERS)))
    for _ in range(flushes):
        await wait_until(lambda: _reached(held, 60), "it is under way", pause=0.002)
        async with redis_of(settings.redis_url) as client:
            await client.flushall()
    await crowd

    words = Counter("held" if r.status == 201 else r.error for r in replies)
    assert set(words) <= {"held", "SLOT_NOT_AVAILABLE", "SOLD_OUT"}, words
    assert words["SLOT_NOT_AVAILABLE"] > 100
    sold = [int(name) for names in held for name in names]
    assert len(sold) == len(set(sold)) > SEATS // 2
    shelf, picks, rows = await _rows(settings, drop_id)
    assert sorted(sold) == sorted(rows) == sorted(picks)
    assert shelf == set(range(1, SEATS + 1)) - set(sold)
    await _agree(settings, ground, drop_id, 6)


async def _reached(held: list[list[str]], count: int) -> bool:
    return len(held) >= count


@pytest.mark.slow
@pytest.mark.at_length
@pytest.mark.timeout(240)
async def test_of_two_hundred_who_hold_one_slot_one_is_told_yes_and_all_others_no(
    service: Service, settings: Settings, ground: Ground
) -> None:
    """The same as test_picking.py's, over the wire, a hundred times."""
    rounds = 100
    drop_id = await service.open_drop(
        rounds, pick="named", maxPerBuyer=None, maxPerOrder=1, holdSeconds=120
    )
    for number in range(1, rounds + 1):
        asked = (_pick(service, drop_id, f"b{n}", [str(number)]) for n in range(200))
        replies = await asyncio.gather(*asked)
        assert Counter(reply.status for reply in replies) == {201: 1, 409: 199}
        refused = [reply for reply in replies if reply.status == 409]
        assert {reply.error for reply in refused} == {"SLOT_NOT_AVAILABLE"}
        assert all(reply.json["details"] == {"units": [str(number)]} for reply in refused)
    await _agree(settings, ground, drop_id, 2)


@pytest.mark.slow
@pytest.mark.at_length
async def test_a_worker_killed_between_its_commit_and_its_word_leaves_a_bitmap_that_is_made_good(
    settings: Settings, ground: Ground, tmp_path: Path
) -> None:
    point = "kill:reserve/settle.before"
    async with Service.open(settings, tmp_path, workers=1, CRASH_POINT=point) as armed:
        drop_id = await armed.open_drop(20, pick="named", maxPerOrder=3, maxPerBuyer=None)
        with pytest.raises((ConnectionError, EOFError)):
            await _pick(armed, drop_id, "ann", ["3", "4"])
        assert (await _rows(settings, drop_id))[1] == [3, 4], "it had committed"
        async with redis_of(settings.redis_url) as client:

            async def seen() -> bool:
                key = ground.bouncer._key(drop_id, "seats")
                return not await client.getbit(key, 3) and not await client.getbit(key, 4)

            await wait_until(seen, "the reconciler loads the bitmap", seconds=3)
        await _agree(settings, ground, drop_id, 8)
