from __future__ import annotations
import asyncio, asyncpg, msgspec, pytest
from engine.infra.settings import Settings
from tests.support.pgproxy import PgProxy
from tests.support.shop import Shop


async def test_lost(settings):
    async with PgProxy.open(settings.database_url) as proxy, Shop.open(msgspec.structs.replace(settings, database_url=proxy.url)) as shop:
        d = await shop.open_drop(10)
        assert (await shop.reserve(d, "w")).status == 201
        trap = proxy.arm("FROM claim_units(", "lose")
        r = await shop.reserve(d, "ann")
        print(r.status, r.body, trap.caught.is_set(), trap.reply.done())
        print(await shop.audit(d))

async def test_repeat_on_other_timeline(settings, shop):
    d = await shop.open_drop(10)
    assert (await shop.reserve(d, "ann", "k")).status == 201
    c = await asyncpg.connect(settings.database_url)
    await c.execute("UPDATE engine_state SET timeline='FFFFFFFF'")
    print(await c.fetch("SELECT * FROM engine_state"))
    r = await shop.reserve(d, "ann", "k")
    print(r.status, r.headers, await c.fetch("SELECT * FROM engine_state"))
    await c.close()

async def test_told_retryable_then_taken(settings, shop):
    d = await shop.open_drop(10, maxPerBuyer=None)
    c = await asyncpg.connect(settings.database_url)
    t = c.transaction(); await t.start()
    await c.execute("SELECT FROM stock WHERE drop_id=$1 FOR UPDATE", d)
    async def unlock():
        await asyncio.sleep(5.4)
        await t.rollback()
    u = asyncio.create_task(unlock())
    rs = await asyncio.gather(*(shop.reserve(d, f"b{i}") for i in range(4)))
    print([r.error for r in rs if r.status != 201])
    await u
    await asyncio.sleep(1)
    print(await shop.stock(d))
    rows = await c.fetch("SELECT buyer, state FROM reservations")
    print(rows)
    await c.close()

async def test_publish_after_commit_fails(settings):
    async with PgProxy.open(settings.database_url) as proxy, Shop.open(msgspec.structs.replace(settings, database_url=proxy.url)) as shop:
        await shop.open_drop(10)
        trap = proxy.arm("SELECT e.epoch, s.drop_id", "drop")
        r = await shop.send("POST", "/drops", {"name": "x", "price": "1", "totalStock": 3})
        print(r.status, r.body)
        print((await shop.send("GET", "/drops")).json["data"].__len__())

async def test_intents_deleted(settings, shop, ground):
    d = await shop.open_drop(10)
    await ground.bouncer.admit(d, [("a"*32, ground.bouncer.first_attempt(), 1, "x", False)])
    import redis.asyncio
    r = redis.asyncio.Redis.from_url(settings.redis_url)
    await r.delete(ground.bouncer._key(d, "intents"))
    for i in range(3):
        assert (await shop.reserve(d, f"w{i}")).status == 201
    from engine.sale import reconcile
    await reconcile.reap(ground.postgres, ground.bouncer); await reconcile.reconcile(ground.postgres, ground.bouncer)
    print(await ground.bouncer.inspect(d, deep=True))
    await r.aclose()

async def test_timeline2(settings, shop, ground):
    from engine.sale import store
    from engine.sale.store import Claim
    d = await shop.open_drop(10)
    rid = "b"*32
    c = await asyncpg.connect(settings.database_url)
    cl = [Claim(rid, ground.bouncer.first_attempt(), "01a1fc8a-1e15-73fc-9ba9-9d9eed8e910b", "x", 1)]
    async with ground.postgres.session() as s:
        print(await store.claim_units(s, d, 1, cl))
        await c.execute("UPDATE engine_state SET timeline='FFFFFFFF'")
        print(await store.claim_units(s, d, 1, cl))
    await c.close()
