"""What a provider says becomes a purchase or a refund that is due, whatever it says and when."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from typing import Any

import asyncpg
import msgspec
import pytest

from engine.infra.settings import Settings
from engine.runtime import Ground
from engine.sale import expire, payment
from engine.sale import insist as patience
from loadtest.chaos.pgproxy import PgProxy
from tests.support.http import Reply
from tests.support.keeping import Keeping
from tests.support.locks import stock_locked
from tests.support.provider import Provider, signed
from tests.support.shop import Shop
from tests.support.wait import wait_until

GONE = "0190a000-0000-7000-8000-000000000000"


async def _hold(shop: Shop, drop_id: int, buyer: str = "ann") -> dict[str, Any]:
    reply = await shop.reserve(drop_id, buyer)
    assert reply.status == 201, reply.body
    hold: dict[str, Any] = reply.json
    return hold


async def _owed(shop: Shop) -> list[tuple[str, str, bool]]:
    rows = (await shop.send("GET", "/refunds?limit=100")).json["data"]
    return [(row["reference"], row["reason"], row["verified"]) for row in rows]


async def _runs_out(shop: Shop, ground: Ground, hold: dict[str, Any], *, swept: bool) -> None:
    """Wait for the deadline; then sweep, or leave it as it is."""

    async def is_over() -> bool:
        shown = (await shop.send("GET", f"/reservations/{hold['id']}")).json
        return bool(shown["status"] == "expired")

    await wait_until(is_over, "the deadline has passed")
    if swept:
        assert await expire.expire_due(ground.postgres, ground.bouncer) == 1


def _told(reply: Reply) -> tuple[str | None, str | None]:
    assert reply.status == 200, reply.body
    return reply.json["outcome"], reply.json["reason"]


async def test_a_hold_past_its_deadline_that_nobody_swept_is_sold_on_the_providers_word(
    shop: Shop, provider: Provider, ground: Ground
) -> None:
    drop_id = await shop.open_drop(1, holdSeconds=1)
    hold = await _hold(shop, drop_id)
    await _runs_out(shop, ground, hold, swept=False)

    assert (await shop.confirm(hold["id"], "ann")).error == "HOLD_EXPIRED"
    assert _told(await provider.says("succeeded", hold)) == ("purchased", None)
    assert (await shop.send("GET", f"/reservations/{hold['id']}")).json["units"] == hold["units"]
    assert await shop.settled(drop_id)


async def test_a_released_hold_that_was_paid_after_all_gets_a_unit(
    shop: Shop, provider: Provider
) -> None:
    drop_id = await shop.open_drop(1)
    hold = await _hold(shop, drop_id)
    await shop.release(hold["id"], "ann")

    assert _told(await provider.says("succeeded", hold)) == ("purchased", None)
    assert (await shop.stock(drop_id))["soldStock"] == 1
    assert await shop.settled(drop_id)


@pytest.mark.parametrize("obstacle", ["sold_out", "limit", "paused"])
async def test_who_pays_late_and_may_have_no_unit_is_owed_the_money(
    shop: Shop, provider: Provider, ground: Ground, obstacle: str
) -> None:
    drop_id = await shop.open_drop(2, holdSeconds=1, maxPerBuyer=1)
    hold = await _hold(shop, drop_id)
    await _runs_out(shop, ground, hold, swept=True)
    if obstacle == "limit":
        await _hold(shop, drop_id, "ann")
    if obstacle == "sold_out":
        await asyncio.gather(_hold(shop, drop_id, "bob"), _hold(shop, drop_id, "cid"))
    if obstacle == "paused":
        await shop.send("POST", f"/drops/{drop_id}/pause")

    assert _told(await provider.says("succeeded", hold)) == ("refund_due", obstacle)
    assert await _owed(shop) == [("pay_1", obstacle, True)]
    assert (await shop.stock(drop_id))["soldStock"] == 0
    assert (await shop.audit(drop_id))["clean"]


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ({"amount": "119.99"}, "wrong_amount"),
        ({"currency": "EUR"}, "wrong_amount"),
        ({"reservationId": GONE}, "unknown_reservation"),
        ({"reservationId": "what is this"}, "unknown_reservation"),
    ],
)
async def test_money_that_fits_no_hold_is_owed_back_and_the_hold_can_still_be_paid(
    shop: Shop, provider: Provider, words: dict[str, str], reason: str
) -> None:
    drop_id = await shop.open_drop(1)
    hold = await _hold(shop, drop_id)

    odd = [await provider.says("succeeded", hold, "odd", **words) for _ in range(2)]

    assert [_told(reply) for reply in odd] == [("refund_due", reason)] * 2
    assert await _owed(shop) == [("odd", reason, True)]
    assert _told(await provider.says("succeeded", hold, "good")) == ("purchased", None)


@pytest.mark.parametrize(
    ("said", "outcome", "status"),
    [
        (["pending", "succeeded"], "purchased", "succeeded"),
        (["succeeded", "pending"], "purchased", "succeeded"),
        (["succeeded", "failed"], "purchased", "succeeded"),
        (["failed", "succeeded"], "purchased", "succeeded"),
        (["failed", "failed"], None, "failed"),
        (["refunded", "succeeded"], None, "refunded"),
        (["succeeded", "refunded"], "purchased", "refunded"),
        (["succeeded"] * 5, "purchased", "succeeded"),
    ],
)
async def test_the_later_word_counts_in_whatever_order_words_arrive(
    shop: Shop, provider: Provider, said: list[str], outcome: str | None, status: str
) -> None:
    drop_id = await shop.open_drop(1)
    hold = await _hold(shop, drop_id)

    replies = [await provider.says(word, hold) for word in said]

    assert (replies[-1].json["outcome"], replies[-1].json["status"]) == (outcome, status)
    sold = 1 if outcome == "purchased" else 0
    assert (await shop.stock(drop_id))["soldStock"] == sold
    assert await _owed(shop) == []


@pytest.mark.parametrize("copies", [1, 3])
async def test_two_payments_for_one_hold_make_one_purchase_and_one_refund_due(
    shop: Shop, provider: Provider, copies: int
) -> None:
    drop_id = await shop.open_drop(5)
    hold = await _hold(shop, drop_id)

    replies = await asyncio.gather(
        *(provider.says("succeeded", hold, ref) for ref in ("pay_1", "pay_2") * copies)
    )

    told = {reply.json["reference"]: _told(reply) for reply in replies}
    assert Counter(told.values()) == {("purchased", None): 1, ("refund_due", "already_paid"): 1}
    assert len(await _owed(shop)) == 1
    assert (await shop.stock(drop_id))["soldStock"] == 1


async def test_a_confirm_that_names_no_payment_is_what_the_first_payment_was_for(
    shop: Shop, provider: Provider
) -> None:
    hold = await _hold(shop, await shop.open_drop(1))
    bought = (await shop.confirm(hold["id"], "ann")).json

    first, second = [await provider.says("succeeded", hold, ref) for ref in ("pay_1", "pay_2")]

    assert (_told(first), first.json["purchaseId"]) == (("purchased", None), bought["id"])
    assert _told(second) == ("refund_due", "already_paid")
    shown = (await shop.send("GET", f"/purchases/{bought['id']}")).json
    assert shown["paymentReference"] == "pay_1"


async def test_a_confirm_with_another_payment_is_owed_it_and_the_provider_decides(
    shop: Shop, provider: Provider
) -> None:
    hold = await _hold(shop, await shop.open_drop(1))
    await provider.says("succeeded", hold, "pay_1")

    same = await shop.confirm(hold["id"], "ann", paymentReference="pay_1")
    others = [await shop.confirm(hold["id"], "ann", paymentReference="pay_2") for _ in range(2)]
    stranger = await shop.confirm(hold["id"], "bob", paymentReference="pay_3")

    assert same.status == 200
    assert {(each.status, each.error) for each in others} == {(409, "ALREADY_RESOLVED")}
    assert stranger.error == "NOT_YOUR_RESERVATION"
    assert await _owed(shop) == [("pay_2", "already_paid", False)]
    assert _told(await provider.says("succeeded", hold, "pay_2")) == ("refund_due", "already_paid")
    assert await _owed(shop) == [("pay_2", "already_paid", True)]


async def test_nobody_can_make_us_owe_more_than_ten_unverified_payments_a_hold(
    shop: Shop,
) -> None:
    hold = await _hold(shop, await shop.open_drop(1))
    await shop.confirm(hold["id"], "ann", paymentReference="pay_0")

    replies = [
        await shop.confirm(hold["id"], "ann", paymentReference=f"fake_{n}") for n in range(15)
    ]

    assert {reply.status for reply in replies} == {409}
    assert len(await _owed(shop)) == 10


async def test_what_a_client_claimed_and_turns_out_to_be_its_own_payment_is_not_owed(
    shop: Shop, provider: Provider
) -> None:
    hold = await _hold(shop, await shop.open_drop(1))
    await shop.confirm(hold["id"], "ann")
    assert (await shop.confirm(hold["id"], "ann", paymentReference="pay_1")).status == 409
    assert await _owed(shop) == [("pay_1", "already_paid", False)]

    assert _told(await provider.says("succeeded", hold, "pay_1")) == ("purchased", None)
    assert await _owed(shop) == []


async def test_units_in_somebodys_hands_leave_a_payment_undecided_until_a_keeper_decides(
    shop: Shop, provider: Provider, ground: Ground, settings: Settings
) -> None:
    drop_id = await shop.open_drop(1, holdSeconds=1)
    hold = await _hold(shop, drop_id)
    await _runs_out(shop, ground, hold, swept=True)
    database = await asyncpg.connect(settings.database_url)
    async with database.transaction():  # a claim that took the unit and did not end yet
        await database.execute("SELECT FROM units WHERE drop_id = $1 FOR UPDATE", drop_id)
        undecided = await provider.says("succeeded", hold)
        assert _told(undecided) == (None, None)
        assert await _owed(shop) == []
    await database.close()

    async def is_decided() -> bool:
        shown = (await shop.send("GET", f"/reservations/{hold['id']}")).json
        return bool(shown["payments"][0]["outcome"] == "purchased")

    async with Keeping(settings):
        await wait_until(is_decided, "a keeper has decided")
    assert (await shop.stock(drop_id))["soldStock"] == 1


async def test_no_payment_waits_for_a_keeper_that_a_worker_decided(
    shop: Shop, provider: Provider, ground: Ground
) -> None:
    hold = await _hold(shop, await shop.open_drop(1))
    await provider.says("succeeded", hold)

    assert await payment.settle_undecided(ground.postgres, ground.bouncer) == 0


async def test_a_payment_whose_drop_is_stuck_does_not_keep_the_others_from_a_keeper(
    shop: Shop, ground: Ground, settings: Settings
) -> None:
    stuck, fine = [await _hold(shop, await shop.open_drop(1)) for _ in range(2)]
    database = await asyncpg.connect(settings.database_url)
    for hold in (stuck, fine):  # money that came to a worker which died
        await database.execute(
            "INSERT INTO payments (reference, reservation_id, amount_cents, currency, status,"
            " changed_at) VALUES ($1::uuid::text, $1, 12000, 'USD', 'succeeded',"
            " now() - interval '9 s')",
            hold["id"],
        )
    await database.close()
    async with stock_locked(settings.database_url, stuck["dropId"]):
        assert await payment.settle_undecided(ground.postgres, ground.bouncer) == 2
    assert (await shop.send("GET", f"/reservations/{fine['id']}")).json["status"] == "purchased"
    assert (await shop.send("GET", f"/reservations/{stuck['id']}")).json["status"] == "active"
    assert await payment.settle_undecided(ground.postgres, ground.bouncer) == 1
    assert (await shop.send("GET", f"/reservations/{stuck['id']}")).json["status"] == "purchased"


async def test_a_word_that_could_not_be_sent_in_time_costs_nobody_else_his_answer(
    shop: Shop, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its seat was told by the deadline before its turn at the database came."""
    gone, fine = [await _hold(shop, await shop.open_drop(1)) for _ in range(2)]
    insist = patience.insist

    async def late(postgres: Any, seats: Any, send: Any) -> Any:
        for seat in seats:
            if seat.wish.reservation_id == gone["id"]:
                seat.fail(seat.fault())
        return await insist(postgres, seats, send)

    monkeypatch.setattr(payment, "insist", late)
    told = await asyncio.gather(
        provider.says("succeeded", gone, "gone"), provider.says("succeeded", fine, "fine")
    )

    assert (told[0].status, told[0].error) == (503, "OUTCOME_UNKNOWN")
    assert _told(told[1]) == ("purchased", None)


