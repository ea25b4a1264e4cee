"""The mock provider's checkout: the page that buyers pay on, and the same for programs.

    GET  /checkout?reservationId&amount&currency   the page; what a hold's `payUrl` links to
    POST /checkout                                 its buttons; then
    GET  /payments/{id}                            what became of it, and the way back to the shop
    POST /payments {reservationId, amount, currency, behaviour?, slowSeconds?, lateSeconds?}
    POST /refunds  {data: [rows of the shop's GET /refunds]}      pays back what is owed
    GET  /books                                    all that was charged, and all that was told

`expiresAt` in the page's query is the deadline that "after the deadline" waits for, and `return`
may name the shop as the buyer calls it (localhost, 127.0.0.1): nothing but that host is taken
from it. Whoever is not on this machine, or comes through a rebound name, is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from functools import cache
from html import escape
from pathlib import Path
from string import Template
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

import msgspec
from starlette.applications import Starlette
from starlette.types import ASGIApp, Receive, Scope, Send

from engine.infra.errors import Forbidden, NotFound
from engine.infra.http import Answer, Call, cents, decoder, invalid, money, parse_time, serve
from engine.infra.routing import Route, not_found, starlette_routes
from engine.ops.provider import MockProvider, behaviour

SLOW_SECONDS = 15.0
LATE_SECONDS = 660.0  # a hold of a minute and its ten minutes to pay in, if nobody says
PAST_SECONDS = 20.0  # beyond a deadline: time for somebody else to take what came free
WAIT_MAX_SECONDS = 86_400.0
LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
HEADERS = [
    (
        b"content-security-policy",
        b"default-src 'none'; style-src 'self'; form-action 'self'; base-uri 'none'; "
        b"frame-ancestors 'none'",
    ),
    (b"referrer-policy", b"same-origin"),  # with none, a form's Origin would read `null`
    (b"x-content-type-options", b"nosniff"),
    (b"cache-control", b"no-store"),
]
BUTTONS = {
    "ok": "Pay",
    "declined": "Card declined",
    "slow": f"Pay slowly ({SLOW_SECONDS:.0f} s)",
    "twice": "Pay twice",
    "late": "Pay after the deadline",
    "lost": "Close the window",
}
ENDS = {
    "under_way": (
        "Payment under way",
        "The bank takes its time. You need not wait here: the shop hears of it.",
    ),
    "accepted": ("Payment accepted", "The shop is being told."),
    "declined": ("Payment declined", "Nothing was paid."),
    "abandoned": ("Window closed", "Nothing was paid, and the shop will hear nothing."),
    "given_back": ("Payment given back", "The money is the buyer's again."),
}


class Bill(msgspec.Struct, rename="camel", kw_only=True):
    """What is to be paid."""

    reservation_id: str
    amount: str
    currency: str
    behaviour: str = "ok"
    slow_seconds: float = SLOW_SECONDS
    late_seconds: float = LATE_SECONDS
    reference: str | None = None


class Owed(msgspec.Struct):
    """An answer of the shop's GET /refunds."""

    data: list[dict[str, Any]]


class Books(msgspec.Struct, rename="camel"):
    """All that the provider knows; `answers` counts callbacks' attempts by the shop's answer."""

    mock: bool
    charges: list[Any]
    behaved: dict[str, int]
    busy: int
    under_way: list[str]  # whose payments these are
    delivered: int
    given_up: list[Any]
    answers: dict[str, int]


bill_body, owed_body = decoder(Bill), decoder(Owed)


