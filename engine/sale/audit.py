"""Audit: does a drop add up? Live figures of Postgres and the bouncer beside the last full recount.

`clean` means that no invariant is broken. Drift of the bouncer is shown, and is not a broken
invariant while requests are under way. Undersell is what it costs: units that are free and that
nobody can get.
"""

from __future__ import annotations

import asyncio

import msgspec

from engine.infra.describe import Moment
from engine.infra.http import iso
from engine.infra.postgres import Postgres
from engine.infra.redis import Away
from engine.sale import shelf, store
from engine.sale.bouncer import Belief, Bouncer
from engine.sale.models import Drop, Offer, Proof
from engine.sale.prove import prove

LARGE = 50_000  # units; above, only the auditor has the time to count


class Undersell(msgspec.Struct, frozen=True):
    """Units that are free and not on offer, and since when at most."""

    units: int
    seconds: float


class Believed(msgspec.Struct, frozen=True, rename="camel"):
    """What the bouncer believes of a drop."""

    epoch: int
    version: int
    free: int
    available: int
    open_intents: int
    open_units: int
    miscounted: int
    oldest_intent_ms: int


class Audit(msgspec.Struct, frozen=True, rename="camel"):
    """What was found. `problems` empty: every invariant holds."""

    drop_id: int
    status: str
    paused_reason: str | None
    clean: bool
    problems: list[str]
    offenders: list[str]  # units, holds and buyers by name: operators only, of a count made now
    proven_at: Moment | None  # when every row was last counted; None: not yet
    epoch: int
    version: int
    total_stock: int
    free: int
    held: int
    sold: int
    withdrawn: int
    overdue_seconds: float  # how long the oldest hold is past its deadline
    bouncer: Believed | None  # None: it is away, or knows nothing of this drop
    drift: int | None  # bouncer's available − (free − open intents); 0 when all agree
    undersell: Undersell


class Auditing:
    """The audits of one process. Figures are live; the rows behind them are counted by one at a
    time and at most every few seconds for all processes together, since everybody may ask and
    counting is dear. A drop of more than `large` units (LARGE) is left to the auditor."""

    def __init__(
        self, postgres: Postgres, bouncer: Bouncer, recount_seconds: float, large: int | None = None
    ) -> None:
        self._postgres, self._bouncer = postgres, bouncer
        self._recount_seconds, self._large = recount_seconds, large
        self._counting = asyncio.Lock()

    async def audit(self, drop_id: int) -> Audit | None:
        """Does one drop add up? None if there is none."""
        found = await shelf.list_drops(self._postgres, ids=[drop_id])
        if not found:
            return None
        proof = await self._proof(found[0])
        _, overdue_seconds = await store.count_due(self._postgres, drop_id)
        try:
            belief = await self._bouncer.inspect(drop_id, deep=True)
        except Away:
            belief = None
        # Figures after the belief: then the belief can only be the older one.
        offer = (await shelf.offers(self._postgres, [drop_id]))[0]
        return _audit(found[0], proof, overdue_seconds, belief, offer)

    async def _proof(self, drop: Drop) -> Proof | None:
        known = await shelf.find_proof(self._postgres, drop.id)
        # Large: only the auditor has the time. Busy: an older count must do, if there is one.
        large = LARGE if self._large is None else self._large
        if drop.total_stock > large or (known and self._counting.locked()):
            return known
        async with self._counting:
            known = await shelf.find_proof(self._postgres, drop.id)  # while we waited
            if known is not None and known.age_seconds < self._recount_seconds:
                return known
            counted = await prove(self._postgres, drop.id)
            if counted is not None:
                await shelf.keep_proof(self._postgres, drop.id, counted)
            return counted


def _audit(
    drop: Drop,
    proof: Proof | None,
    overdue_seconds: float,
    belief: Belief | None,
    offer: Offer,
) -> Audit:
    problems = [] if proof is None else proof.problems
    figures = offer.figures
    return Audit(
        drop.id,
        drop.status,
        drop.paused_reason,
        not problems,
        problems,
        [] if proof is None else proof.offenders,
        None if proof is None else iso(proof.proven_at),
        figures.epoch,
        figures.version,
        drop.total_stock,
        figures.free,
        figures.held,
        figures.sold,
        figures.withdrawn,
        overdue_seconds,
        _believed(belief),
        None if belief is None else belief.available - (figures.free - belief.summed),
        undersell(drop, belief, offer),
    )


def undersell(drop: Drop, belief: Belief | None, offer: Offer) -> Undersell:
    """Free units that nobody can get. Those on their way to Postgres are on offer; those of an
    intent past its deadline wait for the reaper. Without a bouncer Postgres offers all."""
    if belief is None or drop.status != "live":
        return Undersell(0, 0.0)
    if belief.shut and offer.figures.free:  # it goes by terms that are no longer the drop's
        return Undersell(offer.figures.free, (offer.now_ms - offer.changed_ms) / 1000)
    under_way = belief.summed - belief.overdue
    units = max(offer.figures.free - max(belief.available, 0) - under_way, 0)
    if units == 0:
        return Undersell(0, 0.0)
    # Stale intents know since when. What else it is can be no older than the figures.
    stale = units <= belief.overdue
    since_ms = belief.oldest_ms if stale else max(offer.now_ms - offer.changed_ms, 0)
    return Undersell(units, since_ms / 1000)


def _believed(belief: Belief | None) -> Believed | None:
    if belief is None:
        return None
    return Believed(
        belief.epoch,
        belief.version,
        belief.free,
        belief.available,
        belief.intents,
        belief.summed,
        belief.open - belief.summed,
        belief.oldest_ms,
    )
