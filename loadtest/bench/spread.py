"""One drop sold by 1, 2 and 4 workers: a worker more must never make the sale slower."""

from __future__ import annotations

from collections.abc import Mapping

from loadtest.bench.plan import Act, Plan, Sample
from loadtest.bench.stage import WARM_UP_SECONDS

WORKERS = {f"workers-{count}": count for count in (1, 2, 4)}


class Spread(Act):
    """Holds a second of one drop. Workers are started for each load: idle ones would listen too."""

    names = tuple(WORKERS)

    @classmethod
    def opening(cls, plan: Plan) -> float:
        """Servers, keepers."""
        return 4.0

    @classmethod
    def each(cls, plan: Plan, name: str) -> float:
        """Workers, a drop, the load."""
        return plan.seconds + WARM_UP_SECONDS + 3.5

    def take(self, name: str, so_far: Mapping[str, Sample]) -> Sample:
        """Holds with so many workers."""
        with self.stage.engine(WORKERS[name]) as workers:
            return self.stage.holds(workers)
