"""Whatever is changed behind the ledger's back is found, and named by the first record where it
shows. Everything here is done by somebody who may write every table and knows no secret."""

from __future__ import annotations

import pytest

from engine.record import books, keys
from engine.record.explain import Explained, explain
from engine.record.models import Head, Verdict
from engine.record.seal import BrokenHead, seal
from engine.record.verify import verify
from tests.support.ledger import Facts, ring

# Numbers of what follows are shifted past all others first: no unique key is in the way.
SHIFT = """
UPDATE ledger_entries SET sequence = sequence + 1000, height = height + 1000 WHERE sequence >= {at};
UPDATE ledger_links SET height = height + 1000, first_sequence = first_sequence + 1000
 WHERE first_sequence >= {at};
UPDATE ledger_entries SET sequence = sequence - 1000 + {by}, height = height - 1000 + {by}
 WHERE sequence > 1000;
UPDATE ledger_links SET height = height - 1000 + {by}, first_sequence = first_sequence - 1000 + {by}
 WHERE height > 1000;
"""
REWRITE = "UPDATE ledger_entries SET content = replace(content, 'MAN-', 'NAM-') WHERE sequence = 8;"
RELEAF = (
    "UPDATE ledger_entries SET leaf = sha256('\\x00'::bytea || convert_to(content, 'UTF8'))"
    " WHERE sequence = {at};"
)
REROOT = (
    "UPDATE ledger_links AS l SET root = e.leaf FROM ledger_entries AS e"
    " WHERE l.height = 3 AND e.sequence = 8;"
)
FORGED = "'" + "ab" * 32 + "'"
INSERT = (
    SHIFT.format(at=9, by=1)
    + "ALTER TABLE ledger_links DROP CONSTRAINT a_link_has_one_successor;"
    + "INSERT INTO ledger_entries SELECT 9, 4, action, subject_id, subject, recorded_at, leaf,"
    " content FROM ledger_entries WHERE sequence = 10;"
    "INSERT INTO ledger_links SELECT 4, is_block, 9, records, root, previous_hash, "
    + FORGED
    + ", nonce, key_id, sealed_at FROM ledger_links WHERE height = 5;"
)
SWAP = (
    "CREATE TEMP TABLE e AS SELECT * FROM ledger_entries WHERE sequence IN ({one}, {two});"
    "CREATE TEMP TABLE l AS SELECT * FROM ledger_links WHERE first_sequence IN ({one}, {two});"
    "DELETE FROM ledger_entries WHERE sequence IN ({one}, {two});"
    "DELETE FROM ledger_links WHERE first_sequence IN ({one}, {two});"
    "INSERT INTO ledger_entries SELECT {one} + {two} - sequence,"
    " CASE WHEN height IN (SELECT height FROM l)"
    " THEN (SELECT sum(height) FROM l) - height ELSE height END,"
    " action, subject_id, subject, recorded_at, leaf, content FROM e;"
    "INSERT INTO ledger_links SELECT (SELECT sum(height) FROM l) - height, is_block,"
    " {one} + {two} - first_sequence, records, root, previous_hash, data_hash, nonce, key_id,"
    " sealed_at FROM l;"
)
CUT = "DELETE FROM ledger_entries WHERE sequence >= 15; DELETE FROM ledger_links WHERE height >= 7;"
ORPHAN = (
    "INSERT INTO purchases (id, request_id, reservation_id, drop_id, amount_cents, purchased_at,"
    " quantity, buyer, units) SELECT gen_random_uuid(), gen_random_uuid(), gen_random_uuid(),"
    " drop_id, 1, now(), 1, 'eve', '{1}' FROM purchases LIMIT 1;"
)
DAMAGES = {
    "a field of an entry": (REWRITE, 8, "changed"),
    "a field, with its leaf": (REWRITE + RELEAF.format(at=8), 8, "changed"),
    "a field, its leaf and its root": (REWRITE + RELEAF.format(at=8) + REROOT, 8, "changed"),
    "a field of a record in a block": (
        "UPDATE ledger_entries SET content = replace(content, '12000', '1') WHERE sequence = 3",
        3,
        "changed",
    ),
    "the same with its leaf": (
        "UPDATE ledger_entries SET content = replace(content, '12000', '1') WHERE sequence = 3;"
        + RELEAF.format(at=3),
        3,
        "changed",
    ),
    "a field that is only shown": (
        "UPDATE ledger_entries SET action = 'BOOKING_RELEASED' WHERE sequence = 8",
        8,
        "changed",
    ),
    "a hash": (f"UPDATE ledger_links SET data_hash = {FORGED} WHERE height = 3", 8, "changed"),
    "the hash before": (
        f"UPDATE ledger_links SET previous_hash = {FORGED} WHERE height = 6",
        11,
        "changed",
    ),
    "a moment": (
        "UPDATE ledger_links SET sealed_at = sealed_at + interval '1 s' WHERE height = 3",
        8,
        "changed",
    ),
    "an entry is gone": ("DELETE FROM ledger_entries WHERE sequence = 9", 9, "removed"),
    "a record of a block is gone": ("DELETE FROM ledger_entries WHERE sequence = 4", 4, "removed"),
    "a link is gone": ("DELETE FROM ledger_links WHERE height = 4", 9, "removed"),
    "a link is gone and the gap closed": (
        "DELETE FROM ledger_entries WHERE sequence = 9; DELETE FROM ledger_links WHERE height = 4;"
        + SHIFT.format(at=10, by=-1),
        9,
        "removed",
    ),
    "a link is pushed in between": (INSERT, 9, "inserted"),
    "a link is put at the end": (
        "INSERT INTO ledger_links SELECT 9, is_block, 17, records, root, data_hash, "
        + FORGED
        + ", nonce, key_id, sealed_at FROM ledger_links WHERE height = 8",
        17,
        "inserted",
    ),
    "two entries are swapped": (SWAP.format(one=8, two=9), 8, "reordered"),
    "two entries far apart are swapped": (SWAP.format(one=7, two=10), 7, "reordered"),
    "two records of a block are swapped": (SWAP.format(one=2, two=3), 2, "reordered"),
    "the tail is cut": (CUT, 15, "truncated"),
    "a nonce": ("UPDATE ledger_links SET nonce = nonce + 1 WHERE height = 3", 8, "wrong_nonce"),
    "a nonce of a block": (
        "UPDATE ledger_links SET nonce = -1 WHERE height = 6",
        11,
        "wrong_nonce",
    ),
    "a booking's manifest": (
        "UPDATE bookings SET manifest_id = 'MAN-0' WHERE number = 8",
        8,
        "changed_record",
    ),
    "a booking's buyer": (
        "UPDATE bookings SET buyer = 'buyer-7' WHERE number = 8",
        8,
        "changed_record",
    ),
    "a booking is gone": ("DELETE FROM bookings WHERE number = 8", 8, "removed_record"),
    "a purchase's price": (
        "UPDATE purchases SET amount_cents = 1 WHERE buyer = 'buyer-2'",
        3,
        "changed_record",
    ),
    "a refund is undone": (
        "UPDATE purchases SET refunded_at = NULL WHERE buyer = 'buyer-0'",
        11,
        "changed_record",
    ),
    "a salt": ("UPDATE ledger_salts SET salt = 'x' WHERE buyer = 'buyer-2'", 3, "changed_record"),
    "a purchase that was never recorded": (ORPHAN, None, "missing_record"),
    "a refund that was never recorded": (
        "UPDATE purchases SET refunded_at = now(), restocked = true WHERE buyer = 'buyer-1'",
        None,
        "missing_record",
    ),
    "the head's root": ("UPDATE ledger_head SET root = sha256('x')", None, "bad_head"),
    "what the next one builds on": (
        "UPDATE ledger_head SET peaks = ARRAY[sha256('x')]",
        None,
        "bad_head",
    ),
    "that it builds on anything": (
        "UPDATE ledger_head SET peaks = '{}'",
        None,
        "bad_head",
    ),
    "the head itself": ("DELETE FROM ledger_head", None, "bad_head"),
    "the head's signature": ("UPDATE ledger_head SET signature = ''", None, "bad_head"),
    "a purchase, its record called something else": (
        "UPDATE ledger_entries SET action = 'NOTED' WHERE sequence = 3;"
        "DELETE FROM purchases WHERE buyer = 'buyer-2'",
        3,
        "changed",
    ),
    "a booking, its entry called something else": (
        "UPDATE ledger_entries SET action = 'KEY_ROTATED' WHERE sequence = 8;"
        "DELETE FROM purchases WHERE id = (SELECT purchase_id FROM bookings WHERE number = 8);"
        "DELETE FROM bookings WHERE number = 8",
        8,
        "changed",
    ),
    "a purchase with a record before the first": (
        ORPHAN + "INSERT INTO ledger_entries SELECT -1, 1, 'PURCHASED', id, '', now(), '', ''"
        " FROM purchases WHERE buyer = 'eve'",
        None,
        "inserted",
    ),
    "a purchase with the first of all ids": (
        ORPHAN + f"UPDATE purchases SET id = '{books.NOBODY}' WHERE buyer = 'eve'",
        None,
        "missing_record",
    ),
    "a purchase is a newcomer's": (
        "UPDATE purchases SET buyer = 'eve' WHERE buyer = 'buyer-2'",
        3,
        "changed_record",
    ),
    "a booking is a newcomer's": (
        "UPDATE purchases SET buyer = 'eve' WHERE buyer = 'buyer-8';"
        "UPDATE bookings SET buyer = 'eve' WHERE number = 8",
        8,
        "changed_record",
    ),
    "how many were bought": (
        "UPDATE purchases SET quantity = 2 WHERE buyer = 'buyer-2'",
        3,
        "changed_record",
    ),
    "a booking that was never made": (
        "INSERT INTO bookings (id, purchase_id, reservation_id, drop_id, number, buyer,"
        " manifest_id, confirmed_at) SELECT gen_random_uuid(), gen_random_uuid(),"
        " gen_random_uuid(), drop_id, 99, buyer, 'MAN-0', now() FROM bookings LIMIT 1",
        None,
        "missing_record",
    ),
    "the purchase of a booking is gone": (
        "DELETE FROM purchases WHERE id = (SELECT purchase_id FROM bookings WHERE number = 8)",
        8,
        "removed_record",
    ),
    "the purchase of a booking is another's": (
        "UPDATE purchases SET buyer = 'buyer-7' WHERE buyer = 'buyer-8'",
        8,
        "changed_record",
    ),
    "when it was booked": (
        "UPDATE bookings SET confirmed_at = confirmed_at + interval '1 day' WHERE number = 8",
        8,
        "changed_record",
    ),
    "a key that nobody put in force": (
        "INSERT INTO ledger_keys VALUES ('ab', 'cd', sha256('x'), 8, NULL, now())",
        None,
        "bad_keys",
    ),
    "the key that the public is told": (
        "UPDATE ledger_keys SET public_key = sha256('x')",
        None,
        "bad_keys",
    ),
    "a subtree of the history": (
        "UPDATE ledger_nodes SET hash = sha256('x') WHERE level = 1 AND place = 1",
        9,
        "changed",
    ),
    "a rotation that says nothing": (
        "UPDATE ledger_entries SET action = 'KEY_ROTATED', content = "
        """'{"action":"KEY_ROTATED",-"previousHash":"' || l.previous_hash || '"}'"""
        " FROM ledger_links AS l WHERE l.height = 3 AND sequence = 8;"
        + RELEAF.format(at=8)
        + REROOT
        + "UPDATE ledger_links SET key_id = 'x' WHERE height = 3",
        8,
        "changed",
    ),
    "all of it": (
        "TRUNCATE ledger_links, ledger_entries, ledger_nodes, ledger_head;"
        "INSERT INTO ledger_head DEFAULT VALUES",
        None,
        "missing_record",
    ),
}


