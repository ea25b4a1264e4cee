"""Bob has good credentials and all of Ann's ids. He sees nothing of hers, and changes nothing.

The matrix is made of the table of routes: every route, asked by Bob and by a stranger, with Ann's
ids wherever ids go: in the path, in the query, in the body that the document describes. A route
whose path holds an id must be in `WHOSE`, which says what it is an id of.
"""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import asyncpg
import msgspec
import pytest

from engine import app, runtime
from engine.identity import passwords
from engine.identity.models import Device
from engine.identity.sessions import Sessions
from engine.infra.ids import new_id
from engine.infra.routing import Route
from engine.infra.settings import Settings
from engine.pages.openapi import document
from engine.pages.schemas import sample
from engine.runtime import Ground
from tests.coldchain.conftest import freezer_of
from tests.identity.conftest import Caller
from tests.membership.people import Phone, make_member
from tests.support.http import Reply
from tests.support.shop import Shop

# Whose a path's id is, by what stands before it. None: nobody's, such as a drop.
WHOSE: dict[str, str | None] = {
    "/drops/": None,
    "/reserve/": None,
    "/slots/": None,
    "/ledger/": None,
    "/reservations/": "hold",
    "/purchase/": "hold",
    "/purchases/": "purchase",
    "/bookings/": "booking",
    "/buyers/": "user",
    "/users/": "user",
    "/users/privy/": "privy",
    "/users/wallet/": "wallet",
    "/sessions/": "session",
    "/sessions/user/": "user",
    "/notifications/preferences/": "user",
    "/notifications/user/": "user",
    "/activity-logs/user/": "user",
    "/api-keys/": "key",
    "/locks/": None,
    "/memberships/": "membership",
    # A pass's own token opens these, and no credential of a buyer.
    "/wallet/v1/passes/{kind}/": None,
    "/wallet/v1/devices/{device}/registrations/{kind}/": None,
}
# Fields of queries and bodies that name somebody, or something of somebody's.
FIELDS = {
    "userId": "user",
    "buyer": "user",
    "reservationId": "hold",
    "membershipId": "membership",
    "purchaseId": "purchase",
    "bookingId": "booking",
    "sessionId": "session",
    "email": "email",
    "userEmail": "email",
    "user_email": "email",
    "privyId": "privy",
    "walletAddress": "wallet",
    "deviceId": "device",
    "idempotencyKey": "session_key",
}
SHOWN_TO_ALL = {"show_user"}  # of which a stranger sees id and username
HERS = {
    *("show_reservation", "show_purchase", "show_preferences", "show_user", "show_session"),
    *("active_session", "list_sessions_of", "show_membership", "list_devices"),
}  # among what Ann herself is shown
MANIFEST, PHONE, NAME = "MAN-OF-ANN", "+49 170 5550100", "Ann of the Matrix"

# All that is Ann's, as Postgres has it.
ROWS = """SELECT jsonb_build_object(
    'user', (SELECT jsonb_agg(u) FROM users AS u WHERE id = $1::text::uuid),
    'sessions', (SELECT jsonb_agg(s ORDER BY id) FROM sessions AS s WHERE user_id = $1::text::uuid),
    'preferences', (SELECT jsonb_agg(n) FROM notification_preferences AS n
                     WHERE user_id = $1::text::uuid),
    'holds', (SELECT jsonb_agg(r ORDER BY id) FROM reservations AS r WHERE buyer = $1),
    'purchases', (SELECT jsonb_agg(p ORDER BY id) FROM purchases AS p WHERE buyer = $1),
    'bookings', (SELECT jsonb_agg(b ORDER BY id) FROM bookings AS b WHERE buyer = $1),
    'memberships', (SELECT jsonb_agg(m ORDER BY id) FROM memberships AS m WHERE buyer = $1),
    'devices', (SELECT jsonb_agg(d ORDER BY id) FROM membership_devices AS d),
    'reforges', (SELECT jsonb_agg(f ORDER BY id) FROM reforges AS f),
    'encounters', (SELECT jsonb_agg(e ORDER BY id) FROM encounters AS e),
    'receipts', (SELECT jsonb_agg(r ORDER BY id) FROM receipts AS r WHERE buyer = $1),
    'keys', (SELECT jsonb_agg(k ORDER BY id) FROM api_keys AS k),
    'invitations', (SELECT jsonb_agg(k ORDER BY id) FROM beta_keys AS k),
    'drops', (SELECT jsonb_agg(d ORDER BY id) FROM drops AS d)
)::text"""


@pytest.fixture(autouse=True)
def _cheap_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of passwords, and not after everybody else's work: what is tried here is who sees what."""
    for name, value in {"MEMORY_KIB": 8, "ROUNDS": 1, "NICE": 0}.items():
        monkeypatch.setattr(passwords, name, value)


@pytest.fixture
def settings(settings: Settings, tmp_path: Path) -> Settings:
    """Without limits: who asks for everything would soon be told nothing else."""
    rates = [name for name in Settings.__struct_fields__ if name.startswith("rate_")]
    return msgspec.structs.replace(settings, data_dir=tmp_path, **dict.fromkeys(rates, "off"))


