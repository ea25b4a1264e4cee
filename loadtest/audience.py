"""Listeners by the thousand, in one process that leaves the cores to the servers: no task, no
transport and no parser each, but one epoll, and what all are told is read once.

    come ─▶ handshake ─▶ join drop:N ─▶ snapshot ─▶ frames … ─▶ lost? back after 0.5 to 3 s

Each is a WebSocket of its own, answers pings, and remembers the newest version it was told. When a
frame takes one from version 7 to 11, the four changes in between reached it at that moment: that,
beside the times at which Postgres wrote them, is their delivery lag.
"""

from __future__ import annotations

import errno
import gc
import heapq
import multiprocessing
import os
import random
import resource
import select
import signal
import socket
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection as Pipe
from typing import NamedTuple

import msgspec

TICK_SECONDS = 0.004  # what came meanwhile is read in one go; a lag may seem so much longer
COMES_PER_S = 1_000
BACK_SECONDS = (0.5, 3.0)  # after a loss, as our own pages do it
BACK_SECONDS_MAX = 15.0
OF_ONE_ADDRESS = 500  # the limit is 1,000 a process
FRAMES_KNOWN = 256  # all members of a room are told the same bytes
READ_BYTES = 4_096

TEXT, CLOSE, PING = 0x81, 0x88, 0x89  # first bytes of frames, RFC 6455 5.2
PONG = b"\x8a\x80\0\0\0\0"  # masked with zeros, which change nothing
HANDSHAKE = (
    b"GET /ws HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
VERSION = b'"version":'


class Wish(msgspec.Struct, frozen=True):
    """What the audience is to do before it tells how it is."""

    seats: int | None = None  # so many are to listen
    stop: int = 0  # so many more are to read no longer
    forget: bool = False  # begin to count anew
    lags: bool = False  # tell when what was heard, too


class Heard(msgspec.Struct, frozen=True):
    """So many were told of all after `before` up to `version`, at these moments (ms of Unix)."""

    before: int
    version: int
    moments: dict[int, int]


class Seen(msgspec.Struct):
    """How the audience is. Times are seconds."""

    versions: dict[int, int] = {}  # listeners by what they know; 0: on the way
    frames: int = 0
    bytes: int = 0
    words: dict[int, int] = {}  # close codes
    lost: int = 0  # connections that were cut, of those who read
    refused: int = 0  # attempts to come that failed
    back: list[float] = []  # from the loss until a listener knew the present again
    gone: list[float] = []  # from the moment one read no longer until it was cut
    cpu_seconds: float = 0.0
    heard: list[Heard] = []

    @property
    def present(self) -> int:
        """Listeners who know some state."""
        return sum(count for version, count in self.versions.items() if version)


class Audience:
    """The process of listeners, seen from outside."""

    def __init__(self, pipe: Pipe, pid: int) -> None:
        self._pipe, self.pid = pipe, pid

    def ask(
        self,
        *,
        seats: int | None = None,
        stop: int = 0,
        forget: bool = False,
        lags: bool = False,
    ) -> Seen:
        """Have a wish done, and see."""
        self._pipe.send_bytes(msgspec.msgpack.encode(Wish(seats, stop, forget, lags)))
        if not self._pipe.poll(30):
            raise TimeoutError("the audience says nothing")
        return msgspec.msgpack.decode(self._pipe.recv_bytes(), type=Seen)


@contextmanager
def audience(port: int, drop_id: int, most: int) -> Iterator[Audience]:
    """An empty one, for at most so many listeners; all of them leave with the block."""
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe()
    process = spawn.Process(target=_work, args=(port, drop_id, most, theirs), daemon=True)
    process.start()
    try:
        yield Audience(ours, process.pid or 0)
    finally:
        process.kill()
        process.join()


def _work(port: int, drop_id: int, most: int, pipe: Pipe) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for our parent, who then ends us
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    gc.disable()  # seats live as long as we do
    _Hall(port, drop_id, most).attend(pipe)


class _Seat:
    """One listener."""

    __slots__ = ("address", "line", "lost_at", "rest", "stopped_at", "tries", "version")

    def __init__(self, address: str) -> None:
        self.address = address
        self.line: socket.socket | None = None
        self.rest = b""  # of a frame that is not whole yet
        self.version = 0
        self.lost_at = 0.0
        self.stopped_at = 0.0
        self.tries = 0

    def __lt__(self, other: _Seat) -> bool:
        return id(self) < id(other)


class Read(NamedTuple):
    """What stands in some bytes: whole frames, and the newest version in them, 0 if none."""

    frames: int
    version: int
    pings: int
    code: int  # of a close frame
    rest: bytes


def read(data: bytes) -> Read:
    """Count frames; of their text only the last version matters."""
    at = frames = pings = code = 0
    while (size := _size(data, at)) and at + size <= len(data):
        kind = data[at]
        frames += kind == TEXT
        pings += kind == PING
        if kind == CLOSE and size >= 4:
            code = int.from_bytes(data[at + 2 : at + 4], "big")
        at += size
    found = data.rfind(VERSION, 0, at) + len(VERSION)
    version = 0
    if found >= len(VERSION):
        end = found
        while data[end : end + 1].isdigit():
            end += 1
        version = int(data[found:end])
    return Read(frames, version, pings, code, data[at:])


def _size(data: bytes, at: int) -> int:
    """Of the frame that begins there, header included; 0: that cannot be seen yet."""
    if len(data) < at + 2:
        return 0
    short = data[at + 1]
    if short < 126:
        return 2 + short
    width = 2 if short == 126 else 8
    if len(data) < at + 2 + width:
        return 0
    return 2 + width + int.from_bytes(data[at + 2 : at + 2 + width], "big")


class _Hall:
    """All seats, and one loop."""

    def __init__(self, port: int, drop_id: int, most: int) -> None:
        self._port = port
        room = b'{"action":"join","room":"drop:%d"}' % drop_id
        self._join = bytes((TEXT, 0x80 | len(room))) + bytes(4) + room
        self._addresses = [f"127.0.0.{2 + n}" for n in range(max(8, -(-most // OF_ONE_ADDRESS)))]
        self._epoll = select.epoll()
        self._seats: list[_Seat] = []
        self._by_file: dict[int, _Seat] = {}
        self._coming: list[tuple[float, _Seat]] = []
        self._known: dict[bytes, Read] = {}
        self._seen = Seen()
        self._told: dict[tuple[int, int], Counter[int]] = {}

    def attend(self, pipe: Pipe) -> None:
        """Listen until killed."""
        self._epoll.register(pipe.fileno(), select.EPOLLIN)
        while True:
            time.sleep(TICK_SECONDS)
            for file, events in self._epoll.poll(0, 4_096):
                if file == pipe.fileno():
                    wish = msgspec.msgpack.decode(pipe.recv_bytes(), type=Wish)
                    pipe.send_bytes(msgspec.msgpack.encode(self._obey(wish)))
                elif (seat := self._by_file.get(file)) is not None:
                    self._look(file, seat, events)
            now = time.monotonic()
            while self._coming and self._coming[0][0] <= now:
                self._come(heapq.heappop(self._coming)[1])

    # ── what the drill wants ─────────────────────────────────────────────────────────────────

    def _obey(self, wish: Wish) -> Seen:
        if wish.forget:
            self._forget()
        if wish.seats is not None:
            self._resize(wish.seats)
        if wish.stop:
            self._stop(wish.stop)
        seen = self._seen
        versions = Counter(seat.version for seat in self._seats if not seat.stopped_at)
        seen.versions, seen.cpu_seconds = dict(versions), time.process_time()
        if wish.lags:
            seen.heard = [Heard(old, new, dict(told)) for (old, new), told in self._told.items()]
            self._told = {}
        else:
            seen.heard = []
        return seen

    def _forget(self) -> None:
        self._seen, self._told = Seen(), {}

    def _resize(self, count: int) -> None:
        for seat in self._seats[count:]:
            self._hang_up(seat)
        del self._seats[count:]
        staying = set(self._seats)
        self._coming = [(at, seat) for at, seat in self._coming if seat in staying]
        heapq.heapify(self._coming)
        now = time.monotonic()
        for number in range(count - len(self._seats)):
            seat = _Seat(self._addresses[number % len(self._addresses)])
            self._seats.append(seat)
            heapq.heappush(self._coming, (now + number / COMES_PER_S, seat))

    def _stop(self, count: int) -> None:
        """They read no more. That they were cut is seen without reading."""
        reading = [seat for seat in self._seats if seat.line and not seat.stopped_at]
        for seat in reading[:count]:
            assert seat.line is not None
            seat.stopped_at = time.monotonic()
            self._epoll.modify(seat.line.fileno(), select.EPOLLRDHUP)

    # ── a connection ─────────────────────────────────────────────────────────────────────────

    def _come(self, seat: _Seat) -> None:
        seat.line = line = socket.socket()
        seat.rest, seat.version = b"", 0
        line.setblocking(False)
        try:
            line.bind((seat.address, 0))
            failed = line.connect_ex(("127.0.0.1", self._port))
        except OSError as error:
            failed = error.errno or errno.EIO
        self._by_file[line.fileno()] = seat
        self._epoll.register(line.fileno(), select.EPOLLOUT)
        if failed not in (0, errno.EINPROGRESS):
            self._lose(seat)

    def _look(self, file: int, seat: _Seat, events: int) -> None:
        try:
            if seat.stopped_at:
                self._seen.gone.append(time.monotonic() - seat.stopped_at)
                self._hang_up(seat)
            elif events & select.EPOLLIN:
                self._read(seat, os.read(file, READ_BYTES))
            elif events & select.EPOLLOUT:
                os.write(file, HANDSHAKE)
                self._epoll.modify(file, select.EPOLLIN)
            else:
                self._lose(seat)
        except BlockingIOError:
            pass  # it comes again
        except OSError:
            self._lose(seat)

    def _read(self, seat: _Seat, data: bytes) -> None:
        if not data:
            self._lose(seat)
            return
        seen = self._seen
        seen.bytes += len(data)
        if seat.rest:
            data = seat.rest + data
        if data.startswith(b"HTTP/"):
            head, gap, after = data.partition(b"\r\n\r\n")
            if not gap:
                seat.rest = data
                return
            if not head.startswith(b"HTTP/1.1 101"):
                seen.words[int(head[9:12])] = seen.words.get(int(head[9:12]), 0) + 1
                return  # it hangs up
            assert seat.line is not None
            os.write(seat.line.fileno(), self._join)
            data = after
        found = self._known.get(data)
        if found is None:
            found = read(data)
            if len(self._known) >= FRAMES_KNOWN:
                self._known.clear()
            self._known[data] = found
        self._take(seat, found)

    def _take(self, seat: _Seat, found: Read) -> None:
        seat.rest = found.rest
        seen = self._seen
        seen.frames += found.frames
        if found.pings and seat.line is not None:
            os.write(seat.line.fileno(), PONG)
        if found.code:
            seen.words[found.code] = seen.words.get(found.code, 0) + 1
        if found.version > seat.version:
            if not seat.version:
                self._arrive(seat)
            elif not seat.lost_at:  # who had been away is counted by the time until it was back
                span = seat.version, found.version
                told = self._told.get(span)
                if told is None:
                    told = self._told[span] = Counter()
                told[int(time.time() * 1_000)] += 1
            seat.version = found.version

    def _arrive(self, seat: _Seat) -> None:
        seat.tries = 0
        if seat.lost_at:
            self._seen.back.append(time.monotonic() - seat.lost_at)

    def _lose(self, seat: _Seat) -> None:
        """Come again, not all at once."""
        if seat.version:
            self._seen.lost += 1
            seat.lost_at = time.monotonic()
        else:
            self._seen.refused += 1
        self._hang_up(seat)
        longest = min(BACK_SECONDS[1] * 1.5**seat.tries, BACK_SECONDS_MAX)
        seat.tries += 1
        back_at = time.monotonic() + random.uniform(BACK_SECONDS[0], longest)
        heapq.heappush(self._coming, (back_at, seat))

    def _hang_up(self, seat: _Seat) -> None:
        seat.version = 0
        if seat.line is not None:
            self._by_file.pop(seat.line.fileno(), None)
            with suppress(OSError):
                seat.line.close()
            seat.line = None
