"""Pages and pictures: what a person sees. Everything comes from this origin."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from functools import cache, cached_property, lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

from engine.infra.errors import NotFound
from engine.infra.http import Answer, Call, encode
from engine.infra.routing import Route
from engine.pages.pictures import COLOURWAYS, draw

NAMED = re.compile(r"(\d{1,2})-([a-z0-9-]{1,60})\.svg")
ASSETS = {
    "index.html": b"text/html; charset=utf-8",
    "docs.html": b"text/html; charset=utf-8",
    "ops.html": b"text/html; charset=utf-8",
    "ops.css": b"text/css; charset=utf-8",
    "ops.js": b"text/javascript; charset=utf-8",
    "ops-access.js": b"text/javascript; charset=utf-8",
    "ops-deeds.js": b"text/javascript; charset=utf-8",
    "ops-drops.js": b"text/javascript; charset=utf-8",
    "chart.js": b"text/javascript; charset=utf-8",
    "signs.js": b"text/javascript; charset=utf-8",
    "vitals.js": b"text/javascript; charset=utf-8",
    "docs.css": b"text/css; charset=utf-8",
    "shop.css": b"text/css; charset=utf-8",
    "rope.svg": b"image/svg+xml",
    "shop.js": b"text/javascript; charset=utf-8",
    "live.js": b"text/javascript; charset=utf-8",
    "api.js": b"text/javascript; charset=utf-8",
    "login.js": b"text/javascript; charset=utf-8",
    "card.js": b"text/javascript; charset=utf-8",
    "dock.js": b"text/javascript; charset=utf-8",
    "drops.js": b"text/javascript; charset=utf-8",
    "holds.js": b"text/javascript; charset=utf-8",
    "ring.js": b"text/javascript; charset=utf-8",
    "words.js": b"text/javascript; charset=utf-8",
    "seats.css": b"text/css; charset=utf-8",
    "seats.js": b"text/javascript; charset=utf-8",
    "seatmap.js": b"text/javascript; charset=utf-8",
    "board.html": b"text/html; charset=utf-8",
    "board.css": b"text/css; charset=utf-8",
    "board.js": b"text/javascript; charset=utf-8",
    "slot.js": b"text/javascript; charset=utf-8",
    "ledger.html": b"text/html; charset=utf-8",
    "ledger.css": b"text/css; charset=utf-8",
    "ledger.js": b"text/javascript; charset=utf-8",
    "chain.js": b"text/javascript; charset=utf-8",
    "account.html": b"text/html; charset=utf-8",
    "account.css": b"text/css; charset=utf-8",
    "account.js": b"text/javascript; charset=utf-8",
    "mine.js": b"text/javascript; charset=utf-8",
    "forms.js": b"text/javascript; charset=utf-8",
    "membership.html": b"text/html; charset=utf-8",
    "membership.css": b"text/css; charset=utf-8",
    "membership.js": b"text/javascript; charset=utf-8",
    "numbered.js": b"text/javascript; charset=utf-8",
    "engraved.js": b"text/javascript; charset=utf-8",
    "keyring.js": b"text/javascript; charset=utf-8",
    "reforge.html": b"text/html; charset=utf-8",
    "reforge.js": b"text/javascript; charset=utf-8",
    "ops-members.js": b"text/javascript; charset=utf-8",
}
# Stoplight Elements, which draws the API's page: a package that ships files and nothing else.
ELEMENTS = {
    "web-components.min.js": b"text/javascript; charset=utf-8",
    "styles.min.css": b"text/css; charset=utf-8",
}
POLICY = b"default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
HEADERS = [
    (b"content-security-policy", POLICY),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cache-control", b"no-cache"),
]
# Elements adds styles of its own to the page. These two are let in, by their hashes: the size of
# its icons, its editor's text. A third has a number in it that changes: docs.css says the same.
STYLES = (
    b"'sha256-MBVp6JYxbC/wICelYC6eULCRpgi9kGezXXSaq/TS2+I='"
    b" 'sha256-40iiqMCd92gEkTDo77tABEiJ83Vil54BR3JPvnldhrA='"
)
STYLES_OF = "26.10.1"  # the version of stopments in which they were looked at
DOCS_HEADERS = [
    (b"content-security-policy", POLICY + b"; style-src 'self' " + STYLES),
    *HEADERS[1:],
]
# What a link from a mail opens: its address holds a secret, so nothing on the way keeps the page.
LINKED_HEADERS = [(b"cache-control", b"no-store"), *HEADERS[:2]]
ELEMENTS_HEADERS = [(b"cache-control", b"public, max-age=86400"), *HEADERS[:2]]
PICTURE_HEADERS = [
    (b"cache-control", b"public, max-age=86400"),
    (b"content-security-policy", b"default-src 'none'; style-src 'unsafe-inline'"),
    (b"cross-origin-resource-policy", b"cross-origin"),  # shops may show them
]


class Pages:
    """The demo shop, its drawn pictures, and the API's document. Pages stand at the root, beside
    the API's mounts. `write` makes the document, when it is first asked for."""

    def __init__(self, write: Callable[[], dict[str, Any]]) -> None:
        self._write = write

    def routes(self) -> list[Route]:
        """/, /account, /membership, /reforge/confirm, /slots-board, /ledger-view, its
        check_proof.py, /ops, /docs, /openapi.json, /assets/{id}, /pictures/{id}, /favicon.ico."""
        return [
            Route("page", "GET", "/", self.index),
            Route("account", "GET", "/account", self.account),
            Route("membership", "GET", "/membership", self.membership),
            Route("reforge_page", "GET", "/reforge/confirm", self.reforge_page),
            Route("slots_board", "GET", "/slots-board", self.slots_board),
            Route("ledger_view", "GET", "/ledger-view", self.ledger_view),
            Route("check_proof", "GET", "/ledger-view/check_proof.py", self.check_proof),
            Route("ops", "GET", "/ops", self.ops),
            Route("docs", "GET", "/docs", self.docs),
            Route("openapi", "GET", "/openapi.json", self.openapi),
            Route("asset", "GET", "/assets/{id}", self.asset),
            Route("picture", "GET", "/pictures/{id}", self.picture),
            Route("favicon", "GET", "/favicon.ico", self.favicon),
        ]

    async def index(self, call: Call) -> Answer:
        """The shop."""
        return _asset("index.html")

    async def account(self, call: Call) -> Answer:
        """Where one logs in, and looks after one's account."""
        return _asset("account.html")

    async def membership(self, call: Call) -> Answer:
        """One's memberships, and what can be done with them."""
        return _asset("membership.html")

    async def reforge_page(self, call: Call) -> Answer:
        """Where a mailed link leads: a question. Only its button does something, since mail
        scanners follow links."""
        page = "reforge.html"
        return Answer(_read(page), headers=LINKED_HEADERS, content_type=ASSETS[page])

    async def slots_board(self, call: Call) -> Answer:
        """The freezers, slot by slot."""
        return _asset("board.html")

    async def ledger_view(self, call: Call) -> Answer:
        """The ledger as a chain, and how to check it."""
        return _asset("ledger.html")

    async def check_proof(self, call: Call) -> Answer:
        """The script that checks a proof offline."""
        return Answer(_script(), headers=HEADERS, content_type=b"text/x-python; charset=utf-8")

    async def favicon(self, call: Call) -> Answer:
        """What browsers ask for unasked, on pages that name no icon (an answer of the API)."""
        return _asset("rope.svg")

    async def ops(self, call: Call) -> Answer:
        """The dashboard: a page for everybody, whose figures and deeds ask who it is."""
        return _asset("ops.html")

    async def docs(self, call: Call) -> Answer:
        """The document as a page."""
        return Answer(_read("docs.html"), headers=DOCS_HEADERS, content_type=ASSETS["docs.html"])

    async def openapi(self, call: Call) -> Answer:
        """The API's document, OpenAPI 3.1."""
        headers = [(b"etag", self._document[0]), (b"cache-control", b"no-cache"), *HEADERS]
        if call.headers.get(b"if-none-match") == self._document[0]:
            return Answer(status=304, headers=headers)
        return Answer(self._document[1], headers=headers)

    @cached_property
    def _document(self) -> tuple[bytes, bytes]:
        body = encode(self._write())
        return b'"%b"' % hashlib.blake2b(body, digest_size=12).hexdigest().encode(), body

    async def asset(self, call: Call) -> Answer:
        """Their scripts and styles."""
        name = call.params["id"]
        if name in ELEMENTS:
            return Answer(_element(name), headers=ELEMENTS_HEADERS, content_type=ELEMENTS[name])
        if name not in ASSETS:
            raise NotFound("There is no such asset")
        return _asset(name)

    async def picture(self, call: Call) -> Answer:
        """A sneaker nobody makes. The id is the drawing's number, a name, and .svg."""
        named = NAMED.fullmatch(call.params["id"])
        if named is None or int(named[1]) >= len(COLOURWAYS):
            raise NotFound("There is no such picture")
        return Answer(
            _picture(int(named[1]), named[2]),
            headers=PICTURE_HEADERS,
            content_type=b"image/svg+xml",
        )


def _asset(name: str) -> Answer:
    return Answer(_read(name), headers=HEADERS, content_type=ASSETS[name])


@cache
def _read(name: str) -> bytes:
    return (Path(__file__).parent / "assets" / name).read_bytes()


@cache
def _script() -> bytes:
    """docs/check_proof.py of the checkout, or the copy inside the wheel."""
    checkout = Path(__file__).parents[2] / "docs" / "check_proof.py"
    copy = Path(__file__).parents[1] / "_docs" / "check_proof.py"
    return (checkout if checkout.is_file() else copy).read_bytes()


@cache
def _element(name: str) -> bytes:
    return resources.files("stopments").joinpath("static", name).read_bytes()


@lru_cache(64)
def _picture(seed: int, name: str) -> bytes:
    return draw(seed, name.replace("-", " ").title()).encode()
