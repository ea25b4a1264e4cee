"""The rows of the sneaker drop in TypeScript, and how each is walked."""

from __future__ import annotations

from typing import Any

from tests.support.wait import wait_until
from tests.walkthrough.rows import ENVELOPE, NOBODY, System, Visit
from tests.walkthrough.seeds.sneaker_js import JORDAN

SYSTEM = System(
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


SARAH = {"email": "sarah@example.com", "password": "123456"}  # from its seed data
ADMIN = {"email": "admin@techzu.com", "password": "123456"}


async def _enters(here: Visit, who: dict[str, str]) -> tuple[str, Any]:
    """A token, and whose it is."""
    entered = await here.ask("POST", "/users/login", who)
    return str(entered["token"]), entered["user"]


@SYSTEM.row("POST /api/users/register", 201, 400, 409)
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


@SYSTEM.row("POST /api/users/login", 200, 400, 401)
async def _(here: Visit) -> None:
    entered = (await here(body=SARAH)).json
    assert (entered["user"]["username"], bool(entered["token"])) == ("sarah_k", True)
    assert (await here(body={})).json["message"] == "Email and password are required"
    wrong = await here(body=SARAH | {"password": "654321"})
    assert wrong.json["message"] == "Invalid email or password"
    here.differs("a session with `token` and `refreshToken`")


@SYSTEM.row("GET /api/users/:id", 200, 401, 404)
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


@SYSTEM.row("GET /api/drops", 200, 400)
async def _(here: Visit) -> None:
    listed = (await here(query="?page=2&pageSize=10")).json
    assert (listed["meta"]["currentPage"], listed["meta"]["pageSize"]) == (2, 10)
    assert len(listed["data"]) == 10
    assert (await here(query="?pageSize=junk")).error == "VALIDATION_ERROR"
    here.differs("`pageSize` without end, junk is 10")


@SYSTEM.row("GET /api/drops/:id", 200, 404)
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


@SYSTEM.row("POST /api/drops", 201, 400, 401, 403)
async def _(here: Visit) -> None:
    token, _ = await _enters(here, ADMIN)
    assert (await here(body=JORDAN, token=token)).json["price"] == "200.00"
    assert (await here(body={}, token=token)).error == "VALIDATION_ERROR"
    assert (await here(body=JORDAN, token="nonsense")).error == "UNAUTHORIZED"
    token, _ = await _enters(here, SARAH)
    assert (await here(body=JORDAN, token=token)).error == "FORBIDDEN"


@SYSTEM.row("POST /api/reservations", 201, 400, 401, 404, 409)
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


@SYSTEM.row("GET /api/reservations", 200, 401)
async def _(here: Visit) -> None:
    token, _ = await _enters(here, SARAH)
    assert [each["status"] for each in (await here(token=token)).json["data"]] == ["active"]
    assert (await here(token="nonsense")).error == "UNAUTHORIZED"


@SYSTEM.row("POST /api/purchases", 201, 200, 400, 401, 403, 404)
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


@SYSTEM.row("GET /api/purchases/mine", 200, 401)
async def _(here: Visit) -> None:
    token, _ = await _enters(here, SARAH)
    newest = (await here(token=token)).json["data"][0]
    assert newest["drop"]["name"] == JORDAN["name"]
    assert (await here(token="nonsense")).error == "UNAUTHORIZED"
    here.differs("and `drop`")
