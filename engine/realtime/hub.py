"""The hub: who listens to what in this process, and the one feed that they hear.

    join ─▶ a snapshot, then every batch of the feed, in the room's order, until leave
    feed ─▶ Batch ─▶ one encoding a room ─▶ the same bytes to every member, some at a time

Changes are told as often as there is budget for: telling takes at most a share of the process's
time, so the more listeners there are, the longer a round of telling lasts, and what happens
meanwhile is one change in the next round. Never more than ten rounds a second, never less than two
while there is time for it, and the last state is always told.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, defaultdict
from collections.abc import Collection
from typing import Any, Protocol

import msgspec

from engine.identity.access import Door
from engine.infra.errors import Fault, Forbidden, Problem, Unauthorized
from engine.infra.hints import Hints, channel_of
from engine.infra.meter import meter
from engine.infra.postgres import Postgres
from engine.realtime import frames
from engine.realtime.feed import ROUND_SECONDS, Feed, Scope
from engine.realtime.frames import Wired
from engine.realtime.listener import ROOMS_MAX, Listener
from engine.realtime.models import Batch, SlotMoved
from engine.realtime.shows import DROPS_MAX, Shows, key_of
from engine.realtime.sorting import Jobs, sort

ROUND_SECONDS_MAX = 0.4  # a change may wait for one, and be told at the end of the next
REST_MIN = 2.0  # times what a slice took: where telling is late, requests still come first
SLICE = 40  # listeners told in one go; requests come in between
SWEEP_SECONDS = 0.5
SESSIONS_SECONDS = 0.3  # and the watch's own look: a session that ended is over in both
TRIES_MAX = 3  # to find a moment for a snapshot in which nothing happens
GREETING = "Connected to inventory system"


class Echo(Protocol):
    """Somebody who keeps listeners of his own."""

    @property
    def count(self) -> int:
        """Listeners there are."""

    @property
    def buyers(self) -> Collection[str]:
        """Those of them who hear their own holds."""

    @property
    def sessions(self) -> Collection[str]:
        """The sessions of accounts with whose tokens they came."""

    def hear(self, batch: Batch) -> None:
        """Tell them."""

    def end(self, sessions: Collection[str]) -> None:
        """Whoever came with one of these goes."""


class Hub:
    """The listeners of one process."""

    def __init__(
        self,
        postgres: Postgres,
        redis_url: str,
        salt: bytes,
        door: Door,
        share: float,
    ) -> None:
        """`share` of the process's time may go into telling."""
        self._feed = Feed(postgres, salt, self._scope, self._hear)
        news = channel_of(postgres.identity, "news")
        self._hints = Hints(redis_url, news, lambda _: self._feed.wake())
        self._shows = Shows(postgres, self._feed)
        self.door, self._share = door, share
        self._rooms: dict[str, dict[Listener, None]] = defaultdict(dict)
        self._echoes: list[Echo] = []
        self._cost = 0.0  # seconds to tell one listener, as measured
        self._feeding: asyncio.Task[None] | None = None
        self._hinting: asyncio.Task[None] | None = None  # there is one a batch: only while it helps
        self._beginning = asyncio.Lock()  # thousands may come at once
        self._sweeping: asyncio.Task[None] | None = None
        self._following: asyncio.Task[None] | None = None
        self._joining: set[asyncio.Task[None]] = set()
        self.listeners: dict[Listener, None] = {}
        self.clients: Counter[str] = Counter()
        self.now = asyncio.get_running_loop().time

    @property
    def position(self) -> tuple[int, int]:
        """(epoch, place in the outbox) of what was told last."""
        return self._feed.position

    @property
    def is_following(self) -> bool:
        """Whether the outbox is read: only while somebody listens."""
        return self._feeding is not None

    def echo(self, echo: Echo) -> None:
        """Also tell somebody who keeps listeners of his own. Each of them needs a `begin`."""
        self._echoes.append(echo)

    # ── coming and going ─────────────────────────────────────────────────────────────────────

    def enter(self, listener: Listener) -> None:
        """One more: it hears who it talks to."""
        self.listeners[listener] = None
        if listener.client is not None:
            self.clients[listener.client] += 1
        meter.count("listeners_met", listener.kind)
        self._start(self._greet(listener))
        if self._sweeping is None:
            self._look_after()

    async def _greet(self, listener: Listener) -> None:
        """The first word. It says what time it is, so Postgres is asked first."""
        while listener.is_open and not listener.is_greeted:
            try:
                await self.begin()
            except Fault:
                await asyncio.sleep(SWEEP_SECONDS)
            else:
                self._say_hello(listener)

    def _say_hello(self, listener: Listener) -> None:
        if not listener.is_greeted:
            listener.is_greeted = True
            listener.tell(self.stamped("connected", message=GREETING))
            listener.greeted()

    def leave(self, listener: Listener) -> None:
        """One less."""
        if self.listeners.pop(listener, 0) == 0:
            return
        if listener.client is not None:
            self.clients[listener.client] -= 1
            if not self.clients[listener.client]:
                del self.clients[listener.client]
        for room in list(listener.asked):
            self._part(listener, room)

    def join(self, listener: Listener, room: str) -> None:
        """Let it hear a room, from a snapshot on. Raises `Problem`."""
        key = key_of(room, listener.buyer)
        if key not in listener.asked and len(listener.asked) >= ROOMS_MAX:
            raise Forbidden(f"At most {ROOMS_MAX} rooms")
        listener.asked[key] = None
        self._bring(listener, key)

    def part(self, listener: Listener, room: str) -> None:
        """Let it hear a room no more. Raises `Problem`."""
        self._part(listener, key_of(room, listener.buyer))
        listener.tell(frames.wired("left", {"room": room}, self.position))

    def _part(self, listener: Listener, key: str) -> None:
        listener.asked.pop(key, None)
        listener.rooms.pop(key, None)
        members = self._rooms.get(key)
        if members is not None:
            members.pop(listener, None)
            if not members:
                del self._rooms[key]

    def authenticate(self, listener: Listener, token: str | None, named: Any) -> None:
        """Let it hear its own holds. Raises `Unauthorized`, `Invalid`."""
        caller = self.door.listener(token, named)
        if listener.buyer is not None and listener.buyer != caller.subject:
            self._part(listener, key_of("me", listener.buyer))
        listener.caller = caller
        listener.tell(frames.wired("authenticated", {"userId": caller.subject}, self.position))

    def catch_up(self, listener: Listener) -> None:
        """It fell behind and reads again: how things stand, instead of all that it missed."""
        for key in listener.asked:
            self._bring(listener, key)

    def _bring(self, listener: Listener, key: str) -> None:
        if key not in listener.arriving:  # else it is shown what it asks for anyway
            listener.arriving.add(key)
            self._start(self._bring_in(listener, key))

    def _start(self, work: Any) -> None:
        task = asyncio.create_task(work, name="hub-join")
        self._joining.add(task)
        task.add_done_callback(self._joining.discard)

    async def _bring_in(self, listener: Listener, key: str) -> None:
        """Tell it how a room stands, and let it hear what comes after that. Who was shown nothing
        because Postgres is away is told so, and shown it later."""
        try:
            await self._show_when_possible(listener, key)
        finally:
            listener.arriving.discard(key)

    async def _show_when_possible(self, listener: Listener, key: str) -> None:
        has_complained = False
        while _wants(listener, key):
            try:
                await self._show_in(listener, key)
                return
            except Fault as fault:
                if not has_complained:
                    listener.tell(frames.problem(fault, listener.id, self.position))
                has_complained = True
            except Problem as problem:
                if _wants(listener, key):
                    self._part(listener, key)
                    listener.tell(frames.problem(problem, listener.id, self.position))
                if isinstance(problem, Unauthorized) and listener.is_open:
                    listener.drop(1008, "session")
                return
            await asyncio.sleep(SWEEP_SECONDS)

    async def _show_in(self, listener: Listener, key: str) -> None:
        """Facts that were read while a snapshot was made may be missing in it, and were told
        without it: then it looks again, and at last from within the room. Raises `Problem`."""
        await self.begin()
        self._say_hello(listener)
        if listener.caller is not None and key == key_of("me", listener.buyer):
            await self.door.still(listener.caller)
        feed, tries = self._feed, 0
        while True:
            await feed.quiet()
            turn = feed.turn
            if listener.seen == self.position:  # nothing happened since it was here
                self._let_in(listener, key)
                return
            if tries == TRIES_MAX:
                self._let_in(listener, key)
            shown = await self._shows.of(key, turn)
            if turn == feed.turn or tries == TRIES_MAX:
                break
            tries += 1
        if self._let_in(listener, key):
            listener.tell(shown)

    def _let_in(self, listener: Listener, key: str) -> bool:
        if not _wants(listener, key):
            return False
        listener.seen = None
        listener.rooms[key] = None
        self._rooms[key][listener] = None
        return True

    def stamped(self, event: str, **data: Any) -> Wired:
        """A word to one listener, with the time it is."""
        return frames.wired(event, {**data, "serverTime": self._feed.time()}, self.position)

    # ── the feed ─────────────────────────────────────────────────────────────────────────────

    async def begin(self) -> None:
        """Follow the outbox from now on, as long as somebody listens. Raises `Fault`."""
        if self._sweeping is None:
            self._look_after()
        if self._feeding is not None:
            return
        async with self._beginning:
            if self._feeding is None:
                await self._feed.begin()
                self._feeding = asyncio.create_task(self._feed.run(), name="feed")
                self._hinting = asyncio.create_task(self._hints.listen(), name="hints")

    def _scope(self) -> Scope:
        seats, buyers = set[int](), list[str]()
        for key in self._rooms:
            kind, _, name = key.partition(":")
            if kind == "drop":
                seats.add(int(name))
            elif kind == "me":
                buyers.append(name)
        listens = any(echo.count for echo in self._echoes)
        for echo in self._echoes:
            buyers += echo.buyers
        return Scope(
            None if listens or "drops" in self._rooms else seats,
            buyers,
            seats,
            slots=listens or "slots" in self._rooms,
            ledger=listens or "ledger" in self._rooms,
        )

    async def _hear(self, batch: Batch) -> float:
        """Tell everybody; seconds that the feed rests afterwards."""
        began = self.now()
        position = batch.epoch, batch.seq
        if batch.is_fresh and any(echo.count for echo in self._echoes):
            standing = await self._feed.standing(None, DROPS_MAX)
            slots = [SlotMoved(slot) for slot in await self._feed.freezers()]
            batch = msgspec.structs.replace(batch, drops=standing, slots=slots)
        for echo in self._echoes:
            echo.hear(batch)
        if batch.is_fresh:
            for listener in list(self.listeners):
                self.catch_up(listener)
        else:
            await self._tell(self._sorted(batch, position))
            meter.lag("told", time.monotonic() - batch.since)
        return max(ROUND_SECONDS - (self.now() - began), 0.0)

    def _sorted(self, batch: Batch, position: tuple[int, int]) -> Jobs:
        """What each room is told; what comes late would count as heard, so then it has no mark."""
        jobs = sort(batch, self._rooms, position)
        if self._feed.passed_over:
            return jobs
        return [(members, news.marked(position)) for members, news in jobs]

    async def _tell(self, jobs: Jobs) -> None:
        """Write to the members of these rooms, some at a time. Between two slices the process has
        the rest of its time for others; with too many listeners for a round, less of it."""
        count = sum(len(members) for members, _ in jobs)
        step = min(self._cost / self._share, ROUND_SECONDS_MAX / max(count, 1))
        rest, due = min(REST_MIN, 1 / self._share - 1), self.now()
        for members, news in jobs:
            for first in range(0, len(members), SLICE):
                part = members[first : first + SLICE]
                began = time.perf_counter()
                for listener in part:
                    listener.tell(news)
                spent = time.perf_counter() - began
                self._cost += (spent / len(part) - self._cost) / 16
                # By the clock, not by naps: on a busy machine each of them lasts longer.
                due += step * len(part)
                await asyncio.sleep(max(due - self.now(), min(spent, 0.01) * rest))
            meter.count("live_sent", by=len(members))

    # ── looking after ────────────────────────────────────────────────────────────────────────

    def _look_after(self) -> None:
        self._sweeping = asyncio.create_task(self._sweep(), name="hub-sweep")
        self._following = asyncio.create_task(self._follow_sessions(), name="hub-sessions")

    async def _sweep(self) -> None:
        """Ping, drop who is silent or reads nothing, and end the feed when nobody is left."""
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            now = self.now()
            for n, listener in enumerate(list(self.listeners)):
                listener.look(now)
                if n % 500 == 499:
                    await asyncio.sleep(0)
            meter.listeners = len(self.listeners) + sum(echo.count for echo in self._echoes)
            if not meter.listeners and self._feeding and self._hinting:
                self._feeding.cancel()
                self._hinting.cancel()
                self._feeding = self._hinting = None

    async def _follow_sessions(self) -> None:
        """Whose session has ended goes. While Postgres is away nobody new is known to."""
        while True:
            await asyncio.sleep(SESSIONS_SECONDS)
            theirs = {one.session for one in self.listeners if one.session}
            for echo in self._echoes:
                theirs.update(echo.sessions)
            if not theirs:
                continue
            try:
                over = await self.door.over(theirs)
            except Fault:
                continue
            for listener in [one for one in self.listeners if one.session in over]:
                listener.drop(1008, "session")
            for echo in self._echoes:
                echo.end(over)

    def dismiss(self) -> None:
        """Everybody goes, told to come back."""
        for listener in list(self.listeners):
            listener.drop(1012, "restart")

    async def close(self) -> None:
        """Nobody is told anything more."""
        self.dismiss()
        ours = self._feeding, self._hinting, self._sweeping, self._following, *self._joining
        tasks = [task for task in ours if task]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _wants(listener: Listener, key: str) -> bool:
    """Whether it is there, and still asks for a room."""
    return listener.is_open and key in listener.asked
