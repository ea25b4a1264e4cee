"""How fast the ledger is sealed after a rush, and what it takes to verify a million records.

    python -m loadtest.ledger [--bookings 10000] [--records 1000000]

A Postgres of its own, as `make run` starts it; facts as the sale writes them (a row of `records` a
batch of 128), then the keeper's verb until nothing waits, then the command that operators run.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import asyncpg

from engine.infra.settings import Settings
from engine.ops import devstack
from engine.ops.migrate import migrate
from engine.record import keys
from engine.record.seal import seal
from engine.runtime import database

BATCH = 128  # purchases or bookings of a batch of the sale
STRETCH = 100_000  # facts written at once
GOALS = {"bookings": 2_000, "records": 50_000}  # a second
MEMORY_MAX_MB = 100
SECRET = "a secret for measuring, and for nothing else"

DROP = """
INSERT INTO drops (name, price_cents, currency, starts_at, hold_seconds, max_hold_seconds,
                   max_per_order, total_stock)
VALUES ('Measured', 12000, 'USD', now(), 60, 120, 1, 1000000) RETURNING id
"""
PURCHASES = """
WITH made AS (
    INSERT INTO purchases (id, request_id, reservation_id, drop_id, amount_cents, purchased_at,
                           quantity, buyer, units)
    SELECT uuidv7(), uuidv7(), uuidv7(), $1, 12000, now(), 1, 'buyer-' || n, ARRAY[n]
      FROM generate_series($2::integer, $3::integer) AS n
 RETURNING id, units[1] AS n
)
INSERT INTO records (action, drop_id, subjects)
SELECT 'PURCHASED', $1, array_agg(m.id ORDER BY m.n) FROM made AS m GROUP BY m.n / $4::integer
"""
BOOKINGS = """
WITH bought AS (
    INSERT INTO purchases (id, request_id, reservation_id, drop_id, amount_cents, purchased_at,
                           quantity, buyer, units)
    SELECT uuidv7(), uuidv7(), uuidv7(), $1, 0, now(), 1, 'buyer-' || n, ARRAY[n]
      FROM generate_series($2::integer, $3::integer) AS n
 RETURNING *
), made AS (
    INSERT INTO bookings (id, purchase_id, reservation_id, drop_id, number, buyer, manifest_id,
                          confirmed_at)
    SELECT uuidv7(), b.id, b.reservation_id, $1, b.units[1], b.buyer, 'MAN-' || b.units[1], now()
      FROM bought AS b
 RETURNING *
)
INSERT INTO records (action, drop_id, subjects, slots, manifests, buyers, made_at)
SELECT 'BOOKING_CONFIRMED', $1, array_agg(m.id ORDER BY m.number),
       array_agg((m.drop_id << 20) + m.number ORDER BY m.number),
       array_agg(m.manifest_id ORDER BY m.number), array_agg(m.buyer ORDER BY m.number),
       min(m.confirmed_at)
  FROM made AS m GROUP BY m.number / $4::integer
"""


async def write(connection: Any, statement: str, count: int) -> None:
    """Facts of a sale, and their records."""
    drop_id = await connection.fetchval(DROP)
    for first in range(1, count + 1, STRETCH):
        last = min(first + STRETCH - 1, count)
        await connection.execute(statement, drop_id, first, last, BATCH)


async def drain(settings: Settings) -> float:
    """Seal until nothing waits; how many seconds that took."""
    ring = keys.ring(settings)
    async with database(settings) as postgres:
        began = time.monotonic()
        while await seal(postgres, ring):
            pass
        return time.monotonic() - began


def verify(settings: Settings) -> tuple[float, float, str]:
    """`velvetrope ledger verify`: seconds, peak memory in MB, what it said."""
    environment = os.environ | {"DATABASE_URL": settings.database_url, "HMAC_SECRET": SECRET}
    began = time.monotonic()
    words = [sys.executable, "-m", "engine", "ledger", "verify"]
    done = subprocess.run(
        words, check=False, env=environment, stdout=subprocess.PIPE, text=True
    )  # its progress is shown on stderr
    took = time.monotonic() - began
    unit = 1_048_576 if sys.platform == "darwin" else 1_024
    return took, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / unit, done.stdout.strip()


async def measure(url: str, bookings: int, records: int) -> bool:
    """Everything, printed; whether the goals are met."""
    settings = Settings(database_url=url, hmac_secret=SECRET)
    await migrate(settings)
    connection = await asyncpg.connect(url)
    is_met = True
    for name, statement, count in (
        ("bookings", BOOKINGS, bookings),
        ("records", PURCHASES, records - bookings),
    ):
        await write(connection, statement, count)
        rate = count / await drain(settings)
        is_met = is_met and rate >= GOALS[name]
        what = "booking entries" if name == "bookings" else "records in blocks"
        print(f"sealed {count:,} {what}: {rate:,.0f} a second (goal: {GOALS[name]:,})", flush=True)
    size = await connection.fetchval(
        "SELECT sum(pg_total_relation_size(relname::regclass)) FROM pg_class"
        " WHERE relname LIKE 'ledger\\_%' AND relkind = 'r'"
    )
    await connection.close()
    took, peak, said = await asyncio.to_thread(verify, settings)
    print(said)
    print(
        f"verified {records:,} records in {took:.1f} s, {records / took:,.0f} a second, "
        f"peak memory {peak:.0f} MB (goal: below {MEMORY_MAX_MB}); "
        f"{int(size) / records:,.0f} bytes a record on disk"
    )
    return is_met and peak < MEMORY_MAX_MB and said.startswith(f"valid: {records:,}")


def main() -> int:
    """Measure; 1 if a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bookings", type=int, default=10_000)
    parser.add_argument("--records", type=int, default=1_000_000)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="velvetrope-ledger-") as folder:
        server = devstack.start_postgres(Path(folder))
        try:
            return 0 if asyncio.run(measure(server.url, given.bookings, given.records)) else 1
        finally:
            server.stop()


if __name__ == "__main__":
    sys.exit(main())
