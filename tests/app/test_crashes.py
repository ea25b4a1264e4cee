"""A bug of ours is a 500 that says nothing of itself, and leaves nothing behind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NoReturn

import asyncpg
import msgspec
import psutil
import pytest

from engine import runtime
from engine.infra.settings import Settings
from engine.runtime import Ground
from engine.sale import shelf, store
from tests.support.http import Reply
from tests.support.service import Service
from tests.support.shop import Shop
from tests.support.wait import wait_until

SECRET_OF_THE_HOUSE = "relation units_secret does not exist at /srv/engine/store.py"


async def _crash(*_: object, **__: object) -> NoReturn:
    raise RuntimeError(SECRET_OF_THE_HOUSE)


@pytest.fixture
async def narrow(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[Shop, Ground]]:
    """A worker with a single connection: who leaks it stops everything."""
    opened: list[Ground] = []
    original = runtime.ground

    @asynccontextmanager
    async def seen(*given: Any) -> AsyncIterator[Ground]:
        async with original(*given) as base:
            opened.append(base)
            yield base

    monkeypatch.setattr(runtime, "ground", seen)
    async with Shop.open(msgspec.structs.replace(settings, pool_size=1)) as shop:
        yield shop, opened[0]


async def _at_rest(ground: Ground) -> bool:
    return ground.postgres.in_use == 0


CALM = {
    "list_drops": ("GET", "/drops"),
    "count_units": ("GET", "/drops/$drop/audit"),
    "insert_drop": ("POST", "/drops"),
    "set_pause": ("POST", "/drops/$drop/pause"),
    "close_drop": ("POST", "/drops/$drop/close"),
    "list_reservations": ("GET", "/reservations?userId=ann"),
    "find_reservation": ("GET", "/reservations/$hold"),
    "list_purchases": ("GET", "/purchases/mine?userId=ann"),
    "find_purchase": ("GET", "/purchases/$hold"),
}


@pytest.mark.parametrize("broken", CALM)
async def test_a_crash_is_a_500_in_the_one_shape_without_its_text(
    narrow: tuple[Shop, Ground], monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    shop, ground = narrow
    drop = await shop.open_drop(5)
    hold = (await shop.reserve(drop, "ann")).json["id"]
    method, path = CALM[broken]
    path = path.replace("$drop", str(drop)).replace("$hold", hold)
    body = {"name": "Borealis", "price": 1, "totalStock": 1} if method == "POST" else None

    with monkeypatch.context() as broken_store:
        broken_store.setattr(shelf if hasattr(shelf, broken) else store, broken, _crash)
        replies = [await shop.send(method, path, body) for _ in range(5)]

    for reply in replies:
        assert (reply.status, reply.error) == (500, "INTERNAL_ERROR")
        assert reply.json["requestId"] == reply.headers["x-request-id"]
        _says_nothing(reply)
    await wait_until(lambda: _at_rest(ground), "every connection is back")  # the watch asks, too
    assert (await shop.send(method, path, body)).status != 500
    assert (await shop.stock(drop))["heldStock"] == 1
    assert await shop.settled(drop)


BATCHED = ["claim_units", "purchase_units", "release_holds", "find_reservations", "stocks"]


@pytest.mark.parametrize("broken", BATCHED)
async def test_a_crash_in_a_batch_is_a_503_that_says_what_is_known(
    narrow: tuple[Shop, Ground], monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    shop, ground = narrow
    drop = await shop.open_drop(5, maxPerBuyer=None)
    hold, other = [(await shop.reserve(drop, "ann")).json["id"] for _ in range(2)]
    await shop.release(other, "ann")
    asks = {
        "claim_units": lambda: shop.reserve(drop, "ann", "k"),
        "purchase_units": lambda: shop.confirm(hold, "ann", "k"),
        "release_holds": lambda: shop.release(hold, "ann"),
        "find_reservations": lambda: shop.release(other, "ann"),
        "stocks": lambda: shop.send("GET", f"/drops/{drop}/stock"),
    }

    with monkeypatch.context() as broken_store:
        broken_store.setattr(shelf if hasattr(shelf, broken) else store, broken, _crash)
        reply = await asks[broken]()

    assert reply.status == 503
    assert reply.error in ("OUTCOME_UNKNOWN", "RETRYABLE")
    assert reply.json["retryable"] is True
    assert int(reply.headers["retry-after"]) >= 1
    _says_nothing(reply)
    await wait_until(lambda: _at_rest(ground), "every connection is back")
    audit = await shop.audit(drop)
    assert (audit["clean"], audit["held"], audit["free"]) == (True, 1, 4)


async def test_who_met_a_crash_in_a_claim_gets_his_pair_with_the_same_key(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The claim's intent stays open, as a dead worker's would; the reaper closes it."""
    quick = msgspec.structs.replace(settings, intent_ttl_ms=200, reaper_ms=50)
    stop, ready = asyncio.Event(), asyncio.Event()
    keeping = asyncio.create_task(runtime.keep(quick, stop, ready))
    await ready.wait()
    async with Shop.open(quick) as shop:
        drop = await shop.open_drop(1)
        with monkeypatch.context() as broken_store:
            broken_store.setattr(store, "claim_units", _crash)
            assert (await shop.reserve(drop, "ann", "k")).status == 503

        async def gets_it() -> bool:
            return (await shop.reserve(drop, "ann", "k")).status == 201

        await wait_until(gets_it, "the same key gets the pair")
        await wait_until(lambda: shop.settled(drop), "the bouncer is exact")
        assert (await shop.stock(drop))["heldStock"] == 1
    stop.set()
    await keeping


