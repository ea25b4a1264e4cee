"""Requests a second: the engine next to an empty server and to the obvious ways of doing it.

Every hold is checked: a round is refused if the stock that the server reports did not grow by
what the client was promised, give or take the requests in flight when the client hung up.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import msgspec

from loadtest import client
from loadtest.bench import paced, wrk
from loadtest.bench.plan import Act, Plan, Sample
from loadtest.bench.stage import (
    API,
    LIMITS_OFF,
    RESERVE,
    WARM_UP_SECONDS,
    Stage,
    check_promises,
    requests_per_s,
    settled,
)
from loadtest.client import Figures, Shot
from loadtest.fleet import Fleet, Untrustworthy, ask

ECHO, HOLDS, SOLD_OUT, KEYED = "echo", "holds", "sold-out", "sold-out-keyed"
ECHO_64, HOLDS_64 = "echo-64", "holds-64"
UNLIMITED = {HOLDS: "holds-unlimited", SOLD_OUT: "sold-out-unlimited"}
ECHO_PAIRS, PAIRS, MINTS = "echo-pairs", "pairs", "mints"
ECHO_PACED, PACED = "echo-paced", "holds-paced"
ONE_BY_ONE = {f"one-by-one-{pool}": pool for pool in (4, 8, 16, 32)}
FOR_UPDATE = "for-update"
FOR_UPDATE_POOL = 8
OBVIOUS_PER_S_MAX = 6_000  # their drops are made to last at this rate
BASELINES = {name: ("one_by_one", pool) for name, pool in ONE_BY_ONE.items()} | {
    FOR_UPDATE: ("for_update", FOR_UPDATE_POOL)
}
CLIENTS = {f"{what}-by-{who}": (what, who) for what in (ECHO, HOLDS) for who in ("wrk", "own")}
FEW = 64
BUY = f"{API}/purchases"
MINT = f"{API}/mint"
KEPT_SHARE = 0.97  # of a paced load's rate must be answered while it lasts


class Rates(Act):
    """Two workers of each system, one load after the other."""

    names = (
        *(ECHO, HOLDS, UNLIMITED[HOLDS]),
        *(SOLD_OUT, UNLIMITED[SOLD_OUT], KEYED),
        *(ECHO_64, HOLDS_64, ECHO_PAIRS, PAIRS, MINTS, ECHO_PACED, PACED),
        *(*ONE_BY_ONE, FOR_UPDATE),
    )

    def __init__(self, plan: Plan, stage: Stage, names: tuple[str, ...]) -> None:
        super().__init__(plan, stage, names)
        stage.age_log()
        self._echo = stage.enter(stage.baseline("echo"))
        self._engine = stage.enter(stage.engine())
        if set(UNLIMITED.values()) & set(names):
            self._unlimited = stage.enter(stage.engine(env=LIMITS_OFF))
        self._sold_out = stage.open_drop(self._engine, 1)
        if (told := self._wish("the-one")) != 201:
            raise Untrustworthy(f"the only unit of a new drop was refused: {told}")

    @classmethod
    def opening(cls, plan: Plan) -> float:
        """Servers, log files, workers."""
        return 7.0 if plan.quick else 12.0

    @classmethod
    def each(cls, plan: Plan, name: str) -> float:
        """Warm-up, load, and what a drop takes to be filled and to come to rest."""
        quiet = ECHO in name or "sold" in name
        return plan.seconds + WARM_UP_SECONDS + (0.3 if quiet else 1.0 + plan.seconds / 3)

    def take(self, name: str, so_far: Mapping[str, Sample]) -> Sample:
        """Measure once."""
        if name in (ECHO, ECHO_64):
            shot = Shot(port=self._echo.port, path="/reservations", run="")
            few = FEW if name == ECHO_64 else None
            return self.stage.load(self._echo, shot, connections=few, score=requests_per_s)
        if name in (HOLDS, HOLDS_64):
            return self.stage.holds(self._engine, connections=FEW if name == HOLDS_64 else None)
        if name == UNLIMITED[HOLDS]:
            return self.stage.holds(self._unlimited)
        if name in (SOLD_OUT, KEYED):
            return self._refused(self._engine, keyed=name == KEYED)
        if name == UNLIMITED[SOLD_OUT]:
            return self._refused(self._unlimited, keyed=False)
        if name in BASELINES:
            return self._obvious(*BASELINES[name])
        if name in (ECHO_PAIRS, PAIRS):
            return self._paired(name)
        if name == MINTS:
            return self._minted()
        if HOLDS not in so_far:
            raise Untrustworthy("there is no rate of holds to take the half of")
        return self._paced(name, so_far[HOLDS].value / 2)

    def _refused(self, workers: Fleet, *, keyed: bool) -> Sample:
        shot = Shot(port=workers.port, path=RESERVE, run="", drop_id=self._sold_out, keyed=keyed)
        sample = self.stage.load(workers, shot, score=requests_per_s)
        told = self._wish(self.stage.name_run())  # wrk tells no statuses: ask for one
        if sample.figures is None or sample.figures.ok or told != 409:
            raise Untrustworthy(f"sold out, yet there were holds, and an answer of {told}")
        return sample

    def _wish(self, buyer: str) -> int:
        """What a single buyer of the sold-out drop is told."""
        wish = {"dropId": self._sold_out, "userId": buyer}
        return ask(self._engine.port, RESERVE, wish)[0]

    def _obvious(self, name: str, pool: int) -> Sample:
        """A baseline, started for this load alone: its connections would be in others' way."""
        with self.stage.baseline(name, POOL_SIZE=str(pool)) as workers:
            units = (self.plan.seconds + WARM_UP_SECONDS) * OBVIOUS_PER_S_MAX
            drop_id = ask(workers.port, "/drops", {"totalStock": units})[1]["id"]
            shot = Shot(port=workers.port, path="/reservations", run="", drop_id=drop_id)
            ledger = partial(_units_held, workers, drop_id)
            return self.stage.checked_load(workers, shot, ledger)

    def _paired(self, name: str) -> Sample:
        """Reserve, then buy: two requests a pair, of which the second waits for the first. A
        connection of our own client buys what it got itself; a thread of wrk, what any did."""
        if name == ECHO_PAIRS:
            path = "/reservations"
            shot = Shot(port=self._echo.port, path=path, run="", then="/purchases")
            return self.stage.load(self._echo, shot, score=requests_per_s)
        drop_id = self.stage.open_drop(self._engine, self.stage.units)
        shot = Shot(port=self._engine.port, path=RESERVE, run="", drop_id=drop_id, then=BUY)
        stock = partial(self.stage.stock, self._engine, drop_id)
        before: list[tuple[int, int]] = []

        def pairs() -> tuple[int, int]:
            """Units held or sold, and units sold."""
            settled(lambda: stock()["soldStock"])
            seen = stock()
            return seen["heldStock"] + seen["soldStock"], seen["soldStock"]

        sample = self.stage.load(self._engine, shot, before=lambda: before.append(pairs()))
        assert sample.figures is not None
        taken, sold = (now - then for now, then in zip(pairs(), before[0], strict=True))
        check_promises(sample.figures, taken + sold, self.plan.connections)
        if taken - sold > self.plan.connections + sample.figures.errors:
            raise Untrustworthy(f"{taken - sold} of {taken} holds were not bought: no pairs")
        pairs_per_s = sold / sample.figures.seconds
        facts = {"bought": sold / max(taken, 1)}
        return msgspec.structs.replace(sample, value=pairs_per_s, facts=facts)

    def _minted(self) -> Sample:
        """Receipts, every time a new one of a new user; each answer is a number that is sold."""
        drop_id = self.stage.open_tier(self._engine, self.stage.units)
        shot = Shot(port=self._engine.port, path=MINT, run="", drop_id=drop_id, receipts=True)
        stock = partial(self.stage.stock, self._engine, drop_id)
        return self.stage.checked_load(self._engine, shot, lambda: stock()["soldStock"])

    def _paced(self, name: str, rate: float) -> Sample:
        """The p99 at a fixed rate, from the moment when each request was due."""
        fire = partial(paced.fire, rate=rate)
        if name == ECHO_PACED:
            shot = Shot(port=self._echo.port, path="/reservations", run="")
            sample = self.stage.load(self._echo, shot, fire=fire, score=_p99_ms)
        else:
            sample = self.stage.holds(self._engine, fire=fire, score=_p99_ms)
        assert sample.figures is not None
        if sample.figures.requests_per_s < KEPT_SHARE * rate:
            raise Untrustworthy(
                f"{rate:,.0f}/s were due, {sample.figures.requests_per_s:,.0f}/s were answered"
            )
        return msgspec.structs.replace(sample, unit="ms", facts={"rate": rate})