@pytest.mark.slow
async def test_100_payments_against_the_sweeper_leave_nobody_without_a_unit(
    shop: Shop, provider: Provider, ground: Ground
) -> None:
    """Each hold is due when its payment arrives: sold as it is, or swept and sold anew."""
    drop_id = await shop.open_drop(100, holdSeconds=1)
    holds = await asyncio.gather(*(_hold(shop, drop_id, f"b{n}") for n in range(100)))
    await _runs_out(shop, ground, holds[-1], swept=False)

    async def sweep() -> int:
        return sum([await expire.expire_due(ground.postgres, ground.bouncer) for _ in range(5)])

    *replies, _ = await asyncio.gather(
        *(provider.says("succeeded", hold, f"pay_{n}") for n, hold in enumerate(holds)), sweep()
    )

    outcomes = Counter(_told(reply) for reply in replies if isinstance(reply, Reply))
    assert outcomes == {("purchased", None): 100}
    assert await shop.settled(drop_id)


@pytest.mark.parametrize("fate", ["lose", "drop"])
async def test_a_statement_whose_reply_is_lost_is_run_again_with_the_effect_of_once(
    settings: Settings, fate: Any
) -> None:
    async with (
        PgProxy.open(settings.database_url) as line,
        Shop.open(msgspec.structs.replace(settings, database_url=line.url)) as far,
    ):
        drop_id = await far.open_drop(2)
        hold = await _hold(far, drop_id)
        trap = line.arm("FROM settle_payments(", fate)

        told = await Provider(far).says("succeeded", hold)

        assert trap.caught.is_set()
        assert _told(told) == ("purchased", None)
        assert (await far.stock(drop_id))["soldStock"] == 1
        assert (await far.audit(drop_id))["clean"]


