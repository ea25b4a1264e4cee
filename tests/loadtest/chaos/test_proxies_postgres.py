"""Each fate does to one statement, of a real Postgres, what it says, and to that one alone."""

from __future__ import annotations

import asyncio
import struct
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import asyncpg
import pytest

from loadtest.chaos import pgwire
from loadtest.chaos.pgproxy import PgProxy
from loadtest.chaos.traps import Fate
from tests.support.wait import wait_until

PUT = "INSERT INTO seen VALUES ($1)"
GONE = (OSError, asyncpg.PostgresConnectionError, asyncpg.InterfaceError)


@pytest.fixture
async def near(database: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection that is led past the proxy, to a database with a table."""
    connection = await asyncpg.connect(database)
    await connection.execute("CREATE TABLE seen (n int)")
    yield connection
    await connection.close()


@pytest.fixture
async def proxy(database: str, near: asyncpg.Connection) -> AsyncIterator[PgProxy]:
    """A proxy before Postgres."""
    async with PgProxy.open(database, seed=7) as opened:
        yield opened


@pytest.fixture
async def far(proxy: PgProxy) -> AsyncIterator[asyncpg.Connection]:
    """A connection through it that has sent this statement before."""
    connection = await asyncpg.connect(
        proxy.url, server_settings={"application_name": "far", "lock_timeout": "5s"}
    )
    await connection.execute(PUT, 0)
    yield connection
    connection.terminate()


async def _seen(near: asyncpg.Connection) -> list[int]:
    return [row["n"] for row in await near.fetch("SELECT n FROM seen ORDER BY n")]


async def _far_sessions(near: asyncpg.Connection) -> int:
    count = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'far'"
    return int(await near.fetchval(count))


async def test_nothing_is_changed_while_nothing_is_laid(
    proxy: PgProxy, far: asyncpg.Connection
) -> None:
    rows = await far.fetch("SELECT n, repeat('x', 1000) AS x FROM generate_series(1, 5000) AS n")

    assert [row["n"] for row in rows] == list(range(1, 5001))
    assert {row["x"] for row in rows} == {"x" * 1_000}
    await far.copy_records_to_table("seen", records=[(n,) for n in range(1, 50_000)])
    assert await far.fetchval("SELECT count(*) FROM seen") == 50_000
    assert {link._owed for link in proxy.links} == {0}  # type: ignore[attr-defined]


async def test_a_lost_statement_has_run_and_its_client_is_not_told(
    proxy: PgProxy, far: asyncpg.Connection, near: asyncpg.Connection
) -> None:
    trap = proxy.arm("INTO seen", "lose")
    with pytest.raises(GONE):
        await far.execute(PUT, 1)

    assert trap.caught.is_set()
    assert b"INSERT 0 1" in await trap.reply
    assert await _seen(near) == [0, 1]
    assert proxy.done == {"lose": 1}


@pytest.mark.parametrize("fate", ["drop", "tear"])
async def test_a_dropped_or_torn_statement_has_not_run(
    proxy: PgProxy, far: asyncpg.Connection, near: asyncpg.Connection, fate: Fate
) -> None:
    trap = proxy.arm("INTO seen", fate, size=20)
    with pytest.raises(GONE):
        await far.execute(PUT, 1)

    assert trap.caught.is_set()
    await wait_until(lambda: _none(near), "its session has ended")
    assert await _seen(near) == [0]


async def _none(near: asyncpg.Connection) -> bool:
    return await _far_sessions(near) == 0


async def test_a_held_statement_runs_when_it_is_let_go_and_its_client_heard_a_reset_before(
    proxy: PgProxy, far: asyncpg.Connection, near: asyncpg.Connection
) -> None:
    zombie = proxy.arm("INTO seen", "hold")
    with pytest.raises(GONE):
        await far.execute(PUT, 1)
    proxy.refusing = True
    await proxy.cut()
    await proxy.reset()
    assert await _far_sessions(near) == 1, "it outlives what happens to the others"
    assert await _seen(near) == [0]

    zombie.let_go.set()

    assert b"INSERT 0 1" in await zombie.reply
    assert await _seen(near) == [0, 1]
    await wait_until(lambda: _none(near), "its session has ended")


async def test_a_held_statement_runs_after_its_time(
    proxy: PgProxy, far: asyncpg.Connection, near: asyncpg.Connection
) -> None:
    zombie = proxy.arm("INTO seen", "hold", seconds=0.2)
    with pytest.raises(GONE):
        await far.execute(PUT, 1)
    assert await _seen(near) == [0]

    await zombie.reply
    assert await _seen(near) == [0, 1]


async def test_healing_delivers_what_is_held_and_forgets_what_is_laid(
    proxy: PgProxy, far: asyncpg.Connection, near: asyncpg.Connection
) -> None:
    proxy.arm("INTO seen", "hold")
    with pytest.raises(GONE):
        await far.execute(PUT, 1)
    proxy.arm("INTO seen", "drop")
    proxy.risk = {"drop": 1.0}
    proxy.black_hole = True

    await proxy.heal()

    assert await _seen(near) == [0, 1]
    again = await asyncpg.connect(proxy.url)
    await again.execute(PUT, 2)
    await again.close()


async def test_at_the_end_what_is_held_never_arrives(
    database: str, near: asyncpg.Connection
) -> None:
    async with PgProxy.open(database) as proxy:
        zombie = proxy.arm("INTO seen", "hold")
        with pytest.raises(GONE):
            await (await asyncpg.connect(proxy.url)).execute(PUT, 1)
    with pytest.raises(ConnectionError):
        await zombie.reply
    assert await _seen(near) == []


async def test_a_zombie_whose_session_is_ended_has_no_reply(
    proxy: PgProxy, far: asyncpg.Connection, near: asyncpg.Connection
) -> None:
    zombie = proxy.arm("INTO seen", "hold")
    with pytest.raises(GONE):
        await far.execute(PUT, 1)

    await near.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'far'"
    )

    with pytest.raises(ConnectionError):
        await zombie.reply
    assert not proxy.held


@pytest.mark.parametrize(
    ("fate", "seen"), [("lose", [0, 1]), ("drop", [0]), ("tear", [0]), ("hold", [0, 1])]
)
async def test_a_commit_can_be_caught(
    proxy: PgProxy, far: asyncpg.Connection, near: asyncpg.Connection, fate: Fate, seen: list[int]
) -> None:
    trap = proxy.arm("COMMIT", fate, size=3)
    with pytest.raises(GONE):
        async with far.transaction():
            await far.execute(PUT, 1)
    if fate == "hold":
        assert await _seen(near) == [0], "nothing is committed yet"
        trap.let_go.set()
        assert b"COMMIT" in await trap.reply

    await wait_until(lambda: _none(near), "its session has ended")
    assert await _seen(near) == seen


async def test_a_begin_can_be_caught(proxy: PgProxy, far: asyncpg.Connection) -> None:
    trap = proxy.arm("BEGIN", "drop")
    with pytest.raises(GONE):
        async with far.transaction():
            pass
    assert trap.caught.is_set()


async def test_only_what_matches_is_caught_and_as_often_as_was_said(
    proxy: PgProxy, far: asyncpg.Connection, near: asyncpg.Connection
) -> None:
    proxy.arm("INTO seen", "drop", times=2)
    assert await far.fetchval("SELECT 1") == 1
    for _ in range(2):
        connection = await asyncpg.connect(proxy.url)
        with pytest.raises(GONE):
            await connection.execute(PUT, 1)
    await far.execute(PUT, 2)
    proxy.arm("INTO seen", "drop")
    proxy.disarm()
    await far.execute(PUT, 3)

    assert await _seen(near) == [0, 2, 3]
    assert proxy.done == {"drop": 2}


async def test_a_query_can_be_cancelled_through_it(far: asyncpg.Connection) -> None:
    with pytest.raises(TimeoutError):
        await far.execute("SELECT pg_sleep(30)", timeout=0.1)

    assert await far.fetchval("SELECT 1") == 1


def test_a_fate_it_cannot_bring_about_is_refused() -> None:
    with pytest.raises(ValueError, match="duplicate"):
        PgProxy("postgresql://localhost/x").arm("x", "duplicate")


async def test_the_same_seed_brings_the_same_fates(database: str, near: asyncpg.Connection) -> None:
    courses = []
    for _ in range(2):
        async with PgProxy.open(database, seed=3) as proxy:
            proxy.risk = {"lose": 0.2, "drop": 0.2}
            proxy.risky = ("INTO seen",)
            course, connection = [], await asyncpg.connect(proxy.url)
            for n in range(40):
                if connection.is_closed():
                    connection = await asyncpg.connect(proxy.url)
                before = Counter(proxy.done)
                try:
                    await connection.execute(PUT, n)
                except GONE:
                    connection.terminate()
                course.append(dict(proxy.done - before))
            connection.terminate()
            assert sum(proxy.done.values()) == sum(map(bool, course))
            courses.append(course)

    assert courses[0] == courses[1]
    assert {fate for each in courses[0] for fate in each} == {"lose", "drop"}


# ── batches sent ahead ───────────────────────────────────────────────────────────────────────────


def _message(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack("!I", len(body) + 4) + body


def _put(n: int, sync: bool = True) -> bytes:
    text = f"INSERT INTO seen VALUES ({n}) RETURNING n"
    parse = _message(b"P", b"\0" + text.encode() + b"\0\0\0")
    bind = _message(b"B", bytes(2 + 2 + 2 + 2))
    execute = _message(b"E", b"\0" + bytes(4))
    return parse + bind + execute + (_message(b"S", b"") if sync else b"")


@asynccontextmanager
async def _raw(url: str) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    try:
        writer.write(struct.pack("!II", 8, 80877103))
        assert await reader.readexactly(1) == b"N"  # no TLS
        words = f"user\0postgres\0database\0{parts.path[1:]}\0application_name\0far\0\0".encode()
        writer.write(struct.pack("!II", len(words) + 8, 196_608) + words)
        await _heard(reader)
        yield reader, writer
    finally:
        writer.close()


async def _heard(reader: asyncio.StreamReader) -> bytes:
    """The kinds of messages up to ReadyForQuery."""
    kinds = b""
    while not kinds.endswith(b"Z"):
        head = await reader.readexactly(5)
        await reader.readexactly(struct.unpack("!I", head[1:])[0] - 4)
        kinds += head[:1]
    return kinds


@pytest.mark.parametrize(
    ("fate", "seen"), [("lose", [1, 2]), ("drop", [1]), ("tear", [1]), ("hold", [1, 2])]
)
@pytest.mark.parametrize("slice_bytes", [1, 13, 1_000])
async def test_of_batches_sent_ahead_only_the_caught_one_and_what_follows_are_lost(
    proxy: PgProxy, near: asyncpg.Connection, fate: Fate, seen: list[int], slice_bytes: int
) -> None:
    trap = proxy.arm("VALUES (2)", fate, seconds=0.1, size=5)
    before, last = (_put(1) + _put(2))[:-1], (_put(2) + _put(3))[len(_put(2)) - 1 :]
    async with _raw(proxy.url) as (reader, writer):
        for at in range(0, len(before), slice_bytes):
            writer.write(before[at : at + slice_bytes])
            await asyncio.sleep(0)
        writer.write(last)
        if fate == "lose":  # what was answered before arrives
            assert await _heard(reader) == b"12DCZ"
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            while await _heard(reader) == b"12DCZ":
                pass

        assert trap.caught.is_set()
        await wait_until(lambda: _none(near), "its session has ended")
    assert await _seen(near) == seen


async def test_a_statement_that_never_became_whole_leaves_its_trap_for_the_next(
    proxy: PgProxy, near: asyncpg.Connection, far: asyncpg.Connection
) -> None:
    trap = proxy.arm("INTO seen", "drop")
    async with _raw(proxy.url) as (_, writer):
        writer.write(_put(1, sync=False))
        await writer.drain()

        async def half_caught() -> bool:
            return any(link._catching for link in proxy.links)  # type: ignore[attr-defined]

        await wait_until(half_caught, "it is about to be caught")
    await wait_until(lambda: _is(len(proxy.links) == 1), "only the other is there")
    assert not trap.caught.is_set()

    with pytest.raises(GONE):
        await far.execute(PUT, 2)
    assert trap.caught.is_set()
    assert await _seen(near) == [0]


async def _is(fact: bool) -> bool:
    return fact


async def test_a_batch_too_long_to_be_kept_gets_away(
    proxy: PgProxy, near: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pgwire, "LONGEST", 1_000)
    trap = proxy.arm("VALUES (1)", "drop")
    async with _raw(proxy.url) as (reader, writer):
        writer.write(b"".join(_put(n, sync=False) for n in range(1, 31)) + _message(b"S", b""))
        assert await _heard(reader) == b"12DC" * 30 + b"Z"
        writer.write(_put(31))
        assert await _heard(reader) == b"12DCZ"

    assert await _seen(near) == list(range(1, 32))
    assert not trap.caught.is_set()


async def test_who_speaks_another_language_is_passed_on(proxy: PgProxy) -> None:
    parts = urlsplit(proxy.url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    writer.write(b"GET / HTTP/1.1\r\n\r\n")
    try:
        assert await reader.read() == b"", "Postgres hangs up on it"
    finally:
        writer.close()
