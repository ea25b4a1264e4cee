"""One buyer may have so many, one order so many; an order is filled whole or not at all."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from tests.walkthrough.conftest import Buyer, Operator


async def test_a_greedy_buyer_gets_what_one_buyer_may_have(
    operator: Operator, buyer: Callable[[str], Buyer]
) -> None:
    drop, greedy = await operator.opens(units=100, maxPerBuyer=2), buyer("greedy")

    replies = await asyncio.gather(*(greedy.reserves(drop) for _ in range(10)))

    holds = [reply for reply in replies if reply.status == 201]
    assert len(holds) == 2
    for refused in (reply for reply in replies if reply.status != 201):
        assert (refused.status, refused.error) == (409, "LIMIT_REACHED")
        assert (refused.json["details"]["limit"], refused.json["details"]["remaining"]) == (2, 0)
        assert refused.json["details"]["reservationId"] in {hold.json["id"] for hold in holds}
    await greedy.buys(holds[0])
    assert (await greedy.reserves(drop)).error == "LIMIT_REACHED"  # bought ones count as well
    await greedy.gives_back(holds[1])
    assert (await greedy.reserves(drop)).status == 201
    assert await operator.counts(drop) == (98, 1, 1)


async def test_an_order_is_filled_whole_or_not_at_all(
    operator: Operator, buyer: Callable[[str], Buyer]
) -> None:
    drop = await operator.opens(units=5, maxPerBuyer=None, maxPerOrder=4)
    ann, bob = buyer("ann"), buyer("bob")

    five = await bob.reserves(drop, quantity=5)
    four = await ann.reserves(drop, quantity=4)
    two = await bob.reserves(drop, quantity=2)
    one = await bob.reserves(drop, quantity=1)

    assert (five.status, five.error) == (400, "VALIDATION_ERROR")  # more than an order may hold
    assert four.json["quantity"] == len(four.json["units"]) == 4
    assert (two.error, two.json["details"]) == ("SOLD_OUT", {"availableStock": 1, "heldStock": 4})
    assert one.status == 201
    assert await operator.counts(drop) == (0, 5, 0)
