"""Preferences over HTTP: both sets of names, both paths, and whose they are."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg
import pytest

from tests.identity.conftest import Caller
from tests.support.people import add_user
from tests.support.shop import Shop

Buyers = Callable[[str], Caller]
DEFAULTS = {
    "pushEnabled": True,
    "emailEnabled": True,
    "smsEnabled": False,
    "transactionNotifications": True,
    "securityAlerts": True,
    "marketingUpdates": False,
    "productUpdates": True,
    "tradeExecutedEnabled": True,
    "orderFilledEnabled": True,
    "orderCancelledEnabled": True,
    "positionLiquidatedEnabled": True,
    "fundingPaymentEnabled": True,
    "priceAlertEnabled": False,
    "marginWarningEnabled": True,
    "quietHoursEnabled": False,
    "quietHoursStart": None,
    "quietHoursEnd": None,
    "timezone": "UTC",
}
NIGHT = {"quietHoursEnabled": True, "quietHoursStart": "22:00", "quietHoursEnd": "07:00:30"}


@pytest.fixture
async def ann(database: str) -> str:
    """Ann's id."""
    return await add_user(database, "ann@example.com")


async def rows_of(database: str) -> int:
    """How many preferences are kept."""
    connection = await asyncpg.connect(database)
    try:
        return int(await connection.fetchval("SELECT count(*) FROM notification_preferences"))
    finally:
        await connection.close()


async def changes(caller: Caller, path: str, **body: Any) -> dict[str, Any]:
    """A change that is taken."""
    reply = await caller.asks("PUT", path, body)
    assert reply.status == 200, reply.body
    told: dict[str, Any] = reply.json
    return told


async def test_who_set_nothing_has_the_defaults_and_looking_writes_nothing(
    buyer: Buyers, ann: str, database: str
) -> None:
    for path in (f"/notifications/preferences/{ann}", f"/notifications/user/{ann}"):
        told = (await buyer(ann).asks("GET", path)).json

        unset = {"id": ann, "userId": ann, "createdAt": None, "updatedAt": None}
        assert told == {**DEFAULTS, **unset}
    assert await rows_of(database) == 0


async def test_both_sets_of_names_are_understood_on_both_paths(buyer: Buyers, ann: str) -> None:
    paths = f"/notifications/preferences/{ann}", f"/notifications/user/{ann}"
    for here, there in (paths, paths[::-1]):
        told = await changes(buyer(ann), here, **NIGHT, timezone="Europe/Berlin", smsEnabled=True)
        assert (told["quietHoursStart"], told["quietHoursEnd"]) == ("22:00:00", "07:00:30")
        assert (told["timezone"], told["smsEnabled"]) == ("Europe/Berlin", True)
        told = await changes(
            buyer(ann),
            there,
            tradeExecutedEnabled=False,
            price_alert_enabled=True,
            quietHoursTimezone="Asia/Kathmandu",
        )
        assert (told["tradeExecutedEnabled"], told["priceAlertEnabled"]) == (False, True)
        assert (told["timezone"], told["smsEnabled"]) == ("Asia/Kathmandu", True)
        assert (await buyer(ann).asks("GET", here)).json == told

        reset = await buyer(ann).asks("POST", f"{here}/reset")
        assert reset.json == (await buyer(ann).asks("GET", there)).json
        assert {name: reset.json[name] for name in DEFAULTS} == DEFAULTS


UNWANTED: list[tuple[dict[str, Any], str]] = [
    ({"quietHoursEnabled": True}, "quietHoursStart"),
    ({"quietHoursEnabled": True, "quietHoursStart": "22:00"}, "quietHoursEnd"),
    ({"quietHoursStart": "24:00"}, "quietHoursStart"),
    ({"quietHoursEnd": "7:00"}, "quietHoursEnd"),
    ({"timezone": "Mars/Olympus"}, "timezone"),
    ({"timezone": "UTC", "quietHoursTimezone": "UTC"}, "timezone"),
    ({"pushEnabled": "yes"}, "pushEnabled"),
    ({"pushEnabled": None}, "pushEnabled"),
    ({"pushEnabled": True, "push_enabled": True}, "pushEnabled"),
]


