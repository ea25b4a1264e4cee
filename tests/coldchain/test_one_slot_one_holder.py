"""One slot, one hold, one booking: however many ask at once, whatever runs out meanwhile, and
whoever is killed."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack
from datetime import datetime
from pathlib import Path

import asyncpg
import pytest

from engine.coldchain import store
from engine.infra.settings import Settings
from engine.runtime import Ground
from engine.sale import expire
from tests.coldchain.conftest import Book, Chain, Opens, freezer_of
from tests.support.http import Crowd, Reply
from tests.support.service import Service
from tests.support.shop import Shop
from tests.support.wait import wait_until

HOLDERS = 200
SHORT = "UPDATE drops SET hold_seconds = 3, max_hold_seconds = 3"


@pytest.mark.parametrize(
    "rounds", [5, pytest.param(100, marks=[pytest.mark.at_length, pytest.mark.timeout(300)])]
)
async def test_of_200_who_hold_one_slot_at_once_one_gets_it(
    settings: Settings, ground: Ground, tmp_path: Path, rounds: int
) -> None:
    """By two workers, which for a few rounds live in this process. Each round is of another slot,
    of which nothing is known yet."""
    slots = await freezer_of(ground, rounds)
    async with AsyncExitStack() as open_:
        if rounds > 10:
            workers: list[Shop] = [
                await open_.enter_async_context(Service.open(settings, tmp_path))
            ]
        else:
            workers = [await open_.enter_async_context(Shop.open(settings)) for _ in range(2)]
        chains = [Chain(worker) for worker in workers]
        for slot in slots:
            crowd = await asyncio.gather(
                *(chains[n % len(chains)].hold(slot, f"b{n}") for n in range(HOLDERS))
            )
            statuses = sorted(reply.status for reply in crowd)
            assert statuses == [201] + [409] * (HOLDERS - 1), slot
            assert {reply.error for reply in crowd if reply.status == 409} == {"SLOT_NOT_AVAILABLE"}
            [winner] = [reply.json["reservation"] for reply in crowd if reply.status == 201]
            shown = await chains[0].slot(slot)
            assert (shown["status"], shown["reservation"]["id"]) == ("RESERVED", winner["id"])
        audit = await workers[0].audit(store.place(slots[0])[0])
        assert (audit["clean"], audit["held"], audit["free"]) == (True, rounds, 0), audit


@pytest.mark.parametrize(
    "slots", [60, pytest.param(1_000, marks=[pytest.mark.at_length, pytest.mark.timeout(120)])]
)
async def test_a_book_that_races_its_expiry_has_one_outcome_and_a_booked_slot_is_not_offered_again(
    chain: Chain, ground: Ground, settings: Settings, book: Book, slots: int
) -> None:
    """Every book is sent in the last moment, while a sweeper runs without a pause."""
    freezer = await freezer_of(ground, slots)
    await book.connection.execute(SHORT)
    ahead = await _clock_ahead(book)
    holds: list[tuple[int, str, float]] = []
    for first in range(0, slots, 100):
        some = freezer[first : first + 100]
        for slot, reply in zip(
            some, await asyncio.gather(*(chain.hold(s, "ann") for s in some)), strict=True
        ):
            assert reply.status == 201, reply.body
            told = reply.json["reservation"]
            deadline = datetime.fromisoformat(told["expiresAt"]).timestamp()
            holds.append((slot, told["id"], deadline - ahead))
    booked: set[int] = set()
    sweeping = True

    async def sweep() -> None:
        while sweeping:
            await expire.expire_due(ground.postgres, ground.bouncer)
            await asyncio.sleep(0)

    async def books(n: int, slot: int, id: str, deadline: float) -> None:
        await asyncio.sleep(max(deadline - time.monotonic() + (n % 41 - 20) * 0.001, 0))
        reply = await chain.book(id, "ann", f"MAN-{n}")
        assert reply.status in (201, 410), reply.body
        if reply.status == 201:
            booked.add(slot)
            again = await chain.hold(slot, "ben")
            assert (again.status, again.error) == (409, "SLOT_NOT_AVAILABLE")

    sweeper = asyncio.create_task(sweep(), name="sweeper")
    await asyncio.gather(*(books(n, *hold) for n, hold in enumerate(holds)))
    sweeping = False
    await sweeper
    await expire.expire_due(ground.postgres, ground.bouncer)

    assert 0 < len(booked) < slots, "the race was not staged: one side always won"
    shown = (await chain.shop.send("GET", "/slots?limit=1000")).json["data"]
    assert {slot["id"] for slot in shown if slot["status"] == "OCCUPIED"} == booked
    assert {slot["id"] for slot in shown if slot["status"] == "AVAILABLE"} == {*freezer} - booked
    assert await book.count("bookings") == len(booked)
    assert await book.sealed(ground) == [("BOOKING_CONFIRMED", len(booked))]
    audit = await chain.shop.audit(store.place(freezer[0])[0])
    assert (audit["clean"], audit["sold"]) == (True, len(booked)), audit


async def _clock_ahead(book: Book) -> float:
    """Seconds to take off a moment of Postgres's clock to have one of time.monotonic()."""
    before = time.monotonic()
    theirs: datetime = await book.connection.fetchval("SELECT clock_timestamp()")
    return theirs.timestamp() - (before + time.monotonic()) / 2


