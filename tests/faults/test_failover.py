"""Postgres fails over to a standby: one new epoch, a sale that goes on, and a tail that is counted.

Real servers, real workers and keepers. DATABASE_URL names both hosts, as in production.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from engine.infra.settings import Settings
from loadtest.chaos.standby import Pair, ask
from tests.support.failover import (
    EPOCHS,
    HELD,
    HOLDS,
    figures_of,
    lines,
    never_twice,
    one_epoch,
    promised_by,
    sale,
    sells_again,
)
from tests.support.http import Reply
from tests.support.rush import Rush
from tests.support.shop import Shop
from tests.support.wait import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]


async def _sells(two: Pair, more: int) -> None:
    """Wait until so many more units are held on the new primary."""
    goal = await ask(two.standby, HELD) + more

    async def reached() -> bool:
        return bool(await ask(two.standby, HELD) >= goal)

    await wait_until(reached, f"{more} more are held")


async def _insists(shop: Shop, drop_id: int, n: int) -> tuple[str, list[Reply]]:
    """A buyer who sends the same request with the same key, over and over, across the failover."""
    buyer, replies = f"insists-{n}", list[Reply]()
    until = time.monotonic() + 8
    while time.monotonic() < until and sum(r.status == 201 for r in replies) < 20:
        replies.append(await shop.reserve(drop_id, buyer, buyer))
        await asyncio.sleep(0.05)
    return buyer, replies


@pytest.mark.at_length
async def test_a_standby_that_lagged_begins_one_epoch_and_its_lost_tail_is_counted_and_told(
    two: Pair, there: Settings, tmp_path: Path
) -> None:
    async with sale(there, tmp_path) as (service, drop_id):
        await two.catch_up()  # the standby has the whole drop, which is open
        async with Rush.of(service, drop_id, two.primary.url) as rush:
            await rush.sells(300)
            await two.cut()
            await rush.sells(300)
            two.kill()
            killed = time.monotonic()
            await two.promote()
            promoted = time.monotonic()
            resumed = await sells_again(service, drop_id, promoted)
            await _sells(two, 200)
        await wait_until(lambda: service.settled(drop_id), "nothing is stranded", seconds=8)
        surviving = set(await ask(two.standby, HOLDS))
        promised = promised_by(rush.replies)
        began = dict(zip((id(r) for r in rush.replies), rush.began, strict=True))

        await one_epoch(service, two.standby)
        never_twice(rush.replies, surviving)
        lost = promised.keys() - surviving
        assert len(lost) >= 250, "the standby missed three hundred holds"
        assert all(began[id(promised[each])] < killed for each in lost)
        words = {reply.error for reply in rush.replies if reply.status != 201}
        assert words <= {"RETRYABLE", "OUTCOME_UNKNOWN"}, words

        told = lines(service, "sale.history_lost")
        assert len(told) == 1
        assert told[0]["versions"] > 0
        # At most what was lost indeed, and all of it but the last batch of each worker.
        assert len(lost) - 2 * 60 <= told[0]["units"] <= len(lost) + 2 * 60

        figures = await figures_of(service)

        async def published() -> bool:
            nonlocal figures  # each worker adds up the others' as they were a second ago
            figures = await figures_of(service)
            return figures.value("lost_versions_total") > 0

        await wait_until(published, "the metric tells of it")
        assert figures.value("lost_versions_total") == told[0]["versions"]
        assert figures.value("lost_units_total") == told[0]["units"]
        print(f"{len(lost)} lost, {told[0]['units']} known; sold again {resumed:.2f} s after")
        await service.crowd.close()


@pytest.mark.at_length
async def test_an_old_primary_that_comes_back_is_left_alone(
    two: Pair, there: Settings, tmp_path: Path
) -> None:
    async with sale(there, tmp_path) as (service, drop_id):
        await two.catch_up()  # the standby has the whole drop, which is open
        async with Rush.of(service, drop_id, two.primary.url, clients=20) as rush:
            await rush.sells(100)
            await two.cut()
            two.kill()
            await two.promote()
            await sells_again(service, drop_id, time.monotonic())
        two.raise_the_dead()
        before = await ask(two.primary, HELD)
        for _ in range(3):  # every process has to choose anew, and both take writes
            await ask(
                two.standby,
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
                " WHERE application_name = 'velvetrope'",
            )
            await sells_again(service, drop_id, time.monotonic())
        await wait_until(lambda: service.settled(drop_id), "nothing is stranded", seconds=8)
        await one_epoch(service, two.standby)
        assert await ask(two.primary, HELD) == before
        assert await ask(two.primary, EPOCHS) is None


@pytest.mark.at_length
async def test_a_primary_that_only_stands_still_is_left_as_soon_as_another_was_promoted(
    two: Pair, there: Settings, tmp_path: Path
) -> None:
    """Its connections live on, and no statement on them ever ends."""
    async with sale(there, tmp_path) as (service, drop_id):
        await two.catch_up()  # the standby has the whole drop, which is open
        async with Rush.of(service, drop_id, two.primary.url, clients=20) as rush:
            await rush.sells(100)
            await two.cut()
            held = asyncio.create_task(rush.sells(10**9), name="stuck")
            with two.stopped():
                held.cancel()
                await two.promote()
                resumed = await sells_again(service, drop_id, time.monotonic())
                rush.stop()
            await asyncio.gather(held, return_exceptions=True)
        print(f"sold again {resumed:.2f} s after the promotion")
        await wait_until(lambda: service.settled(drop_id), "nothing is stranded", seconds=8)
        await one_epoch(service, two.standby)
        never_twice(rush.replies, set(await ask(two.standby, HOLDS)))
        before = await ask(two.primary, HELD)  # what it had in its hands when it woke has ended
        await sells_again(service, drop_id, time.monotonic())
        assert await ask(two.primary, HELD) == before


async def test_a_synchronous_standby_loses_no_hold_that_anybody_was_promised(
    two: Pair, there: Settings, tmp_path: Path
) -> None:
    await two.wait_for_standby()
    async with sale(there, tmp_path) as (service, drop_id):
        await two.catch_up()  # the standby has the whole drop, which is open
        async with Rush.of(service, drop_id, two.primary.url) as rush:
            await rush.sells(300)
            asking = asyncio.gather(*(_insists(service, drop_id, n) for n in range(30)))
            await rush.sells(20)
            two.kill()
            await two.promote()
            resumed = await sells_again(service, drop_id, time.monotonic())
            insisted = await asking
        await wait_until(lambda: service.settled(drop_id), "nothing is stranded", seconds=8)
        surviving = set(await ask(two.standby, HOLDS))
        promised = promised_by(rush.replies)

        assert len(promised) >= 300
        assert promised.keys() <= surviving, "a promised hold is gone"
        for buyer, replies in insisted:
            held = [reply for reply in replies if reply.status == 201]
            assert len({reply.json["id"] for reply in held}) == 1, "one key, one hold"
            assert (await service.reserve(drop_id, buyer, buyer)).body == held[0].body
        await one_epoch(service, two.standby)
        never_twice(rush.replies, surviving)
        assert not lines(service, "sale.history_lost")
        assert (await figures_of(service)).value("lost_versions_total") == 0
        print(f"sold again {resumed:.2f} s after the promotion")
        await service.crowd.close()
