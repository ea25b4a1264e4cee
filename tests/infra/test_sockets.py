"""Servers on Unix sockets: a sale is the same, and so is losing one of them."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
import pytest

from engine.infra import primary
from engine.infra.settings import Settings
from engine.ops import devstack, preflight
from engine.runtime import ground
from tests.support.shop import Shop
from tests.support.wait import wait_until


@pytest.fixture
def folder() -> Iterator[Path]:
    """One whose name is short enough for a socket in it."""
    with tempfile.TemporaryDirectory(prefix="v") as name:
        yield Path(name)


@pytest.fixture
def valkey(folder: Path) -> Iterator[list[devstack.Server]]:
    """One of this test's own: the last of the list runs."""
    servers = [devstack.start_valkey(folder, durable=False)]
    yield servers
    servers[-1].stop()


@pytest.fixture
def near(
    settings: Settings, postgres_server: devstack.Server, valkey: list[devstack.Server]
) -> Settings:
    """The settings of a test, by sockets."""
    name = urlsplit(settings.database_url).path
    database = urlsplit(postgres_server.local)._replace(path=name).geturl()
    assert "host=/" in database and valkey[0].local.startswith("unix:///")
    return msgspec.structs.replace(
        settings, database_url=database, redis_url=valkey[0].local, pool_size=4
    )


async def test_a_sale_by_sockets(near: Settings) -> None:
    async with Shop.open(near) as shop:
        drop = await shop.open_drop(1)
        held = await shop.reserve(drop, "ann", key="k")
        again = await shop.reserve(drop, "ann", key="k")
        refused = await shop.reserve(drop, "ben")
        bought = await shop.confirm(held.json["id"], "ann")

    assert (held.status, again.status, refused.status, bought.status) == (201, 201, 409, 201)
    assert again.json["id"] == held.json["id"]


async def test_a_valkey_that_is_killed_is_met_again_at_its_socket(
    near: Settings, valkey: list[devstack.Server], folder: Path
) -> None:
    async with ground(near) as base:
        assert await base.redis.ping()
        valkey[0].process.kill()
        valkey[0].process.wait()

        assert not await base.redis.ping()
        port = urlsplit(valkey[0].url).port or 0
        valkey.append(devstack.start_valkey(folder, port=port, durable=False))

        await wait_until(base.redis.ping, description="Valkey is back")
    assert valkey[0].local == valkey[1].local


async def test_the_preflight_looks_by_sockets_and_says_where_they_are(near: Settings) -> None:
    found = {each.check: each for each in await preflight.everything(near)}

    for name in ("DATABASE_URL", "REDIS_URL"):
        assert found[name].verdict == "ok"
        assert ".socket" in found[name].found
    assert found["postgres role"].verdict == "ok"
    assert found["redis version"].verdict == "ok"


async def test_a_socket_that_is_not_there_is_said_so(near: Settings, tmp_path: Path) -> None:
    nowhere = msgspec.structs.replace(
        near,
        database_url=f"postgresql://postgres@/none?host={tmp_path}&port=1",
        redis_url=f"unix://{tmp_path}/none.sock?password=secret",
    )

    found = {each.check: each for each in await preflight.everything(nowhere)}

    assert re.match(
        r"no Postgres at postgresql://postgres@/none\?host=/", found["DATABASE_URL"].found
    )
    assert re.match(r"no Redis or Valkey at unix:///", found["REDIS_URL"].found)
    assert found["DATABASE_URL"].refuses
    assert "secret" not in found["REDIS_URL"].found


async def test_a_socket_is_one_host_and_several_are_refused(near: Settings) -> None:
    connection = await primary.connect(near.database_url, timeout=5)
    assert await connection.fetchval("SELECT inet_client_addr() IS NULL")
    await connection.close()
    with pytest.raises(ValueError, match="several hosts"):
        primary.hosts("postgresql://me@/sale?host=/run/a,/run/b")
    assert primary.hosts(near.database_url) == [near.database_url]
