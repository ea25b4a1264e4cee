"""A crowd that watches a drop."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from secrets import token_hex
from typing import Any

import msgspec
import pytest

from engine.identity.tokens import create
from engine.infra.settings import Settings
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


@pytest.mark.parametrize(
    ("given", "status"),
    [
        ("{tag}", 304),
        ("W/{tag}", 304),  # nginx makes it weak where it compresses
        ('"1-1-1x", {tag}', 304),
        ('W/"a,b" ,W/{tag}, "c"', 304),
        ("*", 304),
        ('"{tag}"', 200),
        ('"0-0-0"', 200),
        ("w/{tag}", 200),
        ('"*"', 200),
        ("", 200),
    ],
)
async def test_who_has_it_already_may_say_so_in_every_way_there_is(
    shop: Shop, given: str, status: int
) -> None:
    drop = await shop.open_drop(5)
    path = f"/drops/{drop}/stock"
    first = await shop.send("GET", path)
    headers = {"if-none-match": given.format(tag=first.headers["etag"])}

    for method in ("GET", "HEAD"):
        told = await shop.send(method, path, headers=headers)

        assert told.status == status
        assert (told.body == b"") is (status == 304 or method == "HEAD")
        for name in ("etag", "cache-control"):
            assert told.headers[name] == first.headers[name]


async def test_a_shared_cache_may_keep_it_whoever_asked_but_not_what_tells_of_a_budget(
    settings: Settings, shop: Shop
) -> None:
    drop = await shop.open_drop(5)
    required = msgspec.structs.replace(
        settings,
        auth="required",
        jwt_secret=token_hex(32),
        hmac_secret=token_hex(32),
        rate_reads_per_buyer="1/m burst 3",
    )
    ann = {"authorization": f"Bearer {create(required.jwt_secret, 'ann', 60)}"}
    async with Shop.open(required) as strict:
        path = f"/drops/{drop}/stock"
        told = [await strict.send("GET", path)]
        told += [await strict.send("GET", path, headers=ann) for _ in range(4)]

    assert [(each.status, each.headers["cache-control"]) for each in told] == [
        (200, "max-age=1"),
        (200, "public, max-age=1"),
        (200, "private, max-age=1"),
        (200, "private, max-age=1"),
        (429, "no-store"),
    ]
    assert ["ratelimit" in each.headers for each in told] == [False, False, True, True, True]
    assert len({each.body for each in told[:4]}) == 1
    assert {each.headers.get("vary") for each in told} == {None}
