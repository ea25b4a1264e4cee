"""How fast the engine claims when HTTP is out of the way: how near it comes to pgbench, and what
large drops, old snapshots and a long history do to it.

Claims are measured through `Reserving` with its combiner, not on the claim statement alone: a
batch is as large as what arrived while the one before was under way, so a slow statement makes
larger batches, which make the next statement cheaper. Only the whole loop tells what a sale feels.
As Python's share would hide half of what Postgres lost, each sample also tells what Postgres took
in `claim_units` for a unit (track_functions), and that is shown beside the ratio.
"""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from urllib.parse import urlsplit

import asyncpg
import msgspec

from engine.infra.ids import new_id
from engine.infra.settings import Settings
from engine.runtime import Ground
from engine.sale import store
from engine.sale.models import STOCK_MAX, Confirm, Reserve
from loadtest.bench import pgbench
from loadtest.bench.inside import DAY_SECONDS, Sold, open_drops, sell, wishes, with_engine
from loadtest.bench.plan import Act, Plan, Sample
from loadtest.bench.stage import Stage
from loadtest.bench.usage import CLIENT
from loadtest.fleet import Untrustworthy, migrate

INSIDE = "engine-inside"
PGBENCH = {f"pgbench-{clients}": clients for clients in (2, 4, 8)}
SMALL, LARGE = "claims-small-drops", "claims-large-drop"
EMPTY, PAST = "claims-empty", "claims-past"
ALONE, BESIDE = "claims-no-snapshot", "claims-snapshot"
WARM_UP_SECONDS = 0.5
CLAIMS_PER_S_MAX = 40_000  # drops are made to last at this rate
PGBENCH_PER_S_MAX = 90_000
FILLED_PER_S = 70_000.0  # units put on the shelf, roughly
LIVED_PER_S = 9_000.0  # units sold and bought, roughly
BOUGHT_AT_ONCE = 1_000
FLUSHED_SECONDS = 0.3  # after a connection ends, until all can see what it counted
LEAST_SHARE = 0.5  # of its time that a sale must last
MS_IN_CLAIMS = """
SELECT coalesce(sum(total_time), 0) FROM pg_stat_user_functions WHERE funcname = 'claim_units'
"""
HELD = "SELECT coalesce(sum(held), 0) FROM stock"
HOLDS = "SELECT id FROM reservations WHERE state = 'active'"


class Claiming(Act):
    """What both acts of claims have in common. No worker and no keeper runs beside them."""

    def __init__(self, plan: Plan, stage: Stage, names: tuple[str, ...]) -> None:
        super().__init__(plan, stage, names)
        stage.migrate()
        self.track(stage.settings)

    def track(self, settings: Settings) -> None:
        """Let this database count what its functions take."""
        name = urlsplit(settings.database_url).path[1:]
        self.stage.query(f"ALTER DATABASE {name} SET track_functions = 'pl'")

    def open(self, settings: Settings, units: int, count: int = 1) -> list[int]:
        """Drops, filled."""

        async def work(ground: Ground) -> list[int]:
            return await open_drops(ground.postgres, units, count)

        return with_engine(settings, work)

    def new(self, settings: Settings, seconds: float, *, snapshot: bool = False) -> Sample:
        """Claims on a new drop."""
        units = min(int((seconds + WARM_UP_SECONDS) * CLAIMS_PER_S_MAX), STOCK_MAX)
        wanted = wishes(self.open(settings, units), units)
        return self.sold(settings, wanted, seconds, snapshot=snapshot)

    def sold(
        self,
        settings: Settings,
        wanted: Iterator[Reserve],
        seconds: float,
        *,
        snapshot: bool = False,
    ) -> Sample:
        """Claims a second, from a checkpoint on; each of them is in the stock afterwards."""
        ask = partial(self.stage.query, url=settings.database_url)
        ask("CHECKPOINT")
        account = self.stage.account()
        held, in_claims = ask(HELD)[0][0], ask(MS_IN_CLAIMS)[0][0]

        async def work(ground: Ground) -> tuple[Sold, Sold]:
            async with _snapshot(settings.database_url, wanted=snapshot):
                before = await sell(ground, wanted, WARM_UP_SECONDS)
                return before, await sell(ground, wanted, seconds, account)

        before, sold = with_engine(settings, work)
        units = before.units + sold.units
        if (grown := ask(HELD)[0][0] - held) != units:
            raise Untrustworthy(f"{units} units were claimed, the stock shows {grown}")
        if sold.seconds < LEAST_SHARE * seconds:
            raise Untrustworthy(f"the drops were sold after {sold.seconds:.1f} s of {seconds}")
        time.sleep(FLUSHED_SECONDS)
        usage = account.usage(sold.units, sold.cpu_seconds)
        micros = {"workers": usage.micros[CLIENT], **usage.micros}
        del micros[CLIENT]
        in_claims = ask(MS_IN_CLAIMS)[0][0] - in_claims
        return Sample(
            value=sold.per_s,
            usage=msgspec.structs.replace(usage, micros=micros),
            facts={"claim_units µs": 1_000 * in_claims / units, "last ÷ first": sold.trend},
        )


