"""Postgres for passes: which wallets want to hear of which, and which have ended."""

from __future__ import annotations

from collections.abc import AsyncIterator

from engine.infra import sql
from engine.infra.postgres import Postgres, Session
from engine.membership.models import Membership

_queries = sql.load("wallet")
REVOKED_PAGE = 5_000
REGISTERED_MAX = 1_000  # passes of a device
WALLETS_MAX = 50  # of a pass: whoever has it could fill the table otherwise

Caller = Postgres | Session


async def register_pass(caller: Caller, device: str, membership_id: str, push_token: str) -> bool:
    """A device wants to hear of a pass; whether it did not yet."""
    row = await caller.call(
        _queries["register_pass"],
        device=device,
        membership_id=membership_id,
        push_token=push_token,
        most=WALLETS_MAX,
    )
    return bool(row["is_new"])


async def unregister_pass(caller: Caller, device: str, membership_id: str) -> None:
    """It does not any more."""
    await caller.call(_queries["unregister_pass"], device=device, membership_id=membership_id)


async def find_registered(caller: Caller, device: str) -> list[Membership]:
    """The memberships whose passes a device wants to hear of, by id."""
    rows = await caller.call(_queries["find_registered"], device=device, count=REGISTERED_MAX)
    return [Membership(**{**dict(row), "id": str(row["id"])}) for row in rows]


async def find_revoked(caller: Caller, page: int = REVOKED_PAGE) -> AsyncIterator[str]:
    """The ids of all memberships that have ended."""
    after: str | None = None
    while True:
        rows = await caller.call(_queries["find_revoked"], after=after, count=page)
        for row in rows:
            yield str(row["id"])
        if len(rows) < page:
            return
        after = str(rows[-1]["id"])
