"""Real pages of real processes in a real browser, watched: see `Window`.

house    workers, a keeper and the mock provider; everybody's
guarded  the same with AUTH=required, and without a provider
browser  one Chromium a test process
windows  opens windows, each a buyer of its own, and asserts at the end that nothing was wrong
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio
from playwright.async_api import Browser

from engine.infra.settings import Settings
from engine.ops import devstack
from tests.browser import chromium
from tests.browser.house import OFTEN, House
from tests.browser.window import Window
from tests.support.clones import cloned
from tests.support.provider import SECRET

JWT_SECRET, HMAC_SECRET = secrets.token_hex(32), secrets.token_hex(32)
Opener = Callable[..., Awaitable[Window]]


@pytest.fixture(scope="session")
async def browser() -> AsyncIterator[Browser]:
    """Chromium, or a skip that says how to get one."""
    if chromium.find() is None:
        pytest.skip(chromium.MISSING)
    async with chromium.started() as browser:
        yield browser


@pytest.fixture(scope="package")
async def house(
    browser: Browser,  # first, so that nothing is started where there is none
    template: str,
    valkey_server: devstack.Server,
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[House]:
    """Everybody's, until a test of another folder comes: each test opens drops of its own."""
    client = redis.asyncio.Redis.from_url(valkey_server.url)
    await client.flushall()
    await client.aclose()
    async with cloned(template) as database:
        settings = Settings(
            database_url=database,
            redis_url=valkey_server.url,
            auth="open",
            payment_secret=SECRET,
            rate_reads_per_buyer=OFTEN,
            rate_writes_per_buyer=OFTEN,
            rate_admin_per_caller=OFTEN,
        )
        async with House.of(settings, tmp_path_factory.mktemp("house")) as house:
            yield house


@pytest.fixture(scope="package")
async def guarded(
    browser: Browser, template: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[House]:
    """A house with a lock, on a Valkey of its own: the other's drops have the same numbers."""
    folder: Path = tmp_path_factory.mktemp("guarded")
    valkey = devstack.start_valkey(folder / "valkey", durable=False)
    try:
        async with cloned(template) as database:
            settings = Settings(database_url=database, redis_url=valkey.url, auth="required")
            given = {"JWT_SECRET": JWT_SECRET, "HMAC_SECRET": HMAC_SECRET, "PAYMENT_URL": ""}
            given |= dict.fromkeys(("RATE_READS_PER_BUYER", "RATE_WRITES_PER_BUYER"), OFTEN)
            async with House.of(settings, folder, 1, **given) as house:
                yield house
    finally:
        valkey.stop()


@pytest.fixture
async def windows(browser: Browser) -> AsyncIterator[Opener]:
    """`await windows(width=360)`: a new window, closed and checked at the end."""
    opened: list[Window] = []
    async with AsyncExitStack() as stack:

        async def open(width: int = 1280, height: int = 800, **options: Any) -> Window:
            viewport = {"width": width, "height": height}
            context = await browser.new_context(viewport=viewport, **options)  # type: ignore[arg-type]
            stack.push_async_callback(context.close)
            opened.append(await Window.of(context))
            return opened[-1]

        yield open
    for window in opened:
        window.check()
