"""Accounts that come in: registered, known by a password; nobody is told which there are."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import bcrypt
import pytest

from engine.identity import passwords, user_store
from engine.identity.passwords import Passwords
from engine.infra.ids import new_id
from engine.infra.postgres import Unreachable
from engine.runtime import Ground
from tests.identity.conftest import Caller
from tests.support.http import Reply
from tests.support.shop import Shop

ANN = {"username": "ann", "email": "ann@example.com", "password": "correct horse"}
Bearer = Callable[[str], Caller]


def login(
    shop: Shop, email: str = ANN["email"], password: str = ANN["password"]
) -> Awaitable[Reply]:
    """One login."""
    return shop.send("POST", "/users/login", {"email": email, "password": password})


async def registered(shop: Shop, key: str | None = None, **other: str) -> Reply:
    """An account of Ann's, or of who has those other names."""
    headers = {"idempotency-key": key} if key else None
    reply = await shop.send("POST", "/users/register", ANN | other, headers)
    assert reply.status == 201, reply.body
    return reply


async def test_ann_registers_comes_in_and_is_known(shop: Shop, bearer: Bearer) -> None:
    made = (await registered(shop)).json

    ann = bearer(made["token"])
    me = (await ann.asks("GET", "/users/me")).json
    again = await login(shop, "ANN@example.com")

    assert (me["id"], me["username"], me["role"]) == (made["user"]["id"], "ann", "user")
    assert again.status == 200
    assert set(again.json) == {"user", "session", "token", "refreshToken", "expiresAt"}
    assert again.json["user"]["id"] == me["id"]
    assert "password" not in str(me).lower()


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ({}, "username, email, and password are required"),
        ({**ANN, "email": ""}, "username, email, and password are required"),
        ({**ANN, "email": "ann"}, "email: Invalid email format"),
        ({**ANN, "password": "a\0bcdefgh"}, "password: "),
        ({**ANN, "password": "x" * 1_025}, "password: "),
        ({**ANN, "password": "short"}, "password: want 8 to 256 characters"),
        ({**ANN, "password": "ANN@example.com"}, "password: must not be"),
        ({**ANN, "password": "123456"}, "password: everybody knows 123456"),
        ({**ANN, "username": "a\u202eb"}, "username: "),
        ({**ANN, "password": 12345678}, "password: "),
        ({**ANN, "platform": "toaster"}, "platform: "),
    ],
)
async def test_what_can_be_no_account_is_a_400(
    shop: Shop, body: dict[str, Any], sentence: str
) -> None:
    reply = await shop.send("POST", "/users/register", body)

    assert (reply.status, reply.error) == (400, "VALIDATION_ERROR")
    assert reply.json["message"].startswith(sentence)
    assert reply.json["details"]["fields"]


async def test_of_twenty_that_register_one_email_at_once_one_gets_it(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Passwords, "_make", lambda *_: "the race is for the row, not for a hash")
    wishes = [ANN | {"username": f"ann{n}"} for n in range(20)]

    replies = await asyncio.gather(*(shop.send("POST", "/users/register", w) for w in wishes))

    assert sorted(reply.status for reply in replies) == [201] + [409] * 19
    for reply in replies:
        if reply.status == 409:
            assert reply.error == "USER_EXISTS"
            assert reply.json["message"] == "A user with this email already exists"
            assert reply.json["details"]["fields"][0]["field"] == "email"


async def test_a_username_that_is_taken_is_named(shop: Shop) -> None:
    await registered(shop)

    reply = await shop.send(
        "POST", "/users/register", ANN | {"email": "b@example.com", "username": "ANN"}
    )

    assert (reply.status, reply.error) == (409, "USER_EXISTS")
    assert reply.json["message"] == "This username is already taken"
    assert reply.json["details"]["fields"][0]["field"] == "username"


async def test_a_lost_answer_to_a_registration_is_asked_for_again_by_who_knows_the_password(
    shop: Shop, bearer: Bearer, ground: Ground
) -> None:
    first = await registered(shop, key="k")

    second = await registered(shop, key="k")
    other = await shop.send(
        "POST", "/users/register", ANN | {"password": "wrong horse"}, {"idempotency-key": "k"}
    )
    kept = await _kept(ground)

    assert second.headers["idempotent-replayed"] == "true"
    assert second.json["user"]["id"] == first.json["user"]["id"]
    assert second.json["session"]["id"] == first.json["session"]["id"]
    assert (await bearer(second.json["token"]).asks("GET", "/users/me")).status == 200
    assert (other.status, other.error) == (422, "IDEMPOTENCY_MISMATCH")
    assert kept == [f'"{first.json["user"]["id"]}"'], "no token at rest, and nothing personal"


async def _kept(ground: Ground) -> list[str]:
    async with ground.postgres.session() as session:
        rows = await session._connection.fetch("SELECT body FROM requests")
    return [bytes(row["body"]).decode() for row in rows]


async def _suspended(ground: Ground, id: str) -> None:
    async with ground.postgres.transaction() as session:
        await user_store.change_user(session, id, None, {"status": "suspended"})


