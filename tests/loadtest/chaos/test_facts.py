"""The witness sees every change, in the transaction of the change, and disturbs nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from loadtest.chaos import facts
from tests.support.shop import Shop


def lines(folder: Path, name: str) -> Iterator[Any]:
    """The facts of one file."""
    kinds = facts.DropFact | facts.StockFact | facts.UnitFact | facts.HoldFact | facts.ToldFact
    for raw in (folder / f"facts-{name}.jsonl").read_bytes().splitlines():
        yield msgspec.json.decode(raw, type=kinds)


async def test_a_hold_its_units_and_its_version_share_one_transaction(
    database: str, shop: Shop, tmp_path: Path
) -> None:
    await facts.install(database)
    drop_id = await shop.open_drop(3)

    held = (await shop.reserve(drop_id, 'Zoë "\\ the" 1st', quantity=1)).json
    await facts.export(database, tmp_path)

    hold = next(f for f in lines(tmp_path, "holds"))
    unit = next(f for f in lines(tmp_path, "units") if f.after == "held")
    stock = next(f for f in lines(tmp_path, "stock") if f.held)
    told = next(f for f in lines(tmp_path, "outbox"))
    assert (hold.id, hold.buyer) == (held["id"], 'Zoë "\\ the" 1st')
    assert (unit.owner_after, unit.before, [unit.number]) == (hold.id, "free", hold.units)
    assert hold.txid == unit.txid == stock.txid == told.txid
    assert (stock.before, stock.version) == (told.version - 1, told.version)
    assert (stock.free, stock.held, stock.total) == (2, 1, 3)
