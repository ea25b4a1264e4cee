"""A TCP proxy that harms what it carries, on command and at once.

    client ── forth ──▶ proxy ── forth ──▶ server
           ◀── back ───       ◀── back ───

Toxics hold for connections old and new, each way on its own or both at once:

    latency_ms, jitter_ms  bytes arrive so much later (each way: a round trip takes twice that)
    bytes_per_s            they arrive no faster; 0: as fast as they can
    black_hole             nothing passes, no end either; connections stay, new ones are accepted.
                           What was sent meanwhile arrives when it ends, as TCP sends again after
                           a partition; who connected in the hole and left again never came
    refusing               new connections are reset at once
    losing                 the server's answers are dropped and the connection reset: what was asked
                           has its effect, the answer is lost

The order of bytes is always kept. No direction of a connection keeps more than a megabyte or so:
then its sender is no longer read, as with a full TCP window.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager
from typing import Any, Generic, Literal, Self, TypeVar, cast
from urllib.parse import urlsplit, urlunsplit

from loadtest.chaos.lane import Lane, Way, reset

FIN_SECONDS = 1.0  # for a client to take its last bytes before it is reset

T = TypeVar("T")


class _Both(Generic[T]):
    """A toxic of a proxy that sets both ways; it tells what holds for the way forth."""

    def __set_name__(self, _: type, name: str) -> None:
        self._name = name

    def __get__(self, proxy: Proxy, _: type | None = None) -> T:
        value: T = getattr(proxy.forth, self._name)
        return value

    def __set__(self, proxy: Proxy, value: T) -> None:
        setattr(proxy.forth, self._name, value)
        setattr(proxy.back, self._name, value)


class Side(asyncio.Protocol):
    """One of the two connections of a link."""

    def __init__(self, link: Link, heard: Lane, told: Lane, hear: Callable[[bytes], None]) -> None:
        self._link, self._heard, self._told, self._hear = link, heard, told, hear
        self.transport: asyncio.Transport | None = None
        self.is_lost = False  # we gave it up: its end is nobody's business

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is not of that class
        if self.is_lost:  # given up while we called
            reset(self.transport)
            return
        self._heard.source = self._told.target = self.transport
        self._link.joined(self)

    def data_received(self, data: bytes) -> None:
        if not self.is_lost:
            self._hear(data)

    def eof_received(self) -> bool:
        if not self.is_lost:
            self._heard.end()
        self._link.settle()
        return True  # the other direction may go on

    def pause_writing(self) -> None:
        self._told.throttle(full=True)

    def resume_writing(self) -> None:
        self._told.throttle(full=False)

    def connection_lost(self, error: Exception | None) -> None:
        self.transport = self._heard.source = None
        self._told.drop()
        if not self.is_lost:
            self._heard.end("rst" if error else "fin")
        self._link.settle()

    def lose(self, end: Callable[[asyncio.Transport], None]) -> None:
        """Give this connection up."""
        self.is_lost = True
        self._told.drop()
        if self.transport is not None:
            end(self.transport)


class Link:
    """A client's connection, and the one to the server that belongs to it."""

    def __init__(self, proxy: Proxy) -> None:
        self.proxy = proxy
        self.forth, self.back = Lane(proxy.forth, self.settle), Lane(proxy.back, self.settle)
        self.client = Side(self, self.forth, self.back, self.from_client)
        self.server = Side(self, self.back, self.forth, self._from_server)
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.is_half = False  # one side is gone, the other was not told
        self._call: asyncio.Task[None] | None = None

    def from_client(self, data: bytes) -> None:
        """What the client sent."""
        self.forth.carry(data)

    def from_server(self, data: bytes) -> None:
        """What the server sent."""
        self.back.carry(data)

    def ended(self) -> None:
        """Both connections are gone."""

    def _from_server(self, data: bytes) -> None:
        if self.proxy.losing:
            self.proxy.done["lose"] += 1
            self.break_off()
        else:
            self.from_server(data)

    def joined(self, side: Side) -> None:
        """A connection stands."""
        if side is self.server:
            self.forth.wake()
        elif self.proxy.refusing:
            self.proxy.done["refuse"] += 1
            self.reset()
        else:
            self.proxy.links.add(self)
            self._call = self.proxy.spawn(self._reach(), "proxy-call")

    async def _reach(self) -> None:
        """Connect to the server; if it is not there, the client hears what it would from it."""
        if self.proxy.black_hole:
            await self.proxy.passage.wait()
            if self.forth.ended:  # the client never got through to it
                self.reset()
                return
        loop = asyncio.get_running_loop()
        try:
            await loop.create_connection(lambda: self.server, *self.proxy.target)
        except OSError:
            self.reset()

    def break_off(self) -> None:
        """Reset the client; leave to the server what was passed on to it, and then an end."""
        self.client.lose(reset)
        self.forth.end()
        self.settle()

    def reset(self) -> None:
        """Reset both connections."""
        self._lose_both(reset)

    def hang_up(self) -> None:
        """Close both connections."""
        self._lose_both(lambda transport: transport.close())

    def _lose_both(self, end: Callable[[asyncio.Transport], None]) -> None:
        self.is_half = False
        self.client.lose(end)
        self.server.lose(end)
        if self._call is not None and self._call is not asyncio.current_task():
            self._call.cancel()
        self.settle()

    def halve(self, gone: Side) -> None:
        """Reset one connection and keep the other, to which nothing is said any more."""
        if self.client.is_lost or self.server.is_lost:
            return
        self.is_half = True
        gone.lose(reset)
        (self.forth if gone is self.client else self.back).drop()
        if self._call is not None:
            self._call.cancel()

    def settle(self) -> None:
        """Close what is done with; say so when nothing is left."""
        finished = self.forth.is_finished and self.back.is_finished and not self.is_half
        for side, heard in ((self.client, self.forth), (self.server, self.back)):
            other = self.server if side is self.client else self.client
            if side.transport is not None and (finished or (other.is_lost and heard.ended)):
                side.transport.close()
        calling = self._call is not None and not self._call.done() and not self.server.is_lost
        left = self.client.transport or self.server.transport
        if left is None and not (calling and self.server.transport is None and not self.forth.gone):
            self.proxy.forget(self)
            if not self.over.done():
                self.over.set_result(None)
                self.ended()


