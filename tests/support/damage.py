"""Rows damaged behind the engine's back, in many ways, and how to mend them."""

from __future__ import annotations

import asyncpg
import msgspec

from tests.support.shop import Shop


class Damage(msgspec.Struct, frozen=True):
    """SQL that harms drop $1, SQL that undoes it, and the problems it must be called by."""

    name: str
    harm: str
    mend: str
    problems: tuple[str, ...]  # how each of them begins, in the order of the audit


FREE = "(SELECT min(number) FROM units WHERE drop_id = $1 AND state = 'free')"
CATS = "(SELECT id FROM reservations WHERE drop_id = $1 AND buyer = 'cat')"
ANNS = "(SELECT id FROM reservations WHERE drop_id = $1 AND buyer = 'ann')"
CATS_UNIT = "(SELECT units[1] FROM reservations WHERE drop_id = $1 AND buyer = 'cat')"
BOBS_UNIT = "(SELECT units[1] FROM purchases WHERE drop_id = $1 AND buyer = 'bob')"
# The number that is nowhere: only one harm is done at a time.
LOST_UNIT = (
    "(SELECT n FROM generate_series(1, 10) AS n EXCEPT SELECT number FROM units WHERE drop_id = $1"
    " EXCEPT SELECT unnest(units) FROM reservations WHERE drop_id = $1 AND buyer <> 'cat')"
)
UNITS, BUYERS = "INV-1: {} units are nowhere", "INV-8: {} buyers or purchases do not"

