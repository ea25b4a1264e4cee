"""HTTP in, verb, HTTP out: what buyers and shops do. Every handler is a translation, no more."""

from __future__ import annotations

from engine.identity.access import Door, buyer_named, require
from engine.identity.names import Names
from engine.infra.combiner import Crew
from engine.infra.errors import Forbidden, NotFound
from engine.infra.http import Answer, Call, encode, iso
from engine.infra.lists import listing, page_of
from engine.infra.meter import meter
from engine.infra.postgres import Postgres, Session
from engine.infra.routing import Route
from engine.infra.settings import Settings
from engine.infra.turns import Turns
from engine.record import books, idempotency
from engine.record.idempotency import REPLAYED
from engine.record.views import sealed
from engine.sale import arguments, bodies, described, drops, shelf, store, till, views
from engine.sale.bouncer import Bouncer
from engine.sale.models import STOCK_MAX, Confirm, Drop, Release, Reserve, Returned
from engine.sale.poll import Polling
from engine.sale.purchase import Purchasing
from engine.sale.release import Releasing
from engine.sale.reserve import Reserving
from engine.sale.seats import Seats
from engine.sale.sheet import sheet_view

SEATS_MAX = 1_000  # named units in an answer


class SaleRoutes:
    """The handlers, and what they need."""

    def __init__(
        self,
        settings: Settings,
        postgres: Postgres,
        bouncer: Bouncer,
        crew: Crew,
        door: Door,
        turns: Turns,
        salt: bytes,
    ) -> None:
        self._postgres, self._door = postgres, door
        self._names, self._turns = Names(postgres, salt), turns
        self._buyers_confirm = settings.buyers_confirm
        deadline_seconds = settings.request_deadline_ms / 1000
        self._reserving = Reserving(postgres, bouncer, crew, deadline_seconds)
        self._purchasing = Purchasing(postgres, bouncer, crew, deadline_seconds)
        self._polling = Polling(postgres, crew, deadline_seconds)
        self._releasing = Releasing(postgres, bouncer, crew, deadline_seconds)
        self._seats = Seats(postgres, crew, deadline_seconds)
        self.forget = self._reserving.forget  # for who changes a drop
        self.hold = self._reserving.reserve  # for who sells what else is held: slots

    def routes(self) -> list[Route]:
        """The table: operation, method, path, handler, and whether it is hot. Combined requests see
        to their deadlines themselves: their seats know what may truthfully be said."""
        combined = (self.reserve, self.purchase, self.stock, self.units)
        return [r if r.handler in combined else self._turns.calm(r) for r in self._table()]

    def _table(self) -> list[Route]:
        return [
            Route("reserve", "POST", "/reservations", self.reserve, described.RESERVE, hot=True),
            Route(
                "reserve", "POST", "/reserve/{id}", self.reserve, described.RESERVE_DROP, hot=True
            ),
            Route(
                "list_reservations",
                "GET",
                "/reservations",
                self.list_reservations,
                described.LIST_RESERVATIONS,
            ),
            Route(
                "show_reservation",
                "GET",
                "/reservations/{id}",
                self.show_reservation,
                described.SHOW_RESERVATION,
            ),
            Route("release", "DELETE", "/reservations/{id}", self.release, described.RELEASE),
            Route("purchase", "POST", "/purchases", self.purchase, described.PURCHASE, hot=True),
            Route(
                "purchase",
                "POST",
                "/purchase/{id}",
                self.purchase,
                described.PURCHASE_HOLD,
                hot=True,
            ),
            Route(
                "list_purchases",
                "GET",
                "/purchases/mine",
                self.list_purchases,
                described.LIST_PURCHASES,
            ),
            Route(
                "show_purchase",
                "GET",
                "/purchases/{id}",
                self.show_purchase,
                described.SHOW_PURCHASE,
            ),
            Route("list_drops", "GET", "/drops", self.list_drops, described.LIST_DROPS),
            Route("show_drop", "GET", "/drops/{id}", self.show_drop, described.SHOW_DROP),
            Route("stock", "GET", "/drops/{id}/stock", self.stock, described.STOCK, hot=True),
            Route("units", "GET", "/drops/{id}/units", self.units, described.UNITS),
        ]

    # ── holds ────────────────────────────────────────────────────────────────────────────────

    async def reserve(self, call: Call) -> Answer:
        """Reserve units.

        All of them or none, until `expiresAt`. Repeated with its key it is the same hold.

        `units` says which of a named drop; without it they are beside each other."""
        caller = await self._door.caller(call)
        require(caller, "sale:write")
        body = bodies.reserve_body(call)
        call.drop_id = drop_id = arguments.drop_id(call, body)
        buyer = arguments.must_be_named(buyer_named(caller, body.buyer))
        quantity, wanted = body.units_wanted, body.picks
        if not wanted and not arguments.is_keyed(call):
            # Cheaper than to count it: a named buyer's budget pays for what reaches the bouncer.
            self._reserving.refuse_from_memory(drop_id, quantity)
        request = arguments.request(call, caller, buyer, "reserve")
        picks = await self._seats.numbers(drop_id, wanted, request.keyed) if wanted else ()
        wish = Reserve(drop_id, buyer, quantity, request.id, request.keyed, picks)
        hold = await self._reserving.reserve(wish, request.over)
        if hold.replayed:
            meter.count("replays", "reserve")
        return Answer(views.hold_view(hold), 201, [REPLAYED] if hold.replayed else None)

    async def list_reservations(self, call: Call) -> Answer:
        """My live holds, newest first."""
        caller = await self._door.caller(call)
        require(caller, "sale:read")
        buyer, page = arguments.buyer_of_list(caller, call), page_of(call)
        before = arguments.before(page)
        holds = await store.list_reservations(
            self._postgres, buyer, before, page.limit + 1, page.skip
        )
        items = await store.count_reservations(self._postgres, buyer) if page.page else None
        rows = [views.hold_view(hold) for hold in holds[: page.limit]]
        return Answer(
            listing(
                rows, page, holds[page.limit - 1].id if len(holds) > page.limit else None, items
            )
        )

    async def show_reservation(self, call: Call) -> Answer:
        """One hold, any status."""
        caller = await self._door.caller(call)
        require(caller, "sale:read")
        id = arguments.id_in_path(call, "reservation")
        hold = await store.find_reservation(self._postgres, id)
        if hold is None:
            raise NotFound(f"There is no reservation {id}")
        arguments.check_owner(caller, call, hold.buyer)
        payments = await till.find_payments_of_hold(self._postgres, id)
        return Answer(views.hold_view(hold, payments=payments))

    async def release(self, call: Call) -> Answer:
        """Give a hold back.

        Its units are on sale again at once; repeating it is 204."""
        caller = await self._door.caller(call)
        require(caller, "sale:write")
        id = arguments.id_in_path(call, "reservation")
        named = arguments.named_in_query(call)
        buyer = None if caller.kind == "admin" else buyer_named(caller, named)
        request = arguments.request(call, caller, buyer or arguments.OWNER, "release")
        wish = Release(id, buyer)
        if not request.keyed:
            await self._releasing.release(wish)
            return Answer(status=204)
        returned: list[Returned] = []

        async def effect(session: Session) -> Answer:
            returned[:] = await self._releasing.release_within(session, wish)
            return Answer(status=204)

        async def publish() -> None:
            await self._releasing.publish(returned)

        meaning = f"release {id} {buyer}"
        return await idempotency.once(self._postgres, request, meaning, effect, publish)

    # ── purchases ────────────────────────────────────────────────────────────────────────────

    async def purchase(self, call: Call) -> Answer:
        """Buy a hold.

        201 with the purchase, 200 if it was bought before with the same or no reference."""
        caller = await self._door.caller(call)
        require(caller, "sale:write")
        body = bodies.confirm_body(call)
        id = arguments.reservation_id(call, body)
        buyer = buyer_named(caller, body.buyer)
        if caller.kind == "buyer" and not self._buyers_confirm:
            raise Forbidden("A buyer cannot confirm here: paying does")
        request = arguments.request(call, caller, buyer or arguments.OWNER, "purchase")
        bought = await self._purchasing.purchase(
            Confirm(id, buyer, body.reference, request.id, request.keyed), request.over
        )
        status = 200 if bought.word == "repeated" else 201
        headers = [REPLAYED] if bought.word == "replayed" else None
        if headers:
            meter.count("replays", "purchase")
        ledger = sealed(None)  # as nothing is that was made just now, or is told as it was then
        if bought.word == "repeated":
            places = await books.sequences(self._postgres, [bought.purchase.id])
            ledger = sealed(places.get(bought.purchase.id))
        return Answer(views.purchase_view(bought.purchase, ledger=ledger), status, headers)

    async def list_purchases(self, call: Call) -> Answer:
        """What I bought, newest first, each with its drop."""
        caller = await self._door.caller(call)
        require(caller, "sale:read")
        buyer, page = arguments.buyer_of_list(caller, call), page_of(call)
        before = arguments.before(page)
        found = await store.list_purchases(self._postgres, buyer, before, page.limit + 1, page.skip)
        items = await store.count_purchases(self._postgres, buyer) if page.page else None
        shown = found[: page.limit]
        sold = {drop.id: drop for drop in await self._drops({each.drop_id for each in shown})}
        places = await books.sequences(self._postgres, [each.id for each in shown])
        rows = [
            views.purchase_view(
                each, views.drop_view(sold[each.drop_id]), sealed(places.get(each.id))
            )
            for each in shown
        ]
        return Answer(
            listing(
                rows, page, found[page.limit - 1].id if len(found) > page.limit else None, items
            )
        )

    async def show_purchase(self, call: Call) -> Answer:
        """One purchase with its drop."""
        caller = await self._door.caller(call)
        require(caller, "sale:read")
        id = arguments.id_in_path(call, "purchase")
        purchase = await store.find_purchase(self._postgres, id)
        if purchase is None:
            raise NotFound(f"There is no purchase {id}")
        arguments.check_owner(caller, call, purchase.buyer)
        drop = await drops.one(self._postgres, purchase.drop_id)
        places = await books.sequences(self._postgres, [id])
        return Answer(views.purchase_view(purchase, views.drop_view(drop), sealed(places.get(id))))

    # ── drops ────────────────────────────────────────────────────────────────────────────────

    async def list_drops(self, call: Call) -> Answer:
        """Drops, newest first, with stock and the three newest buyers."""
        await self._door.caller(call)
        page, statuses = page_of(call), arguments.statuses(call)
        before = arguments.number_before(page)
        found = await shelf.list_drops(
            self._postgres, None, statuses, before, page.limit + 1, page.skip
        )
        items = await shelf.count_drops(self._postgres, statuses) if page.page else None
        rows = await self._shown(found[: page.limit])
        cursor = str(found[page.limit - 1].id) if len(found) > page.limit else None
        return Answer(listing(rows, page, cursor, items))

    async def show_drop(self, call: Call) -> Answer:
        """One drop."""
        await self._door.caller(call)
        return Answer(
            (await self._shown([await drops.one(self._postgres, arguments.drop_in_path(call))]))[0]
        )

    async def stock(self, call: Call) -> Answer:
        """The cheap poll of a drop's stock.

        Send the `ETag` back: 304 while nothing changed."""
        await self._door.caller(call)
        drop_id = arguments.drop_in_path(call)
        stock = await self._polling.stock(drop_id)
        tag = b'"%d-%d-%d"' % (drop_id, stock.epoch, stock.version)
        headers = [(b"etag", tag), (b"cache-control", arguments.freshness(call))]
        if arguments.has_already(call, tag):
            return Answer(status=304, headers=headers)
        return Answer(views.stock_view(drop_id, stock), headers=headers)

    async def units(self, call: Call) -> Answer:
        """A named drop's units in their order, and who has them.

        Up to 1,000 at once, a quarter of a second old at most. Send the `ETag` back: 304 while
        nothing changed."""
        await self._door.caller(call)
        drop_id, page = arguments.drop_in_path(call), page_of(call, SEATS_MAX)
        after = page.skip or arguments.number_before(page) or 0
        sheet = await self._seats.sheet(drop_id, min(after, STOCK_MAX), page.limit)
        tag = b'"%d-%d-%d"' % (drop_id, sheet.epoch, sheet.version)
        headers = [(b"etag", tag), (b"cache-control", arguments.freshness(call))]
        if arguments.has_already(call, tag):
            return Answer(status=304, headers=headers)
        if page.page or not sheet.body:
            body = encode(sheet_view(drop_id, sheet, page))
            if page.page:
                return Answer(body, headers=headers)
            sheet.body = body
        return Answer(sheet.body, headers=headers)

    async def _drops(self, ids: set[int]) -> list[Drop]:
        return (
            await shelf.list_drops(self._postgres, ids=sorted(ids), count=len(ids)) if ids else []
        )

    async def _shown(self, found: list[Drop]) -> list[views.DropView]:
        """Drops with their newest buyers: two or three queries whatever the page size."""
        recent = (
            await shelf.recent_purchases(self._postgres, [drop.id for drop in found])
            if found
            else {}
        )
        names = await self._names.of(buyer for sold in recent.values() for buyer, _ in sold)
        return [
            views.drop_view(
                drop,
                [
                    views.Recent(names[buyer], iso(moment))
                    for buyer, moment in recent.get(drop.id, [])
                ],
            )
            for drop in found
        ]
