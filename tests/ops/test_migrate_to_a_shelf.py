"""A sale in which held and sold units had rows: after the migration each is in one place."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from engine.infra import sql
from engine.infra.settings import Settings
from engine.ops import migrate as migrating
from engine.ops.migrate import migrate, pending
from tests.support.shop import Shop
from tests.support.wait import wait_until

SHELF = "0011_a_shelf"
# Of nine units two are on sale, one was never sold and is off sale. By buyer: the hold, its state,
# its unit, whether that was refunded, and what became of the unit.
HOLDS = {
    "ann": ("active", 3, "held"),
    "ben": ("paying", 4, "held"),
    "cat": ("purchased", 5, "sold"),
    "dan": ("expired", 7, "free"),
    "eve": ("released", 7, "free"),
    "fay": ("refunded", 8, "free"),
    "gus": ("refunded", 9, "withdrawn"),
}
LIVE = ("active", "paying", "purchased")


@pytest.fixture
async def admin(settings: Settings) -> AsyncIterator[asyncpg.Connection]:
    """A database as version 0010 left it, and a look at it."""
    connection = await asyncpg.connect(settings.database_url)
    await connection.execute("DROP SCHEMA public CASCADE")
    await connection.execute("CREATE SCHEMA public")
    await connection.execute(migrating._BOOK)
    for path in sorted((sql.folder() / "migrations").glob("*.sql")):
        if path.stem < SHELF:
            await migrating._patiently(connection, [path], migrating._nobody, last=False)
    yield connection
    await connection.close()


async def _mid_sale(admin: asyncpg.Connection) -> dict[str, Any]:
    """A drop with a unit in each state there was. The drop, and holds and purchases by buyer."""
    drop = await admin.fetchval(
        "INSERT INTO drops (name, price_cents, currency, starts_at, hold_seconds, max_hold_seconds,"
        " max_per_buyer, max_per_order, total_stock, prepared_at, most_per_buyer)"
        " VALUES ('Aurora', 12000, 'USD', now() - interval '1 hour', 600, 3000, 1, 1, 9, now(), 1)"
        " RETURNING id"
    )
    await admin.execute(
        "INSERT INTO stock (drop_id, version, free, held, sold, withdrawn, total)"
        " VALUES ($1, 20, 4, 2, 1, 2, 9)",
        drop,
    )
    units: dict[int, tuple[str, Any]] = dict.fromkeys((1, 2), ("free", None))
    units[6] = ("withdrawn", None)
    found: dict[str, Any] = {"drop": drop}
    for buyer, (state, number, place) in HOLDS.items():
        found[buyer] = await admin.fetchval(
            "INSERT INTO reservations (id, request_id, attempt, drop_id, amount_cents, created_at,"
            " expires_at, quantity, available, state, buyer, units) VALUES (gen_random_uuid(),"
            " gen_random_uuid(), 1, $1, 12000, now(), now() + interval '10 minutes', 1, 5, $2, $3,"
            " ARRAY[$4::integer]) RETURNING id",
            *(drop, state, buyer, number),
        )
        units[number] = (place, found[buyer] if state in LIVE else None)
        if state in LIVE:
            await admin.execute("INSERT INTO allowances VALUES ($1, $2, 1)", drop, buyer)
        if state in ("purchased", "refunded"):
            found[f"bought by {buyer}"] = await admin.fetchval(
                "INSERT INTO purchases (id, request_id, reservation_id, drop_id, amount_cents,"
                " purchased_at, quantity, buyer, units, refunded_at, restocked) VALUES"
                " (gen_random_uuid(), gen_random_uuid(), $1, $2, 12000, now(), 1, $3,"
                " ARRAY[$4::integer], CASE WHEN $5 = 'refunded' THEN now() END, $6 = 'free')"
                " RETURNING id",
                *(found[buyer], drop, buyer, number, state, place),
            )
    for number, (place, owner) in units.items():
        await admin.execute(
            "INSERT INTO units (drop_id, number, position, state, reservation_id)"
            " VALUES ($1, $2, 0, $3, $4)",
            *(drop, number, place, owner),
        )
    return found


async def test_a_sale_goes_on_from_where_it_was_and_every_unit_is_in_one_place(
    admin: asyncpg.Connection, settings: Settings
) -> None:
    sale = await _mid_sale(admin)
    drop = sale["drop"]

    assert await migrate(settings) >= 1
    assert await pending(settings) == []

    rows = await admin.fetch("SELECT number, state::text FROM units")
    shelf = {row["number"]: row["state"] for row in rows}
    assert shelf == {1: "free", 2: "free", 7: "free", 8: "free", 6: "withdrawn", 9: "withdrawn"}
    async with Shop.open(settings) as shop:
        assert (await shop.audit(drop))["problems"] == []
        await shop.confirm(str(sale["ann"]), "ann")
        assert (await shop.send("DELETE", f"/reservations/{sale['ben']}?userId=ben")).status == 204
        refund = f"/purchases/{sale['bought by cat']}/refund"
        assert (await shop.send("POST", refund, {"restock": True})).status == 200
        taken = [await shop.reserve(drop, f"buyer {n}") for n in range(7)]

        statuses = [reply.status for reply in taken]
        assert statuses == [201] * 6 + [409], "four that were free, and Ben's and Cat's"
        assert {unit["number"] for reply in taken[:6] for unit in reply.json["units"]} == {
            *(1, 2, 4, 5, 7, 8)
        }
        await admin.execute("DELETE FROM proofs")  # or an older recount would be shown
        audit = await shop.audit(drop)
        assert audit["problems"] == []
        assert [audit[name] for name in ("free", "held", "sold", "withdrawn")] == [0, 6, 1, 2]


async def test_damage_that_was_there_before_has_a_name_after_it(
    admin: asyncpg.Connection, settings: Settings
) -> None:
    """The rows that go are not the only ones that said who has a unit."""
    sale = await _mid_sale(admin)
    await admin.execute("UPDATE reservations SET state = 'released' WHERE buyer = 'ben'")

    await migrate(settings)

    async with Shop.open(settings) as shop:
        audit = await shop.audit(sale["drop"])
    assert f"unit 4 is nowhere, since hold {sale['ben']} of ben was released" in audit["offenders"]


async def test_rows_and_functions_change_in_one_commit_or_not_at_all(
    admin: asyncpg.Connection, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Functions of the version before would meet a shelf that they do not know."""
    await _mid_sale(admin)

    async def breaks(_connection: Any) -> None:
        raise ConnectionError("cut off")

    with monkeypatch.context() as patch, pytest.raises(ConnectionError):
        patch.setattr(migrating, "_replace_functions", breaks)
        await migrate(settings)

    assert await admin.fetchval("SELECT count(*) FROM units WHERE state = 'held'") == 2
    assert SHELF in await pending(settings)
    assert await migrate(settings) >= 1
    assert await pending(settings) == []


async def test_it_waits_for_a_claim_that_is_under_way_and_sees_what_it_did(
    admin: asyncpg.Connection, settings: Settings
) -> None:
    await _mid_sale(admin)
    claim = await asyncpg.connect(settings.database_url)
    told: list[str] = []
    async with claim.transaction():
        await claim.execute(
            "UPDATE units SET state = 'held', reservation_id = gen_random_uuid() WHERE number = 1"
        )
        running = asyncio.create_task(migrate(settings, told.append))

        async def gave_way() -> bool:
            return any(
                word.startswith(SHELF) and word.endswith("waiting for a table that somebody reads")
                for word in told
            )

        await wait_until(gave_way, "it gave way")
    assert await running >= 1
    await claim.close()

    assert await admin.fetchval("SELECT count(*) FROM units WHERE number = 1") == 0
