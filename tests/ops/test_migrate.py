"""Migrations beside a running sale: nobody waits long for them, and what was cut short is done in
the end."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import pytest

from engine.infra import sql
from engine.infra.errors import Misconfigured
from engine.infra.settings import Settings
from engine.ops import migrate as migrating
from engine.ops.migrate import LOCK, LOCK_WAIT_MS, migrate, pending
from engine.runtime import Ground
from engine.sale import drops
from tests.support.keeping import Keeping
from tests.support.shop import Shop
from tests.support.wait import wait_until

BUILT_BESIDE = "0006_lists_of_a_drop"  # its indexes are built CONCURRENTLY


@pytest.fixture
async def admin(settings: Settings) -> AsyncIterator[asyncpg.Connection]:
    """Looks on, and does harm."""
    connection = await asyncpg.connect(settings.database_url)
    yield connection
    await connection.close()


def _since(first: str) -> int:
    """How many migrations there are from this one on."""
    return sum(path.stem >= first for path in (sql.folder() / "migrations").glob("*.sql"))


async def _left_at(admin: asyncpg.Connection, before: str) -> None:
    """A database as an older version left it: only the migrations before this one have run."""
    await admin.execute("DROP SCHEMA public CASCADE")
    await admin.execute("CREATE SCHEMA public")
    await admin.execute(migrating._BOOK)
    for path in sorted((sql.folder() / "migrations").glob("*.sql")):
        if path.stem < before:
            text = path.read_text()
            await admin.execute(text)
            await admin.execute(
                "INSERT INTO schema_migrations (version, sha256) VALUES ($1, $2)",
                path.stem,
                hashlib.sha256(text.encode()).hexdigest(),
            )


@asynccontextmanager
async def _open_transaction(url: str, statement: str) -> AsyncIterator[None]:
    """A report that is read, or a form that somebody left open, until the end of the block."""
    connection = await asyncpg.connect(url)
    try:
        async with connection.transaction():
            await connection.execute(statement)
            yield
    finally:
        await connection.close()


async def _waits_for_a_lock(admin: asyncpg.Connection, statement: str) -> int:
    """The backend that runs a statement like this and waits; 0 if there is none."""
    await admin.execute("SELECT pg_stat_clear_snapshot()")
    query = (
        "SELECT pid FROM pg_stat_activity WHERE datname = current_database()"
        " AND wait_event_type = 'Lock' AND query LIKE $1"
    )
    return int(await admin.fetchval(query, f"%{statement}%") or 0)


async def test_a_migration_behind_a_reader_lets_others_pass_and_is_done_in_the_end(
    admin: asyncpg.Connection, settings: Settings
) -> None:
    """Whoever waits for a table stops all who come after: so it waits for a moment at a time."""
    await _left_at(admin, "0005")
    told: list[str] = []
    slowest = 0.0
    async with _open_transaction(settings.database_url, "SELECT FROM reservations"):
        running = asyncio.create_task(migrate(settings, told.append))

        async def gave_way() -> bool:
            nonlocal slowest
            asked = time.monotonic()
            await admin.fetch("SELECT FROM drops JOIN reservations ON drop_id = drops.id")
            slowest = max(slowest, time.monotonic() - asked)
            return "0005_operating: waiting for a table that somebody reads" in told

        await wait_until(gave_way, "it gave way")
        assert not running.done()
        assert "0005_operating" in await pending(settings), "half of it is done"
    assert await running == _since("0005")

    assert slowest < LOCK_WAIT_MS / 1000 + 0.5, "others waited behind it for longer"
    assert await pending(settings) == []


async def test_a_migration_that_finds_no_gap_says_what_to_end_and_can_be_run_again(
    admin: asyncpg.Connection, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    await _left_at(admin, "0005")
    monkeypatch.setattr(migrating, "PATIENCE_SECONDS", 0)
    monkeypatch.setattr(migrating, "LOCK_WAIT_MS", 50)
    async with _open_transaction(settings.database_url, "SELECT FROM reservations"):
        with pytest.raises(Misconfigured, match=r"0005_operating waited 0 s .* run it again"):
            await migrate(settings)

    assert await migrate(settings) == _since("0005")
    assert await pending(settings) == []


async def test_an_index_built_beside_a_sale_stops_nobody_and_is_built_again_if_cut_short(
    admin: asyncpg.Connection, settings: Settings
) -> None:
    await _left_at(admin, BUILT_BESIDE)
    valid = "SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass($1)"
    async with _open_transaction(settings.database_url, "LOCK reservations IN ROW EXCLUSIVE MODE"):
        running = asyncio.create_task(migrate(settings))
        build = "CREATE INDEX CONCURRENTLY reservations_by_drop"
        pid = await wait_until(lambda: _waits_for_a_lock(admin, build), "it is under way")

        await admin.execute("SET lock_timeout = '100ms'")
        await admin.execute("UPDATE reservations SET units = '{}'")  # a sale goes on
        await admin.execute("SELECT pg_terminate_backend($1)", pid)
        with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, OSError)):
            await running

    assert await admin.fetchval(valid, "reservations_by_drop") is False, "nothing was left behind"
    assert BUILT_BESIDE in await pending(settings)
    assert await migrate(settings) == _since(BUILT_BESIDE)
    assert await pending(settings) == []
    for index in ("reservations_by_drop", "reservations_aborted_by_age"):
        assert await admin.fetchval(valid, index) is True


async def test_migrating_from_several_machines_at_once_is_migrating_once(
    admin: asyncpg.Connection, settings: Settings
) -> None:
    await _left_at(admin, BUILT_BESIDE)
    await admin.execute("SELECT pg_advisory_lock($1)", LOCK)
    running = [asyncio.create_task(migrate(settings)) for _ in range(3)]

    async def all_wait() -> bool:
        query = (
            "SELECT count(*) FROM pg_stat_activity"
            " WHERE datname = current_database() AND query LIKE '%try_advisory_lock%'"
            " AND pid <> pg_backend_pid()"
        )
        return int(await admin.fetchval(query)) == 3

    await wait_until(all_wait, "they wait for their turn")
    await admin.execute("SELECT pg_advisory_unlock($1)", LOCK)

    done = await asyncio.gather(*running, return_exceptions=True)

    assert sorted(done, key=str) == [0, 0, _since(BUILT_BESIDE)]
    assert await pending(settings) == []


async def test_a_full_shelf_that_nobody_opened_is_opened_by_the_next_filler(
    shop: Shop, ground: Ground, settings: Settings, admin: asyncpg.Connection
) -> None:
    """An older version filled it in the middle of the update, and knew nothing of opening."""
    drop_id = await shop.open_drop(3)
    await admin.execute(
        "UPDATE drops SET prepared_at = NULL, terms_version = terms_version + 1 WHERE id = $1",
        drop_id,
    )
    assert (await shop.show(drop_id))["status"] == "preparing"
    other = await shop.open_drop(3)
    version = (await shop.show(other))["version"]

    assert await drops.fill(ground.postgres) == 0

    assert (await shop.show(drop_id))["status"] == "live"
    assert (await shop.show(other))["version"] == version, "what is open is left alone"
    async with Keeping(settings):
        await wait_until(lambda: shop.settled(drop_id), "the bouncer was told")
    assert (await shop.reserve(drop_id, "ann")).status == 201


async def test_the_limits_of_the_role_are_not_those_of_a_migration(
    settings: Settings, admin: asyncpg.Connection
) -> None:
    """An index of ten million rows takes minutes, and the role may say two seconds."""
    name = await admin.fetchval("SELECT current_database()")
    await admin.execute(f"ALTER DATABASE {name} SET statement_timeout = '2s'")

    async with migrating._connection(settings) as connection:
        assert await connection.fetchval("SHOW statement_timeout") == "0"
