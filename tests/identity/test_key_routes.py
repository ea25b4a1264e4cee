"""Keys over HTTP: made, listed, exchanged and ended by operators."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Any

import asyncpg
import pytest

from engine.identity import apikeys, signing
from engine.identity.apikeys import ApiKeys
from engine.infra.combiner import Crew
from engine.infra.errors import Unauthorized
from engine.infra.settings import Settings
from engine.runtime import Ground
from tests.identity.conftest import HMAC_SECRET, Caller
from tests.support.keeping import locks_of
from tests.support.shop import Shop
from tests.support.wait import wait_until

Servers = Callable[..., Awaitable[Caller]]
TILL = {"name": "till", "scopes": ["sale:read", "sale:write"]}
GONE = "0199a3f2-7c1e-7d43-9b5a-2f6c8e1d4a90"


async def _make(caller: Caller, **more: Any) -> dict[str, Any]:
    made = await caller.asks("POST", "/api-keys", TILL | more)
    assert made.status == 201, made.body
    told: dict[str, Any] = made.json
    return told


def _of(shop: Shop, key: str) -> Caller:
    return Caller(shop, {"x-api-key": key})


def _days(key: dict[str, Any]) -> float:
    made, ends = (datetime.fromisoformat(key[name]) for name in ("createdAt", "expiresAt"))
    return (ends - made) / timedelta(days=1)


async def test_a_key_is_made_shown_once_listed_and_ended(
    shop: Shop, admin: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(apikeys, "REMEMBERED_SECONDS", 0.2)
    made = await _make(admin)
    till = _of(shop, made["apiKey"])
    assert (made["scopes"], made["expiresAt"], made["mustSign"]) == (TILL["scopes"], None, False)
    assert "signingSecret" not in made
    assert (await till.asks("GET", "/reservations?userId=ann")).status == 200

    listed = await admin.asks("GET", "/api-keys")
    assert made["apiKey"].encode() not in listed.body
    assert made["apiKey"].rpartition("_")[2].encode() not in listed.body
    [row] = listed.json["data"]
    assert (row["id"], row["prefix"], row["live"]) == (made["id"], made["prefix"], True)

    ended = [await admin.asks("DELETE", f"/api-keys/{made['id']}") for _ in range(2)]
    assert [(each.status, each.json["live"]) for each in ended] == [(200, False)] * 2
    assert ended[0].json["revokedAt"] == ended[1].json["revokedAt"]

    async def is_refused() -> bool:
        return await till.is_told("GET", "/reservations?userId=a") == (401, "UNAUTHORIZED")

    await wait_until(is_refused, "it is refused", seconds=2)


async def test_pages_of_keys_are_newest_first(admin: Caller) -> None:
    ids = [(await _make(admin))["id"] for _ in range(3)][::-1]
    first = (await admin.asks("GET", "/api-keys?limit=2")).json
    rest = (await admin.asks("GET", f"/api-keys?limit=2&cursor={first['nextCursor']}")).json
    second = (await admin.asks("GET", "/api-keys?page=2&pageSize=2")).json

    assert [row["id"] for row in (*first["data"], *rest["data"])] == ids
    assert (rest["nextCursor"], second["data"]) == (None, rest["data"])
    assert second["meta"] == {"totalItems": 3, "totalPages": 2, "currentPage": 2, "pageSize": 2}


async def test_to_make_a_key_is_not_replayed_and_to_end_one_is(shop: Shop, admin: Caller) -> None:
    """Whoever asks twice has two keys: no secret is kept to be shown again."""
    keyed = Caller(shop, admin._headers | {"idempotency-key": "once"})
    first, second = await _make(keyed), await _make(keyed)
    ended = [await keyed.asks("DELETE", f"/api-keys/{first['id']}") for _ in range(2)]
    other = await keyed.is_told("DELETE", f"/api-keys/{second['id']}")

    assert first["apiKey"] != second["apiKey"]
    assert ended[1].headers["idempotent-replayed"] == "true"
    assert other == (422, "IDEMPOTENCY_MISMATCH")


async def test_a_rotated_key_goes_on_through_its_grace(shop: Shop, admin: Caller) -> None:
    old = await _make(admin, expires_in_days=9)
    made = await admin.asks("POST", f"/api-keys/{old['id']}/rotate", {"graceSeconds": 3_600})
    new = made.json

    assert made.status == 201
    assert (new["name"], new["scopes"], new["expiresAt"]) == (
        *(old["name"], old["scopes"], old["expiresAt"]),
    )
    assert new["oldEndsAt"] > new["createdAt"]
    for key in (old["apiKey"], new["apiKey"]):
        assert (await _of(shop, key).asks("GET", "/drops")).status == 200
    longer = await admin.asks("POST", f"/api-keys/{new['id']}/rotate", {"expiresInDays": 30})
    assert 29.9 < _days(longer.json) < 30.1
    again = await admin.is_told("POST", f"/api-keys/{new['id']}/rotate")
    assert again == (404, "NOT_FOUND"), "it has ended, without a grace"


async def test_a_key_ends_by_itself_also_where_it_is_remembered(
    shop: Shop, admin: Caller, settings: Settings, ground: Ground
) -> None:
    made = await _make(admin, expiresInDays=90)
    assert 89.9 < _days(made) < 90.1
    database = await asyncpg.connect(settings.database_url)
    soon = "UPDATE api_keys SET expires_at = clock_timestamp() + interval '0.4 seconds'"
    await database.execute(soon)
    await database.close()
    crew, began = Crew(), time.monotonic()
    keys = ApiKeys(ground.postgres, crew)
    known = await keys.caller(made["apiKey"])

    assert known.until - began <= 0.41, "not for the usual seconds"
    await asyncio.sleep(max(known.until - time.monotonic(), 0) + 0.05)
    assert keys.remembered(made["apiKey"]) is None
    with pytest.raises(Unauthorized):
        await keys.caller(made["apiKey"])
    assert await _of(shop, made["apiKey"]).is_told("GET", "/drops") == (401, "UNAUTHORIZED")
    [row] = (await admin.asks("GET", "/api-keys")).json["data"]
    assert row["live"] is False
    await crew.drain(1)


async def test_only_operators_have_to_do_with_keys_and_locks(
    shop: Shop, buyer: Callable[[str], Caller], nobody: Caller, server: Servers, admin: Caller
) -> None:
    made = await _make(admin)
    scopes = "sale:read", "sale:write", "identity", "membership", "metrics"
    callers = [(nobody, 401), (buyer("ann"), 403), (await server(*scopes), 403)]
    for method, path in (
        *(("GET", "/api-keys"), ("POST", "/api-keys"), ("GET", "/locks")),
        *(("POST", f"/api-keys/{made['id']}/rotate"), ("DELETE", f"/api-keys/{made['id']}")),
    ):
        body = TILL | {"scopes": ["admin"]} if method == "POST" else None
        for caller, status in callers:
            assert (await caller.asks(method, path, body)).status == status, (method, path)
    assert len((await admin.asks("GET", "/api-keys")).json["data"]) == 2, "theirs, and the till's"


async def test_a_key_gives_no_more_than_it_has(shop: Shop, admin: Caller, ground: Ground) -> None:
    """An operator's key that leaked must not outlive its end by its children."""
    free = await _make(admin)
    brief = await _make(admin, scopes=["admin"], expiresInDays=2)
    office = _of(shop, brief["apiKey"])

    for asked in ({}, {"expiresInDays": 300}):
        assert (await _make(office, **asked))["expiresAt"] == brief["expiresAt"]
    assert _days(await _make(office, expiresInDays=1)) < 1.1
    for id, body in ((free["id"], None), (brief["id"], {"expiresInDays": 300, "graceSeconds": 9})):
        made = await office.asks("POST", f"/api-keys/{id}/rotate", body)
        assert made.json["expiresAt"] == brief["expiresAt"], "neither by exchange"

    signs = await apikeys.issue(ground.postgres, "s", ["admin"], must_sign=True)
    by = apikeys.Giver(frozenset({"admin"}), must_sign=True)
    child = await apikeys.issue(ground.postgres, "c", ["sale:read"], by=by)
    assert child.must_sign, "who must sign gives no key that need not"
    assert signs.must_sign
    with pytest.raises(Exception, match="gives no scope it has not: admin"):
        apikeys.Giver(frozenset({"identity"})).check(["identity", "admin"])


