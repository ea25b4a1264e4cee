"""Pages and pictures: what a person sees. Everything comes from this origin."""

from __future__ import annotations

import re
from functools import cache, lru_cache
from pathlib import Path

from engine.infra.errors import NotFound
from engine.infra.http import Answer, Call
from engine.infra.routing import Route
from engine.pages.pictures import COLOURWAYS, draw

NAMED = re.compile(r"(\d{1,2})-([a-z0-9-]{1,60})\.svg")
ASSETS = {
    "index.html": b"text/html; charset=utf-8",
    "shop.css": b"text/css; charset=utf-8",
    "shop.js": b"text/javascript; charset=utf-8",
}
HEADERS = [
    (b"content-security-policy", b"default-src 'self'; base-uri 'none'; frame-ancestors 'none'"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cache-control", b"no-cache"),
]
PICTURE_HEADERS = [
    (b"cache-control", b"public, max-age=86400"),
    (b"content-security-policy", b"default-src 'none'; style-src 'unsafe-inline'"),
    (b"cross-origin-resource-policy", b"cross-origin"),  # shops may show them
]


class Pages:
    """The demo shop and its drawn pictures. Pages stand at the root, beside the API's mounts."""

    def routes(self) -> list[Route]:
        """/, /assets/{id} and /pictures/{id}."""
        return [
            Route("page", "GET", "/", self.index),
            Route("asset", "GET", "/assets/{id}", self.asset),
            Route("picture", "GET", "/pictures/{id}", self.picture),
        ]

    async def index(self, call: Call) -> Answer:
        """The shop."""
        return _asset("index.html")

    async def asset(self, call: Call) -> Answer:
        """Its script and its style."""
        if call.params["id"] not in ASSETS:
            raise NotFound("There is no such asset")
        return _asset(call.params["id"])

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


@lru_cache(64)
def _picture(seed: int, name: str) -> bytes:
    return draw(seed, name.replace("-", " ").title()).encode()
