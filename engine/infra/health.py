"""Health: can it serve, and with whom?"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

from engine.infra import sql
from engine.infra.errors import Problem
from engine.infra.http import Answer, Call, iso
from engine.infra.postgres import Postgres
from engine.infra.redis import Redis
from engine.infra.routing import Route


class Health:
    """The three questions operators and balancers ask."""

    def __init__(self, postgres: Postgres, redis: Redis) -> None:
        self._postgres, self._redis = postgres, redis

    def routes(self) -> list[Route]:
        """/health for people, /health/live and /health/ready for machines."""
        return [
            Route("health", "GET", "/health", self.health),
            Route("live", "GET", "/health/live", self.live),
            Route("ready", "GET", "/health/ready", self.ready),
        ]

    async def health(self, call: Call) -> Answer:
        """200 while Postgres serves (degraded without Redis), else 503."""
        database, redis = await asyncio.gather(self._database(), self._redis.ping())
        status = "unhealthy" if not database else "ok" if redis else "degraded"
        body: dict[str, Any] = {
            "status": status,
            "timestamp": iso(datetime.now(UTC)),
            "message": {
                "ok": "All is well.",
                "degraded": "Redis is away: Postgres decides alone, refusals cost more.",
                "unhealthy": "Postgres is away: nothing can be sold.",
            }[status],
            "database": "ok" if database else "away",
            "redis": "ok" if redis else "away",
        }
        return Answer(body, 503 if status == "unhealthy" else 200)

    async def live(self, call: Call) -> Answer:
        """The process runs."""
        return Answer({"status": "ok"})

    async def ready(self, call: Call) -> Answer:
        """It can serve."""
        database = await self._database()
        return Answer({"status": "ok" if database else "unhealthy"}, 200 if database else 503)

    async def _database(self) -> bool:
        try:
            async with asyncio.timeout(2):
                await self._postgres.call(sql.load("engine")["database_identity"])
        except (Problem, TimeoutError):
            return False
        return True
