"""Every row of the tables of endpoints in the READMEs of the five systems that people move from,
against a real `make run`: each success and each refusal happens. Where an answer is another than
the printed one, the row names the line of docs/SEEDS.md that says so.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from engine.infra.settings import Settings
from engine.ops.launch import free_port
from tests.support.http import Crowd
from tests.support.wait import wait_until
from tests.walkthrough.rows import System, Visit

NOBODY = "0199a3f2-7c1e-7d43-9b5a-2f6c8e1d4a90"
ENVELOPE = "in an envelope"

cryovault = System(
    "CryoVault",
    """
### Slots

| Method | Endpoint | Description |
|--------|----------|-------------|
| GET | `/api/slots` | Get all slots with status |
| GET | `/api/slots/:id` | Get single slot details |

### Reservations

| Method | Endpoint | Description |
|--------|----------|-------------|
| POST | `/api/hold` | Create 2-min reservation |
| POST | `/api/book` | Confirm booking |

### Ledger

| Method | Endpoint | Description |
|--------|----------|-------------|
| GET | `/api/ledger` | Last 10 ledger entries |
| GET | `/api/ledger/verify` | Verify chain integrity |

### Simulation (Demo)

| Method | Endpoint | Description |
|--------|----------|-------------|
| POST | `/api/simulate/traffic` | Randomize slot statuses |
| POST | `/api/simulate/failure` | Create temp failure |
""",
)
sneaker_js = System(
    "Sneaker drop, JavaScript",
    """
### Drops
- `GET /api/drops` - Get all active drops with activity feed
- `GET /api/drops/:id` - Get specific drop details
- `POST /api/drops` - Create new drop (admin)

### Reservations
- `POST /api/reserve/:dropId` - Reserve item (body: `{userId: number}`)

### Purchases
- `POST /api/purchase/:reservationId` - Complete purchase (body: `{userId: number}`)

### Health Check
- `GET /api/health` - Server health status
""",
)
zerolight = System(
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
sneaker_ts = System(
    "Sneaker drop, TypeScript",
    """
### Auth

| Method | Endpoint              | Description       | Auth |
| ------ | --------------------- | ----------------- | ---- |
| POST   | `/api/users/register` | Register new user | No   |
| POST   | `/api/users/login`    | Login, get JWT    | No   |
| GET    | `/api/users/:id`      | Get user by ID    | Yes  |

### Drops

| Method | Endpoint         | Description                       | Auth  |
| ------ | ---------------- | --------------------------------- | ----- |
| GET    | `/api/drops`     | List drops (paginated)            | No    |
| GET    | `/api/drops/:id` | Get a single drop with purchasers | No    |
| POST   | `/api/drops`     | Create a new drop                 | Admin |

### Reservations

| Method | Endpoint            | Description                    | Auth |
| ------ | ------------------- | ------------------------------ | ---- |
| POST   | `/api/reservations` | Reserve an item (60s TTL)      | Yes  |
| GET    | `/api/reservations` | Get all my active reservations | Yes  |

### Purchases

| Method | Endpoint              | Description                          | Auth |
| ------ | --------------------- | ------------------------------------ | ---- |
| POST   | `/api/purchases`      | Complete purchase (from reservation) | Yes  |
| GET    | `/api/purchases/mine` | My purchase history                  | Yes  |
""",
)
SYSTEMS = (cryovault, sneaker_js, zerolight, sneaker_ts)


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that the account which runs Postgres for root can reach; pytest's own is shut."""
    made = Path(tempfile.mkdtemp(prefix="velvetrope-test-", dir="/tmp"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


@pytest.fixture
async def crowd(folder: Path) -> AsyncIterator[Crowd]:
    """A `make run` with servers of its own and the demo in it."""
    ours = {name.upper() for name in Settings.__struct_fields__}
    environment = {name: value for name, value in os.environ.items() if name not in ours} | {
        "DATA_DIR": str(folder),
        "PORT": str(free_port()),
        "AUTH": "open",
        "WORKERS": "1",
        "DEMO_ACCOUNTS": "1",
    }
    said = folder / "said"
    with said.open("w") as out:
        run = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "engine", "dev"), env=environment, stdout=out, stderr=out
        )

    async def is_ready() -> bool:
        assert run.returncode is None, said.read_text()
        return "velvetrope ready on" in said.read_text()

    crowd = Crowd(f"http://127.0.0.1:{environment['PORT']}")
    try:
        await wait_until(is_ready, "make run is ready", seconds=90)
        yield crowd
    finally:
        await crowd.close()
        if run.returncode is None:
            run.send_signal(signal.SIGINT)
        await asyncio.wait_for(run.wait(), 20)


