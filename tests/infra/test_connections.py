"""Connections to Postgres that are cut, fall silent or are long in use."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest

from engine.infra import primary, sql
from engine.infra.postgres import Connection, Postgres, Unknown
from engine.infra.settings import Settings


@pytest.fixture
async def postgres(settings: Settings) -> AsyncIterator[Postgres]:
    postgres = Postgres(settings)
    await postgres.open()
    yield postgres
    await postgres.close()


async def test_a_connection_that_is_cut_between_its_reply_and_our_code_is_no_crash(
    postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`_recognise` cuts other connections from another task, when it likes."""

    async def fetchrow(self: Any, *words: Any, **more: Any) -> Any:
        row = await asyncpg.Connection.fetchrow(self, *words, **more)
        self.terminate()  # a look that found a later timeline comes first in this turn of the loop
        return row

    async with postgres.session() as session:
        monkeypatch.setattr(Connection, "fetchrow", fetchrow)
        with suppress(Unknown):
            await session.call(sql.load("engine")["timeline"])


async def test_a_connection_that_is_cut_between_its_commit_and_our_code_is_no_crash(
    postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = asyncpg.transaction.Transaction.commit

    async def and_cut(self: Any) -> None:
        await commit(self)
        self._connection.terminate()

    monkeypatch.setattr(asyncpg.transaction.Transaction, "commit", and_cut)
    try:
        async with postgres.transaction() as session:
            await session.call(sql.load("engine")["timeline"])
    except Unknown:
        pass


@asynccontextmanager
async def _falls_silent(url: str, word: bytes) -> AsyncIterator[str]:
    """A host that passes everything on until this word comes by, and then nothing ever again."""
    parts = urlsplit(url)
    tasks: set[asyncio.Task[None]] = set()
    writers: list[asyncio.StreamWriter] = []

    async def pipe(one: asyncio.StreamReader, two: asyncio.StreamWriter) -> None:
        while data := await one.read(65_536):
            if word in data:
                await asyncio.Event().wait()
            two.write(data)

    async def meet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there = await asyncio.open_connection(parts.hostname, parts.port)
        writers.extend((writer, there[1]))
        for one, two in ((reader, there[1]), (there[0], writer)):
            tasks.add(asyncio.create_task(pipe(one, two), name="pipe"))

    server = await asyncio.start_server(meet, "127.0.0.1", 0)
    host = server.sockets[0].getsockname()
    try:
        yield f"{host[0]}:{host[1]}"
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for each in writers:
            each.transport.abort()
        await asyncio.sleep(0.05)


def _places(url: str, *hosts: str) -> str:
    person, _, rest = url.partition("@")
    host, _, name = rest.partition("/")
    return f"{person}@{','.join(each or host for each in hosts)}/{name}"


async def test_a_host_that_falls_silent_after_the_hand_shake_does_not_hold_us_for_ever(
    database: str,
) -> None:
    """`timeout` ends the driver's own connecting; the question for the timeline comes after it. A
    `_look` that waits for ever ends all looking, and with it `_watch` and every failover."""
    async with _falls_silent(database, b"pg_walfile_name") as silent:
        url = _places(database, silent, "127.0.0.1:1")
        asking = asyncio.create_task(primary.connect(url, timeout=1), name="connect")
        done, _ = await asyncio.wait([asking], timeout=6)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)

    assert done, "still waiting after six times the time-out"


async def test_who_is_cancelled_while_he_waits_for_the_neighbours_leaves_no_connection(
    database: str,
) -> None:
    """As the health check does after 2 s, and whoever drains."""
    names = {"server_settings": {"application_name": "left behind"}}
    async with _falls_silent(database, b"") as silent:
        asking = asyncio.create_task(
            primary.connect(_places(database, "", silent), timeout=3, **names), name="connect"
        )
        await asyncio.sleep(0.15)  # its own is there, and the grace is not over
        asking.cancel()
        told = await asyncio.gather(asking, return_exceptions=True)
        assert isinstance(told[0], asyncio.CancelledError)
        admin = await asyncpg.connect(database)
        until, left = time.monotonic() + 1, 1
        while left and time.monotonic() < until:
            left = await admin.fetchval(
                "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'left behind'"
            )
            await asyncio.sleep(0.05)
        await admin.close()
    del told, asking

    assert not left


def test_several_hosts_in_the_query_are_refused_with_what_to_write() -> None:
    """The driver would ask them in turn, whether or not they take writes."""
    with pytest.raises(ValueError, match="before the database"):
        primary.hosts("postgresql://me@/sale?host=a,b&port=1,2")


@pytest.mark.at_length
async def test_a_long_statement_of_a_keeper_costs_no_connection_a_second(
    settings: Settings,
) -> None:
    """The auditor's and the filler's statements take up to 20 s, and nothing is wrong."""
    postgres = Postgres(settings, statement_timeout_ms=20_000)
    await postgres.open()
    looks = 0
    meet = postgres._meet

    async def counted(connection: Any) -> None:
        nonlocal looks
        looks += 1
        await meet(connection)

    postgres._meet = counted  # type: ignore[method-assign]
    try:
        async with postgres.session() as session:
            await session._connection.fetchval("SELECT pg_sleep(9)")
    finally:
        await postgres.close()

    assert looks <= 3, f"{looks} new connections in 9 s"
