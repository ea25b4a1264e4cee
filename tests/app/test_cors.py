"""Pages elsewhere may call only if they were named, and then learn what they need."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
import pytest

from engine import app, runtime
from engine.infra import settings as knobs
from engine.infra.errors import Misconfigured
from engine.infra.settings import Settings
from tests.support.shop import Shop

PAGE = "https://shop.example"
SECRET = "a secret of those who come from elsewhere"
ASKS = {"access-control-request-method": "POST", "access-control-request-headers": "x-api-key"}


@asynccontextmanager
async def _shop(settings: Settings, origins: str) -> AsyncIterator[Shop]:
    given = msgspec.structs.replace(
        settings,
        cors_origins=origins,
        auth="required",
        jwt_secret=SECRET,
        hmac_secret=SECRET[::-1],
    )
    async with runtime.worker(given) as house:
        yield Shop(app.build(house.routes, given))


async def test_a_page_that_was_named_may_call(settings: Settings) -> None:
    async with _shop(settings, f"http://localhost:5173, {PAGE}") as shop:
        asked = await shop.send("OPTIONS", "/reservations", headers={"origin": PAGE, **ASKS})
        assert asked.status == 204
        assert asked.headers["access-control-allow-origin"] == PAGE
        assert "POST" in asked.headers["access-control-allow-methods"]
        allowed = set(asked.headers["access-control-allow-headers"].lower().split(", "))
        assert {"authorization", "x-api-key", "idempotency-key", "if-match"} <= allowed
        assert {"x-timestamp", "x-nonce", "x-signature"} <= allowed
        assert "Idempotency-Key" in asked.headers["access-control-allow-headers"]
        assert "X-API-Key" in asked.headers["access-control-allow-headers"]

        for path, status in (("/drops", 200), ("/nowhere", 404)):
            reply = await shop.send("GET", path, headers={"origin": PAGE})
            assert reply.status == status
            assert reply.headers["access-control-allow-origin"] == PAGE
            assert reply.headers["vary"] == "Origin"
            assert "Retry-After" in reply.headers["access-control-expose-headers"]
            assert "access-control-allow-credentials" not in reply.headers


@pytest.mark.parametrize(
    "origin",
    [
        "https://shop.example.evil.example",
        "http://shop.example",
        "https://shop.example:444",
        "https://evil.example",
        "null",
        "",
        "*",
    ],
)
async def test_a_stranger_hears_nothing_of_it(settings: Settings, origin: str) -> None:
    async with _shop(settings, PAGE) as shop:
        for reply in (
            await shop.send("GET", "/drops", headers={"origin": origin}),
            await shop.send("OPTIONS", "/reservations", headers={"origin": origin, **ASKS}),
        ):
            assert not [name for name in reply.headers if name.startswith("access-control")]
            assert reply.headers["vary"] == "Origin"
        assert reply.status == 405


async def test_without_a_name_there_is_no_cors(settings: Settings) -> None:
    async with _shop(settings, "") as shop:
        reply = await shop.send("OPTIONS", "/reservations", headers={"origin": PAGE, **ASKS})

        assert reply.status == 405
        assert not {"vary", "access-control-allow-origin"} & set(reply.headers)


@pytest.mark.parametrize(
    ("environ", "origins"),
    [
        ({}, set()),
        ({"CORS_ORIGINS": f"{PAGE},http://localhost:3000"}, {PAGE, "http://localhost:3000"}),
        (
            {"CLIENT_URL": f"{PAGE}/", "FRONTEND_URL": "http://a.example:80/x"},
            {PAGE, "http://a.example"},
        ),
        ({"CORS_ORIGINS": PAGE, "CLIENT_URL": "https://other.example"}, {PAGE}),
        ({"CORS_ORIGINS": "HTTPS://Shop.Example:443"}, {PAGE}),
        ({"CORS_ORIGINS": "http://[::1]:3000"}, {"http://[::1]:3000"}),
    ],
)
def test_origins_are_read_as_browsers_write_them(
    environ: dict[str, str], origins: set[str]
) -> None:
    assert knobs.read(environ).origins == {origin.encode() for origin in origins}


@pytest.mark.parametrize(
    "bad", ["*", "shop.example", "https://*.example", "null", "ftp://x", "https://", "https://a:b"]
)
def test_what_is_no_origin_is_refused_at_the_start(bad: str) -> None:
    with pytest.raises(Misconfigured, match="CORS_ORIGINS"):
        knobs.read({"CORS_ORIGINS": bad})
