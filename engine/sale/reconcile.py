"""Reconcile: make the bouncer agree with Postgres, and end what dead workers left behind.

Every step is "set if newer" or keyed by its intent, so any number may run, late ones and zombies
included.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Literal, TypeVar

import structlog

from engine.infra.ids import new_id
from engine.infra.meter import meter
from engine.infra.postgres import Postgres
from engine.sale import seatmap, shelf, store
from engine.sale.bouncer import Belief, Bouncer, Intent
from engine.sale.models import Claim, Offer

log = structlog.get_logger()

REAP_BATCH = 500
SLICE = 16  # looks at the bouncer at once: one for each of its connections

T = TypeVar("T")


async def reconcile(
    postgres: Postgres, bouncer: Bouncer, missed: dict[int, int] | None = None
) -> int:
    """Tell the bouncer what is news to it; how many drops were. Raises `Away`. `missed`: the
    versions of the bitmaps that the last round found behind, for the next one."""
    told = 0
    # Beliefs first, truth second: then a belief can only be older than the truth, unless
    # Postgres itself has lost history.
    warm = [offer.drop_id for offer in await shelf.offers(postgres)]
    beliefs = dict(zip(warm, await in_slices(warm, bouncer.inspect), strict=True))
    before = {} if missed is None else dict(missed)
    if missed is not None:
        missed.clear()
    for offer in await shelf.offers(postgres, warm):
        belief = beliefs[offer.drop_id]
        told += await agree(postgres, bouncer, offer, belief)
        seen = -1 if belief is None else belief.seats_version
        if not offer.is_named or seen >= offer.figures.version:
            continue
        # To be behind for a moment is nothing: a batch commits, then tells. Where a bitmap still is
        # where it was a round ago, what it waits for is lost.
        if seen in (-1, before.get(offer.drop_id)):
            await seatmap.load(postgres, bouncer, offer.drop_id)
        elif missed is not None:
            missed[offer.drop_id] = seen
    return told


async def agree(postgres: Postgres, bouncer: Bouncer, offer: Offer, belief: Belief | None) -> int:
    """Tell the bouncer of one drop if that is news to it; how many were told."""
    match news(offer, belief):
        case "lost":
            seen, drop_id = belief.epoch if belief is not None else 0, offer.drop_id
            log.error("reconcile.history_lost", drop_id=drop_id, seen=seen)
            await postgres.refresh_epoch(seen=seen)
            return await tell(postgres, bouncer, [drop_id])
        case "newer":
            return int(await bouncer.tell(offer))
    if belief is not None and belief.open:
        # Units counted as on their way, of which the intents may be lost.
        await bouncer.tell(offer)
    return 0


def news(offer: Offer, belief: Belief | None) -> Literal["lost", "newer", "known"]:
    """What Postgres's words are to the bouncer. Lost: it knows more than Postgres, or another truth
    of the same version, so Postgres was set back, or caught up on another history."""
    if belief is None:
        return "newer"
    seen = (belief.epoch, belief.version)
    truth = (offer.figures.epoch, offer.figures.version)
    if seen > truth or (seen == truth and belief.free != offer.figures.free):
        return "lost"
    return "newer" if seen < truth or belief.terms_version < offer.terms_version else "known"


async def tell(postgres: Postgres, bouncer: Bouncer, drop_ids: list[int]) -> int:
    """Tell the bouncer of these drops now; how many were told."""
    told = 0
    for offer in await shelf.offers(postgres, drop_ids):
        told += await bouncer.tell(offer)
        if offer.is_named:
            await seatmap.load(postgres, bouncer, offer.drop_id)
    return told


async def reap(postgres: Postgres, bouncer: Bouncer) -> int:
    """Close the intents of dead workers; how many. Raises `Away`.

    A tombstone makes each outcome definite first. Reaping a live worker's intent is safe: its
    claim is then blocked and tries again.
    """
    closed = 0
    warm = [offer.drop_id for offer in await shelf.offers(postgres)]
    found = await in_slices(warm, lambda drop_id: bouncer.stale_intents(drop_id, REAP_BATCH))
    for drop_id, intents in zip(warm, found, strict=True):
        if intents:
            closed += await close_intents(postgres, bouncer, drop_id, intents)
    return closed


async def in_slices(drop_ids: list[int], look: Callable[[int], Awaitable[T]]) -> list[T]:
    """The results of a look at each drop, a slice of them at once."""
    seen: list[T] = []
    for first in range(0, len(drop_ids), SLICE):
        seen += await asyncio.gather(*(look(id) for id in drop_ids[first : first + SLICE]))
    return seen


async def close_intents(
    postgres: Postgres, bouncer: Bouncer, drop_id: int, intents: list[Intent]
) -> int:
    """Make the outcome of these intents definite and close them; how many."""
    intents = sorted(intents[:REAP_BATCH], key=lambda intent: intent.request_id)
    claims = [Claim(i.request_id, i.attempt, new_id(), i.buyer, i.quantity) for i in intents]
    words, figures = await store.abort_requests(postgres, drop_id, claims)
    await bouncer.settle(
        drop_id,
        figures,
        closed=[(c.request_id, c.attempt, w == "held") for c, w in zip(claims, words, strict=True)],
    )
    meter.count("intents_reaped", by=len(intents))
    log.warning("reap.closed", drop_id=drop_id, intents=len(intents), held=words.count("held"))
    return len(intents)