TABLES = (
    *("ledger_links", "ledger_entries", "ledger_nodes", "ledger_head", "ledger_salts"),
    *("purchases", "bookings", "ledger_keys"),
)


async def test_whatever_is_changed_is_named_by_its_first_record(book: Facts) -> None:
    for table in TABLES:
        await book.connection.execute(f"CREATE TABLE kept_{table} AS TABLE {table}")
    found = {}
    for damage, (statements, _, _) in DAMAGES.items():
        assert (await verify(book.ground.postgres, ring())).valid, f"before {damage}"
        await book.connection.execute(f"{statements}; DROP TABLE IF EXISTS e, l")
        verdict = await verify(book.ground.postgres, ring())
        found[damage] = verdict.invalid_at, verdict.reason
        for table in TABLES:
            restore = f"TRUNCATE {table}; INSERT INTO {table} TABLE kept_{table}"
            await book.connection.execute(restore)

    assert found == {damage: (at, reason) for damage, (_, at, reason) in DAMAGES.items()}


async def test_an_operator_is_told_which_purchase_was_changed_and_what_of_it(book: Facts) -> None:
    entries = await book.connection.fetch("SELECT subject_id FROM ledger_entries ORDER BY sequence")
    purchase, booking = entries[11]["subject_id"], entries[7]["subject_id"]
    await book.connection.execute("UPDATE purchases SET amount_cents = 1 WHERE id = $1", purchase)

    verdict = await verify(book.ground.postgres, ring())
    explained = await explain(book.ground.postgres, verdict)

    assert (verdict.invalid_at, verdict.reason) == (12, "changed_record")
    assert explained == Explained(f"purchase {purchase}", ["amountCents: recorded 12000, now 1"])

    await book.connection.execute("DELETE FROM bookings WHERE id = $1", booking)
    gone = await explain(book.ground.postgres, Verdict(False, 16, 8, "removed_record"))
    assert gone == Explained(f"booking {booking}", ["its row, or something in it, is gone"])


