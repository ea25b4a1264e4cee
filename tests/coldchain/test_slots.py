"""Slots held, booked, shown and given back, with the outcomes of the contract."""

from __future__ import annotations

import asyncio
from typing import Any

import asyncpg
import msgspec
import pytest

from engine.coldchain import store
from engine.identity import tokens
from engine.infra import postgres, sql
from engine.infra.settings import Settings
from engine.runtime import Ground
from engine.sale.models import unit_id
from tests.coldchain.conftest import Book, Chain, Opens, freezer_of
from tests.support.shop import Shop

SECRET = "a secret of the cold chain's tests, for tokens"


async def test_a_slot_is_held_for_two_minutes_and_then_booked(
    chain: Chain, freezer: Opens, book: Book
) -> None:
    slot, other = await freezer(2)

    held = await chain.hold(slot, "ann")
    assert held.status == 201, held.body
    reservation = held.json["reservation"]
    assert held.json["expiresIn"] == 120
    assert (reservation["slotId"], reservation["userId"]) == (slot, "ann")
    assert (await chain.slot(slot))["status"] == "RESERVED"
    told = await chain.book(
        reservation["id"],
        "ann",
        "MAN-7",
        priority="EMERGENCY",
        vaccine_type="mRNA",
        batchNumber="VAX-1",
        quantity=200,
    )

    assert told.status == 201, told.body
    booking, entry = told.json["booking"], told.json["ledgerEntry"]
    assert (booking["slotId"], booking["userId"], booking["manifestId"]) == (slot, "ann", "MAN-7")
    assert (booking["priority"], booking["vaccineType"]) == ("EMERGENCY", "mRNA")
    assert (booking["batchNumber"], booking["quantity"]) == ("VAX-1", 200)
    assert entry["action"] == "BOOKING_CONFIRMED"
    assert (entry["bookingId"], entry["timestamp"]) == (booking["id"], booking["confirmedAt"])
    assert entry["dataHash"] is None if not entry["sealed"] else len(entry["dataHash"]) == 64
    assert (await chain.slot(slot))["status"] == "OCCUPIED"
    assert (await chain.slot(other))["status"] == "AVAILABLE"
    assert await book.records() == [("BOOKING_CONFIRMED", 1)]
    assert await chain.shop.settled(store.place(slot)[0])


async def test_a_slot_that_somebody_has_is_refused_by_name(chain: Chain, freezer: Opens) -> None:
    slot, _ = await freezer(2)
    await chain.held(slot, "ann")

    for buyer in ("ben", "ann"):
        reply = await chain.hold(slot, buyer)
        assert (reply.status, reply.error) == (409, "SLOT_NOT_AVAILABLE"), reply.body
        assert reply.json["details"]["units"] == ["F1-A"]
        assert reply.json["retryable"] is True


async def test_the_last_slot_of_a_freezer_is_refused_by_name_too(
    chain: Chain, freezer: Opens
) -> None:
    [slot] = await freezer(1)
    await chain.booked(slot, "ann")

    for _ in range(3):
        reply = await chain.hold(slot, "ben")
        assert (reply.status, reply.error) == (409, "SLOT_NOT_AVAILABLE"), reply.body


async def test_names_of_fields_are_taken_in_both_spellings_and_ids_as_text(
    chain: Chain, freezer: Opens
) -> None:
    [slot] = await freezer(1)

    held = await chain.shop.send("POST", "/hold", {"slot_id": str(slot), "user_id": 7})
    assert held.status == 201, held.body
    body = {"reservation_id": held.json["reservation"]["id"], "manifest_id": "M", "user_id": 7}
    booked = await chain.shop.send("POST", "/book", body)

    assert (booked.status, booked.json["booking"]["userId"]) == (201, "7"), booked.body
    both = await chain.shop.send("POST", "/hold", {"slotId": slot, "slot_id": slot, "userId": 7})
    assert (both.status, both.error) == (400, "VALIDATION_ERROR")