def test_every_row_has_its_walk() -> None:
    for system in SYSTEMS:
        assert [row.name for row in system.rows] == list(system.walks), system.name
    assert [len(system.rows) for system in SYSTEMS] == [8, 6, 29, 10]


@pytest.mark.timeout(120)
async def test_every_row_of_every_table_answers_as_printed(crowd: Crowd) -> None:
    for system in SYSTEMS:
        await system.walked(crowd)


# CryoVault


async def _free_slot(here: Visit) -> Any:
    slots = (await here.ask("GET", "/slots"))["data"]
    return next(slot["id"] for slot in slots if slot["status"] == "AVAILABLE")


async def _held(here: Visit) -> Any:
    wanted = {"slotId": await _free_slot(here), "userId": "sarah"}
    return (await here.ask("POST", "/hold", wanted))["reservation"]["id"]


@cryovault.row("GET /api/slots", 200)
async def _(here: Visit) -> None:
    slots = (await here()).json["data"]
    here.differs(ENVELOPE)
    assert [slot["name"] for slot in slots][:2] == ["F1-A", "F1-B"]
    assert {slot["status"] for slot in slots} >= {"AVAILABLE", "OCCUPIED"}


@cryovault.row("GET /api/slots/:id", 200, 404)
async def _(here: Visit) -> None:
    slot = (await here(await _free_slot(here))).json
    missing = await here(1)
    assert (slot["status"], slot["targetTemp"]) == ("AVAILABLE", -70)
    assert (missing.error, len(slot["history"])) == ("NOT_FOUND", 12)
    for words in (ENVELOPE, "`SLOT_NOT_FOUND`", "`history`", "a slot's id is an integer"):
        here.differs(words)


@cryovault.row("POST /api/hold", 201, 400, 404, 409)
async def _(here: Visit) -> None:
    slot = await _free_slot(here)
    held = await here(body={"slotId": str(slot), "userId": "sarah"})
    taken = await here(body={"slotId": slot, "userId": "james"})
    half = await here(body={"userId": "sarah"})
    missing = await here(body={"slotId": 1, "userId": "sarah"})
    assert (held.json["expiresIn"], held.json["reservation"]["status"]) == (120, "active")
    assert (taken.error, half.error) == ("SLOT_NOT_AVAILABLE", "VALIDATION_ERROR")
    assert missing.error == "NOT_FOUND"
    for words in ("`SLOT_NOT_AVAILABLE`, `NOT_FOUND`", "a reservation is `PENDING`"):
        here.differs(words)


@cryovault.row("POST /api/book", 201, 200, 400, 404, 409)
async def _(here: Visit) -> None:
    wanted = {"reservationId": await _held(here), "manifestId": "MAN-2041", "quantity": 240}
    booked = await here(body=wanted)
    again = await here(body=wanted)
    half = await here(body={"reservationId": wanted["reservationId"]})
    missing = await here(body=wanted | {"reservationId": NOBODY})
    other = await here(body=wanted | {"manifestId": "MAN-2042"})
    assert booked.json["ledgerEntry"]["action"] == "BOOKING_CONFIRMED"
    assert (again.status, again.json["booking"]) == (200, booked.json["booking"])
    here.differs("200 with the booking it made; another manifest 409")
    assert [each.error for each in (half, missing, other)] == [
        "VALIDATION_ERROR",
        "NOT_FOUND",
        "ALREADY_RESOLVED",
    ]
    here.differs("`ALREADY_RESOLVED`")


