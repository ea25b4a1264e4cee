"""Vaccines need a place in a freezer: a slot is held, booked, watched, and given to the next."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from engine.coldchain import store
from engine.runtime import Ground
from tests.coldchain.conftest import freezer_of
from tests.support.wait import wait_until
from tests.walkthrough.conftest import Buyer, Operator, Person


async def _sees(person: Person, slot: int) -> dict[str, Any]:
    reply = await person.asks("GET", f"/slots/{slot}")
    assert reply.status == 200, reply.body
    shown: dict[str, Any] = reply.json
    return shown


async def test_a_manager_finds_a_slot_and_books_it(
    ground: Ground, buyer: Callable[[str], Buyer]
) -> None:
    slots = await freezer_of(ground, 4)
    sarah, james = buyer("manager@cryovault.io"), buyer("auditor@cryovault.io")
    board = (await sarah.asks("GET", "/slots")).json["data"]
    assert [(slot["name"], slot["status"]) for slot in board] == [
        (f"F1-{letter}", "AVAILABLE") for letter in "ABCD"
    ]

    held = await sarah.asks("POST", "/hold", {"slotId": board[0]["id"]})
    late = await james.asks("POST", "/hold", {"slotId": board[0]["id"]})
    manifest = {"manifestId": "MAN-2041", "vaccineType": "mRNA-1273", "quantity": 240}
    wanted = {"reservationId": held.json["reservation"]["id"], **manifest}
    thief = await james.asks("POST", "/book", wanted)
    booked = await sarah.asks("POST", "/book", wanted)

    assert (held.status, held.json["expiresIn"]) == (201, 120)
    assert (late.status, late.error) == (409, "SLOT_NOT_AVAILABLE")
    assert (thief.status, thief.error) == (403, "NOT_YOUR_RESERVATION")
    assert (booked.status, booked.json["ledgerEntry"]["action"]) == (201, "BOOKING_CONFIRMED")
    mine, others = await _sees(sarah, slots[0]), await _sees(james, slots[0])
    assert mine["booking"] == booked.json["booking"]
    assert (others["status"], others.get("booking")) == ("OCCUPIED", None)
    again = await sarah.asks("POST", "/book", wanted)
    assert (again.status, again.json["booking"]) == (200, booked.json["booking"])


@pytest.mark.usefixtures("keeping")
async def test_a_slot_that_is_not_booked_in_time_is_the_next_ones(
    ground: Ground, operator: Operator, buyer: Callable[[str], Buyer]
) -> None:
    [slot] = await freezer_of(ground, 1)
    await operator.changes(store.place(slot)[0], holdSeconds=1)
    slow, quick = buyer("slow"), buyer("quick")
    held = await slow.asks("POST", "/hold", {"slotId": slot})

    async def quick_gets_it() -> bool:
        return (await quick.asks("POST", "/hold", {"slotId": slot})).status == 201

    await wait_until(quick_gets_it, "the slot is to be had again", pause=0.05)
    wanted = {"reservationId": held.json["reservation"]["id"], "manifestId": "MAN-1"}
    late = await slow.asks("POST", "/book", wanted)
    assert (late.status, late.error) == (410, "HOLD_EXPIRED")


async def test_a_freezer_fails_it_is_noticed_and_the_slot_is_emptied(
    ground: Ground, operator: Operator, buyer: Callable[[str], Buyer]
) -> None:
    [slot] = await freezer_of(ground, 1)
    sarah, next_one = buyer("sarah"), buyer("next")
    held = await sarah.asks("POST", "/hold", {"slotId": slot})
    wanted = {"reservationId": held.json["reservation"]["id"], "manifestId": "MAN-1"}
    booking = (await sarah.asks("POST", "/book", wanted)).json["booking"]["id"]

    for measured, status in ((-69.5, "NORMAL"), (-66.0, "WARNING"), (-58.2, "CRITICAL")):
        reading = {"temperature": measured}
        told = await operator.asks("POST", f"/slots/{slot}/readings", reading)
        assert (told.status, told.json["tempStatus"]) == (201, status), told.body
    shown = await _sees(sarah, slot)
    assert [point["temperature"] for point in shown["history"]] == [-69.5, -66.0, -58.2]

    emptied = await operator.asks("DELETE", f"/bookings/{booking}")
    assert (emptied.status, emptied.json["ledgerEntry"]["action"]) == (200, "BOOKING_RELEASED")
    gone = await sarah.looks_at(f"/bookings/{booking}")
    assert gone["releasedAt"] is not None
    assert (await next_one.asks("POST", "/hold", {"slotId": slot})).status == 201
    assert await operator.counts(store.place(slot)[0]) == (0, 1, 0)
