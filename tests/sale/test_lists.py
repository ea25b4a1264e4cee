"""Operators' lists: every row once, nothing else, in a constant number of queries; and as CSV."""

from __future__ import annotations

import asyncio
import csv
import io
from typing import Any
from urllib.parse import quote

import pytest

from engine.infra.postgres import Session
from engine.infra.settings import Settings
from engine.sale import export
from tests.support.damage import do
from tests.support.shop import Shop


async def _rows(shop: Shop, path: str) -> list[dict[str, Any]]:
    reply = await shop.send("GET", path)
    assert reply.status == 200, reply.body
    rows: list[dict[str, Any]] = reply.json["data"]
    return rows


async def _sheet(shop: Shop, path: str) -> list[dict[str, str]]:
    reply = await shop.send("GET", path)
    assert (reply.status, reply.headers["content-type"]) == (200, "text/csv; charset=utf-8")
    return list(csv.DictReader(io.StringIO(reply.body.decode(), newline="")))


@pytest.fixture
async def drop(shop: Shop, settings: Settings) -> int:
    """A drop with a hold of each status, and one that ran out and that nobody swept."""
    drop_id = await shop.open_drop(20, maxPerBuyer=None, holdSeconds=60, maxHoldSeconds=60)
    overdue = (await shop.reserve(drop_id, "otto")).json
    for buyer in ("ann", "bob"):
        bought, returned, _ = [(await shop.reserve(drop_id, buyer)).json["id"] for _ in range(3)]
        await shop.confirm(bought, buyer, paymentReference=f"pay-{buyer}")
        await shop.release(returned, buyer)
    past = "UPDATE reservations SET expires_at = clock_timestamp() WHERE id = $1"
    await do(settings.database_url, past, overdue["id"])
    shown = (await shop.send("GET", f"/reservations/{overdue['id']}")).json
    assert shown["status"] == "expired"
    assert (await shop.stock(drop_id))["heldStock"] == 3, "and nobody swept it"
    return drop_id


@pytest.mark.parametrize(
    ("query", "shown"),
    [
        ("", ["bob active", "bob released", "bob purchased"]),
        ("userId=ann", ["ann active", "ann released", "ann purchased"]),
        ("user_id=ann&status=released", ["ann released"]),
        ("status=active", ["bob active", "ann active"]),
        ("status=expired", ["otto expired"]),
        ("status=purchased", ["bob purchased", "ann purchased"]),
        ("status=paying", []),
        ("status=expired,active", ["bob active", "ann active", "otto expired"]),
        ("userId=nobody", []),
        ("userId=otto&status=active", []),
    ],
)
async def test_holds_are_listed_by_buyer_and_status(
    shop: Shop, drop: int, query: str, shown: list[str]
) -> None:
    rows = await _rows(shop, f"/drops/{drop}/reservations?{query}")

    seen = [f"{row['userId']} {row['status']}" for row in rows]
    assert seen[: len(shown)] == shown
    assert len(seen) == (len(shown) if query else 7)


async def test_a_hold_is_listed_with_its_moments_and_what_became_of_it(
    shop: Shop, drop: int
) -> None:
    rows = await _rows(shop, f"/drops/{drop}/reservations")

    for row in rows:
        alone = (await shop.send("GET", f"/reservations/{row['id']}")).json
        more = {"createdAt", "endedAt", "purchaseId", "serverTime"}
        assert {n: v for n, v in row.items() if n not in more} == {
            n: v for n, v in alone.items() if n not in more
        }
        assert (row["endedAt"] is None) == (row["userId"] == "otto" or row["status"] == "active")
        assert (row["purchaseId"] is not None) == (row["status"] == "purchased")
        assert row["createdAt"] < row["expiresAt"]


async def test_purchases_are_listed_by_buyer_and_none_is_refunded(shop: Shop, drop: int) -> None:
    path = f"/drops/{drop}/purchases"

    assert [row["userId"] for row in await _rows(shop, path)] == ["bob", "ann"]
    [row] = await _rows(shop, f"{path}?userId=ann&status=purchased")
    assert row == {
        n: v
        for n, v in (await shop.send("GET", f"/purchases/{row['id']}")).json.items()
        if n != "drop"
    }
    assert await _rows(shop, f"{path}?status=refunded") == []
    meta = (await shop.send("GET", f"{path}?status=refunded&page=1")).json["meta"]
    assert meta["totalItems"] == 0


