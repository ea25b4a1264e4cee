"""Refund: sold → free or withdrawn, because an operator or a shop said so. The only way back."""

from __future__ import annotations

from engine.infra.errors import NotFound
from engine.infra.postgres import Session
from engine.sale import store, till
from engine.sale.errors import AlreadyResolved
from engine.sale.models import Purchase, Returned


async def refund(
    session: Session, id: str, restock: bool, reason: str | None
) -> tuple[Purchase, list[Returned]]:
    """Undo a purchase: its units are on sale again, or withdrawn; its money is owed back. The
    caller publishes what came back, after its commit. Raises `NotFound`, `AlreadyResolved`."""
    returned = await till.refund_purchase(session, id, restock, reason)
    purchase = await store.find_purchase(session, id)
    if purchase is None:
        raise NotFound(f"There is no purchase {id}")
    if not returned:
        raise AlreadyResolved("This purchase was refunded before", status="refunded")
    return purchase, returned
