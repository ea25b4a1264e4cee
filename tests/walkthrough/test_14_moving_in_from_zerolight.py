"""Who had ZeroLight finds its README's lines here, one after the other; where an answer is another,
the test says so, and docs/SEEDS.md says why.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from engine.identity import apikeys
from engine.infra import settings as knobs
from engine.infra.errors import Misconfigured
from engine.infra.settings import Settings
from engine.runtime import Ground
from tests.support.http import Reply
from tests.support.shop import Shop
from tests.walkthrough.conftest import Buyer, Operator

NEW = {"privyId": "privy_user123", "email": "user@example.com"}  # its "Create User"
WALLET = "0x52908400098527886E0F7030069857D2E4169EE7"
NOBODY = "0199a3f2-7c1e-7d43-9b5a-2f6c8e1d4a90"


@pytest.fixture
async def backend(shop: Shop, settings: Settings, ground: Ground) -> Operator:
    """What calls in its place: the server of an app. It sends nothing where everybody is trusted,
    else a key."""
    if settings.auth == "open":
        return Operator(shop, "backend", {}, {})
    key = await apikeys.create(ground.postgres, "backend", ["admin"])
    return Operator(shop, "backend", {"x-api-key": key}, {})


async def _user(backend: Operator) -> dict[str, Any]:
    reply = await backend.asks("POST", "/users", NEW)
    assert reply.status == 201, reply.body
    user: dict[str, Any] = reply.json
    return user


async def test_the_users_api_line_by_line(backend: Operator) -> None:
    made = await _user(backend)
    at = f"/users/{made['id']}"

    listed = (await backend.asks("GET", "/users", page=1, limit=50)).json
    assert [user["id"] for user in listed["data"]] == [made["id"]]
    assert listed["meta"]["totalItems"] == 1
    for path in (at, "/users/privy/privy_user123"):
        assert (await backend.asks("GET", path)).json == made
    for path in (
        f"/users/{NOBODY}",
        "/users/nonsense",
        "/users/privy/no",
        f"/users/wallet/{WALLET}",
    ):
        missing = await backend.asks("GET", path)
        assert (missing.status, missing.json["message"]) == (404, "User not found")

    changed = await _put(backend, at, {"phone": "+15550100", "version": made["version"]})
    assert (changed.status, changed.json["version"]) == (200, made["version"] + 1)
    stale = await _put(backend, at, {"phone": "+15550101", "version": made["version"]})
    # Printed: {"success": false, "error": "Failed to update user", "message": "User has been …"}
    assert (stale.status, stale.json["success"], stale.error) == (409, False, "VERSION_CONFLICT")
    sentence = "User has been modified by another request. Please retry."
    assert stale.json["message"] == sentence
    blind = await _put(backend, at, {"phone": "+15550102"})  # there it overwrote
    assert (blind.status, blind.error) == (400, "VALIDATION_ERROR")

    wallet = await backend.asks("POST", f"{at}/wallet", {"walletAddress": WALLET})
    assert (wallet.status, wallet.json["walletAddress"]) == (200, WALLET)
    assert (await backend.asks("GET", f"/users/wallet/{WALLET}")).json["id"] == made["id"]
    seen = await backend.asks("POST", f"{at}/activity")
    assert (seen.status, seen.json["message"]) == (200, "Activity updated successfully")
    assert (await backend.asks("GET", at)).json["lastActiveAt"] is not None

    gone = await backend.asks("DELETE", at)
    assert (gone.status, gone.json["message"]) == (200, "User deleted successfully")
    assert (await backend.asks("GET", at)).json["status"] == "deleted"
    assert (await backend.asks("DELETE", at)).status == 200


async def _put(backend: Operator, path: str, body: dict[str, Any]) -> Reply:
    return await backend.asks("PUT", path, body)


async def test_a_duplicate_is_refused_as_it_is_printed(backend: Operator) -> None:
    await _user(backend)

    again = await backend.asks("POST", "/users", NEW)

    # Printed: {"success": false, "error": "User with this Privy ID already exists"}, 400
    assert (again.status, again.json["success"], again.error) == (400, False, "USER_EXISTS")
    assert again.json["message"] == "User with this Privy ID already exists"


async def test_the_sessions_api_line_by_line(backend: Operator) -> None:
    user = (await _user(backend))["id"]
    wanted = {
        "userId": user,
        "deviceId": "device123",
        "platform": "ios",
        "idempotencyKey": "request-uuid-here",
    }

    made = await backend.asks("POST", "/sessions", wanted)
    again = await backend.asks("POST", "/sessions", wanted)
    at = f"/sessions/{made.json['id']}"
    assert (made.status, again.json["id"]) == (201, made.json["id"])  # same key = same session
    assert (made.json["userId"], made.json["deviceId"]) == (user, "device123")
    assert (made.json["platform"], made.json["isActive"]) == ("ios", True)

    for path in (at, f"/sessions/user/{user}/active"):
        assert (await backend.asks("GET", path)).json["id"] == made.json["id"]
    every = (await backend.asks("GET", f"/sessions/user/{user}")).json["data"]
    assert [session["id"] for session in every] == [made.json["id"]]
    stats = (await backend.asks("GET", f"/sessions/user/{user}/stats")).json
    assert (stats["totalSessions"], stats["activeSessions"]) == (1, 1)
    assert stats["deviceBreakdown"] == [{"platform": "ios", "count": 1}]
    changed = await backend.asks("PUT", at, {"deviceName": "Ann's", "appVersion": "2.1"})
    assert (changed.status, changed.json["deviceName"]) == (200, "Ann's")
    assert (await backend.asks("POST", f"{at}/activity")).status == 200
    token = await backend.asks("PUT", f"{at}/push-token", {"pushToken": "apns-1"})
    assert token.status == 200
    none = await backend.asks("PUT", f"{at}/push-token", {})
    assert (none.status, none.json["message"]) == (
        400,
        "Push token is required and must be a string",
    )
    longer = await backend.asks("POST", f"{at}/extend", {"additionalDays": 30})
    assert (longer.status, longer.json["expiresAt"] > made.json["expiresAt"]) == (200, True)
    for odd in ("5", -1, 0):  # there the first was glued on, the second shortened
        assert (await backend.asks("POST", f"{at}/extend", {"additionalDays": odd})).status == 400

    ended = await backend.asks("DELETE", at)
    assert (ended.status, (await backend.asks("GET", at)).json["isActive"]) == (200, False)
    late = await backend.asks("POST", f"{at}/extend", {"additionalDays": 1})
    assert (late.status, late.error) == (410, "EXPIRED")  # there it came to life again
    nothing = await backend.asks("GET", f"/sessions/user/{user}/active")
    assert (nothing.status, nothing.json["message"]) == (404, "No active session found")
    everything = await backend.asks("DELETE", f"/sessions/user/{user}/all")
    assert (everything.status, everything.json["count"]) == (200, 0)
    assert everything.json["message"] == "0 session(s) terminated successfully"


async def test_the_notifications_api_line_by_line(backend: Operator) -> None:
    user = (await _user(backend))["id"]

    for at in (f"/notifications/preferences/{user}", f"/notifications/user/{user}"):
        first = (await backend.asks("GET", at)).json
        night = {"quietHoursEnabled": True, "quietHoursStart": "22:00", "quietHoursEnd": "07:00"}
        half = await backend.asks("PUT", at, {"quietHoursEnabled": True})
        told = await backend.asks("PUT", at, night | {"marketingUpdates": True})
        back = await backend.asks("POST", f"{at}/reset")

        assert (first["pushEnabled"], first["marketingUpdates"]) == (True, False)
        assert half.json["message"] == (
            "Quiet hours start and end times are required when quiet hours are enabled"
        )
        assert (told.status, told.json["marketingUpdates"]) == (200, True)
        assert told.json["quietHoursStart"] == "22:00:00"  # there 1970-01-01T22:00:00.000Z
        assert back.json == first


async def test_the_private_beta_api_line_by_line(backend: Operator, shop: Shop) -> None:
    at = "/private-beta"
    made = await backend.asks("POST", f"{at}/referral")
    key = {"referral_key": made.json["referralKey"]}
    pair = key | {"user_email": "user@example.com"}

    fresh = await shop.send("POST", f"{at}/check-validity", key)
    verified = await shop.send("POST", f"{at}/verify", pair)
    status = await backend.asks("POST", f"{at}/status", {"user_email": "user@example.com"})
    unknown = await backend.asks("POST", f"{at}/status", {"user_email": "no@example.com"})
    users, debug = [await backend.asks("GET", f"{at}/{path}") for path in ("users", "debug")]

    assert (made.status, made.json["message"]) == (201, "Referral key created successfully")
    assert (fresh.status, fresh.json["valid"]) == (200, True)  # there only a used one was
    assert verified.json["message"] == "Referral key verified and user activated successfully"
    assert status.json["message"] == "User status retrieved successfully"
    assert (unknown.status, unknown.json["message"]) == (404, "User not found")  # there 200
    assert [row["userEmail"] for row in users.json["data"]] == ["user@example.com"]
    assert debug.json["data"] == users.json["data"]
    assert debug.json["message"] == "Debug: All referral keys in database"
    wrong = await shop.send("POST", f"{at}/verify", pair | {"referral_key": "123456"})
    assert (wrong.status, wrong.json["message"]) == (404, "Referral code not found")  # there 200


async def test_what_it_left_to_be_done_is_done(
    backend: Operator, buyer: Callable[[str], Buyer], shop: Shop, settings: Settings
) -> None:
    """Its security notes 1 and 6: somebody must say who he is; a shop's key does, too."""
    user = (await _user(backend))["id"]
    for method, path in (("GET", "/users"), ("DELETE", f"/users/{user}"), ("GET", "/sessions/x")):
        told = await shop.send(method, path)
        if settings.auth == "required":
            assert (told.status, told.error) == (401, "UNAUTHORIZED")
    if settings.auth == "required":
        stranger = await buyer("bob").asks("GET", f"/users/{user}")
        assert stranger.json.keys() == {"id", "username"}


async def test_it_is_asked_how_it_is_at_the_root(shop: Shop) -> None:
    told = await shop.visit("GET", "/health")  # curl http://localhost:3000/health

    assert (told.status, told.json["database"]) == (200, "ok")


def test_its_environment_is_understood() -> None:
    url = "postgresql://user:password@localhost:5432/zerolight?schema=public"
    told = knobs.read(
        {
            "NODE_ENV": "development",
            "PORT": "3000",
            "DATABASE_URL": f"{url}&connection_limit=100&connect_timeout=10",
        }
    )

    assert (told.port, told.pool_size, told.schema) == (3000, 100, "public")
    assert told.database_url == url.partition("?")[0]
    with pytest.raises(Misconfigured):
        knobs.read({"DATABASE_URL": f"{url}&connection_limit=many"})
