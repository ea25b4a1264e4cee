"""The audit log: two rows an act, nothing done without the first, and nobody changes any."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import asyncpg
import msgspec
import pytest

from engine.identity import tokens, trail, trail_store
from engine.identity.trail_store import Wanted
from engine.infra.ids import new_id
from engine.infra.postgres import Unreachable
from engine.infra.settings import Settings
from engine.runtime import Ground
from tests.identity.conftest import JWT_SECRET, Caller
from tests.support.shop import Shop
from tests.support.wait import wait_until

Buyers = Callable[[str], Caller]
Servers = Callable[..., Awaitable[Caller]]


@pytest.fixture
async def past(settings: Settings) -> AsyncIterator[asyncpg.Connection]:
    """A connection past the engine, of the tables' owner."""
    opened = await asyncpg.connect(settings.database_url)
    yield opened
    await opened.close()


async def _rows(past: asyncpg.Connection) -> list[Any]:
    return [dict(row) for row in await past.fetch("SELECT * FROM audit_log ORDER BY id")]


async def _refused(past: asyncpg.Connection, count: int) -> list[Any]:
    async def there() -> bool:
        return len(await _rows(past)) >= count

    await wait_until(there, f"{count} rows are written")
    return await _rows(past)


async def test_an_act_is_written_before_it_and_after_it(
    admin: Caller, drop: int, past: asyncpg.Connection
) -> None:
    await admin.asks("PATCH", f"/drops/{drop}", {"price": "99.00"})
    assert await admin.is_told("POST", "/drops/777/pause") == (404, "NOT_FOUND")

    made, made_end, changed, changed_end, tried, tried_end = await _rows(past)
    assert (made["who"], made["operation"], made["outcome"]) == ("admin:root", "create_drop", None)
    assert (made_end["began"], made_end["outcome"], made_end["status"]) == (made["id"], "done", 201)
    assert made_end["target"] == changed["target"] == str(drop)
    assert msgspec.json.decode(changed["change"]) == {"price": "99.00"}
    assert (changed["address"], changed["request_id"]) == ("127.0.0.1", changed_end["request_id"])
    assert (tried["target"], tried_end["outcome"], tried_end["status"]) == ("777", "NOT_FOUND", 404)


async def test_nobody_changes_what_was_written_its_owner_neither(
    drop: int, past: asyncpg.Connection
) -> None:
    assert drop
    before = await _rows(past)
    owner = await past.fetchval("SELECT tableowner FROM pg_tables WHERE tablename = 'audit_log'")
    assert owner == await past.fetchval("SELECT current_user")
    for replicating in ("origin", "replica"):
        await past.execute(f"SET session_replication_role = {replicating}")
        for statement in (
            "UPDATE audit_log SET who = 'nobody'",
            "DELETE FROM audit_log",
            "DELETE FROM audit_log WHERE false",
            "TRUNCATE audit_log",
            "INSERT INTO audit_log (id, who, operation) OVERRIDING SYSTEM VALUE"
            " VALUES (1, 'x', 'y') ON CONFLICT (id) DO UPDATE SET who = 'x'",
        ):
            with pytest.raises(asyncpg.RestrictViolationError):
                await past.execute(statement)
    assert await _rows(past) == before


async def test_what_cannot_be_written_down_is_not_done_but_a_pause_is(
    admin: Caller, shop: Shop, drop: int, past: asyncpg.Connection
) -> None:
    await past.execute("ALTER TABLE audit_log ADD CHECK (operation = 'create_drop') NOT VALID")

    assert await admin.is_told("PATCH", f"/drops/{drop}", {"price": "1"}) == (503, "RETRYABLE")
    headers = admin._headers | {"idempotency-key": "k"}
    keyed = await shop.send("PATCH", f"/drops/{drop}", {"price": "1"}, headers)
    assert (keyed.status, keyed.error) == (503, "OUTCOME_UNKNOWN"), "an earlier copy may be done"
    assert (await admin.asks("GET", f"/drops/{drop}")).json["price"] == "120.00"

    assert await admin.is_told("POST", f"/drops/{drop}/pause") == (200, "")
    assert (await admin.asks("GET", f"/drops/{drop}")).json["status"] == "paused"
    assert len(await _rows(past)) == 2, "of the drop that was made"


async def test_an_act_ends_in_the_log_though_its_caller_heard_that_it_took_too_long(
    settings: Settings, past: asyncpg.Connection
) -> None:
    async with Shop.open(msgspec.structs.replace(settings, request_deadline_ms=800)) as shop:
        headers = {"authorization": f"Bearer {tokens.create(JWT_SECRET, 'root', 60, 'admin')}"}
        body = {"name": "Aurora", "price": "1", "totalStock": 1}
        drop = (await shop.send("POST", "/drops", body, headers)).json["id"]
        async with past.transaction():
            await past.execute("SELECT 1 FROM drops FOR UPDATE")
            reply = await shop.send("PATCH", f"/drops/{drop}", {"price": "2"}, headers)
            assert (reply.status, reply.error) == (503, "OUTCOME_UNKNOWN")
            assert (await _rows(past))[-1]["outcome"] is None, "it began"

        async def ended() -> bool:
            return bool((await _rows(past))[-1]["outcome"] == "done")

        await wait_until(ended, "its end is written")


