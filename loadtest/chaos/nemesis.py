"""What a nemesis is: a name, what it acts on, and something it does that ends again.

    @nemesis("worker kill", on="worker", seconds=(0.0, 0.0))
    async def kill(stage, fault):
        ...            it begins
        yield          for as long as planned
        ...            it ends

One that cannot do it raises `Skip` with the reason. One is never cut short in the middle: what it
began it ends, and servers are up again when it has.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, Any, Literal

import msgspec

if TYPE_CHECKING:
    from loadtest.chaos.stage import Stage

Target = Literal[
    "worker", "workers", "keeper", "valkey", "postgres", "valkey wire", "postgres wire"
]


class Skip(Exception):
    """It cannot be done now; the text says why."""


class Planned(msgspec.Struct, frozen=True):
    """One fault of a plan: `at` seconds into its round, `index` names the target among its like,
    `dice` seeds whatever else it has to choose."""

    at: float
    nemesis: str
    index: int
    seconds: float
    dice: int


class Deed:
    """One fault that is being done: what was planned, and what is written down of it."""

    def __init__(self, planned: Planned) -> None:
        self.planned = planned
        self.dice = random.Random(planned.dice)
        self.target = ""
        self.words: dict[str, Any] = {}
        self.nothing = ""  # why it came to nothing after all


Act = Callable[["Stage", Deed], AbstractAsyncContextManager[None]]


class Nemesis(msgspec.Struct, frozen=True):
    """A kind of fault. `seconds`: how long, from least to most; `weight`: how often; `forgets`: it
    makes Valkey forget, and with its memory goes whatever was stranded there."""

    name: str
    on: Target
    seconds: tuple[float, float]
    weight: float
    act: Act
    forgets: bool = False


ALL: dict[str, Nemesis] = {}


def nemesis(
    name: str,
    on: Target,
    seconds: tuple[float, float] = (0.0, 0.0),
    weight: float = 1.0,
    forgets: bool = False,
) -> Callable[[Callable[[Stage, Deed], AsyncIterator[None]]], Act]:
    """Enter a function into the list of all."""

    def enter(function: Callable[[Stage, Deed], AsyncIterator[None]]) -> Act:
        act = asynccontextmanager(function)
        ALL[name] = Nemesis(name, on, seconds, weight, act, forgets)
        return act

    return enter
