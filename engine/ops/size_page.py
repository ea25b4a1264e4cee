"""What an estimate means: settings, servers and checks, in words and figures that can be copied.

Figures are rounded up to two digits: the next machine, network or version moves them by half.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import msgspec

from engine.infra.settings import Settings
from engine.ops import sizing, terminal
from engine.ops.doorstep import FILES_OF_OURS, SEATS_MAX
from engine.ops.findings import SPARE_CONNECTIONS
from engine.ops.serve import BACKLOG
from engine.ops.sizing import Costs, Estimate, Phase, Sale

KEEPERS = 2  # processes: one on each of two machines
WORKERS_MIN = 2  # one serves while the other is replaced
POOLS = ((24, 8), (64, 4))  # up to so many workers, so many connections each; 2 beyond
POOLERS_FROM = 500  # connections, from which PgBouncer costs less than they do
CONNECTION_BYTES = 10_000  # 6.5 KB of a worker and the kernel's, idle after one request
BUYER_BYTES = 500  # that a worker remembers of a buyer
BUYERS_MAX = 200_000  # of whom a worker does
WORKER_BYTES = 100 << 20
MIB, GIB = 1 << 20, 1 << 30
MACHINE_CORES = 16
TYPICAL = (
    Sale(buyers=500, units=50),
    Sale(buyers=5_000, units=500),
    Sale(buyers=50_000, units=1_000),
    Sale(buyers=500_000, units=5_000),
    Sale(buyers=1_000_000, units=10_000),
    Sale(buyers=5_000_000, units=50_000),
)


class Advice(msgspec.Struct, frozen=True, kw_only=True):
    """One thing to set or to have, and why so much."""

    name: str
    value: str
    why: str


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """All of it, for a program."""

    verdict: str
    estimate: Estimate
    set: list[Advice]
    check: list[str]


def answer(estimate: Estimate, machine_cores: int) -> Answer:
    """The estimate with what follows from it, on machines of so many cores."""
    return Answer(
        verdict=verdict(estimate, machine_cores),
        estimate=estimate,
        set=advice(estimate, machine_cores),
        check=checks(estimate),
    )


def verdict(estimate: Estimate, machine_cores: int) -> str:
    """What it takes, in a sentence."""
    if estimate.seconds_min:
        return (
            f"too much for one Valkey: let them in over {_span(estimate.seconds_min)} or more "
            "(a waiting room in front), or take fewer tries each"
        )
    if estimate.cores <= 4:
        return "fits on a laptop: everything on one machine of 4 cores"
    if estimate.cores <= machine_cores:
        return f"fits on one machine of {machine_cores} cores; {estimate.cores} are used"
    machines = math.ceil(workers(estimate) / machine_cores)
    postgres = estimate.enough("postgres") + 1
    return (
        f"{machines} machine{'s' * (machines > 1)} of {machine_cores} cores for workers, "
        f"one of {postgres} for Postgres, one of 2 for Valkey"
    )


def workers(estimate: Estimate) -> int:
    """API processes: one a core."""
    return max(estimate.enough("workers"), WORKERS_MIN)


def advice(estimate: Estimate, machine_cores: int) -> list[Advice]:
    """What to set, and what servers should have."""
    processes = workers(estimate)
    pool = next((size for most, size in POOLS if processes <= most), 2)
    postgres = (processes + KEEPERS) * pool + SPARE_CONNECTIONS
    seats = min(math.ceil(_open_at_once(estimate.sale) / processes), SEATS_MAX)
    arrivals = estimate.rush.newcomers / estimate.rush.seconds / processes
    pooler = "; PgBouncer costs less" if postgres > POOLERS_FROM else ""
    files = max(65_536, _pow2(seats + FILES_OF_OURS + pool))
    rows = [
        ("WORKERS", processes, f"one a core; in all, and {machine_cores} a machine at most"),
        ("POOL_SIZE", pool, f"{processes} workers and {KEEPERS} keepers share Postgres{pooler}"),
        ("velvetrope keep", KEEPERS, "on two machines: without one, what runs out is not freed"),
        (
            "MAX_CONNECTIONS",
            f"0 ({seats:,} in use)",
            f"{rounded(_open_at_once(estimate.sale))} buyers connected at once where no proxy "
            "stands in front; the longest idle gives way",
        ),
        ("ulimit -n", files, "a connection is a file; the preflight looks"),
        (
            "net.core.somaxconn",
            f"{2 * BACKLOG} or more",
            f"a worker may pause for {_span(min(BACKLOG / max(arrivals, 1), 60))} before newcomers "
            "are lost",
        ),
        ("memory of a worker", _bytes(_worker_bytes(estimate, seats)), "connections, buyers seen"),
        *_postgres_advice(estimate, postgres),
        (
            "maxmemory",
            _bytes(_pow2(max(4 * estimate.redis_bytes, 256 * MIB))),
            f"Redis: four times {_bytes(estimate.redis_bytes)} of holds and buyers; noeviction",
        ),
        ("hash-max-listpack-entries", 32, "Redis: longer lists of intents are searched in turn"),
    ]
    return [Advice(name=name, value=_text(value), why=why) for name, value, why in rows]


def _postgres_advice(estimate: Estimate, connections: int) -> list[tuple[str, object, str]]:
    buffers = min(max(4 * estimate.row_bytes, 256 * MIB), 16 * GIB)
    wal = _bytes(estimate.wal_bytes)
    return [
        (
            "max_connections",
            math.ceil(connections * 1.2 / 50) * 50,
            f"{connections} are used: (workers + keepers) × POOL_SIZE + {SPARE_CONNECTIONS}",
        ),
        (
            "shared_buffers",
            _bytes(_pow2(buffers)),
            f"four times {_bytes(estimate.row_bytes)} of rows and indexes, which a sale walks all",
        ),
        (
            "max_wal_size",
            _bytes(_pow2(max(2 * estimate.wal_bytes, 2 * GIB))),
            f"twice {wal} of WAL: no checkpoint in mid-sale, which doubles what is written",
        ),
        (
            "min_wal_size",
            _bytes(_pow2(max(estimate.wal_bytes, GIB))),
            "log files that are used again: to make one holds every commit up for 0.1 s",
        ),
        (
            "disk",
            _bytes(_pow2(2 * (estimate.wal_bytes + estimate.row_bytes))),
            "a sale; WAL is kept as long as standbys and backups want it",
        ),
        (
            "disk flush",
            "1 ms or less",
            "pg_test_fsync; every batch of up to 256 waits for one, so a sale of holds needs a few "
            "hundred a second at most",
        ),
    ]


def checks(estimate: Estimate) -> list[str]:
    """What to do before the day."""
    told = [
        "velvetrope preflight --strict",
        "make bench ONLY=holds,sold-out,sold-out-keyed,pairs,wal on such a machine, then "
        "velvetrope size --bench loadtest/results/local/part.json",
        "polls behind a cache cost nothing here: --polls 0 (docs/OPERATIONS.md, A cache in front)",
    ]
    if estimate.seconds_min:
        told.append("a waiting room: the engine has none")
    return told


def asked(estimate: Estimate) -> list[tuple[object, ...]]:
    """Requests by phase: seconds, requests a second, of each kind."""
    return [
        (
            name,
            _span(phase.seconds),
            rounded(phase.per_second),
            *(f"{math.ceil(count):,}" for count in _counts(phase)),
        )
        for name, phase in (("the rush", estimate.rush), ("after it", estimate.rest))
    ]


def _counts(phase: Phase) -> Iterable[float]:
    return phase.holds, phase.refusals, phase.purchases, phase.polls


def takes(estimate: Estimate) -> list[tuple[str, str]]:
    """How long until what."""
    if estimate.sold_out_seconds is None:
        over = f"never: {estimate.sale.units:,} units, {estimate.sale.buyers:,} buyers"
    else:
        over = " to ".join(dict.fromkeys(_span(each) for each in estimate.sold_out_seconds))
    wait, last = estimate.sale.wait_seconds, estimate.sale.seconds
    if estimate.seconds_min:  # whatever is bought for it
        wait, last = estimate.steps[-1].wait_seconds, estimate.steps[-1].last_answer_seconds
    return [
        ("sold out after", over),
        (
            "longest wait",
            f"{_wait(wait)} at most with the cores above, for who comes last in the rush",
        ),
        ("last answer after", _span(last)),
    ]


def tell(found: Answer) -> None:
    """All of it for a person."""
    estimate, costs = found.estimate, found.estimate.costs
    terminal.say(f"{found.verdict[0].upper()}{found.verdict[1:]}.")
    terminal.say("\nWhat will be asked")
    heads = ("", "lasts", "#requests/s", "#holds", "#refusals", "#purchases", "#polls")
    terminal.show(heads, asked(estimate))
    terminal.say("\nWhat that costs: CPU in µs, and cores of each")
    kinds = [("a hold", costs.hold), ("a purchase", costs.purchase), ("a poll", costs.poll)]
    refused = costs.keyed if estimate.sale.keyed else costs.refusal
    kinds.insert(1, (f"a refusal, {'with a' if estimate.sale.keyed else 'no'} key", refused))
    measured = [
        (name, *(f"{getattr(cost, part):.3g}" for part in sizing.PARTS), cost.source)
        for name, cost in kinds
    ]
    needed = ("cores", *(cores(need) for need in estimate.needs), f"in all {estimate.cores}")
    terminal.show(("", "#workers", "#Postgres", "#Valkey", "measured"), [*measured, needed])
    terminal.say("\nHow long it takes")
    for name, said in takes(estimate):
        terminal.say(f"  {name}: {said}")
    terminal.say("\nThe same on so many cores in all")
    terminal.show(
        ("#cores", "#longest wait", "#last answer after", ""),
        [
            (step.cores, _wait(step.wait_seconds), _span(step.last_answer_seconds), step.verdict)
            for step in estimate.steps
        ],
    )
    terminal.say("\nWhat to set, and to have")
    terminal.show(
        ("what", "how much", "why"), [(row.name, row.value, row.why) for row in found.set]
    )
    terminal.say("\nWhat to check")
    for line in found.check:
        terminal.say(f"  {line}")


def markdown(costs: Costs) -> str:
    """Typical sales as a table in Markdown: with our figures, that of docs/PERFORMANCE.md."""
    heads = [
        *("buyers", "units", "asked a second", "sold out after"),
        *("workers", "Postgres", "Valkey", "max_connections", "WAL", "takes"),
    ]
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    for sale in TYPICAL:
        found = sizing.estimate(sale, costs)
        said = {each.name: each.value for each in advice(found, MACHINE_CORES)}
        cells = (
            f"{sale.buyers:,}",
            f"{sale.units:,}",
            rounded(found.rush.per_second),
            takes(found)[0][1],
            *(cores(need) for need in found.needs),
            said["max_connections"],
            _bytes(found.wal_bytes),
            verdict(found, MACHINE_CORES),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def cores(need: sizing.Need) -> str:
    """A part's cores, as a range."""
    low, high = _two_digits(need.least), _two_digits(need.enough)
    return low if low == high else f"{low} to {high}"


