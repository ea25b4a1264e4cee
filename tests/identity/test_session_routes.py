"""Sessions over HTTP: each user's own, whoever asks; and what a device may say of itself."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest

from engine.identity import apikeys, session_store, tokens
from engine.identity.models import Device
from engine.identity.sessions import Sessions
from engine.infra.ids import new_id
from engine.infra.postgres import Unreachable
from engine.infra.settings import Settings
from engine.runtime import Ground
from tests.identity.conftest import JWT_SECRET
from tests.support.http import Reply
from tests.support.people import add_user, ask
from tests.support.shop import Shop
from tests.support.wait import wait_until

PHONE = {"deviceId": "phone", "platform": "ios"}
LAPTOP = {"deviceId": "laptop", "platform": "web"}


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """As often as a test likes."""
    often = "100000/s"
    return msgspec.structs.replace(
        settings, rate_reads_per_buyer=often, rate_writes_per_buyer=often
    )


class One:
    """An account, and a token for it."""

    def __init__(self, shop: Shop, id: str, headers: dict[str, str]) -> None:
        self._shop, self.id, self.headers = shop, id, headers

    async def asks(self, method: str, path: str, body: Any = None, **more: str) -> Reply:
        """One request."""
        return await self._shop.send(method, "/sessions" + path, body, {**self.headers, **more})

    async def enters(self, **body: Any) -> dict[str, Any]:
        """A new session, whose token is used from then on."""
        reply = await self.asks("POST", "", PHONE | body)
        assert reply.status == 201, reply.body
        told: dict[str, Any] = reply.json
        self.headers = {"authorization": f"Bearer {told['token']}"}
        return told


People = Callable[..., Awaitable[One]]


@pytest.fixture
def people(shop: Shop, ground: Ground) -> People:
    """`await people()` is somebody with a token of the terminal's."""

    async def somebody(role: str = "user") -> One:
        id = await add_user(ground.settings.database_url, role=role)
        kind = "admin" if role == "admin" else "buyer"
        token = tokens.create(JWT_SECRET, id, 3_600, kind)
        return One(shop, id, {"authorization": f"Bearer {token}"})

    return somebody


async def test_a_session_is_opened_with_its_tokens_and_shown(people: People) -> None:
    ann = await people()

    told = await ann.enters(deviceName="Ann's", pushToken="push 1", expiresInDays=7)
    shown = (await ann.asks("GET", f"/{told['id']}")).json

    assert (told["userId"], told["isActive"], told["deviceName"]) == (ann.id, True, "Ann's")
    assert told["refreshToken"].startswith("vrr_")
    assert told["tokenExpiresAt"] <= told["expiresAt"]
    assert shown == {
        name: told[name] for name in told if name not in ("token", "refreshToken", "tokenExpiresAt")
    }
    assert len(shown) == 18
    assert shown["pushTokenUpdatedAt"] is not None


async def test_the_same_key_is_the_same_session_wherever_it_stands(people: People) -> None:
    ann = await people()
    first = await ann.asks("POST", "", PHONE | {"idempotencyKey": "k 1"})

    again = await ann.asks("POST", "", PHONE, **{"idempotency-key": "k 1"})
    snake = {"device_id": "phone", "platform": "ios", "idempotency_key": "k 1"}
    third = await ann.asks("POST", "", snake)
    other = await ann.asks("POST", "", LAPTOP | {"idempotencyKey": "k 1"})
    both = await ann.asks("POST", "", PHONE | {"idempotencyKey": "a"}, **{"idempotency-key": "b"})

    assert (first.status, again.status, third.status) == (201, 201, 201)
    assert {each.json["id"] for each in (first, again, third)} == {first.json["id"]}
    assert again.headers["idempotency-key"] == first.headers["idempotency-key"] == "k 1"
    assert "idempotent-replayed" not in first.headers
    assert again.headers["idempotent-replayed"] == "true"
    assert (other.status, other.error) == (422, "IDEMPOTENCY_MISMATCH")
    assert (both.status, both.error) == (400, "VALIDATION_ERROR")


async def test_the_key_of_a_session_that_is_over_brings_no_tokens(people: People) -> None:
    ann = await people()
    terminal = ann.headers
    await ann.asks("POST", "", PHONE | {"idempotencyKey": "k"})
    await ann.asks("POST", "", LAPTOP)
    ann.headers = terminal

    again = (await ann.asks("POST", "", PHONE | {"idempotencyKey": "k"})).json

    assert (again["isActive"], again["token"], again["refreshToken"]) == (False, None, None)
    assert again["terminationReason"] == "new_session_on_different_device"