async def test_an_end_that_cannot_be_written_is_written_later_and_once(
    admin: Caller, drop: int, past: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trail, "RETRY_SECONDS", 0.02)
    end, away = trail_store.end_deed, [True, True, True]

    async def flaky(*words: Any) -> None:
        await end(*words)  # it was written, and the answer lost
        if away:
            away.pop()
            raise Unreachable

    monkeypatch.setattr(trail_store, "end_deed", flaky)
    assert await admin.is_told("POST", f"/drops/{drop}/pause") == (200, "")

    async def all_tried() -> bool:
        return not away

    await wait_until(all_tried, "it was tried again")
    await asyncio.sleep(0.05)
    assert [row["outcome"] for row in (await _rows(past))[2:]] == [None, "done"]


async def test_no_secret_is_kept_and_nothing_that_is_sent_stands_in_the_way(
    admin: Caller, shop: Shop, past: asyncpg.Connection
) -> None:
    sent = {
        "name": "a\0",
        "apiKey": "s3cret",
        "deep": [
            {"new_password": "s3cret", "JWT-Token": ["s3cret"], "hmacSecret": {"a": "s3cret"}}
        ],
        "publicKeys": "s3cret",
        "userEmail": "s3cret",  # who is erased must not stand here for ever
        "price": "1",
    }
    for body in (sent, b'"s3cret"', b'{"password": "s3cret', {"long": ["x" * 100] * 200}):
        assert (await shop.send("POST", "/drops", body, admin._headers)).status == 400

    rows = await _rows(past)
    assert len(rows) == 8
    assert "s3cret" not in str(rows)
    kept = msgspec.json.decode(rows[0]["change"])
    assert (kept["name"], kept["apiKey"], kept["price"]) == ("a?", "***", "1")


async def test_who_may_not_is_one_row_and_cannot_fill_the_log(
    shop: Shop, nobody: Caller, buyer: Buyers, server: Servers, past: asyncpg.Connection
) -> None:
    account = new_id()
    assert (await buyer(account).is_told("POST", "/drops/1/pause"))[0] == 403
    assert (await buyer("ann@hill.example").is_told("POST", "/drops/1/pause"))[0] == 403
    reader = await server("sale:read")
    assert (await reader.is_told("POST", "/drops/1/close"))[0] == 403
    assert (await nobody.is_told("POST", "/drops/1/close"))[0] == 401
    bad = Caller(shop, {"authorization": "Bearer nonsense"})
    assert (await bad.is_told("POST", "/drops/1/close", {"password": "x"}))[0] == 401
    assert (await nobody.is_told("GET", "/buyers/ann/timeline"))[0] == 401, "a look is no row"

    rows = await _refused(past, 5)
    assert {(row["who"].partition(":key:")[0], row["outcome"], row["status"]) for row in rows} == {
        (f"buyer:{account}", "FORBIDDEN", 403),
        ("buyer", "FORBIDDEN", 403),
        ("shop", "FORBIDDEN", 403),
        ("anybody", "UNAUTHORIZED", 401),
        ("nobody", "UNAUTHORIZED", 401),
    }
    assert {(row["began"], row["change"], row["address"]) for row in rows} == {
        (None, None, "127.0.0.1")
    }

    for _ in range(2 * trail.REFUSALS_AT_ONCE):
        await nobody.is_told("POST", "/drops/1/close")
    await buyer(account).is_told("POST", "/drops/1/resume")  # has a budget of his own

    rows = await _refused(past, trail.REFUSALS_AT_ONCE + 4)
    await asyncio.sleep(0.1)
    rows = await _rows(past)
    assert len(rows) == trail.REFUSALS_AT_ONCE + 4
    assert [row["operation"] for row in rows if row["who"] == f"buyer:{account}"] == [
        "pause",
        "resume",
    ]


async def test_an_admin_reads_it_by_pages_and_filters(
    admin: Caller, buyer: Buyers, server: Servers, drop: int, ground: Ground
) -> None:
    for operation in ("pause", "resume", "pause"):
        await admin.asks("POST", f"/drops/{drop}/{operation}")
    key = await server("admin")
    await key.asks("POST", f"/drops/{drop}/resume")
    await trail_store.begin_deed(ground.postgres, trail_store.Act("terminal:ann", "close"))

    listed = (await admin.asks("GET", "/admin/audit-log?limit=2")).json
    assert [
        (each["operation"], each["outcome"], each["who"].partition(":")[0])
        for each in listed["data"]
    ] == [("close", "unknown", "terminal"), ("resume", "done", "shop")]
    assert (listed["data"][0]["endedAt"], listed["data"][0]["status"]) == (None, None)
    more = (await key.asks("GET", f"/admin/audit-log?limit=2&cursor={listed['nextCursor']}")).json
    assert [each["operation"] for each in more["data"]] == ["pause", "resume"]
    page = (await admin.asks("GET", "/admin/audit-log?page=2&pageSize=4")).json
    assert [each["operation"] for each in page["data"]] == ["pause", "create_drop"]
    assert page["meta"]["totalItems"] == 6
    for query, count in (
        ("who=admin:root&operation=pause", 2),
        ("outcome=unknown", 1),
        ("outcome=FORBIDDEN", 0),
        ("from=2100-01-01", 0),
        ("to=2100-01-01", 6),
    ):
        found = (await admin.asks("GET", f"/admin/audit-log?{query}")).json["data"]
        assert len(found) == count, query
    for query in ("cursor=x", "from=never", "who=", "page=999999&limit=100", "cursor=9" + "9" * 30):
        assert await admin.is_told("GET", f"/admin/audit-log?{query}") == (400, "VALIDATION_ERROR")
    assert await buyer("ann").is_told("GET", "/admin/audit-log") == (403, "FORBIDDEN")
    assert len(await trail_store.list_deeds(ground.postgres, Wanted(), None, 100)) == 6
