"""Tiers from the terminal: what no tier may be is refused there as it is by the API."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from engine.infra.errors import Misconfigured
from engine.keepers.rounds import registering
from engine.runtime import Ground
from tests.membership.conftest import Club
from tests.ops.conftest import Types
from tests.support.shop import Shop


@pytest.mark.parametrize(
    "option", [("--max-per-buyer", "0"), ("--max-per-buyer", "99999999999"), ("--name", "a\nb")]
)
async def test_a_tier_is_opened_as_the_api_would(
    ground: Ground, types: Types, option: tuple[str, str]
) -> None:
    said = await types("tier", "open", "genesis", "2025", "5", *option)
    assert (said.code, said.err.count("want 1 to")) == (2, 1), said


@pytest.mark.parametrize(
    "wrong", [{"drop_tier": "a b"}, {"drop_year": ""}, {"drop_capacity": 1_000_001}]
)
async def test_a_keeper_does_not_begin_with_a_tier_that_can_be_none(
    ground: Ground, wrong: dict[str, Any]
) -> None:
    wanted = msgspec.structs.replace(ground.settings, **{"drop_capacity": 5, **wrong})
    with pytest.raises(Misconfigured, match=r"DROP_TIER.*want 1 to"):
        registering(wanted, ground.postgres, ground.bouncer)


@pytest.mark.parametrize("when", ["0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z"])
async def test_a_tier_opens_in_these_centuries(shop: Shop, when: str) -> None:
    body = {"tier": "genesis", "year": "2025", "capacity": 5, "startsAt": when}
    reply = await shop.send("POST", "/memberships/drops", body)
    assert (reply.status, reply.error) == (400, "VALIDATION_ERROR")


@pytest.mark.parametrize("reason", ["", "a\nb", "x" * 201])
async def test_a_membership_is_revoked_for_a_reason_that_can_be_read(
    shop: Shop, types: Types, reason: str
) -> None:
    club = Club(shop)
    await club.open(1)
    made = await club.minted("receipt-1", "ann")
    said = await types("tier", "revoke", made["id"], "--reason", reason)
    assert (said.code, said.err.count("want 1 to 200")) == (2, 1), said