@cryovault.row("GET /api/ledger", 200)
async def _(here: Visit) -> None:
    async def sealed() -> Any:
        newest, *others = (await here()).json["data"]
        return newest["action"] == "BOOKING_CONFIRMED" and len(others) == 9 and newest

    newest = await wait_until(sealed, "the booking is sealed", pause=0.1)
    assert (len(newest["dataHash"]), len(newest["previousHash"])) == (64, 64)
    for words in (ENVELOPE, "`dataHash` is 16 hex digits"):
        here.differs(words)


@cryovault.row("GET /api/ledger/verify", 200)
async def _(here: Visit) -> None:
    assert (await here()).json["valid"] is True


@cryovault.row("POST /api/simulate/traffic", 200)
async def _(here: Visit) -> None:
    assert (await here()).json["message"].startswith("Updated ")
    here.differs("it holds, books and releases as a buyer of its own")


@cryovault.row("POST /api/simulate/failure", 200)
async def _(here: Visit) -> None:
    told = (await here()).json
    assert told["message"] == f"Slot {told['slot']['name']} is now CRITICAL"
    assert told["slot"]["tempStatus"] == "CRITICAL"


# Sneaker drop, JavaScript

JORDAN = {"name": "Air Jordan 1 High OG", "price": 200, "totalStock": 1}  # its curl, of one pair


async def _jordan(here: Visit) -> int:
    return int((await here.ask("POST", "/drops", JORDAN))["id"])


@sneaker_js.row("GET /api/drops", 200)
async def _(here: Visit) -> None:
    drop = await _jordan(here)
    newest = (await here()).json["data"][0]
    assert (newest["id"], newest["availableStock"], newest["recentPurchases"]) == (drop, 1, [])
    for words in ("a bare array", "`price` is a number"):
        here.differs(words)
    live = (await here(query="?status=live")).json["data"]
    assert {each["status"] for each in live} == {"live"}
    here.differs("`?status=live`")


@sneaker_js.row("GET /api/drops/:id", 200, 404)
async def _(here: Visit) -> None:
    shown = (await here(await _jordan(here))).json
    assert (shown["name"], shown["price"], shown["totalStock"]) == (JORDAN["name"], "200.00", 1)
    assert [(await here(name)).error for name in (10**9, "x")] == ["NOT_FOUND"] * 2


@sneaker_js.row("POST /api/drops", 201, 400)
async def _(here: Visit) -> None:
    made = (await here(body=JORDAN)).json
    assert (made["availableStock"], made["status"]) == (1, "live")
    here.differs("`{message, drop}` with `total_stock`")
    for wrong in ({"name": "x"}, JORDAN | {"totalStock": -1}, JORDAN | {"totalStock": 0}):
        assert (await here(body=wrong)).error == "VALIDATION_ERROR"
    here.differs("a negative stock is taken")


@sneaker_js.row("POST /api/reserve/:dropId", 201, 400, 404, 409)
async def _(here: Visit) -> None:
    drop = await _jordan(here)
    held = (await here(drop, body={"userId": 1})).json
    assert (held["userId"], held["dropId"], held["status"]) == ("1", drop, "active")
    for words in ("`{message, reservation: {id, UserId", "`userId` is a number"):
        here.differs(words)
    assert (await here(drop, body={})).error == "VALIDATION_ERROR"
    assert (await here(10**9, body={"userId": 1})).error == "NOT_FOUND"
    assert (await here(drop, body={"userId": 1})).error == "LIMIT_REACHED"
    assert (await here(drop, body={"userId": 2})).error == "SOLD_OUT"
    for words in ("everything that goes wrong is 400", "as many as one likes"):
        here.differs(words)


@sneaker_js.row("POST /api/purchase/:reservationId", 201, 200, 403, 404)
async def _(here: Visit) -> None:
    held = (await here.ask("POST", f"/reserve/{await _jordan(here)}", {"userId": 1}))["id"]
    assert (await here(held, body={"userId": 2})).error == "NOT_YOUR_RESERVATION"
    bought = (await here(held, body={"userId": 1})).json
    again = await here(held, body={"userId": 1})
    assert (bought["reservationId"], again.status, again.json["id"]) == (held, 200, bought["id"])
    assert (await here(NOBODY, body={"userId": 1})).error == "NOT_FOUND"
    for words in ("one reservation can be bought again and again", "`{message, purchase, drop}`"):
        here.differs(words)


