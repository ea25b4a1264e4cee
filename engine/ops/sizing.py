"""Sizing: what a sale asks of its servers, from what one request of each kind was measured to cost.

    buyers, units ─▶ requests, in the rush and after it ─▶ µs ─▶ cores ─▶ how long who comes waits
                                                        ─▶ bytes ─▶ memory, disk, connections

The queue is a fluid: what cores cannot do at once waits, first come, first served, and who comes
last in the rush waits for all of it. Holds come first in a sale; those of one drop lock its stock
row one batch after the other, so more cores help refusals and polls, and one drop's holds little.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import msgspec

from engine.infra.errors import Invalid

RUSH_BUYERS = 0.5  # of all buyers come
RUSH_SECONDS = 0.1  # in this first part of the time
BUSY = 0.7  # of a core may be used: connections never spread evenly, and others need some of it
MICROS = 1e6
HERE = "docs/PERFORMANCE.md"


class Cost(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """CPU of one request, in µs, by whose it is, and where that was measured."""

    workers: float
    postgres: float
    valkey: float
    source: str = HERE


class Costs(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What was measured: requests as by `make bench` with 512 connections, and bytes."""

    hold: Cost = Cost(workers=80, postgres=27, valkey=9)
    purchase: Cost = Cost(workers=106, postgres=95, valkey=5)  # a pair less its hold
    refusal: Cost = Cost(workers=47, postgres=2, valkey=1)  # from memory
    keyed: Cost = Cost(workers=75, postgres=8, valkey=3)  # a refusal that is looked up first
    poll: Cost = Cost(workers=46, postgres=3, valkey=0.1)
    token_micros: float = 54  # of a worker, to verify one that it does not know yet
    holds_per_second: float = 12_844  # of one drop, on two cores, who asks among them
    wal_bytes: float = 890  # a hold; a purchase is taken for one
    image_bytes: float = 192
    row_bytes: float = 446
    redis_bytes: float = 42
    machine: str = f"two cores, {HERE}"


