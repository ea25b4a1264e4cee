"""HTTP in, verb, HTTP out: a hold that lives longer, payments, refunds."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from urllib.parse import urlencode

import msgspec

from engine.identity import deeds
from engine.identity.access import Door, buyer_named, require, require_admin
from engine.identity.signatures import Signatures
from engine.infra.combiner import Crew
from engine.infra.errors import Fault, Forbidden, OutcomeUnknown
from engine.infra.http import Answer, Call, iso, money
from engine.infra.lists import listing, page_of
from engine.infra.meter import meter
from engine.infra.postgres import Postgres, Session
from engine.infra.routing import Route
from engine.infra.settings import Settings
from engine.infra.turns import Turns
from engine.record import idempotency
from engine.record.idempotency import REPLAYED
from engine.sale import arguments, described, notices, store, till, views
from engine.sale.bouncer import Bouncer
from engine.sale.extend import extend, pay, ring_later
from engine.sale.models import Hold, Longer, Returned
from engine.sale.payment import Paying
from engine.sale.refund import refund
from engine.sale.release import publish_returned

Prolong = Callable[[Session, str, str | None], Awaitable[tuple[Hold, Longer | None]]]


class PaymentRoutes:
    """The handlers, and what they need."""

    def __init__(
        self,
        settings: Settings,
        postgres: Postgres,
        bouncer: Bouncer,
        crew: Crew,
        door: Door,
        turns: Turns,
    ) -> None:
        self._postgres, self._bouncer = postgres, bouncer
        self._door, self._turns = door, turns
        self._pay_url = settings.payment_url
        self._signatures = Signatures(settings)
        self._paying = Paying(postgres, bouncer, crew, settings.request_deadline_ms / 1000)

    def routes(self) -> list[Route]:
        """The table. The callback's seat sees to its deadline itself."""
        buyers = [
            Route("extend", "POST", "/reservations/{id}/extend", self.extend, described.EXTEND),
            Route("pay", "POST", "/reservations/{id}/pay", self.pay, described.PAY),
        ]
        operators = [
            Route("refund", "POST", "/purchases/{id}/refund", self.refund, described.REFUND),
            Route("list_refunds", "GET", "/refunds", self.list_refunds, described.LIST_REFUNDS),
        ]
        callback = Route(
            "payment_callback",
            "POST",
            "/payments/callback",
            self.callback,
            described.CALLBACK,
            hot=True,
        )
        calm = [*buyers, *(deeds.told(self._door, route) for route in operators)]
        return [*(self._turns.calm(route) for route in calm), callback]

    async def extend(self, call: Call) -> Answer:
        """Let a hold live longer.

        Its deadline moves by the hold's own time, once, up to `maxHoldSeconds` of life."""
        return await self._prolong(call, "extend", extend)

    async def pay(self, call: Call) -> Answer:
        """Begin to pay a hold.

        It is `paying` from now on and lives `paySeconds` longer, once. `payUrl` says where the
        buyer pays, if this service knows. Begun before, nothing changes."""
        return await self._prolong(call, "pay", pay)

    async def _prolong(self, call: Call, operation: str, verb: Prolong) -> Answer:
        caller = await self._door.caller(call)
        require(caller, "sale:write")
        id = arguments.id_in_path(call, "reservation")
        named = notices.pay_body(call).buyer
        buyer = None if caller.kind == "admin" and named is None else buyer_named(caller, named)
        request = arguments.request(call, caller, buyer or arguments.OWNER, operation)
        begun: list[Longer] = []

        async def effect(session: Session) -> Answer:
            hold, longer = await verb(session, id, buyer)
            begun[:] = [longer] if longer is not None else []
            return Answer(views.hold_view(hold, self._pay_link(hold)))

        async def publish() -> None:
            for longer in begun:
                await ring_later(self._bouncer, longer)

        meaning = f"{operation} {id} {buyer}"
        answer = await idempotency.once(self._postgres, request, meaning, effect, publish)
        return await self._as_it_is_now(id, answer) if REPLAYED in answer.headers else answer

    async def _as_it_is_now(self, id: str, answer: Answer) -> Answer:
        """The first answer again, with what became of the hold since: its status is the present
        one, and nobody is sent to pay for what has ended."""
        try:
            hold = await store.find_reservation(self._postgres, id)
        except Fault:  # it was done, whatever we cannot tell of it now
            raise OutcomeUnknown from None
        told = msgspec.json.decode(answer.body)
        if hold is not None and hold.status != told["status"]:
            told["status"] = hold.status
            told.pop("payUrl", None)
        return Answer(told, answer.status, answer.headers)

    def _pay_link(self, hold: Hold) -> str | None:
        """Where the buyer pays a hold whose payment has begun."""
        if not self._pay_url or hold.status != "paying":
            return None
        words = {
            "reservationId": hold.id,
            "amount": money(hold.amount_cents),
            "currency": hold.currency,
            "expiresAt": iso(hold.expires_at),
        }
        return self._pay_url + ("&" if "?" in self._pay_url else "?") + urlencode(words)

    async def callback(self, call: Call) -> Answer:
        """What became of a payment, said by the provider.

        Signed as Standard Webhooks has it. May be said twice, late and out of order: of two
        words about one payment the later status counts. Money that came is a purchase, or a
        refund that is due; without an `outcome` it is still being decided."""
        self._signatures.check(call)
        payment = await self._paying.settle(notices.notice_body(call).notice)
        return Answer(views.payment_view(payment))

    async def refund(self, call: Call) -> Answer:
        """Undo a purchase.

        Its units go on sale again, or off sale; its money is owed back, see `/refunds`."""
        caller = await self._door.caller(call)
        if caller.kind == "buyer":
            raise Forbidden("A shop or an operator refunds: ask them")
        require(caller, "sale:write")
        id = arguments.id_in_path(call, "purchase")
        restock, reason = notices.refund_body(call).wish
        request = arguments.request(call, caller, arguments.OPERATOR, "refund")
        returned: list[Returned] = []

        async def effect(session: Session) -> Answer:
            purchase, returned[:] = await refund(session, id, restock, reason)
            return Answer(views.purchase_view(purchase))

        async def publish() -> None:
            meter.count("refunds", "restocked" if restock else "withdrawn", by=len(returned))
            await publish_returned(self._bouncer, returned)

        meaning = f"refund {id} {restock} {reason}"
        return await idempotency.once(self._postgres, request, meaning, effect, publish)

    async def list_refunds(self, call: Call) -> Answer:
        """Money that is owed back, or was given back, newest first."""
        require_admin(await self._door.caller(call))
        page, done = page_of(call), arguments.refund_status(call)
        before = arguments.number_before(page)
        found = await till.list_refunds(self._postgres, done, before, page.limit + 1, page.skip)
        items = await till.count_refunds(self._postgres, done) if page.page else None
        cursor = str(found[page.limit - 1].id) if len(found) > page.limit else None
        rows = [views.refund_view(each) for each in found[: page.limit]]
        return Answer(listing(rows, page, cursor, items))
