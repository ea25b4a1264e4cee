"""ZeroLight's rows, and how each is walked."""

from __future__ import annotations

from typing import Any

from tests.walkthrough.rows import ENVELOPE, NOBODY, System, Visit

SYSTEM = System(
    "ZeroLight",
    """
### Users API (`/api/v1/users`)

- `GET /` - Get all users (paginated)
- `GET /:id` - Get user by ID
- `GET /privy/:privyId` - Get user by Privy ID
- `GET /wallet/:walletAddress` - Get user by wallet
- `POST /` - Create new user
- `PUT /:id` - Update user (supports optimistic locking)
- `POST /:id/wallet` - Register wallet address
- `POST /:id/activity` - Update last active timestamp
- `DELETE /:id` - Soft delete user

### Sessions API (`/api/v1/sessions`)

- `POST /` - Create new session (with idempotency)
- `GET /:id` - Get session by ID
- `GET /user/:userId/active` - Get active session
- `GET /user/:userId` - Get all user sessions
- `GET /user/:userId/stats` - Get session statistics
- `PUT /:id` - Update session
- `POST /:id/activity` - Update activity timestamp
- `PUT /:id/push-token` - Update push notification token
- `POST /:id/extend` - Extend session expiration
- `DELETE /:id` - Terminate session
- `DELETE /user/:userId/all` - Terminate all user sessions

### Notifications API (`/api/v1/notifications`)

- `GET /preferences/:userId` - Get notification preferences
- `PUT /preferences/:userId` - Update preferences
- `POST /preferences/:userId/reset` - Reset to defaults

### Private Beta API (`/api/private-beta`)

**Unchanged from original implementation**

- `POST /referral` - Create referral key
- `POST /verify` - Verify referral key
- `POST /check-validity` - Check key validity
- `POST /status` - Check user status
- `GET /users` - Get all beta users
- `GET /debug` - Debug endpoint
""",
)


WALLET = "0x52908400098527886E0F7030069857D2E4169EE7"
made_users = 0


async def _user(here: Visit) -> Any:
    global made_users
    made_users += 1
    new = {"privyId": f"privy_user{made_users}", "email": f"user{made_users}@example.com"}
    return await here.ask("POST", "/users", new)


async def _session(here: Visit) -> Any:
    wanted = {"userId": (await _user(here))["id"], "deviceId": "device123", "platform": "ios"}
    return await here.ask("POST", "/sessions", wanted)


@SYSTEM.row("GET /api/v1/users", 200)
async def _(here: Visit) -> None:
    user = await _user(here)
    listed = (await here(query="?page=1&limit=50")).json
    assert user["id"] in [each["id"] for each in listed["data"]]
    for words in (ENVELOPE, "20, 100 at most"):
        here.differs(words)


@SYSTEM.row("GET /api/v1/users/:id", 200, 404)
async def _(here: Visit) -> None:
    user = await _user(here)
    assert (await here(user["id"])).json == user
    for missing in (NOBODY, "nonsense"):
        assert (await here(missing)).json["message"] == "User not found"


@SYSTEM.row("GET /api/v1/users/privy/:privyId", 200, 404)
async def _(here: Visit) -> None:
    user = await _user(here)
    assert (await here(user["privyId"])).json == user
    assert (await here("nobody")).json["message"] == "User not found"


@SYSTEM.row("GET /api/v1/users/wallet/:walletAddress", 200, 404)
async def _(here: Visit) -> None:
    user, wallet = await _user(here), f"0x{'1' * 40}"
    assert (await here(wallet)).json["message"] == "User not found"
    await here.ask("POST", f"/users/{user['id']}/wallet", {"walletAddress": wallet})
    assert (await here(wallet)).json["id"] == user["id"]


@SYSTEM.row("POST /api/v1/users", 201, 400)
async def _(here: Visit) -> None:
    new = {"privyId": "privy_user123", "email": "user@example.com"}  # its curl
    made = (await here(body=new)).json
    assert (made["status"], made["version"]) == ("active", 0)
    again = await here(body=new)  # Printed: 400, and this sentence as its `error`
    assert again.json["message"] == "User with this Privy ID already exists"
    assert (again.status, again.json["success"], again.error) == (400, False, "USER_EXISTS")
    here.differs("its sentence is `message` and `error` is a word for programs")
    for wrong in ({}, {"privyId": "x", "email": "nonsense"}):
        assert (await here(body=wrong)).error == "VALIDATION_ERROR"


@SYSTEM.row("PUT /api/v1/users/:id", 200, 400, 404, 409)
async def _(here: Visit) -> None:
    user = await _user(here)
    change = {"phone": "+15550100", "version": user["version"]}
    assert (await here(user["id"], body=change)).json["version"] == user["version"] + 1
    stale = await here(user["id"], body=change)  # Printed: 409 and this sentence
    sentence = "User has been modified by another request. Please retry."
    assert (stale.status, stale.json["message"]) == (409, sentence)
    blind = await here(user["id"], body={"phone": "+15550101"})
    assert (blind.status, blind.error) == (400, "VALIDATION_ERROR")
    here.differs("without a `version` overwrites")
    assert (await here(NOBODY, body=change)).json["message"] == "User not found"