class Checkout:
    """The pages of a provider that listens on `port` and serves the shop at `shop`."""

    def __init__(self, provider: MockProvider, shop: str, port: int, *names: str) -> None:
        """`names`: what else this machine's loopback is called, as in HOST=127.0.0.2."""
        self._provider, self._shop = provider, urlsplit(shop)
        self._hosts = {f"{host}:{port}".encode() for host in (*LOOPBACK, *names)}
        self._visits: dict[str, dict[str, str]] = {}  # the query that each payment came with

    def build(self) -> ASGIApp:
        """The ASGI app."""
        routes = [
            Route("checkout", "GET", "/checkout", self._local(self.show)),
            Route("checkout_paid", "POST", "/checkout", self._local(self.press)),
            Route("payment", "GET", "/payments/{id}", self._local(self.payment)),
            Route("pay", "POST", "/payments", self._local(self.pay)),
            Route("refunds", "POST", "/refunds", self._local(self.refund)),
            Route("books", "GET", "/books", self._local(self.books)),
            Route("style", "GET", "/checkout.css", self._local(self.style)),
        ]
        app = Starlette(routes=[*starlette_routes(routes, [""])])
        app.router.redirect_slashes = False
        app.router.default = _lost
        return app

    def _local(
        self, handler: Callable[[Call], Coroutine[Any, Any, Answer]]
    ) -> Callable[[Call], Coroutine[Any, Any, Answer]]:
        """The handler for callers of this machine: our own address in Host, and no page elsewhere
        in Origin."""

        async def guarded(call: Call) -> Answer:
            for name, given in call.scope["headers"]:
                place = given.removeprefix(b"http://") if name == b"origin" else given
                if name in (b"host", b"origin") and place not in self._hosts:
                    raise Forbidden(
                        "The mock provider answers its own page on this machine only: "
                        f"{name.decode()} is another's"
                    )
            return await handler(call)

        return guarded

    async def show(self, call: Call) -> Answer:
        """GET /checkout: the amount, and the buttons."""
        query = call.query
        bill = _bill(query)
        hidden = "".join(
            f'<input type="hidden" name="{escape(name)}" value="{escape(query[name])}">'
            for name in ("reservationId", "amount", "currency", "expiresAt", "return")
            if name in query
        )
        buttons = []
        for name, label in BUTTONS.items():
            when = f" (in {_duration(_late_seconds(query))})" if name == "late" else ""
            if name == "declined":
                buttons.append("<h2>Or go wrong, as payments do</h2>")
            first = ' class="first"' if name == "ok" else ""
            buttons.append(f'<button name="behaviour" value="{name}"{first}>{label}{when}</button>')
        body = (
            f'<p class="amount">{escape(bill.amount)} {escape(bill.currency)}</p>'
            f'<p class="small">Reservation {escape(bill.reservation_id)}</p>'
            f'<form method="post" action="/checkout">{hidden}{"".join(buttons)}</form>'
        )
        return _page("Pay for your reservation", body)

    async def press(self, call: Call) -> Answer:
        """POST /checkout: begin the payment, then show it."""
        try:
            form = dict(parse_qsl(call.body.decode("ascii"), max_num_fields=20))
        except ValueError:
            raise invalid("body", "not a form") from None
        bill = _bill(form)
        bill.late_seconds = _late_seconds(form)
        reference = await self._begin(bill)
        self._visits[reference] = {"behaviour": "ok"} | form
        return Answer(
            status=303, headers=[*HEADERS, (b"location", f"/payments/{reference}".encode())]
        )

    async def payment(self, call: Call) -> Answer:
        """GET /payments/{id}: what became of it so far."""
        form = self._visits.get(call.params["id"])
        status = self._provider.status(call.params["id"])
        if form is None or status is None:
            raise NotFound("There is no such payment; the mock provider forgets when it restarts")
        if form["behaviour"] == "lost":
            status = "abandoned"
        title, sentence = ENDS[status]
        if form["behaviour"] == "twice" and status == "accepted":
            sentence = "Twice, for the same hold: the shop will owe one of them back."
        if form["behaviour"] == "late" and status == "under_way":
            sentence = "It will be paid when its time is over. Go back and watch."
        words = {name: form[name] for name in form if name != "behaviour"}
        again = f'<a class="button" href="/checkout?{escape(urlencode(words))}">Try again</a>'
        body = (
            f'<p role="status">{sentence}</p>'
            f'<p class="small">{escape(form["amount"])} {escape(form["currency"])} · payment '
            f"{escape(call.params['id'])}</p>"
            f'<div class="links"><a class="button first" href="{escape(self._back(form))}">'
            f"Back to the shop</a>{again if status in ('declined', 'abandoned') else ''}</div>"
        )
        return _page(title, body, refresh_seconds=2 if status == "under_way" else None)

    def _back(self, form: dict[str, str]) -> str:
        """The shop's page about this hold. Of the buyer's `return`, the name of this machine."""
        host = self._shop.netloc
        try:
            told = urlsplit(form.get("return", ""))
        except ValueError:
            told = urlsplit("")
        if told.netloc in {f"{name}:{self._shop.port}" for name in LOOPBACK}:
            host = told.netloc
        return f"{self._shop.scheme}://{host}/?reservation={quote(form['reservationId'], safe='')}"

    async def pay(self, call: Call) -> Answer:
        """POST /payments: begin a payment without a page."""
        return Answer({"reference": await self._begin(bill_body(call))}, 201)

    async def _begin(self, bill: Bill) -> str:
        for seconds in (bill.slow_seconds, bill.late_seconds):
            if not 0 <= seconds <= WAIT_MAX_SECONDS:
                raise invalid("lateSeconds", f"want 0 to {WAIT_MAX_SECONDS:.0f}")
        try:
            how = behaviour(
                bill.behaviour, slow_seconds=bill.slow_seconds, late_seconds=bill.late_seconds
            )
        except ValueError as wrong:
            raise invalid("behaviour", str(wrong)) from None
        return await self._provider.pay(
            bill.reservation_id, bill.amount, bill.currency, how, bill.reference
        )

    async def refund(self, call: Call) -> Answer:
        """POST /refunds: pay back what the shop owes."""
        return Answer({"givenBack": await self._provider.give_back(owed_body(call).data)})

    async def books(self, call: Call) -> Answer:
        """GET /books: to be compared with the shop's."""
        provider, tally = self._provider, self._provider.tally
        return Answer(
            Books(
                True,
                list(provider.charges.values()),
                dict(provider.behaved),
                provider.busy,
                provider.under_way,
                tally.delivered,
                tally.given_up,
                {str(status): times for status, times in tally.answers.items()},
            )
        )

    async def style(self, call: Call) -> Answer:
        """GET /checkout.css"""
        return Answer(_asset("checkout.css").encode(), headers=HEADERS, content_type=b"text/css")


