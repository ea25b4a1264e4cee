"""Stories for the crash point sweep: every operation, and every way that it can go.

A story is a generator in three parts: what is staged; what the armed process is asked (a keeper
finds its work itself); what must be so when everything has healed.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable
from typing import Any, Literal

import msgspec

from engine.sale.bouncer import ATTEMPTS_PER_EPOCH
from loadtest.chaos.pgproxy import PgProxy
from tests.support.cells import Cell
from tests.support.provider import signed
from tests.support.wait import wait_until

Acts = AsyncGenerator[None, None]


class Story(msgspec.Struct, frozen=True):
    """What is told of it, and who is armed."""

    name: str
    act: Callable[[Cell], Acts]
    command: Literal["serve", "keep"]
    whose: tuple[str, ...]  # beginnings of the points that are its own
    until: str  # what a rehearsal waits for, if a keeper is armed
    alone: bool  # without healthy keepers, in a database of its own, until the armed one ends


STORIES: dict[str, Story] = {}


def story(
    *whose: str, until: str = "", alone: bool = False
) -> Callable[[Callable[[Cell], Acts]], Callable[[Cell], Acts]]:
    """Enter a story; `whose` points it is about. A keeper is armed if there is an `until`."""

    def enter(act: Callable[[Cell], Acts]) -> Callable[[Cell], Acts]:
        command: Literal["serve", "keep"] = "keep" if until else "serve"
        STORIES[act.__name__] = Story(
            act.__name__, act, command, whose, until, alone or bool(until)
        )
        return act

    return enter


# ── reserving ────────────────────────────────────────────────────────────────────────────────────


@story("reserve/", "give-back/", "limits/")
async def reserving(cell: Cell) -> Acts:
    """One buyer, and then a batch of them."""
    await cell.open(10)
    yield
    await cell.reserve("ann", "one")
    await asyncio.gather(
        cell.reserve("bob", "two"), cell.reserve("cat"), cell.reserve("dan", "three", quantity=2)
    )
    yield


@story("reserve/")
async def too_late(cell: Cell) -> Acts:
    """Sold out: who has a key is looked up, and as the worker is new to Redis, stopped as well."""
    await cell.open(1)
    await cell.hold()
    yield
    await cell.reserve("ann", "one")
    await cell.reserve("bob")
    yield


@story("reserve/")
async def too_much(cell: Cell) -> Acts:
    """Over the limit."""
    await cell.open(5, maxPerBuyer=1)
    await cell.hold("ann")
    yield
    body = {"dropId": cell.drop_id, "userId": f"{cell.name}-ann"}
    await cell.ask("POST", "/reservations", body, "one")
    yield
    stock = await cell.shop.stock(cell.drop_id)
    assert stock["heldStock"] == 1, "one buyer has more than his share"


@story("reserve/")
async def suspected(cell: Cell) -> Acts:
    """The bouncer takes a buyer for one who has his share, and Postgres knows better."""
    await cell.open(5, maxPerBuyer=1)
    await cell.world.ground.bouncer.settle(cell.drop_id, uses=[(f"{cell.name}-ann", 1, True)])
    yield
    await cell.reserve("ann", "one")
    yield


@story("reserve/")
async def once_more(cell: Cell) -> Acts:
    """A winner who lost his answer."""
    await cell.open(5)
    key = {"idempotency-key": f"{cell.name}-one"}
    body = {"dropId": cell.drop_id, "userId": f"{cell.name}-ann", "quantity": 1}
    first = await cell.shop.send("POST", "/reservations", body, key)
    yield
    await cell.reserve("ann", "one")
    yield
    assert {told.reply.json["id"] for told in cell.asks[0].told if told.done} == {first.json["id"]}


@story("reserve/", alone=True)
async def forgotten(cell: Cell) -> Acts:
    """Redis knows nothing of the drop."""
    await cell.open(5)
    await cell.world.forget(cell.drop_id)
    yield
    await cell.reserve("ann", "one")
    yield


@story("reserve/")
async def without_redis(cell: Cell) -> Acts:
    """The armed worker alone cannot reach Redis."""
    await cell.open(3)
    cell.environment["REDIS_URL"] = "redis://127.0.0.1:1/0"
    yield
    await cell.reserve("bob", quantity=2)
    await cell.reserve("ann", "one")
    await cell.reserve("cat", "two")
    yield


@story("reserve/")
async def reply_lost(cell: Cell) -> Acts:
    """A claim commits, and its reply is lost: a tombstone asks what became of it."""
    await cell.open(5)
    async with PgProxy.open(cell.world.settings.database_url) as line:
        cell.environment["DATABASE_URL"] = line.url
        yield
        line.arm("FROM claim_units(", "lose")
        await cell.reserve("ann", "one")
        yield


@story("reserve/")
async def never_arrived(cell: Cell) -> Acts:
    """A claim does not arrive, and is tried again after its tombstone."""
    await cell.open(5)
    async with PgProxy.open(cell.world.settings.database_url) as line:
        cell.environment["DATABASE_URL"] = line.url
        yield
        line.arm("FROM claim_units(", "drop")
        await cell.reserve("ann", "one")
        yield


@story("reserve/bump_epoch", "reserve/limit_transactions", "reserve/database_identity")
async def connections_cut(cell: Cell) -> Acts:
    """A new connection is greeted in the middle of a sale."""
    await cell.open(5)
    async with PgProxy.open(cell.world.settings.database_url) as line:
        cell.environment["DATABASE_URL"] = line.url
        yield
        await line.cut()
        await cell.reserve("ann", "one")
        yield


# ── what becomes of holds ────────────────────────────────────────────────────────────────────────


async def _check_state(cell: Cell, hold: dict[str, Any], state: str) -> None:
    query = "SELECT state FROM reservations WHERE id = $1::uuid"
    found = [row["state"] for row in await cell.world.rows(query, hold["id"])]
    assert found == [state], f"the hold is {found}, not {state}"


@story("purchase/")
async def buying(cell: Cell) -> Acts:
    """A hold is bought."""
    await cell.open(5)
    hold = await cell.hold(quantity=2)
    yield
    body = {"reservationId": hold["id"], "userId": hold["userId"]}
    await cell.ask("POST", "/purchases", body, "buy")
    yield
    await _check_state(cell, hold, "purchased")


@story("purchase/")
async def paying_twice(cell: Cell) -> Acts:
    """A bought hold is paid again, with another payment: that one is owed back."""
    await cell.open(5)
    hold = await cell.hold()
    owner = {"reservationId": hold["id"], "userId": hold["userId"]}
    bought = await cell.shop.send("POST", "/purchases", owner | {"paymentReference": "first"})
    assert bought.status == 201, bought.body
    yield
    await cell.ask("POST", "/purchases", owner | {"paymentReference": cell.name}, "buy")
    yield
    query = "SELECT FROM refunds WHERE reservation_id = $1::uuid"
    assert len(await cell.world.rows(query, hold["id"])) == 1


@story("release/")
async def giving_back(cell: Cell) -> Acts:
    """A hold is given back, and so is one that was given back before."""
    await cell.open(5)
    first, second = await cell.hold(), await cell.hold("other")
    assert (await cell.shop.release(second["id"], second["userId"])).status == 204
    yield
    for hold in (first, second):
        await cell.ask("DELETE", f"/reservations/{hold['id']}?userId={hold['userId']}")
    yield
    await _check_state(cell, first, "released")


@story("request/")
async def giving_back_once(cell: Cell) -> Acts:
    """The same with a key."""
    await cell.open(5)
    hold = await cell.hold()
    yield
    path = f"/reservations/{hold['id']}?userId={hold['userId']}"
    await cell.ask("DELETE", path, key="back")
    yield
    await _check_state(cell, hold, "released")


@story("request/")
async def extending(cell: Cell) -> Acts:
    """A hold lives longer, once."""
    await cell.open(5)
    hold = await cell.hold()
    yield
    owner = {"userId": hold["userId"]}
    await cell.ask("POST", f"/reservations/{hold['id']}/extend", owner, "more")
    yield
    query = (
        "SELECT extract(epoch FROM expires_at - created_at) AS lives"
        " FROM reservations WHERE id = $1::uuid"
    )
    assert 1_100 < (await cell.world.rows(query, hold["id"]))[0]["lives"] < 1_300


@story("request/")
async def paying(cell: Cell) -> Acts:
    """The payment of a hold begins."""
    await cell.open(5)
    hold = await cell.hold()
    yield
    await cell.ask("POST", f"/reservations/{hold['id']}/pay", {"userId": hold["userId"]}, "pay")
    yield
    await _check_state(cell, hold, "paying")


def _notice(cell: Cell, hold: dict[str, Any]) -> bytes:
    words = {
        "reference": f"{cell.name}-payment",
        "reservationId": hold["id"],
        "status": "succeeded",
        "amount": hold["amount"],
        "currency": hold["currency"],
    }
    return json.dumps(words).encode()


async def _one_purchase(cell: Cell, hold: dict[str, Any]) -> None:
    query = "SELECT status, outcome FROM payments WHERE reservation_id = $1::uuid"
    rows = await cell.world.rows(query, hold["id"])
    assert [tuple(row) for row in rows] == [("succeeded", "purchased")]
    query = "SELECT FROM purchases WHERE reservation_id = $1::uuid"
    assert len(await cell.world.rows(query, hold["id"])) == 1


@story("payment/")
async def provider_speaks(cell: Cell) -> Acts:
    """Money came for a hold that is being paid."""
    await cell.open(5)
    hold = await cell.hold()
    await cell.shop.send("POST", f"/reservations/{hold['id']}/pay", {"userId": hold["userId"]})
    yield
    word = _notice(cell, hold)
    await cell.ask("POST", "/payments/callback", word, headers=signed(word))
    yield
    await _one_purchase(cell, hold)


@story("request/")
async def refunding(cell: Cell) -> Acts:
    """A purchase is undone, and its units are on sale again."""
    await cell.open(5)
    hold = await cell.hold(quantity=2)
    bought = (await cell.shop.confirm(hold["id"], hold["userId"])).json
    yield
    await cell.ask("POST", f"/purchases/{bought['id']}/refund", {"restock": True}, "undo")
    yield
    await _check_state(cell, hold, "refunded")
    query = "SELECT restocked FROM purchases WHERE id = $1::uuid AND refunded_at IS NOT NULL"
    assert [row["restocked"] for row in await cell.world.rows(query, bought["id"])] == [True]


# ── operating ────────────────────────────────────────────────────────────────────────────────────


@story("request/")
async def opening(cell: Cell) -> Acts:
    """A drop is opened, once."""
    await cell.open(2)
    yield
    body = {"name": cell.name, "price": "1", "totalStock": 3, "holdSeconds": 600}
    await cell.ask("POST", "/drops", body, "open")
    yield
    found = await cell.world.rows("SELECT id FROM drops WHERE name = $1", cell.name)
    assert len(found) == 1
    await wait_until(lambda: cell.shop.settled(found[0]["id"]), "the new drop is settled", 8)


@story("request/")
async def changing(cell: Cell) -> Acts:
    """Units come and go in mid-sale, once."""
    await cell.open(10)
    await cell.hold()
    yield
    await cell.ask(
        "PATCH", f"/drops/{cell.drop_id}", {"withdrawStock": 4, "price": "5"}, "withdraw"
    )
    await cell.ask("PATCH", f"/drops/{cell.drop_id}", {"addStock": 2}, "add")
    yield
    stock = await cell.shop.stock(cell.drop_id)
    assert (stock["withdrawnStock"], stock["totalStock"]) == (4, 12)


@story("request/")
async def pausing(cell: Cell) -> Acts:
    """A drop is paused and goes on; the bouncer is told to mend itself in between."""
    await cell.open(5)
    yield
    for deed in ("pause", "reconcile", "resume"):
        await cell.ask("POST", f"/drops/{cell.drop_id}/{deed}", None, deed)
    yield
    # A copy of `pause` may have been done after a copy of `resume`: they are different requests.
    reply = await cell.shop.send("POST", f"/drops/{cell.drop_id}/resume")
    assert reply.status == 200, reply.body


@story("request/")
async def closing(cell: Cell) -> Acts:
    """A drop ends."""
    cell.drop_id = other = await cell.shop.open_drop(5)
    await cell.open(2)
    yield
    await cell.ask("POST", f"/drops/{other}/close", None, "close")
    yield
    assert (await cell.shop.reserve(other, "late")).status == 409


# ── keeping: no keeper runs until the armed one has met its end ──────────────────────────────────


@story("sweeper/", until="sweeper/next_deadline.after")
async def sweeping(cell: Cell) -> Acts:
    """Holds ran out."""
    await cell.open(5, holdSeconds=1)
    await cell.hold(quantity=2)
    await _overdue(cell)
    yield
    yield

    async def swept() -> bool:
        query = "SELECT FROM reservations WHERE state = 'expired' AND drop_id = $1"
        return (await cell.world.rows(query, cell.drop_id)) != []

    await wait_until(swept, "the hold that ran out is freed", seconds=8)


async def _overdue(cell: Cell) -> None:
    async def over() -> bool:
        return bool((await cell.shop.audit(cell.drop_id))["overdueSeconds"] > 0)

    await wait_until(over, "a hold ran out and nobody freed it")


@story("ringer/", "round/ring_due", "round/touch", until="round/touch.after")
async def ringing(cell: Cell) -> Acts:
    """A bell should have rung; another hold keeps the drop among those that are looked at."""
    await cell.open(5, holdSeconds=1)
    await cell.hold()
    assert (await cell.shop.change(cell.drop_id, holdSeconds=600)).status == 200
    await cell.hold("other")
    await _overdue(cell)
    yield
    yield


@story("reaper/", "round/stale_intents", until="reaper/settle.after")
async def reaping(cell: Cell) -> Acts:
    """A worker died with two intents open: one got its unit, one did not."""
    await cell.open(5, maxPerBuyer=5, maxPerOrder=5)
    hold = await cell.hold()
    query = "SELECT request_id FROM reservations WHERE id = $1::uuid"
    done = (await cell.world.rows(query, hold["id"]))[0]["request_id"].hex
    ground = cell.world.ground
    hasty = type(ground.bouncer)(ground.redis, ground.postgres, intent_ttl_ms=1)
    number = ground.postgres.epoch * ATTEMPTS_PER_EPOCH + 1
    batch = [(done, number, 1, hold["userId"], False), ("f" * 32, number, 2, "ghost", False)]
    told = await hasty.admit(cell.drop_id, ground.postgres.epoch, batch)
    assert told.words == ["admitted"] * 2
    yield
    yield


@story("reconciler/", "round/inspect", until="reconciler/settle.after")
async def reconciling(cell: Cell) -> Acts:
    """Redis forgot the drop."""
    await cell.open(5)
    await cell.hold()
    await cell.world.forget(cell.drop_id)
    yield
    yield


@story("reconciler/", until="reconciler/settle.after")
async def history_lost(cell: Cell) -> Acts:
    """Redis knows more than Postgres: the database was set back."""
    await cell.open(5)
    await cell.hold()
    offer = await cell.world.rows("SELECT version FROM stock WHERE drop_id = $1", cell.drop_id)
    query = "UPDATE stock SET version = version - 1 WHERE drop_id = $1"
    assert offer[0]["version"] > 1
    await cell.world.rows(query, cell.drop_id)
    yield
    yield


@story("settler/", until="settler/settle.after")
async def settling(cell: Cell) -> Acts:
    """Money came, and the worker that wrote it down made nothing of it."""
    await cell.open(5)
    hold = await cell.hold()
    await cell.world.rows(
        "INSERT INTO payments (reference, reservation_id, status, amount_cents, currency,"
        " changed_at) SELECT $1, id, 'succeeded', amount_cents, $3,"
        " clock_timestamp() - interval '2 s' FROM reservations WHERE id = $2::uuid",
        f"{cell.name}-payment",
        hold["id"],
        hold["currency"],
    )
    yield
    yield

    async def bought() -> bool:
        query = "SELECT FROM purchases WHERE reservation_id = $1::uuid"
        return bool(await cell.world.rows(query, hold["id"]))

    await wait_until(bought, "the money that came buys the hold", seconds=8)
    await _one_purchase(cell, hold)


@story("filler/", until="filler/settle.after")
async def filling(cell: Cell) -> Acts:
    """A large drop waits for its units."""
    await cell.open(10_002)
    yield
    yield

    async def full() -> bool:
        return (await cell.shop.stock(cell.drop_id))["totalStock"] == 10_002

    await wait_until(full, "all units are on the shelf")

    async def is_open() -> bool:
        return (await cell.shop.reserve(cell.drop_id, f"first-{cell.name}")).status == 201

    # Whoever died may have put the last unit there, and opened nothing or told nobody.
    await wait_until(is_open, "the drop is open", seconds=8)


@story("auditor/", until="auditor/keep_proof.after")
async def auditing(cell: Cell) -> Acts:
    """A drop is counted."""
    await cell.open(5)
    await cell.hold()
    yield
    yield


@story("pruner/", "beater/", until="pruner/prune_outbox.after")
async def housekeeping(cell: Cell) -> Acts:
    """Old tombstones are forgotten, and a keeper says that it lives."""
    await cell.open(5)
    yield
    yield
