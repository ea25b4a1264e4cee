"""Of several hosts the one that takes writes is found, whatever the others do or leave undone."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from engine.infra import primary
from engine.infra.errors import Misconfigured
from engine.infra.postgres import Postgres
from engine.infra.settings import Settings, read
from engine.ops.migrate import migrate


@contextmanager
def _silent() -> Iterator[str]:
    """A host that accepts every connection and never says a word."""
    with socket.socket() as line:
        line.bind(("127.0.0.1", 0))
        line.listen(16)
        yield f"127.0.0.1:{line.getsockname()[1]}"


def test_a_url_of_several_hosts_is_one_url_a_host() -> None:
    url = "postgresql://me:p%40ss@a:1,b,[::1]:2/sale?sslmode=require"

    assert primary.hosts(url) == [
        "postgresql://me:p%40ss@a:1/sale?sslmode=require",
        "postgresql://me:p%40ss@b/sale?sslmode=require",
        "postgresql://me:p%40ss@[::1]:2/sale?sslmode=require",
    ]
    assert primary.hosts("postgresql:///sale?host=/run") == ["postgresql:///sale?host=/run"]


def test_settings_leave_such_a_url_as_it_is_and_know_a_pgbouncer() -> None:
    url = "postgresql://me@a:1,b:2/sale?target_session_attrs=read-write"

    assert read({"DATABASE_URL": url}).database_url == url
    assert not read({"DATABASE_URL": url}).pgbouncer
    through = read({"DATABASE_URL": "postgresql://me@a/sale?pgbouncer=true"})
    assert through.pgbouncer
    assert through.database_url == "postgresql://me@a/sale"


async def test_a_host_that_is_dead_without_a_word_keeps_nobody_from_its_neighbour(
    database: str,
) -> None:
    """Asked in turn, the first would use up all the time there is."""
    with _silent() as nobody:
        for places in (f"{nobody},@", f"@,{nobody}", f"{nobody},@,127.0.0.1:1"):
            person, _, place = database.partition("@")
            host, slash, name = place.partition("/")
            url = f"{person}@{places.replace('@', host)}{slash}{name}"

            connection = await primary.connect(url, timeout=2)

            assert await connection.fetchval("SELECT count(*) FROM engine_state") == 1
            connection.terminate()


async def test_migrate_refuses_to_work_through_a_pooler() -> None:
    with pytest.raises(Misconfigured, match="Postgres's own address"):
        await migrate(Settings(database_url="postgresql://a@127.0.0.1:1/x", pgbouncer=True))


async def test_where_no_host_takes_writes_the_start_says_so() -> None:
    with pytest.raises(Misconfigured, match="DATABASE_URL cannot be reached"):
        await Postgres(Settings(database_url="postgresql://a@127.0.0.1:1,127.0.0.1:2/x")).open()