async def test_a_login_that_fails_says_one_sentence_after_one_hash_whatever_it_was(
    shop: Shop, ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    await registered(shop)
    bob = (await registered(shop, username="bob", email="bob@example.com")).json["user"]["id"]
    await _suspended(ground, bob)
    nameless = user_store.NewUser(id=new_id(), email="c@example.com")
    await user_store.insert_user(ground.postgres, nameless)
    hashes: list[int] = []
    compare = Passwords._compare

    def counted(self: Passwords, raw: bytes, hash: str | None) -> passwords.Verdict:
        before = self.hashes
        verdict = compare(self, raw, hash)
        hashes.append(self.hashes - before)
        return verdict

    monkeypatch.setattr(Passwords, "_compare", counted)

    for email, password in (
        (ANN["email"], "wrong horse"),
        ("nobody@example.com", ANN["password"]),
        ("bob@example.com", ANN["password"]),
        ("c@example.com", ANN["password"]),
        ("no e-mail", ANN["password"]),
    ):
        reply = await login(shop, email, password)
        assert (reply.status, reply.error) == (401, "UNAUTHORIZED"), email
        assert reply.json["message"] == "Invalid email or password"

    assert hashes == [1] * 5
    assert (await login(shop, "", "")).json["message"] == "Email and password are required"


async def test_a_bcrypt_hash_opens_once_and_is_argon2id_from_then_on(
    shop: Shop, ground: Ground
) -> None:
    long = "p" * 80  # bcrypt never looked beyond 72 bytes
    hash = bcrypt.hashpw(long[:72].encode(), bcrypt.gensalt(4)).decode()
    user = user_store.NewUser(
        id="0197c0de-0000-7000-8000-000000000001", email="old@example.com", password_hash=hash
    )
    await user_store.insert_user(ground.postgres, user)

    assert (await login(shop, "old@example.com", "q" * 80)).status == 401
    assert (await login(shop, "old@example.com", long)).status == 200
    found = await user_store.find_user(ground.postgres, user.id)
    assert found is not None
    assert found.password_hash is not None
    assert found.password_hash.startswith("$argon2id$v=19$m=19456,t=2,p=1$")
    assert (await login(shop, "old@example.com", long)).status == 200


async def test_of_two_logins_that_upgrade_one_hash_at_once_both_come_in(
    shop: Shop, ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    hash = bcrypt.hashpw(b"correct horse", bcrypt.gensalt(4)).decode()
    old = user_store.NewUser(id=new_id(), email=ANN["email"], password_hash=hash)
    await user_store.insert_user(ground.postgres, old)
    verify, both = Passwords.verify, asyncio.Barrier(2)

    async def together(self: Passwords, *given: Any) -> passwords.Verdict:
        verdict = await verify(self, *given)
        if given[1] == hash:
            await both.wait()
        return verdict

    monkeypatch.setattr(Passwords, "verify", together)

    replies = await asyncio.gather(login(shop), login(shop))

    assert [reply.status for reply in replies] == [200, 200]


async def test_who_came_in_and_cannot_be_shown_is_not_told_that_nothing_was_done(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    await registered(shop)

    async def away(*_: Any) -> Any:
        raise Unreachable

    monkeypatch.setattr(user_store, "find_user", away)

    reply = await login(shop)

    assert (reply.status, reply.error) == (503, "OUTCOME_UNKNOWN")


async def test_a_new_password_ends_the_session_and_gives_another(
    shop: Shop, bearer: Bearer
) -> None:
    ann = bearer((await registered(shop)).json["token"])

    wrong = await ann.asks("POST", "/users/password", {"oldPassword": "x", "newPassword": "y" * 9})
    weak = await ann.asks(
        "POST", "/users/password", {"oldPassword": ANN["password"], "newPassword": "123456"}
    )
    done = await ann.asks(
        "POST", "/users/password", {"oldPassword": ANN["password"], "newPassword": "better horse"}
    )

    assert (wrong.status, wrong.json["message"]) == (401, "The old password is wrong")
    assert weak.status == 400
    assert done.status == 200
    assert (await login(shop)).status == 401
    assert (await login(shop, password="better horse")).status == 200


async def test_who_guesses_is_stopped_and_the_owner_comes_in_from_elsewhere(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    await registered(shop)
    heard: list[bytes] = []

    def quick(self: Passwords, raw: bytes, hash: str | None) -> passwords.Verdict:
        heard.append(raw)
        return passwords.Verdict(raw == ANN["password"].encode())

    monkeypatch.setattr(Passwords, "_compare", quick)

    def tries(password: str, address: str) -> Awaitable[Reply]:
        body = {"email": ANN["email"], "password": password}
        return shop.visit("POST", "/api/v1/users/login", body, client=address)

    # From ever new addresses, all at once: no more are heard than one after the other would be.
    told = await asyncio.gather(*(tries("wrong horse", f"198.51.100.{n}") for n in range(1, 25)))
    spent = [await tries("wrong horse", "203.0.113.7") for _ in range(4)]
    owner = await tries(ANN["password"], "192.0.2.1")

    # Ten of the account's, and then what each address has of its own.
    assert {reply.status for reply in told} == {401}
    assert [reply.status for reply in spent] == [401, 401, 401, 429]
    assert int(spent[-1].headers["retry-after"]) >= 1
    assert owner.status == 200, "nobody locks Ann out"
    assert (await tries(ANN["password"], "203.0.113.7")).status == 429, "right or wrong, not asked"


async def test_many_right_logins_at_once_all_come_in(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    await registered(shop)
    monkeypatch.setattr(Passwords, "_compare", lambda *_: passwords.Verdict(True))

    replies = await asyncio.gather(*(login(shop) for _ in range(16)))

    assert [reply.status for reply in replies] == [200] * 16


async def test_refresh_and_logout(shop: Shop, bearer: Bearer) -> None:
    made = (await registered(shop)).json

    fresh = await shop.send("POST", "/users/refresh", {"refreshToken": made["refreshToken"]})
    ann = bearer(fresh.json["token"])
    assert (await ann.asks("POST", "/users/logout")).status == 200
    gone = await shop.send("POST", "/users/refresh", {"refreshToken": fresh.json["refreshToken"]})
    assert (gone.status, gone.error) == (401, "UNAUTHORIZED")
    assert (await shop.send("POST", "/users/refresh", {})).status == 400
    assert (await shop.send("POST", "/users/refresh", {"refreshToken": "x"})).status == 401
