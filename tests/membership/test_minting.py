"""A receipt becomes one membership, whatever happens, and "sold out" is never said too early."""

from __future__ import annotations

import asyncio
from collections import Counter

import msgspec
import psutil
import pytest

from engine.infra.ids import new_id
from engine.infra.settings import Settings
from engine.membership import mint, openings, store
from engine.membership.models import Mint, Receipt
from engine.membership.receipts import digest
from engine.runtime import Ground
from engine.sale import reconcile
from engine.sale.models import Claim
from tests.membership.conftest import Club, Register
from tests.support.http import Reply
from tests.support.locks import stock_locked, waiting_claims
from tests.support.service import Service
from tests.support.shop import Shop
from tests.support.wait import wait_until

ABORTS = """
CREATE FUNCTION abort_half() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF random() < 0.5 THEN
        RAISE 'half of them' USING ERRCODE = '58030';
    END IF;
    RETURN NULL;
END
$$;
CREATE TRIGGER abort_half AFTER INSERT ON memberships
    FOR EACH STATEMENT EXECUTE FUNCTION abort_half();
"""


async def test_a_receipt_becomes_a_membership_and_presented_again_the_same(
    club: Club, register: Register
) -> None:
    drop_id = await club.open(5)
    made = await club.minted("receipt-1", "ann")
    again = await club.mint("receipt-1", "ann")

    assert again.status == 200
    assert again.headers["idempotent-replayed"] == "true"
    assert again.json == {"status": "FULFILLED", "membership": made}
    assert (made["dropId"], made["tier"], made["year"]) == (drop_id, "genesis", "2025")
    assert 1 <= made["sequenceNum"] <= 5
    assert made["passSerial"] == f"vr-genesis-2025-{made['id']}"
    stock = await club.shop.stock(drop_id)
    assert (stock["availableStock"], stock["heldStock"], stock["soldStock"]) == (4, 0, 1)
    assert await register.states() == [("fulfilled", None, 1)]
    assert (
        await register.connection.fetchval("SELECT encode(hash, 'hex') FROM receipt_hashes")
        == "fea5396a7f4325c408b1b65b33a4d77ba5486ceba941804d8889a8546cfbab96"
    )


async def test_somebody_else_cannot_use_a_receipt_nor_its_transaction(club: Club) -> None:
    await club.open(5)
    made = await club.minted("receipt-1", "ann", original_transaction_id="tx-1")

    for receipt, transaction in (("receipt-1", None), ("receipt-1", "tx-1"), ("other", "tx-1")):
        reply = await club.mint(receipt, "bob", original_transaction_id=transaction)
        assert (reply.status, reply.error) == (409, "RECEIPT_USED")
        assert made["id"] not in reply.body.decode()


async def test_a_receipt_that_was_written_anew_for_the_same_transaction_mints_nothing_new(
    club: Club, register: Register
) -> None:
    await club.open(5)
    made = await club.minted("first text", "ann", original_transaction_id="tx-1")

    for text, transaction in (("second text", "tx-1"), ("second text", None), ("third", "tx-1")):
        again = await club.mint(text, "ann", original_transaction_id=transaction)
        assert (again.status, again.json["membership"]["id"]) == (200, made["id"])
    other = await club.mint("first text", "ann", original_transaction_id="tx-2")
    assert (other.status, other.error) == (422, "INVALID_RECEIPT")
    assert await register.count("memberships") == 1


async def test_a_text_whose_transaction_becomes_known_is_known_by_it(
    club: Club, register: Register
) -> None:
    await club.open(5)
    made = await club.minted("text", "ann")
    assert (await club.mint("text", "ann", original_transaction_id="tx-1")).status == 200
    again = await club.mint("another text", "ann", original_transaction_id="tx-1")
    assert (again.status, again.json["membership"]["id"]) == (200, made["id"])
    assert await register.count("memberships") == 1


@pytest.mark.parametrize(
    ("body", "status", "error"),
    [
        ({}, 422, "INVALID_RECEIPT"),
        ({"user_id": "ann"}, 422, "INVALID_RECEIPT"),
        ({"receipt_data": "", "user_id": "ann"}, 422, "INVALID_RECEIPT"),
        ({"receipt_data": "r"}, 422, "INVALID_RECEIPT"),
        ({"receipt_data": 5, "user_id": "ann"}, 422, "INVALID_RECEIPT"),
        ({"receipt_data": "r", "receiptData": "r", "user_id": "ann"}, 422, "INVALID_RECEIPT"),
        ({"receipt_data": "r", "user_id": "ann", "dropId": "x"}, 422, "INVALID_RECEIPT"),
        (b"{", 422, "INVALID_RECEIPT"),
        ({"receipt_data": "r", "user_id": "ann", "dropId": 999}, 404, "NOT_FOUND"),
        ({"receipt_data": "r", "user_id": "ann"}, 404, "NOT_FOUND"),  # no tier is open
    ],
)
async def test_what_is_no_receipt_is_refused_and_leaves_nothing(
    shop: Shop, register: Register, body: object, status: int, error: str
) -> None:
    reply = await shop.send("POST", "/mint", body)
    assert (reply.status, reply.error) == (status, error)
    assert await register.count("receipts") == 0


