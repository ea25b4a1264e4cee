"""The network swallowed the answer: the same Idempotency-Key asks for it again."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.support.http import Reply
from tests.walkthrough.conftest import Buyer, Operator


async def test_the_same_key_gets_the_same_pair_even_after_the_sell_out(
    operator: Operator, buyer: Callable[[str], Buyer]
) -> None:
    drop, ann, bob = await operator.opens(units=2), buyer("ann"), buyer("bob")
    lost = await ann.reserves(drop, key="anns-first-try")
    assert (await bob.reserves(drop)).status == 201
    assert (await buyer("carl").reserves(drop)).error == "SOLD_OUT"

    again = await ann.reserves(drop, key="anns-first-try")

    assert (again.status, again.headers["idempotent-replayed"]) == (201, "true")
    assert _what_matters(again) == _what_matters(lost)
    assert again.headers["idempotency-key"] == "anns-first-try"
    assert "idempotent-replayed" not in lost.headers
    assert await operator.counts(drop) == (0, 2, 0)


async def test_paying_giving_back_and_opening_a_drop_can_be_repeated_too(
    operator: Operator, buyer: Callable[[str], Buyer]
) -> None:
    drop, ann = await operator.opens(units=2, maxPerBuyer=2), buyer("ann")
    paid, unwanted = await ann.reserves(drop), await ann.reserves(drop)

    purchases = [await ann.buys(paid, key="pay") for _ in range(2)]
    returns = [await ann.gives_back(unwanted, key="return") for _ in range(2)]
    body = {"name": "Borealis", "price": 80, "totalStock": 5}
    drops = [await operator.asks("POST", "/drops", body, key="friday") for _ in range(2)]

    for first, second in (purchases, returns, drops):
        assert (first.status, first.body) == (second.status, second.body)
        assert second.headers["idempotent-replayed"] == "true"
    assert len((await ann.looks_at("/drops"))["data"]) == 2
    assert await operator.counts(drop) == (1, 0, 1)


async def test_a_replayed_hold_says_what_has_become_of_it(
    operator: Operator, buyer: Callable[[str], Buyer]
) -> None:
    drop, ann = await operator.opens(units=1), buyer("ann")
    hold = await ann.reserves(drop, key="k")
    await ann.buys(hold)

    again = await ann.reserves(drop, key="k")

    assert (again.status, again.json["status"]) == (201, "purchased")


async def test_a_key_belongs_to_the_buyer_and_the_operation_that_used_it(
    operator: Operator, buyer: Callable[[str], Buyer]
) -> None:
    drop, ann, bob = await operator.opens(units=5), buyer("ann"), buyer("bob")

    anns, bobs = await ann.reserves(drop, key="1"), await bob.reserves(drop, key="1")
    bought = await ann.buys(anns, key="1")

    assert (anns.status, bobs.status, bought.status) == (201, 201, 201)
    assert anns.json["id"] != bobs.json["id"]
    assert await operator.counts(drop) == (3, 1, 1)


@pytest.mark.parametrize("quantity", [2, 3])
async def test_a_key_cannot_be_used_for_something_else(
    operator: Operator, buyer: Callable[[str], Buyer], quantity: int
) -> None:
    drop, ann = await operator.opens(units=5, maxPerBuyer=5), buyer("ann")
    await ann.reserves(drop, key="k")

    other = await ann.reserves(drop, quantity, key="k")

    assert (other.status, other.error) == (422, "IDEMPOTENCY_MISMATCH")
    assert await operator.counts(drop) == (4, 1, 0)


async def test_who_sends_no_key_is_given_one(
    operator: Operator, buyer: Callable[[str], Buyer]
) -> None:
    drop, ann = await operator.opens(units=5, maxPerBuyer=5), buyer("ann")

    first, second = await ann.reserves(drop), await ann.reserves(drop)

    assert first.headers["idempotency-key"] != second.headers["idempotency-key"]
    again = await ann.reserves(drop, key=first.headers["idempotency-key"])
    assert again.json["id"] == first.json["id"]
    assert await operator.counts(drop) == (3, 2, 0)


def _what_matters(reply: Reply) -> dict[str, object]:
    """A hold without what is told of the moment of the first answer only."""
    return {name: value for name, value in reply.json.items() if name != "availableStock"}
