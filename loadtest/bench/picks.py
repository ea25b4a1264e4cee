"""What it costs to pick (docs/PERFORMANCE.md). `python -m loadtest.bench.picks`.

Holds a second of a named drop ÷ those of any units of a drop as large, in turns, without HTTP:
single units picked in a random order, and single units wherever the best ones are. Nobody picks
what another has: that is a refusal, and costs less.
"""

from __future__ import annotations

import random
import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path

import msgspec

from engine.infra.settings import Settings
from engine.ops import devstack
from engine.runtime import Ground
from engine.sale import reconcile
from engine.sale.models import Reserve
from loadtest.bench.inside import open_drops, sell, wishes, with_engine
from loadtest.fleet import migrate

UNITS, SECONDS, ROUNDS, BUYERS = 20_000, 3.0, 4, 128
KINDS = ("any", "picked", "best")


def _wanted(kind: str, drop_id: int) -> Iterator[Reserve]:
    numbers = random.sample(range(1, UNITS + 1), UNITS)
    for wish, number in zip(wishes([drop_id], UNITS), numbers, strict=True):
        yield msgspec.structs.replace(wish, picks=(number,)) if kind == "picked" else wish


async def _compare(ground: Ground) -> dict[str, list[float]]:
    """Holds a second by kind, one a round."""
    rates: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for _ in range(ROUNDS):
        for kind in KINDS:
            pick = "any" if kind == "any" else "named"
            drop_id = (await open_drops(ground.postgres, UNITS, pick=pick))[0]
            await reconcile.tell(ground.postgres, ground.bouncer, [drop_id])
            sold = await sell(ground, _wanted(kind, drop_id), SECONDS, buyers=BUYERS)
            rates[kind].append(sold.per_s)
    return rates


def main() -> None:
    """Print the rates and their ratios."""
    with tempfile.TemporaryDirectory() as folder:
        valkey = devstack.start_valkey(Path(folder) / "valkey", durable=True)
        postgres = devstack.start_postgres(Path(folder) / "postgres", durable=True)
        try:
            settings = Settings(database_url=postgres.url, redis_url=valkey.url, auth="open")
            migrate({"DATABASE_URL": postgres.url, "REDIS_URL": valkey.url})
            rates = with_engine(settings, _compare)
        finally:
            postgres.stop()
            valkey.stop()
    medians = {kind: statistics.median(each) for kind, each in rates.items()}
    for kind in KINDS:
        told = ", ".join(f"{rate:,.0f}" for rate in rates[kind])
        print(f"{kind:7} {medians[kind] / medians['any']:.2f}   holds/s: {told}")


if __name__ == "__main__":
    main()
