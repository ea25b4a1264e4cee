"""Locks: of all processes, the one that may do something; and proof that it still may.

    async with locks.held("sealing", seconds=5) as lock:     # renewed until the end of the block
        async with postgres.transaction() as session:
            await guard(session, lock)                       # else nothing of this is committed
            ...

A lock is a row: its owner, until when by Postgres's clock, and a token that rises with each owner.
A holder may stop for a minute and not know it (a kill -9 is the short form of that), so no lock
keeps it from writing; `guard` does. It locks the row, shared, if the token is still the newest and
its time is not over: a successor waits for that transaction, and no older one passes.

A waiter sleeps until it hears over Redis that the lock was given back, or until the holder's time
is over, as Postgres told when it was asked in vain: without Redis that is how long a crash or a
release stays unnoticed. Of a process the first of its line waits, the others behind it in order:
an owner costs each waiting process two queries at most, however many wait there (in vain, and when
it is over). Between processes who asks first has it.

Rows are never deleted: a token that began again would let an old holder pass. So names must be few
and fixed, one a job, never one a user. Whoever has thousands of subjects locks their own rows.
"""

from __future__ import annotations

import asyncio
import os
import platform
import random
import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from datetime import datetime

import msgspec

from engine.infra import sql
from engine.infra.errors import Fault, Retryable
from engine.infra.hints import Hints, channel_of
from engine.infra.postgres import Postgres, Session, Undone
from engine.infra.redis import Away, Redis

LOCK_NOT_AVAILABLE = "55P03"
RENEWALS = 3  # in the time for which a lock is taken
SPREAD_SECONDS = 0.02  # of those who wake at one expiry, so that they do not ask at one moment

_queries = sql.load("locks")


class LockLost(Retryable):
    """Somebody else may have this work by now. Nothing of this was written."""


class LockTaken(Retryable):
    """Somebody else is doing this just now. Nothing was done."""