async def test_get_or_create_keeps_a_live_session_and_revives_none(people: People) -> None:
    ann = await people()
    terminal, first = ann.headers, await ann.enters(osVersion="17")

    kept = await ann.asks("POST", "/get-or-create", PHONE | {"appVersion": "2"})
    ended = await ann.asks("DELETE", f"/{first['id']}")
    ann.headers = terminal
    new = await ann.asks("POST", "/get-or-create", PHONE)

    assert (kept.status, ended.status, new.status) == (200, 200, 200)
    assert (kept.json["id"], kept.json["osVersion"], kept.json["appVersion"]) == (
        first["id"],
        "17",
        "2",
    )
    assert new.json["id"] != first["id"]


async def test_a_repeated_wish_to_keep_a_session_does_not_end_another_devices(
    people: People,
) -> None:
    ann = await people()
    terminal, phone = ann.headers, await ann.enters()
    key = {"idempotency-key": "keep"}
    kept = await ann.asks("POST", "/get-or-create", PHONE, **key)
    ann.headers = terminal
    laptop = await ann.enters(**LAPTOP)

    again = await ann.asks("POST", "/get-or-create", PHONE | {"idempotencyKey": "keep"})
    other = await ann.asks("POST", "/get-or-create", LAPTOP, **key)

    assert (kept.json["id"], again.json["id"]) == (phone["id"], phone["id"])
    assert (again.json["isActive"], again.json["token"]) == (False, None)
    assert again.headers["idempotent-replayed"] == "true"
    assert (other.status, other.error) == (422, "IDEMPOTENCY_MISMATCH")
    assert (await ann.asks("GET", f"/{laptop['id']}")).json["isActive"]


async def test_what_was_done_is_never_called_undone_when_it_cannot_be_shown(
    people: People, monkeypatch: pytest.MonkeyPatch
) -> None:
    ann = await people()
    id = (await ann.enters())["id"]
    find, calls = session_store.find_session, list[str]()

    async def away(caller: Any, id: str) -> Any:
        calls.append(id)
        if len(calls) == fails_at:
            raise Unreachable
        return await find(caller, id)

    monkeypatch.setattr(session_store, "find_session", away)
    told, fails_at = [], 0
    for fails_at, headers in ((2, {}), (1, {"idempotency-key": "k"}), (1, {})):  # noqa: B007
        calls.clear()
        told.append(await ann.asks("POST", f"/{id}/extend", {"additionalDays": 1}, **headers))

    assert [(each.status, each.error) for each in told] == [
        (503, "OUTCOME_UNKNOWN"),  # it was extended
        (503, "OUTCOME_UNKNOWN"),  # a copy of it may have been
        (503, "RETRYABLE"),
    ]


async def test_a_session_that_is_being_opened_ends_with_all_the_others(
    people: People, ground: Ground
) -> None:
    ann = await people()
    async with ground.postgres.transaction() as session:
        await Sessions(ground.settings).enter(session, ann.id, Device("tv"))
        ending = asyncio.create_task(ann.asks("DELETE", f"/user/{ann.id}/all"))
        await asyncio.sleep(0.1)
        assert not ending.done()

    assert (await ending).json["count"] == 1


async def test_a_session_is_listed_changed_extended_and_ended(people: People) -> None:
    ann = await people()
    terminal, told = ann.headers, await ann.enters()
    id, user = told["id"], f"/user/{ann.id}"

    changed = await ann.asks("PUT", f"/{id}", {"deviceName": "blue", "app_version": "3"})
    pushed = await ann.asks("PUT", f"/{id}/push-token", {"pushToken": "p"})
    touched = await ann.asks("POST", f"/{id}/activity")
    extended = await ann.asks("POST", f"/{id}/extend", {"additionalDays": 5})
    active = await ann.asks("GET", f"{user}/active")
    mine = (await ann.asks("GET", "")).json["data"]

    assert (changed.json["deviceName"], changed.json["appVersion"]) == ("blue", "3")
    assert (pushed.json["pushToken"], pushed.json["deviceName"]) == ("p", "blue")
    assert touched.json["lastActivityAt"] > told["lastActivityAt"]
    assert _days(told["expiresAt"], extended.json["expiresAt"]) == 5
    assert active.json == extended.json
    assert [each["id"] for each in mine] == [id]

    ended = await ann.asks("DELETE", f"/{id}", {"reason": "lost it"})
    ann.headers = terminal
    again = await ann.asks("DELETE", f"/{id}", {"reason": "found it"})
    gone = await ann.asks("GET", f"{user}/active")
    stats = (await ann.asks("GET", f"{user}/stats")).json
    live, everything = [
        (await ann.asks("GET", f"{user}?includeInactive={flag}")).json["data"]
        for flag in ("false", "true")
    ]

    assert ended.json["terminationReason"] == again.json["terminationReason"] == "lost it"
    assert (gone.status, gone.json["message"]) == (404, "No active session found")
    assert stats == {
        "totalSessions": 1,
        "activeSessions": 0,
        "deviceBreakdown": [{"platform": "ios", "count": 1}],
    }
    assert (live, [each["id"] for each in everything]) == ([], [id])
    for method, path, body in (
        ("PUT", f"/{id}", {"deviceName": "x"}),
        ("POST", f"/{id}/activity", None),
        ("PUT", f"/{id}/push-token", {"pushToken": "x"}),
        ("POST", f"/{id}/extend", {}),
    ):
        assert (await ann.asks(method, path, body)).error == "EXPIRED"