async def test_a_timeline_tells_what_happened_to_each_hold_of_a_buyer_on_every_drop(
    shop: Shop, drop: int
) -> None:
    other = await shop.open_drop(1, name="Other")
    await shop.reserve(other, "ann")

    chapters = await _rows(shop, "/buyers/ann/timeline")
    [overdue] = await _rows(shop, "/buyers/otto/timeline")

    told = [(c["dropName"], [event["event"] for event in c["events"]]) for c in chapters]
    assert told == [
        ("Other", ["reserved"]),
        ("Aurora", ["reserved"]),
        ("Aurora", ["reserved", "released"]),
        ("Aurora", ["reserved", "purchased"]),
    ]
    assert [c["paymentReference"] for c in chapters] == [None, None, None, "pay-ann"]
    for chapter in chapters:
        moments = [event["at"] for event in chapter["events"]]
        assert moments == sorted(moments)
    assert overdue["events"][1] == {"at": overdue["expiresAt"], "event": "expired"}
    assert await _rows(shop, "/buyers/nobody/timeline") == []


@pytest.mark.parametrize(
    "buyer", ["a/b", "/", "bob/", "a b", "ünï", "a%2Fb", "100%", "..", "a/timeline", "?&=#"]
)
async def test_every_buyer_has_a_timeline_whatever_the_id(shop: Shop, buyer: str) -> None:
    """Buyers choose their ids, and an address is written with them."""
    drop_id = await shop.open_drop(2)
    hold = (await shop.reserve(drop_id, buyer)).json
    await shop.reserve(drop_id, "somebody else")

    [chapter] = await _rows(shop, f"/buyers/{quote(buyer, safe='')}/timeline")

    assert chapter["reservationId"] == hold["id"]


async def test_a_purchase_made_before_holds_knew_their_end_is_shown_at_its_moment(
    shop: Shop, settings: Settings
) -> None:
    """Of all that ended before the migration `ended_at` is null; the deadline is in the future."""
    drop_id = await shop.open_drop(2, holdSeconds=600)
    bought = (await shop.confirm((await shop.reserve(drop_id, "ann")).json["id"], "ann")).json
    await do(
        settings.database_url, "UPDATE reservations SET ended_at = NULL WHERE drop_id = $1", drop_id
    )

    [chapter] = await _rows(shop, "/buyers/ann/timeline")
    [listed] = await _rows(shop, f"/drops/{drop_id}/reservations")

    assert chapter["events"][1] == {"at": bought["purchasedAt"], "event": "purchased"}
    assert listed["endedAt"] == bought["purchasedAt"] < chapter["expiresAt"]


LISTS = ["reservations", "purchases", "timeline"]


async def _crowded(shop: Shop, rows: int) -> dict[str, str]:
    """So many holds, all bought, of one drop and one buyer: the paths of its lists."""
    drop_id = await shop.open_drop(rows, maxPerBuyer=None)
    holds = await asyncio.gather(*(shop.reserve(drop_id, "ann") for _ in range(rows)))
    bought = [shop.confirm(hold.json["id"], "ann") for hold in holds]
    assert {reply.status for reply in await asyncio.gather(*bought)} == {201}
    return {
        "reservations": f"/drops/{drop_id}/reservations",
        "purchases": f"/drops/{drop_id}/purchases",
        "timeline": "/buyers/ann/timeline",
    }


