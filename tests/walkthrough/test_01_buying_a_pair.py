"""The product in a dozen short stories, to be read first. This one: somebody buys a pair."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from tests.support.http import Reply
from tests.support.wait import wait_until
from tests.walkthrough.conftest import Buyer, Operator


async def test_a_buyer_gets_a_pair_and_pays(
    operator: Operator, buyer: Callable[[str], Buyer]
) -> None:
    drop, ann = await operator.opens(units=10), buyer("ann")

    hold = await ann.reserves(drop)

    assert (hold.status, hold.json["status"]) == (201, "active")
    assert (hold.json["userId"], hold.json["quantity"]) == ("ann", 1)
    assert await operator.counts(drop) == (9, 1, 0)

    purchase = await ann.buys(hold, paymentReference="pi_4711")

    assert purchase.status == 201
    assert purchase.json["units"] == hold.json["units"]
    assert purchase.json["paymentReference"] == "pi_4711"
    assert await operator.counts(drop) == (9, 0, 1)

    page = await ann.looks_at(f"/drops/{drop}")
    assert (page["availableStock"], page["soldStock"]) == (9, 1)
    assert [name["username"][:6] for name in page["recentPurchases"]] == ["Buyer "]
    assert "ann" not in str(page["recentPurchases"])


async def test_buying_twice_is_buying_once(
    operator: Operator, buyer: Callable[[str], Buyer]
) -> None:
    drop, ann = await operator.opens(units=10), buyer("ann")
    hold = await ann.reserves(drop)

    tries = await asyncio.gather(*(ann.buys(hold) for _ in range(20)))

    assert sorted(reply.status for reply in tries) == [200] * 19 + [201]
    assert len({reply.body for reply in tries}) == 1
    another = await ann.buys(hold, paymentReference="somewhere else")
    assert (another.status, another.error) == (409, "ALREADY_RESOLVED")
    assert another.json["details"] == {"status": "purchased"}
    assert await operator.counts(drop) == (9, 0, 1)


async def test_of_two_buyers_one_gets_the_last_pair(
    operator: Operator, buyer: Callable[[str], Buyer]
) -> None:
    drop, ann, bob = await operator.opens(units=1), buyer("ann"), buyer("bob")

    replies = await asyncio.gather(ann.reserves(drop), bob.reserves(drop))

    assert sorted(reply.status for reply in replies) == [201, 409]
    won = next(reply for reply in replies if reply.status == 201)
    lost = next(reply for reply in replies if reply.status == 409)
    assert lost.error == "SOLD_OUT"
    assert lost.json["message"] == "No allocations remaining for this drop"
    assert lost.json["details"]["availableStock"] == 0
    assert lost.json["retryable"] is True  # a hold may come back
    assert lost.headers["retry-after"] == "1"

    await (ann if won.json["userId"] == "ann" else bob).buys(won)

    async def carl_hears_a_final_no() -> Reply | None:
        reply = await buyer("carl").reserves(drop)
        return None if reply.json["retryable"] else reply

    final = await wait_until(carl_hears_a_final_no, "nothing can come back any more")
    assert final is not None
    assert final.error == "SOLD_OUT"
    assert "retry-after" not in final.headers
    assert await operator.status_of(drop) == "sold_out"
    assert await operator.counts(drop) == (0, 0, 1)