@SYSTEM.row("POST /api/v1/users/:id/wallet", 200, 400, 404, 409)
async def _(here: Visit) -> None:
    user, other = await _user(here), await _user(here)
    told = (await here(user["id"], body={"walletAddress": WALLET})).json
    assert told["walletAddress"] == WALLET
    assert (await here(user["id"], body={})).error == "VALIDATION_ERROR"
    taken = await here(other["id"], body={"walletAddress": WALLET.lower()})
    assert (taken.status, taken.json["message"]) == (409, "Wallet address already registered")
    here.differs("of a wallet that is taken: 400")
    assert (await here(NOBODY, body={"walletAddress": f"0x{'2' * 40}"})).error == "NOT_FOUND"


@SYSTEM.row("POST /api/v1/users/:id/activity", 200, 404)
async def _(here: Visit) -> None:
    user = await _user(here)
    assert (await here(user["id"])).json["message"] == "Activity updated successfully"
    assert (await here(NOBODY)).error == "NOT_FOUND"


@SYSTEM.row("DELETE /api/v1/users/:id", 200, 404)
async def _(here: Visit) -> None:
    user = await _user(here)
    for _ in range(2):
        assert (await here(user["id"])).json["message"] == "User deleted successfully"
    assert (await here(NOBODY)).error == "NOT_FOUND"
    here.differs("leaves the user to be read")


@SYSTEM.row("POST /api/v1/sessions", 201, 400)
async def _(here: Visit) -> None:
    wanted = {"userId": (await _user(here))["id"], "deviceId": "device123", "platform": "ios"}
    wanted["idempotencyKey"] = "request-uuid-here"  # its curl
    made, again = await here(body=wanted), await here(body=wanted)
    assert (made.status, made.json["id"]) == (201, again.json["id"])  # Same key = same session
    assert (await here(body=wanted | {"platform": "vms"})).error == "VALIDATION_ERROR"
    here.differs("is printed, and was never there")


@SYSTEM.row("GET /api/v1/sessions/:id", 200, 404)
async def _(here: Visit) -> None:
    session = await _session(here)
    assert (await here(session["id"])).json["deviceId"] == "device123"
    assert (await here(NOBODY)).json["message"] == "Session not found"


@SYSTEM.row("GET /api/v1/sessions/user/:userId/active", 200, 404)
async def _(here: Visit) -> None:
    session = await _session(here)
    assert (await here(session["userId"])).json["id"] == session["id"]
    await here.ask("DELETE", f"/sessions/{session['id']}")
    assert (await here(session["userId"])).json["message"] == "No active session found"


@SYSTEM.row("GET /api/v1/sessions/user/:userId", 200)
async def _(here: Visit) -> None:
    session = await _session(here)
    assert [each["id"] for each in (await here(session["userId"])).json["data"]] == [session["id"]]


@SYSTEM.row("GET /api/v1/sessions/user/:userId/stats", 200)
async def _(here: Visit) -> None:
    stats = (await here((await _session(here))["userId"])).json
    assert (stats["totalSessions"], stats["activeSessions"]) == (1, 1)
    assert stats["deviceBreakdown"] == [{"platform": "ios", "count": 1}]


@SYSTEM.row("PUT /api/v1/sessions/:id", 200, 404, 410)
async def _(here: Visit) -> None:
    session = await _session(here)
    assert (await here(session["id"], body={"deviceName": "Ann's"})).json["deviceName"] == "Ann's"
    assert (await here(NOBODY, body={"deviceName": "x"})).error == "NOT_FOUND"
    await here.ask("DELETE", f"/sessions/{session['id']}")
    assert (await here(session["id"], body={"deviceName": "x"})).error == "EXPIRED"
    here.differs("410 `EXPIRED`; ending it again is 200")


@SYSTEM.row("POST /api/v1/sessions/:id/activity", 200, 404)
async def _(here: Visit) -> None:
    assert (await here((await _session(here))["id"])).status == 200
    assert (await here(NOBODY)).error == "NOT_FOUND"


@SYSTEM.row("PUT /api/v1/sessions/:id/push-token", 200, 400, 404)
async def _(here: Visit) -> None:
    session = await _session(here)
    assert (await here(session["id"], body={"pushToken": "apns-1"})).status == 200
    sentence = "Push token is required and must be a string"
    assert (await here(session["id"], body={})).json["message"] == sentence
    assert (await here(NOBODY, body={"pushToken": "apns-1"})).error == "NOT_FOUND"