class Proxy:
    """Forwards connections to one server and harms them. As a context it listens until its end."""

    latency_ms = _Both[float]()
    jitter_ms = _Both[float]()
    bytes_per_s = _Both[float]()
    black_hole = _Both[bool]()

    default_port = 0
    link: type[Link] = Link

    def __init__(self, url: str, seed: int = 0) -> None:
        parts = urlsplit(url)
        self.target = parts.hostname or "127.0.0.1", parts.port or self.default_port
        self.port = 0  # where it listens, on loopback
        self.url = url  # the given one, led through the proxy; all else of it is kept
        self.dice = random.Random(seed)
        self.done: Counter[str] = Counter()  # connections or statements, by what was done to them
        self.refusing = False
        self.losing = False
        self.passage = asyncio.Event()  # set unless there is a black hole on the way forth
        self.links: set[Link] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.forth = Way(random.Random(f"{seed} forth"), self._wake)
        self.back = Way(random.Random(f"{seed} back"), self._wake)
        self.passage.set()

    @classmethod
    @asynccontextmanager
    async def open(cls, url: str, *, seed: int = 0) -> AsyncIterator[Self]:
        """Listen on a free port until the end. `url` is any with a host and a port."""
        proxy = cls(url, seed)
        loop = asyncio.get_running_loop()
        server = await loop.create_server(
            lambda: proxy.link(proxy).client, "127.0.0.1", 0, backlog=1_024
        )
        proxy.port = server.sockets[0].getsockname()[1]
        parts = urlsplit(url)
        user, at, _ = parts.netloc.rpartition("@")
        proxy.url = urlunsplit(parts._replace(netloc=f"{user}{at}127.0.0.1:{proxy.port}"))
        try:
            yield proxy
        finally:
            server.close()
            proxy.refusing = True  # whom the kernel has accepted already
            await proxy.close()

    async def reset(self) -> None:
        """RST to both sides of every connection."""
        self.done["reset"] += len(self.links)
        await self.end(self.links, Link.reset)

    async def cut(self) -> None:
        """FIN to both sides of every connection, as from a process that closes them."""
        self.done["cut"] += len(self.links)
        await self.end(self.links, Link.hang_up)

    async def half_open(self, gone: Literal["server", "client"] = "server") -> None:
        """One side of every connection is gone, and the other is not told: it may send, and hears
        nothing, not even an end, until it gives up or `heal` resets it."""
        self.done["half_open"] += len(self.links)
        for link in tuple(self.links):
            link.halve(link.server if gone == "server" else link.client)

    async def heal(self) -> None:
        """No toxic any more: what was under way arrives, and what is half open is reset."""
        self.refusing = self.losing = False
        self.latency_ms = self.jitter_ms = self.bytes_per_s = 0.0
        self.black_hole = False
        await self.end([link for link in self.links if link.is_half], Link.reset)

    async def close(self) -> None:
        """End every connection and every task."""
        await self.end(self.links, Link.reset)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def end(self, links: Iterable[Link], how: Callable[[Link], None]) -> None:
        """End these, and wait until they are gone; who takes too long to hear an end is reset."""
        links = tuple(links)
        for end in (how, Link.reset):
            left = [link for link in links if not link.over.done()]
            for link in left:
                end(link)
            if left:
                await asyncio.wait([link.over for link in left], timeout=FIN_SECONDS)

    def living(self) -> tuple[Link, ...]:
        """All that may still carry something."""
        return tuple(self.links)

    def forget(self, link: Link) -> None:
        """This one is over."""
        self.links.discard(link)

    def spawn(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        """A task that ends with the proxy at the latest."""
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _wake(self) -> None:
        if self.forth.black_hole:
            self.passage.clear()
        else:
            self.passage.set()
        for link in self.living():
            link.forth.wake()
            link.back.wake()