DAMAGES = [
    Damage(
        "a free unit is called withdrawn",
        f"UPDATE units SET state = 'withdrawn' WHERE drop_id = $1 AND number = {FREE}",
        "UPDATE units SET state = 'free' WHERE drop_id = $1 AND state = 'withdrawn'",
        (
            "INV-2: the stock row says 7 free, 6 units are",
            "INV-2: the stock row says 0 withdrawn, 1 units are",
        ),
    ),
    Damage(
        "a free unit is deleted",
        f"DELETE FROM units WHERE drop_id = $1 AND number = {FREE}",
        "INSERT INTO units (drop_id, number, position) SELECT $1, n, n FROM generate_series(1, 10)"
        " AS n WHERE n <> ALL (SELECT unnest(units) FROM reservations WHERE drop_id = $1)"
        " ON CONFLICT DO NOTHING",
        ("INV-2: the stock row says 7 free, 6 units are", UNITS.format(1)),
    ),
    Damage(
        "a unit is there that was never put on the shelf",
        "INSERT INTO units (drop_id, number, position) VALUES ($1, 11, 0)",
        "DELETE FROM units WHERE drop_id = $1 AND number = 11",
        ("INV-2: the stock row says 7 free, 8 units are", UNITS.format(1)),
    ),
    Damage(
        "a held unit is on the shelf",
        f"INSERT INTO units (drop_id, number, position) VALUES ($1, {CATS_UNIT}, 0)",
        f"DELETE FROM units WHERE drop_id = $1 AND number = {CATS_UNIT}",
        ("INV-2: the stock row says 7 free, 8 units are", UNITS.format(1)),
    ),
    Damage(
        "a sold unit is on the shelf",
        f"INSERT INTO units (drop_id, number, position) VALUES ($1, {BOBS_UNIT}, 0)",
        f"DELETE FROM units WHERE drop_id = $1 AND number = {BOBS_UNIT}",
        ("INV-2: the stock row says 7 free, 8 units are", UNITS.format(1)),
    ),
    Damage(
        "a held unit is another buyer's, too",
        f"UPDATE reservations SET units = (SELECT units FROM reservations WHERE id = {ANNS})"
        f" WHERE id = {CATS}",
        f"UPDATE reservations SET units = ARRAY[{LOST_UNIT}] WHERE id = {CATS}",
        (UNITS.format(2),),  # one is of both, and one of nobody
    ),
    Damage(
        "a held unit is sold",
        f"UPDATE purchases SET units = ARRAY[{CATS_UNIT}] WHERE drop_id = $1 AND buyer = 'bob'",
        "UPDATE purchases SET units = r.units FROM reservations AS r"
        " WHERE r.id = reservation_id AND r.drop_id = $1 AND r.buyer = 'bob'",
        (BUYERS.format(1), UNITS.format(2)),
    ),
    Damage(
        "a hold became a purchase of other units",
        "UPDATE reservations SET units = ARRAY[1000] WHERE drop_id = $1 AND buyer = 'bob'",
        "UPDATE reservations SET units = p.units FROM purchases AS p"
        " WHERE p.reservation_id = reservations.id AND p.drop_id = $1 AND p.buyer = 'bob'",
        (BUYERS.format(1), UNITS.format(2)),
    ),
    Damage(
        "the stock row is off by one",
        "UPDATE stock SET free = free - 1, withdrawn = withdrawn + 1 WHERE drop_id = $1",
        "UPDATE stock SET free = free + 1, withdrawn = withdrawn - 1 WHERE drop_id = $1",
        (
            "INV-2: the stock row says 6 free, 7 units are",
            "INV-2: the stock row says 1 withdrawn, 0 units are",
        ),
    ),
    Damage(
        "the stock row calls a held unit free",
        "UPDATE stock SET free = free + 1, held = held - 1 WHERE drop_id = $1",
        "UPDATE stock SET free = free - 1, held = held + 1 WHERE drop_id = $1",
        (
            "INV-2: the stock row says 8 free, 7 units are",
            "INV-5: 1 units are held, live holds name 2",
            "INV-8: buyers' allowances add up to 3, held and sold to 2",
        ),
    ),
    Damage(
        "a hold names another unit",
        f"UPDATE reservations SET units = ARRAY[{FREE}] WHERE id = {CATS}",
        f"UPDATE reservations SET units = ARRAY[{LOST_UNIT}] WHERE id = {CATS}",
        (UNITS.format(2),),
    ),
    Damage(
        "a hold ended and its unit did not come back",
        f"UPDATE reservations SET state = 'released' WHERE id = {CATS}",
        f"UPDATE reservations SET state = 'active' WHERE id = {CATS}",
        ("INV-5: 2 units are held, live holds name 1", BUYERS.format(1), UNITS.format(1)),
    ),
    Damage(
        "a purchase claims more than it got",
        "UPDATE purchases SET quantity = 2 WHERE drop_id = $1 AND buyer = 'bob'",
        "UPDATE purchases SET quantity = 1 WHERE drop_id = $1 AND buyer = 'bob'",
        ("INV-1: 1 units are sold, purchases name 2", BUYERS.format(1)),
    ),
    Damage(
        "a purchase is under a stranger's name",
        "UPDATE purchases SET buyer = 'eve' WHERE drop_id = $1 AND buyer = 'bob'",
        "UPDATE purchases SET buyer = 'bob' WHERE drop_id = $1 AND buyer = 'eve'",
        (BUYERS.format(1),),
    ),
    Damage(
        "a purchase names a hold that never was",
        "UPDATE purchases SET reservation_id = gen_random_uuid()"
        " WHERE drop_id = $1 AND buyer = 'bob'",
        "UPDATE purchases SET reservation_id = (SELECT id FROM reservations WHERE drop_id = $1"
        " AND buyer = 'bob') WHERE drop_id = $1 AND buyer = 'bob'",
        (BUYERS.format(1),),
    ),
    Damage(
        "a payment bought nothing",
        "INSERT INTO payments (reference, reservation_id, amount_cents, currency, status, outcome)"
        f" SELECT 'lost', {CATS}, 12000, 'USD', 'succeeded', 'purchased'",
        "DELETE FROM payments WHERE reference = 'lost' AND $1 > 0",
        ("INV-13: 1 payments came to neither",),
    ),
    Damage(
        "a refund that is due is owed by nobody",
        "INSERT INTO payments (reference, reservation_id, amount_cents, currency, status, outcome,"
        f" reason) SELECT 'lost', {CATS}, 12000, 'USD', 'succeeded', 'refund_due', 'limit'",
        "DELETE FROM payments WHERE reference = 'lost' AND $1 > 0",
        ("INV-13: 1 payments came to neither",),
    ),
    Damage(
        "a buyer's allowance is too high",
        "UPDATE allowances SET used = used + 1 WHERE drop_id = $1 AND buyer = 'cat'",
        "UPDATE allowances SET used = used - 1 WHERE drop_id = $1 AND buyer = 'cat'",
        (
            "INV-8: buyers' allowances add up to 4, held and sold to 3",
            BUYERS.format(1),
            "INV-8: 1 buyers own more than the limit",
        ),
    ),
    Damage(
        "a buyer's allowance is another's",
        "UPDATE allowances SET buyer = 'eve' WHERE drop_id = $1 AND buyer = 'cat'",
        "UPDATE allowances SET buyer = 'cat' WHERE drop_id = $1 AND buyer = 'eve'",
        (BUYERS.format(2),),  # the sum is right: only a look at each of them tells
    ),
    Damage(
        "a buyer's allowance is gone",
        "DELETE FROM allowances WHERE drop_id = $1 AND buyer = 'cat'",
        "INSERT INTO allowances (drop_id, buyer, used) VALUES ($1, 'cat', 1)",
        ("INV-8: buyers' allowances add up to 2, held and sold to 3", BUYERS.format(1)),
    ),
]


async def stage(shop: Shop) -> tuple[int, str]:
    """A drop of ten: Ann and Cat hold one each, Bob bought one. The drop, and Ann's hold."""
    drop_id = await shop.open_drop(10, holdSeconds=600)
    hold = await shop.reserve(drop_id, "ann", "anns key")
    await shop.reserve(drop_id, "cat")
    await shop.confirm((await shop.reserve(drop_id, "bob")).json["id"], "bob")
    return drop_id, str(hold.json["id"])


async def do(database_url: str, statement: str, *values: object) -> None:
    """Change rows by hand: some are."""
    connection = await asyncpg.connect(database_url)
    try:
        tag = await connection.execute(statement, *values)
    finally:
        await connection.close()
    assert not tag.endswith(" 0"), f"{tag}: nothing was damaged by {statement}"
