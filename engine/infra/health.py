"""Health: can it serve, and with whom?"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Literal

import msgspec

from engine.infra import sql
from engine.infra.describe import About, Moment
from engine.infra.errors import Problem
from engine.infra.http import Answer, Call, iso
from engine.infra.postgres import Postgres
from engine.infra.redis import Redis
from engine.infra.routing import Route

BEAT_SECONDS = 5.0  # without a sign of life, after which a keeper counts as gone
SAID = {
    "ok": "All is well.",
    "no_redis": "Redis is away: Postgres sells alone, and refusals cost more.",
    "no_keeper": "No keeper runs: what runs out does not come back. Start `velvetrope keep`.",
    "unhealthy": "Postgres is away: nothing can be sold.",
}


Part = Literal["ok", "away"]


class HealthView(msgspec.Struct):
    """How the service is, in words."""

    status: Literal["ok", "degraded", "unhealthy"]
    timestamp: Moment
    message: str
    database: Part
    redis: Part
    keepers: Part


class Sign(msgspec.Struct):
    """A sign of life, for machines."""

    status: Literal["ok", "unhealthy"]


class Health:
    """The three questions operators and balancers ask."""

    def __init__(self, postgres: Postgres, redis: Redis) -> None:
        self._postgres, self._redis = postgres, redis

    def routes(self) -> list[Route]:
        """/health for people, /health/live and /health/ready for machines."""
        return [
            Route(
                "health",
                "GET",
                "/health",
                self.health,
                _about(HealthView, 503),
            ),
            Route("live", "GET", "/health/live", self.live, _about(Sign)),
            Route("ready", "GET", "/health/ready", self.ready, _about(Sign, 503)),
        ]

    async def health(self, call: Call) -> Answer:
        """How the service is.

        200 while Postgres serves (degraded without Redis or keepers), else 503."""
        keepers, redis = await asyncio.gather(self._keepers(), self._redis.ping())
        database = keepers is not None
        status: Literal["ok", "degraded", "unhealthy"] = (
            "unhealthy" if not database else "ok" if redis and keepers else "degraded"
        )
        why = [*([] if redis else ["no_redis"]), *([] if keepers else ["no_keeper"])] or ["ok"]
        why = why if database else ["unhealthy"]
        body = HealthView(
            status,
            iso(datetime.now(UTC)),
            " ".join(SAID[each] for each in why),
            "ok" if database else "away",
            "ok" if redis else "away",
            "ok" if keepers else "away",
        )
        return Answer(body, 503 if status == "unhealthy" else 200)

    async def live(self, call: Call) -> Answer:
        """Does the process run?"""
        return Answer(Sign("ok"))

    async def ready(self, call: Call) -> Answer:
        """Can it serve?"""
        database = await self._keepers() is not None
        return Answer(Sign("ok" if database else "unhealthy"), 200 if database else 503)

    async def _keepers(self) -> int | None:
        """How many keepers live; None: Postgres does not answer."""
        try:
            async with asyncio.timeout(2):
                words = {"seconds": BEAT_SECONDS}
                row = await self._postgres.call(sql.load("engine")["count_keepers"], **words)
        except (Problem, TimeoutError):
            return None
        return int(row["alive"])


def _about(shape: type, *also: int) -> About:
    return About("Health", counted="free", answers=dict.fromkeys((200, *also), shape))
