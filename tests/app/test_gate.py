"""From where somebody may call: operators from their networks, everybody over TLS."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest

from engine import app, runtime
from engine.identity import apikeys, tokens
from engine.infra import settings as knobs
from engine.infra.addresses import Addresses
from engine.infra.errors import Misconfigured
from engine.infra.gate import Gate, Https
from engine.infra.http import Call
from engine.infra.settings import Settings
from engine.ops.serve import constant_headers
from engine.realtime.doorway import Doorway
from engine.runtime import Ground
from tests.support.http import Reply
from tests.support.shop import Shop

SECRET = "a secret of those who stand at the gate"
OFFICE, HOME, PROXY = "192.0.2.7", "203.0.113.9", "10.0.0.1"
OURS: dict[str, Any] = {
    "admin_networks": "192.0.2.0/24, 2001:db8::7",
    "trusted_proxies": "10.0.0.0/8",
}
OUTSIDE = "Operators call from ADMIN_NETWORKS, and this address is outside"
SAFE: dict[str, Any] = {"https_only": True, "trusted_proxies": "10.0.0.0/8, 127.0.0.1"}
TLS, PLAIN = {"x-forwarded-proto": "https"}, {"x-forwarded-proto": "http"}


@asynccontextmanager
async def _shop(settings: Settings, **given: Any) -> AsyncIterator[Shop]:
    guarded = {"auth": "required", "jwt_secret": SECRET, "hmac_secret": SECRET}
    async with Shop.open(msgspec.structs.replace(settings, **guarded, **given)) as opened:
        yield opened


def _bearer(name: str, role: str = "buyer") -> dict[str, str]:
    return {"authorization": f"Bearer {tokens.create(SECRET, name, 86_400, role)}"}


ADMIN = _bearer("olga", "admin")


def _is_outside(reply: Reply) -> bool:
    return reply.status == 403 and reply.json["message"] == OUTSIDE


# ── ADMIN_NETWORKS ───────────────────────────────────────────────────────────────────────────────


async def test_every_route_of_operators_is_shut_to_addresses_outside(
    settings: Settings, ground: Ground
) -> None:
    """Walks the table: with a good token, a bad one and none the answer is the same."""
    async with _shop(settings, **OURS) as shop:
        async with runtime.worker(settings) as house:
            table = [route for route in house.routes if route.is_for_operators]
        names = {route.operation for route in table}
        assert {"pause", "list_holds", "list_locks", "create_api_key", "metrics"} <= names
        assert not {"change_user", "register_wallet", "touch_user", "delete_user"} & names, "own"
        for route in table:
            path = ("" if route.root else "/api/v1") + route.path.replace("{id:path}", "ann")
            for credential in (ADMIN, {}, {"authorization": "Bearer bad"}, {"x-api-key": "bad"}):
                told = await shop.visit(
                    route.method, path.replace("{id}", "20"), {}, credential, HOME
                )
                assert _is_outside(told), route.operation
        for path in ("/api/v1/locks", "/metrics", "/api/v1/refunds"):
            assert (await shop.visit("GET", path, None, ADMIN, OFFICE)).status == 200, path
            assert (await shop.visit("GET", path, None, {}, OFFICE)).status == 401, path
        assert (await shop.visit("GET", "/api/v1/drops", None, {}, HOME)).status == 200
        assert (await shop.visit("GET", "/api/v1/health", None, {}, HOME)).status in (200, 503)
        assert (await shop.visit("GET", "/ops", None, {}, HOME)).status == 200, "it holds no data"


@pytest.mark.parametrize(
    ("peer", "forwarded", "is_inside"),
    [
        (OFFICE, None, True),
        (HOME, None, False),
        (HOME, OFFICE, False),  # anybody can send a header
        (PROXY, OFFICE, True),
        (PROXY, HOME, False),
        (PROXY, f"{OFFICE}, {HOME}", False),  # what a client wrote stands to the left
        (PROXY, f"{HOME}, {OFFICE}", True),
        (PROXY, None, False),
        (PROXY, "unknown", False),
        (PROXY, "", False),
        ("::ffff:192.0.2.7", None, True),
        ("2001:db8::7", None, True),
        ("2001:db8::8", None, False),  # its neighbour, with whom it is counted
        ("127.0.0.1", None, False),  # this machine is like any other
        (None, None, False),
    ],
)
async def test_an_operators_address_is_the_clients_own(
    peer: str | None, forwarded: str | None, is_inside: bool
) -> None:
    gate = Gate(Settings(**OURS))
    headers = [] if forwarded is None else [(b"x-forwarded-for", forwarded.encode())]
    scope: dict[str, Any] = {"client": peer and (peer, 1), "headers": headers}

    assert gate.is_inside(Call(scope)) is is_inside


async def test_what_a_proxy_says_and_nobody_can_read_is_no_address() -> None:
    """Not even where the proxy itself stands inside of the networks."""
    told = Addresses("192.0.2.0/24")
    scope: dict[str, Any] = {"client": (OFFICE, 1), "headers": [(b"x-forwarded-for", b"nonsense")]}

    assert told.certain(scope, dict(scope["headers"])) is None
    for name in (b"forwarded", b"x-real-ip", b"via"):  # nor by a header that we do not read
        scope = {"client": (OFFICE, 1), "headers": [(name, b"for=203.0.113.9")]}
        assert told.certain(scope, dict(scope["headers"])) is None


async def test_outside_an_operators_token_is_a_buyers_and_a_key_has_no_such_scope(
    settings: Settings, ground: Ground
) -> None:
    """On routes that are everybody's too: somebody else's hold, somebody else's name."""
    key = {"x-api-key": await apikeys.create(ground.postgres, "office", ["admin", "sale:read"])}
    async with _shop(settings, **OURS) as shop:
        made = {"name": "Aurora", "price": "120.00", "totalStock": 5}
        drop = (await shop.visit("POST", "/api/v1/drops", made, ADMIN, OFFICE)).json["id"]
        body = {"dropId": drop}
        path = "/api/v1/reservations"
        hold = (await shop.visit("POST", path, body, _bearer("ann"), HOME)).json
        one = f"{path}/{hold['id']}"
        inside = await shop.visit("GET", one, None, ADMIN, OFFICE)
        outside = await shop.visit("GET", one, None, ADMIN, HOME)
        buys = await shop.visit("POST", path, body, ADMIN, HOME)
        reads = await shop.visit("GET", one, None, key, HOME)
        writes = await shop.visit("POST", path, body | {"userId": "bob"}, key, HOME)

    assert (inside.status, outside.status) == (200, 403)
    assert outside.error == "NOT_YOUR_RESERVATION"
    assert (buys.status, buys.json["userId"]) == (201, "olga")
    assert (reads.status, writes.status) == (200, 403)


