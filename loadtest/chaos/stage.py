"""What nemeses act upon: two servers, the ways to them, and the staff."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import redis.asyncio
import redis.exceptions

from loadtest.chaos.ground import Ground
from loadtest.chaos.pgproxy import PgProxy
from loadtest.chaos.redisproxy import RedisProxy
from loadtest.chaos.staff import Staff

MEMORY = "512mb"  # what devstack gives Valkey


class Stage:
    """All parts of a run that faults are done to."""

    def __init__(
        self, ground: Ground, postgres_way: PgProxy, valkey_way: RedisProxy, staff: Staff
    ) -> None:
        self.ground, self.staff = ground, staff
        self.postgres_way, self.valkey_way = postgres_way, valkey_way
        self.drops: list[int] = []

    async def heal(self) -> None:
        """See to it that no fault is left, whatever its nemesis could not undo."""
        await asyncio.gather(self.postgres_way.heal(), self.valkey_way.heal())
        client = redis.asyncio.Redis.from_url(self.ground.valkey.url, socket_timeout=5)
        with suppress(OSError, redis.exceptions.RedisError):
            await client.config_set("maxmemory", MEMORY)
            await client.client_unpause()
        await client.aclose()
