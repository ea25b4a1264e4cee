"""Way: how a batch takes its units."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import msgspec

from engine.infra.meter import meter
from engine.infra.postgres import Session
from engine.sale import store
from engine.sale.models import Claim, Claimed


async def _hold(session: Session, drop_id: int, epoch: int, claims: Sequence[Claim]) -> Claimed:
    return await store.claim_units(session, drop_id, epoch, claims)


def _count_holds(holds: int, units: int) -> None:
    if holds:
        meter.count("holds", by=holds)
        meter.count("held_units", by=units)


class Way(msgspec.Struct, frozen=True):
    """As holds, or (engine.membership.mint) sold at once."""

    name: str = "reserve"  # of its queues
    take: Callable[[Session, int, int, Sequence[Claim]], Awaitable[Claimed]] = _hold
    count: Callable[[int, int], None] = _count_holds  # requests that got units, and units