@pytest.mark.parametrize(
    ("path", "body", "status", "field"),
    [
        ("/hold", {"userId": "ann"}, 400, "slotId"),
        ("/hold", {"slotId": "7.5", "userId": "ann"}, 404, None),
        ("/hold", {"slotId": -1, "userId": "ann"}, 404, None),
        ("/hold", {"slotId": 10**19, "userId": "ann"}, 404, None),
        ("/hold", {"slotId": 1 << 20, "userId": "ann"}, 404, None),
        ("/hold", {"slotId": 1}, 400, "userId"),
        ("/book", {"manifestId": "M"}, 400, "reservationId"),
        ("/book", {"reservationId": "x", "manifestId": "M"}, 404, None),
        ("/book", {"reservationId": "0" * 32}, 400, "manifestId"),
        ("/book", {"reservationId": "0" * 32, "manifestId": ""}, 400, "manifestId"),
        ("/book", {"reservationId": "0" * 32, "manifestId": "M\0"}, 400, "manifestId"),
        ("/book", {"reservationId": "0" * 32, "manifestId": "M", "quantity": 0}, 400, "quantity"),
        (
            "/book",
            {"reservationId": "0" * 32, "manifestId": "M", "quantity": 1 << 31},
            400,
            "quantity",
        ),
        (
            "/book",
            {"reservationId": "0" * 32, "manifestId": "M", "priority": "URGENT"},
            400,
            "priority",
        ),
        ("/book", {"reservationId": "0" * 32, "manifestId": "M"}, 404, None),
    ],
)
async def test_what_cannot_be_meant_is_refused_in_the_one_shape(
    chain: Chain, path: str, body: dict[str, object], status: int, field: str | None
) -> None:
    reply = await chain.shop.send("POST", path, body)

    assert reply.status == status, reply.body
    assert reply.error == ("NOT_FOUND" if status == 404 else "VALIDATION_ERROR")
    if field is not None:
        assert reply.json["details"]["fields"][0]["field"] == field


async def test_a_booking_is_the_holders_and_is_made_once(chain: Chain, freezer: Opens) -> None:
    [slot] = await freezer(1)
    hold = await chain.held(slot, "ann")

    stranger = await chain.book(hold, "ben")
    assert (stranger.status, stranger.error) == (403, "NOT_YOUR_RESERVATION")
    crowd = await asyncio.gather(*(chain.book(hold, "ann") for _ in range(20)))

    assert sorted(reply.status for reply in crowd) == [200] * 19 + [201]
    assert len({reply.json["booking"]["id"] for reply in crowd}) == 1
    other = await chain.book(hold, "ann", "MAN-2")
    assert (other.status, other.error) == (409, "ALREADY_RESOLVED")


async def test_a_key_repeats_its_answer_and_means_one_thing(chain: Chain, freezer: Opens) -> None:
    slot, other = await freezer(2)
    held, again = [await chain.hold(slot, "ann", key="h") for _ in range(2)]
    assert (held.json, again.headers["idempotent-replayed"]) == (again.json, "true")
    assert (await chain.hold(other, "ann", key="h")).error == "IDEMPOTENCY_MISMATCH"
    hold = held.json["reservation"]["id"]

    booked, again = [await chain.book(hold, "ann", key="b") for _ in range(2)]
    mismatch = await chain.book(hold, "ann", "MAN-2", key="b")
    elsewhere = await chain.book(await chain.held(other, "ann"), "ann", key="b")

    assert (booked.status, again.status, booked.json) == (201, 201, again.json)
    assert again.headers["idempotent-replayed"] == "true"
    assert (mismatch.status, mismatch.error) == (422, "IDEMPOTENCY_MISMATCH")
    assert (elsewhere.status, elsewhere.error) == (422, "IDEMPOTENCY_MISMATCH")


