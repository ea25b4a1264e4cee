"""What operators do is told in full: who, what, and how it ended; never a secret, never a buyer."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from structlog.testing import capture_logs

from engine.identity import apikeys, tokens
from engine.infra.settings import Settings
from engine.runtime import Ground
from engine.sale.operating import OperatorRoutes
from tests.support.shop import Shop

SECRET = "a secret of the tests, 32 bytes long."


@pytest.fixture
async def guarded(settings: Settings) -> AsyncIterator[Shop]:
    """A worker with AUTH=required."""
    given = msgspec.structs.replace(
        settings, auth="required", jwt_secret=SECRET, hmac_secret=SECRET
    )
    async with Shop.open(given) as shop:
        yield shop


def _bearer(role: str) -> dict[str, str]:
    return {"authorization": f"Bearer {tokens.create(SECRET, 'olga', 60, role)}"}


def _told(lines: list[Any]) -> list[Any]:
    return [each for each in lines if each["event"] == "admin.action"]


async def test_a_deed_is_told_with_who_and_what_and_its_end(guarded: Shop) -> None:
    body = {"name": "Aurora", "price": "120.00", "totalStock": 3}
    with capture_logs() as lines:
        made = await guarded.send("POST", "/drops", body, _bearer("admin"))
        drop_id = made.json["id"]
        headers = _bearer("admin") | {"x-request-id": "find-me"}
        await guarded.send("PATCH", f"/drops/{drop_id}", {"price": "99.00"}, headers)
        await guarded.send("POST", f"/drops/{drop_id}/pause", None, _bearer("admin"))

    created, changed, paused = _told(lines)
    assert (created["operation"], created["drop_id"]) == ("create_drop", drop_id)
    assert changed == {
        "event": "admin.action",
        "log_level": "info",
        "who": "admin:olga",
        "operation": "change_drop",
        "drop_id": drop_id,
        "change": {"price": "99.00"},
        "outcome": "done",
        "status": 200,
        "request_id": "find-me",
    }
    assert (paused["operation"], paused["outcome"]) == ("pause", "done")


async def test_what_was_refused_is_told_too(guarded: Shop) -> None:
    with capture_logs() as lines:
        await guarded.send("POST", "/drops/1/pause", None, _bearer("buyer"))
        await guarded.send("POST", "/drops/777/pause", None, _bearer("admin"))
        await guarded.send("POST", "/drops", b"{", _bearer("admin"))

    assert [(each["who"], each["outcome"], each["status"]) for each in _told(lines)] == [
        ("buyer", "FORBIDDEN", 403),
        ("admin:olga", "NOT_FOUND", 404),
        ("admin:olga", "VALIDATION_ERROR", 400),
    ]


async def test_a_shops_key_is_told_by_its_id_and_never_shown(guarded: Shop, ground: Ground) -> None:
    key = await apikeys.create(ground.postgres, "back office", ["admin"])
    with capture_logs() as lines:
        await guarded.send("POST", "/drops/777/close", None, {"x-api-key": key})

    [line] = _told(lines)
    assert line["who"].startswith("shop:key:")
    assert key.rpartition("_")[2] not in str(lines)


async def test_who_looks_at_a_buyer_is_told_and_the_buyer_is_not(guarded: Shop) -> None:
    with capture_logs() as lines:
        reply = await guarded.send(
            "GET", "/buyers/ann-of-the-hill/timeline", None, _bearer("admin")
        )

    assert reply.status == 200
    [line] = _told(lines)
    assert (line["who"], line["operation"], line["drop_id"]) == ("admin:olga", "timeline", None)
    assert "ann-of-the-hill" not in str(lines)


async def test_a_change_of_any_length_is_one_short_line(guarded: Shop) -> None:
    with capture_logs() as lines:
        await guarded.send("POST", "/drops", b"x" * 60_000, _bearer("admin"))
        await guarded.send("POST", "/drops", {"name": "é" * 5_000}, _bearer("admin"))

    unread, long = _told(lines)
    assert unread["change"] == "60000 bytes that are no JSON object"
    assert 1_000 < len(long["change"]) <= 2_000


async def test_every_operators_route_is_told_of(shop: Shop, settings: Settings) -> None:
    class Nobody:
        def __getattr__(self, name: str) -> Any:
            return lambda route: route

    nobody: Any = Nobody()
    table = OperatorRoutes(settings, nobody, nobody, nobody, nobody, lambda _: None).routes()

    with capture_logs() as lines:
        for route in table:
            path = route.path.replace("{id}", "777").replace("{id:path}", "ann")
            await shop.send(route.method, path)

    told = {each["operation"] for each in _told(lines)}
    assert told == {route.operation for route in table} - {"audit"}, "audits are public"