async def test_a_key_that_must_sign_comes_with_its_secret(
    shop: Shop, admin: Caller, settings: Settings
) -> None:
    made = await _make(admin, must_sign=True)
    assert made["signingSecret"] == signing.secret_of(HMAC_SECRET, made["id"])
    assert await _of(shop, made["apiKey"]).is_told("GET", "/drops") == (401, "UNAUTHORIZED")
    new = (await admin.asks("POST", f"/api-keys/{made['id']}/rotate")).json
    assert new["mustSign"]
    assert new["signingSecret"] == signing.secret_of(HMAC_SECRET, new["id"])
    database = await asyncpg.connect(settings.database_url)
    rows = await database.fetch("SELECT k::text FROM api_keys AS k")
    await database.close()
    assert not any(made["signingSecret"] in row[0] for row in rows)


BAD: list[dict[str, Any]] = [
    {"name": ""},
    {"name": "a" * 201},
    {"name": "a\nb"},
    {"name": 7},
    {"scopes": []},
    {"scopes": ["everything"]},
    {"scopes": "admin"},
    {"expiresInDays": 0},
    {"expiresInDays": 3_651},
    {"expiresInDays": 1, "expires_in_days": 1},
    {"mustSign": "yes"},
]


async def test_what_can_be_no_key_is_refused_with_its_field(admin: Caller) -> None:
    for bad in BAD:
        reply = await admin.asks("POST", "/api-keys", TILL | bad)
        assert (reply.status, reply.error) == (400, "VALIDATION_ERROR"), bad
        field = reply.json["details"]["fields"][0]["field"]
        assert field.split("[")[0] in (*bad, "expiresInDays"), reply.body
    made = await _make(admin)
    for grace in (-1, 2_592_001):
        path = f"/api-keys/{made['id']}/rotate"
        assert (await admin.asks("POST", path, {"grace_seconds": grace})).status == 400
    for id in ("nonsense", "%00", GONE, made["prefix"]):
        for method, path in (("DELETE", f"/api-keys/{id}"), ("POST", f"/api-keys/{id}/rotate")):
            assert await admin.is_told(method, path) == (404, "NOT_FOUND"), (method, id)


async def test_an_operator_sees_who_has_which_lock(admin: Caller, ground: Ground) -> None:
    locks = locks_of(ground)
    held = await locks.acquire("auditor", 30)
    assert held is not None
    given_back = await locks.acquire("another", 30)
    assert given_back is not None
    await locks.release(given_back)

    another, auditor = (await admin.asks("GET", "/locks")).json["data"]

    assert (auditor["name"], auditor["owner"], auditor["token"], auditor["live"]) == (
        *("auditor", held.owner, held.token, True),
    )
    assert auditor["acquiredAt"] < auditor["expiresAt"]
    assert (another["name"], another["owner"], another["live"]) == ("another", None, False)
    first = (await admin.asks("GET", "/locks?limit=1")).json
    assert first["nextCursor"] == "another"
    assert (await admin.asks("GET", "/locks?cursor=another")).json["data"] == [auditor]
    assert await admin.is_told("GET", "/locks?cursor=%00") == (400, "VALIDATION_ERROR")
    await locks.release(held)
