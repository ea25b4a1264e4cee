"""What goes wrong in a run: each draws its own weather, so that a storm and a quiet day differ.

A message has a fate, a server and a process have accidents. While a run heals nothing is wrong.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .world import World

POSTGRES_FATES = (
    "request lost",
    "reply lost",
    "zombie",
    "dark request",
    "dark reply",
    "slow",
    "error 57014",
    "error 55P03",
    "error 40P01",
)
DELICATE = ("claim_units", "COMMIT")  # where a fault is worth most
REDIS_FATES = ("request lost", "reply lost", "cut before", "cut after", "late")


class Weather:
    """The odds of one run."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self.postgres = random.choice((0.0, 0.01, 0.03, 0.08))
        self.redis = random.choice((0.0, 0.01, 0.03, 0.08))
        self.postgres_fates = random.sample(POSTGRES_FATES, random.randint(1, len(POSTGRES_FATES)))
        self.redis_fates = random.sample(REDIS_FATES, random.randint(1, len(REDIS_FATES)))
        self.spikes = random.choice((0.0, 0.01, 0.05))
        self.lag_seconds = random.choice((0.000_2, 0.001, 0.004))
        self.accidents = random.choice((0, 1, 2, 4, 8))
        self.kinds = random.sample(sorted(ACCIDENTS), random.randint(1, len(ACCIDENTS)))
        self.hang_ups = random.choice((0.0, 0.1, 0.3))
        self.disorder = random.choice((0.0, 0.5, 1.0))
        self.patience = random.choice((0.0, 0.1, 0.4))
        self.flush_seconds = random.choice((0.000_2, 0.001, 0.01))

    def fate(self, kind: str, name: str) -> str:
        """What becomes of one message."""
        random = self.random
        if kind == "redis idle":
            return "unseen" if random.random() < 0.3 else "seen"
        odds, fates = (
            (self.postgres, self.postgres_fates)
            if kind == "postgres"
            else (self.redis, self.redis_fates)
        )
        odds *= 1 + 4 * (name in DELICATE)
        return random.choice(fates) if random.random() < odds else "ok"

    def lag(self) -> float:
        """Seconds that a message travels."""
        seconds = self.lag_seconds * (0.5 + self.random.random())
        return seconds * 40 if self.random.random() < self.spikes else seconds


# ── accidents ────────────────────────────────────────────────────────────────────────────────


def kill_worker(world: World) -> None:
    """kill -9, and a new one after a moment."""
    if not world.workers:
        return
    worker = world.random.choice(world.workers)
    world.workers.remove(worker)
    worker.die()
    world.oracle.died(worker)
    world.note(f"{worker.name} is killed")
    world.later(0.3 + world.random.random(), world.hire)


def kill_keeper(world: World) -> None:
    if world.keepers:
        keeper = world.keepers.pop()
        keeper.die()
        world.note(f"{keeper.name} is killed")
        world.later(0.3 + world.random.random(), world.hire_keeper)


def freeze_process(world: World) -> None:
    """SIGSTOP, and SIGCONT after up to eight seconds."""
    alive = [*world.workers, *world.keepers]
    if not alive:
        return
    process = world.random.choice(alive)
    seconds = world.random.choice((0.3, 1.5, 4.0, 8.0))
    world.note(f"{process.name} is frozen for {seconds} s")
    world.loop.freeze(process, seconds)


def empty_redis(world: World) -> None:
    world.oracle.redis_lost()
    world.valkey.keyspace.clear()


def lose_intents(world: World) -> None:
    """One key of a drop is lost alone."""
    world.oracle.redis_lost(torn=True)
    keys = sorted(world.valkey.keyspace.data)
    if keys:
        world.valkey.keyspace.drop(world.random.choice(keys))