async def _head(book: Facts) -> Head:
    return (await books.ends(book.ground.postgres)).head


async def test_a_head_that_was_kept_elsewhere_finds_a_tail_that_was_cut_with_its_head(
    book: Facts,
) -> None:
    before = await book.connection.fetchrow("SELECT * FROM ledger_head")
    drop_id = await book.drop()
    await book.buy(drop_id, 2)
    await seal(book.ground.postgres, ring())
    witness = await _head(book)
    purchases = "DELETE FROM purchases WHERE drop_id = $1"
    await book.connection.execute(purchases, drop_id)
    await book.connection.execute(
        "DELETE FROM ledger_entries WHERE sequence > 16; DELETE FROM ledger_links WHERE height > 8;"
        " DELETE FROM ledger_nodes WHERE (place + 1) << level > 8"
    )
    columns = (
        "height, sequence, data_hash, peaks, root, hmac_key, signing_key, signature, sealed_at"
    )
    await book.connection.execute(
        f"UPDATE ledger_head SET ({columns}) = ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
        *(before[name] for name in columns.split(", ")),
    )

    alone = await verify(book.ground.postgres, ring())
    witnessed = await verify(book.ground.postgres, ring(), witness=witness)

    assert alone.valid, "an old head is a true one: nothing here tells what came after it"
    assert (witnessed.valid, witnessed.invalid_at, witnessed.reason) == (False, 17, "truncated")


