"""The rows of the sneaker drop in JavaScript, and how each is walked."""

from __future__ import annotations

from tests.walkthrough.rows import NOBODY, System, Visit

SYSTEM = System(
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


JORDAN = {"name": "Air Jordan 1 High OG", "price": 200, "totalStock": 1}  # its curl, of one pair


async def _jordan(here: Visit) -> int:
    return int((await here.ask("POST", "/drops", JORDAN))["id"])


@SYSTEM.row("GET /api/drops", 200)
async def _(here: Visit) -> None:
    drop = await _jordan(here)
    newest = (await here()).json["data"][0]
    assert (newest["id"], newest["availableStock"], newest["recentPurchases"]) == (drop, 1, [])
    for words in ("a bare array", "`price` is a number"):
        here.differs(words)
    live = (await here(query="?status=live")).json["data"]
    assert {each["status"] for each in live} == {"live"}
    here.differs("`?status=live`")


@SYSTEM.row("GET /api/drops/:id", 200, 404)
async def _(here: Visit) -> None:
    shown = (await here(await _jordan(here))).json
    assert (shown["name"], shown["price"], shown["totalStock"]) == (JORDAN["name"], "200.00", 1)
    assert [(await here(name)).error for name in (10**9, "x")] == ["NOT_FOUND"] * 2


@SYSTEM.row("POST /api/drops", 201, 400)
async def _(here: Visit) -> None:
    made = (await here(body=JORDAN)).json
    assert (made["availableStock"], made["status"]) == (1, "live")
    here.differs("`{message, drop}` with `total_stock`")
    for wrong in ({"name": "x"}, JORDAN | {"totalStock": -1}, JORDAN | {"totalStock": 0}):
        assert (await here(body=wrong)).error == "VALIDATION_ERROR"
    here.differs("a negative stock is taken")


@SYSTEM.row("POST /api/reserve/:dropId", 201, 400, 404, 409)
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


@SYSTEM.row("POST /api/purchase/:reservationId", 201, 200, 403, 404)
async def _(here: Visit) -> None:
    held = (await here.ask("POST", f"/reserve/{await _jordan(here)}", {"userId": 1}))["id"]
    assert (await here(held, body={"userId": 2})).error == "NOT_YOUR_RESERVATION"
    bought = (await here(held, body={"userId": 1})).json
    again = await here(held, body={"userId": 1})
    assert (bought["reservationId"], again.status, again.json["id"]) == (held, 200, bought["id"])
    assert (await here(NOBODY, body={"userId": 1})).error == "NOT_FOUND"
    for words in ("one reservation can be bought again and again", "`{message, purchase, drop}`"):
        here.differs(words)


@SYSTEM.row("GET /api/health", 200)
async def _(here: Visit) -> None:
    assert (await here()).json["status"] == "ok"
    here.differs('`{status: "OK", message}`')