class Sale(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What comes: `buyers` within `seconds`, of whom each refused one tries again `tries` times and
    everybody looks at the stock `polls` times."""

    buyers: int
    units: int
    seconds: float = 60
    tries: float = 2
    polls: float = 5
    keyed: bool = True  # tries carry an Idempotency-Key
    wait_seconds: float = 1  # that who comes last in the rush may wait

    @property
    def holds(self) -> int:
        """Units that find somebody: one each."""
        return min(self.units, self.buyers)


class Phase(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A part of the sale, and the requests in it."""

    seconds: float
    holds: float
    refusals: float
    polls: float
    purchases: float
    newcomers: float  # buyers whose token is verified

    @property
    def per_second(self) -> float:
        """Requests a second."""
        return (self.holds + self.refusals + self.polls + self.purchases) / self.seconds

    def work(self, costs: Costs, keyed: bool, part: str) -> float:
        """Core-seconds of a part: workers, postgres or valkey."""
        refused = costs.keyed if keyed else costs.refusal
        pairs = (
            (self.holds, costs.hold),
            (self.refusals, refused),
            (self.polls, costs.poll),
            (self.purchases, costs.purchase),
        )
        micros = sum(count * float(getattr(cost, part)) for count, cost in pairs)
        if part == "workers":
            micros += self.newcomers * costs.token_micros
        return micros / MICROS


class Need(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Cores of a part: `least` if they are used to the full, `enough` if a core keeps some free."""

    part: str
    least: float
    enough: float


class Step(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """The same sale on so many cores in all."""

    cores: int
    wait_seconds: float  # the longest
    last_answer_seconds: float  # since the sale began
    verdict: str


class Estimate(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What a sale asks for, in seconds, cores and bytes."""

    sale: Sale
    costs: Costs
    rush: Phase
    rest: Phase
    needs: list[Need]
    cores: int  # of all parts, each in whole ones
    sold_out_seconds: tuple[float, float] | None  # None: not all is sold
    seconds_min: float  # over which so many must be let in for one Valkey to do it; 0: it can
    steps: list[Step]
    wal_bytes: float
    row_bytes: float
    redis_bytes: float

    def enough(self, part: str) -> int:
        """Whole cores of a part."""
        return math.ceil(next(need.enough for need in self.needs if need.part == part))


FACTS = (("row", "rows"), ("redis", "redis"))  # of a bench's sizes
PARTS = ("workers", "postgres", "valkey")
STEPS = (2, 4, 8, 16, 32, 64, 128)
DEADLINE_SECONDS = 5.0  # REQUEST_DEADLINE_MS unless told: who waits longer hears RETRYABLE
BUCKET_BYTES = 200  # of a buyer that Redis counts


def phases(sale: Sale) -> tuple[Phase, Phase]:
    """The rush and the rest. A first wish comes with its buyer; tries and polls are spread evenly;
    who got a unit pays after the rush."""
    rush_seconds, come = sale.seconds * RUSH_SECONDS, sale.buyers * RUSH_BUYERS
    early = min(sale.holds, come)
    again = (sale.buyers - sale.holds) * sale.tries
    polls = sale.buyers * sale.polls
    rush = Phase(
        seconds=rush_seconds,
        holds=early,
        refusals=come - early + again * RUSH_SECONDS,
        polls=polls * RUSH_SECONDS,
        purchases=0,
        newcomers=come,
    )
    late = sale.holds - early
    rest = Phase(
        seconds=sale.seconds - rush_seconds,
        holds=late,
        refusals=sale.buyers - come - late + again * (1 - RUSH_SECONDS),
        polls=polls * (1 - RUSH_SECONDS),
        purchases=sale.holds,
        newcomers=sale.buyers - come,
    )
    return rush, rest


def estimate(sale: Sale, costs: Costs) -> Estimate:
    """All of it. Raises nothing: any sale has an answer, if a large one."""
    rush, rest = phases(sale)
    work = {
        part: (rush.work(costs, sale.keyed, part), rest.work(costs, sale.keyed, part))
        for part in PARTS
    }
    needs = []
    for part, (first, then) in work.items():
        least = max(first / (rush.seconds + sale.wait_seconds), then / rest.seconds)
        needs.append(Need(part=part, least=least, enough=least / BUSY))
    row_bytes, wal_bytes = costs.row_bytes, costs.wal_bytes + costs.image_bytes
    return Estimate(
        sale=sale,
        costs=costs,
        rush=rush,
        rest=rest,
        needs=needs,
        cores=sum(math.ceil(need.enough) for need in needs),
        sold_out_seconds=_sold_out(sale, costs),
        seconds_min=_seconds_min(sale, *work["valkey"]),
        steps=[_step(sale, rush, rest, work, cores) for cores in STEPS],
        wal_bytes=2 * wal_bytes * sale.holds,
        row_bytes=2 * row_bytes * sale.holds,
        redis_bytes=costs.redis_bytes * sale.holds + BUCKET_BYTES * sale.buyers,
    )


def _seconds_min(sale: Sale, first: float, then: float) -> float:
    """Over how many seconds who comes must be spread, if a single core shall do it; 0: it does."""
    rush = (first / BUSY - sale.wait_seconds) / RUSH_SECONDS
    needed = max(rush, then / BUSY / (1 - RUSH_SECONDS))
    return needed if needed > sale.seconds else 0.0


def _sold_out(sale: Sale, costs: Costs) -> tuple[float, float] | None:
    """Between what Postgres would do with a core for nothing but this drop, and what was measured;
    never before enough buyers have come."""
    if sale.units > sale.buyers:
        return None
    come, rush_seconds = sale.buyers * RUSH_BUYERS, sale.seconds * RUSH_SECONDS
    if sale.units <= come:
        arrived = sale.units / come * rush_seconds
    else:
        late = (sale.units - come) / (sale.buyers - come)
        arrived = rush_seconds + late * (sale.seconds - rush_seconds)
    fastest = sale.units * costs.hold.postgres / MICROS
    measured = sale.units / costs.holds_per_second
    return max(arrived, fastest), max(arrived, fastest, measured)


def _step(
    sale: Sale, rush: Phase, rest: Phase, work: dict[str, tuple[float, float]], cores: int
) -> Step:
    """So many cores for all parts; Valkey has one of them at most."""
    shared = (sum(first for first, _ in work.values()), sum(then for _, then in work.values()))
    waits = [
        _fluid(rush.seconds, rest.seconds, *asked, served * BUSY)
        for asked, served in ((shared, cores), (work["valkey"], 1))
    ]
    wait = max(longest for longest, _ in waits)
    after = max(last for _, last in waits)
    verdict = "fits" if wait <= sale.wait_seconds else "slow"
    if wait > DEADLINE_SECONDS:
        verdict = "too few: many hear RETRYABLE"
    return Step(
        cores=cores, wait_seconds=wait, last_answer_seconds=sale.seconds + after, verdict=verdict
    )


def _fluid(
    rush_seconds: float, rest_seconds: float, first: float, then: float, served: float
) -> tuple[float, float]:
    """The longest wait, and the wait of who comes last of all, where `served` core-seconds are done
    a second."""
    left = max(first - served * rush_seconds, 0.0)
    after = max(left + then - served * rest_seconds, 0.0)
    return max(left, after) / served, after / served


# ── figures of another machine ───────────────────────────────────────────────────────────────


Measured = Annotated[float, msgspec.Meta(ge=0, le=1e9)]


class _Usage(msgspec.Struct, frozen=True):
    micros: dict[str, Measured]


class _Row(msgspec.Struct, frozen=True):
    name: str
    value: Measured
    usage: _Usage | None = None
    facts: dict[str, Measured] = {}


class _Result(msgspec.Struct, frozen=True):
    samples: list[_Row]
    machine: dict[str, str | int | float] = {}


def measured(path: Path) -> Costs:
    """Ours, with whatever a result of `make bench` tells instead. Raises `Invalid`."""
    try:
        told = msgspec.json.decode(path.read_bytes(), type=_Result)
    except OSError as wrong:
        raise Invalid(f"{path}: {wrong.strerror}; `make bench` says where it writes") from None
    except (msgspec.MsgspecError, UnicodeDecodeError) as wrong:
        raise Invalid(f"{path} is no result of `make bench`: {wrong}") from None
    rows = {row.name: row for row in told.samples}
    found: dict[str, object] = {}
    for name, field in (("holds", "hold"), ("sold-out", "refusal"), ("sold-out-keyed", "keyed")):
        if cost := _cost(rows.get(name), path):
            found[field] = cost
    if pair := _cost(rows.get("pairs"), path):
        hold = found.get("hold", Costs().hold)
        assert isinstance(hold, Cost)
        found["purchase"] = Cost(
            **{part: max(2 * getattr(pair, part) - getattr(hold, part), 0) for part in PARTS},
            source=pair.source,
        )
    if "holds" in rows and rows["holds"].value > 0:
        found["holds_per_second"] = rows["holds"].value
    if sizes := rows.get("sizes"):
        found |= {"wal_bytes": sizes.value, "image_bytes": sizes.facts.get("images", 0.0)}
        found |= {f"{name}_bytes": sizes.facts[fact] for name, fact in FACTS if fact in sizes.facts}
    if not found:
        raise Invalid(f"{path} tells none of holds, sold-out, sold-out-keyed, pairs and sizes")
    machine = (
        f"{told.machine.get('cores', '?')} × {told.machine.get('cpu', 'unknown')}, {path.name}"
    )
    return msgspec.structs.replace(Costs(), machine=machine, **found)


def _cost(row: _Row | None, path: Path) -> Cost | None:
    if row is None or row.usage is None or not set(PARTS) <= row.usage.micros.keys():
        return None
    return Cost(**{part: row.usage.micros[part] for part in PARTS}, source=path.name)