def _says_nothing(reply: Reply) -> None:
    for word in ("units_secret", "store.py", "RuntimeError", "Traceback"):
        assert word not in reply.body.decode()


# ── clients that vanish ──────────────────────────────────────────────────────────────────────────

HEAD = b"POST /reservations HTTP/1.1\r\nHost: 127.0.0.1\r\n"


async def _vanish(port: int, sent: bytes, abort: bool) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(sent)
    await writer.drain()
    if abort:
        writer.transport.abort()
    else:
        writer.close()
        await writer.wait_closed()


@pytest.mark.parametrize("abort", [False, True], ids=["closed", "reset"])
async def test_clients_that_vanish_leave_no_socket_and_no_unit_behind(
    settings: Settings, tmp_path: Any, abort: bool
) -> None:
    async with Service.open(settings, tmp_path, workers=1, keepers=1) as service:
        drop = await service.open_drop(1_000, maxPerBuyer=None)
        await service.reserve(drop, "ann")
        worker = psutil.Process(service.workers[0].pid)
        before = worker.num_fds()
        body = b'{"dropId":%d,"userId":"ann"}' % drop
        whole = HEAD + b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
        pieces = [b"", whole[:10], HEAD, whole[:-5], whole, whole * 3]

        await asyncio.gather(*(_vanish(service.port, sent, abort) for sent in pieces * 20))

        async def sockets_are_gone() -> bool:
            return worker.num_fds() <= before + settings.pool_size  # its pools may have grown

        await wait_until(sockets_are_gone, "the worker has closed every socket")
        await wait_until(lambda: service.settled(drop), "the bouncer is exact")
        audit = await service.audit(drop)
        assert audit["clean"]
        assert audit["held"] + audit["free"] == 1_000
        assert "http.crashed" not in service.log()
        assert await _idle_in_transaction(settings) == 0


async def _idle_in_transaction(settings: Settings) -> int:
    connection = await asyncpg.connect(settings.database_url)
    try:
        count = await connection.fetchval(
            "SELECT count(*) FROM pg_stat_activity"
            " WHERE datname = current_database() AND state LIKE 'idle in transaction%'"
        )
        return int(count)
    finally:
        await connection.close()
