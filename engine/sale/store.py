"""Postgres for holds and purchases: one function a query. Rows become Structs here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from engine.infra import sql
from engine.infra.postgres import Postgres, Session
from engine.sale.models import (
    Allowance,
    Claim,
    Claimed,
    Confirm,
    Figures,
    Hold,
    Life,
    Purchase,
    Release,
    Returned,
)

_queries = sql.load("sale")
_claim_units, _abort_requests = _queries["claim_units"], _queries["abort_requests"]

Caller = Postgres | Session


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


async def claim_units(
    session: Session, drop_id: int, epoch: int, claims: Sequence[Claim]
) -> Claimed:
    """Claim units for a batch, sorted by request."""
    once: dict[str, int] = {}
    for claim in claims:
        once[claim.buyer] = once.get(claim.buyer, 0) + claim.quantity
    buyers_once = sorted(once)
    row = await session.call(
        _claim_units,
        drop_id=drop_id,
        epoch=epoch,
        requests=[claim.request_id for claim in claims],
        attempts=[claim.attempt for claim in claims],
        ids=[claim.id for claim in claims],
        buyers=[claim.buyer for claim in claims],
        quantities=[claim.quantity for claim in claims],
        buyers_once=buyers_once,
        units_once=[once[buyer] for buyer in buyers_once],
    )
    known = row["version"] is not None and row["epoch"] is not None
    return Claimed(
        row["words"],
        row["stored_attempts"],
        row["numbers"] or [],
        figures(row) if known else None,
        row["created_at"],
        row["expires_at"],
        row["available"],
        row["price_cents"],
        row["currency"],
    )


async def abort_requests(
    caller: Caller, drop_id: int, claims: Sequence[Claim]
) -> tuple[list[str], Figures | None]:
    """Make unknown claims definite: per claim (sorted by request) held or aborted, and figures."""
    row = await caller.call(
        _abort_requests,
        drop_id=drop_id,
        requests=[claim.request_id for claim in claims],
        attempts=[claim.attempt for claim in claims],
        buyers=[claim.buyer for claim in claims],
        quantities=[claim.quantity for claim in claims],
    )
    return row["words"], figures(row) if row["version"] is not None else None


def _hold(row: Any, available: int | None = None) -> Hold:
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
    )


async def find_holds_by_request(caller: Caller, requests: Sequence[str]) -> dict[str, Hold]:
    """The holds that requests already have, by request."""
    rows = await caller.call(_queries["find_holds_by_request"], requests=requests)
    return {row["request_id"].hex: _hold(row, row["available"]) for row in rows}


async def look_up_requests(caller: Caller, requests: Sequence[str]) -> tuple[dict[str, Hold], bool]:
    """The holds that requests already have, and whether others may be on their way unseen."""
    rows = await caller.call(_queries["look_up_requests"], requests=requests)
    found = [row for row in rows if row["id"] is not None]
    return {row["request_id"].hex: _hold(row, row["available"]) for row in found}, rows[0]["direct"]


async def find_allowances(
    caller: Caller, drop_id: int, buyers: Sequence[str]
) -> dict[str, Allowance]:
    """Allowances of buyers, by buyer; who never bought is absent."""
    rows = await caller.call(_queries["find_allowances"], drop_id=drop_id, buyers=buyers)
    return {
        row["buyer"]: Allowance(
            row["used"],
            row["max_per_buyer"],
            row["reservation_id"] and str(row["reservation_id"]),
            row["overdue"],
            row["abandoned"],
            row["cools_until"],
            row["cools_ms"],
        )
        for row in rows
    }


async def find_reservation(caller: Caller, id: str) -> Hold | None:
    """One hold of any status."""
    row = await caller.call(_queries["find_reservation"], id=id)
    return row and _hold(row)


async def find_reservations(caller: Caller, ids: Sequence[str]) -> dict[str, Hold]:
    """Holds of any status, by id."""
    rows = await caller.call(_queries["find_reservations"], ids=ids)
    return {str(row["id"]): _hold(row) for row in rows}


async def find_holds_of(caller: Caller, ids: Sequence[str], buyers: Sequence[str]) -> list[Hold]:
    """Those of these holds, of any status, that are these buyers'."""
    rows = await caller.call(_queries["find_holds_of"], ids=ids, buyers=buyers)
    return [_hold(row) for row in rows]