def _p99_ms(figures: Figures) -> float:
    return figures.p99_ms


def _units_held(workers: Fleet, drop_id: int) -> int:
    """What a baseline tells of its stock."""
    return int(ask(workers.port, f"/stock/{drop_id}")[1]["heldStock"])


class Clients(Act):
    """How far wrk and our own client agree, of the same servers."""

    names = tuple(CLIENTS)
    rounds_max = 2

    def __init__(self, plan: Plan, stage: Stage, names: tuple[str, ...]) -> None:
        super().__init__(plan, stage, names)
        self._echo = stage.enter(stage.baseline("echo"))
        self._engine = stage.enter(stage.engine())

    @classmethod
    def opening(cls, plan: Plan) -> float:
        """Servers, workers."""
        return 6.0

    @classmethod
    def each(cls, plan: Plan, name: str) -> float:
        """As in `Rates`."""
        return plan.seconds + WARM_UP_SECONDS + 2.0

    def take(self, name: str, so_far: Mapping[str, Sample]) -> Sample:
        """One load by one of the two."""
        what, who = CLIENTS[name]
        fire = wrk.fire if who == "wrk" else client.fire
        if what == HOLDS:
            return self.stage.holds(self._engine, fire=fire)
        shot = Shot(port=self._echo.port, path="/reservations", run="")
        return self.stage.load(self._echo, shot, fire=fire, score=requests_per_s)
