"""Rooms where each unit counts: seats that go before one's eyes, slots, and the ledger."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from engine.infra.settings import Settings
from engine.runtime import Ground
from tests.coldchain.conftest import Chain, freezer_of
from tests.support.live import Ear, Live


@pytest.fixture
async def live(settings: Settings) -> AsyncIterator[Live]:
    async with Live.behind(settings) as opened:
        yield opened


async def everything_told(ear: Ear) -> None:
    """Whatever was on its way has come."""
    await ear.say(action="leave", room="drops")
    await ear.hears("left")
    await ear.join("drops")


def heard(ear: Ear, event: str) -> list[dict[str, Any]]:
    return [frame["data"] for frame in ear.heard if frame["event"] == event]


async def test_who_looks_at_one_drop_is_told_which_of_its_units_went_and_came_back(
    live: Live, ground: Ground
) -> None:
    slots, chain = await freezer_of(ground, 4), Chain(live)
    drop = slots[0] >> 20
    await chain.held(slots[0], "ann")
    async with live.listener() as ear, live.listener() as both:
        units = (await ear.join(f"drop:{drop}"))["units"]
        assert units.keys() == {"dropId", "version", "epoch", "taken"}
        assert (units["dropId"], units["taken"]) == (drop, [1])
        await both.join("drops")
        await both.join(f"drop:{drop}")

        hold = await chain.held(slots[2], "bob")
        told = await ear.hears("units_update", dropId=drop)
        assert (told["taken"], told["freed"], told["since"]) == ([3], [], units["version"])
        assert await both.hears("units_update") == told

        await live.release(hold, "bob")
        freed = await ear.hears("units_update", freed=[3], taken=[], since=told["version"])
        assert freed["version"] > told["version"]
    async with live.listener() as late:
        assert (await late.join(f"drop:{drop}"))["units"]["taken"] == [1]
        await chain.held(slots[3], "cat")
        assert (await late.hears("units_update"))["taken"] == [4]


async def test_what_went_while_nobody_looked_is_in_the_next_snapshot(
    live: Live, ground: Ground
) -> None:
    slots, chain = await freezer_of(ground, 2), Chain(live)
    drop = slots[0] >> 20
    async with live.listener() as other:  # the feed goes on
        await other.join("drops")
        async with live.listener() as ear:
            assert (await ear.join(f"drop:{drop}"))["units"]["taken"] == []
            await ear.say(action="leave", room=f"drop:{drop}")
            await ear.hears("left")
            await chain.held(slots[1], "ann")
            await other.hears("stock_update", availableStock=1)

            assert (await ear.join(f"drop:{drop}"))["units"]["taken"] == [2]


async def test_units_without_names_are_told_as_figures_alone(live: Live) -> None:
    drop = await live.open_drop(3)
    async with live.listener() as ear:
        assert "units" not in await ear.join(f"drop:{drop}")
        await live.reserve(drop, "ann")
        await ear.hears("stock_update", heldStock=1)
        await everything_told(ear)
        assert heard(ear, "units_update") == []


async def test_a_slot_is_told_when_it_is_held_booked_warm_and_free_again_and_whose_it_is_is_not(
    live: Live, ground: Ground
) -> None:
    slots, chain = await freezer_of(ground, 2), Chain(live)
    async with live.listener() as ear:
        shown = (await ear.join("slots"))["slots"]
        assert [(slot["name"], slot["status"]) for slot in shown] == [
            ("F1-A", "AVAILABLE"),
            ("F1-B", "AVAILABLE"),
        ]
        hold = await chain.held(slots[1], "ann-secret")
        told = await ear.hears("slot_update", status="RESERVED")
        assert told.keys() == shown[1].keys()
        assert (told["slotId"], told["expiresAt"] is None) == (slots[1], False)
        booked = await chain.book(hold, "ann-secret", "MAN-secret")
        await ear.hears("slot_update", slotId=slots[1], status="OCCUPIED", expiresAt=None)
        await chain.reads(slots[1], -58)
        await ear.hears("slot_update", tempStatus="CRITICAL", temperature=-58)
        await live.send("DELETE", f"/bookings/{booked.json['booking']['id']}")
        await ear.hears("slot_update", status="AVAILABLE")
        await everything_told(ear)
        assert {update["slotId"] for update in heard(ear, "slot_update")} == {slots[1]}
        assert "secret" not in str(ear.heard)


async def test_what_is_sealed_is_told_with_its_link(
    live: Live, ground: Ground, keeping: None
) -> None:
    slots, chain = await freezer_of(ground, 2), Chain(live)
    async with live.listener() as ear:
        assert (await ear.join("ledger"))["entries"] == []
        await chain.booked(slots[0], "ann-secret")
        first = (await ear.hears("ledger_update"))["entry"]
        assert (first["sequence"], first["action"]) == (1, "BOOKING_CONFIRMED")
        await chain.booked(slots[1], "bob-secret")
        second = (await ear.hears("ledger_update"))["entry"]
        assert second["previousHash"] == first["dataHash"]
        assert "secret" not in str(ear.heard)
    async with live.listener() as late:
        assert (await late.join("ledger"))["entries"] == [second, first]
        listed = (await live.send("GET", "/ledger")).json["data"]
        assert listed == [second, first]


async def test_who_asks_for_another_room_is_told_which_there_are(live: Live) -> None:
    async with live.listener() as ear:
        await ear.say(action="join", room="freezers")
        problem = await ear.hears("error")
        assert problem["error"] == "VALIDATION_ERROR"
        assert "slots, ledger" in problem["message"]


async def test_a_hold_that_runs_out_is_told_by_the_name_of_its_slot(
    live: Live, ground: Ground, database: str, keeping: None
) -> None:
    slots, chain = await freezer_of(ground, 1), Chain(live)
    heard_of = []

    class Echo:
        count, buyers, sessions = 1, (), ()

        def hear(self, batch: Any) -> None:
            heard_of.extend(batch.slots)

        def end(self, sessions: Any) -> None:
            """Nobody came with one."""

    live.hub.echo(Echo())
    async with live.listener() as ear:
        await ear.join("slots")
        hold = await chain.held(slots[0], "ann")
        await ear.hears("slot_update", status="RESERVED")
        connection = await asyncpg.connect(database)
        await connection.execute("UPDATE reservations SET expires_at = clock_timestamp()")
        await connection.close()
        await ear.hears("slot_update", status="AVAILABLE")
    assert [(moved.slot.status, moved.lapsed) for moved in heard_of] == [
        ("RESERVED", None),
        ("AVAILABLE", (hold, "ann")),
    ]