def restart_redis(world: World) -> None:
    """It comes back empty, or with what a snapshot remembers."""
    world.oracle.redis_lost()
    stale = world.redis_snapshot if world.random.random() < 0.5 else None
    world.note(f"Redis restarts {'with a stale snapshot' if stale else 'empty'}")
    world.valkey.away = True
    world.valkey.restart(stale)
    world.later(world.random.choice((0.0, 0.4, 2.5)), setattr, world.valkey, "away", False)


def flush_scripts(world: World) -> None:
    world.valkey.sources.clear()


def fill_redis(world: World) -> None:
    """maxmemory: what needs memory is refused."""
    world.valkey.full = True
    world.later(world.random.choice((0.2, 2.0)), setattr, world.valkey, "full", False)


def freeze_redis(world: World) -> None:
    """What was sent runs when it wakes up, whoever still waits for it."""
    seconds = world.random.choice((0.2, 1.5, 3.0))
    world.valkey.frozen_until = max(world.valkey.frozen_until, world.loop.now + seconds)
    world.later(seconds, lambda: None)


def cut_redis(world: World) -> None:
    """All connections of all clients break."""
    world.valkey.generation += 1


def snapshot_redis(world: World) -> None:
    world.redis_snapshot = world.valkey.keyspace.copy()


def restart_postgres(world: World) -> None:
    world.server.end_backends(commit_odds=0.5)
    world.server.away = True
    world.later(world.random.choice((0.1, 1.0, 3.0)), setattr, world.server, "away", False)


def end_connections(world: World) -> None:
    """pg_terminate_backend of everybody."""
    world.server.end_backends(commit_odds=0.5)


def fail_over(world: World) -> None:
    """The standby takes over; it had not heard of the last moments.

    Not twice in a second: epochs are seconds (0008), and a second promotion that loses the first
    one's epoch within it would draw the same. Promotions take longer.
    """
    if world.tables.rows["engine_state"][True]["epoch"] >= int(world.tables.now().timestamp()):
        world.note("no standby is ready yet")
        return
    seconds = world.random.choice((0.0, 0.05, 0.3, 1.0))
    world.server.end_backends()
    before = world.tables.snapshot()
    past = [s for moment, s in world.postgres_snapshots if moment <= world.loop.now - seconds]
    if seconds and past:
        world.tables.restore(past[-1])
    world.tables.timeline += 1
    world.oracle.history_lost(before[0])
    world.note(f"Postgres fails over, and lost {seconds} s")
    world.server.away = True
    world.later(world.random.choice((0.05, 0.5, 2.0)), setattr, world.server, "away", False)


def lock_rows(world: World) -> None:
    """Somebody's own transaction sits on the stock row or on a buyer's."""
    from .ledger import Transaction

    tx = Transaction(world.tables)
    for table in ("stock", "allowances"):
        keys = [key for key in world.tables.rows[table] if world.random.random() < 0.7]
        for key in keys:
            tx.try_lock(table, key)
    world.later(world.random.choice((0.05, 0.5, 1.5, 3.0)), tx.end)


def pause_drop(world: World) -> None:
    """An operator pauses a drop, and lets it go on."""
    world.operate("admin")
    world.later(0.2 + world.random.random(), world.operate, None)


ACCIDENTS: dict[str, Callable[[World], None]] = {
    "worker killed": kill_worker,
    "keeper killed": kill_keeper,
    "process frozen": freeze_process,
    "redis emptied": empty_redis,
    "redis key lost": lose_intents,
    "redis restarted": restart_redis,
    "redis scripts flushed": flush_scripts,
    "redis full": fill_redis,
    "redis frozen": freeze_redis,
    "redis connections cut": cut_redis,
    "redis snapshot": snapshot_redis,
    "postgres restarted": restart_postgres,
    "postgres connections ended": end_connections,
    "postgres failed over": fail_over,
    "rows locked": lock_rows,
    "drop paused": pause_drop,
}


def accident(world: World, counts: Counter[str]) -> None:
    kind = world.random.choice(world.weather.kinds)
    counts[kind] += 1
    world.note(f"ACCIDENT {kind}")
    ACCIDENTS[kind](world)
