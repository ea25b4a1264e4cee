"""How much is measured: the options of a run, and what a sample is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

import msgspec

from loadtest.bench.usage import Usage
from loadtest.client import Figures

if TYPE_CHECKING:
    from loadtest.bench.stage import Stage


class Plan(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """The sizes of a run."""

    rounds: int = 3
    seconds: int = 4  # of each load
    connections: int = 512
    client: str = "own"  # or wrk
    quick: bool = False
    without_limits: bool = False
    pools: tuple[int, ...] = (4, 8, 16, 32)  # of the baseline, connections a worker
    clients: tuple[int, ...] = (2, 4, 8)  # of pgbench
    live_holds: int = 200_000
    due_holds: int = 200
    due_at_once: int = 20_000
    large_units: int = 1_000_000
    small_units: int = 1_000
    past_holds: int = 1_000_000
    snapshot_seconds: int = 30  # that a REPEATABLE READ transaction stays open


# Smaller in every way: it shows that all of it works, and roughly where it stands.
QUICK = Plan(
    rounds=1,
    seconds=1,
    quick=True,
    pools=(8,),
    clients=(2, 4),
    live_holds=20_000,
    due_at_once=2_000,
    large_units=100_000,
    past_holds=20_000,
    snapshot_seconds=1,
)


class Sample(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """What one measurement of one thing came to."""

    value: float  # what goals are computed from
    unit: str = "/s"
    figures: Figures | None = None  # of a load client
    usage: Usage | None = None
    rss_mb: float = 0.0  # of the largest worker, half-way through
    facts: dict[str, float] = {}  # what else was seen


class Act(ABC):
    """Samples that share servers. Opened on a stage of its own, which ends with it."""

    names: ClassVar[tuple[str, ...]]  # in the order of a round
    rounds_max: ClassVar[int] = 20

    def __init__(self, plan: Plan, stage: Stage, names: tuple[str, ...]) -> None:
        self.plan, self.stage, self.chosen = plan, stage, names

    @classmethod
    def lasts(cls, plan: Plan, names: tuple[str, ...]) -> float:
        """Roughly how many seconds it takes, set-up included."""
        rounds = min(plan.rounds, cls.rounds_max)
        return cls.opening(plan) + rounds * sum(cls.each(plan, name) for name in names)

    @classmethod
    @abstractmethod
    def opening(cls, plan: Plan) -> float:
        """Roughly, the seconds before the first sample."""

    @classmethod
    @abstractmethod
    def each(cls, plan: Plan, name: str) -> float:
        """Roughly, the seconds of one sample."""

    @abstractmethod
    def take(self, name: str, so_far: Mapping[str, Sample]) -> Sample:
        """Measure once; `so_far` are this round's samples. Raises `Untrustworthy`."""
