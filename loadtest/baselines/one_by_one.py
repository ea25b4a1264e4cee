"""The obvious implementation: per request one Lua call, then one Postgres transaction.

It is what one writes first and what most shops run: the counter in Redis says no quickly, a row
lock with SKIP LOCKED says yes safely. Same HTTP stack, drivers, durability and answers as the
engine, and nothing done slowly on purpose: raw ASGI, pooled connections, statements prepared
once and kept (asyncpg does so by itself), the contended stock row locked last.

    POST /drops         {"totalStock": n}            -> 201 {"id"}
    POST /reservations  {"dropId", "userId"}         -> 201 the hold | 409 sold out
    GET  /stock/{id}                                 -> 200 {"availableStock", "heldStock"}

Environment: DATABASE_URL, REDIS_URL, POOL_SIZE (Postgres connections a worker, default 8).
"""

from __future__ import annotations

import os
from datetime import UTC, datetime
from uuid import UUID

import asyncpg
import msgspec
import redis.asyncio as redis
from uuid_utils.compat import uuid7

from loadtest.baselines import Receive, Scope, Send, answer, read, serve

SCHEMA = """
CREATE SCHEMA IF NOT EXISTS baseline;
CREATE TABLE IF NOT EXISTS baseline.drops (
    id    bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    free  integer NOT NULL CHECK (free >= 0),
    held  integer NOT NULL DEFAULT 0
);
CREATE TABLE IF NOT EXISTS baseline.units (
    drop_id         bigint NOT NULL,
    number          integer NOT NULL,
    state           text NOT NULL DEFAULT 'free',
    reservation_id  uuid,
    PRIMARY KEY (drop_id, number)
);
CREATE INDEX IF NOT EXISTS free_units ON baseline.units (drop_id, number) WHERE state = 'free';
CREATE TABLE IF NOT EXISTS baseline.reservations (
    id          uuid PRIMARY KEY,
    drop_id     bigint NOT NULL,
    user_id     text NOT NULL,
    number      integer NOT NULL,
    expires_at  timestamptz NOT NULL
);
CREATE TABLE IF NOT EXISTS baseline.idempotency (
    key             text PRIMARY KEY,
    reservation_id  uuid NOT NULL,
    made_at         timestamptz NOT NULL DEFAULT now()
);
"""
ADD_DROP = "INSERT INTO baseline.drops (free) VALUES ($1) RETURNING id"
ADD_UNITS = (
    "INSERT INTO baseline.units (drop_id, number) SELECT $1, generate_series(1, $2::integer)"
)
FIND_UNIT = """
SELECT number FROM baseline.units WHERE drop_id = $1 AND state = 'free'
 ORDER BY number LIMIT 1 FOR UPDATE SKIP LOCKED
"""
HOLD_UNIT = """
UPDATE baseline.units SET state = 'held', reservation_id = $3 WHERE drop_id = $1 AND number = $2
"""
ADD_RESERVATION = """
INSERT INTO baseline.reservations (id, drop_id, user_id, number, expires_at)
VALUES ($1, $2, $3, $4, now() + interval '1 hour') RETURNING expires_at
"""
ADD_KEY = "INSERT INTO baseline.idempotency (key, reservation_id) VALUES ($1, $2)"
COUNT_HOLD = """
UPDATE baseline.drops SET free = free - 1, held = held + 1 WHERE id = $1 RETURNING free
"""
TAKE = """
if tonumber(redis.call("GET", KEYS[1]) or "0") <= 0 then return -1 end
return redis.call("DECR", KEYS[1])
"""


class NewDrop(msgspec.Struct, rename="camel"):
    """What to sell."""

    total_stock: int


class Wish(msgspec.Struct, rename="camel"):
    """Who wants a unit of what."""

    drop_id: int
    user_id: str


class Hold(msgspec.Struct, rename="camel"):
    """A unit that is somebody's for an hour."""

    id: UUID
    drop_id: int
    user_id: str
    quantity: int
    units: list[dict[str, int]]
    status: str
    amount: str
    currency: str
    expires_at: datetime
    server_time: datetime
    available_stock: int


