"""Lists and history come from a replica, and from the primary when there is none to ask."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import msgspec
import pytest

from engine import runtime
from engine.infra import sql
from engine.infra.errors import Misconfigured
from engine.infra.meter import meter
from engine.infra.postgres import Undone
from engine.infra.reads import Reads, steady
from engine.infra.settings import Settings, read
from engine.ops import replica
from engine.ops.migrate import migrate
from engine.runtime import Ground
from loadtest.chaos.standby import pair
from tests.support.shop import Shop

WRITES = sql.parse(
    "-- name: beat :one\n-- Writes.\nINSERT INTO keepers (id) VALUES (@id) RETURNING id;"
)
WHERE = sql.parse(
    "-- name: where :one\n-- Where it is asked.\n"
    "SELECT current_setting('default_transaction_read_only') AS read_only,"
    " pg_is_in_recovery() AS standby;"
)["where"]
FAILS = sql.parse(
    "-- name: fails :one\n-- A conflict with recovery, on the replica alone.\n"
    "SELECT 1 / (current_setting('default_transaction_read_only') = 'off')::integer AS told;"
)["fails"]
LONG = sql.parse(
    "-- name: long :one\n-- A long look.\n"
    "SELECT pg_is_in_recovery() AS standby, count(*) AS rows,"
    " pg_sleep(@seconds::float8) AS slept FROM nonces;"
)["long"]
SLOW = sql.parse("-- name: slow :one\n-- Slow.\nSELECT pg_sleep(@seconds::float8) AS slept;")[
    "slow"
]


@asynccontextmanager
async def reading(ground: Ground, url: str) -> AsyncIterator[Reads]:
    """A pool for reads at a URL."""
    reads = Reads(
        msgspec.structs.replace(ground.settings, database_read_url=url), ground.postgres, 300
    )
    await reads.open()
    yield reads
    await reads.close()


def _fallbacks() -> float:
    return meter.counts.get("replica_fallbacks", {}).get((), 0)


async def test_it_is_asked_for_lists_and_takes_no_writes(ground: Ground) -> None:
    before = _fallbacks()
    async with reading(ground, ground.settings.database_url + "?connection_limit=2") as reads:
        assert reads.size == 2
        assert (await reads.call(WHERE))["read_only"] == "on"
        assert (await ground.postgres.call(WHERE))["read_only"] == "off"
        with pytest.raises(Undone) as refused:
            await reads.call(WRITES["beat"], id="018f0000-0000-7000-8000-000000000000")
        assert refused.value.sqlstate == "25006"
        assert await steady(reads) is reads
        assert _fallbacks() == before


async def test_the_primary_tells_what_the_replica_does_not(ground: Ground) -> None:
    async with reading(ground, ground.settings.database_url) as reads:
        before = _fallbacks()
        assert (await reads.call(FAILS))["told"] == 1  # refused there, and answered here
        with pytest.raises(Undone):  # too long for either
            await reads.call(SLOW, seconds=1)
        assert _fallbacks() == before + 1
        assert (await reads.call(WHERE))["read_only"] == "on", "and it is asked again at once"


async def test_a_replica_that_is_away_costs_nobody_his_list(ground: Ground) -> None:
    with socket.socket() as silent:  # takes connections, and says nothing
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = f"postgresql://postgres@127.0.0.1:{silent.getsockname()[1]}/postgres?sslmode=disable"
        async with reading(ground, url) as reads:
            began = time.monotonic()
            assert (await reads.call(WHERE))["read_only"] == "off"
            assert time.monotonic() - began < 3
            began = time.monotonic()
            for _ in range(20):
                await reads.call(WHERE)
            assert time.monotonic() - began < 0.8, "nobody else waits for it"
            assert await steady(reads) is ground.postgres


def test_its_address_is_read_as_the_primarys_is(settings: Settings) -> None:
    given = read(
        {
            "DATABASE_URL": "postgresql://a/sale?connection_limit=7&schema=shop",
            "DATABASE_READ_URL": "postgresql://b/sale?connection_limit=3&pgbouncer=true&connect_timeout=10",
        }
    )
    assert (given.pool_size, given.pgbouncer, given.schema) == (7, False, "shop")
    replica = given.replica
    assert replica.database_url == "postgresql://b/sale"
    assert (replica.pool_size, replica.pgbouncer, replica.schema) == (3, True, "shop")
    with pytest.raises(Misconfigured, match="DATABASE_READ_URL"):
        read({"DATABASE_READ_URL": "postgresql://b/sale?connection_limit=many"})


def test_the_preflight_tells_a_replica_from_what_is_none() -> None:
    fine: dict[str, object] = {"seed": "a", "follows": True, "behind_seconds": 0.2}
    for found, verdict, word in (
        (fine, "ok", "0.2 s behind"),
        (fine | {"behind_seconds": 99.0}, "warn", "99.0 s behind"),
        (fine | {"behind_seconds": None}, "warn", "nobody knows"),
        (fine | {"follows": False, "behind_seconds": None}, "warn", "no replica"),
        (fine | {"seed": "b"}, "fail", "another database"),
    ):
        told = replica.judge("there", found, "a")
        assert (told.verdict, told.refuses) == (verdict, verdict == "fail")
        assert word in told.found


async def test_the_preflight_looks_at_what_is_named(settings: Settings) -> None:
    assert await replica.look(settings) == []
    for url, word in (
        (settings.database_url, "is no replica"),
        ("postgresql://ann:secret@127.0.0.1:1/sale", "no Postgres of ours"),
    ):
        [told] = await replica.look(msgspec.structs.replace(settings, database_read_url=url))
        assert (told.verdict, "secret" in told.line) == ("warn", False)
        assert word in told.found


@pytest.mark.at_length
async def test_a_real_replica_tells_the_lists_and_its_end_is_not_noticed(
    settings: Settings, tmp_path: Path
) -> None:
    with pair(tmp_path / "pair") as two:
        await migrate(Settings(database_url=two.primary.url))
        given = msgspec.structs.replace(
            settings, database_url=two.primary.url, database_read_url=two.standby.url
        )
        async with Shop.open(given) as shop, runtime.ground(given) as base:
            await two.catch_up()
            assert (await base.reads.call(WHERE))["standby"] is True
            [told] = await replica.look(given)
            assert (told.verdict, "a replica" in told.found) == ("ok", True)
            assert (await shop.send("GET", "/ledger")).status == 200

            # A long look there is in the way of what came from here: it is ended, we are not.
            before = _fallbacks()
            await asyncpg_execute(
                two.standby.url, "ALTER SYSTEM SET max_standby_streaming_delay = 0"
            )
            await asyncpg_execute(two.standby.url, "SELECT pg_reload_conf()")
            looking = asyncio.create_task(base.reads.call(LONG, seconds=1.5))
            await asyncio.sleep(0.5)
            await asyncpg_execute(two.primary.url, "ALTER TABLE nonces ADD COLUMN more text")
            assert (await looking)["standby"] is False
            assert _fallbacks() == before + 1

            two.standby.stop()
            assert (await base.reads.call(WHERE))["standby"] is False
            assert (await shop.send("GET", "/ledger")).status == 200


async def asyncpg_execute(url: str, statement: str) -> None:
    """One statement, past the engine."""
    connection = await asyncpg.connect(url)
    await connection.execute(statement)
    await connection.close()
