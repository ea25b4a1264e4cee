"""HTTP in, verb, HTTP out: the cold chain. Every handler is a translation, no more."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from engine.coldchain import bodies, described, store, views
from engine.coldchain.book import BookingDesk
from engine.coldchain.hold import Holding, Reserves
from engine.coldchain.models import Book, Booking, Reading, Slot
from engine.coldchain.readings import Recording
from engine.coldchain.release import release
from engine.coldchain.simulate import Simulation
from engine.identity import deeds
from engine.identity.access import Door, buyer_named, require, require_admin
from engine.infra.combiner import Crew
from engine.infra.errors import Forbidden, NotFound
from engine.infra.http import Answer, Call, invalid
from engine.infra.lists import listing, page_of
from engine.infra.meter import meter
from engine.infra.postgres import Postgres, Session
from engine.infra.routing import Route
from engine.infra.settings import Settings
from engine.infra.turns import Turns
from engine.record import books, idempotency
from engine.record.idempotency import REPLAYED
from engine.record.views import sealed
from engine.sale import arguments
from engine.sale.bouncer import Bouncer
from engine.sale.models import Returned
from engine.sale.release import publish_returned


class ColdRoutes:
    """The handlers, and what they need. `reserve` is the sale's: a slot is held as any unit is."""

    def __init__(
        self,
        settings: Settings,
        postgres: Postgres,
        bouncer: Bouncer,
        crew: Crew,
        door: Door,
        turns: Turns,
        reserve: Reserves,
    ) -> None:
        self._postgres, self._bouncer = postgres, bouncer
        self._door, self._turns = door, turns
        self._buyers_confirm = settings.buyers_confirm
        deadline_seconds = settings.request_deadline_ms / 1000
        self._holding = Holding(postgres, reserve)
        self._desk = BookingDesk(postgres, bouncer, crew, deadline_seconds)
        self._recording = Recording(postgres, crew, settings.readings_days, deadline_seconds)
        self._simulation = Simulation(postgres, bouncer, self._holding, self._desk, self._recording)

    def routes(self) -> list[Route]:
        """The table: operation, method, path, handler. Combined requests see to their deadlines
        themselves."""
        combined = [
            Route("hold", "POST", "/hold", self.hold, described.HOLD),
            Route("book", "POST", "/book", self.book, described.BOOK),
            Route(
                "record_reading",
                "POST",
                "/slots/{id}/readings",
                self.record_reading,
                described.READING,
            ),
        ]
        readers = [
            Route("list_slots", "GET", "/slots", self.list_slots, described.LIST_SLOTS),
            Route("show_slot", "GET", "/slots/{id}", self.show_slot, described.SHOW_SLOT),
            Route(
                "show_booking", "GET", "/bookings/{id}", self.show_booking, described.SHOW_BOOKING
            ),
        ]
        operators = [
            Route(
                "release_booking",
                "DELETE",
                "/bookings/{id}",
                self.release_booking,
                described.RELEASE_BOOKING,
            ),
            Route("simulate_traffic", "POST", "/simulate/traffic", self.traffic, described.TRAFFIC),
            Route("simulate_failure", "POST", "/simulate/failure", self.failure, described.FAILURE),
        ]
        calm = [*readers, *(deeds.told(self._door, route) for route in operators)]
        return [*combined, *(self._turns.calm(route) for route in calm)]

    # ── buyers ───────────────────────────────────────────────────────────────────────────────

    async def hold(self, call: Call) -> Answer:
        """Hold a slot.

        For 120 seconds, until `expiresAt`. Repeated with its key it is the same hold."""
        caller = await self._door.caller(call)
        require(caller, "sale:write")
        body = bodies.hold_body(call)
        slot_id = body.slot
        call.drop_id = store.place(slot_id)[0]
        buyer = arguments.must_be_named(buyer_named(caller, body.buyer))
        request = arguments.request(call, caller, buyer, "hold")
        hold = await self._holding.hold(slot_id, buyer, request)
        if hold.replayed:
            meter.count("replays", "reserve")
        return Answer(views.held_view(hold), 201, [REPLAYED] if hold.replayed else None)

    async def book(self, call: Call) -> Answer:
        """Book a slot that is held.

        201 with the booking, 200 if it was booked before with the same manifest."""
        caller = await self._door.caller(call)
        require(caller, "sale:write")
        body = bodies.book_body(call)
        id, manifest = body.reservation, body.manifest
        buyer = buyer_named(caller, body.buyer)
        if caller.kind == "buyer" and not self._buyers_confirm:
            raise Forbidden("A buyer cannot book here: a shop's server does")
        request = arguments.request(call, caller, buyer or arguments.OWNER, "book")
        booked = await self._desk.book(
            Book(id, buyer, manifest, request.id, request.keyed), request.over
        )
        status = 200 if booked.word == "repeated" else 201
        headers = [REPLAYED] if booked.word == "replayed" else None
        if headers:
            meter.count("replays", "purchase")
        # A new one cannot be sealed yet: nobody waits for a look.
        view = (
            views.booked_view(booked.booking)
            if booked.word == "new"
            else await _told(self._postgres, booked.booking)
        )
        return Answer(view, status, headers)

    async def show_booking(self, call: Call) -> Answer:
        """One booking, open or released, and where the ledger has it."""
        caller = await self._door.caller(call)
        require(caller, "sale:read")
        id = arguments.id_in_path(call, "booking")
        booking = await store.find_booking(self._postgres, id)
        if booking is None:
            raise NotFound(f"There is no booking {id}")
        arguments.check_owner(caller, call, booking.buyer)
        places = await books.sequences(self._postgres, [booking.purchase_id])
        return Answer(views.booking_view(booking, sealed(places.get(booking.purchase_id))))

    # ── everybody ────────────────────────────────────────────────────────────────────────────

    async def list_slots(self, call: Call) -> Answer:
        """Slots with their condition, in the order of their ids.

        Owners see their reservation and booking too, operators all of them."""
        shown = await self._eyes(call)
        page = page_of(call, described.SLOTS_MAX)
        after = 0
        if page.cursor is not None:
            try:
                after = bodies.slot_number(page.cursor)
            except NotFound:
                raise invalid("cursor", "not a cursor of this list") from None
        found = await store.list_slots(self._postgres, None, after, page.limit + 1, page.skip)
        items = await store.count_slots(self._postgres) if page.page else None
        rows = [shown(slot) for slot in found[: page.limit]]
        cursor = str(rows[-1].id) if len(found) > page.limit else None
        return Answer(listing(rows, page, cursor, items))

    async def show_slot(self, call: Call) -> Answer:
        """One slot with its condition."""
        shown = await self._eyes(call)
        slot_id = bodies.slot_in_path(call)
        found = await store.list_slots(self._postgres, [slot_id])
        if not found:
            raise NotFound(f"There is no slot {slot_id}")
        return Answer(shown(found[0]))

    async def _eyes(self, call: Call) -> Callable[[Slot], views.SlotView]:
        """What this caller sees of a slot: operators all of it, and so does whoever stands for
        every owner (a shop, or AUTH=open, that names nobody); a buyer what is his. Who may not
        read the sale, as a key may not that only measures, sees what anybody sees."""
        caller = await self._door.caller(call)
        named = arguments.buyer_filter(call)
        if caller.kind == "admin" or not caller.may("sale:read"):  # everybody's, and nobody's
            buyer, everything = None, caller.kind == "admin"
        else:
            buyer = buyer_named(caller, named)
            everything = buyer is None
        return lambda slot: views.slot_view(slot, everything, buyer)

    # ── sensors and operators ────────────────────────────────────────────────────────────────

    async def record_reading(self, call: Call) -> Answer:
        """Write down what a sensor measured.

        The newest reading is the slot's condition: up to 2 °C above `targetTemp` is NORMAL, up to 5
        WARNING, else CRITICAL. One that is older than the newest is history only."""
        caller = await self._door.caller(call)
        if caller.kind == "buyer":
            raise Forbidden("Sensors speak with a shop's key or an operator's token")
        require(caller, "sale:write")
        body = bodies.reading_body(call)
        drop_id, number = store.place(bodies.slot_in_path(call))
        temperature, moment = body.measured, body.moment
        request = arguments.request(call, caller, arguments.OPERATOR, "record_reading")
        recorded = await self._recording.record(
            Reading(drop_id, number, temperature, moment, request.id, request.keyed), request.over
        )
        assert recorded.recorded_at is not None
        headers = [REPLAYED] if recorded.word == "repeated" else None
        return Answer(views.reading_view(recorded, recorded.recorded_at), 201, headers)

    async def release_booking(self, call: Call) -> Answer:
        """End a booking.

        Its slot can be held again at once, and the ledger says so. Ended before, it stays so."""
        caller = await self._door.caller(call)
        require_admin(caller)
        id = arguments.id_in_path(call, "booking")
        request = arguments.request(call, caller, arguments.OPERATOR, "release_booking")
        returned: list[Returned] = []

        async def effect(session: Session) -> Answer:
            booking, returned[:] = await release(session, id)
            return Answer(await _told(session, booking))

        async def publish() -> None:
            meter.count("refunds", "restocked", by=len(returned))
            await publish_returned(self._bouncer, returned)

        meaning = f"release_booking {id}"
        return await idempotency.once(self._postgres, request, meaning, effect, publish)

    async def traffic(self, call: Call) -> Answer:
        """Simulate traffic, for a demo.

        Three to five slots change by holds, bookings and releases of a buyer of its own."""

        async def work() -> Answer:
            slots = [views.slot_view(slot, True, None) for slot in await self._simulation.traffic()]
            return Answer(views.TrafficView(f"Updated {len(slots)} slots", slots))

        return await self._simulated(call, "simulate_traffic", work)

    async def failure(self, call: Call) -> Answer:
        """Simulate a failure, for a demo.

        A reading far above its target is sent for the first slot that is not critical yet."""

        async def work() -> Answer:
            slot = await self._simulation.failure()
            view = views.slot_view(slot, True, None)
            return Answer(views.FailureView(f"Slot {slot.name} is now {slot.temp_status}", view))

        return await self._simulated(call, "simulate_failure", work)

    async def _simulated(
        self, call: Call, operation: str, work: Callable[[], Awaitable[Answer]]
    ) -> Answer:
        require_admin(caller := await self._door.caller(call))
        request = arguments.request(call, caller, arguments.OPERATOR, operation)
        known = await idempotency.recall(self._postgres, request, operation)
        if known is not None:
            return known
        if request.over is not None:
            raise request.over
        told = (
            await work()
        )  # with transactions of its own: each of its steps is a request of its own

        async def effect(session: Session) -> Answer:
            return told

        return await idempotency.once(self._postgres, request, operation, effect)


async def _told(caller: Postgres | Session, booking: Booking) -> views.BookedView:
    """A booking with its place in the ledger, if it has one yet."""
    entry = await books.find_entry(caller, booking.id, booking.last_deed[0])
    return views.booked_view(booking, entry)
