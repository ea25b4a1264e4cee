"""Stories of units that have names; with those of stories.py they are all there are."""

from __future__ import annotations

import asyncio

import redis.asyncio

from tests.support import mint_stories, seats
from tests.support.cells import Cell
from tests.support.stories import STORIES, Acts, story
from tests.support.wait import wait_until

__all__ = ["STORIES", "mint_stories"]

NAMES = ["A1", "A2", "A3", "B1", "B2", "B3"]
TERMS = {"pick": "named", "units": NAMES, "holdSeconds": 600, "maxHoldSeconds": 1_800}


async def _open(cell: Cell) -> None:
    body = {"name": cell.name, "price": "1", "maxPerBuyer": 3, "maxPerOrder": 3} | TERMS
    reply = await cell.shop.send("POST", "/drops", body)
    assert reply.status == 201, reply.body
    cell.drop_id = reply.json["id"]


async def _pick(cell: Cell, buyer: str, *units: str) -> None:
    """Somebody has these."""
    body = {"dropId": cell.drop_id, "userId": f"{cell.name}-{buyer}", "units": units}
    reply = await cell.shop.send("POST", "/reservations", body)
    assert reply.status == 201, reply.body


async def _agreed(cell: Cell) -> None:
    """The bitmap is the shelf again."""
    client = redis.asyncio.Redis.from_url(cell.world.settings.redis_url)
    try:
        await wait_until(
            lambda: seats.agrees(client, cell.world.ground, cell.drop_id),
            f"the bitmap of {cell.name} is what is on the shelf",
            seconds=8,
        )
    finally:
        await client.aclose()


async def _held_as_picked(cell: Cell) -> None:
    query = (
        "SELECT r.units, array_agg(k.number ORDER BY k.number) AS picked FROM reservations AS r"
        " LEFT JOIN picks AS k ON k.reservation_id = r.id"
        " WHERE r.drop_id = $1 AND r.state = 'active' GROUP BY r.id"
    )
    for row in await cell.world.rows(query, cell.drop_id):
        assert sorted(row["units"]) == row["picked"], "picks do not say who has what"


@story("reserve/admit", "reserve/claim_seats", "reserve/settle", "names/")
async def picking(cell: Cell) -> Acts:
    """Seats are picked, one by one and a batch of them; somebody wants the best."""
    await _open(cell)
    yield
    await cell.reserve("ann", "one", units=["A1", "B3"])
    await asyncio.gather(
        cell.reserve("bob", "two", units=["B1", "B2"]), cell.reserve("cat", "three", quantity=2)
    )
    yield
    await _held_as_picked(cell)
    await _agreed(cell)


@story("reserve/find_taken", "reserve/longest_run")
async def picked_before(cell: Cell) -> Acts:
    """What is wanted is taken, and what is left is not side by side."""
    await _open(cell)
    await _pick(cell, "holder", "A2", "B2")
    yield
    await cell.reserve("ann", "one", units=["A2", "A3"])
    await cell.reserve("bob", "two", quantity=3)
    yield
    told = [told.reply.error for ask in cell.asks for told in ask.told if told.sure]
    assert set(told) == {"SLOT_NOT_AVAILABLE", "SOLD_OUT"}, told
    await _agreed(cell)


@story("request/name_units", "request/named_otherwise", "request/free_numbers", "request/seat")
async def opening_named(cell: Cell) -> Acts:
    """A drop whose units have names is opened, once; and gets some more."""
    await _open(cell)
    yield
    body = {"name": cell.name, "price": "1"} | TERMS
    await cell.ask("POST", "/drops", body, "open")
    more = {"addStock": 1, "units": ["C1"]}
    await cell.ask("PATCH", f"/drops/{cell.drop_id}", more, "add")
    await cell.ask("PATCH", f"/drops/{cell.drop_id}", {"addStock": 1}, "add one without a name")
    yield
    query = "SELECT count(*) AS names FROM unit_names AS u JOIN drops AS d ON d.id = u.drop_id"
    found = await cell.world.rows(f"{query} WHERE d.name = $1", cell.name)
    assert [row["names"] for row in found] == [2 * len(NAMES) + 1]


@story("reconciler/free_numbers", "reconciler/seat", until="reconciler/seat.after")
async def seating(cell: Cell) -> Acts:
    """Redis lost the bitmap, and nothing else."""
    await _open(cell)
    await _pick(cell, "holder", "A2")
    client = redis.asyncio.Redis.from_url(cell.world.settings.redis_url)
    await client.delete(cell.world.ground.bouncer._key(cell.drop_id, "seats"))
    await client.aclose()
    yield
    yield
    await _agreed(cell)
