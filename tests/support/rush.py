"""A sale under way: buyers who keep coming until told to stop, and what they were answered."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg

from tests.support.http import Reply
from tests.support.shop import Shop
from tests.support.wait import wait_until


class Rush:
    """Many clients at once, each asking for a unit, then the next buyer for another."""

    def __init__(self, shop: Shop, drop_id: int, database: asyncpg.Connection) -> None:
        self._shop, self._drop_id, self._database = shop, drop_id, database
        self._coming = True
        self._buyers = 0
        self.replies: list[Reply] = []
        self.began: list[float] = []  # when each of them was asked for
        self.cut = 0  # requests whose connection was cut before an answer

    @classmethod
    @asynccontextmanager
    async def of(
        cls, shop: Shop, drop_id: int, database_url: str, clients: int = 60
    ) -> AsyncIterator[Rush]:
        """So many clients, until the end of the block; then every request has its answer."""
        database = await asyncpg.connect(database_url)
        rush = cls(shop, drop_id, database)
        tasks = [asyncio.create_task(rush._client(), name=f"client-{n}") for n in range(clients)]
        try:
            yield rush
            rush._coming = False
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await database.close()

    async def _client(self) -> None:
        while self._coming:
            self._buyers += 1
            began = time.monotonic()
            try:
                reply = await self._shop.reserve(self._drop_id, f"buyer-{self._buyers}")
            except (ConnectionError, EOFError):
                self.cut += 1
                continue
            self.replies.append(reply)
            self.began.append(began)
            if reply.status != 201:
                await asyncio.sleep(0.01)

    def stop(self) -> None:
        """Nobody comes any more."""
        self._coming = False

    async def held(self) -> int:
        """Units held now, by the stock row itself."""
        query = "SELECT held FROM stock WHERE drop_id = $1"
        return int(await self._database.fetchval(query, self._drop_id))

    async def sells(self, more: int) -> None:
        """Wait until so many more units are held."""
        goal = await self.held() + more

        async def reached() -> bool:
            return await self.held() >= goal

        await wait_until(reached, f"{more} more are held", pause=0.002)

    def check(self, units: int, allowed: set[str]) -> Counter[str]:
        """Every unit sold once, and every other answer one of those allowed."""
        return check_sale(self.replies, units, allowed)


def check_sale(replies: list[Reply], units: int, allowed: set[str]) -> Counter[str]:
    """Every unit sold once, and every other answer one of those allowed."""
    sold = [unit["id"] for r in replies if r.status == 201 for unit in r.json["units"]]
    assert len(sold) == len(set(sold)) <= units, "a unit was sold twice"
    words = Counter("held" if reply.status == 201 else reply.error for reply in replies)
    assert set(words) <= allowed | {"held"}, words
    return words
