"""Our own load client, for machines without wrk: keep-alive connections on raw asyncio protocols.

Closed loop, as wrk's: each of C connections sends its next request when the last was answered.
When the time is over nobody sends any more and the last answers are awaited, so the client's
count is exactly the server's. Rates divide by the time until the last answer.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import time
from array import array
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from multiprocessing.connection import Connection as Pipe
from multiprocessing.synchronize import Barrier
from typing import Any, Protocol, cast

import msgspec
import uvloop

GRACE_SECONDS = 10.0  # for last answers; who is slower counts as an error
RETRY_SECONDS = 0.05
ADDRESSES = 4_096  # that a process speaks for, as a proxy does: limits by address are exercised


class Shot(msgspec.Struct, frozen=True, kw_only=True):
    """What a client sends over and over: a wish for one unit, every time by a new buyer, and from
    another address."""

    port: int
    path: str
    run: str  # begins the buyers' names; must differ between runs on one drop
    drop_id: int = 0
    keyed: bool = False  # with an Idempotency-Key, a new one each time
    then: str = ""  # where each hold is bought as soon as it is told; empty: it is not
    receipts: bool = False  # with a receipt, a new one each time

    @property
    def body(self) -> tuple[str, str]:
        """What stands before the buyer's name, and between that and the same again, if anything."""
        start = f'{{"dropId":{self.drop_id},'
        if self.receipts:
            return f'{start}"receiptData":"', '","userId":"'
        return f'{start}"userId":"', ""

    @property
    def head(self) -> str:
        """The request up to its varying lines, which are the key and the length."""
        return self.head_of(self.path)

    def head_of(self, path: str) -> str:
        """The same of another path."""
        return (
            f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\n"
            "Content-Type: application/json\r\n"
        )


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """What one run of a client saw."""

    requests_per_s: float
    ok_per_s: float  # answered with 2xx
    non_2xx: int
    p50_ms: float
    p99_ms: float
    errors: int  # lost or refused connections, unreadable or late answers
    requests: int  # answered, whatever the status
    statuses: dict[int, int] = {}  # answers by status; wrk does not tell
    seconds: float = 0.0  # that the load lasted
    cpu_seconds: float = 0.0  # that the client itself took of the machine
    late_p99_ms: float = 0.0  # paced loads: how long after its time the client sent

    @property
    def ok(self) -> int:
        """Answers with 2xx."""
        return self.requests - self.non_2xx


class Tally(msgspec.Struct):
    """What one process counts; `latencies` is an array of doubles in seconds, as bytes."""

    latencies: bytes = b""
    statuses: dict[int, int] = {}
    errors: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    lateness: bytes = b""  # likewise doubles in seconds


class Watch(Protocol):
    """Whoever wants to know when the load itself begins and ends, without what comes before."""

    def begin(self) -> None:
        """The first request is about to be sent."""

    def end(self) -> None:
        """The last answer is here."""


class Unwatched:
    """Nobody."""

    def begin(self) -> None:
        """Nothing."""

    def end(self) -> None:
        """Nothing."""


Load = Callable[[Shot, int, float], Coroutine[Any, Any, Tally]]


def fire(
    shot: Shot,
    connections: int,
    seconds: float,
    watch: Watch | None = None,
    *,
    processes: int = 2,
    load: Load | None = None,
) -> Figures:
    """Send for `seconds` from `connections` connections; at most `seconds` + 30 pass.

    `load` is what each process does with its share of them: a closed loop unless told.
    """
    spawn, watch = multiprocessing.get_context("spawn"), watch or Unwatched()
    start = spawn.Barrier(processes + 1)
    shares = [connections // processes + (i < connections % processes) for i in range(processes)]
    workers = []
    try:
        for number, share in enumerate(shares):
            ours, theirs = spawn.Pipe(duplex=False)
            mine = msgspec.structs.replace(shot, run=f"{shot.run}-{number}")
            arguments = (load or closed_loop, mine, share, seconds, start, theirs)
            worker = spawn.Process(target=_work, args=arguments, daemon=True)
            worker.start()
            workers.append((worker, ours))
        start.wait(20)
        watch.begin()
        tallies = [_receive(ours, seconds + 30) for _, ours in workers]
        watch.end()
    finally:
        for worker, _ in workers:
            worker.join(1)
            worker.kill()
    return summarise(tallies)


def summarise(tallies: Sequence[Tally]) -> Figures:
    """Several processes' counts as one."""
    latencies, lateness, statuses = array("d"), array("d"), Counter[int]()
    for tally in tallies:
        latencies.frombytes(tally.latencies)
        lateness.frombytes(tally.lateness)
        statuses.update(tally.statuses)
    ordered = sorted(latencies)
    seconds = max(tally.seconds for tally in tallies) or 1.0
    non_2xx = sum(count for status, count in statuses.items() if not 200 <= status < 300)
    return Figures(
        requests_per_s=len(ordered) / seconds,
        ok_per_s=(len(ordered) - non_2xx) / seconds,
        non_2xx=non_2xx,
        p50_ms=1_000 * percentile(ordered, 0.50),
        p99_ms=1_000 * percentile(ordered, 0.99),
        errors=sum(tally.errors for tally in tallies),
        requests=len(ordered),
        statuses=dict(statuses),
        seconds=seconds,
        cpu_seconds=sum(tally.cpu_seconds for tally in tallies),
        late_p99_ms=1_000 * percentile(sorted(lateness), 0.99),
    )


def percentile(ordered: Sequence[float], share: float) -> float:
    """The value that this share of them does not exceed; 0 of none."""
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)] if ordered else 0.0


