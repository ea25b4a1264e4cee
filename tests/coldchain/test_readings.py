"""What sensors say: the newest reading is a slot's condition, and a booked slot's turn to critical
is recorded once."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from engine.coldchain import store
from engine.coldchain.models import Reading
from engine.infra.ids import new_id
from engine.runtime import Ground
from tests.coldchain.conftest import DAYS, Book, Chain, Opens


@pytest.mark.parametrize(
    ("temperature", "status"),
    [(-72, "NORMAL"), (-68, "NORMAL"), (-67.99, "WARNING"), (-65, "WARNING"), (-64.99, "CRITICAL")],
)
async def test_a_temperature_is_judged_by_what_it_should_be(
    chain: Chain, freezer: Opens, temperature: float, status: str
) -> None:
    [slot] = await freezer(1)

    told = await chain.reads(slot, temperature)

    assert (told.status, told.json["tempStatus"]) == (201, status), told.body
    shown = await chain.slot(slot)
    assert (shown["temperature"], shown["tempStatus"]) == (temperature, status)
    assert [point["temperature"] for point in shown["history"]] == [temperature]


async def test_a_late_reading_is_history_and_no_condition(chain: Chain, freezer: Opens) -> None:
    [slot] = await freezer(1)
    await chain.reads(slot, -70.5)
    before = (datetime.now(UTC) - timedelta(hours=2)).isoformat()

    late = await chain.reads(slot, -60, recordedAt=before)

    assert (late.status, late.json["tempStatus"]) == (201, "NORMAL")
    shown = await chain.slot(slot)
    assert (shown["temperature"], shown["tempStatus"]) == (-70.5, "NORMAL")
    assert [point["temperature"] for point in shown["history"]] == [-60, -70.5]


async def test_a_sensor_whose_clock_is_ahead_does_not_silence_the_next_one(
    chain: Chain, freezer: Opens
) -> None:
    [slot] = await freezer(1)
    soon = (datetime.now(UTC) + timedelta(minutes=4)).isoformat()
    assert (await chain.reads(slot, -71, recordedAt=soon)).status == 201

    await chain.reads(slot, -60)

    assert (await chain.slot(slot))["tempStatus"] == "CRITICAL"


async def test_twelve_readings_are_shown_oldest_first(chain: Chain, freezer: Opens) -> None:
    [slot] = await freezer(1)
    now = datetime.now(UTC)
    for n in range(15):
        moment = (now - timedelta(minutes=15 - n)).isoformat()
        await chain.reads(slot, -70 - n / 10, recordedAt=moment)

    shown = await chain.slot(slot)

    assert [point["temperature"] for point in shown["history"]] == [
        -70 - n / 10 for n in range(3, 15)
    ]
    moments = [point["recordedAt"] for point in shown["history"]]
    assert moments == sorted(moments)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "temperature"),
        ({"temperature": "cold"}, "temperature"),
        ({"temperature": -273.16}, "temperature"),
        ({"temperature": 100.01}, "temperature"),
        ({"temperature": 1e300}, "temperature"),
        ({"temperature": -70, "recordedAt": "soon"}, "recordedAt"),
        ({"temperature": -70, "recordedAt": "2190-01-01T00:00:00Z"}, "recordedAt"),
        ({"temperature": -70, "recordedAt": "2020-01-01T00:00:00Z"}, "recordedAt"),
        (
            {"temperature": -70, "recordedAt": "2020-01-01", "recorded_at": "2020-01-01"},
            "recordedAt",
        ),
    ],
)
async def test_what_no_sensor_can_have_measured_is_refused(
    chain: Chain, freezer: Opens, body: dict[str, object], field: str
) -> None:
    [slot] = await freezer(1)

    reply = await chain.shop.send("POST", f"/slots/{slot}/readings", body)

    assert (reply.status, reply.error) == (400, "VALIDATION_ERROR")
    assert reply.json["details"]["fields"][0]["field"] == field
    assert (await chain.slot(slot))["history"] == []


@pytest.mark.parametrize("slot", ["0", "7", "x", "1048577", "99999999999999999999", "-1"])
async def test_a_reading_of_no_slot_is_a_404(chain: Chain, slot: str) -> None:
    reply = await chain.shop.send("POST", f"/slots/{slot}/readings", {"temperature": -70})

    assert (reply.status, reply.error) == (404, "NOT_FOUND")


async def test_the_same_reading_sent_twice_is_written_once(
    chain: Chain, freezer: Opens, book: Book
) -> None:
    [slot] = await freezer(1)

    first, again = await asyncio.gather(*(chain.reads(slot, -70.4, key="r1") for _ in range(2)))
    later = await chain.reads(slot, -70.4, key="r1")
    other = await chain.reads(slot, -60, key="r1")

    assert first.json == again.json == later.json
    assert (first.status, again.status, later.status) == (201, 201, 201)
    assert later.headers["idempotent-replayed"] == "true"
    assert (other.status, other.error) == (422, "IDEMPOTENCY_MISMATCH")
    assert await book.count("readings") == 1


async def test_a_burst_of_readings_is_a_few_statements(
    chain: Chain, freezer: Opens, book: Book
) -> None:
    """One outbox row a batch: so many batches there were."""
    slots = await freezer(20)

    replies = await asyncio.gather(
        *(chain.reads(slot, -72 + n / 10) for slot in slots for n in range(1, 11))
    )

    assert {reply.status for reply in replies} == {201}
    assert await book.count("readings") == 200
    assert 1 <= await book.count("outbox", "kind = 'condition'") <= 20


async def test_each_turn_of_a_booked_slot_is_recorded_once_whatever_comes_in_one_moment(
    ground: Ground, chain: Chain, freezer: Opens, book: Book
) -> None:
    """A batch in which a slot turns critical, stays so, recovers and turns again; run twice, as
    after a lost reply; and one that is not booked."""
    booked, empty = await freezer(2)
    await chain.booked(booked, "ann")
    now = datetime.now(UTC)
    batch = []
    for slot in (booked, empty):
        drop_id, number = store.place(slot)
        for n, temperature in enumerate([-70, -60, -59, -70, -61]):
            moment = now + timedelta(seconds=n)
            batch.append(Reading(drop_id, number, temperature, moment, new_id()))

    async with ground.postgres.session() as session:
        first = await store.record_readings(session, batch, DAYS, 300)
        again = await store.record_readings(session, batch, DAYS, 300)

    assert {each.word for each in first} == {"recorded"}
    assert {each.word for each in again} == {"repeated"}
    told = await book.connection.fetch("SELECT * FROM records WHERE action = 'TEMP_CRITICAL'")
    assert [row["slots"] for row in told] == [[booked, booked]]
    assert told[0]["manifests"] == ["MAN-1", "MAN-1"]
    await chain.reads(booked, -58)
    assert await book.count("records", "action = 'TEMP_CRITICAL'") == 1, "it was critical already"
    assert await book.sealed(ground) == [("BOOKING_CONFIRMED", 1), ("TEMP_CRITICAL", 2)]


async def test_the_change_of_a_condition_is_told_with_the_slots_that_changed(
    chain: Chain, freezer: Opens, book: Book
) -> None:
    warm, same = await freezer(2)
    await chain.reads(same, -70)
    await chain.reads(warm, -69)

    rows = await book.connection.fetch("SELECT * FROM outbox WHERE kind = 'condition'")

    assert [(row["drop_id"], [id.int for id in row["subjects"]]) for row in rows] == [
        (store.place(warm)[0], [warm])
    ]


async def test_weeks_of_readings_come_and_go(ground: Ground, freezer: Opens, book: Book) -> None:
    await freezer(1)
    partitions = "SELECT count(*) FROM pg_inherits WHERE inhparent = 'readings'::regclass"
    there = await book.connection.fetchval(partitions)
    assert there in (7, 8)  # thirty days back, this week, and two ahead

    assert await store.partition_readings(ground.postgres, DAYS) == 0
    await book.connection.execute("SET ROLE pg_monitor")  # who owns no table of ours
    assert await book.connection.fetchval("SELECT partition_readings(37)") == 1
    await book.connection.execute("RESET ROLE")
    while await store.partition_readings(ground.postgres, 1):
        pass

    assert await book.connection.fetchval(partitions) in (3, 4)
    assert await store.partition_readings(ground.postgres, DAYS) == there - await _few(book)


async def _few(book: Book) -> int:
    rows: int = await book.connection.fetchval(
        "SELECT count(*) FROM generate_series(date_trunc('week', now() AT TIME ZONE 'UTC'"
        " - interval '1 day'), now() AT TIME ZONE 'UTC' + interval '14 days', interval '7 days')"
    )
    return rows
