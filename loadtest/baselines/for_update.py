"""The textbook: lock the drop's row, look, take a unit, commit. Nothing else says no.

The same tables, stack, drivers and answers as one_by_one.py, without Redis: every request, also
one that is refused, waits for the row of the drop. Environment: DATABASE_URL, POOL_SIZE.
"""

from __future__ import annotations

from uuid_utils.compat import uuid7

from loadtest.baselines import one_by_one, serve
from loadtest.baselines.one_by_one import (
    ADD_KEY,
    ADD_RESERVATION,
    COUNT_HOLD,
    FIND_UNIT,
    HOLD_UNIT,
    Hold,
    Shop,
    Wish,
    held,
)

LOCK_DROP = "SELECT free FROM baseline.drops WHERE id = $1 FOR UPDATE"


class Locking(Shop):
    """A shop where one request at a time is served of each drop."""

    async def reserve(self, wish: Wish, key: str) -> Hold | None:
        """One unit for one buyer, or None: sold out."""
        made = uuid7()
        async with self._pool.acquire() as connection, connection.transaction():
            if not await connection.fetchval(LOCK_DROP, wish.drop_id):
                return None
            number = await connection.fetchval(FIND_UNIT, wish.drop_id)
            await connection.execute(HOLD_UNIT, wish.drop_id, number, made)
            expires_at = await connection.fetchval(
                ADD_RESERVATION, made, wish.drop_id, wish.user_id, number
            )
            await connection.execute(ADD_KEY, key, made)
            free = await connection.fetchval(COUNT_HOLD, wish.drop_id)
        return held(wish, made, number, expires_at, free)


if __name__ == "__main__":
    one_by_one.kind = Locking
    serve(one_by_one.app, lifespan="on")
