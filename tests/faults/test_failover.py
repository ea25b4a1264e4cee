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
from tests.support import pgbouncer
from tests.support.http import Crowd, Reply
from tests.support.keeping import Keeping
from tests.support.pgbouncer import PgBouncer
from tests.support.rush import Rush
from tests.support.scrape import Scrape, scrape
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
    await _execute(two.primary, COUNT_EPOCHS)
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


async def _insists(shop: Shop, drop_id: int, n: int) -> tuple[str, list[Reply]]:
    """A buyer who sends the same request with the same key, over and over, across the failover."""
    buyer, replies = f"insists-{n}", list[Reply]()
    until = time.monotonic() + 8
    while time.monotonic() < until and sum(r.status == 201 for r in replies) < 20:
        replies.append(await shop.reserve(drop_id, buyer, buyer))
        await asyncio.sleep(0.05)
    return buyer, replies


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
            asking = asyncio.gather(*(_insists(service, drop_id, n) for n in range(30)))
            await rush.sells(20)
            two.kill()
            await two.promote()
            resumed = await _sells_again(service, drop_id, time.monotonic())
            insisted = await asking
        await wait_until(lambda: service.settled(drop_id), "nothing is stranded", seconds=8)
        surviving = set(await ask(two.standby, HOLDS))
        promised = _promised(rush.replies)

        assert len(promised) >= 300
        assert promised.keys() <= surviving, "a promised hold is gone"
        for buyer, replies in insisted:
            held = [reply for reply in replies if reply.status == 201]
            assert len({reply.json["id"] for reply in held}) == 1, "one key, one hold"
            assert (await service.reserve(drop_id, buyer, buyer)).body == held[0].body
        await _one_epoch(service, two.standby)
        _never_twice(rush.replies, surviving)
        assert not _lines(service, "sale.history_lost")
        assert (await _figures(service)).value("lost_versions_total") == 0
        print(f"sold again {resumed:.2f} s after the promotion")
        await service.crowd.close()


# ── a synchronous standby is away: commits wait ─────────────────────────────────────────────────


async def _waits(server: Server, text: str) -> int:
    """The backend that waits for the standby with this statement."""
    query = (
        f"SELECT pid FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND query LIKE '%{text}(%'"
    )

    async def waiting() -> int:
        return int(await ask(server, query) or 0)

    return await wait_until(waiting, f"{text} waits for the standby")


async def test_without_its_standby_a_claim_is_unknown_and_never_retryable(
    two: Pair, there: Settings
) -> None:
    impatient = msgspec.structs.replace(there, request_deadline_ms=1_000)
    async with Shop.open(impatient) as shop:
        drop_id = await shop.open_drop(10)
        await two.wait_for_standby()
        await two.cut()

        sent = await shop.reserve(drop_id, "ann", "ann-1")
        again = await shop.reserve(drop_id, "ann", "ann-1")
        never_sent = await shop.reserve(drop_id, "bob")

        assert [sent.error, again.error] == ["OUTCOME_UNKNOWN"] * 2
        assert never_sent.error == "RETRYABLE"
        await two.mend()

        async def known() -> Reply | None:
            reply = await shop.reserve(drop_id, "ann", "ann-1")
            return reply if reply.status == 201 else None

        reply = await wait_until(known, "the standby is back, and she has her hold")
        assert reply is not None
        assert (await shop.stock(drop_id))["heldStock"] == 1
        await wait_until(lambda: shop.settled(drop_id), "nothing is stranded", seconds=8)


