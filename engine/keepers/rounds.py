"""The rounds: which keeper does what, and how often. All may run any number of times.

sweeper     frees what ran out; reads the due index, wakes at the next deadline
ringer      touches bells that should have rung, so that they are heard now
reaper      closes the intents of dead workers
reconciler  tells the bouncer what Postgres says
settler     decides what became of money that workers left undecided
filler      puts the units of large drops on the shelf
auditor     recounts the rows of warm drops; pauses what does not add up (one process does)
postman     sends the mails that are due
beater      writes down that this process lives
pruner      forgets what is past its retention
sealer      puts what was sold, refunded and booked into the ledger
checker     looks now and then whether the whole ledger is what was sealed
ender       ends sessions whose time is over
registrar   gives up receipts that dead workers left pending, and reforges nobody confirmed;
            opens the tier of DROP_CAPACITY
partitioner makes room for readings and activity, and drops the weeks and months past their time
"""

from __future__ import annotations

import time
from contextlib import suppress
from functools import cache

import structlog

from engine.coldchain import freezers
from engine.identity import session_store as sessions
from engine.identity import signing
from engine.identity import store as identity
from engine.identity.postman import Postman, of_resets
from engine.identity.resets import Links
from engine.identity.sessions import end_due
from engine.infra import sql
from engine.infra.combiner import Crew
from engine.infra.errors import Misconfigured
from engine.infra.ids import new_id
from engine.infra.locks import Locks
from engine.infra.log import Seldom
from engine.infra.mail import Mailer
from engine.infra.postgres import Postgres
from engine.infra.settings import Settings
from engine.keepers.auditor import Auditor
from engine.keepers.keeper import Keeper, Work
from engine.membership import device_store, mint, openings, reforge
from engine.record import activity_store, books, keys, ledger, look, seal
from engine.record import store as record
from engine.sale import drops, expire, payment, reconcile, shelf, store
from engine.sale.bouncer import Bouncer

log = structlog.get_logger()

NEVER_SECONDS = 3_600.0
PRUNE_BATCH = 5_000
TOMBSTONE_HOURS = 1  # a claim that a tombstone must stop arrives within seconds
BEAT_SECONDS = 1.0
POST_SECONDS = 1.0
END_SECONDS = 5.0
REGISTER_SECONDS = 5.0
CHANGES_HOURS = 1  # a process that followed nothing for as long forgets all that it knew
SEAL_SECONDS, SEAL_SECONDS_MAX = 0.25, 2.0  # between two looks: at rest, in a rush
SEAL_RESTS = 15  # times as long as it sealed, in a rush
CHECK_SECONDS = 60.0
WRONG_KEYS_SECONDS = 30.0  # between two complaints; what is to be sealed waits


def rounds(settings: Settings, postgres: Postgres, bouncer: Bouncer, locks: Locks) -> list[Keeper]:
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
        Keeper("partitioner", partitioning(settings, postgres), 60.0),
        Keeper("ender", ending(postgres), END_SECONDS),
        Keeper("postman", delivering(settings, postgres), POST_SECONDS),
        Keeper("registrar", registering(settings, postgres, bouncer), REGISTER_SECONDS),
        Keeper("beater", beating(postgres), BEAT_SECONDS),
        Keeper("sealer", sealing(settings, postgres), SEAL_SECONDS_MAX),
    ]
    if settings.ledger_verify_seconds > 0:
        keepers.append(Keeper("checker", checking(settings, postgres), CHECK_SECONDS))
    if settings.auditor_ms > 0:
        auditor = Auditor(postgres, bouncer, locks)
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
    missed: dict[int, int] = {}

    async def work() -> None:
        await postgres.refresh_epoch()
        await reconcile.reconcile(postgres, bouncer, missed)

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
        gone += await identity.prune_nonces(postgres, signing.REMEMBERED_SECONDS, PRUNE_BATCH)
        gone += await sessions.prune_credential_changes(postgres, CHANGES_HOURS, PRUNE_BATCH)
        gone += await sessions.prune_sessions(postgres, settings.activity_days, PRUNE_BATCH)
        return 0.1 if gone >= PRUNE_BATCH else None

    return work


def partitioning(settings: Settings, postgres: Postgres) -> Work:
    """Have a place for readings and activity; soon again while weeks or months come or go."""

    async def work() -> float | None:
        changed = await freezers.partition(postgres, settings.readings_days)
        changed += await activity_store.partition_activity(postgres, settings.activity_days)
        return 1.0 if changed else None

    return work


def ending(postgres: Postgres) -> Work:
    """End sessions; back at the next one's end."""

    async def work() -> float | None:
        return await end_due(postgres)

    return work


def delivering(settings: Settings, postgres: Postgres) -> Work:
    """Deliver what is due; at once again while there is some."""
    writers = {
        "password_reset": of_resets(postgres, Links(settings)),
        "reforge": reforge.letters(postgres, settings),
    }
    postman = Postman(postgres, Mailer(settings), writers)

    async def work() -> float | None:
        return 0.0 if await postman.deliver() else None

    return work


def registering(settings: Settings, postgres: Postgres, bouncer: Bouncer) -> Work:
    """Give up what is stuck or too old; once, open what the settings want. Raises `Misconfigured`
    if that can be none."""
    openings.check_configured(settings)
    is_open = False

    async def work() -> None:
        nonlocal is_open
        await mint.give_up_stuck(postgres)
        await device_store.expire_reforges(postgres, PRUNE_BATCH)
        if not is_open:
            opened = await openings.open_configured(postgres, settings)
            if opened is not None:
                await reconcile.tell(postgres, bouncer, [opened])
            is_open = True

    return work


def beating(postgres: Postgres) -> Work:
    """Say that we live, for /health."""
    keeper = new_id()

    async def work() -> None:
        await postgres.call(sql.load("engine")["beat"], keeper=keeper)

    return work


def sealing(settings: Settings, postgres: Postgres) -> Work:
    """Seal; with a backlog at once again, or, while a rush adds to it, seldom: the sale wants the
    same processors, and the ledger can wait. Without the right keys nothing is sealed, and said."""
    complaints, ring = Seldom(WRONG_KEYS_SECONDS), cache(lambda: keys.ring(settings))
    newest: int | None = None  # record, when a backlog was left

    async def work() -> float | None:
        nonlocal newest
        try:
            before, newest = newest, await books.newest_waiting(postgres)
            is_rush = before is not None and newest is not None and newest > before
            began = time.monotonic()
            most = ledger.BLOCK_MAX if is_rush else seal.RECORDS_MAX
            if await seal.seal(postgres, ring(), most) < most // seal.ENTRY_WEIGHT:
                newest = None
                return SEAL_SECONDS
            return (time.monotonic() - began) * SEAL_RESTS if is_rush else 0.0
        except Misconfigured as wrong:
            if complaints.due():
                log.warning("sealer.cannot_seal", why=str(wrong))
            return None

    return work


def checking(settings: Settings, postgres: Postgres) -> Work:
    """Look at the whole ledger, if nobody did for long."""
    looking = look.Looking(postgres, Crew(), cache(lambda: keys.ring(settings)))

    async def work() -> None:
        with suppress(Misconfigured):  # the sealer says so
            await looking.keep_fresh(settings.ledger_verify_seconds)

    return work
