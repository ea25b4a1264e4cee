"""Who had the sneaker drop in TypeScript finds its README's lines here, one after the other; where
an answer is another, the test says so, and docs/SEEDS.md says why. What its sockets hear:
tests/realtime/test_socketio.py. Its people: tests/ops/test_seed.py.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any

import pytest
from msgspec.structs import replace

from engine.infra import settings as knobs
from engine.infra.settings import Settings
from engine.ops.seed import seed
from tests.support.http import Reply
from tests.support.shop import Shop
from tests.walkthrough.conftest import Operator

SARAH = {"username": "sarah_k", "email": "sarah@example.com", "password": "a good password"}
Asks = Callable[..., Awaitable[Reply]]


async def _sarah(shop: Shop) -> tuple[dict[str, Any], dict[str, str]]:
    """Sarah, who registered, and what her browser sends from then on."""
    reply = await shop.visit("POST", "/api/users/register", SARAH)
    assert reply.status == 201, reply.body
    return reply.json["user"], {"authorization": f"Bearer {reply.json['token']}"}


async def test_auth_line_by_line(shop: Shop, settings: Settings) -> None:
    user, headers = await _sarah(shop)
    assert (user["username"], user["email"], user["role"]) == ("sarah_k", SARAH["email"], "user")
    assert "password" not in str(user)

    twice = await shop.visit("POST", "/api/users/register", SARAH)
    assert (twice.status, twice.error) == (409, "USER_EXISTS")  # there 400
    half = await shop.visit("POST", "/api/users/register", {"username": "x"})
    assert half.json["message"] == "username, email, and password are required"
    entering = {"email": SARAH["email"], "password": SARAH["password"]}
    entered = await shop.visit("POST", "/api/users/login", entering)
    assert (entered.status, entered.json["user"]["id"]) == (200, user["id"])
    for wrong in ({"password": "another one"}, {"email": "nobody@example.com"}):
        refused = await shop.visit("POST", "/api/users/login", entering | wrong)
        assert (refused.status, refused.json["message"]) == (401, "Invalid email or password")
    nothing = await shop.visit("POST", "/api/users/login", {})
    assert nothing.json["message"] == "Email and password are required"

    # The login ended the session of the registration: one live session a user.
    headers = {"authorization": f"Bearer {entered.json['token']}"}
    own = await shop.visit("GET", f"/api/users/{user['id']}", None, headers)
    assert (own.status, own.json["email"]) == (200, SARAH["email"])
    if settings.auth == "required":
        assert (await shop.visit("GET", f"/api/users/{user['id']}")).status == 401
    other = await shop.visit(
        "POST", "/api/users/register", SARAH | {"username": "mike92", "email": "mike@example.com"}
    )
    headers = {"authorization": f"Bearer {other.json['token']}"}
    stranger = await shop.visit("GET", f"/api/users/{user['id']}", None, headers)
    assert stranger.json == {"id": user["id"], "username": "sarah_k"}  # there e-mail and role too
    malformed = await shop.visit("GET", "/api/users/nonsense", None, headers)  # there 500
    assert (malformed.status, malformed.json["message"]) == (404, "User not found")


async def test_from_a_drop_to_a_purchase_line_by_line(operator: Operator, shop: Shop) -> None:
    _, headers = await _sarah(shop)

    async def sarah(method: str, path: str, body: Any = None) -> Reply:
        return await shop.visit(method, f"/api{path}", body, headers)

    image = "https://shop.example/aurora.png"
    made = await operator.asks(
        "POST", "/drops", {"name": "Aurora", "price": 200, "totalStock": 5, "imageUrl": image}
    )
    assert (made.status, made.json["price"], made.json["imageUrl"]) == (201, "200.00", image)
    assert (await sarah("POST", "/drops", {"name": "X", "price": 1, "totalStock": 1})).status == 403
    drop = made.json["id"]
    listed = (await shop.visit("GET", "/api/drops?page=1&pageSize=10")).json
    assert listed["meta"] == {
        "totalItems": 1,
        "totalPages": 1,
        "currentPage": 1,
        "pageSize": 10,
    }
    assert [each["id"] for each in listed["data"]] == [drop]

    held = await sarah("POST", "/reservations", {"dropId": str(drop)})
    assert (held.status, held.json["status"], held.json["availableStock"]) == (201, "active", 4)
    life = datetime.fromisoformat(held.json["expiresAt"]) - datetime.fromisoformat(
        held.json["serverTime"]
    )
    assert life.total_seconds() == pytest.approx(60, abs=0.01)
    again = await sarah("POST", "/reservations", {"dropId": drop})
    assert (again.status, again.error) == (409, "LIMIT_REACHED")
    nothing = await sarah("POST", "/reservations", {})
    assert (nothing.status, nothing.json["details"]["fields"][0]["field"]) == (400, "dropId")
    mine = (await sarah("GET", "/reservations")).json["data"]
    assert [each["id"] for each in mine] == [held.json["id"]]

    bought = await sarah("POST", "/purchases", {"reservationId": held.json["id"]})
    assert (bought.status, bought.json["reservationId"]) == (201, held.json["id"])
    twice = await sarah("POST", "/purchases", {"reservationId": held.json["id"]})
    assert (twice.status, twice.json["id"]) == (200, bought.json["id"])  # there 410
    history = (await sarah("GET", "/purchases/mine")).json["data"]
    assert [(each["id"], each["drop"]["name"]) for each in history] == [
        (bought.json["id"], "Aurora")
    ]
    shown = (await shop.visit("GET", f"/api/drops/{drop}")).json
    assert (shown["totalStock"], shown["availableStock"]) == (5, 4)
    # There `topPurchasers`, and `Drop` above.
    assert [each["username"] for each in shown["recentPurchases"]] == ["sarah_k"]


async def test_the_demos_people_may_log_in(shop: Shop, settings: Settings) -> None:
    """Printed: admin@techzu.com / 123456, and four more. Here only where everybody is trusted."""
    known = {"email": "admin@techzu.com", "password": "123456"}
    await seed(replace(settings, demo_accounts=True, auth="open"))

    entered = await shop.visit("POST", "/api/users/login", known)

    if settings.auth == "required":
        assert (entered.status, entered.json["message"]) == (401, "Invalid email or password")
        return
    assert (entered.status, entered.json["user"]["role"]) == (200, "admin")
    headers = {"authorization": f"Bearer {entered.json['token']}"}
    drop = {"name": "X", "price": 1, "totalStock": 1}
    assert (await shop.visit("POST", "/api/drops", drop, headers)).status == 201
    john = {"email": "john@example.com", "password": "123456"}
    his = (await shop.visit("POST", "/api/users/login", john)).json
    headers = {"authorization": f"Bearer {his['token']}"}
    mine = await shop.visit("GET", "/api/purchases/mine", None, headers)
    assert len(mine.json["data"]) == 3


def test_its_environment_is_understood() -> None:
    told = knobs.read(
        {
            "PORT": "5000",
            "FRONTEND_URL": "http://localhost:5173",
            "DB_HOST": "db.example",
            "DB_PORT": "5432",
            "DB_NAME": "sale",
            "DB_USER": "ann",
            "DB_PASSWORD": "p@ss",
            "DB_SSL": "true",
            "JWT_SECRET": "some_random_secret_string",
            "JWT_EXPIRES_IN": "7d",
        }
    )

    assert (told.port, told.origins) == (5000, frozenset({b"http://localhost:5173"}))
    assert told.database_url == "postgresql://ann:p%40ss@db.example:5432/sale?sslmode=require"
    assert (told.jwt_secret, told.jwt_expires_seconds) == ("some_random_secret_string", 7 * 86_400)
    assert "sslmode" not in knobs.read({"DB_HOST": "db", "DB_SSL": "false"}).database_url