@pytest.mark.parametrize(
    ("verb", "first", "then"),
    [
        ("reserve", "claim_units", "abort_requests"),
        ("confirm", "purchase_units", "purchase_units"),
    ],
)
async def test_a_commit_whose_wait_somebody_cancels_is_not_told_before_two_nodes_have_it(
    two: Pair, there: Settings, verb: str, first: str, then: str
) -> None:
    """Postgres calls it success, with a warning: it is on one node only."""
    async with Shop.open(there) as shop:
        drop_id = await shop.open_drop(10)
        hold = await shop.reserve(drop_id, "ann", "ann-1")
        await two.wait_for_standby()
        await two.cut()
        if verb == "reserve":
            asking = asyncio.create_task(shop.reserve(drop_id, "bob", "bob-1"))
        else:
            asking = asyncio.create_task(shop.confirm(hold.json["id"], "ann", "ann-2"))
        pid = await _waits(two.primary, first)
        await asyncio.sleep(2.5)  # past every limit of the server: none of them ends such a wait
        assert await _waits(two.primary, first) == pid

        await ask(two.primary, f"SELECT pg_cancel_backend({pid})")
        await _waits(two.primary, then)

        assert not asking.done(), "told of what is on one node only"
        await two.mend()
        assert (await asking).status == 201
        await two.catch_up()
        assert await ask(two.standby, HELD) == (2 if verb == "reserve" else 0)
        async with Keeping(there):
            await wait_until(lambda: shop.settled(drop_id), "nothing is stranded", seconds=8)
        assert (await scrape(shop)).value("unreplicated_commits_total") > 0


# ── through PgBouncer, which is led to the new primary ──────────────────────────────────────────

LIMITS = """
ALTER ROLE postgres SET statement_timeout = '2s';
ALTER ROLE postgres SET lock_timeout = '1s';
ALTER ROLE postgres SET idle_in_transaction_session_timeout = '2s';
ALTER ROLE postgres SET synchronous_commit = 'on';
"""


@pgbouncer.needed
@pytest.mark.parametrize("mode", ["transaction", "session"])
async def test_through_pgbouncer_one_epoch_begins_and_the_lost_tail_is_told(
    two: Pair, there: Settings, tmp_path: Path, mode: str
) -> None:
    await _execute(two.primary, LIMITS)
    async with PgBouncer.started(mode, two.primary.url) as bouncer:
        through = msgspec.structs.replace(there, database_url=bouncer.url)
        async with _sale(through, tmp_path) as (service, drop_id):
            async with Rush.of(service, drop_id, two.primary.url) as rush:
                await rush.sells(300)
                await two.cut()
                await rush.sells(300)
                two.kill()
                await two.promote()
                bouncer.lead_to(two.standby.url)
                resumed = await _sells_again(service, drop_id, time.monotonic())
            await wait_until(lambda: service.settled(drop_id), "nothing is stranded", seconds=8)
            surviving = set(await ask(two.standby, HOLDS))

            await _one_epoch(service, two.standby)
            _never_twice(rush.replies, surviving)
            assert len(_promised(rush.replies).keys() - surviving) >= 250
            assert len(_lines(service, "sale.history_lost")) == 1
            print(f"sold again {resumed:.2f} s after")
            await service.crowd.close()


@pgbouncer.needed
async def test_a_pgbouncer_that_is_led_elsewhere_in_mid_sale_mixes_no_two_histories(
    two: Pair, there: Settings, tmp_path: Path
) -> None:
    """No connection ends, none is met anew: the claim itself sees that the timeline is another."""
    await _execute(two.primary, LIMITS)
    async with PgBouncer.started("transaction", two.primary.url) as bouncer:
        through = msgspec.structs.replace(there, database_url=bouncer.url)
        async with _sale(through, tmp_path) as (service, drop_id):
            async with Rush.of(service, drop_id, two.primary.url) as rush:
                await rush.sells(200)
                await two.cut()
                await rush.sells(100)
                await two.promote()
                bouncer.lead_to(two.standby.url)
                await wait_until(lambda: _begun(two.standby), "an epoch begins", seconds=8)
                await _sells_again(service, drop_id, time.monotonic())
                left = await ask(two.primary, HELD)
                await _sells_again(service, drop_id, time.monotonic())
            await wait_until(lambda: service.settled(drop_id), "nothing is stranded", seconds=8)
            await _one_epoch(service, two.standby)
            _never_twice(rush.replies, set(await ask(two.standby, HOLDS)))
            assert await ask(two.primary, HELD) == left
            assert await ask(two.primary, EPOCHS) is None
            words = {reply.error for reply in rush.replies if reply.status != 201}
            assert words <= {"RETRYABLE", "OUTCOME_UNKNOWN"}, words


async def _begun(server: Server) -> bool:
    return bool(await ask(server, EPOCHS))


async def _execute(server: Server, statements: str) -> None:
    database = await asyncpg.connect(server.url)
    await database.execute(statements)
    await database.close()
