"""A crowd at the door that wants nothing but to stand there, in a process of its own.

    heads    begin a head and send a byte of it a second
    bodies   the same with the body of a reservation
    silent   connect and say nothing
    idle     ask for /health/live once, then say nothing

Whoever is sent away comes back at once.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import random
import resource
import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection as Pipe
from typing import cast

import msgspec
import uvloop

ADDRESSES = [f"127.0.0.{number}" for number in range(2, 10)]  # 28,000 ports each
CONNECTS_PER_S = 2_000
FILES_OF_OURS = 256
BYTE_SECONDS = 1.0

_HOST = b"Host: 127.0.0.1\r\n"
FIRST = {
    "heads": b"GET /api/v1/drops HTTP/1.1\r\n" + _HOST + b"X-Slow: ",
    "bodies": b"POST /api/v1/reservations HTTP/1.1\r\n" + _HOST + b"Content-Length: 60000\r\n\r\n{",
    "silent": b"",
    "idle": b"GET /api/v1/health/live HTTP/1.1\r\n" + _HOST + b"\r\n",
}
SLOW = ("heads", "bodies")


class Seen(msgspec.Struct):
    """What the crowd met, by kind: who stands there now, who was sent away with what word, and the
    longest that anybody could stand there, in seconds."""

    standing: dict[str, int] = {}
    sent_away: dict[str, dict[str, int]] = {}
    longest: dict[str, float] = {}
    refused: int = 0  # connections that could not be made


def room(wanted: int) -> int:
    """How many connections a crowd may have here."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return wanted if hard == resource.RLIM_INFINITY else min(wanted, hard - FILES_OF_OURS)


@contextmanager
def crowd(port: int, wanted: dict[str, int]) -> Iterator[Pipe]:
    """The crowd stands there during the block; `look` asks the pipe how it goes."""
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe()
    process = spawn.Process(target=_work, args=(port, wanted, theirs), daemon=True)
    process.start()
    try:
        yield ours
    finally:
        process.kill()
        process.join()


def look(pipe: Pipe) -> Seen:
    """How it goes."""
    pipe.send_bytes(b"?")
    if not pipe.poll(20):
        raise TimeoutError("the crowd says nothing")
    return msgspec.msgpack.decode(pipe.recv_bytes(), type=Seen)


def _work(port: int, wanted: dict[str, int], pipe: Pipe) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for our parent, who then ends us
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    uvloop.run(_Crowd(port, wanted).stand(pipe))


class _Crowd:
    def __init__(self, port: int, wanted: dict[str, int]) -> None:
        self.port = port
        self.wanted = wanted
        self.standing: dict[str, set[_Loiterer]] = {kind: set() for kind in wanted}
        self.sent_away = {kind: Counter[str]() for kind in wanted}
        self.longest = dict.fromkeys(wanted, 0.0)
        self.refused = 0
        self._coming: set[asyncio.Task[None]] = set()

    async def stand(self, pipe: Pipe) -> None:
        """Come, come back, answer questions."""
        asyncio.get_running_loop().add_reader(pipe.fileno(), self._tell, pipe)
        places = [kind for kind, count in self.wanted.items() for _ in range(count)]
        random.shuffle(places)
        for number, kind in enumerate(places):
            self.come(kind)
            if number % (CONNECTS_PER_S // 50) == 0:
                await asyncio.sleep(0.02)
        while True:
            began = time.monotonic()
            for kind in SLOW:
                for number, one in enumerate(list(self.standing.get(kind, ()))):
                    one.dribble()
                    if number % 50 == 0:
                        await asyncio.sleep(0.01)
            await asyncio.sleep(max(0.0, began + BYTE_SECONDS - time.monotonic()))

    def come(self, kind: str) -> None:
        """One more of this kind."""
        task = asyncio.create_task(self._come(kind), name=f"crowd-{kind}")
        self._coming.add(task)
        task.add_done_callback(self._coming.discard)

    async def _come(self, kind: str) -> None:
        loop, address = asyncio.get_running_loop(), (random.choice(ADDRESSES), 0)
        while True:
            try:
                await loop.create_connection(
                    lambda: _Loiterer(self, kind), "127.0.0.1", self.port, local_addr=address
                )
            except OSError:
                self.refused += 1
                await asyncio.sleep(0.2)
            else:
                return

    def _tell(self, pipe: Pipe) -> None:
        try:
            pipe.recv_bytes()
        except EOFError:
            asyncio.get_running_loop().remove_reader(pipe.fileno())
            return
        standing = {kind: len(ones) for kind, ones in self.standing.items()}
        sent_away = {kind: dict(words) for kind, words in self.sent_away.items()}
        seen = Seen(standing, sent_away, self.longest, self.refused)
        pipe.send_bytes(msgspec.msgpack.encode(seen))


class _Loiterer(asyncio.Protocol):
    def __init__(self, crowd: _Crowd, kind: str) -> None:
        self._crowd, self._kind = crowd, kind
        self._heard = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._since = time.monotonic()
        self._crowd.standing[self._kind].add(self)
        if first := FIRST[self._kind]:
            self._transport.write(first)

    def dribble(self) -> None:
        """One byte more."""
        if not self._transport.is_closing():
            self._transport.write(b" ")

    def data_received(self, data: bytes) -> None:
        self._heard = data[:12]

    def connection_lost(self, exc: Exception | None) -> None:
        crowd, kind = self._crowd, self._kind
        crowd.standing[kind].discard(self)
        word = self._heard[9:].decode("latin-1") or "silently"
        if kind == "idle" and word == "200":
            word = "silently"  # that was what it had asked for
        crowd.sent_away[kind][word] += 1
        crowd.longest[kind] = max(crowd.longest[kind], time.monotonic() - self._since)
        crowd.come(kind)
