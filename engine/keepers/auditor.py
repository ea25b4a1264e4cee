"""Auditor: recounts every warm drop over and over, and pauses one whose rows do not add up.

A snapshot cannot be half of a transaction, so a mismatch is never a race: something wrote past the
engine, or the engine is wrong. Either way nobody may reserve until a person has looked; who holds
a unit can still buy it. Counting is dear and a sale wants the same processors: it goes round as
slowly as finding a damage within a minute allows, and rests after each drop in proportion.
"""

from __future__ import annotations

import asyncio
import time

import structlog

from engine.infra.errors import Fault
from engine.infra.locks import Locks
from engine.infra.postgres import Postgres
from engine.sale import reconcile, shelf
from engine.sale.bouncer import Bouncer
from engine.sale.prove import prove

log = structlog.get_logger()

REST_LEAST, REST_MOST = 3.0, 30.0  # times as long as it counted
REST_SECONDS = 10.0  # shorter than we lead
LEAD_SECONDS = 15.0  # without a word; then another keeper counts
PACE_SECONDS = 40.0  # for a round over many drops, or over large ones
ROUND_SECONDS = 60.0  # in which a damage must be found; a longer round is complained of


class Auditor:
    """The recounts of one keeper process, while it leads. Two that count at once are no harm, only
    dear: what they write is what they found, so no write of theirs is guarded."""

    def __init__(self, postgres: Postgres, bouncer: Bouncer, locks: Locks) -> None:
        self._postgres, self._bouncer = postgres, bouncer
        self._locks = locks
        self._counted_seconds = 0.0  # in the last round

    async def work(self) -> None:
        """One round over all warm drops."""
        began, counted = time.monotonic(), 0.0
        rest = min(max(PACE_SECONDS / (self._counted_seconds or 1.0), REST_LEAST), REST_MOST)
        for offer in await shelf.offers(self._postgres):
            if not await self._locks.leads("auditor", LEAD_SECONDS):
                return
            counting = time.monotonic()
            try:
                await self._prove(offer.drop_id)
            except Fault as fault:  # one drop that cannot be counted must not keep the others
                log.warning("auditor.skipped", drop_id=offer.drop_id, why=type(fault).__name__)
            took = time.monotonic() - counting
            counted += took
            await asyncio.sleep(min(took * rest, REST_SECONDS))
        self._counted_seconds = counted
        if (took := time.monotonic() - began) > ROUND_SECONDS:
            log.warning("auditor.slow", seconds=round(took))

    async def _prove(self, drop_id: int) -> None:
        proof = await prove(self._postgres, drop_id)
        if proof is not None and proof.problems:  # somebody may be mending it just now: look twice
            proof = await prove(self._postgres, drop_id)
        if proof is None:
            return
        await shelf.keep_proof(self._postgres, drop_id, proof)
        if proof.problems and await shelf.begin_pause(self._postgres, drop_id, "audit"):
            log.error(
                "auditor.paused", drop_id=drop_id, problems=proof.problems, who=proof.offenders
            )
            await reconcile.tell(self._postgres, self._bouncer, [drop_id])
