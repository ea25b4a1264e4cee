"""A key is kept as a hash, does what its scopes say, and ends within a second of its end."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Collection
from typing import Any

import asyncpg
import pytest

from engine.identity import apikeys, store
from engine.identity.models import SCOPES
from engine.infra.combiner import Crew
from engine.infra.errors import Invalid
from engine.infra.settings import Settings
from engine.runtime import Ground
from tests.identity.conftest import Caller
from tests.support.shop import Shop
from tests.support.wait import wait_until

Servers = Callable[..., Awaitable[Caller]]


async def _row(settings: Settings, statement: str) -> asyncpg.Record | None:
    connection = await asyncpg.connect(settings.database_url)
    try:
        return await connection.fetchrow(statement)
    finally:
        await connection.close()


async def test_a_key_is_not_in_the_database_but_its_hash_is(
    ground: Ground, settings: Settings
) -> None:
    key = await apikeys.create(ground.postgres, "a shop", ["sale:read"])

    row = await _row(settings, "SELECT k.*, k::text AS everything FROM api_keys AS k")

    assert row is not None
    assert row["hash"] == hashlib.sha256(key.encode()).digest()
    secret = key.rpartition("_")[2]
    assert secret not in row["everything"]
    assert row["prefix"] in key


async def test_two_keys_are_never_alike(ground: Ground) -> None:
    keys = [await apikeys.create(ground.postgres, "a shop", ["sale:read"]) for _ in range(20)]

    assert len({key[:16] for key in keys}) == len({key[16:] for key in keys}) == 20


async def test_an_unknown_scope_makes_no_key(ground: Ground, settings: Settings) -> None:
    with pytest.raises(Invalid, match="sale:everything"):
        await apikeys.create(ground.postgres, "a shop", ["sale:read", "sale:everything"])

    assert await _row(settings, "SELECT FROM api_keys") is None


READS = [("GET", "/reservations?userId=ann"), ("GET", "/purchases/mine?userId=ann")]
WRITES = [("POST", "/reservations"), ("POST", "/reserve/$drop")]
OPERATES = [("POST", "/drops/$drop/pause"), ("POST", "/drops/$drop/resume")]


@pytest.mark.parametrize("scope", SCOPES)
async def test_a_key_does_what_its_scope_says_and_nothing_else(
    server: Servers, drop: int, scope: str
) -> None:
    shops = await server(scope)
    may = {
        "sale:read": READS,
        "sale:write": WRITES,
        "admin": [*READS, *WRITES, *OPERATES],
    }.get(scope, [])

    for method, path in (*READS, *WRITES, *OPERATES):
        body = {"dropId": drop, "userId": "ann"} if method == "POST" else None
        status, code = await shops.is_told(method, path.replace("$drop", str(drop)), body)

        assert (status < 300) == ((method, path) in may), (method, path, status)
        assert status < 300 or (status, code) == (403, "FORBIDDEN")


async def test_a_key_is_told_which_scope_it_lacks(server: Servers) -> None:
    """Also where others are told 401: whose it is was never the question."""
    shops = await server("sale:read")

    for path, scope in (("/mint", "membership"), ("/reservations", "sale:write")):
        told = await shops.asks("POST", path, {})
        assert (told.status, told.error) == (403, "FORBIDDEN")
        assert told.json["message"] == f"This key lacks the scope `{scope}`"


async def test_a_revoked_key_is_refused_within_the_time_it_is_remembered(
    server: Servers, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert apikeys.REMEMBERED_SECONDS <= 5
    monkeypatch.setattr(apikeys, "REMEMBERED_SECONDS", 0.2)
    shops = await server("sale:read")
    assert (await shops.asks("GET", "/drops")).status == 200

    await _row(settings, "UPDATE api_keys SET revoked_at = now() RETURNING id")

    async def is_refused() -> bool:
        return await shops.is_told("GET", "/drops") == (401, "UNAUTHORIZED")

    await wait_until(is_refused, "the key is refused", seconds=2)


async def test_a_key_that_was_never_used_ends_at_once(server: Servers, settings: Settings) -> None:
    shops = await server("sale:read")

    await _row(settings, "UPDATE api_keys SET revoked_at = now() RETURNING id")

    assert await shops.is_told("GET", "/drops") == (401, "UNAUTHORIZED")


async def test_the_right_prefix_with_another_secret_is_refused_even_while_the_key_is_remembered(
    ground: Ground, shop: Shop
) -> None:
    key = await apikeys.create(ground.postgres, "a shop", ["sale:read"])
    assert (await shop.send("GET", "/drops", headers={"x-api-key": key})).status == 200
    wrong = key[:-1] + ("0" if key[-1] != "0" else "1")

    told = await Caller(shop, {"x-api-key": wrong}).is_told("GET", "/drops")

    assert told == (401, "UNAUTHORIZED")


async def test_a_token_goes_before_a_key_and_a_bad_one_is_not_mended_by_the_other(
    ground: Ground, shop: Shop
) -> None:
    key = await apikeys.create(ground.postgres, "a shop", ["admin"])
    both = Caller(shop, {"x-api-key": key, "authorization": "Bearer garbage"})

    assert await both.is_told("GET", "/drops") == (401, "UNAUTHORIZED")


async def test_a_worker_that_stood_still_looks_once_for_all_who_waited(
    ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, looks = await apikeys.create(ground.postgres, "a shop", ["sale:read"]), list[int]()
    find = store.find_live_keys

    async def counting(postgres: Any, prefixes: Collection[str]) -> Any:
        looks.append(len(prefixes))
        return await find(postgres, prefixes)

    monkeypatch.setattr(store, "find_live_keys", counting)
    keys = apikeys.ApiKeys(ground.postgres, Crew())

    found = await asyncio.gather(*(keys.caller(key) for _ in range(300)))

    assert {each.caller.scopes for each in found} == {frozenset({"sale:read"})}
    assert looks == [1]
