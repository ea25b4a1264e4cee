"""Tiers, and what is done with receipts."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from engine.infra.settings import Settings
from tests.support.http import Reply
from tests.support.shop import Shop


class Club:
    """What people do with receipts, over any way of sending requests."""

    def __init__(self, shop: Shop) -> None:
        self.shop = shop

    async def open(self, numbers: int, tier: str = "genesis", **terms: Any) -> int:
        """A tier with so many numbers; its drop."""
        body = {"tier": tier, "year": "2025", "capacity": numbers, **terms}
        reply = await self.shop.send("POST", "/memberships/drops", body)
        assert reply.status == 201, reply.body
        return int(reply.json["dropId"])

    async def mint(self, receipt: str, user: str, **more: Any) -> Reply:
        """Present a receipt."""
        body = {"receipt_data": receipt, "user_id": user, **more}
        return await self.shop.send("POST", "/mint", body)

    async def minted(self, receipt: str, user: str, **more: Any) -> dict[str, Any]:
        """The membership that must come of it, for the first time."""
        reply = await self.mint(receipt, user, **more)
        assert reply.status == 201, reply.body
        assert reply.json["status"] == "FULFILLED"
        made: dict[str, Any] = reply.json["membership"]
        return made


@pytest.fixture
def club(shop: Shop) -> Club:
    """Minting at a worker in this process."""
    return Club(shop)


class Register:
    """What the database says, past the engine."""

    def __init__(self, connection: asyncpg.Connection) -> None:
        self.connection = connection

    async def count(self, table: str, where: str = "true") -> int:
        """Rows of a table."""
        found: int = await self.connection.fetchval(f"SELECT count(*) FROM {table} WHERE {where}")
        return found

    async def states(self) -> list[tuple[str, str | None, int]]:
        """State, error and attempts of every receipt."""
        rows = await self.connection.fetch(
            "SELECT state, error, attempts FROM receipts ORDER BY created_at"
        )
        return [tuple(row) for row in rows]


@pytest.fixture
async def register(settings: Settings) -> AsyncIterator[Register]:
    """The rows themselves."""
    connection = await asyncpg.connect(settings.database_url)
    yield Register(connection)
    await connection.close()