@sneaker_js.row("GET /api/health", 200)
async def _(here: Visit) -> None:
    assert (await here()).json["status"] == "ok"
    here.differs('`{status: "OK", message}`')


# ZeroLight

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


@zerolight.row("GET /api/v1/users", 200)
async def _(here: Visit) -> None:
    user = await _user(here)
    listed = (await here(query="?page=1&limit=50")).json
    assert user["id"] in [each["id"] for each in listed["data"]]
    for words in (ENVELOPE, "20, 100 at most"):
        here.differs(words)


@zerolight.row("GET /api/v1/users/:id", 200, 404)
async def _(here: Visit) -> None:
    user = await _user(here)
    assert (await here(user["id"])).json == user
    for missing in (NOBODY, "nonsense"):
        assert (await here(missing)).json["message"] == "User not found"


@zerolight.row("GET /api/v1/users/privy/:privyId", 200, 404)
async def _(here: Visit) -> None:
    user = await _user(here)
    assert (await here(user["privyId"])).json == user
    assert (await here("nobody")).json["message"] == "User not found"


@zerolight.row("GET /api/v1/users/wallet/:walletAddress", 200, 404)
async def _(here: Visit) -> None:
    user, wallet = await _user(here), f"0x{'1' * 40}"
    assert (await here(wallet)).json["message"] == "User not found"
    await here.ask("POST", f"/users/{user['id']}/wallet", {"walletAddress": wallet})
    assert (await here(wallet)).json["id"] == user["id"]


@zerolight.row("POST /api/v1/users", 201, 400)
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


@zerolight.row("PUT /api/v1/users/:id", 200, 400, 404, 409)
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


@zerolight.row("POST /api/v1/users/:id/wallet", 200, 400, 404, 409)
async def _(here: Visit) -> None:
    user, other = await _user(here), await _user(here)
    told = (await here(user["id"], body={"walletAddress": WALLET})).json
    assert told["walletAddress"] == WALLET
    assert (await here(user["id"], body={})).error == "VALIDATION_ERROR"
    taken = await here(other["id"], body={"walletAddress": WALLET.lower()})
    assert (taken.status, taken.json["message"]) == (409, "Wallet address already registered")
    here.differs("of a wallet that is taken: 400")
    assert (await here(NOBODY, body={"walletAddress": f"0x{'2' * 40}"})).error == "NOT_FOUND"


@zerolight.row("POST /api/v1/users/:id/activity", 200, 404)
async def _(here: Visit) -> None:
    user = await _user(here)
    assert (await here(user["id"])).json["message"] == "Activity updated successfully"
    assert (await here(NOBODY)).error == "NOT_FOUND"


@zerolight.row("DELETE /api/v1/users/:id", 200, 404)
async def _(here: Visit) -> None:
    user = await _user(here)
    for _ in range(2):
        assert (await here(user["id"])).json["message"] == "User deleted successfully"
    assert (await here(NOBODY)).error == "NOT_FOUND"
    here.differs("leaves the user to be read")


@zerolight.row("POST /api/v1/sessions", 201, 400)
async def _(here: Visit) -> None:
    wanted = {"userId": (await _user(here))["id"], "deviceId": "device123", "platform": "ios"}
    wanted["idempotencyKey"] = "request-uuid-here"  # its curl
    made, again = await here(body=wanted), await here(body=wanted)
    assert (made.status, made.json["id"]) == (201, again.json["id"])  # Same key = same session
    assert (await here(body=wanted | {"platform": "vms"})).error == "VALIDATION_ERROR"
    here.differs("is printed, and was never there")


@zerolight.row("GET /api/v1/sessions/:id", 200, 404)
async def _(here: Visit) -> None:
    session = await _session(here)
    assert (await here(session["id"])).json["deviceId"] == "device123"
    assert (await here(NOBODY)).json["message"] == "Session not found"


@zerolight.row("GET /api/v1/sessions/user/:userId/active", 200, 404)
async def _(here: Visit) -> None:
    session = await _session(here)
    assert (await here(session["userId"])).json["id"] == session["id"]
    await here.ask("DELETE", f"/sessions/{session['id']}")
    assert (await here(session["userId"])).json["message"] == "No active session found"


