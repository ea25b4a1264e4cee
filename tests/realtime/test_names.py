"""What buyers are called in public: by their usernames, as long as their accounts live."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterable

import asyncpg
import pytest

from engine.identity import names
from engine.identity.users import usernames
from engine.infra.ids import new_id
from engine.infra.postgres import Postgres
from engine.infra.settings import Settings
from engine.runtime import Ground
from tests.support.live import Live
from tests.support.shop import Shop
from tests.support.wait import wait_until


@pytest.fixture
async def connection(database: str) -> AsyncIterator[asyncpg.Connection]:
    opened = await asyncpg.connect(database)
    yield opened
    await opened.close()


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Whose usernames Postgres was asked for, one entry a query."""
    seen: list[list[str]] = []

    async def ask(postgres: Postgres, ids: Iterable[str]) -> dict[str, str]:
        seen.append(sorted(ids))
        return await usernames(postgres, seen[-1])

    monkeypatch.setattr(names, "usernames", ask)
    return seen


async def account(connection: asyncpg.Connection, username: str | None) -> str:
    id = new_id()
    await connection.execute("INSERT INTO users (id, username) VALUES ($1, $2)", id, username)
    return id


async def buys(shop: Shop, drop: int, buyer: str) -> None:
    hold = (await shop.reserve(drop, buyer)).json["id"]
    assert (await shop.confirm(hold, buyer)).status == 201


async def called(shop: Shop, drop: int) -> list[str]:
    return [one["username"] for one in (await shop.show(drop))["recentPurchases"]]


async def test_the_newest_buyers_are_called_by_their_usernames_wherever_one_looks(
    settings: Settings, connection: asyncpg.Connection, asked: list[list[str]]
) -> None:
    ann, nameless = await account(connection, "Ann.K"), await account(connection, None)
    async with Live.behind(settings) as live:
        drop = await live.open_drop(5)
        async with live.listener() as ear:
            await ear.join(f"drop:{drop}")
            for buyer, wanted in ((ann, "Ann.K"), (nameless, "Buyer"), ("guest-1", "Buyer")):
                await buys(live, drop, buyer)
                told = await ear.hears("new_purchase", dropId=drop)
                assert told["username"].split()[0] == wanted
        assert [name.split()[0] for name in await called(live, drop)] == ["Buyer", "Buyer", "Ann.K"]
        assert [
            drop["recentPurchases"][2]["username"]
            for drop in (await live.send("GET", "/drops")).json["data"]
        ] == ["Ann.K"]
        async with live.listener() as ear:
            (shown,) = (await ear.join("drops"))["drops"]
            assert shown["recentPurchases"][2]["username"] == "Ann.K"
    assert all("guest-1" not in ids for ids in asked)  # what can be no account is not looked for


async def test_an_account_that_is_no_more_has_its_pseudonym_again_within_seconds(
    shop: Shop, connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert names.FRESH_SECONDS <= 2
    monkeypatch.setattr(names, "FRESH_SECONDS", 0.3)
    drop = await shop.open_drop(3)
    for name in ("gone", "suspended", "renamed"):
        await buys(shop, drop, await account(connection, name))
    assert await called(shop, drop) == ["renamed", "suspended", "gone"]

    for change in (
        "status = 'deleted', deleted_at = now() WHERE username = 'gone'",
        "status = 'suspended' WHERE username = 'suspended'",
        "username = '<b>new</b>' WHERE username = 'renamed'",
    ):
        await connection.execute(f"UPDATE users SET {change}")

    async def is_told() -> bool:
        new, *old = await called(shop, drop)
        return new == "<b>new</b>" and all(re.fullmatch("Buyer [0-9a-f]{4}", one) for one in old)

    await wait_until(is_told, "names are as their accounts are", seconds=3)


async def test_who_is_known_is_not_asked_for_again(
    ground: Ground,
    connection: asyncpg.Connection,
    asked: list[list[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ids = [await account(connection, f"user_{n}") for n in range(3)]
    others = [new_id() for _ in range(2)]  # a shop's own, that are no accounts of ours
    book = names.Names(ground.postgres, b"a salt")
    monkeypatch.setattr(names, "KNOWN_MAX", 6)

    for _ in range(3):
        told = await book.of([*ids, *others, "guest", ids[0].upper()])
        assert [told[id] for id in ids] == ["user_0", "user_1", "user_2"]
        assert all(told[one].startswith("Buyer ") for one in (*others, "guest", ids[0].upper()))
    assert asked == [sorted([*ids, *others])]
    await book.of([*ids, new_id()])
    assert len(asked[1]) == 1
    await book.of([new_id()])
    assert len(book._known) == 1  # not more are kept than may be