class Anns(msgspec.Struct):
    """All that is Ann's: ids by what they are of, and words that nobody else may read."""

    ids: dict[str, list[str]]
    secrets: list[str]

    def of(self, kind: str) -> str:
        """One of them."""
        return self.ids[kind][0]


class World:
    """Ann, Bob, a stranger, and a look at what is Ann's."""

    def __init__(
        self, settings: Settings, ground: Ground, shop: Shop, connection: asyncpg.Connection
    ) -> None:
        self.settings, self.ground, self.shop, self.connection = settings, ground, shop, connection
        self.sessions = Sessions(settings)
        self.bob = ""
        self.bobs: Caller | None = None

    async def account(self, name: str, **more: object) -> str:
        """An account as it would register, but for the work of its password."""
        words = {"id": new_id(), "username": name, "email": f"{name}@example.com", **more}
        places = ", ".join(f"${n}" for n in range(1, len(words) + 1))
        await self.connection.execute(
            f"INSERT INTO users ({', '.join(words)}) VALUES ({places})", *words.values()
        )
        return str(words["id"])

    async def logged_in(self, user: str, device: Device) -> tuple[Caller, str]:
        """Somebody with a token of a session; the session's id."""
        entered = await self.sessions.enter(self.ground.postgres, user, device, key_of(device))
        if not entered.token:  # the key's session is over
            entered = await self.sessions.enter(self.ground.postgres, user, device)
        headers = {"authorization": f"Bearer {entered.token}"}
        return Caller(self.shop, headers), entered.session.id

    async def bob_is_in(self) -> Caller:
        """Bob, logged in again if what he tried logged him out."""
        lives = "SELECT EXISTS (SELECT FROM sessions WHERE user_id = $1::uuid AND is_active)"
        if self.bobs is None or not await self.connection.fetchval(lives, self.bob):
            self.bobs, _ = await self.logged_in(self.bob, Device("bob's"))
        return self.bobs

    async def rows(self, user: str) -> str:
        """All rows of somebody."""
        return str(await self.connection.fetchval(ROWS, user))


@pytest.fixture
async def world(settings: Settings, ground: Ground, shop: Shop) -> AsyncIterator[World]:
    connection = await asyncpg.connect(settings.database_url)
    world = World(settings, ground, shop, connection)
    world.bob = await world.account("bob")
    yield world
    await connection.close()


@pytest.fixture
async def anns(world: World, admin: Caller, settings: Settings) -> tuple[Caller, Anns]:
    """Ann with all that one can have."""
    wallet = "0x" + "a1" * 20
    words = {"privy_id": "did:privy:ann", "phone": PHONE, "display_name": NAME}
    user = await world.account("ann", wallet_address=wallet, **words)
    device = Device("ann's phone", "ios", "Phone of Ann", push_token="push-of-ann")
    ann, session = await world.logged_in(user, device)
    await world.connection.execute(
        "INSERT INTO notification_preferences (user_id, timezone) VALUES ($1, 'Asia/Kathmandu')",
        user,
    )
    await world.connection.execute(
        "INSERT INTO beta_keys (id, key, status, user_email, activated_at)"
        " VALUES ($1, 'KEY-OF-ANN', 'active', 'ann@example.com', now())",
        new_id(),
    )
    terms = {"price": "120.00", "totalStock": 10, "maxPerBuyer": 5, "holdSeconds": 3_600}
    drop = (await admin.asks("POST", "/drops", {"name": "Aurora", **terms})).json["id"]
    hold, sold = [await _made(ann, "/reservations", {"dropId": drop}) for _ in range(2)]
    bought = await _made(ann, "/purchases", {"reservationId": sold["id"]})
    slots = await freezer_of(world.ground, 2)
    held = (await _made(ann, "/hold", {"slotId": slots[0]}))["reservation"]
    booked = await _made(ann, "/book", {"reservationId": held["id"], "manifestId": MANIFEST})
    pem = Phone().pem
    member = await make_member(settings.database_url, user, device=pem)
    key = await world.connection.fetchval(
        "INSERT INTO api_keys (id, name, prefix, hash, scopes)"
        " VALUES ($1, 'key-of-the-shop', 'vr_1', 'x', '{admin}') RETURNING id",
        new_id(),
    )
    ids = {
        "user": [user],
        "hold": [hold["id"], sold["id"]],
        "purchase": [bought["id"]],
        "booking": [booked["booking"]["id"]],
        "membership": [member],
        "session": [session],
        "privy": [words["privy_id"]],
        "wallet": [wallet],
        "email": ["ann@example.com"],
        "device": [device.device_id],
        "session_key": [key_of(device)],
        "key": [str(key)],
        "drop": [str(drop)],
        "slot": [str(slots[1])],
    }
    # Keys are each user's own: a session of Bob's may bear the same, and then shows it.
    public = {"drop", "slot", "device", "key", "session_key"}
    secrets = [id for kind, some in ids.items() if kind not in public for id in some]
    secrets += [MANIFEST, PHONE, NAME, "Phone of Ann", "push-of-ann", "Asia/Kathmandu"]
    secrets += ["KEY-OF-ANN", "key-of-the-shop", pem.splitlines()[2]]
    return ann, Anns(ids, secrets)


