"""The mock provider's pages: forms without scripts, for this machine alone, no way elsewhere."""

from __future__ import annotations

import re
import socket
from collections.abc import AsyncIterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from html import unescape
from typing import Any
from urllib.parse import urlencode

import httpx2
import pytest

from engine.ops.checkout import BUTTONS, Checkout
from engine.ops.provider import MockProvider
from tests.ops.conftest import Types
from tests.support.provider import SECRET
from tests.support.shop import Shop

SHOP, PORT = "http://127.0.0.1:8000", 9000
BILL = {"reservationId": "r-1", "amount": "139.00", "currency": "USD"}
FORM = {"content-type": "application/x-www-form-urlencoded"}


@pytest.fixture
async def provider() -> AsyncIterator[MockProvider]:
    """One whose shop hears everything."""
    heard = httpx2.MockTransport(lambda _: httpx2.Response(200))
    async with MockProvider(SHOP, SECRET, client=httpx2.AsyncClient(transport=heard)) as made:
        yield made


@pytest.fixture
async def page(provider: MockProvider) -> AsyncIterator[httpx2.AsyncClient]:
    """A browser on its page."""
    app = Checkout(provider, SHOP, PORT).build()
    transport = httpx2.ASGITransport(app=app)
    async with httpx2.AsyncClient(
        transport=transport, base_url=f"http://127.0.0.1:{PORT}"
    ) as client:
        yield client


async def presses(page: httpx2.AsyncClient, button: str, **more: str) -> httpx2.Response:
    body = urlencode(BILL | {"behaviour": button} | more)
    own = {"origin": f"http://127.0.0.1:{PORT}"}
    return await page.post("/checkout", content=body, headers=FORM | own, follow_redirects=True)


async def test_the_page_says_the_amount_and_that_no_money_moves(page: httpx2.AsyncClient) -> None:
    shown = await page.get("/checkout", params=BILL)

    assert shown.status_code == 200
    assert "139.00 USD" in shown.text
    assert "no money moves" in shown.text
    assert re.findall(r'name="behaviour" value="(\w+)"', shown.text) == list(BUTTONS)
    assert "<script" not in shown.text
    assert "style=" not in shown.text
    policy = shown.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; style-src 'self'; form-action 'self'")
    assert "light-dark" in (await page.get("/checkout.css")).text


@pytest.mark.parametrize(
    ("button", "title"),
    [
        ("ok", "Payment accepted"),
        ("declined", "Payment declined"),
        ("slow", "Payment under way"),
        ("twice", "Payment accepted"),
        ("late", "Payment under way"),
        ("lost", "Window closed"),
    ],
)
async def test_every_button_leads_to_a_page_with_a_way_back(
    page: httpx2.AsyncClient, provider: MockProvider, button: str, title: str
) -> None:
    await presses(page, button)
    if title != "Payment under way":
        await provider.idle()
    (reference,) = provider._visits
    shown = await page.get(f"/payments/{reference}")

    assert f"<h1>{title}</h1>" in shown.text
    assert f'href="{SHOP}/?reservation=r-1"' in shown.text
    assert ("refresh" in shown.headers) == (title == "Payment under way")
    again = re.search(r'href="(/checkout\?[^"]*)"', shown.text)
    assert (again is not None) == (button in ("declined", "lost"))
    if again is not None:
        assert (await page.get(unescape(again[1]))).status_code == 200
    assert len(provider.charges) == {"ok": 1, "twice": 2}.get(button, 0)


async def test_after_the_deadline_is_after_the_deadline(
    page: httpx2.AsyncClient, provider: MockProvider
) -> None:
    soon = (datetime.now(UTC) + timedelta(seconds=40)).isoformat()

    shown = await page.get("/checkout", params=BILL | {"expiresAt": soon})

    assert re.search(r"Pay after the deadline \(in (59|60) s\)", shown.text)
    await presses(page, "late", expiresAt="2001-01-01T00:00:00Z")
    assert provider.busy == 1


@pytest.mark.parametrize(
    ("told", "host"),
    [
        ("http://localhost:8000/?reservation=x", "localhost:8000"),
        ("http://[::1]:8000/", "[::1]:8000"),
        ("http://localhost:8001/", "127.0.0.1:8000"),
        ("https://evil.example/", "127.0.0.1:8000"),
        ("//evil.example", "127.0.0.1:8000"),
        ("http://localhost:8000@evil.example/", "127.0.0.1:8000"),
        ("http://user@localhost:8000/", "127.0.0.1:8000"),
        ("javascript:alert(1)", "127.0.0.1:8000"),
        ("http://[", "127.0.0.1:8000"),
    ],
)
async def test_the_way_back_leads_to_the_shop_and_nowhere_else(
    page: httpx2.AsyncClient, told: str, host: str
) -> None:
    shown = await presses(page, "declined", **{"return": told})

    links = [link for link in re.findall(r'href="([^"]*)"', shown.text) if link[0] != "/"]
    assert links == [f"http://{host}/?reservation=r-1"]


