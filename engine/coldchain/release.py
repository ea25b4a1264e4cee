"""Release: occupied → available, because an operator said so: a booking ends as its purchase does.

The refund of the purchase puts the slot on the shelf again, ends the booking and writes its record,
all in one transaction.
"""

from __future__ import annotations

from engine.coldchain import store
from engine.coldchain.models import Booking
from engine.infra.errors import NotFound
from engine.infra.postgres import Session
from engine.sale import till
from engine.sale.models import Returned

REASON = "booking released"


async def release(session: Session, id: str) -> tuple[Booking, list[Returned]]:
    """End a booking; its slot can be held again. The caller publishes what came back, after its
    commit: nothing, if it was released before. Raises `NotFound`."""
    booking = await store.find_booking(session, id)
    if booking is None:
        raise NotFound(f"There is no booking {id}")
    returned = await till.refund_purchase(session, booking.purchase_id, True, REASON)
    ended = await store.find_booking(session, id)
    assert ended is not None
    assert ended.released_at is not None, "a refunded slot has no open booking"
    return ended, returned