async def test_a_chain_that_was_made_anew_is_not_the_one_whose_head_was_kept(book: Facts) -> None:
    witness = await _head(book)
    await book.connection.execute(
        "WITH told AS (DELETE FROM ledger_entries WHERE action = 'PURCHASED' RETURNING *)"
        " INSERT INTO records (action, drop_id, subjects) SELECT 'PURCHASED', 1,"
        " array_agg(subject_id ORDER BY sequence DESC) FROM told"
    )
    await book.connection.execute(
        "DELETE FROM bookings; DELETE FROM purchases AS p WHERE NOT EXISTS"
        " (SELECT FROM records AS r WHERE p.id = ANY (r.subjects));"
        "UPDATE purchases SET refunded_at = NULL;"
        "TRUNCATE ledger_links, ledger_entries, ledger_nodes, ledger_head, ledger_keys;"
        "INSERT INTO ledger_head DEFAULT VALUES"
    )
    stolen = ring()  # whoever has the secret can make any chain
    await seal(book.ground.postgres, stolen)
    for _ in range(8):
        await book.buy(await book.drop(), 1)
        await seal(book.ground.postgres, stolen)

    alone = await verify(book.ground.postgres, ring())
    witnessed = await verify(book.ground.postgres, ring(), witness=witness)

    assert alone.valid
    assert (witnessed.valid, witnessed.reason) == (False, "other_history")


async def test_a_chain_sealed_with_a_key_that_is_not_ours_is_none(book: Facts) -> None:
    other = keys.ring(book.ground.settings)

    found = await verify(book.ground.postgres, other)

    assert (found.valid, found.reason) == (False, "bad_head")


async def test_nothing_is_sealed_after_a_head_that_is_not_ours(book: Facts) -> None:
    await book.buy(await book.drop(), 1)
    for change in (
        "root = sha256('x'), peaks = ARRAY[sha256('x')]",
        "height = 6, sequence = 14",
        "data_hash = repeat('0', 64)",
        "signature = '', sealed_at = now()",
        "peaks = '{}'",
    ):
        await book.connection.execute("CREATE TABLE kept AS TABLE ledger_head")
        await book.connection.execute(f"UPDATE ledger_head SET {change}")
        with pytest.raises(BrokenHead, match="ledger verify"):
            await seal(book.ground.postgres, ring())
        await book.connection.execute(
            "TRUNCATE ledger_head; INSERT INTO ledger_head TABLE kept; DROP TABLE kept"
        )

    assert await seal(book.ground.postgres, ring()) == 1
    assert (await verify(book.ground.postgres, ring())).valid
