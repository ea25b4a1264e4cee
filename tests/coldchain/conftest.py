"""A freezer, and what is done with its slots."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg
import pytest

from engine.coldchain.freezers import open_freezer
from engine.infra.settings import Settings
from engine.record import keys
from engine.record.seal import seal
from engine.record.verify import verify
from engine.runtime import Ground
from engine.sale import reconcile
from engine.sale.models import unit_id
from tests.support.http import Reply
from tests.support.shop import Shop

Opens = Callable[[int], Awaitable[list[int]]]
DAYS = 30


async def freezer_of(ground: Ground, slots: int) -> list[int]:
    """A freezer with so many slots; their ids."""
    names = [f"F{n // 4 + 1}-{'ABCD'[n % 4]}" for n in range(slots)]
    async with ground.postgres.transaction() as session:
        drop_id = await open_freezer(session, names, DAYS)
    await reconcile.tell(ground.postgres, ground.bouncer, [drop_id])
    return [unit_id(drop_id, number) for number in range(1, slots + 1)]


@pytest.fixture
def freezer(ground: Ground) -> Opens:
    """`await freezer(4)`: the ids of four slots."""
    return lambda slots: freezer_of(ground, slots)


class Chain:
    """What people do with slots, over any way of sending requests."""

    def __init__(self, shop: Shop) -> None:
        self.shop = shop

    async def hold(self, slot: int, buyer: str, key: str | None = None) -> Reply:
        """Hold a slot."""
        headers = {"idempotency-key": key} if key else None
        body = {"slotId": slot, "userId": buyer}
        return await self.shop.send("POST", "/hold", body, headers)

    async def held(self, slot: int, buyer: str) -> str:
        """The id of a hold that must come about."""
        reply = await self.hold(slot, buyer)
        assert reply.status == 201, reply.body
        return str(reply.json["reservation"]["id"])

    async def book(
        self, hold: str, buyer: str, manifest: str = "MAN-1", key: str | None = None, **more: Any
    ) -> Reply:
        """Book a held slot."""
        headers = {"idempotency-key": key} if key else None
        body = {"reservationId": hold, "userId": buyer, "manifestId": manifest, **more}
        return await self.shop.send("POST", "/book", body, headers)

    async def booked(self, slot: int, buyer: str, manifest: str = "MAN-1") -> str:
        """The id of a booking that must come about."""
        reply = await self.book(await self.held(slot, buyer), buyer, manifest)
        assert reply.status == 201, reply.body
        return str(reply.json["booking"]["id"])

    async def reads(
        self, slot: int, temperature: float, key: str | None = None, **more: Any
    ) -> Reply:
        """A sensor's word."""
        headers = {"idempotency-key": key} if key else None
        body = {"temperature": temperature, **more}
        return await self.shop.send("POST", f"/slots/{slot}/readings", body, headers)

    async def slot(self, id: int, **query: str) -> dict[str, Any]:
        """How a slot is."""
        asked = "&".join(f"{name}={value}" for name, value in query.items())
        reply = await self.shop.send("GET", f"/slots/{id}?{asked}")
        assert reply.status == 200, reply.body
        shown: dict[str, Any] = reply.json
        return shown


@pytest.fixture
def chain(shop: Shop) -> Chain:
    """The cold chain of a worker in this process."""
    return Chain(shop)


class Book:
    """What the database says, past the engine."""

    def __init__(self, connection: asyncpg.Connection) -> None:
        self.connection = connection

    async def records(self) -> list[tuple[str, int]]:
        """What waits for the ledger: (action, subjects), in order."""
        rows = await self.connection.fetch(
            "SELECT action, cardinality(subjects) AS subjects FROM records ORDER BY id"
        )
        return [(row["action"], row["subjects"]) for row in rows]

    async def sealed(self, ground: Ground) -> list[tuple[str, int]]:
        """Seal what waits, look at the whole chain, and what is in it: (action, entries)."""
        ring = keys.ring(ground.settings)
        while await seal(ground.postgres, ring):
            pass
        verdict = await verify(ground.postgres, ring)
        assert verdict.valid, verdict
        rows = await self.connection.fetch(
            "SELECT action, count(*) AS entries FROM ledger_entries GROUP BY action ORDER BY action"
        )
        return [(row["action"], row["entries"]) for row in rows]

    async def count(self, table: str, where: str = "true") -> int:
        """Rows of a table."""
        found: int = await self.connection.fetchval(f"SELECT count(*) FROM {table} WHERE {where}")
        return found


@pytest.fixture
async def book(settings: Settings) -> Any:
    """The rows themselves."""
    connection = await asyncpg.connect(settings.database_url)
    yield Book(connection)
    await connection.close()
