"""Stories of receipts; with those of the others they are all there are."""

from __future__ import annotations

import asyncio

from engine.infra.ids import new_id
from engine.membership import store
from engine.membership.models import Mint, Receipt
from engine.membership.receipts import digest
from tests.support.cells import Cell
from tests.support.stories import Acts, story


async def _each_number_has_its_receipt(cell: Cell) -> None:
    query = (
        "SELECT count(r.id) AS sold, count(m.id) AS members, count(k.id) AS receipts,"
        " count(p.id) AS purchases FROM reservations AS r"
        " LEFT JOIN memberships AS m ON m.id = r.id AND m.number = r.units[1]"
        " LEFT JOIN receipts AS k ON k.membership_id = r.id AND k.id = r.request_id"
        " LEFT JOIN purchases AS p ON p.id = r.id"
        " WHERE r.drop_id = $1 AND r.state <> 'aborted'"
    )
    [row] = await cell.world.rows(query, cell.drop_id)
    assert len(set(row.values())) == 1, f"{cell.name}: {dict(row)}"
    open_ = "SELECT count(*) FROM receipts WHERE drop_id = $1 AND state = 'fulfilled'"
    [fulfilled] = await cell.world.rows(open_, cell.drop_id)
    assert fulfilled["count"] == row["members"], cell.name


@story("mint/", "present/", "give_up/")
async def minting(cell: Cell) -> Acts:
    """One receipt, and then a batch of them."""
    await cell.open_tier(10)
    yield
    await cell.mint("ann", "one")
    await asyncio.gather(cell.mint("bob", "two"), cell.mint("cat", "three"))
    yield
    await _each_number_has_its_receipt(cell)


@story("mint/", "present/", "give_up/")
async def minting_too_late(cell: Cell) -> Acts:
    """Sold out, which the receipt's row is told."""
    await cell.open_tier(1)
    body = {"dropId": cell.drop_id, "userId": "first", "receiptData": f"{cell.name}-first"}
    assert (await cell.shop.send("POST", "/mint", body)).status == 201
    yield
    await cell.mint("ann", "one")
    yield
    await _each_number_has_its_receipt(cell)


@story("registrar/", until="give_up_receipts")
async def registering(cell: Cell) -> Acts:
    """A receipt that a dead worker left pending."""
    await cell.open_tier(2)
    wish = Mint(Receipt(digest(cell.name)), None, "ann", cell.drop_id)
    await store.present_receipts(cell.world.ground.postgres, [(new_id(), wish)])
    aged = "UPDATE receipts SET changed_at = now() - interval '1 hour' WHERE drop_id = $1"
    await cell.world.rows(aged, cell.drop_id)
    yield
    yield
    state = "SELECT state FROM receipts WHERE drop_id = $1 AND buyer = 'ann'"
    assert [row["state"] for row in await cell.world.rows(state, cell.drop_id)] == ["failed"]