@zerolight.row("GET /api/v1/sessions/user/:userId", 200)
async def _(here: Visit) -> None:
    session = await _session(here)
    assert [each["id"] for each in (await here(session["userId"])).json["data"]] == [session["id"]]


@zerolight.row("GET /api/v1/sessions/user/:userId/stats", 200)
async def _(here: Visit) -> None:
    stats = (await here((await _session(here))["userId"])).json
    assert (stats["totalSessions"], stats["activeSessions"]) == (1, 1)
    assert stats["deviceBreakdown"] == [{"platform": "ios", "count": 1}]


@zerolight.row("PUT /api/v1/sessions/:id", 200, 404, 410)
async def _(here: Visit) -> None:
    session = await _session(here)
    assert (await here(session["id"], body={"deviceName": "Ann's"})).json["deviceName"] == "Ann's"
    assert (await here(NOBODY, body={"deviceName": "x"})).error == "NOT_FOUND"
    await here.ask("DELETE", f"/sessions/{session['id']}")
    assert (await here(session["id"], body={"deviceName": "x"})).error == "EXPIRED"
    here.differs("410 `EXPIRED`; ending it again is 200")


@zerolight.row("POST /api/v1/sessions/:id/activity", 200, 404)
async def _(here: Visit) -> None:
    assert (await here((await _session(here))["id"])).status == 200
    assert (await here(NOBODY)).error == "NOT_FOUND"


@zerolight.row("PUT /api/v1/sessions/:id/push-token", 200, 400, 404)
async def _(here: Visit) -> None:
    session = await _session(here)
    assert (await here(session["id"], body={"pushToken": "apns-1"})).status == 200
    sentence = "Push token is required and must be a string"
    assert (await here(session["id"], body={})).json["message"] == sentence
    assert (await here(NOBODY, body={"pushToken": "apns-1"})).error == "NOT_FOUND"


@zerolight.row("POST /api/v1/sessions/:id/extend", 200, 400, 404)
async def _(here: Visit) -> None:
    session = await _session(here)
    longer = (await here(session["id"], body={"additionalDays": 30})).json
    assert longer["expiresAt"] > session["expiresAt"]
    assert (await here(session["id"], body={"additionalDays": "5"})).error == "VALIDATION_ERROR"
    here.differs("only a live session can be extended")
    assert (await here(NOBODY, body={"additionalDays": 30})).error == "NOT_FOUND"


@zerolight.row("DELETE /api/v1/sessions/:id", 200, 404)
async def _(here: Visit) -> None:
    session = await _session(here)
    for _ in range(2):
        assert (await here(session["id"])).status == 200
    assert (await here(NOBODY)).error == "NOT_FOUND"


@zerolight.row("DELETE /api/v1/sessions/user/:userId/all", 200)
async def _(here: Visit) -> None:
    ended = (await here((await _session(here))["userId"])).json
    assert (ended["message"], ended["count"]) == ("1 session(s) terminated successfully", 1)


QUIET = {"quietHoursEnabled": True, "quietHoursStart": "22:00", "quietHoursEnd": "07:00"}


@zerolight.row("GET /api/v1/notifications/preferences/:userId", 200, 404)
async def _(here: Visit) -> None:
    told = (await here((await _user(here))["id"])).json
    assert (told["pushEnabled"], told["marketingUpdates"], told["createdAt"]) == (True, False, None)
    here.differs("the defaults are told and nothing is written")
    assert (await here(NOBODY)).error == "NOT_FOUND"


@zerolight.row("PUT /api/v1/notifications/preferences/:userId", 200, 400, 404)
async def _(here: Visit) -> None:
    user = (await _user(here))["id"]
    half = await here(user, body={"quietHoursEnabled": True})
    assert half.json["message"] == (
        "Quiet hours start and end times are required when quiet hours are enabled"
    )
    assert (await here(user, body=QUIET)).json["quietHoursStart"] == "22:00:00"
    here.differs("`quietHoursStart` is told as")
    assert (await here(NOBODY, body=QUIET)).error == "NOT_FOUND"


