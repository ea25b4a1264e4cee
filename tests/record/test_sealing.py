"""Sealing: all of it once, in order, by any number of sealers, wherever one of them dies."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from engine import runtime
from engine.infra.postgres import Session, Unknown, Unreachable
from engine.infra.settings import Settings
from engine.keepers.rounds import SEAL_SECONDS, sealing
from engine.record import books, keys, ledger
from engine.record.seal import ENTRY_WEIGHT, RECORDS_MAX, WrongKeys, rotate, seal
from engine.record.verify import verify
from engine.runtime import Ground
from tests.support.ledger import SECRET, Facts, ring
from tests.support.wait import wait_until

NEW = "another secret of a ledger, for tests"
SEED = "5a" * 32


async def test_what_is_sealed_waits_no_more_and_whoever_listens_is_told(book: Facts) -> None:
    ends = await books.ends(book.ground.postgres)
    told = await book.connection.fetch("SELECT * FROM outbox WHERE kind = 'sealed'")

    assert await seal(book.ground.postgres, ring()) == 0
    assert await book.connection.fetchval("SELECT count(*) FROM records") == 0
    assert (
        (ends.head.height, ends.head.sequence) == (8, 16) == (ends.last_height, ends.last_sequence)
    )
    assert [row["version"] for row in told] == [16]
    assert await verify(book.ground.postgres, ring()) == (
        await verify(book.ground.postgres, ring())
    )


async def test_postgres_writes_an_entry_as_the_vectors_want_it(book: Facts) -> None:
    row = await book.connection.fetchrow(
        "SELECT e.content, b.*, e.subject, l.previous_hash, l.data_hash, l.nonce,"
        " booking_content(b.id, (b.drop_id << 20) + b.number, 'é\"\\/ \u0001\t\u2028', e.subject,"
        " e.action, '2030-01-02T03:04:05.678999Z', l.previous_hash) AS odd"
        " FROM ledger_entries e JOIN bookings b ON b.id = e.subject_id"
        " JOIN ledger_links l ON l.height = e.height WHERE e.sequence = 8"
    )
    slot = str((row["drop_id"] << 20) + row["number"])
    odd = ledger.entry_content(
        str(row["id"]),
        slot,
        'é"\\/ \u0001\t\u2028',
        row["subject"],
        "BOOKING_CONFIRMED",
        "2030-01-02T03:04:05.678Z",
        row["previous_hash"],
    )

    assert row["odd"].encode() == odd
    assert ledger.data_hash(SECRET.encode(), row["content"].encode()) == row["data_hash"]
    assert ledger.nonce_of(row["data_hash"]) == row["nonce"]


async def test_a_block_is_cut_where_it_is_full_and_a_row_may_lie_across(facts: Facts) -> None:
    drop_id = await facts.drop()
    await facts.buy(drop_id, 3_000)
    await facts.buy(drop_id, 6_000, buyer="ann")
    assert await seal(facts.ground.postgres, ring()) == 9_000

    rows = await facts.connection.fetch("SELECT * FROM ledger_links ORDER BY height")
    assert [(row["first_sequence"], row["records"]) for row in rows] == [
        (1, 4_096),
        (4_097, 4_096),
        (8_193, 808),
    ]
    assert (await verify(facts.ground.postgres, ring())).valid


async def test_four_sealers_make_one_chain(facts: Facts) -> None:
    drop_id = await facts.drop()
    done = asyncio.Event()

    async def sealer() -> int:
        count = 0
        while not done.is_set() or await books.newest_waiting(facts.ground.postgres) is not None:
            count += await seal(facts.ground.postgres, ring(), most=7)
            await asyncio.sleep(0)
        return count

    sealers = [asyncio.create_task(sealer()) for _ in range(4)]
    for _ in range(15):
        await facts.buy(drop_id, 5)
        await facts.book(drop_id, 5)
    done.set()
    counts = await asyncio.gather(*sealers)

    assert sum(counts) == 150
    assert sum(count > 0 for count in counts) > 1, "more than one of them sealed"
    found = await verify(facts.ground.postgres, ring())
    assert (found.valid, found.entries) == (True, 150)


@pytest.mark.parametrize("dies_at", ["seal_records", "append_links", "end_sealing"])
async def test_a_sealer_that_dies_loses_nothing_and_doubles_nothing(
    facts: Facts, monkeypatch: pytest.MonkeyPatch, dies_at: str
) -> None:
    drop_id = await facts.drop()
    await facts.book(drop_id, 2)
    await facts.buy(drop_id, 2)
    call = Session.call

    async def dying(self: Session, query: Any, **words: Any) -> Any:
        found = await call(self, query, **words)
        if query.name == dies_at:  # as kill -9: the server sees the connection go
            self._connection.terminate()
        return found

    with monkeypatch.context() as patch:
        patch.setattr(Session, "call", dying)
        with pytest.raises((Unknown, Unreachable)):
            await seal(facts.ground.postgres, ring())
    assert (await books.ends(facts.ground.postgres)).last_sequence == 0

    assert await seal(facts.ground.postgres, ring()) == 4
    assert (await verify(facts.ground.postgres, ring())).entries == 4


async def test_who_is_erased_leaves_a_chain_that_is_valid_and_names_nobody(book: Facts) -> None:
    before = await book.connection.fetchval("SELECT subject FROM ledger_entries WHERE sequence = 3")
    assert await books.forget_salt(book.ground.postgres, "buyer-2")
    assert not await books.forget_salt(book.ground.postgres, "buyer-2")

    await book.buy(await book.drop(), 1, buyer="buyer-2")  # he comes back, as somebody else
    await seal(book.ground.postgres, ring())

    after = await book.connection.fetchval("SELECT subject FROM ledger_entries WHERE sequence = 17")
    assert (await verify(book.ground.postgres, ring())).valid
    assert len(before) == len(after) == 32
    assert before != after
    salts = "SELECT count(*) FROM ledger_salts WHERE salted(salt, 'buyer-2') = $1"
    assert await book.connection.fetchval(salts, before) == 0
    assert await book.connection.fetchval(salts, after) == 1


@pytest.mark.parametrize(
    "new",
    [ring(NEW, SECRET), ring(signing_key=SEED)],
    ids=["another secret", "another signing key"],
)
async def test_a_new_key_is_vouched_for_by_the_old_chain(book: Facts, new: keys.Keyring) -> None:
    await book.book(await book.drop(), 2)
    assert await seal(book.ground.postgres, new) == 2

    first, second = await books.keys(book.ground.postgres)
    rotation = await book.connection.fetchrow("SELECT * FROM ledger_entries WHERE sequence = 17")
    link = await book.connection.fetchrow("SELECT * FROM ledger_links WHERE height = 9")
    assert rotation["action"] == ledger.ROTATION
    assert link["key_id"] == first.hmac_key, "sealed with the key that was in force"
    assert keys.is_signed(first.public_key, second.voucher, rotation["content"].encode())
    assert second.public_key.hex() in rotation["content"]
    assert (second.signing_key, second.since) == (new.signing_key, 9)
    assert (await verify(book.ground.postgres, new)) == (await verify(book.ground.postgres, new))
    assert (await verify(book.ground.postgres, new)).entries == 19

    with pytest.raises(WrongKeys):  # a keeper that was not restarted yet
        await book.book(await book.drop())
        await seal(book.ground.postgres, ring())


async def test_a_secret_that_was_lost_is_followed_by_one_that_says_so(book: Facts) -> None:
    new = ring(NEW)
    await book.book(await book.drop())
    with pytest.raises(WrongKeys):
        await seal(book.ground.postgres, new)
    with pytest.raises(WrongKeys):
        await rotate(book.ground.postgres, new, lost=False)

    assert await rotate(book.ground.postgres, new, lost=True)
    assert not await rotate(book.ground.postgres, new, lost=True)
    assert await seal(book.ground.postgres, new) == 1

    found = await verify(book.ground.postgres, new)
    assert (found.valid, found.entries, found.unchecked) == (True, 18, [ring().hmac_key])
    with_old = await verify(book.ground.postgres, ring(NEW, SECRET))
    assert (with_old.valid, with_old.invalid_at) == (False, 17), "ours was not lost: who did that?"


async def test_a_keeper_without_the_right_keys_says_so_and_seals_nothing(
    book: Facts, ground: Ground, capfd: pytest.CaptureFixture[str]
) -> None:
    await book.buy(await book.drop(), 1)

    await sealing(replace(ground.settings, hmac_secret=NEW), ground.postgres)()
    await sealing(replace(ground.settings, auth="required"), ground.postgres)()

    said = capfd.readouterr()
    assert "HMAC_SECRET_PREVIOUS" in said.out + said.err
    assert "HMAC_SECRET is missing" in said.out + said.err
    assert await books.newest_waiting(ground.postgres) is not None


def test_without_secrets_one_is_made_once_and_is_nobody_elses_to_read(
    tmp_path: Path,
) -> None:
    settings = Settings(auth="open", data_dir=tmp_path)
    with ThreadPoolExecutor(8) as pool:
        rings = list(pool.map(keys.ring, [settings] * 8))

    path = tmp_path / keys.OPEN_SECRET
    assert len({each.hmac_key for each in rings}) == 1
    assert path.stat().st_mode & 0o777 == 0o600
    assert [each.name for each in tmp_path.iterdir()] == [keys.OPEN_SECRET]


async def test_while_a_rush_goes_on_the_sealer_rests_and_afterwards_it_does_not(
    facts: Facts, ground: Ground
) -> None:
    drop_id, work = await facts.drop(), sealing(ground.settings, ground.postgres)
    rests = []
    for _ in range(3):
        await facts.buy(drop_id, RECORDS_MAX // ENTRY_WEIGHT)
        rests.append(await work())
    at_the_end = await work()

    assert rests[0] == 0.0, "a backlog is no rush yet"
    assert all(rest is not None and rest > 0 for rest in rests[1:])
    assert at_the_end == SEAL_SECONDS


@pytest.mark.usefixtures("keeping")
async def test_keepers_seal_within_a_second(facts: Facts) -> None:
    await facts.buy(await facts.drop(), 3)

    async def is_sealed() -> bool:
        return await books.newest_waiting(facts.ground.postgres) is None

    await wait_until(is_sealed, "the keeper seals", seconds=10)
    async with runtime.database(facts.ground.settings) as postgres:
        assert (await verify(postgres, keys.ring(facts.ground.settings))).entries == 3


async def test_keys_put_in_force_before_anything_was_sealed_stop_nobody(facts: Facts) -> None:
    await facts.buy(await facts.drop(), 2)

    assert not await rotate(facts.ground.postgres, ring(), lost=False), "there is nothing to follow"
    assert await seal(facts.ground.postgres, ring()) == 2
    assert (await verify(facts.ground.postgres, ring())).valid


async def test_new_keys_wait_for_a_sealer_instead_of_saying_that_they_are_in_force(
    book: Facts,
) -> None:
    sealing_now = book.connection.transaction()
    await sealing_now.start()
    await book.connection.execute("SELECT FROM ledger_head FOR UPDATE")
    new = ring(NEW, previous=SECRET)
    rotating = asyncio.create_task(rotate(book.ground.postgres, new, lost=False), name="rotate")
    done, _ = await asyncio.wait([rotating], timeout=0.3)
    await sealing_now.rollback()

    assert not done
    assert await rotating
    assert (await books.ends(book.ground.postgres)).head.hmac_key == new.hmac_key


async def test_a_purchase_whose_drop_is_gone_does_not_stop_what_comes_after_it(
    facts: Facts,
) -> None:
    drop_id = await facts.drop()
    await facts.buy(drop_id, 1)
    await facts.connection.execute("DELETE FROM drops WHERE id = $1", drop_id)
    await facts.buy(await facts.drop(), 1)

    assert await seal(facts.ground.postgres, ring()) == 2
    assert (await verify(facts.ground.postgres, ring())).valid
