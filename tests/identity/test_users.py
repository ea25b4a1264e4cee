"""Users: found, changed by one of many, deleted, and forgotten for good."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from engine.identity import users
from engine.identity.models import Device
from engine.identity.sessions import Sessions
from engine.infra.ids import new_id
from engine.infra.settings import Settings
from engine.record import books, keys
from engine.record.seal import seal
from engine.runtime import Ground
from tests.identity.conftest import Caller
from tests.support.shop import Shop

Buyers = Callable[[str], Caller]
CONFLICT = "User has been modified by another request. Please retry."


async def made(admin: Caller, **fields: Any) -> dict[str, Any]:
    """An account that somebody vouches for."""
    reply = await admin.asks("POST", "/users", {"privyId": f"did:privy:{new_id()}", **fields})
    assert reply.status == 201, reply.body
    user: dict[str, Any] = reply.json
    return user


async def test_of_fifty_that_change_one_version_one_does(admin: Caller) -> None:
    user = await made(admin)
    path = f"/users/{user['id']}"

    replies = await asyncio.gather(
        *(admin.asks("PUT", path, {"phone": f"+1 {n}", "version": 0}) for n in range(50))
    )

    assert sorted(reply.status for reply in replies) == [200] + [409] * 49
    for reply in replies:
        if reply.status == 409:
            assert (reply.error, reply.json["message"]) == ("VERSION_CONFLICT", CONFLICT)
            assert reply.json["retryable"] is True
            assert "retry-after" in reply.headers
    [won] = [reply.json for reply in replies if reply.status == 200]
    now = (await admin.asks("GET", path)).json
    assert (now["version"], now["phone"]) == (1, won["phone"])


async def test_a_change_says_of_which_version(admin: Caller, shop: Shop) -> None:
    user = await made(admin)
    path = f"/users/{user['id']}"
    headers = admin._headers | {"if-match": 'W/"0"'}

    unsaid = await admin.asks("PUT", path, {"phone": "1"})
    by_header = await shop.send("PUT", path, {"phone": "1"}, headers)

    assert (unsaid.status, unsaid.json["details"]["fields"][0]["field"]) == (400, "version")
    assert (by_header.status, by_header.headers["etag"]) == (200, '"1"')


async def test_names_are_somebodys_whatever_their_case(admin: Caller) -> None:
    wallet = "0x" + "ab" * 20
    user = await made(admin, walletAddress=wallet, email="Zoe@example.com", username="zoe")
    other = await made(admin)

    told = [
        await admin.asks("POST", "/users", {"privyId": user["privyId"]}),
        await admin.asks("POST", "/users", {"privyId": "p", "walletAddress": "0x" + "AB" * 20}),
        await admin.asks("POST", f"/users/{other['id']}/wallet", {"walletAddress": wallet}),
        await admin.asks("PUT", f"/users/{other['id']}", {"version": 0, "username": "ZOE"}),
    ]

    assert [(reply.status, reply.json["message"]) for reply in told] == [
        (400, "User with this Privy ID already exists"),
        (400, "Wallet address already registered"),
        (409, "Wallet address already registered"),
        (409, "This username is already taken"),
    ]
    assert {reply.error for reply in told} == {"USER_EXISTS"}
    for path in (f"privy/{user['privyId']}", f"wallet/0x{'AB' * 20}"):
        assert (await admin.asks("GET", f"/users/{path}")).json["id"] == user["id"]


async def test_a_wallet_was_registered_when_the_first_one_was(admin: Caller) -> None:
    user = await made(admin)
    first, second = [
        await admin.asks("POST", f"/users/{user['id']}/wallet", {"walletAddress": wallet})
        for wallet in ("0x" + "1" * 40, "0x" + "2" * 40)
    ]
    bad = await admin.asks("POST", f"/users/{user['id']}/wallet", {"walletAddress": "0x12"})

    assert second.json["walletAddress"] == "0x" + "2" * 40
    assert first.json["walletRegisteredAt"] == second.json["walletRegisteredAt"] is not None
    assert (second.json["version"], bad.status) == (2, 400)


async def test_others_see_a_name_and_change_nothing(
    admin: Caller,
    buyer: Buyers,
    nobody: Caller,
    server: Callable[..., Awaitable[Caller]],
) -> None:
    user = await made(admin, username="zoe", email="zoe@example.com")
    path, own = f"/users/{user['id']}", buyer(user["id"])
    stranger, seller, keeper = buyer("bob"), await server("sale:write"), await server("identity")

    assert (await nobody.asks("GET", path)).status == 401
    for other in (stranger, seller):
        assert (await other.asks("GET", path)).json == {"id": user["id"], "username": "zoe"}
    for friend in (own, keeper):
        assert (await friend.asks("GET", path)).json["email"] == "zoe@example.com"
    for method, where, body in (
        ("PUT", path, {"version": 0, "phone": "1"}),
        ("POST", f"{path}/wallet", {"walletAddress": "0x" + "1" * 40}),
        ("POST", f"{path}/activity", None),
        ("DELETE", path, None),
        ("DELETE", f"{path}?erase=true", None),
        ("GET", "/users", None),
        ("GET", "/users/first", None),
    ):
        assert await stranger.is_told(method, where, body) == (403, "FORBIDDEN"), where
        assert await nobody.is_told(method, where, body) == (401, "UNAUTHORIZED"), where
    for body in ({"version": 0, "role": "admin"}, {"version": 0, "status": "suspended"}):
        for caller in (own, keeper):
            assert await caller.is_told("PUT", path, body) == (403, "FORBIDDEN")
    assert (await own.asks("PUT", path, {"version": 0, "phone": "1"})).json["phone"] == "1"


async def test_a_shops_key_changes_no_admin_and_the_last_one_stays(
    admin: Caller, server: Callable[..., Awaitable[Caller]]
) -> None:
    one, two = [await made(admin) for _ in range(2)]
    for user in (one, two):
        wish = {"version": 0, "role": "admin"}
        assert (await admin.asks("PUT", f"/users/{user['id']}", wish)).status == 200
    keeper = await server("identity")
    wish = {"version": 1, "email": "mine@example.com"}
    assert await keeper.is_told("PUT", f"/users/{one['id']}", wish) == (403, "FORBIDDEN")
    assert await keeper.is_told("DELETE", f"/users/{one['id']}") == (403, "FORBIDDEN")

    # Each sees that the other goes: one of them stays.
    gone = await asyncio.gather(
        *(admin.is_told("DELETE", f"/users/{user['id']}") for user in (one, two))
    )
    assert sorted(gone) == [(200, ""), (409, "LAST_ADMIN")]


async def test_who_is_erased_left_nothing(
    admin: Caller, shop: Shop, ground: Ground, settings: Settings, drop: int
) -> None:
    user = await made(admin, username="zoe", email="zoe@example.com", phone="+1 555 0100")
    id = user["id"]
    device = Device("zoes-phone", "ios", "Zoe's", push_token="push", ip_address="192.0.2.77")
    async with ground.postgres.transaction() as session:
        entered = await Sessions(settings).enter(session, id, device)
    zoe = Caller(shop, {"authorization": f"Bearer {entered.token}"})
    hold = await zoe.asks("POST", "/reservations", {"dropId": drop})
    await zoe.asks("POST", "/purchases", {"reservationId": hold.json["id"]})
    await shop.send("POST", "/users/password/reset", {"email": "zoe@example.com"})
    assert await seal(ground.postgres, keys.ring(settings))
    assert await users.usernames(ground.postgres, [id, "ann"]) == {id: "zoe"}

    done = await zoe.asks("DELETE", f"/users/{id}?erase=true")
    again = await admin.asks("DELETE", f"/users/{id}?erase=true")

    assert (done.status, again.status) == (200, 200)
    shown = (await admin.asks("GET", f"/users/{id}")).json
    assert (shown["status"], shown["email"], shown["sessions"]) == ("deleted", None, [])
    assert not await books.forget_salt(ground.postgres, id), "the ledger's salt went with it"
    dump = await _dump(ground)
    for word in ("zoe@example.com", "555 0100", "zoes-phone", "Zoe's", "192.0.2.77", '"push"'):
        assert word not in dump, word
    assert (await made(admin, username="zoe", email="zoe@example.com"))["id"] != id


async def _dump(ground: Ground) -> str:
    """Every row of every table, as text."""
    async with ground.postgres.session() as session:
        asking = session._connection
        tables = await asking.fetch(
            "SELECT c.oid::regclass::text AS name FROM pg_class AS c"
            " WHERE c.relkind = 'r' AND c.relnamespace = 'public'::regnamespace"
        )
        rows = [
            await asking.fetch(f"SELECT t::text AS row FROM {each['name']} AS t") for each in tables
        ]
    return "\n".join(str(row["row"]) for table in rows for row in table)


@pytest.mark.parametrize("by", ["suspend", "delete"])
async def test_who_is_suspended_or_deleted_is_out(admin: Caller, shop: Shop, by: str) -> None:
    wish = {"username": "eve", "email": "eve@example.com", "password": "correct horse"}
    eve = (await shop.send("POST", "/users/register", wish)).json
    path = f"/users/{eve['user']['id']}"

    if by == "suspend":
        done = await admin.asks("PUT", path, {"version": 0, "status": "suspended"})
    else:
        done = await admin.asks("DELETE", path)

    assert done.status == 200
    assert (await shop.send("POST", "/users/login", wish)).status == 401
    refresh = {"refreshToken": eve["refreshToken"]}
    assert (await shop.send("POST", "/users/refresh", refresh)).status == 401
    assert (await admin.asks("GET", path)).json["sessions"] == []