async def _lost(scope: Scope, receive: Receive, send: Send) -> None:
    await serve(not_found, "not_found", scope, receive, send)


def _bill(given: dict[str, str]) -> Bill:
    """What a query or a form asks to be paid. Raises `Invalid`."""
    for name in ("reservationId", "amount", "currency"):
        if not given.get(name):
            raise invalid(name, "required: follow the shop's payUrl")
    return Bill(
        reservation_id=given["reservationId"][:128],
        amount=money(cents("amount", given["amount"])),
        currency=given["currency"][:3].upper(),
        behaviour=given.get("behaviour", "ok"),
    )


def _late_seconds(given: dict[str, str]) -> float:
    """From now until just past the deadline, if it was told."""
    if "expiresAt" not in given:
        return LATE_SECONDS
    left = parse_time("expiresAt", given["expiresAt"]) - datetime.now(UTC)
    return min(max(left.total_seconds(), 0) + PAST_SECONDS, WAIT_MAX_SECONDS)


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


@cache
def _asset(name: str) -> str:
    return (Path(__file__).parent / "assets" / name).read_text()


def _page(title: str, body: str, refresh_seconds: int | None = None) -> Answer:
    text = Template(_asset("checkout.html")).substitute(title=escape(title), body=body)
    refresh = [(b"refresh", str(refresh_seconds).encode())] if refresh_seconds else []
    return Answer(
        text.encode(), headers=[*HEADERS, *refresh], content_type=b"text/html; charset=utf-8"
    )