async def list_reservations(
    caller: Caller, buyer: str, before: str | None, count: int, skip: int
) -> list[Hold]:
    """A buyer's live holds, newest first."""
    query = _queries["list_reservations"]
    return [
        _hold(row)
        for row in await caller.call(query, buyer=buyer, before=before, count=count, skip=skip)
    ]


async def count_reservations(caller: Caller, buyer: str) -> int:
    """How many live holds a buyer has."""
    return int((await caller.call(_queries["count_reservations"], buyer=buyer))["items"])


async def purchase_units(
    caller: Caller, confirms: Sequence[tuple[Confirm, str]]
) -> list[tuple[int, Figures, list[Purchase]]]:
    """Buy holds, each with the id its purchase will have: per drop figures and what was bought."""
    rows = await caller.call(
        _queries["purchase_units"],
        requests=[confirm.request_id for confirm, _ in confirms],
        ids=[id for _, id in confirms],
        reservations=[confirm.reservation_id for confirm, _ in confirms],
        buyers=[confirm.buyer for confirm, _ in confirms],
        references=[confirm.reference for confirm, _ in confirms],
    )
    wishes = {id: confirm for confirm, id in confirms}
    return [(row["drop_id"], figures(row), _bought(row, wishes)) for row in rows]


def _bought(row: Any, wishes: dict[str, Confirm]) -> list[Purchase]:
    """What was bought of one drop just now, as `find_purchases_by_reservation` would tell it."""
    drop_id, currency, moment = row["drop_id"], row["currency"], row["purchased_at"]
    numbers, taken, made = row["numbers"], 0, []
    columns = (row["ids"], row["amounts"], row["quantities"], row["buyers"])
    for key, amount_cents, quantity, buyer in zip(*columns, strict=True):
        id = str(key)
        wish = wishes[id]
        units = numbers[taken : taken + quantity]
        taken += quantity
        made.append(
            Purchase(
                id,
                wish.request_id,
                wish.reservation_id,
                drop_id,
                buyer,
                quantity,
                units,
                amount_cents,
                currency,
                moment,
                wish.reference,
            )
        )
    return made


def _purchase(row: Any) -> Purchase:
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
    )


async def find_purchases_by_request(caller: Caller, requests: Sequence[str]) -> dict[str, Purchase]:
    """Purchases that requests made, by request."""
    rows = await caller.call(_queries["find_purchases_by_request"], requests=requests)
    return {row["request_id"].hex: _purchase(row) for row in rows}


async def find_purchases_by_reservation(
    caller: Caller, reservations: Sequence[str]
) -> dict[str, Purchase]:
    """Purchases that holds became, by hold."""
    rows = await caller.call(_queries["find_purchases_by_reservation"], reservations=reservations)
    return {str(row["reservation_id"]): _purchase(row) for row in rows}


async def find_purchase(caller: Caller, id: str) -> Purchase | None:
    """One purchase."""
    row = await caller.call(_queries["find_purchase"], id=id)
    return row and _purchase(row)


async def list_purchases(
    caller: Caller, buyer: str, before: str | None, count: int, skip: int
) -> list[Purchase]:
    """What a buyer bought, newest first."""
    query = _queries["list_purchases"]
    rows = await caller.call(query, buyer=buyer, before=before, count=count, skip=skip)
    return [_purchase(row) for row in rows]


async def count_purchases(caller: Caller, buyer: str) -> int:
    """How many purchases a buyer made."""
    return int((await caller.call(_queries["count_purchases"], buyer=buyer))["items"])


def _life(row: Any) -> Life:
    return Life(
        _hold(row),
        row["drop_name"],
        row["created_at"],
        row["ended_at"] or row["purchased_at"],
        row["purchase_id"] and str(row["purchase_id"]),
        row["payment_reference"],
        row["extended_at"],
        row["paying_at"],
        row["refunded_at"],
    )