@pytest.mark.parametrize("verb", ["book_slots", "record_readings"])
async def test_what_was_done_and_whose_reply_was_lost_is_told_by_doing_it_again(
    chain: Chain, freezer: Opens, book: Book, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    [slot] = await freezer(1)
    hold = await chain.held(slot, "ann")
    real, runs = getattr(store, verb), []

    async def lost(*args: Any) -> Any:
        runs.append(await real(*args))
        if len(runs) == 1:
            raise postgres.Unknown
        return runs[-1]

    monkeypatch.setattr(store, verb, lost)
    reply = await (chain.book(hold, "ann") if verb == "book_slots" else chain.reads(slot, -70))

    assert (reply.status, len(runs)) == (201, 2), reply.body
    assert await book.count("bookings") == await book.count("records") == (verb == "book_slots")
    assert await book.count("readings") == (verb == "record_readings")


async def test_slots_are_held_booked_and_measured_without_redis(
    settings: Settings, ground: Ground, book: Book
) -> None:
    slot, other = await freezer_of(ground, 2)
    alone = msgspec.structs.replace(settings, redis_url="redis://127.0.0.1:1/0")

    async with Shop.open(alone) as shop:
        chain = Chain(shop)
        booking = await chain.booked(slot, "ann")
        assert (await chain.hold(slot, "ben")).error == "SLOT_NOT_AVAILABLE"
        assert (await chain.reads(slot, -60)).json["tempStatus"] == "CRITICAL"
        assert (await shop.send("DELETE", f"/bookings/{booking}")).status == 200
        await chain.held(slot, "ben")
        assert (await chain.slot(other))["status"] == "AVAILABLE"
    assert [action for action, _ in await book.records()] == [
        "BOOKING_CONFIRMED",
        "TEMP_CRITICAL",
        "BOOKING_RELEASED",
    ]


async def test_a_hold_past_its_deadline_is_not_booked_whether_or_not_anybody_swept(
    chain: Chain, freezer: Opens, book: Book
) -> None:
    [slot] = await freezer(1)
    hold = await chain.held(slot, "ann")
    await book.connection.execute("UPDATE reservations SET expires_at = clock_timestamp()")

    late = await chain.book(hold, "ann")

    assert (late.status, late.error) == (410, "HOLD_EXPIRED")
    assert await book.count("bookings") == await book.count("records") == 0


async def test_a_hold_of_something_else_is_not_booked(chain: Chain) -> None:
    drop_id = await chain.shop.open_drop(1)
    hold = (await chain.shop.reserve(drop_id, "ann")).json["id"]

    reply = await chain.book(hold, "ann")

    assert (reply.status, reply.error) == (404, "NOT_FOUND")
    assert (await chain.shop.confirm(hold, "ann")).status == 201


async def test_a_slot_may_be_bought_without_a_manifest_and_is_occupied(
    chain: Chain, freezer: Opens, book: Book
) -> None:
    [slot] = await freezer(1)
    hold = await chain.held(slot, "ann")
    assert (await chain.shop.confirm(hold, "ann")).status == 201

    shown = await chain.slot(slot)
    assert (shown["status"], shown["booking"], shown["reservation"]) == ("OCCUPIED", None, None)
    late = await chain.book(hold, "ann")
    assert (late.status, late.error) == (409, "ALREADY_RESOLVED")
    assert await book.records() == [("PURCHASED", 1)]


async def test_a_booking_is_released_once_and_its_slot_can_be_held_again(
    chain: Chain, freezer: Opens, book: Book
) -> None:
    [slot] = await freezer(1)
    booking = await chain.booked(slot, "ann")

    released = await chain.shop.send("DELETE", f"/bookings/{booking}")
    again = await chain.shop.send("DELETE", f"/bookings/{booking}")

    assert released.status == 200, released.body
    assert released.json == again.json
    assert released.json["booking"]["releasedAt"] is not None
    assert released.json["ledgerEntry"]["action"] == "BOOKING_RELEASED"
    assert (await chain.slot(slot))["status"] == "AVAILABLE"
    assert await book.records() == [("BOOKING_CONFIRMED", 1), ("BOOKING_RELEASED", 1)]
    made = await book.connection.fetchval("SELECT max(made_at) FROM records")
    assert made == await book.connection.fetchval("SELECT released_at FROM bookings")
    await chain.booked(slot, "ben")
    missing = await chain.shop.send("DELETE", "/bookings/0190aaaa-0000-7000-8000-000000000000")
    assert (missing.status, missing.error) == (404, "NOT_FOUND")


async def test_what_is_told_of_a_bookings_record_is_what_is_sealed(
    ground: Ground, chain: Chain, freezer: Opens, book: Book
) -> None:
    [slot] = await freezer(1)
    hold = await chain.held(slot, "ann")
    told = (await chain.book(hold, "ann")).json["ledgerEntry"]
    assert (told["sealed"], told["sequence"], told["dataHash"]) == (False, None, None)
    assert await book.sealed(ground) == [("BOOKING_CONFIRMED", 1)]

    entry = (await chain.book(hold, "ann")).json["ledgerEntry"]

    [shown] = (await chain.shop.send("GET", "/ledger")).json["data"]
    assert entry["sealed"] is True
    assert {name: entry[name] for name in shown} == shown
    assert (entry["timestamp"], entry["slotId"]) == (told["timestamp"], slot)
    booking = f"/bookings/{entry['bookingId']}"
    shown_alone = (await chain.shop.send("GET", booking)).json
    assert shown_alone["ledger"] == {"sealed": True, "sequence": entry["sequence"]}
    assert (await chain.shop.send("DELETE", booking)).json["ledgerEntry"]["sealed"] is False
    await book.sealed(ground)
    released = (await chain.shop.send("DELETE", booking)).json["ledgerEntry"]
    assert (released["action"], released["previousHash"]) == ("BOOKING_RELEASED", entry["dataHash"])


async def test_a_refund_of_a_booked_slot_ends_its_booking_and_a_withdrawn_slot_is_not_for_holding(
    chain: Chain, freezer: Opens
) -> None:
    slot, free = await freezer(2)
    booking = await chain.booked(slot, "ann")
    purchase = (await chain.shop.send("GET", f"/bookings/{booking}")).json["purchaseId"]

    refund = await chain.shop.send("POST", f"/purchases/{purchase}/refund", {"restock": False})
    assert refund.status == 200, refund.body
    shown = await chain.slot(slot)
    assert (shown["status"], shown["withdrawn"], shown["booking"]) == ("OCCUPIED", True, None)
    assert (await chain.hold(slot, "ben")).error == "SLOT_NOT_AVAILABLE"

    await chain.shop.change(store.place(free)[0], withdrawStock="all")
    shown = await chain.slot(free)
    assert (shown["status"], shown["withdrawn"]) == ("OCCUPIED", True)
    assert (await chain.hold(free, "ben")).error == "SLOT_NOT_AVAILABLE"


async def test_slots_are_listed_page_by_page_with_one_query_whatever_their_number(
    ground: Ground, chain: Chain, freezer: Opens, monkeypatch: pytest.MonkeyPatch
) -> None:
    slots = [*await freezer(30), *await freezer_of(ground, 6)]
    calls: list[str] = []
    call = postgres.Session.call

    async def counted(session: postgres.Session, query: sql.Query, **words: object) -> object:
        if query.name != "follow_credentials":  # the watch's, which looks by its own clock
            calls.append(query.name)
        return await call(session, query, **words)

    monkeypatch.setattr(postgres.Session, "call", counted)
    found: list[int] = []
    cursor: str | None = ""
    pages = 0
    while cursor is not None:
        reply = await chain.shop.send("GET", f"/slots?limit=10&cursor={cursor}")
        assert reply.status == 200, reply.body
        found += [slot["id"] for slot in reply.json["data"]]
        cursor, pages = reply.json["nextCursor"], pages + 1
    everything = await chain.shop.send("GET", "/slots?limit=1000")

    assert (found, pages) == (slots, 4)
    assert calls.count("list_slots") == 5
    assert len(calls) == 5
    assert [slot["id"] for slot in everything.json["data"]] == slots
    page = (await chain.shop.send("GET", "/slots?page=2&limit=30")).json
    assert (page["meta"]["totalItems"], len(page["data"])) == (36, 6)
    assert (await chain.shop.send("GET", "/slots?limit=1001")).status == 400
    assert (await chain.shop.send("GET", "/slots?cursor=x")).status == 400


async def test_whose_a_slot_is_is_seen_by_its_owner_and_by_operators_alone(
    settings: Settings, ground: Ground
) -> None:
    guarded = msgspec.structs.replace(
        settings, auth="required", jwt_secret=SECRET, hmac_secret=SECRET
    )
    held, booked = await freezer_of(ground, 2)

    def token(name: str, role: str = "buyer") -> dict[str, str]:
        return {"authorization": f"Bearer {tokens.create(SECRET, name, 3_600, role)}"}

    async with Shop.open(guarded) as shop:
        made = []
        for slot in (held, booked):
            reply = await shop.send("POST", "/hold", {"slotId": slot}, token("ann"))
            assert reply.status == 201, reply.body
            made.append(reply.json["reservation"]["id"])
        body = {"reservationId": made[1], "manifestId": "M"}
        told = await shop.send("POST", "/book", body, token("ann"))
        assert told.status == 201, told.body
        booking = told.json["booking"]["id"]

        seen = {}
        for who, headers in (
            ("ann", token("ann")),
            ("admin", token("ops", "admin")),
            ("ben", token("ben")),
            ("anybody", None),
        ):
            listed = (await shop.send("GET", "/slots", None, headers)).json["data"]
            one = (await shop.send("GET", f"/slots/{booked}", None, headers)).json
            seen[who] = [(slot.get("reservation") or {}).get("id") for slot in listed] + [
                (listed[1].get("booking") or {}).get("id"),
                (one.get("booking") or {}).get("id"),
            ]
        assert seen["ann"] == seen["admin"] == [made[0], None, booking, booking]
        assert seen["ben"] == seen["anybody"] == [None] * 4
        assert "booking" not in one, "nobody is told whether it is booked"

        for method, path in (
            ("DELETE", f"/bookings/{booking}"),
            ("POST", "/simulate/traffic"),
            ("POST", "/simulate/failure"),
            ("POST", f"/slots/{held}/readings"),
        ):
            reading = {"temperature": -70} if method == "POST" else None
            assert (await shop.send(method, path, reading)).status == 401, path
            assert (await shop.send(method, path, reading, token("ann"))).status == 403, path
        other = await shop.send("GET", f"/bookings/{booking}", None, token("ben"))
        assert (other.status, other.error) == (403, "NOT_YOUR_RESERVATION")
        sensor = await shop.send(
            "POST", f"/slots/{held}/readings", {"temperature": -70}, token("ops", "admin")
        )
        assert sensor.status == 201


async def test_simulated_traffic_touches_nobodys_slot_and_breaks_nothing(
    chain: Chain, freezer: Opens, book: Book
) -> None:
    slots = await freezer(12)
    held, booked = await chain.held(slots[0], "ann"), await chain.booked(slots[1], "ann")

    for _ in range(12):
        reply = await chain.shop.send("POST", "/simulate/traffic")
        assert reply.status == 200, reply.body
        moved = reply.json["slots"]
        assert reply.json["message"] == f"Updated {len(moved)} slots"
        assert 3 <= len(moved) <= 5
        assert not {slot["id"] for slot in moved} & {*slots[:2]}

    assert (await chain.slot(slots[0]))["reservation"]["id"] == held
    assert (await chain.slot(slots[1]))["booking"]["id"] == booked
    audit = await chain.shop.audit(store.place(slots[0])[0])
    assert audit["clean"], audit
    statuses = [slot["status"] for slot in await _listed(chain)]
    assert statuses.count("AVAILABLE") == audit["free"]
    assert statuses.count("RESERVED") == audit["held"]
    booked_now = await book.count("bookings", "released_at IS NULL")
    assert statuses.count("OCCUPIED") == audit["sold"] == booked_now


async def _listed(chain: Chain) -> list[dict[str, str]]:
    listed: list[dict[str, str]] = (await chain.shop.send("GET", "/slots")).json["data"]
    return listed


async def test_a_simulated_failure_is_a_reading_and_reaches_every_slot_in_turn(
    chain: Chain, freezer: Opens, book: Book
) -> None:
    """Of a booked slot it is recorded, which failed in the system that had one entry a booking."""
    slots = await freezer(2)
    await chain.booked(slots[0], "ann")

    first, second, third = [await chain.shop.send("POST", "/simulate/failure") for _ in range(3)]

    assert (first.status, first.json["message"]) == (200, "Slot F1-A is now CRITICAL")
    assert -62 <= first.json["slot"]["temperature"] <= -57
    assert first.json["slot"]["id"] == slots[0]
    assert (second.status, second.json["slot"]["id"]) == (200, slots[1])
    assert (third.status, third.error) == (404, "NOT_FOUND")
    assert await book.records() == [("BOOKING_CONFIRMED", 1), ("TEMP_CRITICAL", 1)]


async def test_one_pending_hold_a_slot_is_a_constraint_of_the_schema_too(
    chain: Chain, freezer: Opens, book: Book
) -> None:
    """And one open booking. Nothing that forgets a lock can break either."""
    [slot] = await freezer(1)
    await chain.booked(slot, "ann")
    drop_id, number = store.place(slot)
    assert slot == unit_id(drop_id, number)

    with pytest.raises(asyncpg.UniqueViolationError, match="a_named_unit_has_one_live_owner"):
        await book.connection.execute("INSERT INTO picks SELECT * FROM picks")
    with pytest.raises(asyncpg.UniqueViolationError, match="bookings_one_open_a_slot"):
        await book.connection.execute(
            "INSERT INTO bookings SELECT gen_random_uuid(), gen_random_uuid(), gen_random_uuid(),"
            " drop_id, number, buyer, manifest_id, priority, NULL, NULL, NULL, now(), NULL"
            " FROM bookings"
        )