# ── HTTPS_ONLY ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("peer", "headers", "why"),
    [
        (PROXY, TLS, ""),
        (PROXY, {"x-forwarded-proto": "HTTPS"}, ""),
        (PROXY, {"forwarded": 'for=192.0.2.7;proto=https, for="[::1]"; Proto="https"'}, ""),
        ("127.0.0.1", {}, ""),  # this machine itself
        (PROXY, PLAIN, "it came by http"),
        (PROXY, {"x-forwarded-proto": "https, http"}, "it came by http"),
        (PROXY, {"forwarded": "for=192.0.2.7;proto=http"}, "it came by http"),
        (PROXY, TLS | {"forwarded": "for=192.0.2.7;proto=http"}, "it came by http"),
        ("127.0.0.1", PLAIN, "it came by http"),
        (PROXY, {}, "the proxy must send X-Forwarded-Proto"),
        (PROXY, {"forwarded": "for=192.0.2.7"}, "the proxy must send X-Forwarded-Proto"),
        (HOME, TLS, "call the proxy that ends TLS, which TRUSTED_PROXIES names"),
        (HOME, {}, "call the proxy that ends TLS, which TRUSTED_PROXIES names"),
    ],
)
async def test_only_what_a_trusted_proxy_took_over_tls_is_served(
    peer: str, headers: dict[str, str], why: str
) -> None:
    lines = [(name.encode(), value.encode()) for name, value in headers.items()]
    told = Https(Settings(**SAFE)).objection({"client": (peer, 1), "headers": lines})

    assert (told.message if told else "") == (why and f"HTTPS only: {why}")


