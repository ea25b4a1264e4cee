"""Real servers: a Postgres and a Valkey per test process, a cloned database per test.

database   the URL of a fresh, migrated database
redis_url  a Valkey that was emptied for this test
ground     pools and bouncer in this process
shop       an API worker in this process, spoken to without a network
service    real worker and keeper processes behind a real port
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import redis.asyncio

from engine import runtime
from engine.infra.settings import Settings
from engine.ops import devstack
from engine.ops.migrate import migrate
from engine.runtime import Ground
from tests.support import memory
from tests.support.clones import TEMPLATE, cloned, named
from tests.support.provider import SECRET, Provider
from tests.support.service import Service
from tests.support.shop import Shop

OFTEN = "100000/s"  # counted, but as often as a test likes


def pytest_configure() -> None:
    """Before anybody asks for a temporary folder."""
    memory.use()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest first, so that at the end no process waits for another's: they say how long
    they may take."""
    items.sort(key=lambda item: item.get_closest_marker("timeout") is None)


@pytest.fixture(scope="session")
def postgres_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[devstack.Server]:
    """One Postgres for all tests of this process; what it says is durable enough for a test."""
    server = devstack.start_postgres(tmp_path_factory.mktemp("postgres"), durable=False)
    yield server
    server.stop()
    shutil.rmtree(server.data)  # it may be in memory


@pytest.fixture(scope="session")
def valkey_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[devstack.Server]:
    """One Valkey for all tests of this process."""
    server = devstack.start_valkey(tmp_path_factory.mktemp("valkey"), durable=False)
    yield server
    server.stop()


@pytest.fixture(scope="session")
async def template(postgres_server: devstack.Server) -> str:
    """The URL of the server, with a migrated template database in it."""
    admin = await asyncpg.connect(postgres_server.url)
    await admin.execute(f"CREATE DATABASE {TEMPLATE}")
    await admin.close()
    await migrate(Settings(database_url=named(postgres_server.url, TEMPLATE)))
    return postgres_server.url


@pytest.fixture
async def database(template: str) -> AsyncIterator[str]:
    """A fresh database, cloned from the template."""
    async with cloned(template) as url:
        yield url


@pytest.fixture
async def redis_url(valkey_server: devstack.Server) -> str:
    """An empty Valkey."""
    client = redis.asyncio.Redis.from_url(valkey_server.url)
    await client.flushall()
    await client.aclose()
    return valkey_server.url


@pytest.fixture
def settings(database: str, redis_url: str, tmp_path: Path) -> Settings:
    """Settings of a test: AUTH=open, so that a test names buyers as it likes."""
    return Settings(
        database_url=database,
        redis_url=redis_url,
        auth="open",
        data_dir=tmp_path,
        payment_secret=SECRET,
        log_level="warning",
        recount_seconds=0,  # a test wants every audit counted anew
        rate_reads_per_buyer=OFTEN,
        rate_writes_per_buyer=OFTEN,
        rate_admin_per_caller=OFTEN,
    )


@pytest.fixture
async def ground(settings: Settings) -> AsyncIterator[Ground]:
    """Pools and bouncer in this process, for tests of verbs and scripts."""
    async with runtime.ground(settings) as base:
        yield base


@pytest.fixture
async def shop(settings: Settings) -> AsyncIterator[Shop]:
    """One worker in this process."""
    async with Shop.open(settings) as opened:
        yield opened


@pytest.fixture
def provider(shop: Shop) -> Provider:
    """Who takes the money."""
    return Provider(shop)


@pytest.fixture
async def keeping(settings: Settings) -> AsyncIterator[None]:
    """All keepers, in this process."""
    stop, ready = asyncio.Event(), asyncio.Event()
    task = asyncio.create_task(runtime.keep(settings, stop, ready))
    await ready.wait()
    yield
    stop.set()
    await task


@pytest.fixture
async def service(settings: Settings, tmp_path: Path) -> AsyncIterator[Service]:
    """Two worker processes and a keeper on a free port."""
    async with Service.open(settings, tmp_path) as running:
        yield running


@pytest.fixture(autouse=True)
async def _nothing_is_left() -> AsyncIterator[None]:
    """No test leaves a task behind."""
    before = asyncio.all_tasks()
    yield
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(2):
            while left := _strangers(before):
                await asyncio.wait(left, timeout=0.1)
    left = _strangers(before)
    assert not left, f"tasks left behind: {left}"


def _strangers(before: set[asyncio.Task[Any]]) -> set[asyncio.Task[Any]]:
    return {task for task in asyncio.all_tasks() - before if task is not asyncio.current_task()}
