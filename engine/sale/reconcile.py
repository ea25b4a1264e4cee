"""Reconcile: make the bouncer agree with Postgres, and end what dead workers left behind.

Every step is "set if newer" or keyed by its intent, so any number may run, late ones and zombies
included.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import structlog

from engine.infra.ids import new_id
from engine.infra.postgres import Postgres
from engine.sale import store
from engine.sale.bouncer import Bouncer, Intent
from engine.sale.models import Claim

log = structlog.get_logger()

REAP_BATCH = 500
SLICE = 16  # looks at the bouncer at once: one for each of its connections

T = TypeVar("T")


async def reconcile(postgres: Postgres, bouncer: Bouncer) -> int:
    """Tell the bouncer what is news to it; how many drops were. Raises `Away`."""
    told = 0
    # Beliefs first, truth second: then a belief can only be older than the truth, unless
    # Postgres itself has lost history.
    warm = [offer.drop_id for offer in await store.offers(postgres)]
    beliefs = dict(zip(warm, await in_slices(warm, bouncer.inspect), strict=True))
    for offer in await store.offers(postgres, warm):
        belief = beliefs[offer.drop_id]
        seen = (belief.epoch, belief.version) if belief is not None else (0, -1)
        truth = (offer.figures.epoch, offer.figures.version)
        # The same version with another figure is another history too: one that caught up.
        forked = belief is not None and seen == truth and belief.free != offer.figures.free
        if seen > truth or forked:
            log.error("reconcile.history_lost", drop_id=offer.drop_id, seen=seen, truth=truth)
            await postgres.refresh_epoch(seen=seen[0])
            told += await tell(postgres, bouncer, [offer.drop_id])
        elif seen < truth or belief is None or belief.terms_version < offer.terms_version:
            told += await bouncer.tell(offer)
        elif belief.open:  # units counted as on their way, of which the intents may be lost
            await bouncer.tell(offer)
    return told


async def tell(postgres: Postgres, bouncer: Bouncer, drop_ids: list[int]) -> int:
    """Tell the bouncer of these drops now; how many were told."""
    told = 0
    for offer in await store.offers(postgres, drop_ids):
        told += await bouncer.tell(offer)
    return told


async def reap(postgres: Postgres, bouncer: Bouncer) -> int:
    """Close the intents of dead workers; how many. Raises `Away`.

    A tombstone makes each outcome definite first. Reaping a live worker's intent is safe: its
    claim is then blocked and tries again.
    """
    closed = 0
    warm = [offer.drop_id for offer in await store.offers(postgres)]
    found = await in_slices(warm, lambda drop_id: bouncer.stale_intents(drop_id, REAP_BATCH))
    for drop_id, intents in zip(warm, found, strict=True):
        if intents:
            closed += await _close(postgres, bouncer, drop_id, intents)
    return closed


async def in_slices(drop_ids: list[int], look: Callable[[int], Awaitable[T]]) -> list[T]:
    """The results of a look at each drop, a slice of them at once."""
    seen: list[T] = []
    for first in range(0, len(drop_ids), SLICE):
        seen += await asyncio.gather(*(look(id) for id in drop_ids[first : first + SLICE]))
    return seen


async def _close(postgres: Postgres, bouncer: Bouncer, drop_id: int, intents: list[Intent]) -> int:
    intents = sorted(intents[:REAP_BATCH], key=lambda intent: intent.request_id)
    claims = [Claim(i.request_id, i.attempt, new_id(), i.buyer, i.quantity) for i in intents]
    words, figures = await store.abort_requests(postgres, drop_id, claims)
    await bouncer.settle(
        drop_id,
        figures,
        closed=[(c.request_id, c.attempt, w == "held") for c, w in zip(claims, words, strict=True)],
    )
    log.warning("reap.closed", drop_id=drop_id, intents=len(intents), held=words.count("held"))
    return len(intents)