class Lock:
    """A lock that was taken. `token` is larger than every earlier holder's of that name; `lost` is
    set when its time is over by this process's own count, which never runs behind Postgres's."""

    def __init__(self, name: str, owner: str, token: int, seconds: float, began: float) -> None:
        """`began` is when it was asked for, by the loop's time."""
        self.name, self.owner, self.token, self.seconds = name, owner, token, seconds
        self.lost = asyncio.Event()
        self._alarm: asyncio.TimerHandle | None = None
        self.last(began)

    def last(self, began: float) -> None:
        """It was taken or renewed, by a request of that moment."""
        self._silence()
        loop = asyncio.get_running_loop()
        self._alarm = loop.call_at(began + self.seconds, self.lost.set)

    def end(self) -> None:
        """It is not ours any more."""
        self._silence()
        self.lost.set()

    def _silence(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()


class LockRow(msgspec.Struct, frozen=True):
    """A lock as it is kept. `live`: somebody has it."""

    name: str
    owner: str | None
    token: int
    acquired_at: datetime
    expires_at: datetime
    live: bool


class _Line:
    """Who waits in this process for one lock: the first asks, the others wait for their turn."""

    def __init__(self) -> None:
        self.turn, self.news = asyncio.Lock(), asyncio.Event()
        self.length = 0


async def guard(session: Session, lock: Lock) -> None:
    """Inside of a transaction: nothing of it is committed unless the lock is ours now, and nobody
    has it before that is done. Be quick: meanwhile it cannot be renewed. Raises `LockLost`."""
    words = {"name": lock.name, "owner": lock.owner, "token": lock.token}
    if await session.call(_queries["guard_lock"], **words) is None:
        lock.end()
        raise LockLost


class Locks:
    """The locks of one process, those it waits for and those it keeps for its leaders."""

    def __init__(self, postgres: Postgres, redis: Redis, redis_url: str) -> None:
        self._postgres, self._redis = postgres, redis
        self._channel = channel_of(postgres.identity, "locks")
        self._hints = Hints(redis_url, self._channel, self._hear, self._look_all)
        self._lines: dict[str, _Line] = {}
        self._hinting: asyncio.Task[None] | None = None  # only while somebody waits
        self._led: dict[str, Lock] = {}

    async def acquire(self, name: str, seconds: float, wait_seconds: float = 0.0) -> Lock | None:
        """Take a lock, waiting for it so long; None: somebody else has it. It is ours for
        `seconds`. Not re-entrant. After a `Fault` it may be taken, by nobody: until it runs out."""
        owner = f"{platform.node()}:{os.getpid()}:{secrets.token_hex(4)}"
        if wait_seconds <= 0:
            return (await self._try(name, owner, seconds))[0]
        until = _now() + wait_seconds
        with self._in_line(name) as line:
            try:
                async with asyncio.timeout_at(until):
                    await line.turn.acquire()
            except TimeoutError:
                return None
            try:
                return await self._wait(line, until, name, owner, seconds)
            finally:
                line.turn.release()

    async def _wait(
        self, line: _Line, until: float, name: str, owner: str, seconds: float
    ) -> Lock | None:
        while True:
            line.news.clear()
            lock, rest = await self._try(name, owner, seconds)
            if lock is not None:
                return lock
            self._listen()
            ends = _now() + rest + random.uniform(0, SPREAD_SECONDS)
            try:
                async with asyncio.timeout_at(min(ends, until)):
                    await line.news.wait()
            except TimeoutError:
                if ends >= until:
                    return None

    async def _try(self, name: str, owner: str, seconds: float) -> tuple[Lock | None, float]:
        """The lock; or for how many seconds another has it."""
        began = _now()
        words = {"name": name, "owner": owner, "seconds": seconds}
        try:
            row = await self._postgres.call(_queries["acquire_lock"], **words)
        except Undone as undone:
            # A guarded write of one whose time is over: waited for as long as Postgres lets us.
            if undone.sqlstate == LOCK_NOT_AVAILABLE:
                return None, 0.0
            raise
        if row["taken"] is None:
            return None, row["rest"]
        return Lock(name, owner, row["taken"], seconds, began), 0.0

    async def renew(self, lock: Lock) -> bool:
        """Keep it for its seconds from now; False: it is lost."""
        began = _now()
        words = {"name": lock.name, "owner": lock.owner, "token": lock.token}
        if await self._postgres.call(_queries["renew_lock"], seconds=lock.seconds, **words) is None:
            lock.end()
            return False
        lock.last(began)
        return True

    async def release(self, lock: Lock) -> bool:
        """Give it back, and tell who waits; False: it was lost before."""
        lock.end()
        words = {"name": lock.name, "owner": lock.owner, "token": lock.token}
        if await self._postgres.call(_queries["release_lock"], **words) is None:
            return False
        with suppress(Away):
            await self._redis.publish(self._channel, lock.name)
        return True

    @asynccontextmanager
    async def held(
        self, name: str, seconds: float, wait_seconds: float = 0.0
    ) -> AsyncIterator[Lock]:
        """A lock for the length of a block, renewed at each third of its time. Whoever works long
        looks at `lock.lost` in between. Raises `LockTaken`."""
        lock = await self.acquire(name, seconds, wait_seconds)
        if lock is None:
            raise LockTaken
        over = asyncio.Event()
        renewing = asyncio.create_task(self._keep(lock, over), name="lock-renewal")
        try:
            yield lock
        finally:
            over.set()
            await asyncio.wait([renewing])  # a statement of ours is never cut
            with suppress(Fault):  # then it runs out
                await self.release(lock)

    async def _keep(self, lock: Lock, over: asyncio.Event) -> None:
        while not (over.is_set() or lock.lost.is_set()):
            with suppress(TimeoutError):
                async with asyncio.timeout(lock.seconds / RENEWALS):
                    await over.wait()
            if not over.is_set():
                with suppress(Fault):  # the next third tries again; `lost` comes by itself
                    await self.renew(lock)

    async def leads(self, name: str, seconds: float) -> bool:
        """Be, or stay, the process that does something, for so long from now. Who works leads: one
        that stops asking is followed by another, one that ends gives it back."""
        lock = self._led.get(name)
        if lock is not None and await self.renew(lock):
            return True
        lock = await self.acquire(name, seconds)
        if lock is not None:
            self._led[name] = lock
        return lock is not None

    async def close(self) -> None:
        """Give back what we lead, and listen no more."""
        for lock in self._led.values():
            with suppress(Fault):
                await self.release(lock)
        if self._hinting is not None:
            self._hinting.cancel()
            await asyncio.gather(self._hinting, return_exceptions=True)

    # ── who waits ────────────────────────────────────────────────────────────────────────────

    @contextmanager
    def _in_line(self, name: str) -> Iterator[_Line]:
        """A place in the line, from before the first try: no hint passes unheard."""
        line = self._lines.setdefault(name, _Line())
        line.length += 1
        try:
            yield line
        finally:
            line.length -= 1
            if line.length == 0:
                del self._lines[name]
            if not self._lines and self._hinting is not None:
                self._hinting.cancel()
                self._hinting = None

    def _listen(self) -> None:
        if self._hinting is None:
            self._hinting = asyncio.create_task(self._hints.listen(), name="lock-hints")

    def _hear(self, message: bytes) -> None:
        if (line := self._lines.get(message.decode(errors="replace"))) is not None:
            line.news.set()

    def _look_all(self) -> None:
        """We listen from now on: what was given back before, nobody told us."""
        for line in self._lines.values():
            line.news.set()


def _now() -> float:
    return asyncio.get_running_loop().time()


# ── for people ───────────────────────────────────────────────────────────────────────────────────


async def rows(postgres: Postgres, after: str | None, count: int, skip: int = 0) -> list[LockRow]:
    """Locks by name, from the one after that."""
    words = {"after": after, "count": count, "skip": skip}
    found = await postgres.call(_queries["list_locks"], **words)
    return [msgspec.convert(dict(row), LockRow) for row in found]


async def count(postgres: Postgres) -> int:
    """How many there are."""
    return int((await postgres.call(_queries["count_locks"]))["locks"])
