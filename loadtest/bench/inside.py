"""The engine without HTTP: its own `Reserving`, combiner and all, in this process.

Many buyers, each a coroutine that asks for its next unit as soon as it has one: what a worker does
when nothing has to be parsed, written or sent. Postgres and Valkey are the real ones.
"""

from __future__ import annotations

import asyncio
import gc
import os
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import TypeVar

import msgspec
import structlog
import uvloop

from engine import runtime
from engine.infra.combiner import Crew
from engine.infra.postgres import Postgres
from engine.infra.settings import Settings
from engine.runtime import Ground
from engine.sale import drops, shelf
from engine.sale.models import NewDrop, Reserve
from engine.sale.reserve import Reserving
from loadtest.client import Unwatched, Watch
from loadtest.fleet import Untrustworthy

BUYERS = 512  # at once: as many as the bench has connections
STATEMENT_MS = 60_000  # staging asks for more at once than a worker does
DAY_SECONDS = 86_400
SLICES = 12
T = TypeVar("T")


class Sold(msgspec.Struct, frozen=True):
    """What a sale without HTTP came to."""

    units: int
    seconds: float
    cpu_seconds: float  # of this process, which is worker and buyers in one
    course: list[int] = []  # units sold by the end of each twelfth of the time

    @property
    def trend(self) -> float:
        """The rate of the last quarter ÷ that of the first; 1 if it was too short to tell."""
        if len(self.course) < SLICES:
            return 1.0
        quarter = SLICES // 4
        last, first = self.course[-1] - self.course[-1 - quarter], self.course[quarter - 1]
        return last / first if first else 1.0

    @property
    def per_s(self) -> float:
        """Holds a second."""
        return self.units / self.seconds if self.seconds else 0.0


def with_engine(settings: Settings, work: Callable[[Ground], Awaitable[T]]) -> T:
    """Do it with the engine's pools open, as calm about garbage as a worker is."""

    async def run() -> T:
        async with runtime.ground(settings, STATEMENT_MS) as ground:
            return await work(ground)

    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
    gc.collect()
    gc.freeze()
    before = gc.get_threshold()
    gc.set_threshold(50_000, 20, 20)
    try:
        return uvloop.run(run())
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()


async def open_drops(
    postgres: Postgres, units: int, count: int = 1, pick: str = "any"
) -> list[int]:
    """New drops, filled and on sale; nobody has to wait for a keeper."""
    wanted = NewDrop(
        name="Bench",
        price_cents=1_000,
        currency="USD",
        image_url=None,
        starts_at=None,
        ends_at=None,
        hold_seconds=DAY_SECONDS,
        max_hold_seconds=DAY_SECONDS,
        pay_seconds=DAY_SECONDS,
        max_per_buyer=1,
        max_per_order=1,
        total_stock=units,
        pick=pick,
    )
    opened = []
    for _ in range(count):
        async with postgres.transaction() as session:
            opened.append(await drops.create(session, wanted))
    while await drops.fill(postgres):
        pass
    assert not await shelf.unfilled_drops(postgres)
    return opened


def wishes(drop_ids: Sequence[int], units: int) -> Iterator[Reserve]:
    """A wish for each unit of each drop, one drop after the other, each by a new buyer."""
    run = os.urandom(4).hex()
    for drop_id in drop_ids:
        for n in range(units):
            # A request's id is a hash: its place in an index is anywhere.
            yield Reserve(drop_id, f"{run}-{n}", 1, os.urandom(16).hex(), keyed=False)


async def sell(
    ground: Ground,
    wanted: Iterator[Reserve],
    seconds: float,
    watch: Watch | None = None,
    buyers: int = BUYERS,
) -> Sold:
    """Until the time is over or nothing is wanted any more. Raises `Untrustworthy` of a refusal."""
    watch, crew = watch or Unwatched(), Crew()
    watching = crew.start(crew.watch(), "deadlines")
    reserving = Reserving(ground.postgres, ground.bouncer, crew)
    sold, course = 0, list[int]()
    watch.begin()
    cpu, began = time.process_time(), time.perf_counter()
    until = began + seconds

    async def buyer() -> None:
        nonlocal sold
        for wish in wanted:
            await reserving.reserve(wish)
            sold += 1
            if time.perf_counter() >= until:
                return

    async def clerk() -> None:
        for _ in range(SLICES):
            await asyncio.sleep(seconds / SLICES)
            course.append(sold)

    counting = asyncio.create_task(clerk(), name="clerk")
    try:
        async with asyncio.TaskGroup() as group:
            for n in range(buyers):
                group.create_task(buyer(), name=f"buyer-{n}")
        took = Sold(sold, time.perf_counter() - began, time.process_time() - cpu, course)
        watch.end()
    except ExceptionGroup as group:
        raise Untrustworthy(f"a claim failed: {group.exceptions[0]!r}") from group
    finally:
        counting.cancel()
        watching.cancel()
        await crew.drain(5.0)
    return took
