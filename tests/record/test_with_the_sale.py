"""The whole way: what buyers, shops and sensors do is in the ledger, each thing once."""

from __future__ import annotations

from collections import Counter

from engine import runtime
from engine.infra.settings import Settings
from engine.record import keys
from engine.record.seal import seal
from engine.record.verify import verify
from engine.runtime import Ground
from tests.coldchain.conftest import Chain, freezer_of
from tests.support.shop import Shop


async def test_whatever_happens_in_a_sale_is_recorded_once_and_agrees_with_its_rows(
    shop: Shop, ground: Ground, settings: Settings
) -> None:
    cold = Chain(shop)
    first, second, third = await freezer_of(ground, 3)
    drop = await shop.open_drop(5, maxPerBuyer=5)
    bought = []
    for buyer in ("ann", "bob", "cyd"):
        hold = (await shop.reserve(drop, buyer)).json["id"]
        bought.append((await shop.confirm(hold, buyer)).json["id"])
    refund = await shop.send("POST", f"/purchases/{bought[0]}/refund", {"restock": True})
    bookings = [await cold.booked(slot, "ann", 'MAN-"é\\') for slot in (first, second)]
    warm = await cold.reads(second, -40.0)
    freed = await shop.send("DELETE", f"/bookings/{bookings[0]}")
    again = await cold.booked(first, "bob")
    assert (refund.status, warm.status // 100, freed.status // 100) == (200, 2, 2), (warm, freed)
    assert await cold.held(third, "cyd")  # held is not booked

    async with runtime.database(settings) as postgres:
        ring = keys.ring(settings)
        waiting = await verify(postgres, ring)
        count = await seal(postgres, ring)
        found = await verify(postgres, ring)
    listed = (await shop.send("GET", "/ledger?limit=50")).json["data"]

    assert waiting.valid, "what waits to be sealed is not missing"
    assert (found.valid, found.entries) == (True, count), found
    assert Counter(row["action"] for row in listed) == {
        "PURCHASED": 3,
        "REFUNDED": 1,
        "BOOKING_CONFIRMED": 3,
        "TEMP_CRITICAL": 1,
        "BOOKING_RELEASED": 1,
    }
    assert again
