"""Wait for a condition, never for a time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")


async def wait_until(
    look: Callable[[], Awaitable[T]], description: str, seconds: float = 10.0, pause: float = 0.01
) -> T:
    """Look again and again until the result is true; it is returned."""
    until = time.monotonic() + seconds
    while True:
        seen = await look()
        if seen:
            return seen
        assert time.monotonic() < until, (
            f"waited {seconds} s until {description}; last saw {seen!r}"
        )
        await asyncio.sleep(pause)
