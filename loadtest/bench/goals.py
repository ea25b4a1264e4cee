"""What is asked: every goal with its bound, the samples it needs, and how it is computed.

A goal without a bound is told beside the others. `python -m loadtest.bench --list` prints this.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import pairwise

import msgspec

from loadtest.bench import claims, deadlines, logins, rates, sizes, spread
from loadtest.bench.plan import Sample

Samples = Mapping[str, Sample]
RATIO = "×"


class Goal(msgspec.Struct, frozen=True, kw_only=True):
    """One figure, computed from the samples of one round."""

    id: str  # its number among the goals; empty: told without being asked for
    key: str  # by which --only knows it
    title: str
    needs: tuple[str, ...]  # samples; of alternatives those that were taken
    value: Callable[[Samples], float]
    how: str
    unit: str = RATIO
    at_least: float | None = None
    at_most: float | None = None

    @property
    def bound(self) -> str:
        """The goal in words."""
        if self.at_least is not None:
            return f"≥ {shown(self.at_least, self.unit)}"
        return "" if self.at_most is None else f"≤ {shown(self.at_most, self.unit)}"

    def is_met(self, value: float) -> bool | None:
        """Whether this value is good enough; None where nothing is asked."""
        if self.at_least is not None:
            return value >= self.at_least
        return None if self.at_most is None else value <= self.at_most


def shown(value: float, unit: str) -> str:
    """A figure as people read it."""
    number = f"{value:,.0f}" if abs(value) >= 100 else f"{value:,.1f}"
    if abs(value) < 10:
        number = f"{value:.2f}"
    return f"{number}" if unit == RATIO else f"{number} {unit}"


def _over(above: str, *below: str) -> Callable[[Samples], float]:
    """The one divided by the best of the others, within a round."""

    def value(samples: Samples) -> float:
        return samples[above].value / max(samples[b].value for b in below if b in samples)

    return value


def _steps(*names: str) -> Callable[[Samples], float]:
    """The smallest of what each step from one to the next comes to."""

    def value(samples: Samples) -> float:
        rates = [samples[name].value for name in names]
        return min(later / earlier for earlier, later in pairwise(rates))

    return value


def _fact_over(above: str, below: str, fact: str) -> Callable[[Samples], float]:
    def value(samples: Samples) -> float:
        return samples[above].facts[fact] / samples[below].facts[fact]

    return value


def _of(name: str) -> Callable[[Samples], float]:
    def value(samples: Samples) -> float:
        return samples[name].value

    return value


def _fact(name: str, fact: str) -> Callable[[Samples], float]:
    def value(samples: Samples) -> float:
        return samples[name].facts[fact]

    return value


GOALS: tuple[Goal, ...] = (
    Goal(
        id="P1",
        key="holds",
        title="durable holds ÷ echo, 512 connections",
        needs=(rates.ECHO, rates.HOLDS),
        value=_over(rates.HOLDS, rates.ECHO),
        at_least=0.50,
        how="201s a second on one drop, each by a new buyer, ÷ answers a second of the echo",
    ),
    Goal(
        id="P1",
        key="holds-64",
        title="durable holds ÷ echo, 64 connections",
        needs=(rates.ECHO_64, rates.HOLDS_64),
        value=_over(rates.HOLDS_64, rates.ECHO_64),
        how="the same with fewer buyers at once, so with smaller batches",
    ),
    Goal(
        id="P2",
        key="sold-out",
        title="sold out ÷ echo, without a key",
        needs=(rates.ECHO, rates.SOLD_OUT),
        value=_over(rates.SOLD_OUT, rates.ECHO),
        at_least=0.90,
        how="409s a second of a drop whose only unit is held ÷ echo",
    ),
    Goal(
        id="P2",
        key="sold-out-keyed",
        title="sold out ÷ echo, with a key",
        needs=(rates.ECHO, rates.KEYED),
        value=_over(rates.KEYED, rates.ECHO),
        at_least=0.55,
        how="the same with a new Idempotency-Key each, so looked up before it is refused",
    ),
    Goal(
        id="P3",
        key="one-by-one",
        title="holds ÷ one transaction a request",
        needs=(rates.HOLDS, *rates.ONE_BY_ONE),
        value=_over(rates.HOLDS, *rates.ONE_BY_ONE),
        at_least=8,
        how="holds ÷ the best pool of baselines/one_by_one.py: a script, then a transaction each",
    ),
    Goal(
        id="",
        key="for-update",
        title="holds ÷ SELECT … FOR UPDATE of the drop",
        needs=(rates.HOLDS, rates.FOR_UPDATE),
        value=_over(rates.HOLDS, rates.FOR_UPDATE),
        how="holds ÷ baselines/for_update.py: each request locks the drop's row, no Redis",
    ),
    Goal(
        id="P6",
        key="pairs",
        title="reserve + purchase pairs ÷ echo",
        needs=(rates.ECHO_PAIRS, rates.PAIRS),
        value=_over(rates.PAIRS, rates.ECHO_PAIRS),
        at_least=0.20,
        how="units sold a second by clients that reserve and then buy ÷ the echo's answers a "
        "second to the same client, which reads each answer of both",
    ),
    Goal(
        id="",
        key="mints",
        title="mints ÷ reserve + purchase pairs",
        needs=(rates.PAIRS, rates.MINTS),
        value=_over(rates.MINTS, rates.PAIRS),
        at_least=0.8,
        how="receipts a second that became members ÷ units sold a second by clients that reserve "
        "and then buy",
    ),
    Goal(
        id="P7",
        key="due",
        title="200 due among 200,000 live: lag p99",
        needs=(deadlines.DUE,),
        value=_of(deadlines.DUE),
        unit="s",
        at_most=0.3,
        how="from each deadline to ended_at, both by Postgres's clock; deadlines set by SQL, two "
        "seconds of them; a keeper process frees them",
    ),
    Goal(
        id="",
        key="due-shown",
        title="the same until the stock shows it: lag p99",
        needs=(deadlines.DUE,),
        value=_fact(deadlines.DUE, "shown p99 s"),
        unit="s",
        how="from each deadline until GET /drops/{id}/stock told of as many free units",
    ),
    Goal(
        id="P7",
        key="due-at-once",
        title="20,000 due at once: all on sale",
        needs=(deadlines.AT_ONCE,),
        value=_of(deadlines.AT_ONCE),
        unit="s",
        at_most=2.0,
        how="from their common deadline until the stock row, the bouncer and GET …/stock all show "
        "every unit",
    ),
    Goal(
        id="P8",
        key="large-drop",
        title="claims: 1,000,000-unit drop ÷ 1,000-unit drops",
        needs=(claims.SMALL, claims.LARGE),
        value=_over(claims.LARGE, claims.SMALL),
        at_least=0.85,
        how="units a second of the engine without HTTP; the small drops one after the other",
    ),
    Goal(
        id="P8",
        key="snapshot",
        title="claims: a 30 s REPEATABLE READ open ÷ none",
        needs=(claims.ALONE, claims.BESIDE),
        value=_over(claims.BESIDE, claims.ALONE),
        at_least=0.85,
        how="likewise, on a new large drop each, over the whole time that the snapshot ages",
    ),
    Goal(
        id="P8",
        key="past",
        title="claims: after 1,000,000 past reservations ÷ empty",
        needs=(claims.EMPTY, claims.PAST),
        value=_over(claims.PAST, claims.EMPTY),
        at_least=0.85,
        how="likewise, in a database where as many holds were made and bought, ÷ in a new one",
    ),
    *(
        Goal(
            id="",
            key=f"{key}-statement",
            title=f"the same, what claim_units takes: {words}",
            needs=(below, above),
            value=_fact_over(above, below, "claim_units µs"),
            how="time within the statement for a unit, which Python's share cannot hide",
        )
        for key, words, above, below in (
            ("large-drop", "large ÷ small", claims.LARGE, claims.SMALL),
            ("snapshot", "snapshot ÷ none", claims.BESIDE, claims.ALONE),
            ("past", "past ÷ empty", claims.PAST, claims.EMPTY),
        )
    ),
    Goal(
        id="P10",
        key="pgbench",
        title="engine without HTTP ÷ pgbench, units/s",
        needs=(claims.INSIDE, *claims.PGBENCH),
        value=_over(claims.INSIDE, *claims.PGBENCH),
        at_least=0.5,
        how="Reserving in one process, 512 buyers ÷ the best of 2, 4 and 8 clients of pgbench with "
        "the engine's claim statement in batches of 128, on the same server",
    ),
    Goal(
        id="P11",
        key="p99",
        title="p99 at half the maximum rate ÷ echo's",
        needs=(rates.HOLDS, rates.ECHO_PACED, rates.PACED),
        value=_over(rates.PACED, rates.ECHO_PACED),
        at_most=4,
        how="both by our own client, paced: a latency counts from when its request was due",
    ),
    Goal(
        id="P12",
        key="wal",
        title="WAL a hold, without full-page images",
        needs=(sizes.SIZES,),
        value=_of(sizes.SIZES),
        unit="bytes",
        at_most=900,
        how="pg_walinspect's record bytes between two positions, over one load of holds",
    ),
    Goal(
        id="",
        key="wal-images",
        title="full-page images a hold, from a checkpoint on",
        needs=(sizes.SIZES,),
        value=_fact(sizes.SIZES, "images"),
        unit="bytes",
        how="image bytes of the same run: each page once after a checkpoint, so the longer between "
        "two checkpoints, the less",
    ),
    Goal(
        id="P12",
        key="rows",
        title="heap + indexes a hold",
        needs=(sizes.SIZES,),
        value=_fact(sizes.SIZES, "rows"),
        unit="bytes",
        at_most=500,
        how="what all tables with their indexes grew by, from before the load to after it",
    ),
    Goal(
        id="P12",
        key="redis",
        title="Redis a hold",
        needs=(sizes.SIZES,),
        value=_fact(sizes.SIZES, "redis"),
        unit="bytes",
        at_most=400,
        how="MEMORY USAGE of all keys of the drop, every element, after the load ÷ its holds",
    ),
    Goal(
        id="P13",
        key="workers",
        title="one drop from 1, 2, 4 workers: worst step",
        needs=tuple(spread.WORKERS),
        value=_steps(*spread.WORKERS),
        at_least=1.0,
        how="holds a second with 2 workers ÷ with 1, and with 4 ÷ with 2: the smaller of the two",
    ),
    Goal(
        id="",
        key="logins",
        title="p99 of reserve beside 16 parallel logins ÷ alone",
        needs=(logins.MOST, logins.ALONE, logins.BESIDE),
        value=_over(logins.BESIDE, logins.ALONE),
        at_most=1.25,
        how="reserve paced at 30 % of its round's most, alone and then beside a closed loop of 16 "
        "clients that log in all the time",
    ),
    Goal(
        id="",
        key="no-limits",
        title="holds without limits ÷ holds",
        needs=(rates.HOLDS, rates.UNLIMITED[rates.HOLDS]),
        value=_over(rates.UNLIMITED[rates.HOLDS], rates.HOLDS),
        how="workers with every RATE_* off beside the others (--without-limits)",
    ),
    Goal(
        id="",
        key="no-limits-sold-out",
        title="sold out without limits ÷ sold out",
        needs=(rates.SOLD_OUT, rates.UNLIMITED[rates.SOLD_OUT]),
        value=_over(rates.UNLIMITED[rates.SOLD_OUT], rates.SOLD_OUT),
        how="likewise, of refusals",
    ),
    Goal(
        id="",
        key="clients-echo",
        title="our own client ÷ wrk, echo",
        needs=("echo-by-wrk", "echo-by-own"),
        value=_over("echo-by-own", "echo-by-wrk"),
        how="the same servers by both clients: what the choice of client does to a rate",
    ),
    Goal(
        id="",
        key="clients-holds",
        title="our own client ÷ wrk, holds",
        needs=("holds-by-wrk", "holds-by-own"),
        value=_over("holds-by-own", "holds-by-wrk"),
        how="likewise, of holds",
    ),
)


def chosen(
    only: str, *, without_limits: bool = False, clients: bool = False, quick: bool = False
) -> list[Goal]:
    """The goals of a run: all of them (`without_limits` and `clients` where wanted, no `logins` if
    it is to be `quick`), or those named by key or number. Raises `ValueError` for a name that is
    none."""
    if not only:
        out = ["no-limits"] * (not without_limits) + ["clients"] * (not clients)
        out += ["logins"] * quick
        return [goal for goal in GOALS if not goal.key.startswith(tuple(out))]
    found: list[Goal] = []
    for word in only.lower().split(","):
        named = [goal for goal in GOALS if word in (goal.key, goal.id.lower())]
        if not named:
            raise ValueError(f"no goal is called {word}: --list shows them all")
        found += [goal for goal in named if goal not in found]
    return found
