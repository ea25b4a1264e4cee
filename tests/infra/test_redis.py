"""A mistake of ours is no absence of Redis."""

from __future__ import annotations

from typing import Any

import pytest

from engine.infra import lua
from engine.infra.redis import Redis


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
