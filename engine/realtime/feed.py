"""The feed: what happened since the last look, read off the outbox. One a process, while heard.

    outbox ─▶ facts after a position ─▶ the drops they name, as they stand ─▶ Batch
       ▲ every 250 ms, or at a hint from Redis, at most ten times a second

Postgres is asked, not the worker that did it: so what one worker does the listeners of all hear, in
the same order, also while Redis is away, and nothing is told that was not committed.

Numbers of an outbox are given before the commit: a larger one may be seen first. A number that was
passed over is therefore asked for again for a while; what is never there was rolled back.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection, Iterable
from contextlib import suppress
from datetime import datetime, timedelta

import msgspec
import structlog

from engine.identity.names import Names
from engine.infra.errors import Fault
from engine.infra.http import iso
from engine.infra.log import Seldom
from engine.infra.postgres import Postgres
from engine.realtime import store
from engine.realtime.models import Batch, Bought, Moved, Seats, SeatsMoved, Slot, SlotMoved
from engine.realtime.places import ChainTold, SeatsTold, SlotsTold
from engine.realtime.store import Fact
from engine.record.views import EntryView
from engine.sale import shelf
from engine.sale.models import Drop, Hold
from engine.sale.store import find_holds_of

log = structlog.get_logger()

POLL_SECONDS = 0.25
ROUND_SECONDS = 0.1  # at least, between two looks
MISTAKE_SECONDS = 1.0  # between two looks after a mistake of ours
GAP_SECONDS = 45.0  # a transaction that has a number by then ended, a keeper's (40 s) too
GAPS_MAX = 1_000
FACTS_MAX = 500  # in one look
RETOLD = frozenset({"changed", "refunded"})  # terms, or who bought last: the drop is told anew
PURCHASES_TOLD = 3  # of a drop, in one look
SEALED = "sealed"  # the ledger got entries
BESIDE = frozenset({SEALED, "condition"})  # kinds that say nothing of a drop's figures


class Scope(msgspec.Struct, frozen=True):
    """What somebody listens to: all drops (None) or some, and the holds of these buyers."""

    drops: Collection[int] | None
    buyers: Collection[str]
    seats: Collection[int] = ()  # drops of which it is told which units went
    slots: bool = False
    ledger: bool = False

    @property
    def asks_whose(self) -> bool:
        """Whether it matters which holds a fact is about."""
        return bool(self.buyers) or self.slots


class Feed:
    """The one reader of a process. `scope` says what is listened to, `hear` takes what is new."""

    def __init__(
        self,
        postgres: Postgres,
        salt: bytes,
        scope: Callable[[], Scope],
        hear: Callable[[Batch], Awaitable[float]],
    ) -> None:
        self._postgres, self._scope, self._hear = postgres, scope, hear
        self._names = Names(postgres, salt)
        self._news = asyncio.Event()
        self._epoch = 0
        self._seen = 0
        self._is_fresh = False  # what was told before is not known: all are to be shown the present
        self._is_quiet = asyncio.Event()  # no facts were read that are not told yet
        self._is_quiet.set()
        self.turn = 0  # rises when the feed begins, when facts were read, and when they are told
        self._gaps: dict[int, float] = {}  # numbers passed over, and when
        self._known: dict[int, tuple[tuple[int, int], Drop]] = {}
        self._told: dict[int, datetime] = {}  # the newest purchase that was told of a drop
        self._clock: tuple[datetime, float] | None = None
        self.seats, self.slots = SeatsTold(postgres), SlotsTold(postgres)
        self.chain = ChainTold(postgres)
        self._complaints = Seldom()

    @property
    def position(self) -> tuple[int, int]:
        """(epoch, number of the newest fact seen)."""
        return self._epoch, self._seen

    @property
    def passed_over(self) -> int:
        """Numbers that may still be told."""
        return len(self._gaps)

    def time(self) -> str | None:
        """What time it is, by Postgres's clock; None: it was never asked."""
        if self._clock is None:
            return None
        then, at = self._clock
        return iso(then + timedelta(seconds=time.monotonic() - at))

    def wake(self) -> None:
        """There may be news."""
        self._news.set()

    async def quiet(self) -> None:
        """Wait until no facts are between Postgres and those who hear them."""
        await self._is_quiet.wait()

    async def begin(self) -> None:
        """Start from the present. Raises `Fault`."""
        asked = time.monotonic()
        self._epoch, self._seen, now, missing = await store.newest_fact(self._postgres)
        self._clock = now, (asked + time.monotonic()) / 2
        self._gaps = dict.fromkeys(missing, time.monotonic())
        self._known.clear()
        self._told.clear()
        self.seats.forget()
        self.slots.forget()
        self.chain.forget()
        self.turn += 1

    async def run(self) -> None:
        """Look until cancelled, and rest as long as `hear` says it needs."""
        while True:
            rest = ROUND_SECONDS
            try:
                batch = await self.look()
                if batch is not None:
                    rest = await self._hear(batch)
                    self._is_fresh = self._is_fresh and not batch.is_fresh
            except Fault as fault:
                if self._complaints.due():
                    log.warning("feed.blind", why=type(fault).__name__)
            except Exception:  # a feed that ends would leave all who listen with what they have
                rest, self._is_fresh = MISTAKE_SECONDS, True
                log.exception("feed.mistaken")
            await asyncio.sleep(rest)
            with suppress(TimeoutError):
                async with asyncio.timeout(max(POLL_SECONDS - rest, 0)):
                    await self._news.wait()
            self._news.clear()

    async def look(self) -> Batch | None:
        """What is new; None if nothing is that anybody listens to. Raises `Fault`."""
        asked = time.monotonic()
        epoch, now, facts, scope = await self._read()
        if epoch != self._epoch:
            # Another history: what was seen may never have been, and its numbers come again.
            self._is_fresh = self._is_fresh or bool(self._epoch)
            await self.begin()
        elif self._is_fresh:
            await self.begin()
        elif facts:
            return await self._put_together(asked, now, facts, scope)
        else:
            self._pass_over(())
        return Batch(self._seen, epoch, asked, [], [], True) if self._is_fresh else None

    async def _read(self) -> tuple[int, datetime, list[Fact], Scope]:
        """What there is, and who listens now that it is there: also whoever came meanwhile."""
        named = self._scope().asks_whose
        while True:
            epoch, now, facts = await store.read_facts(
                self._postgres, self._seen, list(self._gaps), named, FACTS_MAX
            )
            scope = self._scope()
            if named or not scope.asks_whose or not facts:
                return epoch, now, facts, scope
            named = True

    async def _put_together(
        self, asked: float, now: datetime, facts: list[Fact], scope: Scope
    ) -> Batch | None:
        """The news of these facts. They count as seen when all that they lead to was read: else
        the next look finds them again."""
        self.turn += 1
        self._is_quiet.clear()
        try:
            wanted = [
                fact
                for fact in facts
                if fact.kind not in BESIDE and (scope.drops is None or fact.drop_id in scope.drops)
            ]
            holds = await self._holds(facts, scope.buyers)
            places = await self._places(facts, scope)
            drops = await self._moved(wanted)
        finally:
            self.turn += 1
            self._is_quiet.set()
        self._pass_over([fact.id for fact in facts])
        if len(facts) >= FACTS_MAX:
            self._news.set()  # there is more
        seats, slots, entries = places()
        if not (drops or holds or seats or slots or entries):
            return None
        age = now - min(fact.told_at for fact in facts)
        since = asked - max(age.total_seconds(), 0.0)
        return Batch(self._seen, self._epoch, since, drops, holds, False, seats, slots, entries)

    async def _places(
        self, facts: list[Fact], scope: Scope
    ) -> Callable[[], tuple[list[SeatsMoved], list[SlotMoved], list[EntryView]]]:
        """Reads what stands one by one; what it returns compares, and counts it as told."""
        touched = {fact.drop_id for fact in facts if fact.kind != SEALED}
        seats = await self.seats.read(touched.intersection(scope.seats))
        slots = await self.slots.read(touched) if scope.slots and touched else []
        lapsed = await self.slots.lapsed(facts, slots) if slots else {}
        is_sealed = any(fact.kind == SEALED for fact in facts)
        entries = await self.chain.read() if scope.ledger and is_sealed else None

        def note() -> tuple[list[SeatsMoved], list[SlotMoved], list[EntryView]]:
            if touched and not scope.slots:
                self.slots.forget()
            return (
                self.seats.note(touched, seats),
                self.slots.note(slots, lapsed) if slots else [],
                self.chain.note(entries) if is_sealed else [],
            )

        return note

    def _pass_over(self, ids: Iterable[int]) -> None:
        """Note which numbers were seen, and which were passed over."""
        now = time.monotonic()
        for id in ids:
            self._gaps.pop(id, None)
            if id > self._seen:
                room = GAPS_MAX - len(self._gaps)
                first = max(self._seen + 1, id - max(room, 0))
                self._gaps.update((missing, now) for missing in range(first, id))
                self._seen = id
        if self._gaps:
            over = now - GAP_SECONDS
            self._gaps = {id: since for id, since in self._gaps.items() if since > over}

    async def _moved(self, facts: list[Fact]) -> list[Moved]:
        if not facts:
            return []
        told: dict[int, dict[str, int]] = defaultdict(lambda: defaultdict(int))
        for fact in facts:
            told[fact.drop_id][fact.kind] += max(fact.count, 1)
        found = await shelf.list_drops(self._postgres, ids=sorted(told), count=len(told))
        sold = [drop.id for drop in found if told[drop.id].keys() & {"purchased", "refunded"}]
        shown = [drop.id for drop in found if told[drop.id].keys() & {"created", "changed"}]
        recent = await self.recent({*sold, *shown})
        return [self._news_of(drop, told[drop.id], recent.get(drop.id)) for drop in found]

    def _news_of(self, drop: Drop, told: dict[str, int], recent: list[Bought] | None) -> Moved:
        before = self._known.get(drop.id)
        version = self._epoch, drop.version
        self._known[drop.id] = version, drop
        bought: list[Bought] = []
        if "purchased" in told and recent:
            since = self._told.get(drop.id)
            bought = [each for each in reversed(recent) if not since or each.purchased_at > since]
            self._told[drop.id] = recent[0].purchased_at
            if since is None:
                bought = bought[-told["purchased"] :]
        has_changed = not told.keys().isdisjoint(RETOLD)
        has_changed = has_changed or (before is not None and before[1].status != drop.status)
        return Moved(
            drop,
            self._epoch,
            is_new="created" in told,
            has_changed=has_changed,
            has_moved=before is None or version > before[0],
            bought=bought,
            recent=recent,
            expired=told.get("expired", 0),
            released=told.get("released", 0),
        )

    async def standing(self, ids: list[int] | None, count: int) -> list[Moved]:
        """Some drops, or the newest, as they stand. From now on it is seen when they become others.
        Raises `Fault`."""
        drops = await shelf.list_drops(self._postgres, ids=ids, count=count)
        recent = await self.recent([drop.id for drop in drops])
        for drop in drops:
            # Its status alone: others may not have been told these figures yet.
            self._known.setdefault(drop.id, ((self._epoch, -1), drop))
            if recent[drop.id]:
                self._told.setdefault(drop.id, recent[drop.id][0].purchased_at)
        return [
            Moved(drop, self._epoch, False, False, False, [], recent[drop.id], 0, 0)
            for drop in drops
        ]

    async def shelf(self, drop_id: int) -> Seats | None:
        """A named drop's shelf as it was told, or as it stands; None: it is not told which units
        went. Raises `Fault`."""
        known, turn = self.seats.known(drop_id), self.turn
        if known is not None:
            return known
        for seats in await self.seats.read([drop_id]):
            if turn == self.turn:  # nothing passed meanwhile: the next change follows this
                self.seats.keep(seats)
            return seats
        return None

    async def freezers(self) -> list[Slot]:
        """All slots, likewise. Raises `Fault`."""
        known, turn = self.slots.known(), self.turn
        if known is not None:
            return known
        slots = await self.slots.read()
        if turn == self.turn:
            self.slots.keep(slots)
        return slots

    async def entries(self) -> list[EntryView]:
        """The ledger's newest entries, newest first. Raises `Fault`."""
        turn = self.turn
        entries = await self.chain.read()
        if turn == self.turn:
            self.chain.keep(entries)
        return entries[::-1]

    async def recent(self, drop_ids: Collection[int]) -> dict[int, list[Bought]]:
        """The newest purchases of drops, newest first, three each."""
        if not drop_ids:
            return {}
        found = await shelf.recent_purchases(self._postgres, sorted(drop_ids))
        names = await self._names.of(buyer for sold in found.values() for buyer, _ in sold)
        return {
            id: [Bought(id, names[buyer], at, buyer) for buyer, at in found.get(id, [])]
            for id in drop_ids
        }

    async def _holds(self, facts: list[Fact], buyers: Collection[str]) -> list[Hold]:
        subjects = [id for fact in facts for id in fact.subjects]
        if not subjects or not buyers:
            return []
        return await find_holds_of(self._postgres, subjects, sorted(buyers))
