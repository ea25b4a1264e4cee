"""Whose CPU it was: what each process took while a load lasted, per answered request."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from contextlib import suppress

import msgspec
import psutil  # type: ignore[import-untyped, unused-ignore]

CLIENT, OTHERS = "client", "others"  # the load generator; the kernel's own work and strangers
PARTS = ("workers", "postgres", "valkey", "keepers", CLIENT, OTHERS)
RESTS = ("idle", "iowait")
TWICE = ("guest", "guest_nice")  # counted in user and nice as well


class Usage(msgspec.Struct, frozen=True, rename="camel"):
    """The machine while a load lasted."""

    seconds: float
    idle: float  # the share of all cores that nobody used
    micros: dict[str, float]  # CPU per answered request, by part

    @property
    def total(self) -> float:
        """µs of CPU per request, of all parts."""
        return sum(self.micros.values())


class Reading(msgspec.Struct, frozen=True):
    """All that was counted at one moment, in seconds of CPU."""

    at: float
    busy: float
    rest: float
    parts: dict[str, float]


class Account:
    """A `Watch`: reads the clocks when a load begins and when it ends."""

    def __init__(self, parts: Mapping[str, Iterable[int]]) -> None:
        """`parts`: process ids by name; what they started and buried belongs to them."""
        self._parts = {name: tuple(pids) for name, pids in parts.items()}
        self._began: Reading | None = None
        self._ended: Reading | None = None

    def begin(self) -> None:
        """The load begins."""
        self._began = self._read()

    def end(self) -> None:
        """It is over."""
        self._ended = self._read()

    def usage(self, requests: int, client_seconds: float) -> Usage:
        """What a request cost, of so many."""
        assert self._began is not None and self._ended is not None, "a load nobody watched"
        return between(self._began, self._ended, requests, client_seconds)

    def _read(self) -> Reading:
        machine = psutil.cpu_times()._asdict()
        rest = sum(machine.get(name, 0.0) for name in RESTS)
        busy = sum(each for name, each in machine.items() if name not in (*RESTS, *TWICE))
        parts = {name: sum(map(tree_seconds, pids)) for name, pids in self._parts.items()}
        return Reading(time.perf_counter(), busy, rest, parts)


def between(began: Reading, ended: Reading, requests: int, client_seconds: float) -> Usage:
    """Two readings as what one request cost."""
    took = {name: ended.parts[name] - began.parts[name] for name in began.parts}
    took[CLIENT] = client_seconds
    busy, rest = ended.busy - began.busy, ended.rest - began.rest
    took[OTHERS] = max(busy - sum(took.values()), 0.0)
    return Usage(
        seconds=ended.at - began.at,
        idle=rest / (busy + rest) if busy + rest else 0.0,
        micros={name: 1e6 * each / max(requests, 1) for name, each in took.items()},
    )


def tree_seconds(pid: int) -> float:
    """CPU that a process and all it ever started have taken: a child that ended while nobody
    looked is counted by whoever waited for it, as Postgres does for its backends."""
    seconds = 0.0
    with suppress(psutil.NoSuchProcess):
        parent = psutil.Process(pid)
        for one in (parent, *parent.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                times = one.cpu_times()
                seconds += times.user + times.system + times.children_user + times.children_system
    return seconds
