"""A keeper does one small thing over and over until told to stop.

Keepers decide when, slices decide what: `work` is a verb of a slice, idempotent and bounded, so
any number of keepers on any number of machines may run it at once.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable

import structlog

from engine.infra.errors import Fault
from engine.infra.log import Seldom
from engine.infra.meter import Round, meter
from engine.infra.redis import Away

log = structlog.get_logger()

Work = Callable[[], Awaitable[float | None]]


class Keeper:
    """One loop. `work` returns when it wants to be called next, in seconds, or None for `every`."""

    def __init__(self, name: str, work: Work, every_seconds: float) -> None:
        self.name = name
        self._work = work
        self._every_seconds = every_seconds
        self._nudged = asyncio.Event()
        self._leaving = False
        self._complaints = Seldom()

    def nudge(self) -> None:
        """Work soon. A hint: it may be lost, doubled or late, and nothing breaks."""
        self._nudged.set()

    def leave(self) -> None:
        """End after the work at hand."""
        self._leaving = True
        self._nudged.set()

    async def run(self) -> None:
        """The loop. A failure is logged and costs one round, never the keeper."""
        while not self._leaving:
            self._nudged.clear()
            await self._rest(await self._once())

    async def _once(self) -> float | None:
        began = time.monotonic()
        outcome = "failed"
        try:
            wish_seconds = await self._work()
            outcome = "done"
            return wish_seconds
        except (Away, Fault) as fault:
            outcome = "waited"
            if self._complaints.due():
                log.warning("keeper.waits", keeper=self.name, why=type(fault).__name__)
        except Exception:
            log.exception("keeper.failed", keeper=self.name)
        finally:
            ended = time.monotonic()
            meter.count("keeper_rounds", self.name, outcome)
            meter.rounds[self.name] = Round(ended, ended - began)
        return None

    async def _rest(self, wish_seconds: float | None) -> None:
        # Jitter, so that many keepers that began together do not stay together.
        seconds = self._every_seconds * random.uniform(0.9, 1.1)
        if wish_seconds is not None:
            seconds = max(min(seconds, wish_seconds), 0.002)
        try:
            await asyncio.wait_for(self._nudged.wait(), seconds)
        except TimeoutError:
            return