async def _made(ann: Caller, path: str, body: dict[str, Any]) -> dict[str, Any]:
    reply = await ann.asks("POST", path, body)
    assert reply.status == 201, reply.body
    told: dict[str, Any] = reply.json
    return told


def key_of(device: Device) -> str:
    """Under which key a device logged in."""
    return f"key of {device.device_id}"


def kind_of(route: Route) -> str | None:
    """What the id in a path is of; None: of nobody, or there is none."""
    head, found, _ = route.path.partition("{id")
    assert not found or head in WHOSE, f"whose is the id in {route.path}? Say so in WHOSE"
    return WHOSE[head] if found else None


def paths(route: Route, anns: Anns) -> list[str]:
    """The route's path with each of Ann's ids; of what is nobody's, with one that there is."""
    kind = kind_of(route) or ("slot" if route.path.startswith("/slots") else "drop")
    return [route.path.replace("{id:path}", "{id}").replace("{id}", id) for id in anns.ids[kind]]


def bodies(operation: dict[str, Any], anns: Anns) -> Iterator[dict[str, Any] | None]:
    """What the document shows, with Ann's ids in every field that names somebody or something of
    somebody's; and the same in her name."""
    if "requestBody" not in operation:
        yield None
        return
    content = operation["requestBody"]["content"]["application/json"]
    fields = content["schema"].get("properties", {})
    body = dict(content["example"])
    body |= {name: anns.of(FIELDS[name]) for name in fields if name in FIELDS and name != "userId"}
    body |= {name: int(anns.of("drop")) for name in ("dropId",) if name in fields}
    body |= {name: int(anns.of("slot")) for name in ("slotId",) if name in fields}
    yield body | {"userId": anns.of("user")}
    yield {name: value for name, value in body.items() if name != "userId"}


def queries(operation: dict[str, Any], anns: Anns) -> list[str]:
    """What there must be; and that it is for Ann, with her ids in each parameter that takes one."""
    taken = [each for each in operation["parameters"] if each["in"] == "query"]
    needed = {q["name"]: sample(q["schema"], {}) for q in taken if q["required"]}
    named = {q["name"]: anns.of(FIELDS[q["name"]]) for q in taken if q["name"] in FIELDS}
    return [
        f"?{urlencode(each)}" for each in (needed, needed | {"userId": anns.of("user")} | named)
    ]


def told_of(reply: Reply, sent: str, anns: Anns) -> list[str]:
    """What an answer tells of Ann, beyond what was sent."""
    text = reply.body.decode() + "".join(reply.headers.values())
    return [secret for secret in anns.secrets if secret in text and secret not in sent]


async def test_bob_and_a_stranger_see_and_change_nothing_of_anns_by_any_route(
    settings: Settings, world: World, nobody: Caller, anns: tuple[Caller, Anns]
) -> None:
    _, hers = anns
    async with runtime.worker(settings) as house:
        table = [route for route in house.routes if route.about is not None and not route.root]
    shown = document(table, app.CANONICAL, is_open=False)["paths"]
    user, asked = hers.of("user"), 0
    before = await world.rows(user)

    for route in table:
        operation = shown[route.path.replace("{id:path}", "{id}")][route.method.lower()]
        for caller in (await world.bob_is_in(), nobody):
            for path, query, body in itertools.product(
                paths(route, hers), queries(operation, hers), bodies(operation, hers)
            ):
                if route.method == "GET" and body is not None:
                    continue
                reply = await caller.asks(route.method, path + query, body)
                sent, asked = f"{path}{query}{body}", asked + 1
                what = f"{route.method} {sent}: {reply.status} {reply.body[:300]!r}"
                assert reply.status != 429, what
                assert reply.status < 500, what
                assert not told_of(reply, sent, hers), what
                if kind_of(route) and route.operation not in SHOWN_TO_ALL:
                    assert reply.status >= 400, what
                if kind_of(route) and caller is nobody:
                    assert reply.status in (401, 404), what
        assert await world.rows(user) == before, f"{route.method} {route.path} changed it"
    assert asked > 4 * len(table)


async def test_what_is_kept_from_bob_is_shown_to_ann(
    settings: Settings, world: World, anns: tuple[Caller, Anns]
) -> None:
    """Or a route that shows nobody anything would pass for one that keeps secrets."""
    ann, hers = anns
    async with runtime.worker(settings) as house:
        table = [route for route in house.routes if route.about is not None and kind_of(route)]
    shown = document(table, app.CANONICAL, is_open=False)["paths"]
    seen = set()
    for route in table:
        if route.method == "GET":
            operation = shown[route.path.replace("{id:path}", "{id}")]["get"]
            for path in paths(route, hers):
                reply = await ann.asks("GET", path + queries(operation, hers)[0])
                assert reply.status in (200, 403), f"{path}: {reply.status} {reply.body!r}"
                if reply.status == 200 and told_of(reply, path, hers):
                    seen.add(route.operation)
    assert seen >= HERS
