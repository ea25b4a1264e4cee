"""Postgres for holds and purchases: one function a query. Rows become Structs here."""

from __future__ import annotations

from collections.abc import Sequence

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
from engine.sale.rows import as_hold, as_life, as_purchase, as_purchases, as_returned, figures

_queries = sql.load("sale")
_claim_units, _claim_seats = _queries["claim_units"], _queries["claim_seats"]
_abort_requests = _queries["abort_requests"]

Caller = Postgres | Session


async def claim_units(
    session: Session,
    drop_id: int,
    epoch: int,
    claims: Sequence[Claim],
    by: sql.Query | None = None,
) -> Claimed:
    """Claim units for a batch, sorted by request; named ones where any claim says which. `by`
    another statement of the same words, if it is told which."""
    once: dict[str, int] = {}
    for claim in claims:
        once[claim.buyer] = once.get(claim.buyer, 0) + claim.quantity
    buyers_once = sorted(once)
    seats = any(claim.picks is not None for claim in claims)
    row = await session.call(
        by or (_claim_seats if seats else _claim_units),
        drop_id=drop_id,
        epoch=epoch,
        requests=[claim.request_id for claim in claims],
        attempts=[claim.attempt for claim in claims],
        ids=[claim.id for claim in claims],
        buyers=[claim.buyer for claim in claims],
        quantities=[claim.quantity for claim in claims],
        buyers_once=buyers_once,
        units_once=[once[buyer] for buyer in buyers_once],
        **({"picks": _picks(claims)} if seats else {}),
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
        row["names"] if seats else None,
    )


def _picks(claims: Sequence[Claim]) -> list[int]:
    """Flat, along the quantities: zeros where Postgres picks."""
    return [number for claim in claims for number in claim.picks or (0,) * claim.quantity]


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


async def find_holds_by_request(caller: Caller, requests: Sequence[str]) -> dict[str, Hold]:
    """The holds that requests already have, by request."""
    rows = await caller.call(_queries["find_holds_by_request"], requests=requests)
    return {row["request_id"].hex: as_hold(row, row["available"]) for row in rows}


async def look_up_requests(caller: Caller, requests: Sequence[str]) -> tuple[dict[str, Hold], bool]:
    """The holds that requests already have, and whether others may be on their way unseen."""
    rows = await caller.call(_queries["look_up_requests"], requests=requests)
    found = [row for row in rows if row["id"] is not None]
    return {row["request_id"].hex: as_hold(row, row["available"]) for row in found}, rows[0][
        "direct"
    ]


async def find_taken(caller: Caller, drop_id: int, numbers: Sequence[int]) -> dict[int, str]:
    """Those of these named units that are not on sale now, and what they are called."""
    rows = await caller.call(_queries["find_taken"], drop_id=drop_id, numbers=numbers)
    return {row["number"]: row["name"] for row in rows}


async def free_numbers(caller: Caller, drop_id: int) -> tuple[Figures, list[int]]:
    """A drop's figures, and the units that are free at that version, ascending if named."""
    row = await caller.call(_queries["free_numbers"], drop_id=drop_id)
    return figures(row), row["numbers"]


async def longest_run(caller: Caller, drop_id: int) -> int:
    """How many free units there are beside each other at most."""
    return int((await caller.call(_queries["longest_run"], drop_id=drop_id))["units"])


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
    return row and as_hold(row)


async def find_reservations(caller: Caller, ids: Sequence[str]) -> dict[str, Hold]:
    """Holds of any status, by id."""
    rows = await caller.call(_queries["find_reservations"], ids=ids)
    return {str(row["id"]): as_hold(row) for row in rows}


async def find_holds_of(caller: Caller, ids: Sequence[str], buyers: Sequence[str]) -> list[Hold]:
    """Those of these holds, of any status, that are these buyers'."""
    rows = await caller.call(_queries["find_holds_of"], ids=ids, buyers=buyers)
    return [as_hold(row) for row in rows]


async def list_reservations(
    caller: Caller, buyer: str, before: str | None, count: int, skip: int
) -> list[Hold]:
    """A buyer's live holds, newest first."""
    query = _queries["list_reservations"]
    return [
        as_hold(row)
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
    return [(row["drop_id"], figures(row), as_purchases(row, wishes)) for row in rows]


async def find_purchases_by_request(caller: Caller, requests: Sequence[str]) -> dict[str, Purchase]:
    """Purchases that requests made, by request."""
    rows = await caller.call(_queries["find_purchases_by_request"], requests=requests)
    return {row["request_id"].hex: as_purchase(row) for row in rows}


async def find_purchases_by_reservation(
    caller: Caller, reservations: Sequence[str]
) -> dict[str, Purchase]:
    """Purchases that holds became, by hold."""
    rows = await caller.call(_queries["find_purchases_by_reservation"], reservations=reservations)
    return {str(row["reservation_id"]): as_purchase(row) for row in rows}


async def find_purchase(caller: Caller, id: str) -> Purchase | None:
    """One purchase."""
    row = await caller.call(_queries["find_purchase"], id=id)
    return row and as_purchase(row)


async def list_purchases(
    caller: Caller, buyer: str, before: str | None, count: int, skip: int
) -> list[Purchase]:
    """What a buyer bought, newest first."""
    query = _queries["list_purchases"]
    rows = await caller.call(query, buyer=buyer, before=before, count=count, skip=skip)
    return [as_purchase(row) for row in rows]


async def count_purchases(caller: Caller, buyer: str) -> int:
    """How many purchases a buyer made."""
    return int((await caller.call(_queries["count_purchases"], buyer=buyer))["items"])


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
    return [as_life(row) for row in await caller.call(query, **words, count=count, skip=skip)]


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
    return [as_purchase(row) for row in await caller.call(query, **words, count=count, skip=skip)]


async def count_drop_purchases(
    caller: Caller, drop_id: int, buyer: str | None, refunded: bool | None
) -> int:
    """How many such purchases there were of a drop."""
    words = {"drop_id": drop_id, "buyer": buyer, "refunded": refunded}
    return int((await caller.call(_queries["count_purchases_of_drop"], **words))["items"])


async def release_holds(caller: Caller, releases: Sequence[Release]) -> list[Returned]:
    """Give live holds back; what is not returned was not released by this call."""
    rows = await caller.call(
        _queries["release_holds"],
        reservations=[release.reservation_id for release in releases],
        buyers=[release.buyer for release in releases],
    )
    return as_returned(rows)


async def expire_holds(caller: Caller, drop_id: int | None, count: int) -> list[Returned]:
    """Free what ran out, of one drop or of all, at most `count` holds."""
    return as_returned(await caller.call(_queries["expire_holds"], drop_id=drop_id, count=count))


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
