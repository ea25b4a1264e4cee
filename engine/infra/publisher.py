"""The publisher: once a second, what this process counted becomes visible to the others.

It also writes the lines that sum up a second: a sold-out drop refuses ten thousand requests, and
one line says so.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import structlog

from engine.infra import tally
from engine.infra.log import Seldom
from engine.infra.meter import Meter
from engine.infra.postgres import Postgres
from engine.infra.redis import Redis
from engine.infra.tally import Gauges, Snapshot, Tally

log = structlog.get_logger()

EVERY_SECONDS = 1.0


class Publisher:
    """The counts of one process, and of those it shares a folder with (none: it is alone)."""

    def __init__(
        self,
        kind: Literal["worker", "keeper", "listener"],
        meter: Meter,
        folder: str,
        postgres: Postgres,
        redis: Redis,
        queued: Callable[[], dict[str, int]] = dict,
    ) -> None:
        self._kind, self._meter, self._queued = kind, meter, queued
        self._postgres, self._redis = postgres, redis
        self._complaints = Seldom()
        self._tally: Tally | None = None
        if folder:
            try:
                self._tally = Tally(Path(folder))
            except OSError as wrong:
                mend = "set METRICS_DIR to a folder that all processes of this machine may write"
                log.warning("metrics.alone", why=str(wrong), mend=mend)
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Publish from now on."""
        self._task = asyncio.create_task(self._run(), name="metrics")

    async def stop(self) -> None:
        """Publish a last time."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self.publish()
        if self._tally is not None:
            self._tally.close()

    async def processes(self) -> list[Snapshot]:
        """What every process of this machine counted: ours as it stands, the others' a second old
        at most, and the sum of the dead."""
        ours = self._snapshot()
        if self._tally is None:
            return [ours]
        try:
            live, gone = await asyncio.to_thread(self._tally.others)
        except OSError as wrong:
            self._complain(wrong)
            return [ours]
        return [ours, *live, gone]

    def publish(self) -> None:
        """Write what was counted, and the lines of this second."""
        self._tell()
        if self._tally is not None:
            try:
                self._tally.write(self._snapshot())
            except OSError as wrong:
                self._complain(wrong)

    async def _run(self) -> None:
        then = time.monotonic()
        while True:
            await asyncio.sleep(EVERY_SECONDS)
            now = time.monotonic()
            if self._redis.away:  # to a second: what is away shorter is seen now and then
                self._meter.count("redis_away_seconds", by=now - then)
            then = now
            self.publish()

    def _snapshot(self) -> Snapshot:
        gauges = Gauges(
            self._queued(),
            self._postgres.size,
            self._postgres.in_use,
            int(self._redis.away),
            self._meter.listeners,
        )
        return tally.taken(self._meter, self._kind, gauges)

    def _tell(self) -> None:
        unsaid = self._meter.errors_unsaid
        for drop_id, codes in self._meter.take_refusals().items():
            log.info("sale.refused", drop_id=drop_id, **codes)
        if unsaid:
            log.warning("http.errors_unsaid", requests=unsaid)

    def _complain(self, wrong: OSError) -> None:
        if self._complaints.due():
            log.warning("metrics.unpublished", why=str(wrong))