@SYSTEM.row("POST /api/v1/sessions/:id/extend", 200, 400, 404)
async def _(here: Visit) -> None:
    session = await _session(here)
    longer = (await here(session["id"], body={"additionalDays": 30})).json
    assert longer["expiresAt"] > session["expiresAt"]
    assert (await here(session["id"], body={"additionalDays": "5"})).error == "VALIDATION_ERROR"
    here.differs("only a live session can be extended")
    assert (await here(NOBODY, body={"additionalDays": 30})).error == "NOT_FOUND"


@SYSTEM.row("DELETE /api/v1/sessions/:id", 200, 404)
async def _(here: Visit) -> None:
    session = await _session(here)
    for _ in range(2):
        assert (await here(session["id"])).status == 200
    assert (await here(NOBODY)).error == "NOT_FOUND"


@SYSTEM.row("DELETE /api/v1/sessions/user/:userId/all", 200)
async def _(here: Visit) -> None:
    ended = (await here((await _session(here))["userId"])).json
    assert (ended["message"], ended["count"]) == ("1 session(s) terminated successfully", 1)


QUIET = {"quietHoursEnabled": True, "quietHoursStart": "22:00", "quietHoursEnd": "07:00"}


@SYSTEM.row("GET /api/v1/notifications/preferences/:userId", 200, 404)
async def _(here: Visit) -> None:
    told = (await here((await _user(here))["id"])).json
    assert (told["pushEnabled"], told["marketingUpdates"], told["createdAt"]) == (True, False, None)
    here.differs("the defaults are told and nothing is written")
    assert (await here(NOBODY)).error == "NOT_FOUND"


@SYSTEM.row("PUT /api/v1/notifications/preferences/:userId", 200, 400, 404)
async def _(here: Visit) -> None:
    user = (await _user(here))["id"]
    half = await here(user, body={"quietHoursEnabled": True})
    assert half.json["message"] == (
        "Quiet hours start and end times are required when quiet hours are enabled"
    )
    assert (await here(user, body=QUIET)).json["quietHoursStart"] == "22:00:00"
    here.differs("`quietHoursStart` is told as")
    assert (await here(NOBODY, body=QUIET)).error == "NOT_FOUND"


@SYSTEM.row("POST /api/v1/notifications/preferences/:userId/reset", 200, 404)
async def _(here: Visit) -> None:
    user = (await _user(here))["id"]
    await here.ask("PUT", f"/notifications/preferences/{user}", QUIET)
    assert (await here(user)).json["quietHoursEnabled"] is False
    assert (await here(NOBODY)).error == "NOT_FOUND"


@SYSTEM.row("POST /api/private-beta/referral", 201)
async def _(here: Visit) -> None:
    assert len((await here()).json["referralKey"].replace("-", "")) == 12
    here.differs("`referralKey`, twelve letters")


async def _key(here: Visit) -> Any:
    return (await here.ask("POST", "/private-beta/referral"))["referralKey"]


@SYSTEM.row("POST /api/private-beta/verify", 200, 400, 404, 409)
async def _(here: Visit) -> None:
    key = await _key(here)
    pair = {"referral_key": key, "user_email": "beta@example.com"}
    assert (await here(body=pair)).status == 200
    for wrong, sentence in (
        ({"user_email": pair["user_email"]}, "Referral key is required and must be a string"),
        ({"referral_key": key}, "User email is required and must be a string"),
        (pair | {"user_email": "nonsense"}, "Please provide a valid email address"),
        (pair | {"referral_key": "123456"}, "Referral code not found"),
        (pair | {"user_email": "other@example.com"}, "Referral code has already been used"),
        (pair | {"referral_key": await _key(here)}, "Email already registered"),
    ):
        assert (await here(body=wrong)).json["message"] == sentence
    here.differs('every POST of the private beta answers 200, also "not found"')


@SYSTEM.row("POST /api/private-beta/check-validity", 200, 400, 404)
async def _(here: Visit) -> None:
    assert (await here(body={"referral_key": await _key(here)})).json["valid"] is True
    here.differs("a key that can still be used is `valid`")
    assert (await here(body={})).error == "VALIDATION_ERROR"
    assert (await here(body={"referral_key": "123456"})).error == "NOT_FOUND"


@SYSTEM.row("POST /api/private-beta/status", 200, 400, 404)
async def _(here: Visit) -> None:
    assert (await here(body={"user_email": "beta@example.com"})).status == 200
    assert (await here(body={"user_email": "nobody@example.com"})).error == "NOT_FOUND"
    assert (await here(body={})).error == "VALIDATION_ERROR"


@SYSTEM.row("GET /api/private-beta/users", 200)
async def _(here: Visit) -> None:
    assert (await here()).json["data"]
    here.differs("`/users` and `/debug` are operators'")


@SYSTEM.row("GET /api/private-beta/debug", 200)
async def _(here: Visit) -> None:
    assert (await here()).json["data"]
