"""/metrics: what Prometheus reads. Every worker tells of all processes of its machine.

It is made once a second at most, however many ask, and without a turn among the calm requests: a
figure is needed most when there are no turns left. What does not answer in time is left out, and
`postgres_up` and `redis_up` say so.
"""

from __future__ import annotations

import asyncio
import time

import structlog
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from engine.identity.access import Door, is_next_door, require
from engine.infra import metrics
from engine.infra.errors import Fault
from engine.infra.http import Answer, Call
from engine.infra.log import Seldom
from engine.infra.metrics import Values
from engine.infra.postgres import Postgres
from engine.infra.publisher import Publisher
from engine.infra.redis import Redis
from engine.infra.routing import Route
from engine.infra.settings import Settings
from engine.sale import vitals
from engine.sale.bouncer import Bouncer

log = structlog.get_logger()

FRESH_SECONDS = 1.0
LOOK_SECONDS = 2.0  # shorter than the five seconds and more that a scrape may take
CREDENTIALS = {b"authorization", b"x-api-key"}


class MetricsPage:
    """The page of one worker."""

    def __init__(
        self,
        settings: Settings,
        publisher: Publisher,
        postgres: Postgres,
        redis: Redis,
        bouncer: Bouncer,
        door: Door,
    ) -> None:
        self._publisher, self._door = publisher, door
        self._postgres, self._redis, self._bouncer = postgres, redis, bouncer
        self._intent_ttl_seconds = settings.intent_ttl_ms / 1000
        self._making: asyncio.Task[bytes] | None = None
        self._looking: asyncio.Task[Values] | None = None
        self._made_at = 0.0
        self._complaints = Seldom()

    def routes(self) -> list[Route]:
        """/metrics, at the root."""
        return [Route("metrics", "GET", "/metrics", self.show, root=True, operators=True)]

    async def show(self, call: Call) -> Answer:
        """For whoever asks from this machine; from elsewhere with the scope `metrics`."""
        if CREDENTIALS & call.headers.keys() or not is_next_door(call):
            require(await self._door.caller(call), "metrics")
        return Answer(await self._page(), content_type=CONTENT_TYPE_LATEST.encode())

    async def stop(self) -> None:
        """Look no more."""
        tasks = [task for task in (self._making, self._looking) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _page(self) -> bytes:
        """The page as it was made a moment ago, or is being made for all who wait."""
        making = self._making
        if making is None or (making.done() and time.monotonic() >= self._made_at + FRESH_SECONDS):
            making = self._making = asyncio.create_task(self._make(), name="metrics-page")
        return await asyncio.shield(making)  # one who hangs up must not take it from the others

    async def _make(self) -> bytes:
        looked_up, redis_up = await asyncio.gather(self._looked_up(), self._redis.ping())
        page = metrics.text(
            await self._publisher.processes(), {"redis_up": {(): float(redis_up)}, **looked_up}
        )
        self._made_at = time.monotonic()
        return page

    async def _looked_up(self) -> Values:
        """What Postgres and the bouncer say, if they say it in time. One that hangs is waited for
        by one look: the next ones find it under way."""
        if self._looking is None or self._looking.done():
            look = vitals.look(self._postgres, self._bouncer, self._intent_ttl_seconds)
            self._looking = asyncio.create_task(look, name="metrics-look")
        done, _ = await asyncio.wait([self._looking], timeout=LOOK_SECONDS)
        if not done:
            return {"postgres_up": {(): 0.0}}
        try:
            return {"postgres_up": {(): 1.0}, **self._looking.result()}
        except Fault as fault:
            if self._complaints.due():
                log.warning("metrics.blind", why=type(fault).__name__)
            return {"postgres_up": {(): 0.0}}