async def test_what_comes_in_a_query_is_text(page: httpx2.AsyncClient) -> None:
    bad = '"><script>alert(1)</script>'
    query = BILL | {"reservationId": bad, "return": bad, "currency": "<b>"}

    for shown in (await page.get("/checkout", params=query), await presses(page, "lost", **query)):
        assert shown.status_code == 200
        assert "<script" not in shown.text
        assert "<b></" not in shown.text


@pytest.mark.parametrize(
    "headers",
    [
        {"host": "evil.example:9000"},
        {"host": "127.0.0.1:8000"},
        {"host": "localhost.evil.example:9000"},
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:8000"},
    ],
)
@pytest.mark.parametrize("path", ["/checkout", "/payments", "/refunds"])
async def test_no_page_elsewhere_pays_here(
    page: httpx2.AsyncClient, provider: MockProvider, path: str, headers: dict[str, str]
) -> None:
    reply = await page.post(path, content=urlencode(BILL), headers=FORM | headers)

    assert (reply.status_code, reply.json()["error"]) == (403, "FORBIDDEN")
    assert provider.busy == 0


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"reservationId": ""}, "reservationId"),
        ({"amount": "-1"}, "amount"),
        ({"behaviour": "kind"}, "behaviour"),
        ({"expiresAt": "soon"}, "expiresAt"),
    ],
)
async def test_what_cannot_be_paid_is_refused_naming_the_field(
    page: httpx2.AsyncClient, change: dict[str, str], field: str
) -> None:
    reply = await presses(page, "ok", **change)

    assert reply.status_code == 400
    assert reply.json()["details"]["fields"][0]["field"] == field


async def test_programs_pay_read_the_books_and_bring_refunds(
    page: httpx2.AsyncClient, provider: MockProvider
) -> None:
    paid = await page.post("/payments", json=BILL | {"behaviour": "twice", "reference": "pay_1"})
    await provider.idle()
    owed = {"data": [{"reference": "pay_1-again", "status": "due"}], "nextCursor": None}
    given = await page.post("/refunds", json=owed)
    await provider.idle()
    books: dict[str, Any] = (await page.get("/books")).json()

    assert (paid.status_code, paid.json()) == (201, {"reference": "pay_1"})
    assert given.json() == {"givenBack": ["pay_1-again"]}
    assert [(each["reference"], each["givenBack"]) for each in books["charges"]] == [
        ("pay_1", False),
        ("pay_1-again", True),
    ]
    assert (books["mock"], books["delivered"], books["answers"]) == (True, 3, {"200": 3})
    for path in ("/payments/none", "/nothing"):
        assert (await page.get(path)).status_code == 404


async def test_the_command_teaches_and_refuses_to_face_a_network(types: Types) -> None:
    taught = await types("provider", "--help")
    faced = await types("provider", HOST="0.0.0.0", PAYMENT_SECRET=SECRET)
    bare = await types("provider", PAYMENT_SECRET="")

    with closing(socket.create_server(("127.0.0.1", 0))) as door:
        port = str(door.getsockname()[1])
        taken = await types("provider", PROVIDER_PORT=port, PAYMENT_SECRET=SECRET)

    assert taught.code == 0
    assert taken.code == 3
    assert f"PROVIDER_PORT={int(port) + 1}" in taken.err
    assert "No money moves" in taught.out
    assert "PAYMENT_SECRET" in taught.out
    assert (faced.code, bare.code) == (3, 3)
    assert "this machine alone" in faced.err
    assert "PAYMENT_SECRET is missing" in bare.err


async def test_a_form_that_was_sent_with_no_button_pays() -> None:
    async with MockProvider("http://127.0.0.1:9", SECRET, attempts_max=1) as provider:
        page = Shop(Checkout(provider, "http://127.0.0.1:9", 8099).build())
        host = {"host": "127.0.0.1:8099"}
        form = b"reservationId=x&amount=1.00&currency=USD"
        sent = await page.visit("POST", "/checkout", form, host)
        shown = await page.visit("GET", sent.headers["location"], None, host)

    assert (sent.status, shown.status) == (303, 200)
