"""A Redis that remembers another database remembers nothing: the new sale is right at once."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import asyncpg
import msgspec
import pytest

from engine.infra.settings import Settings
from engine.ops import devstack
from engine.ops.migrate import migrate
from engine.runtime import Ground
from tests.support.clones import TEMPLATE
from tests.support.ghosts import strand
from tests.support.http import Reply
from tests.support.rush import check_sale
from tests.support.shop import Shop
from tests.support.wait import wait_until


def _name(url: str) -> str:
    return url.rpartition("/")[2]


async def _admin(settings: Settings, *statements: str) -> None:
    """Run statements from outside of the tested database."""
    connection = await asyncpg.connect(settings.database_url.rpartition("/")[0] + "/postgres")
    for statement in statements:
        await connection.execute(statement)
    await connection.close()


async def _sell_out(shop: Shop, drop_id: int, units: int) -> list[str]:
    """Sell every unit, each to a buyer who may have one; the holds. The next buyer gets nothing."""
    replies: list[Reply] = [await shop.reserve(drop_id, f"b{n}", f"k{n}") for n in range(units + 1)]
    assert Counter(reply.status for reply in replies) == {201: units, 409: 1}, replies
    check_sale(replies, units, {"SOLD_OUT"})
    assert not any("idempotent-replayed" in reply.headers for reply in replies)
    return [reply.json["id"] for reply in replies[:units]]


async def _sell_and_leave_traces(shop: Shop, ground: Ground, units: int) -> int:
    """A drop that is sold out, whose buyers are at their limit, and with intents left open."""
    drop_id = await shop.open_drop(units, maxPerBuyer=1, holdSeconds=600)
    await strand(ground, drop_id, 2)
    for n in range(units - 2):
        hold = await shop.reserve(drop_id, f"b{n}", f"k{n}")
        assert (await shop.confirm(hold.json["id"], f"b{n}")).status == 201
    return drop_id


async def test_a_new_database_with_the_same_drop_ids_knows_nothing_of_the_old_sale(
    shop: Shop, ground: Ground, settings: Settings
) -> None:
    old = await _sell_and_leave_traces(shop, ground, 5)
    name = f"{_name(settings.database_url)}_new"
    await _admin(settings, f"CREATE DATABASE {name} TEMPLATE {TEMPLATE}")
    other = msgspec.structs.replace(
        settings, database_url=settings.database_url.rpartition("/")[0] + f"/{name}"
    )
    async with Shop.open(other) as anew:
        drop_id = await anew.open_drop(5, maxPerBuyer=1)
        assert drop_id == old

        await _sell_out(anew, drop_id, 5)

        assert await anew.settled(drop_id)
    await _admin(settings, f"DROP DATABASE {name} WITH (FORCE)")
    assert (await shop.audit(old))["bouncer"]["openIntents"] == 2  # beside it, untouched


async def test_a_database_recreated_under_its_name_below_a_running_worker_starts_afresh(
    shop: Shop, ground: Ground, settings: Settings
) -> None:
    old = await _sell_and_leave_traces(shop, ground, 5)
    name = _name(settings.database_url)

    await _admin(
        settings,
        f"DROP DATABASE {name} WITH (FORCE)",
        f"CREATE DATABASE {name} TEMPLATE {TEMPLATE}",
    )

    async def is_there() -> bool:
        return (await shop.send("GET", "/drops")).status == 200

    await wait_until(is_there, "the worker has found the new database")
    drop_id = await shop.open_drop(5, maxPerBuyer=1)
    assert drop_id == old
    await _sell_out(shop, drop_id, 5)
    assert await shop.settled(drop_id)


@pytest.mark.parametrize("restart", [True, False], ids=["workers-restarted", "workers-running"])
async def test_a_database_restored_to_an_older_state_sells_exactly_what_it_has(
    settings: Settings, restart: bool
) -> None:
    name = _name(settings.database_url)
    async with Shop.open(settings) as shop:
        drop_id = await shop.open_drop(10, maxPerBuyer=1, holdSeconds=600)
        for buyer in ("early-1", "early-2"):
            assert (await shop.reserve(drop_id, buyer)).status == 201
        await _copy(settings, f"{name}_copy", name)
        for n in range(5):
            await _reserved(shop, drop_id, f"b{n}", f"k{n}")
        await _move_over(settings, f"{name}_copy", name)
        if not restart:
            await _sells_the_other_eight(shop, drop_id)
    if restart:
        async with Shop.open(settings) as shop:
            await _sells_the_other_eight(shop, drop_id)


async def _sells_the_other_eight(shop: Shop, drop_id: int) -> None:
    async def is_there() -> bool:
        return (await shop.send("GET", "/drops")).status == 200

    await wait_until(is_there, "the worker has found the older database")
    await _sell_out(shop, drop_id, 8)
    assert await shop.settled(drop_id)


async def _reserved(shop: Shop, drop_id: int, buyer: str, key: str) -> None:
    async def held() -> bool:
        return (await shop.reserve(drop_id, buyer, key)).status == 201

    await wait_until(held, f"{buyer} holds a unit")


async def _copy(settings: Settings, to: str, of: str) -> None:
    """A copy needs a database without connections."""
    await _admin(
        settings,
        f"ALTER DATABASE {of} ALLOW_CONNECTIONS false",
        f"SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = '{of}'",
        f"CREATE DATABASE {to} TEMPLATE {of}",
        f"ALTER DATABASE {of} ALLOW_CONNECTIONS true",
    )


async def _move_over(settings: Settings, newer: str, older: str) -> None:
    await _admin(
        settings,
        f"DROP DATABASE {older} WITH (FORCE)",
        f"ALTER DATABASE {newer} ALLOW_CONNECTIONS true",
        f"ALTER DATABASE {newer} RENAME TO {older}",
    )


@pytest.mark.slow
async def test_a_server_made_anew_on_the_same_port_below_a_running_worker_starts_afresh(
    settings: Settings, tmp_path: Path
) -> None:
    first = devstack.start_postgres(tmp_path / "first", durable=False)
    port = int(first.url.rpartition(":")[2].partition("/")[0])
    settings = msgspec.structs.replace(settings, database_url=first.url)
    servers = [first]
    try:
        await migrate(settings)
        async with Shop.open(settings) as shop:
            old = await shop.open_drop(5, maxPerBuyer=1)
            await _sell_out(shop, old, 5)
            first.stop()
            servers.append(devstack.start_postgres(tmp_path / "second", port=port, durable=False))
            await migrate(settings)

            async def is_there() -> bool:
                return (await shop.send("GET", "/drops")).status == 200

            await wait_until(is_there, "the worker has found the new server")
            drop_id = await shop.open_drop(5, maxPerBuyer=1)
            assert drop_id == old
            await _sell_out(shop, drop_id, 5)
            assert await shop.settled(drop_id)
    finally:
        for server in servers:
            server.stop()