async def test_numbers_of_a_tier_are_only_for_receipts(club: Club) -> None:
    drop_id = await club.open(2)
    for key in (None, "key"):
        held = await club.shop.reserve(drop_id, "ann", key)
        assert (held.status, held.error) == (409, "MINTED_ONLY")
    plain = await club.shop.open_drop(1)
    reply = await club.mint("receipt-1", "ann", dropId=plain)
    assert (reply.status, reply.error) == (404, "NOT_FOUND")
    assert {(await club.minted(f"r{n}", "ann"))["sequenceNum"] for n in range(2)} == {1, 2}


async def test_numbers_come_in_an_order_that_nobody_knows(club: Club) -> None:
    await club.open(40)
    numbers = [(await club.minted(f"r{n}", "ann"))["sequenceNum"] for n in range(40)]
    assert sorted(numbers) == list(range(1, 41)) != numbers


async def test_a_receipt_that_failed_by_a_sell_out_mints_once_when_numbers_are_added(
    service: Service, register: Register
) -> None:
    club = Club(service)
    drop_id = await club.open(1)
    await club.minted("first", "ann")
    refused = await club.mint("second", "bob")
    assert (refused.status, refused.error) == (410, "SOLD_OUT")
    assert refused.json["message"] == "No allocations remaining for this drop"
    assert (await register.states())[1] == ("failed", "SOLD_OUT", 1)

    assert (await service.change(drop_id, addStock=3)).status == 200
    replies = await asyncio.gather(*(club.mint("second", "bob") for _ in range(50)))

    assert Counter(reply.status for reply in replies) == {201: 1, 200: 49}
    assert len({reply.json["membership"]["id"] for reply in replies}) == 1
    assert await register.count("memberships") == 2
    assert (await service.stock(drop_id))["availableStock"] == 2


@pytest.mark.slow
async def test_one_receipt_100_at_once_and_a_worker_killed_among_them_is_one_membership(
    service: Service, settings: Settings, register: Register
) -> None:
    """The worker whose mint waits for a lock is killed; then everybody asks again."""
    club = Club(service)
    drop_id = await club.open(10)
    async with stock_locked(settings.database_url, drop_id) as database:
        asking = asyncio.gather(
            *(club.mint("receipt-1", "ann", original_transaction_id="tx") for _ in range(100)),
            return_exceptions=True,
        )

        async def one_waits() -> bool:
            return await waiting_claims(database, "mint_units") >= 1

        await wait_until(one_waits, "a mint is under way", pause=0.002)
        port = await database.fetchval(
            "SELECT client_port FROM pg_stat_activity"
            " WHERE wait_event_type = 'Lock' AND query LIKE '%FROM mint_units(%'"
        )
        [minting] = [worker for worker in service.workers if port in _ports(worker.pid)]
        await service.kill(minting)
    first = [reply for reply in await asking if isinstance(reply, Reply)]
    await service.crowd.close()  # its idle connections led to the one that is gone

    async def all_know() -> set[str] | None:
        replies = await asyncio.gather(*(club.mint("receipt-1", "ann") for _ in range(100)))
        if {reply.status for reply in replies} <= {200, 201}:
            return {reply.json["membership"]["id"] for reply in replies}
        return None

    known = await wait_until(all_know, "every retry has the membership", seconds=15)
    assert known is not None
    assert len(known) == 1
    told = {reply.json["membership"]["id"] for reply in first if reply.status in (200, 201)}
    assert told <= known
    assert await register.count("memberships") == 1
    assert (await service.stock(drop_id))["soldStock"] == 1
    await wait_until(lambda: service.settled(drop_id), "nothing is stranded", seconds=8)


@pytest.mark.slow
async def test_ten_numbers_for_1000_callers_while_half_of_the_mints_are_undone(
    service: Service, register: Register
) -> None:
    club = Club(service)
    drop_id = await club.open(10)
    await register.connection.execute(ABORTS)
    sold_when_refused: list[int] = []

    async def calls(n: int) -> Reply:
        """Until there is a definite answer."""
        while True:
            reply = await club.mint(f"receipt-{n}", f"user-{n}")
            if reply.status in (201, 200, 410):
                if reply.status == 410 and not sold_when_refused:
                    sold_when_refused.append(0)
                    sold_when_refused[0] = await register.count("memberships")
                return reply
            assert (reply.status, reply.error) in {
                (500, "RETRYABLE"),
                (503, "OUTCOME_UNKNOWN"),
            }, reply.body

    replies = await asyncio.gather(*(calls(n) for n in range(1_000)))

    counted = Counter(reply.status for reply in replies)
    assert counted[201] + counted[200] == 10
    assert counted[410] == 990
    assert {reply.error for reply in replies if reply.status == 410} == {"SOLD_OUT"}
    assert sold_when_refused == [10], "a no while numbers were left"
    assert await register.count("memberships") == 10
    assert await register.count("receipts", "state = 'fulfilled'") == 10
    assert len({r.json["membership"]["sequenceNum"] for r in replies if r.status < 300}) == 10
    assert (await service.stock(drop_id))["availableStock"] == 0


