"""Strangers at the door: what they say is not kept, what they send is no crash."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import struct
import tracemalloc
from pathlib import Path

import msgspec
import pytest
import structlog

from engine import runtime
from engine.identity import apikeys, tokens
from engine.infra.addresses import Addresses
from engine.infra.settings import Settings
from loadtest.chaos.pgproxy import PgProxy
from tests.app.test_at_the_door import Client, _reserve, _worker
from tests.support.locks import stock_locked, waiting_claims
from tests.support.shop import Shop
from tests.support.wait import wait_until

SECRET = "a secret of the attackers for tokens and such"


def test_what_a_stranger_says_in_x_forwarded_for_is_not_remembered() -> None:
    addresses = Addresses("10.0.0.0/8")
    tracemalloc.start()
    for _ in range(5_000):
        lie = os.urandom(2_048).hex().encode()
        headers = {b"x-forwarded-for": lie}
        scope = {"client": ("203.0.113.9", 1), "headers": list(headers.items())}
        assert addresses.subject(scope, headers) == "203.0.113.9"
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept < 1_000_000  # of one peer


async def test_over_budget_and_postgres_away_a_keyed_repetition_hears_outcome_unknown(
    settings: Settings,
) -> None:
    async with PgProxy.open(settings.database_url) as proxy:
        limited = msgspec.structs.replace(
            settings, database_url=proxy.url, rate_writes_per_buyer="1/h burst 2"
        )
        async with Shop.open(limited) as shop:
            drop_id = await shop.open_drop(1)
            hold = (await shop.reserve(drop_id, "ann")).json
            path, key = f"/reservations/{hold['id']}/pay", {"idempotency-key": "k"}
            first = await shop.send("POST", path, {"userId": "ann"}, key)
            assert first.status == 200
            # uses up what is left (a fresh key is not a repetition)
            await shop.send("POST", path, {"userId": "ann"}, {"idempotency-key": "l"})
            proxy.refusing = True
            await proxy.cut()
            words = []
            for _ in range(8):
                again = await shop.send("POST", path, {"userId": "ann"}, key)
                words.append(again.error)
            proxy.refusing = False
    assert set(words) == {"OUTCOME_UNKNOWN"}, (words, again.body)


async def test_the_same_within_budget(settings: Settings) -> None:
    async with PgProxy.open(settings.database_url) as proxy:
        limited = msgspec.structs.replace(settings, database_url=proxy.url)
        async with Shop.open(limited) as shop:
            drop_id = await shop.open_drop(1)
            hold = (await shop.reserve(drop_id, "ann")).json
            path, key = f"/reservations/{hold['id']}/pay", {"idempotency-key": "k"}
            assert (await shop.send("POST", path, {"userId": "ann"}, key)).status == 200
            proxy.refusing = True
            await proxy.cut()
            words = [
                (await shop.send("POST", path, {"userId": "ann"}, key)).error for _ in range(8)
            ]
            proxy.refusing = False
    assert set(words) == {"OUTCOME_UNKNOWN"}, words


async def test_a_shops_keyed_repetition_hears_outcome_unknown_while_its_key_cannot_be_looked_up(
    settings: Settings,
) -> None:
    async with PgProxy.open(settings.database_url) as proxy:
        guarded = msgspec.structs.replace(
            settings,
            database_url=proxy.url,
            auth="required",
            jwt_secret=SECRET,
            hmac_secret=SECRET + " too",
        )
        admin = {"authorization": f"Bearer {tokens.create(SECRET, 'root', 600, 'admin')}"}
        async with runtime.ground(guarded) as ground:
            shop_key = {"x-api-key": await apikeys.create(ground.postgres, "shop", ["sale:write"])}
        async with Shop.open(guarded) as shop:
            body = {"name": "Aurora", "price": "1", "totalStock": 1}
            drop_id = (await shop.send("POST", "/drops", body, admin)).json["id"]
            wish = {"dropId": drop_id, "userId": "ann"}
            headers = shop_key | {"idempotency-key": "k"}
            assert (await shop.send("POST", "/reservations", wish, headers)).status == 201
        async with Shop.open(guarded) as shop:  # another worker, which does not know the key yet
            proxy.refusing = True
            await proxy.cut()
            words = [
                (await shop.send("POST", "/reservations", wish, headers)).error for _ in range(6)
            ]
            proxy.refusing = False
    assert set(words) == {"OUTCOME_UNKNOWN"}, words


async def test_a_buyer_who_may_not_refund_is_not_named_in_the_log(settings: Settings) -> None:
    guarded = msgspec.structs.replace(
        settings, auth="required", jwt_secret=SECRET, hmac_secret=SECRET + " too", log_level="info"
    )
    async with Shop.open(guarded) as shop:
        token = {"authorization": f"Bearer {tokens.create(SECRET, 'ann@example.org', 600)}"}
        path = "/purchases/0190a000-0000-7000-8000-000000000000/refund"
        with structlog.testing.capture_logs() as logs:
            assert (await shop.send("POST", path, {"restock": True}, token)).status == 403
            said = await shop.send("POST", path, b"my password is 12345\x1b[2J")
            assert said.status == 401
    text = json.dumps(logs)
    assert "ann@example.org" not in text
    assert "my password" not in text


async def test_who_leaves_with_requests_in_the_pipe_leaves_no_error_and_no_ghost(
    settings: Settings, tmp_path: Path
) -> None:
    async with _worker(settings, tmp_path) as service:
        drop = await service.open_drop(3)
        async with (
            stock_locked(settings.database_url, drop) as locked,
            Client.of(service) as client,
        ):
            await client.say(_reserve(drop, "ann") + b"GET /api/v1/health/live" + HOST + b"\r\n")

            async def claims() -> bool:
                return await waiting_claims(locked) > 0

            await wait_until(claims, "the claim waits")
        await asyncio.sleep(0.5)
        assert "Traceback" not in service.log()
        assert "Exception" not in service.log()
        await asyncio.sleep(0.2)


HOST = b" HTTP/1.1\r\nHost: 127.0.0.1\r\n"
REFUND = b"POST /api/v1/purchases/0190a000-0000-7000-8000-000000000000/refund"


@pytest.mark.parametrize(
    "raw",
    [
        b"GET ?x" + HOST,
        b"GET http://evil.example/api/v1/health/live" + HOST,
        b"OPTIONS *" + HOST,
        b"GET //x//y?%00%ff=%00" + HOST,
        b"GET /%00%0d%0aX:%20y" + HOST,
        b"GET /api/v1/drops?limit=%F0%9F&cursor=%00&status=%00" + HOST,
        b"GET /api/v1/drops/%00" + HOST,
        b"GET /api/v1/purchases/mine?userId=a%00b" + HOST,
        b"GET /api/v1/purchases/mine?userId=%ED%A0%80" + HOST,
        b"GET /api/v1/buyers/%00/timeline" + HOST,
        b"GET /api/v1/refunds?cursor=99999999999999999999&status=due" + HOST,
        b"GET /api/v1/refunds?cursor=9999999999999" + HOST,
        b"GET /api/v1/refunds?page=999999999&pageSize=100" + HOST,
        b"GET /api/v1/drops" + HOST + b"X-Request-ID: a b\x7f\r\nTraceparent: xx\r\n",
        REFUND + HOST + b'Content-Length: 37\r\n\r\n{"restock": true, "reason": "\\ud800"}',
        b"GET /api/v1/health/live"
        + HOST
        + b"Connection: upgrade\r\nUpgrade: h2c\r\nUpgrade: x\r\n",
        b"PROPFIND /api/v1/drops" + HOST,
        b"HEAD /api/v1/drops" + HOST + b"Content-Length: 3\r\n\r\nabc",
    ],
)
async def test_nothing_on_the_wire_is_a_crash(
    settings: Settings, tmp_path: Path, raw: bytes
) -> None:
    async with _worker(settings, tmp_path) as service:
        async with Client.of(service) as client:
            await client.say(raw if b"\r\n\r\n" in raw else raw + b"\r\n")
            async with asyncio.timeout(5):
                head = await client.reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 ") and not head.startswith(b"HTTP/1.1 5"), head
        assert "Traceback" not in service.log(), service.log()


async def test_a_stranger_cannot_fill_the_log_with_tracebacks(
    settings: Settings, tmp_path: Path
) -> None:
    async with _worker(settings, tmp_path) as service:
        get = b"GET /api/v1/drops HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
        for n in range(300):
            with socket.socket() as one:
                one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                one.connect(("127.0.0.1", service.port))
                one.sendall(get * 3)
                await asyncio.sleep(0.0001 * (n % 50))
        await asyncio.sleep(1.0)
        log = service.log()
        assert log.count("Traceback") == 0