@zerolight.row("POST /api/v1/notifications/preferences/:userId/reset", 200, 404)
async def _(here: Visit) -> None:
    user = (await _user(here))["id"]
    await here.ask("PUT", f"/notifications/preferences/{user}", QUIET)
    assert (await here(user)).json["quietHoursEnabled"] is False
    assert (await here(NOBODY)).error == "NOT_FOUND"


@zerolight.row("POST /api/private-beta/referral", 201)
async def _(here: Visit) -> None:
    assert len((await here()).json["referralKey"].replace("-", "")) == 12
    here.differs("`referralKey`, twelve letters")


async def _key(here: Visit) -> Any:
    return (await here.ask("POST", "/private-beta/referral"))["referralKey"]


@zerolight.row("POST /api/private-beta/verify", 200, 400, 404, 409)
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


@zerolight.row("POST /api/private-beta/check-validity", 200, 400, 404)
async def _(here: Visit) -> None:
    assert (await here(body={"referral_key": await _key(here)})).json["valid"] is True
    here.differs("a key that can still be used is `valid`")
    assert (await here(body={})).error == "VALIDATION_ERROR"
    assert (await here(body={"referral_key": "123456"})).error == "NOT_FOUND"


@zerolight.row("POST /api/private-beta/status", 200, 400, 404)
async def _(here: Visit) -> None:
    assert (await here(body={"user_email": "beta@example.com"})).status == 200
    assert (await here(body={"user_email": "nobody@example.com"})).error == "NOT_FOUND"
    assert (await here(body={})).error == "VALIDATION_ERROR"


@zerolight.row("GET /api/private-beta/users", 200)
async def _(here: Visit) -> None:
    assert (await here()).json["data"]
    here.differs("`/users` and `/debug` are operators'")


@zerolight.row("GET /api/private-beta/debug", 200)
async def _(here: Visit) -> None:
    assert (await here()).json["data"]


# Sneaker drop, TypeScript

SARAH = {"email": "sarah@example.com", "password": "123456"}  # from its seed data
ADMIN = {"email": "admin@techzu.com", "password": "123456"}


async def _enters(here: Visit, who: dict[str, str]) -> tuple[str, Any]:
    """A token, and whose it is."""
    entered = await here.ask("POST", "/users/login", who)
    return str(entered["token"]), entered["user"]


@sneaker_ts.row("POST /api/users/register", 201, 400, 409)
async def _(here: Visit) -> None:
    new = {"username": "anna_b", "email": "anna@example.com", "password": "a good password"}
    made = (await here(body=new)).json
    assert (made["user"]["username"], made["user"]["role"]) == ("anna_b", "user")
    half = await here(body={"username": "x"})
    assert half.json["message"] == "username, email, and password are required"
    assert (await here(body=new)).error == "USER_EXISTS"
    assert (await here(body=new | {"email": "b@example.com", "password": "123456"})).status == 400
    for words in ("register: `200` or `400`", "8 to 256 characters", ENVELOPE):
        here.differs(words)


@sneaker_ts.row("POST /api/users/login", 200, 400, 401)
async def _(here: Visit) -> None:
    entered = (await here(body=SARAH)).json
    assert (entered["user"]["username"], bool(entered["token"])) == ("sarah_k", True)
    assert (await here(body={})).json["message"] == "Email and password are required"
    wrong = await here(body=SARAH | {"password": "654321"})
    assert wrong.json["message"] == "Invalid email or password"
    here.differs("a session with `token` and `refreshToken`")


@sneaker_ts.row("GET /api/users/:id", 200, 401, 404)
async def _(here: Visit) -> None:
    token, sarah = await _enters(here, SARAH)
    _, admin = await _enters(here, ADMIN)
    assert (await here(sarah["id"], token=token)).json["email"] == SARAH["email"]
    assert (await here(admin["id"], token=token)).json == {"id": admin["id"], "username": "admin"}
    here.differs("a stranger sees `id` and `username`")
    assert (await here(sarah["id"], token="nonsense")).error == "UNAUTHORIZED"
    for missing in (NOBODY, "nonsense"):
        assert (await here(missing, token=token)).json["message"] == "User not found"
    here.differs("a malformed id is a 500")


