"""The client of `client.py` in a process of its own that tells, four times a second, how it goes.

For drills, where the course over time matters: what happens in the very second when a server
dies. Every answer but a 2xx is counted by the word of its error.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import signal
import time
from array import array
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection as Pipe

import msgspec
import uvloop

from loadtest.client import GRACE_SECONDS, Gun, Shot, keep_connected, percentile

SLICE_SECONDS = 0.25
STRETCH_GAP_SECONDS = 0.5  # sold-out answers further apart are two stretches of them
UNCERTAIN = ("OUTCOME_UNKNOWN", "")  # "": an answer without a word of ours


class Slice(msgspec.Struct, frozen=True, tag=True):
    """A quarter of a second; `began` by the monotonic clock, which all processes share."""

    began: float
    seconds: float
    ok: int
    words: dict[str, int]  # answers other than 2xx
    errors: int  # lost or refused connections
    p99_ms: float


class Total(msgspec.Struct, frozen=True, tag=True):
    """All of it, after the last answer."""

    ok: int
    words: dict[str, int]
    errors: int  # late answers included
    stretches: list[float]  # how long SOLD_OUT was heard without a pause

    @property
    def uncertain(self) -> int:
        """Requests that may or may not have had their effect."""
        return self.errors + sum(self.words.get(word, 0) for word in UNCERTAIN)


class Word(msgspec.Struct):
    """What is read of an error's body."""

    error: str = ""


@contextmanager
def pulse(
    shot: Shot, drops: list[int], drop_seconds: float, connections: int, seconds: float
) -> Iterator[Pipe]:
    """Send for `seconds`; slices and at last the total can be read from the pipe.

    The drops are loaded one after the other, each for `drop_seconds`.
    """
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe(duplex=False)
    arguments = (shot, drops, drop_seconds, connections, seconds, theirs)
    worker = spawn.Process(target=_work, args=arguments, daemon=True)
    worker.start()
    try:
        yield ours
    finally:
        worker.kill()
        worker.join()


def receive(pipe: Pipe, patience_seconds: float) -> Slice | Total:
    """What the client tells next."""
    if not pipe.poll(patience_seconds):
        raise TimeoutError("the load process said nothing")
    return msgspec.msgpack.decode(pipe.recv_bytes(), type=Slice | Total)


def _work(
    shot: Shot,
    drops: list[int],
    drop_seconds: float,
    connections: int,
    seconds: float,
    pipe: Pipe,
) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for our parent, who then ends us
    uvloop.run(_load(Meter(shot, drops, drop_seconds, seconds), connections, seconds, pipe))


async def _load(gun: Meter, connections: int, seconds: float, pipe: Pipe) -> None:
    tasks = {
        asyncio.create_task(keep_connected(gun), name=f"connection-{number}")
        for number in range(connections)
    }
    until = time.monotonic() + seconds + GRACE_SECONDS
    under_way = tasks
    while under_way and time.monotonic() < until:
        due = gun.began + SLICE_SECONDS
        while under_way and (left := due - time.monotonic()) > 0:
            _, under_way = await asyncio.wait(under_way, timeout=left)
        pipe.send_bytes(msgspec.msgpack.encode(gun.cut()))
    for task in under_way:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    pipe.send_bytes(msgspec.msgpack.encode(gun.total(len(under_way))))


class Meter(Gun):
    """Counts by slice and by word."""

    def __init__(self, shot: Shot, drops: list[int], drop_seconds: float, seconds: float) -> None:
        super().__init__(shot, time.perf_counter() + seconds)
        self.began = self._change_at = time.monotonic()
        self._drops, self._drop_seconds = list(drops), drop_seconds
        self._words, self._all_words = Counter[str](), Counter[str]()
        self._ok = self._all_ok = self._errors_before = 0
        self._stretches: list[float] = []
        self._sold_out_since = self._sold_out_at = float("-inf")
        self._word = msgspec.json.Decoder(Word)

    def load(self) -> bytes:
        if self._drops and time.monotonic() >= self._change_at:
            self._shot = msgspec.structs.replace(self._shot, drop_id=self._drops.pop(0))
            self._change_at += self._drop_seconds
        return super().load()

    def hit(self, status: int, sent_at: float, body: bytes) -> None:
        super().hit(status, sent_at, body)
        if 200 <= status < 300:
            self._ok += 1
            return
        try:
            word = self._word.decode(body).error
        except msgspec.DecodeError:
            word = ""
        self._words[word] += 1
        if word == "SOLD_OUT":
            self._stretch(time.monotonic())

    def _stretch(self, now: float) -> None:
        if now - self._sold_out_at > STRETCH_GAP_SECONDS:
            self._sold_out_since = now
            self._stretches.append(0.0)
        self._sold_out_at = now
        self._stretches[-1] = now - self._sold_out_since

    def cut(self) -> Slice:
        """What was counted since the last cut."""
        now = time.monotonic()
        ordered = sorted(self.latencies)
        errors = self.errors - self._errors_before
        words = dict(self._words)
        p99_ms = 1_000 * percentile(ordered, 0.99)
        told = Slice(self.began, now - self.began, self._ok, words, errors, p99_ms)
        self._all_ok += self._ok
        self._all_words += self._words
        self.began, self._ok, self._errors_before = now, 0, self.errors
        self._words, self.latencies = Counter(), array("d")
        return told

    def total(self, late: int) -> Total:
        """Everything, with so many answers that never came."""
        last = self.cut()
        errors = self.errors + late
        assert last.ok == 0 or late, "all slices were told before the total"
        return Total(self._all_ok, dict(self._all_words), errors, self._stretches)
