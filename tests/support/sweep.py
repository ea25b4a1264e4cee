"""The sweep: every story once to the end, noting its points; then each of them with its process
killed, or stopped past every time-out, at each of these points.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Literal

import msgspec

from engine.infra.settings import Settings
from tests.support.cells import Cell, World
from tests.support.clones import cloned
from tests.support.nursery import Child, Nursery
from tests.support.seat_stories import STORIES
from tests.support.stories import Story
from tests.support.wait import wait_until

Deed = Literal["kill", "stop"]

STARTING = 4  # processes: one that starts gives its servers 2 s to answer
ALONE = 6  # worlds of their own: each has a database, and keepers that look around all the time
AT_ONCE = {"kill": 10, "stop": 24}  # cells under way; of those that stop most stand still
# The longest of: statement 2 s, transaction 4 s, request 5 s, intent 5 s; and a reaper's round.
PAST_EVERY_TIMEOUT_SECONDS = 7.0
# A new connection is greeted by whoever happens to need it; one story is about that.
GREETING = ("bump_epoch", "limit_transactions", "database_identity")
GREETERS = ("connections_cut", "forgotten", "reconciling", "history_lost")
# Here what is remembered for 0.1 s decides whether a second time comes.
FLEETING = ("too_late", "without_redis")
HITS_MAX = 2  # of one point in one story


class Point(msgspec.Struct, frozen=True, order=True):
    """Where, in which story, and the how-manieth time."""

    story: str
    where: str
    hit: int

    @property
    def message(self) -> str:
        """What is sent there."""
        return self.where.partition("/")[2].rpartition(".")[0]

    def __str__(self) -> str:
        return f"{self.story}: {self.where}:{self.hit}"


class Sweep:
    """Stories and cells of one test."""

    def __init__(self, settings: Settings, server: str, folder: Path) -> None:
        self._settings, self._server = settings, server
        self._folder = folder
        self._room = {deed: asyncio.Semaphore(most) for deed, most in AT_ONCE.items()}
        self._alone = asyncio.Semaphore(ALONE)
        self._starting = asyncio.Semaphore(STARTING)
        self._world: World | None = None
        self._numbers = 0

    @classmethod
    @asynccontextmanager
    async def open(cls, settings: Settings, server: str, folder: Path) -> AsyncIterator[Sweep]:
        """With a world for what workers do; what keepers do has one each."""
        Nursery.ours()  # takes its time before anything runs that has none
        async with World.open(settings) as world:
            sweep = cls(settings, server, folder)
            sweep._world = world
            await world.keep()
            yield sweep

    @asynccontextmanager
    async def _cell(self, story: Story) -> AsyncIterator[Cell]:
        self._numbers += 1
        name = f"{story.name}{self._numbers}"
        async with AsyncExitStack() as stack:
            world = self._world
            assert world is not None
            if story.alone:
                await stack.enter_async_context(self._alone)
                url = await stack.enter_async_context(cloned(self._server))
                settings = msgspec.structs.replace(self._settings, database_url=url, pool_size=4)
                world = await stack.enter_async_context(World.open(settings))
            cell = Cell(world, name)
            cell.environment["METRICS_DIR"] = str(self._folder / "metrics")
            stack.push_async_callback(cell.close)
            yield cell

    async def _start(self, story: Story, cell: Cell, crash_point: str) -> Child:
        armed = cell.environment | {"CRASH_POINT": crash_point}
        async with self._starting:
            child = Nursery.ours().start(story.command, armed, self._folder / f"{cell.name}.log")

            async def ready() -> bool:
                assert child.state != "dead" or story.command == "keep", child.log.read_text()
                return child.state != "running" or child.said(".ready")

            await wait_until(ready, f"{cell.name} is ready", 30, pause=0.02)
        return child

    # ── the census ───────────────────────────────────────────────────────────────────────────

    async def census(self, names: Sequence[str]) -> list[Point]:
        """The points that these stories come by when nothing goes wrong."""
        found = await asyncio.gather(*(self._rehearse(STORIES[name]) for name in names))
        return [point for points in found for point in points]

    async def _rehearse(self, story: Story) -> list[Point]:
        async with self._room["kill"], self._cell(story) as cell:
            acts = story.act(cell)
            await anext(acts)
            book = self._folder / f"{cell.name}.points"
            book.touch()
            child = await self._start(story, cell, f"note:{book}")
            before = len(book.read_text().splitlines()) if story.command == "serve" else 0
            await anext(acts)
            for ask in cell.asks:
                assert any(told.sure for told in ask.told), f"no rehearsal of {cell.name}: {ask}"
            if story.command == "serve":
                await cell.world.keep()
            else:

                async def through() -> bool:
                    return story.until in book.read_text()

                await wait_until(through, f"{cell.name} comes by {story.until}", 20, pause=0.05)
            await _end(cell, acts)
            child.kill()
            seen: Counter[str] = Counter()
            points = []
            for number, where in enumerate(book.read_text().splitlines()):
                seen[where] += 1
                point = Point(story.name, where, seen[where])
                greets = point.message in GREETING and story.name not in GREETERS
                if number >= before and where.startswith(story.whose) and not greets:
                    points.append(point)
            return _few(points)

    # ── the cells ────────────────────────────────────────────────────────────────────────────

    async def run(self, points: Sequence[Point], deed: Deed) -> list[str]:
        """What went wrong, a line each."""
        wrong = await asyncio.gather(*(self._survive(point, deed) for point in points))
        return [each for each in wrong if each]

    async def _survive(self, point: Point, deed: Deed) -> str:
        try:
            async with self._room[deed]:
                await self._meet(point, deed)
        except Exception as problem:
            return f"{deed} {point}: {type(problem).__name__}: {problem}"
        return ""

    async def _meet(self, point: Point, deed: Deed) -> None:
        story = STORIES[point.story]
        async with self._cell(story) as cell:
            acts = story.act(cell)
            await anext(acts)
            child = await self._start(story, cell, f"{deed}:{point.where}:{point.hit}")
            asking = asyncio.create_task(_go_on(acts), name="asking")
            try:
                end = "dead" if deed == "kill" else "stopped"

                async def met() -> bool:
                    return child.state == end

                await wait_until(met, f"{point} is reached", 10, pause=0.02)
                await cell.world.keep()
                if deed == "stop":
                    stopped = time.monotonic()
                    await cell.copies()
                    await asyncio.sleep(
                        max(stopped + PAST_EVERY_TIMEOUT_SECONDS - time.monotonic(), 0)
                    )
                    child.send_signal(signal.SIGCONT)
                await asking
                await cell.copies()
                await _end(cell, acts)
            finally:
                child.kill()
                await asyncio.gather(asking, return_exceptions=True)
                await acts.aclose()


async def _go_on(acts: AsyncGenerator[None, None]) -> None:
    await anext(acts)


async def _end(cell: Cell, acts: AsyncGenerator[None, None]) -> None:
    await cell.settle()
    await anext(acts, None)
    await cell.settle()  # what came of the last act is still to be told
    await cell.check()


def _few(points: list[Point]) -> list[Point]:
    """The first times that each was reached; a keeper goes round and round."""
    times: Counter[str] = Counter()
    kept = []
    for point in points:
        times[point.where] += 1
        once = STORIES[point.story].command == "keep" or point.story in FLEETING
        if times[point.where] <= (1 if once else HITS_MAX):
            kept.append(point)
    return kept
