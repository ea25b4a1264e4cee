"""A mistake of ours is no absence of Redis, and an absence keeps nobody who leaves."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from engine.infra import lua
from engine.infra.redis import Away, Redis


@pytest.mark.parametrize(
    "mistake",
    [
        RecursionError("maximum recursion depth exceeded"),
        NotImplementedError(),
        RuntimeError("dictionary changed size during iteration"),
        RuntimeError("read() called while another coroutine is already waiting for incoming data"),
    ],
    ids=str,
)
async def test_a_mistake_of_ours_is_not_taken_for_an_absence(
    redis_url: str, mistake: Exception
) -> None:
    client = Redis(redis_url)

    async def wrong(*_: Any) -> Any:
        raise mistake

    client._execute = wrong
    try:
        with pytest.raises(type(mistake)):
            await client.run(lua.load("limit"), {"buckets": ["vr1:x"]}, uses=[1_000, 1_000, 1])
    finally:
        await client.close()


async def test_who_leaves_while_it_is_away_waits_for_no_probe_that_outlives_its_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The client may make a time-out of its own of a cancellation, and the probe lives on."""
    client = Redis("redis://127.0.0.1:1/0")
    disconnect, began, lost = client._pool.disconnect, asyncio.Event(), asyncio.Event()

    async def disconnects(**words: Any) -> None:
        if lost.is_set():
            await disconnect(**words)
            return
        began.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            lost.set()
            raise TimeoutError from None

    monkeypatch.setattr(client._pool, "disconnect", disconnects)
    with pytest.raises(Away):
        await client.run(lua.load("limit"), {"buckets": ["vr1:x"]}, uses=[1_000, 1_000, 1])
    await began.wait()

    async with asyncio.timeout(5):
        await client.close()

    assert lost.is_set()