def _two_digits(value: float) -> str:
    return rounded(math.ceil(value)) if value > 2 else f"{math.ceil(value * 10) / 10:g}"


def rounded(value: float) -> str:
    """A number up to its next two digits."""
    if value < 1:
        return "1"
    unit = 10 ** max(math.floor(math.log10(value)) - 1, 0)
    return f"{math.ceil(round(value / unit, 6)) * unit:,}"


def _open_at_once(sale: Sale) -> float:
    """Connections of buyers who came within KEEP_ALIVE_MS of each other, at most: the rush, and as
    many of the others as come in what is left of that time."""
    others = sale.buyers * (1 - sizing.RUSH_BUYERS)
    left = Settings().keep_alive_ms / 1000 - sale.seconds * sizing.RUSH_SECONDS
    share = left / (sale.seconds * (1 - sizing.RUSH_SECONDS))
    return sale.buyers * sizing.RUSH_BUYERS + others * min(max(share, 0.0), 1.0)


def _worker_bytes(estimate: Estimate, seats: int) -> float:
    seen = min(estimate.sale.buyers, BUYERS_MAX)
    return WORKER_BYTES + seats * CONNECTION_BYTES + seen * BUYER_BYTES


def _pow2(value: float) -> int:
    return 1 << math.ceil(math.log2(max(value, 1)))


def _bytes(count: float) -> str:
    for size, unit in ((GIB, "GB"), (MIB, "MB")):
        if count >= size:
            return (
                f"{rounded(count / size)} {unit}" if count % size else f"{count / size:,.0f} {unit}"
            )
    return f"{rounded(count / 1024)} KB"


def _span(seconds: float) -> str:
    if seconds >= 120:
        return f"{rounded(seconds / 60)} min"
    return (
        f"{rounded(seconds)} s"
        if seconds >= 2
        else f"{max(math.ceil(round(seconds * 100, 6)), 1) / 100:g} s"
    )


def _wait(seconds: float) -> str:
    return _span(seconds) if seconds else "none"


def _text(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) and value >= 100_000 else str(value)
