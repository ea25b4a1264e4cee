"""Postgres fails over to a standby: one new epoch, a sale that goes on, and a tail that is counted.

Real servers, real workers and keepers. DATABASE_URL names both hosts, as in production.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import msgspec
import pytest

from engine.infra.settings import Settings
from engine.ops.devstack import Server
from engine.ops.migrate import migrate
from loadtest.chaos.standby import Pair, ask, pair
from tests.support.http import Crowd, Reply
from tests.support.rush import Rush
from tests.support.scrape import Scrape
from tests.support.service import Service
from tests.support.shop import Shop
from tests.support.wait import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

UNITS = 20_000
# Counts the epochs in the database itself; the count is replicated with everything else.
COUNT_EPOCHS = """
CREATE TABLE epochs_begun (epoch bigint);
CREATE FUNCTION count_epoch() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN INSERT INTO epochs_begun VALUES (new.epoch); RETURN NULL; END $$;
CREATE TRIGGER count_epoch AFTER UPDATE OF epoch ON engine_state
    FOR EACH ROW EXECUTE FUNCTION count_epoch();
"""
EPOCHS = "SELECT array_agg(epoch) FROM epochs_begun"
HOLDS = "SELECT array_agg(id::text) FROM reservations WHERE state = 'active'"
HELD = "SELECT held FROM stock"


@pytest.fixture
def two(tmp_path: Path) -> Iterator[Pair]:
    """A primary and a standby."""
    with pair(tmp_path) as both:
        yield both


@pytest.fixture
async def there(two: Pair, settings: Settings) -> Settings:
    """Settings that name both, prepared."""
    settings = msgspec.structs.replace(settings, database_url=two.url)
    await migrate(settings)
    database = await asyncpg.connect(two.primary.url)
    await database.execute(COUNT_EPOCHS)
    await database.close()
    await two.catch_up()
    return settings


@asynccontextmanager
async def _sale(settings: Settings, folder: Path) -> AsyncIterator[tuple[Service, int]]:
    """Two workers, two keepers and a large drop."""
    async with Service.open(settings, folder, keepers=2) as service:
        drop_id = await service.open_drop(UNITS, holdSeconds=600)

        async def filled() -> bool:
            return (await service.stock(drop_id))["availableStock"] == UNITS

        await wait_until(filled, "all units are on the shelf")
        yield service, drop_id


async def _sells_again(shop: Shop, drop_id: int, since: float, seconds: float = 8.0) -> float:
    """Seconds from `since` until somebody buys."""

    async def sells() -> bool:
        return (await shop.reserve(drop_id, f"after-{time.monotonic_ns()}")).status == 201

    await wait_until(sells, "the sale goes on", seconds=seconds - (time.monotonic() - since))
    return time.monotonic() - since


def _promised(replies: list[Reply]) -> dict[str, Reply]:
    return {reply.json["id"]: reply for reply in replies if reply.status == 201}


def _never_twice(replies: list[Reply], surviving: set[str]) -> None:
    """No two of the holds that are there have a unit in common."""
    there = [reply for id, reply in _promised(replies).items() if id in surviving]
    units = Counter(unit["id"] for reply in there for unit in reply.json["units"])
    assert there
    assert max(units.values()) == 1, "a unit was sold twice in one history"


def _lines(service: Service, event: str) -> list[dict[str, Any]]:
    said = [json.loads(line) for line in service.log().splitlines() if line.startswith("{")]
    return [line for line in said if line["event"] == event]


async def _one_epoch(service: Service, server: Server) -> None:
    """It was begun once, and every process that knew the old one knows this one."""
    assert len(begun := await ask(server, EPOCHS)) == 1, begun

    async def everybody_knows() -> bool:
        told = _lines(service, "postgres.epoch")
        return len(told) >= len(service.workers) + len(service.keepers)

    await wait_until(everybody_knows, "workers and keepers have met the new primary", seconds=8)
    assert {line["epoch"] for line in _lines(service, "postgres.epoch")} == set(begun)


async def _figures(service: Service) -> Scrape:
    crowd = Crowd(f"http://127.0.0.1:{service.port}")
    reply = await crowd.send("GET", "/metrics")
    await crowd.close()
    return Scrape(reply.body)


async def test_a_standby_that_lagged_begins_one_epoch_and_its_lost_tail_is_counted_and_told(
    two: Pair, there: Settings, tmp_path: Path
) -> None:
    async with _sale(there, tmp_path) as (service, drop_id):
        async with Rush.of(service, drop_id, two.primary.url) as rush:
            await rush.sells(300)
            await two.cut()
            await rush.sells(300)
            two.kill()
            killed = time.monotonic()
            await two.promote()
            promoted = time.monotonic()
            resumed = await _sells_again(service, drop_id, promoted)
            await asyncio.sleep(0.5)
        await wait_until(lambda: service.settled(drop_id), "nothing is stranded", seconds=8)
        surviving = set(await ask(two.standby, HOLDS))
        promised = _promised(rush.replies)
        began = dict(zip((id(r) for r in rush.replies), rush.began, strict=True))

        await _one_epoch(service, two.standby)
        _never_twice(rush.replies, surviving)
        lost = promised.keys() - surviving
        assert len(lost) >= 250, "the standby missed three hundred holds"
        assert all(began[id(promised[each])] < killed for each in lost)
        words = {reply.error for reply in rush.replies if reply.status != 201}
        assert words <= {"RETRYABLE", "OUTCOME_UNKNOWN"}, words

        told = _lines(service, "sale.history_lost")
        assert len(told) == 1
        assert told[0]["versions"] > 0
        # At most what was lost indeed, and all of it but the last batch of each worker.
        assert len(lost) - 2 * 60 <= told[0]["units"] <= len(lost) + 2 * 60

        async def published() -> bool:
            return (await _figures(service)).value("lost_versions_total") > 0

        await wait_until(published, "the metric tells of it")
        figures = await _figures(service)
        assert figures.value("lost_versions_total") == told[0]["versions"]
        assert figures.value("lost_units_total") == told[0]["units"]
        print(f"{len(lost)} lost, {told[0]['units']} known; sold again {resumed:.2f} s after")
        await service.crowd.close()


async def test_an_old_primary_that_comes_back_is_left_alone(
    two: Pair, there: Settings, tmp_path: Path
) -> None:
    async with _sale(there, tmp_path) as (service, drop_id):
        async with Rush.of(service, drop_id, two.primary.url, clients=20) as rush:
            await rush.sells(100)
            await two.cut()
            two.kill()
            await two.promote()
            await _sells_again(service, drop_id, time.monotonic())
        two.raise_the_dead()
        before = await ask(two.primary, HELD)
        for _ in range(3):  # every process has to choose anew, and both take writes
            await ask(
                two.standby,
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
                " WHERE application_name = 'velvetrope'",
            )
            await _sells_again(service, drop_id, time.monotonic())
        await wait_until(lambda: service.settled(drop_id), "nothing is stranded", seconds=8)
        await _one_epoch(service, two.standby)
        assert await ask(two.primary, HELD) == before
        assert await ask(two.primary, EPOCHS) is None


async def test_a_primary_that_only_stands_still_is_left_as_soon_as_another_was_promoted(
    two: Pair, there: Settings, tmp_path: Path
) -> None:
    """Its connections live on, and no statement on them ever ends."""
    async with _sale(there, tmp_path) as (service, drop_id):
        async with Rush.of(service, drop_id, two.primary.url, clients=20) as rush:
            await rush.sells(100)
            await two.cut()
            held = asyncio.create_task(rush.sells(10**9), name="stuck")
            with two.stopped():
                held.cancel()
                await two.promote()
                resumed = await _sells_again(service, drop_id, time.monotonic())
                rush.stop()
            await asyncio.gather(held, return_exceptions=True)
        print(f"sold again {resumed:.2f} s after the promotion")
        before = await ask(two.primary, HELD)
        await wait_until(lambda: service.settled(drop_id), "nothing is stranded", seconds=8)
        await _one_epoch(service, two.standby)
        _never_twice(rush.replies, set(await ask(two.standby, HOLDS)))
        await _sells_again(service, drop_id, time.monotonic())
        assert await ask(two.primary, HELD) == before


async def test_a_synchronous_standby_loses_no_hold_that_anybody_was_promised(
    two: Pair, there: Settings, tmp_path: Path
) -> None:
    await two.wait_for_standby()
    async with _sale(there, tmp_path) as (service, drop_id):
        async with Rush.of(service, drop_id, two.primary.url) as rush:
            await rush.sells(300)
            two.kill()
            await two.promote()
            resumed = await _sells_again(service, drop_id, time.monotonic())
        await wait_until(lambda: service.settled(drop_id), "nothing is stranded", seconds=8)
        surviving = set(await ask(two.standby, HOLDS))
        promised = _promised(rush.replies)

        assert len(promised) >= 300
        assert promised.keys() <= surviving, "a promised hold is gone"
        await _one_epoch(service, two.standby)
        _never_twice(rush.replies, surviving)
        assert not _lines(service, "sale.history_lost")
        assert (await _figures(service)).value("lost_versions_total") == 0
        print(f"sold again {resumed:.2f} s after the promotion")
        await service.crowd.close()
