"""What users did is written down behind their backs, and kept by the month."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import asyncpg
import msgspec
import pytest

from engine.infra.addresses import Addresses
from engine.infra.combiner import Crew
from engine.infra.http import Call
from engine.infra.ids import new_id
from engine.infra.meter import meter
from engine.infra.postgres import Unreachable
from engine.record import activity, activity_store
from engine.record.activity import Activity
from engine.record.activity_store import Filter
from engine.runtime import Ground
from tests.support.wait import wait_until

DAYS = 90
MONTHS = [
    datetime(year, month, 17, tzinfo=UTC) for year in range(2000, 2101) for month in range(1, 13)
]
PARTITIONS = """
SELECT c.relname FROM pg_inherits AS i JOIN pg_class AS c ON c.oid = i.inhrelid
 WHERE i.inhparent = 'activity_logs'::regclass ORDER BY c.relname
"""


@pytest.fixture
async def database_of(ground: Ground) -> AsyncIterator[asyncpg.Connection]:
    """A connection past the engine."""
    opened = await asyncpg.connect(ground.settings.database_url)
    yield opened
    await opened.close()


@pytest.fixture
async def crew() -> AsyncIterator[Crew]:
    """Who writes."""
    made = Crew()
    yield made
    await made.drain(5)


@pytest.fixture
def written(ground: Ground, crew: Crew) -> Activity:
    """The log of a worker."""
    return Activity(ground.postgres, crew, Addresses("10.0.0.0/8"))


def _counted() -> dict[str, float]:
    return {labels[0]: times for labels, times in meter.counts.get("activity", {}).items()}


async def _rows(ground: Ground, count: int) -> list[Any]:
    found: list[Any] = []

    async def there() -> bool:
        found[:] = await activity_store.list_activity(ground.postgres, Filter(), None, 1_000)
        return len(found) >= count

    await wait_until(there, f"{count} rows are written")
    return found


def _call(peer: str = "203.0.113.9", **headers: str) -> Call:
    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return Call({"type": "http", "client": (peer, 1), "headers": raw})


async def test_an_act_is_written_with_who_and_from_where(ground: Ground, written: Activity) -> None:
    user, session = new_id(), new_id()
    call = _call("10.1.2.3", user_agent="a" * 400, x_forwarded_for="2001:db8::17")

    written.note("session_created", user, call, session_id=session, platform="ios")
    written.note("user_erased", user)

    erased, created = await _rows(ground, 2)
    assert (created.action, created.user_id, created.session_id) == (
        "session_created",
        user,
        session,
    )
    assert created.ip_address == "2001:db8::17", "whole, though it is counted by its network"
    assert (created.user_agent, msgspec.json.decode(created.details)) == (
        "a" * 300,
        {"platform": "ios"},
    )
    assert (erased.ip_address, erased.user_agent, erased.details) == (None, None, None)
    assert abs((erased.created_at - created.created_at).total_seconds()) < 1


async def test_of_who_was_erased_while_it_waited_nothing_personal_is_written(
    ground: Ground, written: Activity, database_of: asyncpg.Connection
) -> None:
    gone, there = new_id(), new_id()
    erased = "INSERT INTO users (id, status, deleted_at, erased_at) VALUES ($1, 'deleted', $2, $2)"
    await database_of.execute(erased, gone, datetime.now(UTC))
    await database_of.execute("INSERT INTO users (id) VALUES ($1)", there)
    for user in (gone, there):
        written.note("profile_updated", user, _call(user_agent="hers"), fields=["email"])

    rows = {row.user_id: row for row in await _rows(ground, 2)}

    kept = {id: (row.ip_address, row.user_agent, row.details) for id, row in rows.items()}
    assert kept[gone] == (None, None, None)
    assert None not in kept[there]


async def test_nothing_that_anybody_sends_loses_another_row(
    ground: Ground, written: Activity
) -> None:
    user = new_id()
    written.note("one\0\ud800", user, _call("\0", user_agent="\0"), name="\ud83d")
    written.note("two", "no id at all", None, "neither", text="\0", deep=[{"\0": ["\ud800"]}])
    written.note("three", user, None, huge=10**400, odd=object(), nothing=float("nan"))
    written.note("four", user, None, long="x" * 20_000)
    written.note("good", user)

    rows = {row.action: row for row in await _rows(ground, 5)}

    assert set(rows) == {"one??", "two", "three", "four", "good"}
    assert rows["two"].user_id is None
    assert msgspec.json.decode(rows["two"].details) == {"text": "?", "deep": [{"?": ["?"]}]}


async def test_one_row_that_is_refused_does_not_take_the_others_with_it(
    ground: Ground, written: Activity, database_of: asyncpg.Connection
) -> None:
    await database_of.execute("ALTER TABLE activity_logs ADD CHECK (action <> 'bad')")
    before = _counted().get("refused", 0)
    for n in range(30):
        written.note("bad" if n in (3, 4, 29) else f"good{n}", new_id())

    rows = await _rows(ground, 27)

    assert len({row.action for row in rows}) == 27
    await wait_until(lambda: _truth(_counted()["refused"] == before + 3), "three are counted")


async def _truth(true: bool) -> bool:
    return true


async def test_while_postgres_is_away_they_wait_and_are_there_once(
    ground: Ground, written: Activity, monkeypatch: pytest.MonkeyPatch
) -> None:
    insert, away = activity_store.insert_activity, [True, True]

    async def flaky(caller: Any, rows: Any) -> None:
        await insert(caller, rows)  # it was written, and the answer lost
        if away:
            away.pop()
            raise Unreachable

    monkeypatch.setattr(activity, "PAUSE_SECONDS", (0.01, 0.02))
    monkeypatch.setattr(activity_store, "insert_activity", flaky)
    for n in range(5):
        written.note(f"act{n}", new_id())

    await wait_until(lambda: _truth(not away), "both failures were met")
    await asyncio.sleep(0.1)
    assert len(await _rows(ground, 5)) == 5


async def test_what_is_lost_is_counted_and_what_waits_is_flushed(
    ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(activity, "QUEUE_MAX", 3)
    before = _counted()
    crew = Crew()
    written = Activity(ground.postgres, crew, Addresses(""))
    for _ in range(5):
        written.note("flushed", new_id(), _call("127.0.0.1"))
    await crew.drain(5)
    rows = await _rows(ground, 3)
    assert [row.ip_address for row in rows] == ["127.0.0.1"] * 3

    async def unreachable(_caller: Any, _rows: Any) -> None:
        raise Unreachable

    monkeypatch.setattr(activity_store, "insert_activity", unreachable)
    crew = Crew()
    written = Activity(ground.postgres, crew, Addresses(""))
    for _ in range(2):
        written.note("lost", new_id())
    await crew.drain(0.2)

    risen = {name: times - before.get(name, 0) for name, times in _counted().items()}
    assert {name: times for name, times in risen.items() if times} == {
        "noted": 5,
        "overflow": 2,
        "written": 3,
        "unwritten": 2,
    }


async def _insert(database: asyncpg.Connection, moments: list[datetime]) -> None:
    await database.executemany(
        "INSERT INTO activity_logs (id, action, created_at) VALUES ($1, 'moment', $2)",
        [(new_id(), moment) for moment in moments],
    )


async def test_a_row_of_any_month_is_stored(
    ground: Ground, database_of: asyncpg.Connection
) -> None:
    await _insert(database_of, MONTHS)  # no month was made
    everything = "SELECT created_at FROM activity_logs ORDER BY created_at"
    assert [row[0] for row in await database_of.fetch(everything)] == MONTHS
    assert len(MONTHS) == 1_212

    assert await _partitioned(ground, 40_000) == 3
    assert [row[0] for row in await database_of.fetch(everything)] == MONTHS
    months = await database_of.fetch(PARTITIONS)
    assert len(months) == 4
    for (name,) in months[:3]:
        assert await database_of.fetchval(f"SELECT count(*) FROM {name}") == 1, "it was moved"

    await _insert(database_of, MONTHS)
    assert await database_of.fetchval("SELECT count(*) FROM activity_logs") == 2 * 1_212
    for (name,) in months[:3]:
        assert await database_of.fetchval(f"SELECT count(*) FROM {name}") == 2

    await _partitioned(ground, DAYS)  # the default partition's old ones go, row by row
    oldest = await database_of.fetchval("SELECT min(created_at) FROM activity_logs")
    assert 60 < (datetime.now(UTC) - oldest).days < DAYS + 31


async def _partitioned(ground: Ground, days: int) -> int:
    changed = 0
    while more := await activity_store.partition_activity(ground.postgres, days):
        changed += more
    return changed


async def test_a_month_past_its_time_is_thrown_away_whole(
    ground: Ground, database_of: asyncpg.Connection
) -> None:
    for name, start, end in (
        ("2019_12", "2019-12-01", "2020-01-01"),
        ("2020_01", "2020-01-01", "2020-02-01"),
    ):
        await database_of.execute(
            f"CREATE TABLE activity_logs_{name} PARTITION OF activity_logs"
            f" FOR VALUES FROM ('{start}') TO ('{end}')"
        )
    await database_of.execute("SET ROLE pg_monitor")  # who owns no table of ours
    assert await database_of.fetchval("SELECT partition_activity(90)") == 1
    await database_of.execute("RESET ROLE")

    assert await _partitioned(ground, DAYS) == 4
    names = [row[0] for row in await database_of.fetch(PARTITIONS)]
    assert len(names) == 4
    assert names[-1] == "activity_logs_default"


async def test_who_looked_before_a_month_is_made_still_writes(
    ground: Ground, database_of: asyncpg.Connection
) -> None:
    async with database_of.transaction():
        await database_of.execute("SELECT FROM activity_logs")
        making = asyncio.create_task(_partitioned(ground, DAYS))

        async def is_waiting() -> bool:
            await database_of.execute("SELECT pg_stat_clear_snapshot()")
            waits = "SELECT FROM pg_locks WHERE relation = $1::text::regclass AND NOT granted"
            return await database_of.fetchrow(waits, "activity_logs_default") is not None

        await wait_until(is_waiting, "the keeper waits")
        write = "INSERT INTO activity_logs (id, action, created_at) VALUES ($1, 'seen', $2)"
        await database_of.execute(write, new_id(), datetime.now(UTC))

    assert await making == 3
    assert await database_of.fetchval("SELECT count(*) FROM ONLY activity_logs_default") == 0


async def test_months_are_made_while_others_write_and_nothing_is_lost(
    ground: Ground, written: Activity, database_of: asyncpg.Connection
) -> None:
    noted = 0

    async def chatter() -> None:
        nonlocal noted
        while True:
            written.note("chat", new_id())
            noted += 1
            await asyncio.sleep(0.001)

    talking = asyncio.create_task(chatter())
    for _ in range(5):
        await asyncio.sleep(0.08)
        await _partitioned(ground, DAYS)
        for (name,) in (await database_of.fetch(PARTITIONS))[:-1]:  # and unmade, rows and all
            await database_of.execute(
                f"BEGIN; ALTER TABLE activity_logs DETACH PARTITION {name};"
                f" INSERT INTO activity_logs SELECT * FROM {name}; DROP TABLE {name}; COMMIT"
            )
    talking.cancel()

    assert len({row.id for row in await _rows(ground, min(noted, 1_000))}) == min(noted, 1_000)
    total = "SELECT count(*) AS rows, count(DISTINCT id) AS acts FROM activity_logs"

    async def all_there() -> bool:
        row = await database_of.fetchrow(total)
        return row is not None and tuple(row) == (noted, noted)

    await wait_until(all_there, "each act is there once")