@pytest.mark.parametrize("name", LISTS)
@pytest.mark.parametrize("limit", [1, 4, 7])
async def test_a_walk_by_cursor_and_one_by_page_meet_every_row_once(
    shop: Shop, name: str, limit: int
) -> None:
    path = (await _crowded(shop, 12))[name]
    whole = [_id(row) for row in await _rows(shop, path)]
    assert len(set(whole)) == 12

    walked: list[str] = []
    cursor: str | None = ""
    while cursor is not None:
        part = (await shop.send("GET", f"{path}?limit={limit}&cursor={cursor}")).json
        assert len(part["data"]) <= limit
        assert "meta" not in part
        walked += map(_id, part["data"])
        cursor = part["nextCursor"]
    paged: list[str] = []
    pages = -(-12 // limit)
    for page in range(1, pages + 2):
        part = (await shop.send("GET", f"{path}?pageSize={limit}&page={page}")).json
        wanted = {"totalItems": 12, "totalPages": pages, "currentPage": page, "pageSize": limit}
        assert part["meta"] == wanted
        paged += map(_id, part["data"])

    assert walked == whole
    assert paged == whole


def _id(row: dict[str, Any]) -> str:
    return str(row.get("id") or row["reservationId"])


@pytest.mark.parametrize("page", ["", "&page=1"])
async def test_every_list_answers_in_a_constant_number_of_queries(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, page: str
) -> None:
    paths = list((await _crowded(shop, 101)).values())
    await asyncio.gather(*(shop.open_drop(1) for _ in range(100)))
    other = await shop.open_drop(101, maxPerBuyer=None)
    await asyncio.gather(*(shop.reserve(other, "ann") for _ in range(101)))
    paths += ["/drops", "/reservations", "/purchases/mine"]
    called: list[str] = []
    call = Session.call

    async def counted(self: Session, query: Any, **words: Any) -> Any:
        if query.name != "follow_credentials":  # the watch's, which looks by its own clock
            called.append(query.name)
        return await call(self, query, **words)

    monkeypatch.setattr(Session, "call", counted)
    for path in paths:
        counts = set()
        for limit in (1, 20, 100):
            called.clear()
            rows = await _rows(shop, f"{path}?userId=ann&limit={limit}{page}")
            assert len(rows) == limit
            counts.add(len(called))
        print(f"{path}: {called}")
        assert len(counts) == 1
        assert len(called) <= 4


# ── CSV ──────────────────────────────────────────────────────────────────────────────────────────


async def test_a_csv_of_holds_says_what_the_list_says(shop: Shop, drop: int) -> None:
    rows = await _rows(shop, f"/drops/{drop}/reservations")

    sheet = await _sheet(shop, f"/drops/{drop}/reservations?format=csv")

    assert list(sheet[0]) == list(export.HOLD_COLUMNS)
    assert sheet == [{name: _cell(row[name]) for name in export.HOLD_COLUMNS} for row in rows]
    some = await _sheet(shop, f"/drops/{drop}/reservations?format=csv&status=expired&userId=otto")
    assert [row["status"] for row in some] == ["expired"]
    assert await _sheet(shop, f"/drops/{drop}/reservations?format=csv&userId=nobody") == []


async def test_a_csv_of_purchases_says_what_the_list_says(shop: Shop, drop: int) -> None:
    rows = await _rows(shop, f"/drops/{drop}/purchases")

    sheet = await _sheet(shop, f"/drops/{drop}/purchases?format=csv")

    assert list(sheet[0]) == list(export.PURCHASE_COLUMNS)
    wanted = [row | {"status": "purchased"} for row in rows]
    assert sheet == [{n: _cell(row[n]) for n in export.PURCHASE_COLUMNS} for row in wanted]
    assert await _sheet(shop, f"/drops/{drop}/purchases?format=csv&status=refunded") == []


def _cell(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(str(unit["number"]) for unit in value)
    return "" if value is None else str(value)


@pytest.mark.parametrize("first", ["=", "+", "-", "@"])
async def test_a_cell_that_a_spreadsheet_would_run_begins_with_an_apostrophe(
    shop: Shop, first: str
) -> None:
    drop_id = await shop.open_drop(2)
    evil = f'{first}HYPERLINK("http://evil.example","a, b")'
    hold = (await shop.reserve(drop_id, evil)).json
    await shop.confirm(hold["id"], evil, paymentReference=f"{first}1+1")

    [held] = await _sheet(shop, f"/drops/{drop_id}/reservations?format=csv")
    [sold] = await _sheet(shop, f"/drops/{drop_id}/purchases?format=csv")

    assert held["userId"] == sold["userId"] == "'" + evil
    assert sold["paymentReference"] == f"'{first}1+1"
    [row] = await _rows(shop, f"/drops/{drop_id}/reservations?userId={quote(evil)}")
    assert row["userId"] == evil, "JSON says it as it is"


async def test_a_long_csv_is_read_page_by_page_each_row_once(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "PAGE", 5)
    path = (await _crowded(shop, 23))["reservations"]

    sheet = await _sheet(shop, f"{path}?format=csv")

    assert [row["id"] for row in sheet] == [
        row["id"] for row in await _rows(shop, f"{path}?limit=100")
    ]


async def test_asking_for_the_head_of_a_csv_reads_nothing(
    shop: Shop, drop: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "PAGE", -1)  # a page that cannot be read
    reply = await shop.send("HEAD", f"/drops/{drop}/reservations?format=csv")

    assert (reply.status, reply.body) == (200, b"")
    assert reply.headers["content-type"] == "text/csv; charset=utf-8"


WRONG = {
    "status=bogus": "status",
    "status=active,": "status",
    "userId=%00": "userId",
    "userId=a&user_id=a": "userId",
    "format=xml": "format",
    "limit=0": "limit",
    "limit=101": "limit",
    "page=0": "page",
    "cursor=abc": "cursor",
}


async def test_what_cannot_be_asked_is_a_400_that_names_the_field(shop: Shop) -> None:
    drop_id = await shop.open_drop(1)

    for name in ("reservations", "purchases"):
        for query, field in WRONG.items():
            reply = await shop.send("GET", f"/drops/{drop_id}/{name}?{query}")
            assert (reply.status, reply.error) == (400, "VALIDATION_ERROR"), query
            assert [problem["field"] for problem in reply.json["details"]["fields"]] == [field]


async def test_the_lists_of_a_drop_that_is_not_there_are_a_404(shop: Shop) -> None:
    for path in ("reservations", "purchases", "reservations?format=csv"):
        assert (await shop.send("GET", f"/drops/999999/{path}")).error == "NOT_FOUND"
