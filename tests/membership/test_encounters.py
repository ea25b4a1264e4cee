"""Two members meet once, by a token that the initiator's own device signed a moment ago."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import pytest

from engine.identity import tokens
from engine.infra.ids import new_id
from engine.infra.settings import Settings
from engine.membership import encounter_store
from engine.runtime import Ground
from tests.membership.people import Phone, make_member, packed, run, somebody_waits
from tests.support.http import Reply
from tests.support.people import add_user
from tests.support.service import Service
from tests.support.shop import Shop
from tests.support.wait import wait_until

PHONE = Phone()
SECRET = "a secret of the members, for what they sign"


class Pair:
    """Ann, who has a telephone, and Ben; a token of theirs, or one with something else in it."""

    def __init__(self, shop: Shop, ann: str, ben: str) -> None:
        self.shop, self.ann, self.ben = shop, ann, ben

    def token(self, phone: Phone = PHONE, **other: Any) -> str:
        """A claim that is None is left out."""
        claims = {"jti": new_id(), "sub": self.ann, "aud": self.ben, "iat": int(time.time())}
        given = (claims | other).items()
        return phone.token({name: value for name, value in given if value is not None})

    async def meet(self, token: str | None = None, key: str | None = None, **other: Any) -> Reply:
        """Present a token."""
        headers = {"idempotency-key": key} if key else None
        body = {"token": self.token(**other) if token is None else token}
        return await self.shop.send("POST", "/encounters/verify", body, headers)

    async def why(self, token: str | None = None, **other: Any) -> str:
        """What a 401 says."""
        reply = await self.meet(token, **other)
        assert (reply.status, reply.error) == (401, "UNAUTHORIZED"), reply.body
        return str(reply.json["message"])


@pytest.fixture
async def pair(shop: Shop, settings: Settings) -> Pair:
    """At a worker in this process."""
    return await met(shop, settings)


async def met(shop: Shop, settings: Settings) -> Pair:
    """The two of them at any worker."""
    ann = await make_member(settings.database_url, "ann", device=PHONE.pem)
    return Pair(shop, ann, await make_member(settings.database_url, "ben"))


async def test_an_encounter_is_recorded_once_and_both_see_it(pair: Pair) -> None:
    token = pair.token(aud=[pair.ben, "another"], lat=52.5, lng=-0.25)
    made, again = await pair.meet(token), await pair.meet(token)

    assert made.status == 201, made.body
    assert made.json["status"] == "VERIFIED"
    seen = made.json["encounter"]
    assert set(seen) == {"id", "initiatorId", "receiverId", "encounteredAt", "verifiedAt"}
    assert (seen["initiatorId"], seen["receiverId"]) == (pair.ann, pair.ben)
    assert (again.status, again.error) == (409, "REPLAYED")
    second = (await pair.meet()).json["encounter"]
    for user in ("ann", "ben"):
        path = f"/encounters/mine?userId={user}"
        first, rest = (await pair.shop.send("GET", f"{path}&limit=1")).json, []
        rest = (await pair.shop.send("GET", f"{path}&cursor={first['nextCursor']}")).json["data"]
        assert first["data"] == [second | {"lat": None, "lng": None}]
        assert rest == [seen | {"lat": 52.5, "lng": -0.25}]
        page = (await pair.shop.send("GET", f"{path}&page=1")).json
        assert (page["meta"]["totalItems"], len(page["data"])) == (2, 2)
    assert (await pair.shop.send("GET", "/encounters/mine?userId=cyd")).json["data"] == []


async def test_where_somebody_erased_was_is_forgotten(shop: Shop, settings: Settings) -> None:
    user = await add_user(settings.database_url, "ann@example.com")
    ann = await make_member(settings.database_url, user, device=PHONE.pem)
    pair = Pair(shop, ann, await make_member(settings.database_url, "ben"))
    wallet = (
        "INSERT INTO pass_registrations (device_library_id, membership_id, push_token)"
        " VALUES ('library', $1, 'token')"
    )
    for member in (pair.ann, pair.ben):
        assert (await pair.meet(lat=52.5, lng=-0.25)).status == 201
        await run(settings.database_url, wallet, member)

    done = await shop.send("DELETE", f"/users/{user}?erase=true")

    assert done.status == 200, done.body
    bens = (await shop.send("GET", "/encounters/mine?userId=ben")).json["data"]
    assert [(each["lat"], each["lng"]) for each in bens] == [(None, None)] * 2
    left = await run(settings.database_url, "SELECT membership_id::text FROM pass_registrations")
    assert left == [(pair.ben,)]


async def test_a_key_repeats_the_answer_that_was_lost(pair: Pair) -> None:
    token = pair.token()
    made, again = await pair.meet(token, "k"), await pair.meet(token, "k")

    assert (made.status, again.status, made.json) == (201, 201, again.json)
    assert again.headers["idempotent-replayed"] == "true"


async def test_one_jti_fifty_times_at_once_over_two_workers_is_one_encounter(
    service: Service, settings: Settings
) -> None:
    pair = await met(service, settings)
    token = pair.token()

    replies = await asyncio.gather(*(pair.meet(token) for _ in range(50)))

    told = Counter((reply.status, reply.json.get("error")) for reply in replies)
    assert told == {(201, None): 1, (409, "REPLAYED"): 49}
    assert len(await run(settings.database_url, "SELECT FROM encounters")) == 1


async def test_a_token_that_is_old_early_or_ended_is_refused(pair: Pair) -> None:
    now = time.time()

    assert "older than 300 seconds" in await pair.why(iat=now - 302)
    assert "in the future" in await pair.why(iat=now + 30)
    assert "expired" in await pair.why(exp=now - 1)
    assert "not valid yet" in await pair.why(nbf=now + 30)
    good: list[dict[str, Any]] = [
        {"iat": now - 290},
        {"iat": now + 2},
        {"exp": now + 5, "nbf": now},
    ]
    for other in good:
        assert (await pair.meet(**other)).status == 201, other


async def test_what_is_forged_or_malformed_is_refused(pair: Pair, settings: Settings) -> None:
    """As a 401, never as a failure of ours."""
    head, claims, signature = pair.token().split(".")
    bare = {"jti": "j", "sub": pair.ann, "aud": pair.ben, "iat": int(time.time())}
    hmac_signed = {"alg": "HS256", "typ": "JWT"}
    deep = packed(b'{"x":' + b"[" * 2_800)
    said = [
        *(pair.token(Phone()), PHONE.token(bare, {"alg": "none"})),
        *(PHONE.token(bare, hmac_signed), PHONE.token(bare, {"alg": "ES256", "crit": ["b"]})),
        *(f"{head}.{claims}.", f"{head}.{claims}", f"{head}..{signature}", "x", "a.b.c"),
        f"{head}.{claims}.{packed(bytes(64))}",
        f"{head}.{packed(json.dumps(bare | {'jti': 'other'}).encode())}.{signature}",
        f"{head}.{packed(b'[]')}.{signature}",
        f"{head}.{deep}.{signature}",
        f"{head}.{packed(bytes([0xFF]))}.{signature}",
        f"{head}.{claims}.{packed(PHONE.der(f'{head}.{claims}'.encode()))}",
    ]
    for token in said:
        assert (await pair.why(token)).startswith("Encounter verification failed: "), token
    fields: dict[str, list[Any]] = {
        "jti": [None, "", "x" * 201, "a\nb", 7],
        "sub": [None, "ann", 7],
        "aud": [None, "ben", [], [7], {}],
        "iat": [None, "now", -1, 1e300, True],
    }
    wrong: list[dict[str, Any]] = [
        *({name: each} for name, some in fields.items() for each in some),
        *({"lat": each, "lng": 0} for each in (91, -91, "52.5", True)),
        *({"lat": 0, "lng": each} for each in (181, -181)),
        *({"lat": 1}, {"lng": 1}, {"aud": pair.ann}, {"exp": "soon"}, {"nbf": [1]}),
    ]
    nameless = PHONE.token({name: said for name, said in bare.items() if name != "iat"})
    assert (await pair.why(nameless)).endswith(": the claim iat is missing")
    for other in wrong:
        assert (await pair.why(**other)).startswith("Encounter verification failed: "), other
    for body in ({}, {"token": ""}, {"token": 7}, {"token": "x" * 5_000}):
        reply = await pair.shop.send("POST", "/encounters/verify", body)
        assert (reply.status, reply.error) == (422, "VALIDATION_ERROR"), reply.body
    assert await run(settings.database_url, "SELECT FROM encounters") == []


async def test_both_must_live_and_it_is_told_in_the_order_of_the_readme(
    pair: Pair, settings: Settings
) -> None:
    old, nobody = pair.token(), new_id()
    assert (await pair.meet(old)).status == 201
    receiver = "Receiver membership not found or revoked"
    assert await pair.why(aud=nobody) == receiver
    revoke = "UPDATE memberships SET revoked_at = clock_timestamp() WHERE id = $1"

    await run(settings.database_url, revoke, pair.ben)
    assert await pair.why() == receiver
    await run(settings.database_url, revoke, pair.ann)
    assert await pair.why() == "Initiator membership not found or revoked"
    assert (await pair.meet(old)).error == "REPLAYED"
    assert "signature" in await pair.why(phone=Phone())


async def test_a_key_is_dead_as_soon_as_its_device_is(pair: Pair, settings: Settings) -> None:
    move = (
        "WITH old AS (UPDATE membership_devices SET revoked_at = clock_timestamp())"
        " INSERT INTO membership_devices (id, membership_id, device_id, public_key)"
        " VALUES (gen_random_uuid(), $1, 'tablet', $2)"
    )
    tablet = Phone()
    await run(settings.database_url, "DROP INDEX membership_devices_one_active")
    await run(settings.database_url, move, pair.ann, tablet.pem)

    assert "signature" in await pair.why()
    assert (await pair.meet(phone=tablet)).status == 201


@pytest.mark.parametrize("change", ["membership", "device"])
async def test_what_ends_while_an_encounter_is_looked_at_is_seen(
    pair: Pair, ground: Ground, change: str
) -> None:
    """Whoever ends it has its row, and has not committed yet; the encounter waits, and is none."""
    table = {"membership": "memberships", "device": "membership_devices"}[change]
    async with ground.postgres.transaction() as session:
        ending = session._connection
        await ending.execute(f"UPDATE {table} SET revoked_at = clock_timestamp()")
        meeting = asyncio.create_task(pair.meet(), name="meeting")
        url = ground.settings.database_url
        await wait_until(lambda: somebody_waits(url), "it stands before the lock")
    reply = await meeting

    assert (reply.status, reply.error) == (401, "UNAUTHORIZED"), reply.body


async def test_the_servers_key_is_for_members_without_a_device_alone(
    settings: Settings, pair: Pair
) -> None:
    server = Phone()
    both: dict[str, Any] = {"phone": server, "sub": pair.ben, "aud": pair.ann}
    assert "no active device" in await pair.why(**both)

    given = msgspec.structs.replace(settings, encounter_jwt_public_key=server.pem)
    async with Shop.open(given) as shop:
        there = Pair(shop, pair.ann, pair.ben)
        assert (await there.meet(**both)).status == 201
        assert "signature" in await there.why(phone=server)


async def test_a_user_records_only_what_is_one_of_his(
    settings: Settings, tmp_path: Path, ground: Ground
) -> None:
    guarded = msgspec.structs.replace(
        settings, auth="required", jwt_secret=SECRET, hmac_secret=SECRET
    )
    async with Shop.open(guarded) as shop:
        pair = await met(shop, guarded)
        token = pair.token()
        told = {}
        for user in ("cyd", "ben", "ann"):
            headers = {"authorization": f"Bearer {tokens.create(SECRET, user, 60)}"}
            reply = await shop.send("POST", "/encounters/verify", {"token": token}, headers)
            told[user] = reply.status
            listed = await shop.send("GET", "/encounters/mine?userId=ann", None, headers)
            assert listed.status == (200 if user == "ann" else 403)
        assert (await shop.send("POST", "/encounters/verify", {"token": token})).status == 401

    assert told == {"cyd": 401, "ben": 201, "ann": 409}


async def test_a_key_that_moved_between_two_statements_signs_nothing(ground: Ground) -> None:
    url = ground.settings.database_url
    ann = await make_member(url, "ann", device=PHONE.pem)
    ben = await make_member(url, "ben")
    meeting = encounter_store.Meeting(
        jti="j", initiator=ann, receiver=ben, iat=time.time(), latitude=None, longitude=None
    )

    async with ground.postgres.transaction() as session:
        known = await encounter_store.find_encounter_key(session, ann)
        for device in (new_id(), None):
            judged = await encounter_store.record_encounter(
                session, new_id(), meeting, device, None
            )
            assert (judged.encounter, judged.same_device) == (None, False)
        judged = await encounter_store.record_encounter(
            session, new_id(), meeting, known.device, None
        )
        assert judged.encounter is not None
