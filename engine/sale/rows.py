"""Rows become Structs: holds, purchases, figures, as more than one statement tells them."""

from __future__ import annotations

from typing import Any

from engine.sale.models import Confirm, Figures, Hold, Life, Purchase, Returned


def figures(row: Any) -> Figures:
    """A row's columns of that name."""
    return Figures(
        row["epoch"],
        row["version"],
        row["free"],
        row["held"],
        row["sold"],
        row["withdrawn"],
        row["total"],
    )


def as_hold(row: Any, available: int | None = None) -> Hold:
    """A hold, with the free units of that moment if it is told as the first time."""
    return Hold(
        str(row["id"]),
        row["drop_id"],
        row["buyer"],
        row["quantity"],
        row["units"],
        row["status"],
        row["amount_cents"],
        row["currency"],
        row["expires_at"],
        row["server_time"],
        available,
        names=row["names"],
    )


def as_purchases(row: Any, wishes: dict[str, Confirm]) -> list[Purchase]:
    """What was bought of one drop just now, as `find_purchases_by_reservation` would tell it."""
    drop_id, currency, moment = row["drop_id"], row["currency"], row["purchased_at"]
    numbers, names, taken, made = row["numbers"], row["names"], 0, []
    columns = (row["ids"], row["amounts"], row["quantities"], row["buyers"])
    for key, amount_cents, quantity, buyer in zip(*columns, strict=True):
        id = str(key)
        wish = wishes[id]
        mine = slice(taken, taken + quantity)
        taken += quantity
        made.append(
            Purchase(
                id,
                wish.request_id,
                wish.reservation_id,
                drop_id,
                buyer,
                quantity,
                numbers[mine],
                amount_cents,
                currency,
                moment,
                wish.reference,
                names=None if names is None else names[mine],
            )
        )
    return made


def as_purchase(row: Any) -> Purchase:
    """A purchase."""
    return Purchase(
        str(row["id"]),
        row["request_id"].hex,
        str(row["reservation_id"]),
        row["drop_id"],
        row["buyer"],
        row["quantity"],
        row["units"],
        row["amount_cents"],
        row["currency"],
        row["purchased_at"],
        row["payment_reference"],
        row["adopted"],
        row["refunded_at"],
        row["restocked"],
        row["refund_reason"],
        row["names"],
    )


def as_life(row: Any) -> Life:
    """A hold with its moments."""
    return Life(
        as_hold(row),
        row["drop_name"],
        row["created_at"],
        row["ended_at"] or row["purchased_at"],
        row["purchase_id"] and str(row["purchase_id"]),
        row["payment_reference"],
        row["extended_at"],
        row["paying_at"],
        row["refunded_at"],
    )


def as_returned(rows: Any) -> list[Returned]:
    """What came back, drop by drop."""
    return [
        Returned(
            row["drop_id"],
            figures(row),
            [str(id) for id in row["returned"]],
            row["buyers"],
            row["quantities"],
            row["numbers"],
        )
        for row in rows
    ]
