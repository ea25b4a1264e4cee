"""Who may bring receipts that nobody verifies, and for whom: whoever is trusted anyway."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from tests.identity.conftest import Caller
from tests.support.http import Reply

Server = Callable[..., Awaitable[Caller]]


@pytest.fixture
async def tier(admin: Caller) -> int:
    """A tier with numbers; its drop."""
    body = {"tier": "genesis", "year": "2025", "capacity": 5}
    return int((await admin.asks("POST", "/memberships/drops", body)).json["dropId"])


async def _mints(caller: Caller, receipt: str, user: str | None = None) -> Reply:
    named = {} if user is None else {"user_id": user}
    return await caller.asks("POST", "/mint", {"receipt_data": receipt, **named})


async def test_a_user_mints_nothing_where_receipts_are_believed(
    buyer: Callable[[str], Caller], nobody: Caller, server: Server, tier: int
) -> None:
    for caller in (buyer("ann"), nobody, await server("sale:read", "sale:write", "identity")):
        refused = await _mints(caller, "made up", "ann")
        assert (refused.status, refused.error) == (401, "UNAUTHORIZED")

    made = await _mints(await server("membership"), "made up", "ann")
    assert (made.status, made.json["membership"]["userId"]) == (201, "ann")
    # Nor does he find out with it that a receipt is known.
    assert (await _mints(buyer("bob"), "made up")).status == 401


async def test_a_shop_says_for_whom_it_mints_and_an_operator_mints_for_himself(
    admin: Caller, server: Server, tier: int
) -> None:
    shop = await server("membership")
    assert (await _mints(shop, "receipt-1")).status == 422
    assert (await _mints(admin, "receipt-1", "ann")).status == 401
    assert (await _mints(admin, "receipt-1")).json["membership"]["userId"] == "root"