def _days(before: str, after: str) -> float:
    from engine.infra.http import parse_time

    return (parse_time("", after) - parse_time("", before)).total_seconds() / 86_400


async def test_all_sessions_end_at_once_and_are_counted(people: People) -> None:
    ann = await people()
    terminal = ann.headers
    await ann.enters()
    ann.headers = terminal
    path = f"/user/{ann.id}/all"

    replies = await asyncio.gather(*(ann.asks("DELETE", path) for _ in range(5)))

    assert sorted(reply.json["count"] for reply in replies) == [0, 0, 0, 0, 1]
    assert (
        replies[0].json["message"]
        == f"{replies[0].json['count']} session(s) terminated successfully"
    )
    key = {"idempotency-key": "all"}
    once, twice = await ann.asks("DELETE", path, **key), await ann.asks("DELETE", path, **key)
    assert (once.body, twice.headers["idempotent-replayed"]) == (twice.body, "true")


NO_DAYS = ["5", "five", 0, -1, -30, 366, 1.5, True, [], {}, 10**30, "30; DROP", "\u0665", 1e308]


async def test_nothing_but_a_sane_number_of_whole_days_extends(people: People) -> None:
    ann = await people()
    told = await ann.enters()

    for days in NO_DAYS:
        reply = await ann.asks("POST", f"/{told['id']}/extend", {"additionalDays": days})
        assert (reply.status, reply.error) == (400, "VALIDATION_ERROR"), days

    assert (await ann.asks("GET", f"/{told['id']}")).json["expiresAt"] == told["expiresAt"]


async def test_extending_again_and_again_leads_no_further_than_two_years(people: People) -> None:
    ann = await people()
    id = (await ann.enters())["id"]
    whole = (await ann.asks("POST", f"/{id}/extend", {"additionalDays": 30.0})).json
    default = (await ann.asks("POST", f"/{id}/extend")).json

    told = [(await ann.asks("POST", f"/{id}/extend", {"additionalDays": 365})) for _ in range(3)]

    assert _days(whole["expiresAt"], default["expiresAt"]) == 30
    assert [each.status for each in told] == [200, 400, 400]


NO_DEVICE: list[tuple[dict[str, Any], str]] = [
    ({"platform": "ios"}, "Device ID is required and must be a string"),
    ({"deviceId": "a"}, 'Platform must be either "ios", "android", or "web"'),
    (PHONE | {"platform": "IOS"}, 'Platform must be either "ios", "android", or "web"'),
    (PHONE | {"expiresInDays": 0}, "expiresInDays: want 1 to 365, whole days"),
    (PHONE | {"device_id": "b"}, "deviceId: given twice, under two names"),
    (PHONE | {"pushToken": "a\x00b"}, "pushToken: want 1 to 4096 printable characters"),
    (PHONE | {"idempotencyKey": "k" * 129}, "idempotencyKey: want 1 to 128"),
]


async def test_what_is_no_device_opens_nothing(people: People) -> None:
    ann = await people()
    for body, sentence in NO_DEVICE:
        reply = await ann.asks("POST", "", body)

        assert (reply.status, reply.error) == (400, "VALIDATION_ERROR")
        assert reply.json["message"].startswith(sentence)
    assert (await ann.asks("GET", "?includeInactive=1")).json["data"] == []


# ── whose it is ──────────────────────────────────────────────────────────────────────────────────


