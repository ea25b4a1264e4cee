"""Postgres for receipts and memberships: one function a query. Rows become Structs here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from engine.infra import sql
from engine.infra.postgres import Postgres, Session
from engine.membership.models import GivenUp, Membership, Mint, Presented, Tier
from engine.sale import store as sale
from engine.sale.models import Claim, Claimed

_queries = sql.load("membership")
_mint_units = _queries["mint_units"]

Caller = Postgres | Session


async def open_membership_drop(session: Session, drop_id: int, tier: str, year: str) -> None:
    """Make members' numbers of a drop's units. A tier has one drop a year: else `Undone`."""
    await session.call(_queries["open_membership_drop"], drop_id=drop_id, tier=tier, year=year)


async def find_tiers(
    caller: Caller,
    drop_id: int | None = None,
    named: tuple[str, str] | None = None,
    count: int = 100,
) -> list[Tier]:
    """Membership drops, the newest first: all, or one by id or by tier and year."""
    tier, year = named or (None, None)
    words = {"drop_id": drop_id, "tier": tier, "year": year, "count": count}
    rows = await caller.call(_queries["find_membership_drops"], **words)
    return [Tier(**dict(row)) for row in rows]


async def present_receipts(caller: Caller, wishes: Sequence[tuple[str, Mint]]) -> list[Presented]:
    """Write down receipts that are to be minted, each with an id of its own if it is new."""
    rows = await caller.call(
        _queries["present_receipts"],
        ids=[id for id, _ in wishes],
        hashes=[wish.receipt.hash for _, wish in wishes],
        transactions=[wish.transaction_id for _, wish in wishes],
        buyers=[wish.buyer for _, wish in wishes],
        drops=[wish.drop_id for _, wish in wishes],
    )
    return [_presented(row) for row in rows]


def _presented(row: Any) -> Presented:
    return Presented(
        row["word"],
        row["receipt"].hex,
        row["drop_id"],
        row["attempts"],
        row["membership"] and str(row["membership"]),
    )


async def find_receipt(caller: Caller, wish: Mint) -> Presented | None:
    """A receipt that was presented before; nothing is written."""
    row = await caller.call(
        _queries["find_receipt"],
        hash=wish.receipt.hash,
        transaction=wish.transaction_id,
        buyer=wish.buyer,
    )
    return row and _presented(row)


async def fail_receipts(caller: Caller, receipts: Sequence[tuple[str, int, str]]) -> list[GivenUp]:
    """Give up attempts (id, attempt, error) that took nothing."""
    rows = await caller.call(
        _queries["fail_receipts"],
        ids=[id for id, _, _ in receipts],
        attempts=[attempt for _, attempt, _ in receipts],
        errors=[error for _, _, error in receipts],
    )
    return [
        GivenUp(row["word"], row["membership"] and str(row["membership"]), row["error"])
        for row in rows
    ]


async def give_up_receipts(caller: Caller, seconds: float, count: int) -> int:
    """Give up receipts that have been pending for so long; how many."""
    rows = await caller.call(_queries["give_up_receipts"], seconds=seconds, count=count)
    return len(rows)


async def mint_units(
    session: Session, drop_id: int, epoch: int, claims: Sequence[Claim]
) -> Claimed:
    """As the sale's `claim_units`, but the requests are receipts, and what they get is sold."""
    return await sale.claim_units(session, drop_id, epoch, claims, _mint_units)


def _membership(row: Any) -> Membership:
    return Membership(**{**dict(row), "id": str(row["id"])})


async def find_memberships(caller: Caller, ids: Sequence[str]) -> dict[str, Membership]:
    """Memberships by id."""
    rows = await caller.call(_queries["find_memberships"], ids=ids)
    return {str(row["id"]): _membership(row) for row in rows}


async def find_membership(caller: Caller, id: str) -> Membership | None:
    """One membership, live or revoked."""
    return (await find_memberships(caller, [id])).get(id)


async def lock_membership(session: Session, id: str) -> Membership | None:
    """One membership, which nobody changes until the end of this transaction."""
    row = await session.call(_queries["lock_membership"], id=id)
    return row and _membership(row)


async def list_memberships(
    caller: Caller,
    *,
    buyer: str | None = None,
    drop_id: int | None = None,
    number: int | None = None,
    tier: str | None = None,
    year: str | None = None,
    revoked: bool | None = None,
    before: str | None = None,
    count: int = 100,
    skip: int = 0,
) -> list[Membership]:
    """Memberships, the newest first."""
    words: dict[str, Any] = {"drop_id": drop_id, "number": number, "tier": tier, "year": year}
    words |= {"revoked": revoked, "before": before, "count": count, "skip": skip}
    if buyer is None:
        rows = await caller.call(_queries["list_memberships"], **words)
    else:
        rows = await caller.call(_queries["list_memberships_of"], buyer=buyer, **words)
    return [_membership(row) for row in rows]


async def count_memberships(
    caller: Caller,
    *,
    buyer: str | None = None,
    drop_id: int | None = None,
    number: int | None = None,
    tier: str | None = None,
    year: str | None = None,
    revoked: bool | None = None,
) -> int:
    """How many there are in that list."""
    words = {"buyer": buyer, "drop_id": drop_id, "number": number, "tier": tier, "year": year}
    words |= {"revoked": revoked}
    return int((await caller.call(_queries["count_memberships"], **words))["items"])


async def revoke_membership(session: Session, id: str, reason: str) -> bool:
    """End a membership; whether it was live."""
    words = {"id": id, "reason": reason}
    return await session.call(_queries["revoke_membership"], **words) is not None
