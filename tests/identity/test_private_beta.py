"""Invitations: used once, by one e-mail, found by nobody who was not given one."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from engine.identity import beta
from engine.identity.beta_store import BetaKey
from engine.identity.errors import EmailRegistered, InvitationNeeded, KeyUnknown, KeyUsed
from engine.infra.settings import Settings
from engine.runtime import Ground
from tests.identity.conftest import Caller
from tests.support.http import Reply
from tests.support.people import add_user
from tests.support.shop import Shop

AT = "/private-beta"
USED = "Referral key verified and user activated successfully"
STRANGER = "203.0.113.7"


async def keys(caller: Caller, count: int) -> list[str]:
    """So many new keys."""
    reply = await caller.asks("POST", f"{AT}/referrals/bulk", {"count": count})
    assert reply.status == 201, reply.body
    return [key["referralKey"] for key in reply.json["data"]]


async def verifies(caller: Caller, key: Any, email: Any) -> tuple[int, str]:
    """Status and sentence of an attempt."""
    body = {"referral_key": key, "user_email": email}
    reply = await caller.asks("POST", f"{AT}/verify", body)
    return reply.status, reply.json["message"]


@given(st.text(beta.ALPHABET, min_size=beta.LENGTH, max_size=beta.LENGTH))
def test_a_key_is_the_same_however_it_is_written(key: str) -> None:
    shown = beta.readable(key)
    sloppy = shown.lower().replace("0", "o").replace("1", "l")
    for written in (key, shown, shown.lower(), f" {shown} ", shown.replace("-", " "), sloppy):
        assert beta.as_key(written) == key
    for wrong in (key[1:], f"{key}0", key[1:] + "U", key[1:] + "٣", ""):
        assert beta.as_key(wrong) is None


def test_keys_are_drawn_from_all_there_are() -> None:
    drawn = {beta.new_key() for _ in range(500)}

    assert len(drawn) == 500
    assert all(beta.as_key(key) == key for key in drawn)
    assert {letter for key in drawn for letter in key} == set(beta.ALPHABET)
    assert len(set(beta.ALPHABET)) ** beta.LENGTH >= 2**60


async def test_an_invitation_is_made_checked_used_and_seen(
    admin: Caller, nobody: Caller, server: Callable[..., Awaitable[Caller]]
) -> None:
    made = await admin.asks("POST", f"{AT}/referral")
    other = await (await server("identity")).asks("POST", f"{AT}/referrals")
    key = made.json["referralKey"]
    for reply in (made, other):
        assert (reply.status, reply.json["status"], reply.json["userEmail"]) == (
            201,
            "pending",
            None,
        )
        assert reply.json["message"] == "Referral key created successfully"

    fresh = await nobody.asks("POST", f"{AT}/check-validity", {"referral_key": key.lower()})
    assert fresh.json == {"valid": True, "status": "pending", "message": "Referral key is valid"}
    assert await verifies(nobody, key, " Ann@example.com ") == (200, USED)
    assert await verifies(nobody, key.replace("-", ""), "ann@EXAMPLE.com") == (200, USED)
    taken = 409, "Referral code has already been used"
    assert await verifies(nobody, key, "bob@example.com") == taken
    assert await verifies(nobody, other.json["referralKey"], "ANN@example.com") == (
        409,
        "Email already registered",
    )
    used = await nobody.asks("POST", f"{AT}/check-validity", {"referralKey": key})
    assert (used.status, used.json["valid"], used.json["message"]) == (200, False, taken[1])

    users = (await admin.asks("GET", f"{AT}/users?limit=1&page=2")).json
    assert [(row["referralKey"], row["userEmail"]) for row in users["data"]] == [
        (key, "Ann@example.com")
    ]
    assert users["meta"]["totalItems"] == 2
    unused = (await admin.asks("GET", f"{AT}/referrals/unused")).json["data"]
    assert [row["referralKey"] for row in unused] == [other.json["referralKey"]]
    debug = (await admin.asks("GET", f"{AT}/debug")).json
    assert (debug["message"], debug["count"]) == ("Debug: All referral keys in database", 2)
    first = (await admin.asks("GET", f"{AT}/users?limit=1")).json
    second = (await admin.asks("GET", f"{AT}/users?limit=1&cursor={first['nextCursor']}")).json
    assert [*first["data"], *second["data"]] == debug["data"]


UNCLEAR: list[tuple[dict[str, Any], str]] = [
    ({"user_email": "a@b.cd"}, "Referral key is required and must be a string"),
    ({"referral_key": 123456, "user_email": "a@b.cd"}, "Referral key is required and must be"),
    ({"referral_key": "X"}, "User email is required and must be a string"),
    ({"referral_key": "X", "user_email": ["a@b.cd"]}, "User email is required and must be"),
    ({"referral_key": "X", "user_email": "a@b"}, "Please provide a valid email address"),
    ({"referral_key": "X", "user_email": "a\x00@b.cd"}, "Please provide a valid email address"),
]


async def test_what_is_not_understood_is_refused_in_its_sentence(
    nobody: Caller, admin: Caller
) -> None:
    for body, sentence in UNCLEAR:
        reply = await nobody.asks("POST", f"{AT}/verify", body)
        assert (reply.status, reply.error) == (400, "VALIDATION_ERROR")
        assert reply.json["message"].startswith(sentence)
    assert await verifies(nobody, "K7QD-M2XH-9TBR", "a@b.cd") == (404, "Referral code not found")
    for count in (0, 101, -1, 1.5, "5", None, True):
        reply = await admin.asks("POST", f"{AT}/referrals/bulk", {"count": count})
        assert (reply.status, reply.json["message"]) == (400, "Count must be between 1 and 100")


async def test_of_fifty_emails_with_one_key_one_wins(admin: Caller, nobody: Caller) -> None:
    for _ in range(5):
        [key] = await keys(admin, 1)
        told = await asyncio.gather(
            *(verifies(nobody, key, f"{key}-{n}@example.com") for n in range(50))
        )

        lost = 409, "Referral code has already been used"
        assert Counter(told) == {(200, USED): 1, lost: 49}


async def test_of_fifty_keys_with_one_email_one_is_used(admin: Caller, nobody: Caller) -> None:
    for turn in range(5):
        fifty = await keys(admin, 50)
        told = await asyncio.gather(
            *(verifies(nobody, key, f"Ann{turn}@example.com") for key in fifty)
        )

        assert Counter(told) == {(200, USED): 1, (409, "Email already registered"): 49}
    unused = (await admin.asks("GET", f"{AT}/referrals/unused?page=1")).json
    assert unused["meta"]["totalItems"] == 5 * 49


async def test_only_who_may_learns_of_an_email(
    admin: Caller,
    nobody: Caller,
    buyer: Callable[[str], Caller],
    server: Callable[..., Awaitable[Caller]],
    database: str,
) -> None:
    [key] = await keys(admin, 1)
    ann, bob = await add_user(database, "ann@example.com"), await add_user(database, "b@b.cd")
    assert await verifies(nobody, key, "ann@example.com") == (200, USED)

    async def told(caller: Caller, email: str) -> tuple[int, str]:
        reply = await caller.asks("POST", f"{AT}/status", {"user_email": email})
        return reply.status, reply.json["message"]

    for caller in (admin, await server("identity"), buyer(ann)):
        assert await told(caller, "Ann@Example.com") == (200, "User status retrieved successfully")
        assert await told(caller, "bob@example.com") == (404, "User not found")
    assert await told(buyer(bob), "ann@example.com") == (404, "User not found")
    assert (await told(nobody, "ann@example.com"))[0] == 401
    assert (await told(await server("sale:write"), "ann@example.com"))[0] == 403
    for method, path in (
        ("POST", "/referral"),
        ("POST", "/referrals/bulk"),
        *(("GET", "/users"), ("GET", "/debug"), ("GET", "/referrals/unused")),
    ):
        assert (await nobody.is_told(method, AT + path))[0] == 401
        assert (await buyer(ann).is_told(method, AT + path))[0] == 403


async def test_who_tries_keys_is_stopped_and_a_lost_answer_is_had_again(
    shop: Shop, admin: Caller, nobody: Caller
) -> None:
    [key] = await keys(admin, 1)
    once = {"idempotency-key": "once"}

    async def tries(
        path: str, key: str, headers: dict[str, str] | None = None, client: str = STRANGER
    ) -> Reply:
        body = {"referralKey": key, "userEmail": "ann@example.com"}
        return await shop.visit("POST", f"/api/v1{AT}{path}", body, headers, client)

    first = await tries("/verify", key, once)
    wrong = [await tries("/check-validity", "K7QD-M2XH-9TBR") for _ in range(15)]
    wrong += [await tries("/verify", f"K7QD-M2XH-9TB{n}") for n in range(9)]

    assert first.status == 200
    statuses = [reply.status for reply in wrong]
    assert statuses == sorted(statuses)
    assert set(statuses) == {404, 429}
    assert (await tries("/verify", key)).error == "RATE_LIMITED"
    assert (await tries("/check-validity", key, once)).error == "RATE_LIMITED"
    assert (await tries("/verify", "K7QD-M2XH-9TBR", {"idempotency-key": "x"})).status == 429
    again = await tries("/verify", key, once)
    assert (again.status, again.body) == (200, first.body)
    assert (await tries("/verify", key, client="203.0.113.8")).status == 200


async def test_registration_uses_a_key_up_or_finds_it_used(ground: Ground) -> None:
    async def admitted(email: str, given: str | None, fails: bool = False) -> BetaKey:
        async with ground.postgres.transaction() as session:
            key = await beta.admit(session, email, given)
            if fails:
                raise ValueError
        return key

    first, second = await beta.create(ground.postgres, 2)
    with pytest.raises(InvitationNeeded):
        await admitted("ann@example.com", None)
    with pytest.raises(ValueError):
        await admitted("ann@example.com", first.key, fails=True)
    assert (await admitted("ann@example.com", beta.readable(first.key))).id == first.id
    assert (await admitted("ANN@example.com", None)).id == first.id
    assert (await admitted("ann@example.com", second.key)).id == first.id  # and keeps the second
    with pytest.raises(KeyUsed):
        await admitted("bob@example.com", first.key)
    with pytest.raises(KeyUnknown):
        await admitted("bob@example.com", beta.new_key())
    async with ground.postgres.transaction() as session:
        await beta.use(session, "bob@example.com", second.key)
    [third] = await beta.create(ground.postgres, 1)
    with pytest.raises(EmailRegistered):
        async with ground.postgres.transaction() as session:
            await beta.use(session, "Bob@example.com", third.key)


async def test_in_a_private_beta_who_registers_was_invited(
    settings: Settings, ground: Ground
) -> None:
    first, second = await beta.create(ground.postgres, 2)

    async def told(word: str, given: str | None) -> tuple[int, str]:
        body = {"username": word, "email": f"{word}@example.com", "password": "a good password"}
        key = {} if given is None else {"referralKey": given}
        reply = await shop.send("POST", "/users/register", body | key)
        return reply.status, reply.error if reply.status >= 400 else ""

    async with Shop.open(replace(settings, private_beta=True)) as shop:
        assert await told("ann", None) == (403, "INVITATION_NEEDED")
        assert await told("ann", "K7QD-M2XH-9TBR") == (404, "NOT_FOUND")
        both = await asyncio.gather(told("ann", first.key), told("bob", first.key))
        assert sorted(both) == [(201, ""), (409, "KEY_USED")]
        pair = {"referralKey": second.key, "userEmail": "CYD@example.com"}
        assert (await shop.send("POST", f"{AT}/verify", pair)).status == 200
        assert await told("cyd", None) == (201, "")
        assert await told("dan", second.key) == (409, "KEY_USED")
