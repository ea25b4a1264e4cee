"""Seats have names and neighbours: pick some, or take the best that are left beside each other."""

from __future__ import annotations

from collections.abc import Callable

from tests.walkthrough.conftest import Buyer, Operator

ROW = [f"Row A, seat {n}" for n in range(1, 7)]


async def test_a_buyer_looks_at_the_map_and_picks_two_seats(
    operator: Operator, buyer: Callable[[str], Buyer]
) -> None:
    drop, ann = await operator.opens_seats(ROW), buyer("ann")

    seats = (await ann.looks_at(f"/drops/{drop}/units"))["data"]
    free = [seat["name"] for seat in seats if seat["status"] == "free"]
    hold = await ann.reserves_seats(drop, free[2], free[3])
    bought = await ann.buys(hold)

    assert free == ROW
    assert hold.status == 201, hold.body
    assert [unit["name"] for unit in bought.json["units"]] == ["Row A, seat 3", "Row A, seat 4"]
    assert await operator.counts(drop) == (4, 0, 2)


async def test_a_seat_that_somebody_has_is_named_and_the_others_are_not_held_either(
    operator: Operator, buyer: Callable[[str], Buyer]
) -> None:
    drop, ann, bob = await operator.opens_seats(ROW), buyer("ann"), buyer("bob")
    hold = await ann.reserves_seats(drop, ROW[1])

    refused = await bob.reserves_seats(drop, ROW[0], ROW[1])
    await ann.gives_back(hold)
    again = await bob.reserves_seats(drop, ROW[0], ROW[1])

    assert (refused.status, refused.error) == (409, "SLOT_NOT_AVAILABLE")
    assert refused.json["details"]["units"] == ["Row A, seat 2"]
    assert again.status == 201, again.body
    assert await operator.counts(drop) == (4, 2, 0)


async def test_who_picks_none_gets_the_best_that_are_beside_each_other(
    operator: Operator, buyer: Callable[[str], Buyer]
) -> None:
    drop, ann, bob = await operator.opens_seats(ROW), buyer("ann"), buyer("bob")
    await ann.reserves_seats(drop, ROW[1], ROW[5])

    together = await bob.reserves(drop, quantity=3)
    torn_apart = await buyer("cat").reserves(drop, quantity=2)

    assert [unit["name"] for unit in together.json["units"]] == ROW[2:5]
    assert (torn_apart.status, torn_apart.error) == (409, "SOLD_OUT")
    assert await operator.counts(drop) == (1, 5, 0)
