"""From a deadline to the shelf: how late holds end while 200,000 others live.

The holds are made by the engine itself, without HTTP, and last a day. Then SQL gives some of them
a deadline a moment ahead, and a keeper process, which was told nothing, has to find and free them.
Bells were set for the deadline that the engine knew; what is measured is the due index and the
sweeper, which is what must hold when no bell rings.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial

import asyncpg
import msgspec

from engine.runtime import Ground
from loadtest.bench.inside import DAY_SECONDS, open_drops, sell, wishes, with_engine
from loadtest.bench.plan import Act, Plan, Sample
from loadtest.bench.stage import API, Stage
from loadtest.client import percentile
from loadtest.fleet import Untrustworthy

DUE, AT_ONCE = "due", "due-at-once"
SPREAD_SECONDS = 2.0  # over which the deadlines of `due` fall
AHEAD_SECONDS = 1.5  # of the first: longer than SQL takes to set them
LOOK_SECONDS = 0.005
PATIENCE_SECONDS = 60.0
MADE_PER_S = 15_000.0  # holds, roughly

SET_DEADLINES = """
WITH doomed AS (
    SELECT r.id, row_number() OVER () AS n
      FROM (SELECT id FROM reservations
             WHERE drop_id = $1 AND state = 'active' AND expires_at > now() + interval '1 hour'
             ORDER BY request_id  -- a hash: anybody's
             LIMIT $2) AS r
), base AS (SELECT clock_timestamp() + make_interval(secs => $3) AS at)
UPDATE reservations AS r
   SET expires_at = base.at + make_interval(secs => $4::float8 * doomed.n / $2)
  FROM doomed, base
 WHERE r.id = doomed.id
RETURNING r.id, extract(epoch FROM r.expires_at)::float8 AS due,
          clock_timestamp() < base.at AS ahead
"""
ENDED = """
SELECT extract(epoch FROM ended_at - expires_at)::float8 AS lag
  FROM reservations WHERE id = ANY ($1) AND state = 'expired'