async def test_what_cannot_be_wanted_is_refused_by_its_field(buyer: Buyers, ann: str) -> None:
    for body, field in UNWANTED:
        reply = await buyer(ann).asks("PUT", f"/notifications/preferences/{ann}", body)

        assert (reply.status, reply.error) == (400, "VALIDATION_ERROR")
        assert reply.json["details"]["fields"][0]["field"] == field
        if "quietHoursEnabled" in body:
            sentence = "Quiet hours start and end times are required when quiet hours are enabled"
            assert reply.json["message"] == sentence


async def test_whether_something_may_be_sent_is_told_with_the_reason(
    admin: Caller, ann: str, database: str
) -> None:
    path = f"/notifications/preferences/{ann}"

    async def told(question: str, id: str = ann) -> tuple[Any, ...]:
        reply = await admin.asks("GET", f"/notifications/preferences/{id}/may-send?{question}")
        assert reply.status == 200, reply.body
        assert reply.json["message"]
        return reply.json["allowed"], reply.json["reason"], reply.json.get("until")

    assert await told("channel=push&category=product") == (True, "allowed", None)
    assert await told("channel=sms&category=product") == (False, "channel_off", None)
    assert await told("channel=push&category=marketing") == (False, "category_off", None)
    await changes(admin, path, **NIGHT, timezone="America/New_York")
    at = "at=2026-11-01T05:30:00Z"  # the night on which 01:00 comes twice there
    ends = "2026-11-01T12:00:30.000Z"
    assert await told(f"channel=push&category=order-filled&{at}") == (False, "quiet_hours", ends)
    assert await told(f"channel=push&category=security&{at}") == (True, "allowed", None)
    gone = await add_user(database, status="deleted")
    assert await told("channel=push&category=security", gone) == (False, "user_not_active", None)
    for wrong in (
        "category=product",
        "channel=fax&category=product",
        "channel=sms&category=gossip",
    ):
        assert (await admin.is_told("GET", f"{path}/may-send?{wrong}"))[0] == 400
    wrong = f"{path}/may-send?channel=push&category=product&at=9999-12-31T23:59:59Z"
    assert (await admin.is_told("GET", wrong))[0] == 400


async def test_preferences_are_their_users_and_whose_who_may_see_accounts(
    buyer: Buyers,
    admin: Caller,
    nobody: Caller,
    server: Callable[..., Awaitable[Caller]],
    ann: str,
) -> None:
    path = f"/notifications/preferences/{ann}"
    tries = [
        ("GET", path),
        ("PUT", path),
        ("POST", f"{path}/reset"),
        ("GET", f"{path}/may-send?channel=push&category=product"),
    ]
    for method, each in tries:
        for caller in (buyer(ann), admin, await server("identity")):
            assert (await caller.asks(method, each)).status == 200
        for stranger in (buyer("bob"), buyer(ann.upper())):
            assert (await stranger.asks(method, each)).status == 403
        assert (await (await server("sale:read", "sale:write")).asks(method, each)).status == 403
        assert (await nobody.asks(method, each)).status == 401
    for unknown in ("0199a3f2-7c1e-7d43-9b5a-2f6c8e1d4a90", "nonsense"):
        for method, each in tries:
            told = await admin.is_told(method, each.replace(ann, unknown))
            assert told == (404, "NOT_FOUND")


async def test_partial_changes_at_once_lose_nothing(
    buyer: Buyers, shop: Shop, ann: str, database: str
) -> None:
    path = f"/notifications/preferences/{ann}"
    flags = [name for name, value in DEFAULTS.items() if value in (True, False)][:14]

    await asyncio.gather(
        *(changes(buyer(ann), path, **{flag: not DEFAULTS[flag]}) for flag in flags)
    )

    told = (await buyer(ann).asks("GET", path)).json
    assert {flag: told[flag] for flag in flags} == {flag: not DEFAULTS[flag] for flag in flags}
    headers = buyer(ann)._headers | {"idempotency-key": "k"}
    first = await shop.send("PUT", path, {"smsEnabled": False}, headers)
    again = await shop.send("PUT", path, {"smsEnabled": False}, headers)
    other = await shop.send("PUT", path, {"smsEnabled": True}, headers)
    assert (again.body, again.headers["idempotent-replayed"]) == (first.body, "true")
    assert other.error == "IDEMPOTENCY_MISMATCH"
    gone = await add_user(database, status="deleted")
    assert await buyer(gone).is_told("PUT", path.replace(ann, gone), {}) == (404, "NOT_FOUND")