@sneaker_ts.row("GET /api/drops", 200, 400)
async def _(here: Visit) -> None:
    listed = (await here(query="?page=2&pageSize=10")).json
    assert (listed["meta"]["currentPage"], listed["meta"]["pageSize"]) == (2, 10)
    assert len(listed["data"]) == 10
    assert (await here(query="?pageSize=junk")).error == "VALIDATION_ERROR"
    here.differs("`pageSize` without end, junk is 10")


@sneaker_ts.row("GET /api/drops/:id", 200, 404)
async def _(here: Visit) -> None:
    drop = await here.ask("POST", "/drops", JORDAN)
    token, _ = await _enters(here, SARAH)
    held = await here.ask("POST", "/reservations", {"dropId": drop["id"]}, token)
    await here.ask("POST", "/purchases", {"reservationId": held["id"]}, token)

    async def told() -> bool:
        shown = (await here(drop["id"])).json
        return [each["username"] for each in shown["recentPurchases"]] == ["sarah_k"]

    await wait_until(told, "the drop tells who bought")
    assert (await here(10**9)).error == "NOT_FOUND"
    for words in ("`topPurchasers`", "a drop's id is an integer"):
        here.differs(words)


@sneaker_ts.row("POST /api/drops", 201, 400, 401, 403)
async def _(here: Visit) -> None:
    token, _ = await _enters(here, ADMIN)
    assert (await here(body=JORDAN, token=token)).json["price"] == "200.00"
    assert (await here(body={}, token=token)).error == "VALIDATION_ERROR"
    assert (await here(body=JORDAN, token="nonsense")).error == "UNAUTHORIZED"
    token, _ = await _enters(here, SARAH)
    assert (await here(body=JORDAN, token=token)).error == "FORBIDDEN"


@sneaker_ts.row("POST /api/reservations", 201, 400, 401, 404, 409)
async def _(here: Visit) -> None:
    token, _ = await _enters(here, SARAH)
    wanted = {"dropId": (await here.ask("POST", "/drops", JORDAN))["id"]}
    held = (await here(body=wanted, token=token)).json
    assert (held["status"], held["availableStock"]) == ("active", 0)
    assert (await here(body=wanted, token=token)).error == "LIMIT_REACHED"
    assert (await here(body=wanted | {"userId": "mike"})).error == "SOLD_OUT"
    assert (await here(body={}, token=token)).error == "VALIDATION_ERROR"
    assert (await here(body={"dropId": 10**9}, token=token)).error == "NOT_FOUND"
    assert (await here(body=wanted, token="nonsense")).error == "UNAUTHORIZED"
    for words in ("`{reservation: {…}, availableStock}`", "409 `LIMIT_REACHED`"):
        here.differs(words)


@sneaker_ts.row("GET /api/reservations", 200, 401)
async def _(here: Visit) -> None:
    token, _ = await _enters(here, SARAH)
    assert [each["status"] for each in (await here(token=token)).json["data"]] == ["active"]
    assert (await here(token="nonsense")).error == "UNAUTHORIZED"


@sneaker_ts.row("POST /api/purchases", 201, 200, 400, 401, 403, 404)
async def _(here: Visit) -> None:
    token, _ = await _enters(here, SARAH)
    wanted = {
        "reservationId": (await here.ask("GET", "/reservations", None, token))["data"][0]["id"]
    }
    assert (await here(body=wanted | {"userId": "mike"})).error == "NOT_YOUR_RESERVATION"
    bought, again = await here(body=wanted, token=token), await here(body=wanted, token=token)
    assert (bought.status, again.status, again.json["id"]) == (201, 200, bought.json["id"])
    here.differs("a purchase again is 410")
    assert (await here(body={}, token=token)).error == "VALIDATION_ERROR"
    assert (await here(body={"reservationId": NOBODY}, token=token)).error == "NOT_FOUND"
    assert (await here(body=wanted, token="nonsense")).error == "UNAUTHORIZED"


@sneaker_ts.row("GET /api/purchases/mine", 200, 401)
async def _(here: Visit) -> None:
    token, _ = await _enters(here, SARAH)
    newest = (await here(token=token)).json["data"][0]
    assert newest["drop"]["name"] == JORDAN["name"]
    assert (await here(token="nonsense")).error == "UNAUTHORIZED"
    here.differs("and `drop`")
