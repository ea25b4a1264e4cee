"""The demo's rooms: a freezer of twenty slots, a small hall with a seat for each of 120 people, and
a tier of members.

Some slots are booked, some are held for their two minutes, and each has an hour of temperatures;
of the hall some rows are sold. All of it by the claims, bookings and readings of real buyers and
sensors, a batch in a statement, so that it costs a start a few milliseconds.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import msgspec

from engine.coldchain import freezers
from engine.coldchain import store as cold
from engine.coldchain.models import Book, Manifest, Reading
from engine.coldchain.readings import AHEAD_SECONDS
from engine.infra.ids import new_id, request_identity
from engine.infra.postgres import Postgres, Session
from engine.infra.settings import Settings
from engine.membership import openings
from engine.sale import drops, store
from engine.sale.models import Claim, Confirm, NewDrop

SLOTS = tuple(f"F{freezer}-{shelf}" for freezer in range(1, 6) for shelf in "ABCD")
SEATS = tuple(f"{row}{seat}" for row in "ABCDEFGHIJ" for seat in range(1, 13))
STAFF = ("manager@cryovault.io", "auditor@cryovault.io")
BOOKED, HELD = (1, 6, 8, 13, 19), (3, 11, 16)  # numbers of slots
VACCINES = ("BNT162b2", "mRNA-1273", "Ad26.COV2.S", "NVX-CoV2373")
PRIORITIES = ("STANDARD", "STANDARD", "PRIORITY", "EMERGENCY", "STANDARD")
GUESTS = ("amara.okafor", "jonas-lindqvist", "mei_tanaka", "priya.raman", "luca77", "deadstock_dan")
SOLD = ((5, 4), (17, 2), (28, 4), (31 + 12, 3), (55, 4), (66, 2))  # first seat, seats
READ_EVERY = timedelta(minutes=5)
HOLD_SECONDS = 180
NUMBERS = 999  # of the demo's members


async def open_freezer(postgres: Postgres, days: int) -> int | None:
    """Make the freezer, unless there is one; the id of its drop."""
    if await cold.find_freezers(postgres):
        return None
    async with postgres.transaction() as session:
        freezer = await freezers.open_freezer(session, SLOTS, days, "Vaccine freezers F1 to F5")
    async with postgres.session() as session:
        await _measure(session, freezer, days)
        await _stock_up(session, postgres.epoch, freezer)
    return freezer


async def open_hall(postgres: Postgres) -> int:
    """Make the hall; the id of its drop."""
    async with postgres.transaction() as session:
        hall = await drops.create(session, _hall())
    async with postgres.session() as session:
        await _fill(session, postgres.epoch, hall)
    return hall


async def open_club(postgres: Postgres, settings: Settings) -> int | None:
    """Open the tier that POST /mint gives numbers of, unless it is; the id of its drop."""
    capacity = settings.drop_capacity or NUMBERS
    wanted = msgspec.structs.replace(settings, drop_capacity=capacity)
    return await openings.open_configured(postgres, wanted)


def _hall() -> NewDrop:
    return NewDrop(
        "The Small Hall, an evening of strings",
        48_00,
        "USD",
        None,
        None,
        None,
        HOLD_SECONDS,
        HOLD_SECONDS * 2,
        60,
        4,
        4,
        len(SEATS),
        pick="named",
        names=SEATS,
    )


async def _measure(session: Session, freezer: int, days: int) -> None:
    """Twelve readings a slot, the newest of just now."""
    dice, now = random.Random(len(SLOTS)), datetime.now(UTC)
    readings = [
        Reading(
            freezer,
            number,
            round(dice.uniform(-72, -68), 1),
            None if ago == 0 else now - ago * READ_EVERY,
            new_id(),
        )
        for number in range(1, len(SLOTS) + 1)
        for ago in range(cold.HISTORY)
    ]
    await cold.record_readings(session, readings, days, AHEAD_SECONDS)


async def _stock_up(session: Session, epoch: int, freezer: int) -> None:
    picks = [(STAFF[n % 2], (number,)) for n, number in enumerate(BOOKED + HELD)]
    holds = await _hold(session, epoch, freezer, picks)
    dice = random.Random(len(BOOKED))
    wishes = [
        (
            Book(
                claim.id,
                claim.buyer,
                Manifest(
                    f"MAN-{dice.randrange(10**6):06d}",
                    priority,
                    dice.choice(VACCINES),
                    f"VAX-{dice.randrange(10**5):05d}",
                    dice.randint(100, 599),
                ),
                request_identity(f"seed:{claim.buyer}", "book", claim.id),
                keyed=False,
            ),
            new_id(),
            new_id(),
        )
        for claim, priority in zip(holds, PRIORITIES, strict=False)
    ]
    await cold.book_slots(session, wishes)


async def _fill(session: Session, epoch: int, hall: int) -> None:
    picks = [
        (guest, tuple(range(first, first + count)))
        for guest, (first, count) in zip(GUESTS, SOLD, strict=True)
    ]
    holds = await _hold(session, epoch, hall, picks)
    confirms = [
        Confirm(
            claim.id,
            claim.buyer,
            None,
            request_identity(f"seed:{claim.buyer}", "purchase", claim.id),
            keyed=False,
        )
        for claim in holds
    ]
    await store.purchase_units(session, [(confirm, new_id()) for confirm in confirms])


async def _hold(
    session: Session, epoch: int, drop_id: int, picks: Sequence[tuple[str, tuple[int, ...]]]
) -> list[Claim]:
    """Hold units of a drop, each for its buyer, in one statement; the holds in the order asked."""
    claims = [
        Claim(
            request_identity(f"seed:{buyer}", "reserve", new_id()),
            1,
            new_id(),
            buyer,
            len(numbers),
            numbers,
        )
        for buyer, numbers in picks
    ]
    by_request = sorted(claims, key=lambda claim: claim.request_id)
    await store.claim_units(session, drop_id, epoch, by_request)
    return claims
