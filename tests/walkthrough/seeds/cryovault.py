"""CryoVault's rows, and how each is walked."""

from __future__ import annotations

from typing import Any

from tests.support.wait import wait_until
from tests.walkthrough.rows import ENVELOPE, NOBODY, System, Visit

SYSTEM = System(
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


async def _free_slot(here: Visit) -> Any:
    slots = (await here.ask("GET", "/slots"))["data"]
    return next(slot["id"] for slot in slots if slot["status"] == "AVAILABLE")


async def _held(here: Visit) -> Any:
    wanted = {"slotId": await _free_slot(here), "userId": "sarah"}
    return (await here.ask("POST", "/hold", wanted))["reservation"]["id"]


@SYSTEM.row("GET /api/slots", 200)
async def _(here: Visit) -> None:
    slots = (await here()).json["data"]
    here.differs(ENVELOPE)
    assert [slot["name"] for slot in slots][:2] == ["F1-A", "F1-B"]
    assert {slot["status"] for slot in slots} >= {"AVAILABLE", "OCCUPIED"}


@SYSTEM.row("GET /api/slots/:id", 200, 404)
async def _(here: Visit) -> None:
    slot = (await here(await _free_slot(here))).json
    missing = await here(1)
    assert (slot["status"], slot["targetTemp"]) == ("AVAILABLE", -70)
    assert (missing.error, len(slot["history"])) == ("NOT_FOUND", 12)
    for words in (ENVELOPE, "`SLOT_NOT_FOUND`", "`history`", "a slot's id is an integer"):
        here.differs(words)


@SYSTEM.row("POST /api/hold", 201, 400, 404, 409)
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


@SYSTEM.row("POST /api/book", 201, 200, 400, 404, 409)
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


@SYSTEM.row("GET /api/ledger", 200)
async def _(here: Visit) -> None:
    async def sealed() -> Any:
        newest, *others = (await here()).json["data"]
        return newest["action"] == "BOOKING_CONFIRMED" and len(others) == 9 and newest

    newest = await wait_until(sealed, "the booking is sealed", pause=0.1)
    assert (len(newest["dataHash"]), len(newest["previousHash"])) == (64, 64)
    for words in (ENVELOPE, "`dataHash` is 16 hex digits"):
        here.differs(words)


@SYSTEM.row("GET /api/ledger/verify", 200)
async def _(here: Visit) -> None:
    assert (await here()).json["valid"] is True


@SYSTEM.row("POST /api/simulate/traffic", 200)
async def _(here: Visit) -> None:
    assert (await here()).json["message"].startswith("Updated ")
    here.differs("it holds, books and releases as a buyer of its own")


@SYSTEM.row("POST /api/simulate/failure", 200)
async def _(here: Visit) -> None:
    told = (await here()).json
    assert told["message"] == f"Slot {told['slot']['name']} is now CRITICAL"
    assert told["slot"]["tempStatus"] == "CRITICAL"