async def test_a_strangers_session_is_not_there(people: People, shop: Shop) -> None:
    ann, bob = await people(), await people()
    id = (await ann.enters(pushToken="secret"))["id"]
    nobody = One(shop, "", {})
    routes = [
        ("GET", f"/{id}"),
        ("PUT", f"/{id}"),
        ("POST", f"/{id}/activity"),
        ("POST", f"/{id}/extend"),
        ("DELETE", f"/{id}"),
        ("GET", f"/user/{ann.id}"),
        ("GET", f"/user/{ann.id}/active"),
        ("GET", f"/user/{ann.id}/stats"),
        ("DELETE", f"/user/{ann.id}/all"),
        ("GET", f"?userId={ann.id}"),
    ]

    for method, path in routes:
        assert (await bob.asks(method, path)).status == 404, (method, path)
        assert (await nobody.asks(method, path)).status == 401, (method, path)
    for method, path in routes[:9]:
        mangled = path.replace(id, "nonsense").replace(ann.id, "nonsense")
        assert (await ann.asks(method, mangled)).status == 404, (method, path)
    body = {"pushToken": "mine"}
    assert (await bob.asks("PUT", f"/{id}/push-token", body)).status == 404
    assert (await bob.asks("POST", "", PHONE | {"userId": ann.id})).status == 403
    assert (await nobody.asks("POST", "", PHONE | {"userId": ann.id})).status == 401
    shown = (await ann.asks("GET", f"/{id}")).json
    assert (shown["isActive"], shown["pushToken"]) == (True, "secret")


async def test_a_shops_server_gives_tokens_to_whom_it_knows(
    people: People, shop: Shop, ground: Ground
) -> None:
    ann, root = await people(), await people("admin")
    keys = {
        scope: await apikeys.create(ground.postgres, "a shop", [scope])
        for scope in ("identity", "sale:write", "admin")
    }
    server, seller, owner = (One(shop, "", {"x-api-key": key}) for key in keys.values())

    given = await server.asks("POST", "", PHONE | {"userId": ann.id})
    ann.headers = {"authorization": f"Bearer {given.json['token']}"}

    assert given.status == 201
    assert (await ann.asks("GET", f"/user/{ann.id}/active")).json["id"] == given.json["id"]
    assert (await server.asks("GET", f"/{given.json['id']}")).status == 200
    assert (await seller.asks("POST", "", PHONE | {"userId": ann.id})).status == 403
    assert (await seller.asks("GET", f"/{given.json['id']}")).status == 403
    assert (await server.asks("POST", "", PHONE)).json["message"].startswith("User ID is required")
    for nobody in (new_id(), "ann", "0"):
        assert (await server.asks("POST", "", PHONE | {"userId": nobody})).status == 404
    # A key that may not do what admins may does not get an admin's tokens either.
    assert (await server.asks("POST", "", PHONE | {"userId": root.id})).status == 403
    assert (await server.asks("GET", f"/user/{root.id}")).json["data"] == []
    assert (await owner.asks("POST", "", PHONE | {"userId": root.id})).status == 201
    admin = await people("admin")
    assert (await admin.asks("DELETE", f"/user/{ann.id}/all")).json["count"] == 1
    assert (await admin.asks("POST", "", PHONE | {"userId": ann.id})).status == 403


async def test_a_key_finds_its_session_also_when_too_much_was_asked(
    settings: Settings, ground: Ground
) -> None:
    tight = msgspec.structs.replace(settings, rate_writes_per_buyer="1/h burst 2")
    async with Shop.open(tight) as shop:
        id = await add_user(ground.settings.database_url)
        token = tokens.create(JWT_SECRET, id, 60)
        ann = One(shop, id, {"authorization": f"Bearer {token}"})
        first = await ann.asks("POST", "", PHONE | {"idempotencyKey": "k"})
        for _ in range(3):
            last = await ann.asks("POST", "", PHONE)

        again = await ann.asks("POST", "", PHONE, **{"idempotency-key": "k"})

        assert (first.status, last.status) == (201, 429)
        assert (again.status, again.json["id"]) == (201, first.json["id"])


async def test_a_session_whose_time_is_over_is_ended_by_a_keeper_soon(
    people: People, ground: Ground, keeping: None
) -> None:
    ann = await people()
    terminal, id = ann.headers, (await ann.enters())["id"]
    ann.headers = terminal
    later = "UPDATE sessions SET expires_at = clock_timestamp() + interval '300 ms' WHERE id = $1"
    await ask(ground.postgres, later, id)

    async def has_ended() -> bool:
        rows = await ask(
            ground.postgres, "SELECT termination_reason FROM sessions WHERE id = $1", id
        )
        return rows == [("expired",)]

    await wait_until(has_ended, "the session is ended", seconds=8)


async def test_what_is_past_is_shown_as_over_before_anybody_ends_it(
    people: People, ground: Ground
) -> None:
    ann = await people()
    terminal, id = ann.headers, (await ann.enters())["id"]
    ann.headers = terminal
    await ask(ground.postgres, "UPDATE sessions SET expires_at = clock_timestamp()")

    shown = (await ann.asks("GET", f"/{id}")).json

    assert (shown["isActive"], shown["terminationReason"]) == (False, "expired")
    assert shown["terminatedAt"] == shown["expiresAt"]
    assert (await ann.asks("GET", f"/user/{ann.id}/active")).status == 404