class Claims(Claiming):
    """Large drops and small ones, a history and none, and pgbench."""

    names = (INSIDE, *PGBENCH, SMALL, LARGE, EMPTY, PAST)

    def __init__(self, plan: Plan, stage: Stage, names: tuple[str, ...]) -> None:
        super().__init__(plan, stage, names)
        if LARGE in names:
            large = self.open(stage.settings, plan.large_units)
            self._large = wishes(large, plan.large_units)
        if PAST in names:
            self._past = self._database("past")
            self._live_through(plan.past_holds)

    @classmethod
    def opening(cls, plan: Plan) -> float:
        """Servers, the large drop, the history."""
        return 3.0 + plan.past_holds / LIVED_PER_S + plan.large_units / FILLED_PER_S

    @classmethod
    def each(cls, plan: Plan, name: str) -> float:
        """Drops are filled, then sold for a while."""
        rate = PGBENCH_PER_S_MAX if name in PGBENCH else CLAIMS_PER_S_MAX
        filling = 0.0 if name == LARGE else plan.seconds * rate / FILLED_PER_S
        return filling + plan.seconds + WARM_UP_SECONDS + 0.3

    def take(self, name: str, so_far: Mapping[str, Sample]) -> Sample:
        """Measure once."""
        settings, seconds = self.stage.settings, self.plan.seconds
        if name in PGBENCH:
            return self._pgbench(PGBENCH[name])
        if name == SMALL:
            units = self.plan.small_units
            count = int((seconds + WARM_UP_SECONDS) * CLAIMS_PER_S_MAX / units)
            return self.sold(settings, wishes(self.open(settings, units, count), units), seconds)
        if name == LARGE:
            return self.sold(settings, self._large, seconds)
        if name == PAST:
            return self.new(self._past, seconds)
        if name == EMPTY:  # it has no history but this run's
            return self.new(self._database(f"empty_{self.stage.name_run()}"), seconds)
        return self.new(settings, seconds)

    def _pgbench(self, clients: int) -> Sample:
        settings = self.stage.settings
        units = min(self.plan.seconds * PGBENCH_PER_S_MAX, STOCK_MAX)
        [drop_id] = self.open(settings, units)
        for statement in (*pgbench.batches(units), "CHECKPOINT"):
            self.stage.query(statement)
        held, account = self.stage.query(HELD)[0][0], self.stage.account()
        script = pgbench.script(drop_id, self._epoch())
        ran = pgbench.run(settings.database_url, script, clients, self.plan.seconds, account)
        if (grown := self.stage.query(HELD)[0][0] - held) != ran.units:
            raise Untrustworthy(f"pgbench claimed {ran.units} units, the stock shows {grown}")
        usage = account.usage(ran.units, ran.cpu_seconds)
        return Sample(value=ran.units_per_s, usage=usage)

    def _epoch(self) -> int:
        epoch: int = self.stage.query("SELECT epoch FROM engine_state")[0][0]
        return epoch

    def _database(self, name: str) -> Settings:
        """Another database of this server, as the engine makes it."""
        self.stage.query(f"CREATE DATABASE {name}")
        url = urlsplit(self.stage.settings.database_url)._replace(path=f"/{name}").geturl()
        migrate({**self.stage.env, "DATABASE_URL": url})
        settings = msgspec.structs.replace(self.stage.settings, database_url=url)
        self.track(settings)
        return settings

    def _live_through(self, units: int) -> None:
        """A past: so many holds, made by the engine, and every one of them bought."""
        [drop_id] = self.open(self._past, units)

        async def work(ground: Ground) -> None:
            await sell(ground, wishes([drop_id], units), DAY_SECONDS)
            connection = await asyncpg.connect(self._past.database_url)
            ids = [str(row["id"]) for row in await connection.fetch(HOLDS)]
            for first in range(0, len(ids), BOUGHT_AT_ONCE):
                confirms = [
                    (Confirm(id, None, None, os.urandom(16).hex(), keyed=False), new_id())
                    for id in ids[first : first + BOUGHT_AT_ONCE]
                ]
                await store.purchase_units(ground.postgres, confirms)
            await connection.execute("VACUUM ANALYZE")
            left = len(await connection.fetch(HOLDS))
            await connection.close()
            if len(ids) != units or left:
                raise Untrustworthy(
                    f"{units} holds should be past: {len(ids)} were made, {left} live"
                )

        with_engine(self._past, work)


class Snapshots(Claiming):
    """Somebody's report keeps a snapshot open, and no dead row can be cleaned up meanwhile."""

    names = (ALONE, BESIDE)
    rounds_max = 2

    @classmethod
    def opening(cls, plan: Plan) -> float:
        """Servers."""
        return 3.0

    @classmethod
    def each(cls, plan: Plan, name: str) -> float:
        """A large drop is filled, then sold."""
        seconds = plan.snapshot_seconds
        return seconds + min(seconds * CLAIMS_PER_S_MAX, STOCK_MAX) / FILLED_PER_S + 1.0

    def take(self, name: str, so_far: Mapping[str, Sample]) -> Sample:
        """Claims on a new drop, as many seconds as the snapshot is old in the end."""
        return self.new(self.stage.settings, self.plan.snapshot_seconds, snapshot=name == BESIDE)


@asynccontextmanager
async def _snapshot(url: str, *, wanted: bool) -> AsyncIterator[None]:
    """A REPEATABLE READ transaction that has looked once, if one is wanted."""
    if not wanted:
        yield
        return
    connection = await asyncpg.connect(url)
    try:
        async with connection.transaction(isolation="repeatable_read"):
            await connection.fetchval("SELECT count(*) FROM drops")
            yield
    finally:
        await connection.close()