async def test_a_provider_is_told_to_come_again_while_postgres_is_away(
    settings: Settings,
) -> None:
    hurried = msgspec.structs.replace(settings, request_deadline_ms=1_000)
    async with PgProxy.open(settings.database_url) as line:
        through = msgspec.structs.replace(hurried, database_url=line.url)
        async with Shop.open(through) as far:
            hold = await _hold(far, await far.open_drop(1))
            line.refusing = True
            await line.cut()
            away = await Provider(far).says("succeeded", hold)
            line.refusing = False
            back = await Provider(far).says("succeeded", hold)

    assert (away.status, away.error) == (503, "OUTCOME_UNKNOWN")
    assert _told(back) == ("purchased", None)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b'{"reference": "p"}',
        b'{"reference":"p","reservationId":"x","status":"paid","amount":1,"currency":"USD"}',
        b'{"reference":"p","reservationId":"x","status":"failed","amount":-1,"currency":"USD"}',
        b'{"reference":"p","reservationId":"x","status":"failed","amount":1,"currency":"dollars"}',
        b'{"reference":"","reservationId":"x","status":"failed","amount":1,"currency":"USD"}',
        b'{"reference":"p","status":"failed","amount":1,"currency":"USD"}',
    ],
)
async def test_a_signed_word_that_cannot_be_understood_is_a_400_and_leaves_nothing(
    shop: Shop, body: bytes
) -> None:
    reply = await shop.send("POST", "/payments/callback", body, signed(body))

    assert (reply.status, reply.error) == (400, "VALIDATION_ERROR")
    assert await _owed(shop) == []


async def test_a_buyers_own_confirm_can_be_turned_off(settings: Settings) -> None:
    from engine.identity import tokens

    secret = "a secret of the payments' tests, for tokens"
    closed = msgspec.structs.replace(
        settings, auth="required", jwt_secret=secret, hmac_secret=secret, buyers_confirm=False
    )
    async with Shop.open(closed) as shop:
        admin = {"authorization": f"Bearer {tokens.create(secret, 'op', 60, 'admin')}"}
        ann = {"authorization": f"Bearer {tokens.create(secret, 'ann', 60)}"}
        terms = {"name": "Aurora", "price": "120.00", "totalStock": 1}
        drop_id = (await shop.send("POST", "/drops", terms, admin)).json["id"]
        hold = (await shop.send("POST", "/reservations", {"dropId": drop_id}, ann)).json

        own = await shop.send("POST", "/purchases", {"reservationId": hold["id"]}, ann)
        paid = await Provider(shop).says("succeeded", hold)

    assert (own.status, own.error) == (403, "FORBIDDEN")
    assert json.loads(own.body)["message"]
    assert _told(paid) == ("purchased", None)
