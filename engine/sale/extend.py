"""Extend and pay: a hold lives longer, because its buyer asks for time, or because payment begins.

Each happens once in a hold's life, so that nobody keeps a unit for ever: a hold lives at most its
drop's `max_hold_seconds`, and `pay_seconds` more once payment has begun.
"""

from __future__ import annotations

from engine.infra.errors import NotFound
from engine.infra.postgres import Session
from engine.sale import store, till
from engine.sale.bouncer import Bouncer
from engine.sale.errors import ExtensionUsed, NotYourReservation
from engine.sale.models import Hold, Longer
from engine.sale.purchase import why_not


async def extend(session: Session, id: str, buyer: str | None) -> tuple[Hold, Longer]:
    """Let a hold run for its own time once more. `buyer` None stands for its owner.
    Raises `NotFound`, `NotYourReservation`, `ExtensionUsed`, `HoldExpired`, `AlreadyResolved`."""
    longer = await till.extend_hold(session, id, buyer)
    hold = await _mine(session, id, buyer)
    if longer is None:
        if hold.status == "paying":
            raise ExtensionUsed("Payment has begun: the hold lives to its end", status="paying")
        if hold.status == "active":
            raise ExtensionUsed(status="active")
        raise why_not(hold)
    return hold, longer


async def pay(session: Session, id: str, buyer: str | None) -> tuple[Hold, Longer | None]:
    """Payment begins: active → paying, with the time it takes. Of a hold that is `paying` already
    nothing changes, so that a page may be loaded again; then there is no `Longer`.
    Raises `NotFound`, `NotYourReservation`, `HoldExpired`, `AlreadyResolved`."""
    longer = await till.pay_hold(session, id, buyer)
    hold = await _mine(session, id, buyer)
    if longer is None and hold.status != "paying":
        raise why_not(hold)
    return hold, longer


async def _mine(session: Session, id: str, buyer: str | None) -> Hold:
    hold = await store.find_reservation(session, id)
    if hold is None:
        raise NotFound(f"There is no reservation {id}")
    if buyer is not None and buyer != hold.buyer:
        raise NotYourReservation
    return hold


async def ring_later(bouncer: Bouncer, longer: Longer) -> None:
    """A bell for the new deadline; the one for the old deadline rings and finds nothing due."""
    bell_ms = int(longer.expires_at.timestamp() * 1000)
    await bouncer.settle(longer.drop_id, ring_ms=max(longer.lives_ms, 1), bell_ms=bell_ms)
