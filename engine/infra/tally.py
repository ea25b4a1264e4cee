"""The tally: what all processes of one machine counted, through a folder that they share.

Each process writes what it counted once a second, to a file of its own: written beside it, locked,
then renamed, so that nobody reads half of it. The kernel ends a lock with its process; so a file
that can be locked was left by a dead one. What the dead counted must stay, or the sums would fall
and look like a restart to whoever reads them: the next process to start adds their files to one
file, `departed`. So there are never more files than live processes and those that died lately.

    <id>.msgpack       one process; its owner holds the lock of it
    departed.msgpack   the sum of the dead, and the ids in it whose files may not be deleted yet
    lock               kept, while the dead are added up, from whoever reads

Moments are of the machine's monotonic clock, which its processes share.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

import msgspec

from engine.infra.ids import new_id
from engine.infra.meter import Histogram, Labels, Meter, Round

FORMAT = 1  # changes when old files cannot be read any more: then they are forgotten
LOCK_SECONDS = 1.0  # it is held for a millisecond
DEPARTED = "departed.msgpack"


class Gauges(msgspec.Struct):
    """What a process has and does just now."""

    queued: dict[str, int] = {}  # requests that wait, by the kind of their combiner
    pool_size: int = 0
    pool_in_use: int = 0
    redis_away: int = 0  # 1: it does not answer this process
    listeners: int = 0


class Snapshot(msgspec.Struct):
    """The counts of one process, or the sum of several."""

    kind: Literal["worker", "keeper", "listener", "departed"]
    at: float  # when it was taken
    answers: dict[tuple[str, int, str], int] = {}
    latency: dict[str, Histogram] = {}
    batches: dict[str, Histogram] = {}
    counts: dict[str, dict[Labels, float]] = {}
    rounds: dict[str, Round] = {}
    gauges: Gauges = msgspec.field(default_factory=Gauges)
    folded: list[str] = []  # of `departed`: the processes in it
    format: int = FORMAT
    lags: dict[str, Histogram] = {}

    def add(self, other: Snapshot) -> None:
        """Add another one's counts, not what it has just now."""
        for subject, times in other.answers.items():
            self.answers[subject] = self.answers.get(subject, 0) + times
        pairs = (
            (self.latency, other.latency),
            (self.batches, other.batches),
            (self.lags, other.lags),
        )
        for mine, theirs in pairs:
            for name, tally in theirs.items():
                known = mine.setdefault(name, Histogram([0] * len(tally.buckets)))
                known.buckets = [a + b for a, b in zip(known.buckets, tally.buckets, strict=True)]
                known.sum += tally.sum
        for name, counter in other.counts.items():
            sums = self.counts.setdefault(name, {})
            for labels, value in counter.items():
                sums[labels] = sums.get(labels, 0) + value


def taken(meter: Meter, kind: Literal["worker", "keeper", "listener"], gauges: Gauges) -> Snapshot:
    """A meter as it stands now."""
    counts = meter.counts
    if meter.memory_refusals:
        counts = counts | {"memory_refusals": {(): float(meter.memory_refusals)}}
    return Snapshot(
        kind,
        time.monotonic(),
        dict(meter.answers),
        meter.latency,
        meter.batches,
        counts,
        meter.rounds,
        gauges,
        lags=meter.lags,
    )


class Tally:
    """One process's place in the folder; without a folder, or where it cannot be written, this
    process is all there is. Raises OSError where it cannot be opened."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._id = folder, new_id()
        self._file = -1  # ours, and locked, as long as we live
        folder.mkdir(parents=True, exist_ok=True)
        with suppress(TimeoutError), self._alone(fcntl.LOCK_EX):
            self._fold()  # or the next one does it

    def write(self, snapshot: Snapshot) -> None:
        """Let the others see what we counted. Raises OSError."""
        self._folder.mkdir(parents=True, exist_ok=True)  # who cleans up may take it away
        unfinished = self._folder / f"{self._id}.new"
        number = os.open(unfinished, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        # Locked before it has its name: whoever finds a file unlocked finds a dead one's.
        fcntl.flock(number, fcntl.LOCK_EX)
        os.write(number, msgspec.msgpack.encode(snapshot))
        unfinished.replace(self._folder / f"{self._id}.msgpack")
        self.close()
        self._file = number

    def others(self) -> tuple[list[Snapshot], Snapshot]:
        """What the other live processes wrote last, and the sum of the dead. Raises OSError."""
        with self._alone(fcntl.LOCK_SH):
            gone = _read(self._folder / DEPARTED) or _nobody()
            live = []
            for path in self._folder.glob("*.msgpack"):
                if path.name == DEPARTED or path.stem in (self._id, *gone.folded):
                    continue
                found = _read(path)
                if found is None:
                    continue
                if _is_dead(path):
                    gone.add(found)
                else:
                    live.append(found)
        return live, gone

    def close(self) -> None:
        """Let go of our file: what is in it counts as a dead one's."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _fold(self) -> None:
        """Add the files of the dead to one. Nobody reads meanwhile, and being killed half way
        counts nobody twice: the sum says who is in it before their files go."""
        gone = _read(self._folder / DEPARTED) or _nobody()
        self._forget(gone.folded)
        gone.folded = []
        for path in self._folder.glob("*.msgpack"):
            if path.name != DEPARTED and _is_dead(path):
                gone.folded.append(path.stem)
                if (found := _read(path)) is not None:
                    gone.add(found)
        unfinished = self._folder / "departed.new"
        unfinished.write_bytes(msgspec.msgpack.encode(gone))
        unfinished.replace(self._folder / DEPARTED)
        self._forget(gone.folded)

    def _forget(self, names: list[str]) -> None:
        for name in names:
            for end in ("msgpack", "new"):
                (self._folder / f"{name}.{end}").unlink(missing_ok=True)

    @contextmanager
    def _alone(self, how: int) -> Iterator[None]:
        number = os.open(self._folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            _lock(number, how)
            yield
        finally:
            os.close(number)


def _lock(number: int, how: int) -> None:
    """Take the lock, or give up: who was stopped with it in hand must not stop all others too."""
    until = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            fcntl.flock(number, how | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= until:
                raise TimeoutError("another process keeps the lock of the metrics") from None
            time.sleep(0.005)
        else:
            return


def _nobody() -> Snapshot:
    return Snapshot("departed", 0.0)


def _read(path: Path) -> Snapshot | None:
    """A snapshot; None where there is none, or one that we cannot read."""
    with suppress(OSError, msgspec.MsgspecError):
        found = msgspec.msgpack.decode(path.read_bytes(), type=Snapshot)
        return found if found.format == FORMAT else None
    return None


def _is_dead(path: Path) -> bool:
    """Whether nobody holds this file. Its owner may replace it just now: then what we opened is
    free, and is not what has the name."""
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return os.fstat(file.fileno()).st_ino == path.stat().st_ino
    except OSError:  # held, or gone
        return False
