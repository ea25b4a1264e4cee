"""Who reads what users did: an admin all of it, a user what is his."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import asyncpg
import pytest

from engine.infra.ids import new_id
from engine.infra.settings import Settings
from tests.identity.conftest import Caller

Buyers = Callable[[str], Caller]
Servers = Callable[..., Awaitable[Caller]]
ANN, BOB = new_id(), new_id()
SESSION = new_id()
ACTIONS = "user_register", "settings_updated"


@pytest.fixture
async def written(settings: Settings) -> None:
    """Ten acts of Ann's, an hour apart but for two that are of one moment, and one of Bob's."""
    moments = [datetime(2030, 1, 1, hour, tzinfo=UTC) for hour in (0, 1, 2, 3, 4, 4, 5, 6, 7, 8)]
    rows: list[tuple[Any, ...]] = [
        (new_id(), ANN, SESSION if n < 2 else None, ACTIONS[n % 2], f'{{"n": {n}}}', moment)
        for n, moment in enumerate(moments)
    ]
    rows.append((new_id(), BOB, None, "user_erased", None, moments[0]))
    database = await asyncpg.connect(settings.database_url)
    await database.executemany(
        "INSERT INTO activity_logs (id, user_id, session_id, action, details, created_at)"
        " VALUES ($1, $2, $3, $4, $5, $6)",
        rows,
    )
    await database.close()


@pytest.mark.usefixtures("written")
async def test_it_is_read_by_pages_and_filters(admin: Caller) -> None:
    seen: list[str] = []
    cursor: str | None = ""
    for _ in range(4):
        got = (await admin.asks("GET", f"/activity-logs?limit=3&cursor={cursor}")).json
        seen += [each["id"] for each in got["data"]]
        cursor = got["nextCursor"]
    assert cursor is None
    assert len(set(seen)) == len(seen) == 11

    page = (await admin.asks("GET", f"/activity-logs?userId={ANN}&page=2&limit=4")).json
    assert [each["details"]["n"] for each in page["data"]][1:3] in ([4, 3], [5, 3])
    assert page["meta"] == {"totalItems": 10, "totalPages": 3, "currentPage": 2, "pageSize": 4}
    for query, count in (
        (f"sessionId={SESSION}", 2),
        ("action=user_erased", 1),
        ("startDate=2030-01-01T06:00:00Z", 3),
        ("endDate=2030-01-01T01:00:00Z", 3),
        (f"user_id={ANN}&start_date=2030-01-01T01:00:00Z&endDate=2030-01-01T02:00:00Z", 2),
    ):
        got = (await admin.asks("GET", f"/activity-logs?{query}")).json["data"]
        assert len(got) == count, query
    for query in ("userId=ann", "cursor=1", "startDate=x", "action=%00", "page=99999&limit=100"):
        assert await admin.is_told("GET", f"/activity-logs?{query}") == (400, "VALIDATION_ERROR")


@pytest.mark.usefixtures("written")
async def test_a_user_reads_his_own_and_nobody_elses(
    buyer: Buyers, nobody: Caller, server: Servers
) -> None:
    bob = buyer(BOB)
    for path in ("", f"?userId={BOB}", f"/user/{BOB}/recent"):
        got = (await bob.asks("GET", f"/activity-logs{path}")).json["data"]
        assert [(each["userId"], each["action"]) for each in got] == [(BOB, "user_erased")]
    for path in (
        f"/activity-logs?userId={ANN}",
        f"/activity-logs/user/{ANN}/recent",
        f"/activity-logs/stats?userId={ANN}",
    ):
        assert await bob.is_told("GET", path) == (403, "FORBIDDEN")
        assert await buyer("bob").is_told("GET", path) == (403, "FORBIDDEN")
        assert await (await server("sale:read")).is_told("GET", path) == (403, "FORBIDDEN")
        assert await nobody.is_told("GET", path) == (401, "UNAUTHORIZED")
    shop = await server("identity")
    got = (await shop.asks("GET", f"/activity-logs/user/{ANN}/recent?limit=3")).json
    assert [each["details"]["n"] for each in got["data"]] == [9, 8, 7]
    assert await shop.is_told("GET", "/activity-logs/user/ann/recent") == (404, "NOT_FOUND")


@pytest.mark.usefixtures("written")
async def test_it_is_summed_up(admin: Caller, buyer: Buyers) -> None:
    assert (await admin.asks("GET", "/activity-logs/stats")).json == {
        "totalActions": 11,
        "actionBreakdown": [
            {"action": "settings_updated", "count": 5},
            {"action": "user_register", "count": 5},
            {"action": "user_erased", "count": 1},
        ],
    }
    own = {"totalActions": 1, "actionBreakdown": [{"action": "user_erased", "count": 1}]}
    assert (await buyer(BOB).asks("GET", "/activity-logs/stats")).json == own
