"""A primary and a standby that follows it, and what may become of the two.

Receiving is cut by a setting, not by a signal: a stopped walreceiver has megabytes of log in its
socket, which it reads as soon as it goes on, so the tail that is lost would be no known one.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import psutil  # type: ignore[import-untyped, unused-ignore]

from engine.ops.devstack import Server, start_postgres

PATIENCE_SECONDS = 20.0


class Pair:
    """Two Postgres servers, of which one is the primary."""

    def __init__(self, base: Path, durable: bool) -> None:
        self._base, self._durable = base, durable
        self._way = ""
        self.primary = start_postgres(base / "primary", durable=durable)
        try:
            self.standby = start_postgres(
                base / "standby", durable=durable, primary=self.primary.url
            )
        except BaseException:
            self.primary.stop()
            raise

    @property
    def url(self) -> str:
        """Where both are, as DATABASE_URL names them."""
        places = [urlsplit(each.url).netloc.rpartition("@")[2] for each in self.servers]
        return f"postgresql://postgres@{','.join(places)}/postgres"

    @property
    def servers(self) -> tuple[Server, Server]:
        """The primary that was, and the one that will be."""
        return self.primary, self.standby

    async def catch_up(self) -> None:
        """Wait until the standby has everything."""
        behind = (
            "SELECT count(*) = 0 OR bool_or(replay_lsn < pg_current_wal_lsn())"
            " FROM pg_stat_replication WHERE state = 'streaming'"
        )
        await _until(self.primary, f"SELECT NOT ({behind})", "the standby has caught up")

    async def wait_for_standby(self, names: str = "FIRST 1 (*)") -> None:
        """From now on a commit is told when the standby has it, too; no names: as before."""
        await _set(self.primary, "synchronous_standby_names", names)
        if names:
            sync = "SELECT count(*) > 0 FROM pg_stat_replication WHERE sync_state = 'sync'"
            await _until(self.primary, sync, "the standby is synchronous")

    async def cut(self) -> None:
        """The standby receives no more; what it has received, it has replayed."""
        self._way = await ask(self.standby, "SHOW primary_conninfo")
        await _set(self.standby, "primary_conninfo", "")
        gone = "SELECT count(*) = 0 FROM pg_stat_replication"
        await _until(self.primary, gone, "the standby receives nothing")
        level = "SELECT pg_last_wal_receive_lsn() <= pg_last_wal_replay_lsn()"
        await _until(self.standby, level, "the standby has replayed what it has")

    async def mend(self) -> None:
        """The standby receives again."""
        await _set(self.standby, "primary_conninfo", self._way)

    def kill(self) -> None:
        """kill -9 of every process of the primary: no farewell, no last write."""
        for process in _family(self.primary):
            with suppress(psutil.NoSuchProcess):
                process.kill()

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """The primary stands still: it keeps every connection, and answers nobody."""
        family = _family(self.primary)
        for process in family:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            for process in reversed(family):
                with suppress(psutil.NoSuchProcess):
                    process.send_signal(signal.SIGCONT)

    async def promote(self) -> None:
        """The standby becomes the primary, on a timeline of its own."""
        promoted = await ask(self.standby, "SELECT pg_promote(wait_seconds => 20)")
        assert promoted, "the standby was not promoted"

    def raise_the_dead(self) -> None:
        """Start the old primary on its port again: it knows of no other, and takes writes."""
        port = urlsplit(self.primary.url).port or 0
        base, durable = self._base / "primary", self._durable
        self.primary = start_postgres(base, port=port, durable=durable)

    def stop(self) -> None:
        """End both."""
        for server in self.servers:
            server.stop()


@contextmanager
def pair(base: Path, *, durable: bool = False) -> Iterator[Pair]:
    """A primary and its standby in a folder, until the end of the block."""
    two = Pair(base, durable)
    try:
        yield two
    finally:
        two.stop()


async def ask(server: Server, query: str) -> Any:
    """One value, by a connection of its own."""
    connection = await asyncpg.connect(server.url, timeout=10)
    try:
        return await connection.fetchval(query)
    finally:
        connection.terminate()


def _family(server: Server) -> list[psutil.Process]:
    """The server first, so that it makes no more children."""
    parent = psutil.Process(server.pid)
    return [parent, *parent.children(recursive=True)]


async def _set(server: Server, name: str, value: str) -> None:
    connection = await asyncpg.connect(server.url, timeout=10)
    try:
        await connection.execute(f"ALTER SYSTEM SET {name} = {_quoted(value)}")
        await connection.execute("SELECT pg_reload_conf()")
    finally:
        connection.terminate()


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


async def _until(server: Server, question: str, what: str) -> None:
    connection = await asyncpg.connect(server.url, timeout=10)
    try:
        until = time.monotonic() + PATIENCE_SECONDS
        while not await connection.fetchval(question):
            if time.monotonic() > until:
                raise TimeoutError(f"waited {PATIENCE_SECONDS:g} s until {what}")
            await asyncio.sleep(0.02)
    finally:
        connection.terminate()
