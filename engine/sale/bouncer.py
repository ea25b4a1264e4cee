"""The bouncer: one method a script of lua/. It says "no" quickly; only Postgres says "yes".

Everything in Redis can be lost, stale or doubled; the only effect is refused or delayed work.
All keys of a drop share one hash tag, and carry the identity of the database: a Redis that
remembers another database remembers nothing.

    vr1:{<database>:<drop>}:drop     figures, terms, sum of open intents
    vr1:{<database>:<drop>}:intents  requests on their way to Postgres
    vr1:{<database>:<drop>}:buyers   units by buyer, a suspicion
    vr1:{<database>:<drop>}:cooling  until when buyers must wait, a suspicion
    vr1:{<database>:<drop>}:seats    named units that were free at one version, a suspicion
    vr1:{<database>:<drop>}:picked   named units on their way to Postgres
    vr1:{<database>:<drop>}:picks    the same by request
    vr1:{<database>:<drop>}:news     changes of named units that came before their predecessors
    vr1:{<database>:<drop>}:dues     bells by the time they ring
    vr1:{<database>:<drop>}:bell:<ms>  rings at a deadline by expiring
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from itertools import repeat
from typing import Any

import msgspec
import structlog

from engine.infra import lua
from engine.infra.meter import meter
from engine.infra.postgres import Postgres
from engine.infra.redis import ABI, Away, Redis
from engine.sale.models import Figures, Offer

log = structlog.get_logger()

LIFE_SECONDS = 7 * 86_400
ATTEMPTS_PER_EPOCH = 1 << 20  # epochs are seconds, and Lua counts exactly to 2^53 only

_admit, _settle = lua.load("admit"), lua.load("settle")
_stale, _ring = lua.load("stale_intents"), lua.load("ring_due")
_inspect, _recount, _seat = lua.load("inspect"), lua.load("recount"), lua.load("seat")

# What one version did to a named drop's units: numbers that left the shelf, and that came back.
Changes = tuple[Sequence[int], Sequence[int]]


class Admission(msgspec.Struct, frozen=True):
    """What the bouncer said to a batch."""

    word: str  # open, shut, fenced or unknown
    available: int
    figures: Figures | None
    words: list[str]
    young: bool  # filled or met so recently that requests it forgot may still be on their way
    age_seconds: float = 0.0  # of its figures, if they were not read for this batch
    named: bool = False  # buyers pick its units
    blind: bool = False  # and which of them are free is not known
    firsts: list[int] = []  # of the runs that were chosen, one a request; 0, or none at all: none


class Intent(msgspec.Struct, frozen=True):
    """A request that was let through and not settled yet."""

    request_id: str
    attempt: int
    quantity: int
    buyer: str


class Belief(msgspec.Struct, frozen=True):
    """What the bouncer believes of a drop."""

    epoch: int
    version: int
    terms_version: int
    free: int
    open: int
    summed: int
    intents: int
    oldest_ms: int  # how far the oldest intent is past its deadline; 0: none is
    overdue: int  # units of intents past their deadline: their worker is taken for dead
    shut: int  # 1: it lets nobody through, whatever is left
    named: int = 0  # 1: buyers pick its units
    seats_version: int = -1  # of the bitmap of the free ones; -1: there is none
    strays: int = 0  # picked units of no intent

    @property
    def available(self) -> int:
        """Units it would still let requests through for."""
        return self.free - self.open

    @property
    def missed(self) -> bool:
        """Whether it lacks the named units that are free, or some that became so of late."""
        return self.named == 1 and self.seats_version < self.version


class Bouncer:
    """The scripts, bound to one Redis and to the identity of one database."""

    def __init__(self, redis: Redis, postgres: Postgres, intent_ttl_ms: int = 5_000) -> None:
        self._redis = redis
        self._postgres = postgres
        self._intent_ttl_ms = intent_ttl_ms

    def _key(self, drop_id: int, name: str) -> str:
        return f"{ABI}:{{{self._postgres.identity}:{drop_id}}}:{name}"

    def _keys(self, drop_id: int, *names: str) -> dict[str, str]:
        return {name: self._key(drop_id, name) for name in names}

    async def admit(
        self,
        drop_id: int,
        epoch: int,
        batch: Sequence[tuple[str, int, int, str, bool]],
        picks: Sequence[Sequence[int]] = (),
    ) -> Admission:
        """Ask for (request, attempt, quantity, buyer, trusted) tuples, and for the named units that
        each of them picks; no picks: nobody does. Raises `Away`."""
        flat: list[Any] = []
        for request, attempt, quantity, buyer, trusted in batch:
            flat += (request, attempt, quantity, buyer, 1 if trusted else 0)
        word, available, figures, words, young, named, firsts = await self._redis.run(
            _admit,
            self._keys(drop_id, "drop", "intents", "buyers", "cooling", "seats", "picked", "picks"),
            epoch=epoch,
            ttl_ms=self._intent_ttl_ms,
            batch=flat,
            wanted=picks,
        )
        return Admission(
            word.decode(),
            available,
            Figures(*figures) if figures else None,
            ["admitted"] * len(batch)
            if word == b"open" and not words
            else [bytes(each).decode() for each in words],
            young == 1 or self._redis.met_within(self._intent_ttl_ms / 1000),
            named=named > 0,
            blind=named == 2,
            firsts=firsts,
        )

    async def settle(
        self,
        drop_id: int,
        figures: Figures | None = None,
        changes: Changes | None = None,
        *,
        closed: Sequence[tuple[str, int, bool]] = (),
        uses: Sequence[tuple[str, int, bool]] = (),
        cools: Sequence[tuple[str, int]] = (),
        ring_ms: int = 0,
        bell_ms: int = 0,
        offer: Offer | None = None,
    ) -> bool:
        """Close intents (request, attempt, kept), tell figures, and what this version changed of
        named units; correct uses (buyer, units, exact) and cool-downs (buyer, ms to wait yet).

        Best effort: False if Redis is away. The reaper and the reconciler do it then.
        """
        terms: list[Any] = []
        if offer is not None:
            terms = [offer.terms_version, offer.starts_ms, offer.ends_ms, offer.shut]
            terms += [offer.max_per_buyer, offer.max_per_order, offer.promised]
            terms += [int(offer.cooldown_factor > 0), int(offer.is_named)]
        told: list[int] = []
        if figures is not None:
            told = [
                figures.version,
                figures.free,
                figures.held,
                figures.sold,
                figures.withdrawn,
                figures.total,
            ]
        keys = self._keys(drop_id, "drop", "intents", "buyers", "cooling", "dues")
        keys["bell"] = self._key(drop_id, f"bell:{bell_ms}")
        keys |= self._keys(drop_id, "seats", "picked", "picks", "news")
        try:
            _, _, _, before = await self._redis.run(
                _settle,
                keys,
                epoch=figures.epoch if figures is not None else self._postgres.epoch,
                figures=told,
                changes=() if changes is None else changes,
                terms=terms,
                closed=[
                    part
                    for request, attempt, kept in closed
                    for part in (request, attempt, int(kept))
                ],
                uses=[part for buyer, units, exact in uses for part in (buyer, units, int(exact))],
                cools=[part for each in cools for part in each],
                ring_ms=ring_ms,
                life_s=LIFE_SECONDS,
                channel=f"{ABI}:{{{self._postgres.identity}}}:news",
            )
        except Away:
            return False
        if before and figures is not None:
            _mourn(drop_id, figures, *before)
        return True

    async def tell(self, offer: Offer) -> bool:
        """Figures and terms of a drop, if they are news."""
        return await self.settle(offer.drop_id, figures=offer.figures, offer=offer)

    async def seat(self, drop_id: int, figures: Figures, numbers: Sequence[int]) -> bool:
        """The numbers of all named units that were free at these figures' version; whether they
        were news. Best effort, as `settle`."""
        bits = bytearray(b"0") * ((max(numbers, default=0) + 8) // 8 * 8)
        deque(map(bits.__setitem__, numbers, repeat(0x31)), maxlen=0)  # the loop, without bytecode
        try:
            word, _ = await self._redis.run(
                _seat,
                self._keys(drop_id, "drop", "seats", "news"),
                epoch=figures.epoch,
                version=figures.version,
                bitmap=int(bits, 2).to_bytes(len(bits) // 8),
                life_s=LIFE_SECONDS,
            )
        except Away:
            return False
        return bool(word == b"newer")

    async def stale_intents(self, drop_id: int, count: int) -> list[Intent]:
        """Intents older than their worker may live. Raises `Away`."""
        found = await self._redis.run(_stale, self._keys(drop_id, "intents"), count=count)
        return [Intent(r.decode(), int(a), int(q), b.decode()) for r, a, q, b in found]

    async def ring_due(self, drop_id: int) -> int:
        """Touch the bells that should have rung, so that they ring now. Raises `Away`."""
        due = await self._redis.run(_ring, self._keys(drop_id, "dues"), count=1_000)
        if due:
            await self._redis.touch(due)
        return len(due)

    async def inspect(self, drop_id: int, deep: bool = False) -> Belief | None:
        """What is believed of a drop; None if it is unknown. Raises `Away`."""
        found = await self._redis.run(
            _inspect,
            self._keys(drop_id, "drop", "intents", "seats", "picked", "picks"),
            deep=int(deep),
        )
        return Belief(*found) if found else None

    async def recount(self, drop_id: int) -> int:
        """Believe the sum of the open intents, and what they picked; units that were counted too
        many. Raises `Away`."""
        keys = self._keys(drop_id, "drop", "intents", "picked", "picks")
        return int((await self._redis.run(_recount, keys, life_s=LIFE_SECONDS))[0])


def _mourn(drop_id: int, figures: Figures, epoch: int, version: int, taken: int) -> None:
    """An epoch took another's place, which one call in all processes sees. Nothing is sold in a new
    epoch before the bouncer knows of it, so what it knew beyond these figures is lost, and so is
    what was on its way to it: at least so much."""
    versions = max(version - figures.version, 0)
    units = max(taken - figures.held - figures.sold, 0)
    words = {"drop_id": drop_id, "epoch": figures.epoch, "before": epoch}
    if not versions:
        log.warning("sale.epoch", **words)
        return
    meter.count("lost_versions", by=versions)
    meter.count("lost_units", by=units)
    log.error("sale.history_lost", **words, versions=versions, units=units)
