"""What a hold leaves behind: bytes of WAL, of tables and indexes, of Redis.

One load of holds on a fresh database, from a checkpoint on. After a checkpoint the first change of
a page writes the whole page to the WAL. How much that is depends on how long it is until the next
checkpoint, and not on how a hold is written: those images are told apart (pg_walinspect).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import redis

from loadtest.bench.plan import Act, Plan, Sample
from loadtest.bench.stage import RESERVE, WARM_UP_SECONDS, Stage, check_promises, settled
from loadtest.client import Shot
from loadtest.fleet import Untrustworthy

SIZES = "sizes"
TABLES = """
SELECT c.relname AS name, pg_total_relation_size(c.oid) AS bytes
  FROM pg_class AS c
 WHERE c.relkind = 'r' AND c.relnamespace = 'public'::regnamespace
"""
WAL = """
SELECT sum(record_size)::float8 AS records, sum(fpi_size)::float8 AS images
  FROM pg_get_wal_stats($1::text::pg_lsn, $2::text::pg_lsn)
"""


class Weight(msgspec.Struct, frozen=True):
    """Everything at one moment, in bytes."""

    held: int  # units
    position: str  # in the WAL
    tables: dict[str, int]  # with their indexes
    keys: int  # of the drop, in Redis
    memory: int  # all of Redis


class Sizes(Act):
    """Bytes a hold."""

    names = (SIZES,)

    def __init__(self, plan: Plan, stage: Stage, names: tuple[str, ...]) -> None:
        super().__init__(plan, stage, names)
        self._engine = stage.enter(stage.engine())
        stage.query("CREATE EXTENSION IF NOT EXISTS pg_walinspect")

    @classmethod
    def opening(cls, plan: Plan) -> float:
        """Servers, workers."""
        return 4.0

    @classmethod
    def each(cls, plan: Plan, name: str) -> float:
        """A drop, a load."""
        return plan.seconds + WARM_UP_SECONDS + 2.5

    def take(self, name: str, so_far: Mapping[str, Sample]) -> Sample:
        """One load of holds; what grew by it."""
        drop_id = self.stage.open_drop(self._engine, self.stage.units)
        shot = Shot(port=self._engine.port, path=RESERVE, run="", drop_id=drop_id)
        weighed: list[Weight] = []

        def weigh() -> None:
            held = settled(lambda: self.stage.held(self._engine, drop_id))
            if not weighed:
                self.stage.query("CHECKPOINT")
            weighed.append(self._weigh(drop_id, held))

        sample = self.stage.load(self._engine, shot, before=weigh)
        weigh()
        before, after = weighed
        holds = after.held - before.held
        assert sample.figures is not None
        check_promises(sample.figures, holds, self.plan.connections)
        [wal] = self.stage.query(WAL, before.position, after.position)
        tables = {
            f"{name} rows": (size - before.tables.get(name, 0)) / holds
            for name, size in after.tables.items()
        }
        facts = {
            "images": wal["images"] / holds,
            "rows": sum(tables.values()),
            "redis": (after.keys - before.keys) / holds,
            "redis used_memory": (after.memory - before.memory) / holds,
            **{name: size for name, size in tables.items() if size >= 1},
        }
        return Sample(value=wal["records"] / holds, unit="bytes", facts=facts)

    def _weigh(self, drop_id: int, held: int) -> Weight:
        tables = {row["name"]: row["bytes"] for row in self.stage.query(TABLES)}
        position = self.stage.query("SELECT pg_current_wal_flush_lsn()::text AS at")[0]["at"]
        with redis.Redis.from_url(self.stage.valkey.url) as valkey:
            found: Any = valkey
            keys = [*found.scan_iter(match=f"*:{drop_id}}}:*", count=1_000)]
            if not keys:
                raise Untrustworthy("Redis has no key of a drop that sells: have they other names?")
            size = sum(found.memory_usage(key, samples=0) or 0 for key in keys)
            memory = found.info("memory")["used_memory"]
        return Weight(held, position, tables, size, memory)
