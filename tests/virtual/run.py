"""Many runs: search for a seed in which the engine breaks a promise, and tell its story.

    python -m tests.virtual --seconds 60 --seed 1 --processes 2
    python -m tests.virtual --explain SEED

Exits 1 with the seed and its story if a promise was broken. `hunt(seeds, patch=...)` is the same
for tests: `patch` makes a context in which the engine has a mistake.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from itertools import count
from time import perf_counter
from typing import NamedTuple

from tqdm import tqdm

from .oracle import Violation
from .weather import ACCIDENTS, POSTGRES_FATES, REDIS_FATES
from .world import Patch, World

CHUNK = 10  # runs a process plays between two progress lines, about two seconds
TOLD = ("requests", "told yes", "told no", "told retryable", "told unknown", "told busy")
BECAME = ("holds", "purchased", "expired", "released", "paying", "paid: purchased")


class Chunk(NamedTuple):
    """What some runs did, and the first broken promise among them."""

    counts: Counter[str]
    broken: tuple[int, str] | None


def play(first: int, size: int) -> Chunk:
    """Play `size` runs from seed `first`; stop at the first violation."""
    counts: Counter[str] = Counter()
    for seed in range(first, first + size):
        try:
            counts += World(seed).run()
        except Violation as violation:
            return Chunk(counts, (seed, str(violation)))
    return Chunk(counts, None)


def hunt(seeds: Iterable[int], patch: Patch | None = None) -> Violation | None:
    """The first broken promise of these seeds, with its `seed`; None if all were kept."""
    for seed in seeds:
        try:
            World(seed, patch=patch).run()
        except Violation as violation:
            violation.seed = seed
            return violation
    return None


def explain(seed: int, patch: Patch | None = None) -> str:
    """The story of one run: what was sent, what went wrong, what was told."""
    world = World(seed, patch=patch, story=True)
    try:
        world.run()
    except Violation as violation:
        end = f"VIOLATION {violation}"
    else:
        end = "all promises were kept"
    weather = {k: v for k, v in vars(world.weather).items() if k != "random"}
    lines = [f"seed {seed}: {len(world.workers)} workers, {len(world.keepers)} keepers"]
    lines += [f"weather: {weather}", *(world.story or []), end]
    return "\n".join(lines)


def search(pool: ProcessPoolExecutor, seed: int, seconds: float, processes: int) -> Chunk:
    """Keep every process busy until the time is up, or a promise is broken."""
    counts: Counter[str] = Counter()
    chunks = _chunks(pool, seed, processes, perf_counter() + seconds)
    with tqdm(
        chunks, desc="virtual", unit=f"x{CHUNK} runs", mininterval=0.5, disable=None
    ) as progress:
        for chunk in progress:
            counts += chunk.counts
            hours = counts["virtual ms"] / 3_600_000
            progress.set_postfix(steps=f"{counts['steps']:,}", hours=f"{hours:.2f}")
            if chunk.broken:
                return Chunk(counts, chunk.broken)
    return Chunk(counts, None)


def _chunks(pool: ProcessPoolExecutor, seed: int, processes: int, until: float) -> Iterator[Chunk]:
    seeds = count(seed, CHUNK)
    running: set[Future[Chunk]] = {pool.submit(play, next(seeds), CHUNK) for _ in range(processes)}
    while running:
        done, running = wait(running, return_when=FIRST_COMPLETED)
        for future in done:
            chunk = future.result()
            yield chunk
            if perf_counter() < until and not chunk.broken:
                running.add(pool.submit(play, next(seeds), CHUNK))


def report(found: Chunk, seconds: float) -> str:
    """The table: what was tried, what went wrong, what was told, what was broken."""
    counts = found.counts
    rows: list[tuple[str, str]] = [
        ("runs", f"{counts['runs']:,}"),
        ("steps", f"{counts['steps']:,}"),
        ("steps a second", f"{counts['steps'] / seconds:,.0f}"),
        ("simulated hours", f"{counts['virtual ms'] / 3_600_000:,.2f}"),
    ]
    faults = [*(f"postgres {fate}" for fate in POSTGRES_FATES), "client hangs up"]
    faults += [*(f"redis {fate}" for fate in REDIS_FATES), *ACCIDENTS]
    for title, names in (("FAULTS", faults), ("WORDS", TOLD), ("BECAME", BECAME)):
        rows += [(title, "")]
        rows += [(name, f"{counts[name]:,}") for name in names]
    rows += [("rows lost with a history", f"{counts['rows lost with a history']:,}")]
    rows += [("VIOLATIONS", str(int(found.broken is not None)))]
    return "\n".join(f"{name:<32}{value:>14}" if value else name for name, value in rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, help="of the first run; else drawn")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--explain", type=int, metavar="SEED")
    asked = parser.parse_args()
    if asked.explain is not None:
        sys.stdout.write(explain(asked.explain) + "\n")
        return 0
    first = random.SystemRandom().randrange(1 << 40) if asked.seed is None else asked.seed
    sys.stdout.write(f"runs from seed {first} on\n")
    with ProcessPoolExecutor(asked.processes) as pool:
        started = perf_counter()
        found = search(pool, first, asked.seconds, asked.processes)
        seconds = perf_counter() - started
    sys.stdout.write(report(found, seconds) + "\n")
    if found.broken:
        seed, words = found.broken
        again = f"make virtual EXPLAIN={seed}"
        sys.stdout.write(f"\n{explain(seed)}\n\nseed {seed}: {words}\nagain: {again}\n")
    else:
        sys.stdout.write("\nNo promise was broken.\n")
    return int(found.broken is not None)
