"""Accounts that somebody tries to take over: with a stolen token, an old mail, a shop's key."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest

from engine.identity import passwords, session_store, user_store, watch
from engine.identity.guesses import Guesses, _site
from engine.identity.models import Device
from engine.identity.resets import Links
from engine.identity.sessions import Sessions, end_all
from engine.identity.user_bodies import email_of
from engine.infra.combiner import Crew
from engine.infra.errors import Invalid
from engine.infra.ids import new_id
from engine.infra.limits import Limits
from engine.infra.mail import Mailer, NotSent
from engine.infra.settings import Settings
from engine.runtime import Ground
from tests.identity.conftest import Caller
from tests.identity.test_login import ANN, registered
from tests.support.http import Reply
from tests.support.people import add_user, ask
from tests.support.shop import Shop

Bearer = Callable[[str], Caller]
Servers = Callable[..., Awaitable[Caller]]


@pytest.fixture(autouse=True)
def _cheap_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"MEMORY_KIB": 8, "ROUNDS": 1, "NICE": 0}.items():
        monkeypatch.setattr(passwords, name, value)


def fields_of(reply: Reply) -> list[str]:
    """Which fields a refusal names."""
    assert reply.status == 400, reply.body
    return [each["field"] for each in reply.json["details"]["fields"]]


async def link(ground: Ground, settings: Settings, user: str) -> dict[str, str]:
    """What opens a reset that was mailed just now, and the password to come."""
    id = new_id()
    await ask(
        ground.postgres,
        "INSERT INTO password_resets (id, user_id, expires_at)"
        " VALUES ($1, $2, now() + interval '1 hour') RETURNING id",
        id,
        user,
    )
    return {"token": Links(settings).token(id), "password": "mine from now on"}


async def test_a_stolen_token_moves_no_email_and_an_old_mail_opens_nothing(
    shop: Shop, ground: Ground, settings: Settings, bearer: Bearer, admin: Caller
) -> None:
    made = (await registered(shop)).json
    ann, id = bearer(made["token"]), made["user"]["id"]
    path, wish = f"/users/{id}", {"version": 0, "email": "eve@example.com"}
    confirm = "/users/password/reset/confirm"

    assert fields_of(await ann.asks("PUT", path, wish)) == ["currentPassword"]
    guess = await ann.asks("PUT", path, wish | {"currentPassword": "wrong horse"})
    assert fields_of(guess) == ["currentPassword"]
    assert fields_of(await ann.asks("PUT", path, {"version": 0, "email": None})) != []
    assert (await ann.asks("PUT", path, {"version": 0, "phone": "1"})).status == 200

    before = await link(ground, settings, id)
    moved = wish | {"version": 1, "current_password": ANN["password"]}
    assert (await ann.asks("PUT", path, moved)).json["email"] == "eve@example.com"
    assert (await shop.send("POST", confirm, before)).status == 410

    before = await link(ground, settings, id)
    change = {"currentPassword": ANN["password"], "newPassword": "better horse"}
    assert (await ann.asks("POST", "/users/password", change)).status == 200
    assert (await shop.send("POST", confirm, before)).status == 410
    # An operator vouches for whom he knows.
    by_admin = {"version": 2, "email": "ann@example.org"}
    assert (await admin.asks("PUT", path, by_admin)).status == 200


@pytest.fixture
def late_watch(monkeypatch: pytest.MonkeyPatch) -> None:
    """What became of sessions, nobody hears of it in time."""
    monkeypatch.setattr(watch, "PAUSE_SECONDS", 60.0)
    monkeypatch.setattr(watch, "FRESH_SECONDS", 120.0)


async def test_with_the_token_of_a_session_that_ended_nobody_opens_another(
    late_watch: None, shop: Shop, ground: Ground, bearer: Bearer
) -> None:
    made = (await registered(shop)).json
    thief, id = bearer(made["token"]), made["user"]["id"]
    assert (await thief.asks("GET", "/users/me")).status == 200
    async with ground.postgres.transaction() as session:
        await user_store.lock_user(session, id)
        await end_all(session, id, "password_reset")

    assert (await thief.asks("GET", "/users/me")).status == 200, "it is not known here yet"
    for way in ("/sessions", "/sessions/get-or-create"):
        told = await thief.asks("POST", way, {"deviceId": "a thief's", "platform": "web"})
        assert (told.status, told.error) == (401, "UNAUTHORIZED")
    assert await ask(ground.postgres, "SELECT 1 FROM sessions WHERE is_active") == []


async def test_a_shops_key_leaves_admins_alone_and_what_it_does_is_told(
    ground: Ground, settings: Settings, server: Servers, admin: Caller
) -> None:
    root, user = (
        await add_user(ground.settings.database_url, role="admin"),
        await add_user(ground.settings.database_url),
    )
    sessions: dict[str, str] = {}
    for each in (root, user):
        async with ground.postgres.transaction() as session:
            entered = await Sessions(settings).enter(session, each, Device("phone"))
        sessions[each] = entered.session.id
    keeper, master = await server("identity"), await server("admin")

    for method, path, body in (
        ("DELETE", f"/sessions/user/{root}/all", None),
        ("DELETE", f"/sessions/{sessions[root]}", None),
        ("POST", f"/sessions/{sessions[root]}/extend", None),
        ("PUT", f"/sessions/{sessions[root]}/push-token", {"pushToken": "mine"}),
    ):
        assert await keeper.is_told(method, path, body) == (403, "FORBIDDEN"), path
    deeds: list[tuple[Caller, str, str, Any]] = [
        (keeper, "DELETE", f"/sessions/user/{user}/all", None),
        (master, "POST", "/sessions", {"userId": root, "deviceId": "d", "platform": "web"}),
        (admin, "PUT", f"/notifications/preferences/{user}", {"emailEnabled": False}),
    ]
    for caller, method, path, wish in deeds:
        assert (await caller.asks(method, path, wish)).status < 300, path
    done = await ask(
        ground.postgres,
        "SELECT a.operation, e.outcome FROM audit_log AS a JOIN audit_log AS e ON e.began = a.id"
        " WHERE e.outcome = 'done' ORDER BY a.id",
    )
    assert done == [
        ("end_sessions", "done"),
        ("open_session", "done"),
        ("change_preferences", "done"),
    ]


async def test_a_user_who_looks_for_names_is_soon_told_to_wait(shop: Shop) -> None:
    made = (await registered(shop)).json
    await registered(shop, username="bob", email="bob@example.com")
    headers = {"authorization": f"Bearer {made['token']}"}
    path, wish = f"/api/v1/users/{made['user']['id']}", {"version": 0, "username": "bob"}

    told = [await shop.visit("PUT", path, wish, headers, "203.0.113.9") for _ in range(22)]

    assert [reply.status for reply in told[:20]] == [409] * 20
    assert told[-1].status == 429


async def test_sessions_and_links_of_long_ago_are_forgotten(
    ground: Ground, settings: Settings
) -> None:
    user = await add_user(ground.settings.database_url)
    for n in range(3):
        async with ground.postgres.transaction() as session:
            await Sessions(settings).enter(session, user, Device(f"device {n}"))
    await link(ground, settings, user)
    for table, column in (("sessions", "terminated_at"), ("password_resets", "expires_at")):
        await ask(
            ground.postgres,
            f"UPDATE {table} SET {column} = now() - interval '91 days'"
            f" WHERE id = (SELECT min(id::text) FROM {table})::uuid RETURNING id",
        )

    assert await session_store.prune_sessions(ground.postgres, 90, 1) == 2
    assert await session_store.prune_sessions(ground.postgres, 90, 100) == 0
    left = await ask(ground.postgres, "SELECT device_id FROM sessions ORDER BY id")
    assert left == [("device 1",), ("device 2",)]


def test_an_email_has_one_budget_however_it_is_written(settings: Settings, ground: Ground) -> None:
    guesses = Guesses(settings, Limits(settings, ground.postgres, ground.redis, Crew()))
    names = {guesses._name(each) for each in ("iris@x.yz", " IRIS@x.yz", "\u0130r\u0130s@x.yz")}

    assert len(names) == 1
    assert guesses._name("ir1s@x.yz") not in names


@pytest.mark.parametrize(
    ("address", "site"),
    [
        (None, None),
        ("192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2::/64", "2001:db8:1::/48"),
        ("unix:", "unix:"),
    ],
)
def test_a_site_is_one_guesser(address: Any, site: str | None) -> None:
    assert _site(address) == site


@pytest.mark.parametrize(
    "email",
    [
        "a:bob@x.yz",
        "a(b@x.yz",
        "[a@x.yz",
        "a..b@x.yz",
        "=?utf-8?q?=0a?=@x.yz",
        "a@x.yz:",
        "a@[.).(",
    ],
)
async def test_a_mail_goes_where_its_account_says_or_nowhere(email: str, tmp_path: Path) -> None:
    with pytest.raises(Invalid):
        email_of(email)
    assert email_of("o'neil+x=1?@b\u00fccher.example") is not None
    with suppress(NotSent):  # of older accounts: it may be refused, and stops nobody else's
        await Mailer(Settings(data_dir=tmp_path)).send(new_id(), email, "subject", "text")


def test_links_bring_no_secret_to_a_server(settings: Settings) -> None:
    given = msgspec.structs.replace(settings, public_url="https://shop.example")
    assert Links(given).link(new_id()).startswith("https://shop.example/account#reset=vrp_")