async def test_what_came_by_http_is_refused_pages_are_led_away_and_health_answers(
    settings: Settings,
) -> None:
    """On the hot lane too, with and without CORS."""
    for origins in ("", "https://shop.example"):
        given = msgspec.structs.replace(settings, **SAFE, cors_origins=origins)
        async with runtime.worker(given) as house:
            built = app.build(house.routes, given)
            shop = Shop(built)
            drop = await shop.open_drop(3)
            body = {"dropId": drop, "userId": "ann"}
            hot = await shop.visit("POST", "/api/v1/reservations", body, PLAIN)
            calm = await shop.visit("GET", "/api/v1/drops", None, PLAIN)
            safe = await shop.visit("POST", "/api/v1/reservations", body, TLS)
            lane = cast(Any, built).hot
            scope = {
                "client": ("127.0.0.1", 1),
                "method": "POST",
                "path": "/api/v1/reservations",
                "headers": [(b"x-forwarded-proto", b"http")],
            }
            assert lane(scope) is None
            assert (lane(scope | {"headers": []}) is not None) == (origins == "")
            health = [
                await shop.visit("GET", path, None, PLAIN)
                for path in ("/health", "/api/health/live", "/api/v1/health/ready")
            ]
            page = await shop.visit("GET", "/ops?a=%20b", None, PLAIN | {"host": "127.0.0.1:8000"})
            strange = await shop.visit("GET", "/ops", None, PLAIN | {"host": "a/b"})

    assert [(each.status, each.error) for each in (hot, calm)] == [(403, "FORBIDDEN")] * 2
    assert hot.json["message"] == "HTTPS only: it came by http"
    assert safe.status == 201
    assert {each.status for each in health} <= {200, 503}
    assert (page.status, page.headers["location"]) == (308, "https://127.0.0.1/ops?a=%20b")
    assert strange.status == 403
    assert dict(constant_headers(given))["strict-transport-security"] == "max-age=86400"


class _Line:
    """As much of a transport as a refusal needs."""

    said, is_closed = b"", False

    def write(self, data: bytes) -> None:
        self.said += data

    def close(self) -> None:
        self.is_closed = True


@pytest.mark.parametrize("path", ["/ws", "/events", "/socket.io"])
async def test_listeners_are_refused_too(settings: Settings, path: str) -> None:
    given = msgspec.structs.replace(settings, **SAFE)
    async with runtime.ground(given) as base, runtime.live(base, cast(Any, None), 0.1) as hub:
        doorway = Doorway(given, hub, cast(Any, asyncio.sleep), lambda _: None)
        line = _Line()
        doorway.take(
            cast(Any, line),
            {
                "client": (PROXY, 1),
                "path": path,
                "query_string": b"room=drops",
                "headers": [(b"x-forwarded-proto", b"http")],
            },
            b"",
        )

    assert line.said.startswith(b"HTTP/1.1 403 ")
    assert b"HTTPS only: it came by http" in line.said
    assert line.is_closed


def test_a_gate_that_lets_nobody_through_does_not_start() -> None:
    with pytest.raises(Misconfigured, match="ADMIN_NETWORKS: 'everywhere' is no address"):
        knobs.read({"ADMIN_NETWORKS": "10.0.0.0/8, everywhere"})
    with pytest.raises(Misconfigured, match="HTTPS_ONLY=1 serves nobody"):
        knobs.read({"HTTPS_ONLY": "1"})
    assert knobs.read({"HTTPS_ONLY": "1", "TRUSTED_PROXIES": "10.0.0.1"}).https_only


def test_the_table_of_security_names_what_is_there() -> None:
    root = Path(__file__).parents[2]
    text = (root / "docs" / "OPERATIONS.md").read_text()
    table = re.findall(r"^\|.*\|$", text[text.index("## Security") :], re.MULTILINE)[2:]

    assert len(table) == 10
    for row in table:
        files = re.findall(r"`([a-z_/0-9]+\.py)`", row)
        assert any(file.startswith("tests/") for file in files), row
        assert all((root / file).is_file() for file in files), row
