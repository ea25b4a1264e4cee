"""Everything that is listed is listed alike: newest first, by cursor or by page."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.walkthrough.conftest import Buyer, Operator


async def _with_five_of_everything(operator: Operator, ann: Buyer) -> None:
    for _ in range(5):
        drop = await operator.opens(units=10, maxPerBuyer=2)
        await ann.reserves(drop)
        await ann.buys(await ann.reserves(drop))


LISTS = ["/drops", "/reservations", "/purchases/mine"]


@pytest.mark.parametrize("path", LISTS)
async def test_a_cursor_walks_a_list_from_the_newest_to_the_oldest(
    operator: Operator, buyer: Callable[[str], Buyer], path: str
) -> None:
    ann = buyer("ann")
    await _with_five_of_everything(operator, ann)

    first = await ann.looks_at(path, limit=2)
    second = await ann.looks_at(path, limit=2, cursor=first["nextCursor"])
    third = await ann.looks_at(path, limit=2, cursor=second["nextCursor"])

    assert [len(part["data"]) for part in (first, second, third)] == [2, 2, 1]
    assert third["nextCursor"] is None
    ids = _ids(first) + _ids(second) + _ids(third)
    assert ids == _ids(await ann.looks_at(path)) == sorted(set(ids), reverse=True)
    assert "meta" not in first


@pytest.mark.parametrize("path", LISTS)
async def test_pages_say_how_many_there_are(
    operator: Operator, buyer: Callable[[str], Buyer], path: str
) -> None:
    ann = buyer("ann")
    await _with_five_of_everything(operator, ann)

    pages = [await ann.looks_at(path, page=number, pageSize=2) for number in (1, 2, 3, 4)]

    assert [len(page["data"]) for page in pages] == [2, 2, 1, 0]
    assert [page["meta"] for page in pages] == [
        {"totalItems": 5, "totalPages": 3, "currentPage": number, "pageSize": 2}
        for number in (1, 2, 3, 4)
    ]
    paged = [id for page in pages for id in _ids(page)]
    assert paged == _ids(await ann.looks_at(path))


async def test_a_buyers_lists_are_hers_alone_and_purchases_come_with_their_drop(
    operator: Operator, buyer: Callable[[str], Buyer]
) -> None:
    ann, bob = buyer("ann"), buyer("bob")
    await _with_five_of_everything(operator, ann)

    assert (await bob.looks_at("/reservations"))["data"] == []
    assert (await bob.looks_at("/purchases/mine"))["data"] == []
    for purchase in (await ann.looks_at("/purchases/mine"))["data"]:
        alone = await ann.looks_at(f"/purchases/{purchase['id']}")
        assert purchase["drop"].pop("id") == alone["drop"].pop("id") == purchase["dropId"]
        assert {**purchase, "drop": None} == {**alone, "drop": None}


async def test_only_live_holds_are_listed_but_every_hold_can_be_seen(
    operator: Operator, buyer: Callable[[str], Buyer]
) -> None:
    drop, ann = await operator.opens(units=5, maxPerBuyer=None), buyer("ann")
    bought, returned, kept = [await ann.reserves(drop) for _ in range(3)]
    await ann.buys(bought)
    await ann.gives_back(returned)

    listed = await ann.looks_at("/reservations")

    assert [hold["id"] for hold in listed["data"]] == [kept.json["id"]]
    seen = [
        (await ann.looks_at(f"/reservations/{hold.json['id']}"))["status"]
        for hold in (bought, returned, kept)
    ]
    assert seen == ["purchased", "released", "active"]


async def test_drops_can_be_listed_by_status(
    operator: Operator, buyer: Callable[[str], Buyer]
) -> None:
    live, paused, closed, upcoming, gone = [
        await operator.opens(units=1),
        await operator.opens(units=1),
        await operator.opens(units=1),
        await operator.opens(units=1, startsAt="2190-01-01T00:00:00Z"),
        await operator.opens(units=1),
    ]
    await operator.does("pause", paused)
    await operator.does("close", closed)
    ann = buyer("ann")
    await ann.buys(await ann.reserves(gone))

    async def listed(status: str) -> list[Any]:
        return _ids(await ann.looks_at("/drops", status=status))

    assert await listed("live") == [live]
    assert await listed("paused,ended") == [closed, paused]
    assert await listed("upcoming") == [upcoming]
    assert await listed("sold_out") == [gone]
    assert await listed("preparing") == []


def _ids(page: Any) -> list[Any]:
    return [row["id"] for row in page["data"]]
