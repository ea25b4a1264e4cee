"""Search for a schedule that breaks the protocol, and show that each known mistake is found.

    python -m tests.simulation.run --seconds 20 --seed 1 --processes 2

Exits 1 with the seed and its story if the protocol broke a promise, or if a mutant got away.
`--explain SEED [--variant NAME]` tells the story of one schedule.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from itertools import count
from random import SystemRandom
from time import monotonic
from typing import NamedTuple

from tqdm import tqdm

from .mutants import MUTANTS, Variant
from .schedule import FAULTS, Schedule, explain
from .words import Violation

CHUNK = 200  # schedules a process plays between two progress lines, about a quarter second
LIMITS = (
    "aborted, void by restore",
    "bitmap, untrue by restore",
    "refusals overtaken",
    "overtaken unattended",
)
MONEY = ("words doubled", "undecided", "outcomes, lost", "charges, lost")
MUTANT_LIMIT = 40_000  # the shyest mutant needs about 2,000 on average


class Chunk(NamedTuple):
    """What some schedules did, and the first broken promise among them."""

    counts: Counter[str]
    broken: tuple[int, str] | None


class Catch(NamedTuple):
    """After how many schedules a mutant was caught (0: it got away), and by which promise."""

    schedules: int
    promise: str


def play(variant: Variant, first: int, size: int) -> Chunk:
    """Play `size` schedules from seed `first`; stop at the first violation."""
    counts: Counter[str] = Counter()
    for seed in range(first, first + size):
        schedule = Schedule(seed, variant)
        try:
            schedule.run()
        except Violation as violation:
            return Chunk(counts + schedule.counts, (seed, str(violation)))
        counts += schedule.counts
    return Chunk(counts, None)


def catch(mutant: Variant, first: int, limit: int) -> Catch:
    """Play the mutant until a promise breaks."""
    chunk = play(mutant, first, limit)
    if chunk.broken is None:
        return Catch(0, "")
    seed, promise = chunk.broken
    return Catch(seed - first + 1, promise)


def search(pool: ProcessPoolExecutor, seed: int, seconds: float, processes: int) -> Chunk:
    """Keep every process busy with the unbroken protocol until the time is up."""
    counts: Counter[str] = Counter()
    until = monotonic() + seconds
    chunks = _chunks(pool, seed, processes, until)
    with tqdm(
        chunks, desc="protocol", unit=f"x{CHUNK} schedules", mininterval=0.5, disable=None
    ) as progress:
        for chunk in progress:
            counts += chunk.counts
            progress.set_postfix(steps=f"{counts['steps']:,}", holds=f"{counts['holds']:,}")
            if chunk.broken:
                return Chunk(counts, chunk.broken)
    return Chunk(counts, None)


def _chunks(pool: ProcessPoolExecutor, seed: int, processes: int, until: float) -> Iterator[Chunk]:
    seeds = count(seed, CHUNK)
    running: set[Future[Chunk]] = {
        pool.submit(play, "", next(seeds), CHUNK) for _ in range(processes)
    }
    while running:
        done, running = wait(running, return_when=FIRST_COMPLETED)
        for future in done:
            yield future.result()
            if monotonic() < until:
                running.add(pool.submit(play, "", next(seeds), CHUNK))


def report(found: Chunk, catches: dict[Variant, Catch], seconds: float) -> str:
    """The table: what was tried, what was broken, which mistakes were noticed."""
    counts = found.counts
    names = ("schedules", "steps", "admissions", "holds")
    rows: list[tuple[str, int | None]] = [(name, counts[name]) for name in names]
    rows += [("steps a second", round(counts["steps"] / seconds)), ("FAULTS", None)]
    rows += [(name, counts[name]) for name in FAULTS]
    rows += [("WORDS", None)]
    rows += [(name, counts[name]) for name in sorted(counts) if name.startswith("told")]
    rows += [("MONEY", None)]
    rows += [(name, counts[name]) for name in sorted(counts) if name.startswith("paid")]
    rows += [(name, counts[name]) for name in MONEY]
    rows += [("LIMITS", None)]
    rows += [(name, counts[name]) for name in LIMITS]
    rows += [("VIOLATIONS", int(found.broken is not None))]
    lines = [name if value is None else f"{name:<32}{value:>14,}" for name, value in rows]
    lines += ["", f"{'mutant':<32}{'caught after':>14}  by"]
    for mutant, (schedules, promise) in catches.items():
        lines.append(f"{mutant:<32}{schedules or 'GOT AWAY':>14}  {promise}")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=20, help="for the unbroken protocol")
    parser.add_argument("--seed", type=int, help="of the first schedule; else drawn")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--explain", type=int, metavar="SEED")
    parser.add_argument("--variant", choices=("", "tombstone_refusals", *MUTANTS), default="")
    asked = parser.parse_args()
    if asked.explain is not None:
        sys.stdout.write(explain(asked.explain, asked.variant) + "\n")
        return 0
    first = SystemRandom().randrange(1 << 40) if asked.seed is None else asked.seed
    sys.stdout.write(f"schedules from seed {first} on\n")
    with ProcessPoolExecutor(asked.processes) as pool:
        started = monotonic()
        found = search(pool, first, asked.seconds, asked.processes)
        seconds = monotonic() - started
        hunts = {m: pool.submit(catch, m, first, MUTANT_LIMIT) for m in MUTANTS}
        names = tqdm(hunts.items(), desc="mutants", unit="mutant", disable=None)
        catches: dict[Variant, Catch] = {mutant: hunt.result() for mutant, hunt in names}
    sys.stdout.write(report(found, catches, seconds) + "\n")
    if found.broken:
        again = f"again: make model EXPLAIN={found.broken[0]}"
        sys.stdout.write(f"\n{explain(found.broken[0])}\n\n{again}\n")
    else:
        sys.stdout.write("\nNo promise was broken.\n")
    return int(found.broken is not None or not all(c.schedules for c in catches.values()))


if __name__ == "__main__":
    sys.exit(main())