def _receive(pipe: Pipe, patience_seconds: float) -> Tally:
    if not pipe.poll(patience_seconds):
        raise TimeoutError("a load process said nothing")
    return msgspec.msgpack.decode(pipe.recv_bytes(), type=Tally)


def _work(
    load: Load, shot: Shot, connections: int, seconds: float, start: Barrier, result: Pipe
) -> None:
    start.wait(20)
    before = time.process_time()
    tally = uvloop.run(load(shot, connections, seconds))
    tally.cpu_seconds = time.process_time() - before
    result.send_bytes(msgspec.msgpack.encode(tally))


async def closed_loop(
    shot: Shot, connections: int, seconds: float, gun: type[Gun] | None = None
) -> Tally:
    """Each connection asks as soon as it was answered; what, says a gun: for units unless told."""
    return await _closed_loop(
        (gun or Gun)(shot, time.perf_counter() + seconds), connections, seconds
    )


async def _closed_loop(gun: Gun, connections: int, seconds: float) -> Tally:
    began = time.perf_counter()
    tasks = [
        asyncio.create_task(keep_connected(gun), name=f"connection-{number}")
        for number in range(connections)
    ]
    _, late = await asyncio.wait(tasks, timeout=seconds + GRACE_SECONDS) if tasks else ((), ())
    for task in late:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return Tally(
        latencies=gun.latencies.tobytes(),
        statuses=dict(gun.statuses),
        errors=gun.errors + len(late),
        seconds=gun.last_answer - began,
    )


async def keep_connected(gun: Gun) -> None:
    """One connection, opened again whenever it is lost, until the time is over."""
    loop = asyncio.get_running_loop()
    while not gun.is_over():
        try:
            transport, line = await loop.create_connection(lambda: Line(gun), "127.0.0.1", gun.port)
        except OSError:
            gun.errors += 1
            await asyncio.sleep(RETRY_SECONDS)
            continue
        try:
            await line.ended
        finally:
            transport.close()


class Gun:
    """The next request, and the counts, of all connections of one process."""

    def __init__(self, shot: Shot, ends_at: float) -> None:
        self.port = shot.port
        self.buys = bool(shot.then)
        self.latencies = array("d")
        self.statuses = Counter[int]()
        self.errors = 0
        self.last_answer = time.perf_counter()
        self._ends_at = ends_at
        self._shot = shot
        self._head, self._head_of_buying = shot.head, shot.head_of(shot.then)
        self._sent = 0

    def is_over(self) -> bool:
        """Whether the time to send has passed."""
        return time.perf_counter() >= self._ends_at

    def load(self) -> bytes:
        """A request nobody has sent before."""
        self._sent += 1
        buyer = f"{self._shot.run}-{self._sent}"
        opening, again = self._shot.body
        body = f'{opening}{buyer}{again}{buyer if again else ""}"}}'
        key = f"Idempotency-Key: {buyer}\r\n" if self._shot.keyed else ""
        return self._letter(self._head, key, body)

    def buy(self, told: bytes) -> bytes:
        """The purchase of the hold that this answer tells of, by its owner."""
        self._sent += 1
        id, owner = told.find(b'"id":"') + 6, told.find(b'"userId":"') + 10
        hold = told[id : id + 36].decode()
        buyer = told[owner : told.find(b'"', owner)].decode()
        body = f'{{"reservationId":"{hold}","userId":"{buyer}"}}'
        return self._letter(self._head_of_buying, "", body)

    def _letter(self, head: str, key: str, body: str) -> bytes:
        address = f"X-Forwarded-For: 10.9.{self._sent // 256 % 16}.{self._sent % 256}\r\n"
        return f"{head}{address}{key}Content-Length: {len(body)}\r\n\r\n{body}".encode()

    def hit(self, status: int, sent_at: float, body: bytes) -> None:
        """Count an answer; its body matters to those who come after us."""
        self.last_answer = time.perf_counter()
        self.latencies.append(self.last_answer - sent_at)
        self.statuses[status] += 1


class Line(asyncio.Protocol):
    """One connection: send, read one whole answer, send again."""

    def __init__(self, gun: Gun) -> None:
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._gun = gun
        self._heard = b""
        self._sent_at = 0.0
        self._awaiting = False
        self._buying = False
        self._hold = b""  # the answer that told of one which is still to be bought

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports look like asyncio's without inheriting from them.
        self._transport = cast(asyncio.Transport, transport)
        self._send()

    def data_received(self, data: bytes) -> None:
        self._heard += data
        head, gap, rest = self._heard.partition(b"\r\n\r\n")
        if not gap:
            return
        length = _content_length(head)
        if length is None:
            self._transport.abort()  # chunked: not spoken here; counted as a lost answer
        elif len(rest) >= length:
            self._heard = b""
            self._awaiting = False
            status = int(head[9:12])
            self._gun.hit(status, self._sent_at, rest)
            if self._gun.buys and status == 201 and not self._buying:
                self._hold = rest
            self._send()

    def connection_lost(self, exc: Exception | None) -> None:
        self._gun.errors += self._awaiting
        if not self.ended.done():
            self.ended.set_result(None)

    def _send(self) -> None:
        if self._gun.is_over():
            self._transport.close()
            return
        self._awaiting = True
        self._sent_at = time.perf_counter()
        hold, self._hold = self._hold, b""
        self._buying = bool(hold)
        self._transport.write(self._gun.buy(hold) if hold else self._gun.load())


def _content_length(head: bytes) -> int | None:
    at = head.lower().find(b"\r\ncontent-length:")
    if at < 0:
        return None
    return int(head[at + 17 :].partition(b"\r\n")[0])
