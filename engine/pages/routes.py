"""Pages and pictures: what a person sees. Everything comes from this origin."""

from __future__ import annotations

import re
from functools import lru_cache

from engine.infra.errors import NotFound
from engine.infra.http import Answer, Call
from engine.infra.routing import Route
from engine.pages.pictures import COLOURWAYS, draw

NAMED = re.compile(r"(\d{1,2})-([a-z0-9-]{1,60})\.svg")
PICTURE_HEADERS = [
    (b"cache-control", b"public, max-age=86400"),
    (b"content-security-policy", b"default-src 'none'; style-src 'unsafe-inline'"),
    (b"x-content-type-options", b"nosniff"),
]


class Pages:
    """Drawn pictures of the demo drops."""

    def routes(self) -> list[Route]:
        """/pictures/{id}, where id is the drawing's number, a name, and .svg."""
        return [Route("picture", "GET", "/pictures/{id}", self.picture)]

    async def picture(self, call: Call) -> Answer:
        """A sneaker nobody makes."""
        named = NAMED.fullmatch(call.params["id"])
        if named is None or int(named[1]) >= len(COLOURWAYS):
            raise NotFound("There is no such picture")
        return Answer(
            _picture(int(named[1]), named[2]),
            headers=PICTURE_HEADERS,
            content_type=b"image/svg+xml",
        )


@lru_cache(64)
def _picture(seed: int, name: str) -> bytes:
    return draw(seed, name.replace("-", " ").title()).encode()