async def test_what_a_dead_worker_left_pending_is_given_up_and_a_late_mint_takes_nothing(
    ground: Ground, club: Club, register: Register
) -> None:
    await club.open(3)
    [tier] = await store.find_tiers(ground.postgres)
    wish = Mint(Receipt(digest("r")), None, "ann", tier.drop_id)
    [left] = await store.present_receipts(ground.postgres, [(new_id(), wish)])
    assert await mint.give_up_stuck(ground.postgres) == 0, "somebody may be at work on it"
    await register.connection.execute("UPDATE receipts SET changed_at = now() - interval '1 hour'")
    assert await mint.give_up_stuck(ground.postgres) == 1
    assert await register.states() == [("failed", "RETRYABLE", 1)]

    claim = Claim(left.id, 1 << 60, new_id(), "ann", 1)
    async with ground.postgres.session() as session:
        claimed = await store.mint_units(session, tier.drop_id, ground.postgres.epoch, [claim])
    assert claimed.words == ["given_up"]
    assert await register.count("memberships") == 0
    assert (await club.mint("r", "ann")).status == 201
    assert await register.states() == [("fulfilled", None, 2)]


async def test_a_membership_can_be_shown_listed_and_revoked(club: Club) -> None:
    await club.open(3)
    made = await club.minted("receipt-1", "ann")
    shown = await club.shop.send("GET", f"/memberships/{made['id']}?userId=ann")
    assert shown.json == made
    strange = await club.shop.send("GET", f"/memberships/{made['id']}?userId=bob")
    assert (strange.status, strange.error) == (401, "UNAUTHORIZED")
    listed = await club.shop.send("GET", f"/memberships?number={made['sequenceNum']}&revoked=false")
    assert listed.json["data"] == [made]
    for asked, found in (("tier=genesis&year=2025", [made]), ("tier=black&userId=ann", [])):
        named = await club.shop.send("GET", f"/memberships?{asked}&page=1")
        assert (named.json["data"], named.json["meta"]["totalItems"]) == (found, len(found))
    for wrong in ("year=a%00b", "tier="):
        assert (await club.shop.send("GET", f"/memberships?{wrong}")).status == 400

    for _ in range(2):
        ended = await club.shop.send(
            "POST", f"/memberships/{made['id']}/revoke", {"reason": "charged back"}
        )
        assert (ended.status, ended.json["revokeReason"]) == (200, "charged back")
    mine = (await club.shop.send("GET", "/memberships/mine?userId=ann")).json["data"]
    assert mine == [ended.json]
    again = await club.mint("receipt-1", "ann")
    assert (again.status, again.json["membership"]["revokedAt"]) == (200, mine[0]["revokedAt"])


async def test_a_refund_ends_the_membership_and_its_number_may_be_anothers(
    club: Club, register: Register
) -> None:
    drop_id = await club.open(1)
    made = await club.minted("receipt-1", "ann")
    refund = await club.shop.send(
        "POST", f"/purchases/{made['id']}/refund", {"restock": True, "reason": "mistake"}
    )
    assert refund.status == 200, refund.body
    other = await club.minted("receipt-2", "bob")

    assert other["sequenceNum"] == made["sequenceNum"] == 1
    assert await register.count("memberships", "revoked_at IS NOT NULL") == 1
    assert (await club.shop.stock(drop_id))["soldStock"] == 1


async def test_what_is_minted_is_in_the_ledger(
    club: Club, register: Register, ground: Ground
) -> None:
    await club.open(2)
    made = await club.minted("receipt-1", "ann")
    rows = await register.connection.fetch("SELECT action, subjects FROM records")
    assert [(row["action"], [str(id) for id in row["subjects"]]) for row in rows] == [
        ("MINTED", [made["id"]])
    ]


async def test_a_tier_is_opened_once_a_year_and_from_the_settings(
    club: Club, ground: Ground
) -> None:
    drop_id = await club.open(3)
    body = {"tier": "genesis", "year": "2025", "capacity": 3}
    twice = await club.shop.send("POST", "/memberships/drops", body)
    assert (twice.status, twice.error) == (409, "ALREADY_RESOLVED")
    wanted = msgspec.structs.replace(ground.settings, drop_year="2026", drop_capacity=7)
    opened = await openings.open_configured(ground.postgres, wanted)
    assert opened is not None
    assert await openings.open_configured(ground.postgres, wanted) is None
    await reconcile.tell(ground.postgres, ground.bouncer, [opened])
    tiers = (await club.shop.send("GET", "/memberships/tiers")).json["data"]
    assert [(tier["dropId"], tier["totalStock"]) for tier in tiers] == [(opened, 7), (drop_id, 3)]


def _ports(pid: int) -> set[int]:
    """From where a process calls."""
    return {each.laddr.port for each in psutil.Process(pid).net_connections("tcp")}
