"""Postgres for paying: extended holds, payments and refunds. One function a query."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from engine.infra import sql
from engine.infra.postgres import Session
from engine.sale.models import Longer, Notice, Payment, Refund, Returned, Taken
from engine.sale.rows import as_returned, figures
from engine.sale.store import Caller

_queries = sql.load("payments")


async def extend_hold(session: Session, id: str, buyer: str | None) -> Longer | None:
    """Let a hold live longer, once; None if this call did not."""
    return _longer(await session.call(_queries["extend_hold"], reservation=id, buyer=buyer))


async def pay_hold(session: Session, id: str, buyer: str | None) -> Longer | None:
    """Begin the payment of a hold; None if this call did not."""
    return _longer(await session.call(_queries["pay_hold"], reservation=id, buyer=buyer))


def _longer(row: Any) -> Longer | None:
    return row and Longer(row["drop_id"], row["expires_at"], row["lives_ms"])


async def refund_purchase(
    session: Session, id: str, restock: bool, reason: str | None
) -> list[Returned]:
    """Undo a purchase; nothing if it was undone before."""
    words = {"purchase": id, "restock": restock, "reason": reason}
    return as_returned(await session.call(_queries["refund_purchase"], **words))


async def settle_payments(session: Session, notices: Sequence[tuple[Notice, str]]) -> list[Taken]:
    """Make of payments what can be made of them, each with the id its purchase would have. Per
    drop: whose units were taken anew, and which holds were bought."""
    rows = await session.call(
        _queries["settle_payments"],
        references=[notice.reference for notice, _ in notices],
        statuses=[notice.status for notice, _ in notices],
        reservations=[notice.reservation_id for notice, _ in notices],
        amounts=[notice.amount_cents for notice, _ in notices],
        currencies=[notice.currency for notice, _ in notices],
        ids=[id for _, id in notices],
        requests=[notice.request_id for notice, _ in notices],
    )
    return [
        Taken(
            row["drop_id"],
            figures(row),
            [str(id) for id in row["bought"]],
            row["buyers"] or [],
            row["quantities"] or [],
            row["numbers"],
        )
        for row in rows
    ]


def _payment(row: Any) -> Payment:
    return Payment(
        row["reference"],
        row["reservation_id"] and str(row["reservation_id"]),
        row["status"],
        row["amount_cents"],
        row["currency"],
        row["received_at"],
        row["changed_at"],
        row["outcome"],
        row["reason"],
        row["purchase_id"] and str(row["purchase_id"]),
        row["undone"],
    )


async def find_payments(caller: Caller, references: Sequence[str]) -> dict[str, Payment]:
    """Payments as they stand, by reference."""
    rows = await caller.call(_queries["find_payments"], references=references)
    return {row["reference"]: _payment(row) for row in rows}


async def find_payments_of_hold(caller: Caller, id: str) -> list[Payment]:
    """What was said of the payments for a hold, oldest first."""
    rows = await caller.call(_queries["find_payments_of_hold"], reservation=id)
    return [_payment(row) for row in rows]


async def undecided_payments(caller: Caller, seconds: float, count: int) -> list[Payment]:
    """Money that came, of which nothing was made for so long."""
    words = {"seconds": seconds, "count": count}
    return [_payment(row) for row in await caller.call(_queries["undecided_payments"], **words)]


async def owe_refunds(caller: Caller, holds: Sequence[tuple[str, str]]) -> list[str]:
    """Note that clients paid once more for (hold, reference); the references that were news."""
    rows = await caller.call(
        _queries["owe_refunds"],
        reservations=[id for id, _ in holds],
        references=[reference for _, reference in holds],
    )
    return [row["reference"] for row in rows]


def _refund(row: Any) -> Refund:
    return Refund(
        row["id"],
        row["reference"],
        row["reservation_id"] and str(row["reservation_id"]),
        row["drop_id"],
        row["buyer"],
        row["amount_cents"],
        row["currency"],
        row["reason"],
        row["verified"],
        row["due_at"],
        row["done_at"],
    )


async def list_refunds(
    caller: Caller, done: bool | None, before: int | None, count: int, skip: int
) -> list[Refund]:
    """Money that is owed, was given back, or either, newest first."""
    words = {"done": done, "before": before, "count": count, "skip": skip}
    return [_refund(row) for row in await caller.call(_queries["list_refunds"], **words)]


async def count_refunds(caller: Caller, done: bool | None) -> int:
    """How many such rows there are."""
    return int((await caller.call(_queries["count_refunds"], done=done))["items"])
