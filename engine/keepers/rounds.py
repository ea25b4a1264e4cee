"""The rounds: which keeper does what, and how often. All may run any number of times.

sweeper     frees what ran out; reads the due index, wakes at the next deadline
ringer      touches bells that should have rung, so that they are heard now
reaper      closes the intents of dead workers
reconciler  tells the bouncer what Postgres says
settler     decides what became of money that workers left undecided
filler      puts the units of large drops on the shelf
auditor     recounts the rows of warm drops; pauses what does not add up (one process does)
beater      writes down that this process lives
pruner      forgets what is past its retention
"""

from __future__ import annotations

from engine.infra import sql
from engine.infra.ids import new_id
from engine.infra.postgres import Postgres
from engine.infra.settings import Settings
from engine.keepers.auditor import Auditor
from engine.keepers.keeper import Keeper, Work
from engine.record import store as record
from engine.sale import drops, expire, payment, reconcile, shelf, store
from engine.sale.bouncer import Bouncer

NEVER_SECONDS = 3_600.0
PRUNE_BATCH = 5_000
TOMBSTONE_HOURS = 1  # a claim that a tombstone must stop arrives within seconds
BEAT_SECONDS = 1.0


def rounds(settings: Settings, postgres: Postgres, bouncer: Bouncer) -> list[Keeper]:
    """All keepers but those that the settings turn off."""
    polling = settings.sweeper_poll_ms > 0
    keepers = [
        Keeper(
            "sweeper",
            sweeping(postgres, bouncer, polling),
            settings.sweeper_poll_ms / 1000 if polling else NEVER_SECONDS,
        ),
        Keeper("settler", settling(postgres, bouncer), 0.5),
        Keeper("filler", filling(postgres, bouncer), 0.5),
        Keeper("pruner", pruning(settings, postgres), 60.0),
        Keeper("beater", beating(postgres), BEAT_SECONDS),
    ]
    if settings.auditor_ms > 0:
        auditor = Auditor(postgres, bouncer)
        keepers.append(Keeper("auditor", auditor.work, settings.auditor_ms / 1000))
    if settings.bell == "on":
        keepers.append(Keeper("ringer", ringing(postgres, bouncer), 0.1))
    if settings.reaper_ms > 0:
        keepers.append(Keeper("reaper", reaping(postgres, bouncer), settings.reaper_ms / 1000))
    if settings.reconciler_ms > 0:
        keepers.append(
            Keeper("reconciler", reconciling(postgres, bouncer), settings.reconciler_ms / 1000)
        )
    return keepers


def sweeping(postgres: Postgres, bouncer: Bouncer, polling: bool) -> Work:
    """Expire what is due; with polling, be back at the next deadline."""

    async def work() -> float | None:
        ended = await expire.expire_due(postgres, bouncer)
        if not polling:
            return None
        due_ms = await expire.next_deadline_ms(postgres)
        # A deadline that has passed and is still there is in somebody's hands, or stuck: look again
        # soon, but not as fast as we can.
        return None if due_ms is None else max(due_ms / 1000 + 0.001, 0.01 if ended else 0.05)

    return work


def settling(postgres: Postgres, bouncer: Bouncer) -> Work:
    """Decide undecided payments; soon again while there are some."""

    async def work() -> float | None:
        return 0.1 if await payment.settle_undecided(postgres, bouncer) else None

    return work


def ringing(postgres: Postgres, bouncer: Bouncer) -> Work:
    """Touch due bells of every warm drop."""

    async def work() -> None:
        held = [o.drop_id for o in await shelf.offers(postgres) if o.figures.held]
        await reconcile.in_slices(held, bouncer.ring_due)

    return work


def reaping(postgres: Postgres, bouncer: Bouncer) -> Work:
    """Close stale intents."""

    async def work() -> None:
        await reconcile.reap(postgres, bouncer)

    return work


def reconciling(postgres: Postgres, bouncer: Bouncer) -> Work:
    """Tell the bouncer the news."""

    async def work() -> None:
        await postgres.refresh_epoch()
        await reconcile.reconcile(postgres, bouncer)

    return work


def filling(postgres: Postgres, bouncer: Bouncer) -> Work:
    """Fill; at once again while units are missing."""

    async def work() -> float | None:
        unfilled = await shelf.unfilled_drops(postgres)
        if not unfilled:
            return None
        missing = await drops.fill(postgres)
        await reconcile.tell(postgres, bouncer, unfilled)
        return 0.0 if missing else None

    return work


def pruning(settings: Settings, postgres: Postgres) -> Work:
    """Forget in small bites; at once again while there is more."""

    async def work() -> float | None:
        gone = await store.prune(postgres, TOMBSTONE_HOURS, PRUNE_BATCH)
        gone += await record.prune(postgres, settings.retention_hours, PRUNE_BATCH)
        return 0.1 if gone >= PRUNE_BATCH else None

    return work


def beating(postgres: Postgres) -> Work:
    """Say that we live, for /health."""
    keeper = new_id()

    async def work() -> None:
        await postgres.call(sql.load("engine")["beat"], keeper=keeper)

    return work
