"""A pair comes back: because its time ran out, or because its buyer says so."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.support.http import Reply
from tests.support.wait import wait_until
from tests.walkthrough.conftest import Buyer, Operator


@pytest.mark.usefixtures("keeping")
async def test_a_hold_runs_out_and_the_next_buyer_gets_the_pair(
    operator: Operator, buyer: Callable[[str], Buyer]
) -> None:
    drop, ann, bob = await operator.opens(units=1, holdSeconds=1), buyer("ann"), buyer("bob")
    anns = await ann.reserves(drop)
    assert (await bob.reserves(drop)).error == "SOLD_OUT"

    async def bob_gets_it() -> Reply | None:
        reply = await bob.reserves(drop)
        return reply if reply.status == 201 else None

    bobs = await wait_until(bob_gets_it, "the pair is on sale again", pause=0.1)

    assert bobs is not None
    assert bobs.json["units"] == anns.json["units"]
    late = await ann.buys(anns)
    assert (late.status, late.error) == (410, "HOLD_EXPIRED")
    assert (await ann.gives_back(anns)).error == "HOLD_EXPIRED"
    assert (await ann.looks_at(f"/reservations/{anns.json['id']}"))["status"] == "expired"
    assert (await bob.buys(bobs)).status == 201
    assert await operator.counts(drop) == (0, 0, 1)


async def test_who_changes_her_mind_gives_the_pair_to_the_next_at_once(
    operator: Operator, buyer: Callable[[str], Buyer]
) -> None:
    drop, ann, bob = await operator.opens(units=1), buyer("ann"), buyer("bob")
    anns = await ann.reserves(drop)

    given_back = await ann.gives_back(anns)

    assert (given_back.status, given_back.body) == (204, b"")
    assert (await bob.reserves(drop)).status == 201
    assert (await ann.gives_back(anns)).status == 204  # repeating it changes nothing
    late = await ann.buys(anns)
    assert (late.status, late.error) == (409, "ALREADY_RESOLVED")
    assert late.json["details"] == {"status": "released"}
    assert await operator.counts(drop) == (0, 1, 0)


async def test_what_was_bought_cannot_be_given_back(
    operator: Operator, buyer: Callable[[str], Buyer]
) -> None:
    drop, ann = await operator.opens(units=1), buyer("ann")
    hold = await ann.reserves(drop)
    await ann.buys(hold)

    reply = await ann.gives_back(hold)

    assert (reply.status, reply.error) == (409, "ALREADY_RESOLVED")
    assert await operator.counts(drop) == (0, 0, 1)
