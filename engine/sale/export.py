"""Export: a long list as CSV. Page after page by cursor, so that memory stays small, no snapshot is
held open for minutes, and a sale does not feel it. A row shows its state when its page was read.

A cell that a spreadsheet would take for a formula begins with an apostrophe: buyers choose their
ids themselves (OWASP, CSV injection).
"""

from __future__ import annotations

import csv
import io
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from typing import TypeVar

from engine.infra.http import iso, money
from engine.sale.models import Life, Purchase

FORMULA = tuple("=+-@＝＋－＠")
PAGE = 2_000  # rows read at once
HOLD_COLUMNS = (
    *("id", "dropId", "userId", "quantity", "units", "status", "amount", "currency"),
    *("createdAt", "expiresAt", "endedAt", "purchaseId"),
)
PURCHASE_COLUMNS = (
    *("id", "reservationId", "dropId", "userId", "quantity", "units", "amount", "currency"),
    *("purchasedAt", "paymentReference", "status"),
)

R = TypeVar("R", Life, Purchase)


def hold_cells(life: Life) -> list[object]:
    """One line of reservations."""
    hold = life.hold
    return [
        hold.id,
        hold.drop_id,
        _text(hold.buyer),
        hold.quantity,
        " ".join(map(str, hold.units)),
        hold.status,
        money(hold.amount_cents),
        hold.currency,
        iso(life.created_at),
        iso(hold.expires_at),
        "" if life.ended_at is None else iso(life.ended_at),
        life.purchase_id or "",
    ]


def purchase_cells(purchase: Purchase) -> list[object]:
    """One line of purchases."""
    return [
        purchase.id,
        purchase.reservation_id,
        purchase.drop_id,
        _text(purchase.buyer),
        purchase.quantity,
        " ".join(map(str, purchase.units)),
        money(purchase.amount_cents),
        purchase.currency,
        iso(purchase.purchased_at),
        _text(purchase.reference or ""),
        purchase.status,
    ]


async def lines(
    columns: Sequence[str],
    page_after: Callable[[str | None], Awaitable[list[R]]],
    id_of: Callable[[R], str],
    cells: Callable[[R], list[object]],
) -> AsyncGenerator[bytes, None]:
    """CSV with a head line, a page of rows in each piece."""
    yield _csv([list(columns)])
    cursor: str | None = None
    while rows := await page_after(cursor):
        yield _csv([cells(row) for row in rows])
        cursor = id_of(rows[-1])


def _csv(rows: list[list[object]]) -> bytes:
    out = io.StringIO()
    csv.writer(out, quoting=csv.QUOTE_NONNUMERIC).writerows(rows)
    return out.getvalue().encode()


def _text(text: str) -> str:
    return "'" + text if text.lstrip()[:1] in FORMULA or text[:1] in ("\t", "\r") else text
