"""Redis resets connections that lie idle: it is away for a moment, and nothing crashes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

import uvloop

from engine.infra import lua
from engine.infra.redis import Away, Redis
from engine.infra.settings import Settings
from loadtest.chaos.proxy import Proxy

IDLE = 8  # connections that lie in the pool


async def _ask(client: Redis) -> None:
    with suppress(Away):
        await client.run(lua.load("limit"), {"buckets": ["vr1:cut"]}, uses=[1_000, 1_000, 1])


async def _find_them_reset(
    url: str, reset: Callable[[], Awaitable[None]]
) -> list[BaseException | None]:
    client = Redis(url)
    try:
        await asyncio.gather(*(_ask(client) for _ in range(IDLE)))
        await reset()
        return await asyncio.gather(*(_ask(client) for _ in range(IDLE)), return_exceptions=True)
    finally:
        await client.close()


async def test_a_reset_of_idle_connections_is_an_absence_and_no_crash(settings: Settings) -> None:
    """As workers run: on uvloop, which says it with a RuntimeError."""
    loop = asyncio.get_running_loop()
    async with Proxy.open(settings.redis_url) as way:

        async def reset() -> None:
            assert len(way.links) > 1
            await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(way.reset(), loop))

        ends = await asyncio.to_thread(
            lambda: uvloop.run(_find_them_reset(way.url, reset))  # a loop of its own
        )

    assert [end for end in ends if end is not None] == []
