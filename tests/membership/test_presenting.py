"""Who presents a receipt changes nothing of another's, and hears of it only what is true."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import msgspec
import pytest

from engine.infra.combiner import Crew
from engine.infra.errors import IdempotencyMismatch, InProgress, Problem, Retryable
from engine.infra.ids import new_id
from engine.infra.settings import Settings
from engine.membership import receipts, store, storekit
from engine.membership.errors import MintFailed
from engine.membership.mint import Minting
from engine.membership.models import Mint, Receipt
from engine.membership.receipts import Verifier, digest
from engine.runtime import Ground
from tests.membership.conftest import Club, Register
from tests.support.locks import stock_locked
from tests.support.shop import Shop

SECRET = "a-secret-of-the-tests-of-receipts-0123"


def _wish(text: str, buyer: str = "ann", transaction: str | None = None) -> tuple[str, Mint]:
    return new_id(), Mint(Receipt(digest(text)), transaction, buyer, 1)


async def _failed(ground: Ground, *texts: str) -> None:
    """Texts that ann presented, and that were refused."""
    for text in texts:
        [known] = await store.present_receipts(ground.postgres, [_wish(text)])
        await store.fail_receipts(ground.postgres, [(known.id, known.attempt, "ENDED")])


async def test_who_is_refused_anothers_text_names_no_transaction_for_it(club: Club) -> None:
    await club.open(3)
    made = await club.minted("text", "ann")
    stolen = await club.mint("text", "bob", original_transaction_id="tx-1")
    assert (stolen.status, stolen.error) == (409, "RECEIPT_USED")

    await club.minted("another", "carol", original_transaction_id="tx-1")
    assert (await club.mint("text", "ann")).json["membership"]["id"] == made["id"]


async def test_a_text_that_failed_stays_whose_it_was(club: Club, register: Register) -> None:
    drop_id = await club.open(1)
    await club.minted("bobs", "bob", original_transaction_id="tx-1")
    assert (await club.mint("anns", "ann")).status == 410
    stolen = await club.mint("anns", "bob", original_transaction_id="tx-1")
    assert (stolen.status, stolen.error) == (409, "RECEIPT_USED")

    assert (await club.shop.send("PATCH", f"/drops/{drop_id}", {"addStock": 1})).status == 200
    await club.minted("anns", "ann")
    assert await register.states() == [("fulfilled", None, 1), ("fulfilled", None, 2)]


async def test_two_texts_of_one_transaction_in_one_batch_are_one_receipt(ground: Ground) -> None:
    await _failed(ground, "one", "two")
    batch = [_wish(text, transaction="tx-1") for text in ("one", "two")]
    told = await store.present_receipts(ground.postgres, batch)

    assert {each.word for each in told} == {"pending"}
    assert len({each.id for each in told}) == 1


@pytest.mark.parametrize("order", [1, -1])
async def test_a_stranger_in_the_same_batch_holds_up_nobody(
    ground: Ground, register: Register, order: int
) -> None:
    await _failed(ground, "text")
    batch = [_wish("text", "bob"), _wish("text", "ann"), _wish("text", "carol")][::order]
    told = await store.present_receipts(ground.postgres, batch)

    assert [each.word for each in told] == ["used", "pending", "used"]
    assert await register.states() == [("pending", None, 2)]


async def test_what_is_refused_for_another_transaction_does_not_wait_for_a_mint(
    ground: Ground, register: Register
) -> None:
    await _failed(ground, "text")
    for transaction, word in (("tx-1", "pending"), ("tx-2", "other_transaction")):
        wish = _wish("text", transaction=transaction)
        [told] = await store.present_receipts(ground.postgres, [wish])
        assert told.word == word
        await store.fail_receipts(ground.postgres, [(told.id, 2, "ENDED")])
    assert await register.states() == [("failed", "ENDED", 2)]


async def test_a_receipt_is_looked_up_and_not_searched_for_among_those_that_failed(
    register: Register,
) -> None:
    """Plans are kept from when there were few, so they must be right for many."""
    connection = register.connection
    present = (
        "SELECT * FROM present_receipts(ARRAY[gen_random_uuid()], ARRAY[sha256($1)],"
        " ARRAY[$2], ARRAY['ann'], ARRAY[1::bigint])"
    )
    seen = (
        "SELECT sum(seq_tup_read + idx_tup_fetch)::bigint FROM pg_stat_xact_user_tables"
        " WHERE relname IN ('receipts', 'receipt_hashes')"
    )
    for text in (b"one", b"two", b"one"):
        await connection.fetch(present, text, "tx-1")
    await connection.execute(
        "INSERT INTO receipts (id, drop_id, buyer, state, error)"
        " SELECT gen_random_uuid(), 1, 'bob', 'failed', 'SOLD_OUT' FROM generate_series(1, 5000)"
    )
    async with connection.transaction():
        for text, transaction in ((b"two", "tx-1"), (b"three", "tx-1"), (b"four", None)):
            for _ in range(2):
                await connection.fetch(present, text, transaction)
        assert await connection.fetchval(seen) < 200


async def test_who_has_a_number_is_not_told_that_nothing_was_taken(
    club: Club, register: Register
) -> None:
    await club.open(1)
    await club.minted("receipt-1", "ann")
    await register.connection.execute("ALTER TABLE membership_drops RENAME TO gone")
    reply = await club.mint("receipt-1", "ann")
    await register.connection.execute("ALTER TABLE gone RENAME TO membership_drops")
    assert (reply.status, reply.error) == (503, "OUTCOME_UNKNOWN")
    assert (await club.mint("receipt-1", "ann")).status == 200


@pytest.mark.parametrize("problem", [InProgress, IdempotencyMismatch])
async def test_a_copy_elsewhere_is_our_matter_and_not_the_members(
    club: Club,
    ground: Ground,
    register: Register,
    monkeypatch: pytest.MonkeyPatch,
    problem: type[Problem],
) -> None:
    drop_id = await club.open(1)
    minting = Minting(ground.postgres, ground.bouncer, Crew())

    async def refuse(wish: object) -> None:
        raise problem

    monkeypatch.setattr(minting._reserving, "reserve", refuse)
    with pytest.raises(MintFailed):
        await minting.mint(Mint(Receipt(digest("r")), None, "ann", drop_id))
    assert await register.states() == [("failed", "RETRYABLE", 1)]


async def test_who_names_a_transaction_without_a_receipt_learns_nothing_of_it(
    settings: Settings,
) -> None:
    checked = msgspec.structs.replace(settings, receipt_verifier="hmac", receipt_secret=SECRET)
    async with Shop.open(checked) as shop:
        club = Club(shop)
        await club.open(2)
        await club.minted(receipts.create(checked, "tx-1"), "ann")
        for user in ("ann", "bob"):
            reply = await club.mint("rubbish", user, original_transaction_id="tx-1")
            assert (reply.status, reply.error) == (422, "INVALID_RECEIPT")


async def test_a_crowd_of_receipts_waits_in_a_line_with_an_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    open_again = threading.Event()

    class Slow:
        def claims(self, text: str) -> dict[str, Any]:
            open_again.wait(10)
            return {"bundleId": "app", "environment": "Production", "originalTransactionId": text}

    monkeypatch.setattr(storekit.StoreKit, "of", lambda path, clock: Slow())
    verifier = Verifier.of(Settings(receipt_verifier="jws", receipt_bundle_id="app"))
    monkeypatch.setattr(receipts, "WAITING_MAX", 5)
    asking = [asyncio.create_task(verifier.verify(f"{n}")) for n in range(9)]
    await asyncio.sleep(0)
    open_again.set()
    told = await asyncio.gather(*asking, return_exceptions=True)

    assert [type(each) for each in told] == [Receipt] * 7 + [Retryable] * 2
    assert (await verifier.verify("later")).transaction_id == "later"


@pytest.mark.parametrize("number", ["0", "1000001", "0000000012147483648", "1" * 5_000, "²"])
async def test_a_number_that_can_be_none_is_refused(shop: Shop, number: str) -> None:
    reply = await shop.send("GET", f"/memberships?number={number}")
    assert (reply.status, reply.error) == (400, "VALIDATION_ERROR")


async def test_who_reserves_a_members_number_is_in_nobodys_way(
    shop: Shop, settings: Settings
) -> None:
    drop_id = await Club(shop).open(1)
    assert (await shop.reserve(drop_id, "ann")).error == "MINTED_ONLY"
    async with stock_locked(settings.database_url, drop_id):
        for key in (None, "key"):
            refused = await shop.reserve(drop_id, "ann", key)
            assert (refused.status, refused.error) == (409, "MINTED_ONLY")