"""
FREE = "SELECT free FROM stock WHERE drop_id = $1"


Look = Callable[[], Awaitable[int]]
Course = list[tuple[float, int]]  # free units, and when they were seen


class Deadlines(Act):
    """One large drop, one worker, one process of keepers."""

    names = (DUE, AT_ONCE)

    def __init__(self, plan: Plan, stage: Stage, names: tuple[str, ...]) -> None:
        super().__init__(plan, stage, names)
        stage.migrate()
        each = plan.due_holds * (DUE in names) + plan.due_at_once * (AT_ONCE in names)
        held = plan.live_holds + (plan.rounds + 1) * each  # one may have to be taken again

        async def work(ground: Ground) -> int:
            [drop_id] = await open_drops(ground.postgres, held)
            await sell(ground, wishes([drop_id], held), DAY_SECONDS)
            return drop_id

        self._drop = with_engine(stage.settings, work)
        stage.query("VACUUM ANALYZE")  # as autovacuum would before long, in the midst of it
        self._workers = stage.enter(stage.engine(workers=1))

    @classmethod
    def opening(cls, plan: Plan) -> float:
        """Servers, and the holds."""
        return 4.0 + (plan.live_holds + plan.rounds * plan.due_at_once) / MADE_PER_S

    @classmethod
    def each(cls, plan: Plan, name: str) -> float:
        """Setting deadlines, and what comes of them."""
        return AHEAD_SECONDS + 0.5 + SPREAD_SECONDS * (name == DUE)

    def take(self, name: str, so_far: Mapping[str, Sample]) -> Sample:
        """Let some run out."""
        count = self.plan.due_holds if name == DUE else self.plan.due_at_once
        within = SPREAD_SECONDS if name == DUE else 0.0

        async def work(ground: Ground) -> Sample:
            return await self._run_out(ground, count, within)

        sample = with_engine(self.stage.settings, work)
        stock = self.stage.stock(self._workers, self._drop)
        if stock["heldStock"] < self.plan.live_holds:
            raise Untrustworthy(f"only {stock['heldStock']} other holds live")
        return sample

    async def _run_out(self, ground: Ground, count: int, within: float) -> Sample:
        connection = await asyncpg.connect(self.stage.postgres.url)
        before = await connection.fetchval(FREE, self._drop)
        looks: dict[str, Callable[[], AbstractAsyncContextManager[Look]]] = {
            "row": self._look_at_row,
            "bouncer": partial(self._look_at_bouncer, ground),
            "shown": self._look_at_shown,
        }
        watching = [
            asyncio.create_task(_watch(look, before + count), name=f"watch-{name}")
            for name, look in looks.items()
        ]
        try:
            rows = await connection.fetch(SET_DEADLINES, self._drop, count, AHEAD_SECONDS, within)
            if len(rows) != count or not all(row["ahead"] for row in rows):
                raise Untrustworthy(f"{len(rows)} of {count} deadlines were set, or too slowly")
            seen = dict(zip(looks, await asyncio.gather(*watching), strict=True))
        finally:
            for task in watching:
                task.cancel()
            await asyncio.gather(*watching, return_exceptions=True)
        ended = await connection.fetch(ENDED, [row["id"] for row in rows])
        await connection.close()
        if len(ended) != count:
            raise Untrustworthy(f"{count} holds ran out, {len(ended)} of them ended")
        due = sorted(row["due"] for row in rows)
        lags = sorted(row["lag"] for row in ended)
        return all_on_sale(due[0], lags, seen) if not within else lag(due, lags, before, seen)

    @asynccontextmanager
    async def _look_at_row(self) -> AsyncIterator[Look]:
        connection = await asyncpg.connect(self.stage.postgres.url)

        async def look() -> int:
            return int(await connection.fetchval(FREE, self._drop))

        try:
            yield look
        finally:
            await connection.close()

    @asynccontextmanager
    async def _look_at_bouncer(self, ground: Ground) -> AsyncIterator[Look]:
        async def look() -> int:
            belief = await ground.bouncer.inspect(self._drop)
            return belief.available if belief is not None else -1

        yield look

    @asynccontextmanager
    async def _look_at_shown(self) -> AsyncIterator[Look]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._workers.port)
        path = f"{API}/drops/{self._drop}/stock"
        letter = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode()

        async def look() -> int:
            writer.write(letter)
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            length = int(head.partition(b"content-length:")[2].split()[0])
            told = msgspec.json.decode(await reader.readexactly(length))
            return int(told["availableStock"])

        try:
            yield look
        finally:
            writer.close()


async def _watch(opening: Callable[[], AbstractAsyncContextManager[Look]], wanted: int) -> Course:
    """All that is seen until there are so many free units. Raises `Untrustworthy`."""
    seen: Course = []
    until = time.monotonic() + PATIENCE_SECONDS
    async with opening() as look:
        while not seen or seen[-1][1] < wanted:
            if time.monotonic() > until:
                raise Untrustworthy(f"{wanted} units should be free, {seen[-1][1]} are")
            free = await look()
            # Postgres runs on this machine: its clock is ours.
            seen.append((time.time(), free))
            await asyncio.sleep(LOOK_SECONDS)
    return seen


def shown_lags(due: Sequence[float], before: int, course: Course) -> list[float]:
    """From each deadline, in order, until so many more units were seen free, sorted."""
    lags, at = [], 0
    for n, deadline in enumerate(due, 1):
        while course[at][1] < before + n:
            at += 1
        lags.append(course[at][0] - deadline)
    return sorted(lags)


def lag(
    due: Sequence[float], lags: Sequence[float], before: int, seen: Mapping[str, Course]
) -> Sample:
    """How late the holds ended, of sorted deadlines and sorted lags."""
    row, shown = (shown_lags(due, before, seen[name]) for name in ("row", "shown"))
    return Sample(
        value=percentile(lags, 0.99),
        unit="s",
        facts={
            "p50 s": percentile(lags, 0.5),
            "max s": lags[-1],
            "row p99 s": percentile(row, 0.99),
            "shown p99 s": percentile(shown, 0.99),
        },
    )


def all_on_sale(deadline: float, lags: Sequence[float], seen: Mapping[str, Course]) -> Sample:
    """How long until all units were free, whomever one asks."""
    until = {f"{name} s": course[-1][0] - deadline for name, course in seen.items()}
    facts = {"last ended s": lags[-1], **until}
    return Sample(value=max(until.values()), unit="s", facts=facts)