class Shop:
    """A pool of Postgres connections and a Redis client."""

    def __init__(self, pool: asyncpg.Pool[asyncpg.Record], cache: redis.Redis) -> None:
        self._pool = pool
        self._cache = cache
        self._take = cache.register_script(TAKE)

    @classmethod
    async def open(cls) -> Shop:
        """Connect, and make the tables if this worker is the first."""
        size = int(os.environ.get("POOL_SIZE", "8"))
        pool = await asyncpg.create_pool(os.environ["DATABASE_URL"], min_size=size, max_size=size)
        async with pool.acquire() as connection, connection.transaction():
            await connection.execute("SELECT pg_advisory_xact_lock(20260101)")
            await connection.execute(SCHEMA)
        waiting = redis.BlockingConnectionPool.from_url(
            os.environ["REDIS_URL"], max_connections=64, timeout=10
        )
        return cls(pool, redis.Redis(connection_pool=waiting))

    async def close(self) -> None:
        """Give the connections back."""
        await self._pool.close()
        await self._cache.aclose()

    async def add_drop(self, total_stock: int) -> int:
        """A drop with all its units, on sale."""
        async with self._pool.acquire() as connection:
            async with connection.transaction():
                drop_id: int = await connection.fetchval(ADD_DROP, total_stock)
                await connection.execute(ADD_UNITS, drop_id, total_stock)
            await connection.execute("VACUUM ANALYZE baseline.units")
        await self._cache.set(_stock_key(drop_id), total_stock)
        return drop_id

    async def stock(self, drop_id: int) -> dict[str, int]:
        """What Postgres says is free and held."""
        row = await self._pool.fetchrow("SELECT * FROM baseline.drops WHERE id = $1", drop_id)
        return {"availableStock": row["free"], "heldStock": row["held"]} if row else {}

    async def reserve(self, wish: Wish, key: str) -> Hold | None:
        """One unit for one buyer, or None: sold out."""
        if await self._take(keys=[_stock_key(wish.drop_id)]) < 0:
            return None
        try:
            hold = await self._hold(wish, key)
        except BaseException:
            await self._give_back(wish.drop_id)
            raise
        if hold is None:
            await self._give_back(wish.drop_id)
        return hold

    async def _give_back(self, drop_id: int) -> None:
        await self._cache.incr(_stock_key(drop_id))

    async def _hold(self, wish: Wish, key: str) -> Hold | None:
        made = uuid7()
        async with self._pool.acquire() as connection, connection.transaction():
            number = await connection.fetchval(FIND_UNIT, wish.drop_id)
            if number is None:
                return None
            await connection.execute(HOLD_UNIT, wish.drop_id, number, made)
            expires_at = await connection.fetchval(
                ADD_RESERVATION, made, wish.drop_id, wish.user_id, number
            )
            await connection.execute(ADD_KEY, key, made)
            free = await connection.fetchval(COUNT_HOLD, wish.drop_id)
        return held(wish, made, number, expires_at, free)


def held(wish: Wish, id: UUID, number: int, expires_at: datetime, free: int) -> Hold:
    """The answer to a wish that came true."""
    return Hold(
        id=id,
        drop_id=wish.drop_id,
        user_id=wish.user_id,
        quantity=1,
        units=[{"id": (wish.drop_id << 20) + number, "number": number}],
        status="active",
        amount="10.00",
        currency="USD",
        expires_at=expires_at,
        server_time=datetime.now(UTC),
        available_stock=free,
    )


_encode = msgspec.json.Encoder().encode
_wish = msgspec.json.Decoder(Wish).decode
_new_drop = msgspec.json.Decoder(NewDrop).decode
_SOLD_OUT = b'{"success":false,"error":"SOLD_OUT","message":"No allocations remaining"}'
kind: type[Shop] = Shop  # for_update.py puts its own here
_shop: Shop | None = None


def _stock_key(drop_id: int) -> str:
    return f"baseline:drop:{drop_id}:stock"


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """The three routes."""
    if scope["type"] == "lifespan":
        return await _live(receive, send)
    assert _shop is not None
    path: str = scope["path"]
    if path == "/reservations":
        wish = _wish(await read(receive))
        hold = await _shop.reserve(wish, _key(scope))
        return await (answer(send, 201, _encode(hold)) if hold else answer(send, 409, _SOLD_OUT))
    if path == "/drops":
        wanted = _new_drop(await read(receive))
        return await answer(send, 201, _encode({"id": await _shop.add_drop(wanted.total_stock)}))
    if path.startswith("/stock/"):
        return await answer(send, 200, _encode(await _shop.stock(int(path[7:]))))
    return await answer(send, 404, b"{}")


def _key(scope: Scope) -> str:
    for name, value in scope["headers"]:
        if name == b"idempotency-key":
            return str(value, "latin-1")
    return str(uuid7())


async def _live(receive: Receive, send: Send) -> None:
    global _shop
    await receive()
    _shop = await kind.open()
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await _shop.close()
    await send({"type": "lifespan.shutdown.complete"})


if __name__ == "__main__":
    serve(app, lifespan="on")
