"""A crowd that watches a drop."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from engine.sale import shelf
from tests.support.shop import Shop


async def test_a_crowd_shares_the_looks_at_a_stock_and_each_tells_what_is_true_when_it_asks(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    drop, other = await shop.open_drop(5), await shop.open_drop(3)
    looks: list[Sequence[int]] = []
    stocks = shelf.stocks

    async def counted(caller: Any, ids: Sequence[int]) -> Any:
        looks.append(ids)
        await asyncio.sleep(0.05)
        return await stocks(caller, ids)

    monkeypatch.setattr(shelf, "stocks", counted)
    asked = [shop.send("GET", f"/drops/{id}/stock") for id in (drop, other, other + 1) * 20]
    told = await asyncio.gather(*asked)

    assert [reply.status for reply in told] == [200, 200, 404] * 20
    assert {reply.json["availableStock"] for reply in told if reply.status == 200} == {5, 3}
    assert len(looks) <= 4

    assert (await shop.reserve(drop, "ann")).status == 201
    assert (await shop.send("GET", f"/drops/{drop}/stock")).json["availableStock"] == 4


async def test_a_stock_that_has_not_changed_is_told_by_its_tag_alone(shop: Shop) -> None:
    drop = await shop.open_drop(5)
    first = await shop.send("GET", f"/drops/{drop}/stock")
    tag = {"if-none-match": first.headers["etag"]}

    same = await shop.send("GET", f"/drops/{drop}/stock", headers=tag)
    assert (same.status, same.body) == (304, b"")

    assert (await shop.reserve(drop, "ann")).status == 201
    changed = await shop.send("GET", f"/drops/{drop}/stock", headers=tag)
    assert (changed.status, changed.json["availableStock"]) == (200, 4)