async def test_a_sweep_that_waits_for_a_booking_frees_nothing(
    chain: Chain, ground: Ground, freezer: Opens, book: Book, settings: Settings
) -> None:
    """A booking stands on its locks, its hold runs out, a sweeper comes: the seed's sweep would set
    an occupied slot free."""
    [slot] = await freezer(1)
    hold = await chain.held(slot, "ann")
    hands = await asyncpg.connect(settings.database_url)
    stands = hands.transaction()
    await stands.start()
    drop_id = store.place(slot)[0]
    await hands.execute("SELECT FROM stock WHERE drop_id = $1 FOR UPDATE", drop_id)
    booking = asyncio.create_task(chain.book(hold, "ann"), name="booking")
    standing = (
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
        " AND wait_event_type = 'Lock' AND query LIKE '%book_slots(%'"
    )
    await wait_until(lambda: book.connection.fetchval(standing), "the booking waits")

    swept = await expire.expire_due(ground.postgres, ground.bouncer)
    await stands.rollback()

    assert (await booking).status == 201
    assert swept == 0
    await expire.expire_due(ground.postgres, ground.bouncer)
    assert (await chain.slot(slot))["status"] == "OCCUPIED"
    await hands.close()


@pytest.mark.parametrize(
    "slots", [200, pytest.param(2_000, marks=[pytest.mark.at_length, pytest.mark.timeout(180)])]
)
async def test_bookings_by_two_workers_of_which_one_is_killed_are_made_and_recorded_once(
    settings: Settings, ground: Ground, book: Book, tmp_path: Path, slots: int
) -> None:
    """Whoever hears nothing asks again with his key; in the end everybody has his one booking."""
    freezer = await freezer_of(ground, slots)
    async with Service.open(settings, tmp_path, keepers=0) as service:
        service.crowd = Crowd(service.url, most=slots // 5)  # or all are done at once
        chain, midst = Chain(service), asyncio.Event()
        holds = await asyncio.gather(*(chain.held(slot, f"b{n}") for n, slot in enumerate(freezer)))
        done = 0

        async def books(n: int, hold: str) -> Reply:
            nonlocal done
            for _ in range(100):
                try:
                    reply = await chain.book(hold, f"b{n}", f"MAN-{n}", key=f"k{n}")
                except (ConnectionError, OSError, asyncio.IncompleteReadError):
                    continue
                if reply.status == 503:
                    await asyncio.sleep(0.05)
                    continue
                done += 1
                if done >= slots // 4:
                    midst.set()
                return reply
            raise AssertionError(f"booking {n} never heard what became of it")

        crowd = asyncio.gather(*(books(n, hold) for n, hold in enumerate(holds)))
        await midst.wait()
        assert done < slots, "it was not killed in the middle"
        await service.kill(service.workers[0])
        replies = await crowd

        assert {reply.status for reply in replies} == {201}
        bookings = {reply.json["booking"]["id"] for reply in replies}
        assert len(bookings) == slots
        assert await book.count("bookings") == slots
        assert await book.count("purchases") == slots
        assert await book.sealed(ground) == [("BOOKING_CONFIRMED", slots)]
        assert await book.count("(SELECT DISTINCT subject_id FROM ledger_entries) AS s") == slots
        audit = await service.audit(store.place(freezer[0])[0])
        assert (audit["clean"], audit["sold"], audit["free"]) == (True, slots, 0), audit