async def list_holds(
    caller: Caller,
    *,
    drop_id: int | None = None,
    buyer: str | None = None,
    statuses: Sequence[str] | None = None,
    before: str | None = None,
    count: int,
    skip: int = 0,
) -> list[Life]:
    """Holds of any status, of a drop, a buyer or both, newest first. One of the two is given."""
    words = {"drop_id": drop_id, "statuses": statuses, "before": before}
    if buyer is None:
        query = _queries["list_holds_of_drop"]
    else:
        query, words = _queries["list_holds_of_buyer"], words | {"buyer": buyer}
    return [_life(row) for row in await caller.call(query, **words, count=count, skip=skip)]


async def count_holds(
    caller: Caller,
    drop_id: int | None,
    buyer: str | None = None,
    statuses: Sequence[str] | None = None,
) -> int:
    """How many holds such a list has."""
    if drop_id is None:
        row = await caller.call(_queries["count_holds_of_buyer"], buyer=buyer)
    else:
        words = {"drop_id": drop_id, "buyer": buyer, "statuses": statuses}
        row = await caller.call(_queries["count_holds_of_drop"], **words)
    return int(row["items"])


async def list_drop_purchases(
    caller: Caller,
    drop_id: int,
    buyer: str | None,
    refunded: bool | None,
    before: str | None,
    count: int,
    skip: int = 0,
) -> list[Purchase]:
    """What was bought of a drop, refunded or not or (None) either, newest first."""
    query = _queries["list_purchases_of_drop"]
    words = {"drop_id": drop_id, "buyer": buyer, "refunded": refunded, "before": before}
    return [_purchase(row) for row in await caller.call(query, **words, count=count, skip=skip)]


async def count_drop_purchases(
    caller: Caller, drop_id: int, buyer: str | None, refunded: bool | None
) -> int:
    """How many such purchases there were of a drop."""
    words = {"drop_id": drop_id, "buyer": buyer, "refunded": refunded}
    return int((await caller.call(_queries["count_purchases_of_drop"], **words))["items"])


def returned_rows(rows: Any) -> list[Returned]:
    """What came back, drop by drop."""
    return [
        Returned(
            row["drop_id"],
            figures(row),
            [str(id) for id in row["returned"]],
            row["buyers"],
            row["quantities"],
        )
        for row in rows
    ]


async def release_holds(caller: Caller, releases: Sequence[Release]) -> list[Returned]:
    """Give live holds back; what is not returned was not released by this call."""
    rows = await caller.call(
        _queries["release_holds"],
        reservations=[release.reservation_id for release in releases],
        buyers=[release.buyer for release in releases],
    )
    return returned_rows(rows)


async def expire_holds(caller: Caller, drop_id: int | None, count: int) -> list[Returned]:
    """Free what ran out, of one drop or of all, at most `count` holds."""
    return returned_rows(await caller.call(_queries["expire_holds"], drop_id=drop_id, count=count))


async def count_due(caller: Caller, drop_id: int) -> tuple[int, float]:
    """Holds of a drop that ran out and wait for the sweeper, and seconds since the first did."""
    row = await caller.call(_queries["count_due"], drop_id=drop_id)
    return int(row["due"]), round(float(row["overdue_seconds"]), 3)


async def due_drops(caller: Caller) -> list[int]:
    """Drops with holds that ran out."""
    return [row["drop_id"] for row in await caller.call(_queries["due_drops"])]


async def next_deadline_ms(caller: Caller) -> float | None:
    """Milliseconds until the next hold runs out; None when there is none."""
    due: float | None = (await caller.call(_queries["next_deadline"]))["due_in_ms"]
    return due


async def prune(caller: Caller, hours: int, count: int) -> int:
    """Forget old tombstones and allowances that allow nothing; how many went."""
    gone = (await caller.call(_queries["prune_tombstones"], hours=hours, count=count))["pruned"]
    return int(gone + (await caller.call(_queries["prune_allowances"], count=count))["pruned"])
