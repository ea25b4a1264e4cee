"""Named units as the bouncer sees them: which it takes for free, and which are on their way."""

from __future__ import annotations

import redis.asyncio

from engine.runtime import Ground
from engine.sale import store


async def bits(client: redis.asyncio.Redis, ground: Ground, drop_id: int, name: str) -> set[int]:
    """The numbers in one of the bouncer's bitmaps: `seats` or `picked`."""
    raw = await client.get(ground.bouncer._key(drop_id, name)) or b""
    assert isinstance(raw, bytes)
    return {n for n in range(len(raw) * 8) if raw[n // 8] & 0x80 >> n % 8}


async def agrees(client: redis.asyncio.Redis, ground: Ground, drop_id: int) -> bool:
    """Whether the bouncer takes for free exactly what is on the shelf, and nothing is under way."""
    belief = await ground.bouncer.inspect(drop_id, deep=True)
    found = await store.free_numbers(ground.postgres, drop_id)
    assert found is not None
    figures, numbers = found
    return (
        belief is not None
        and belief.seats_version == belief.version == figures.version
        and (belief.open, belief.strays) == (0, 0)
        and await bits(client, ground, drop_id, "seats") == set(numbers)
        and await bits(client, ground, drop_id, "picked") == set()
    )
