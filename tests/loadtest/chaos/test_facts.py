"""The witness sees every change, in the transaction of the change, and disturbs nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg
import msgspec

from loadtest.chaos import facts
from loadtest.chaos.checker import check
from tests.support.shop import Shop


def lines(folder: Path, name: str) -> Iterator[Any]:
    """The facts of one file."""
    kinds = facts.StockFact | facts.UnitFact | facts.HoldFact | facts.ToldFact
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
    unit = next(f for f in lines(tmp_path, "units") if f.after is None)
    stock = next(f for f in lines(tmp_path, "stock") if f.held)
    told = next(f for f in lines(tmp_path, "outbox") if f.kind == "reserved")
    assert (hold.id, hold.buyer) == (held["id"], 'Zoë "\\ the" 1st')
    assert (unit.before, [unit.number]) == ("free", hold.units)
    assert hold.txid == unit.txid == stock.txid == told.txid
    assert (stock.before, stock.version) == (told.version - 1, told.version)
    assert (stock.free, stock.held, stock.total) == (2, 1, 3)


async def test_what_was_rolled_back_left_no_fact(database: str, shop: Shop, tmp_path: Path) -> None:
    await facts.install(database)
    drop_id = await shop.open_drop(3, maxPerBuyer=1)

    assert (await shop.reserve(drop_id, "ann")).status == 201
    assert (await shop.reserve(drop_id, "ann")).status == 409  # claims, and undoes it
    await facts.export(database, tmp_path)

    holds = [fact for fact in lines(tmp_path, "holds") if fact.after == "active"]
    moved = [fact for fact in lines(tmp_path, "units") if fact.after is None]
    assert len(holds) == len(moved) == 1


async def test_what_was_there_before_the_witness_is_known_as_that(
    database: str, shop: Shop, tmp_path: Path
) -> None:
    drop_id = await shop.open_drop(2)
    hold = (await shop.reserve(drop_id, "ann")).json
    await facts.install(database)
    await shop.confirm(hold["id"], "ann")
    await facts.export(database, tmp_path)

    rows = {row.measure: row for row in check(tmp_path)}

    assert rows["C2 versions that do not add up"].holds
    assert rows["C1 units with two owners"].holds
    assert rows["C4 effects nobody asked for"].seen == "1", (
        "the purchase, which no client wrote down"
    )
    assert rows["C7 holds that ended wrongly"].holds


async def test_a_tick_binds_both_clocks(database: str) -> None:
    await facts.install(database)
    connection = await asyncpg.connect(database)

    one, two = await facts.tick(connection), await facts.tick(connection)
    await connection.close()

    assert one.before <= one.after <= two.before <= two.after
    assert 0 < two.at - one.at <= (two.after - one.before) // 1000 + 1
