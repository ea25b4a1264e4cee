"""GET /docs: the document as a page, all of it from this origin."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from importlib.metadata import version

from engine.pages import routes as pages
from tests.support.shop import Shop


class Links(HTMLParser):
    """Every address a page names, and every script and style that stands in it."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.inline: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Collect."""
        given = dict(attrs)
        self.addresses += [
            value
            for name, value in attrs
            if value and name.lower() in {"href", "src", "apidescriptionurl", "action"}
        ]
        if (tag == "script" and "src" not in given) or tag == "style":
            self.inline.append(tag)
        self.inline += [name for name in given if name.startswith("on") or name == "style"]


async def test_the_page_and_all_it_names_come_from_this_origin(shop: Shop) -> None:
    page = await shop.visit("GET", "/docs")
    links = Links(page.body.decode())

    assert page.status == 200
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert "/openapi.json" in links.addresses
    assert links.inline == []
    for address in links.addresses:
        assert re.fullmatch(r"/[a-z0-9./-]+", address), address
        reply = await shop.visit("GET", address)
        assert (reply.status, bool(reply.body)) == (200, True), address
        assert reply.headers["content-security-policy"]


async def test_the_policy_lets_nothing_in_from_elsewhere_and_nothing_be_made_up(shop: Shop) -> None:
    page = await shop.visit("GET", "/docs")
    policy = dict(
        rule.strip().split(" ", 1) for rule in page.headers["content-security-policy"].split(";")
    )

    styles = policy.pop("style-src").split()
    assert styles[0] == "'self'"
    assert all(re.fullmatch(r"'sha256-[\w+/]{43}='", each) for each in styles[1:]), styles
    nowhere = dict.fromkeys(("base-uri", "frame-ancestors"), "'none'")
    assert policy == {"default-src": "'self'", "form-action": "'self'"} | nowhere
    assert page.headers["cross-origin-resource-policy"] == "same-origin"
    for name in ("/assets/web-components.min.js", "/assets/styles.min.css", "/assets/docs.css"):
        asset = await shop.visit("GET", name)
        assert asset.headers["content-security-policy"].startswith("default-src 'self'; ")


async def test_the_styles_fetch_nothing_from_elsewhere(shop: Shop) -> None:
    for name in ("/assets/styles.min.css", "/assets/docs.css"):
        style = (await shop.visit("GET", name)).body.decode()
        assert re.findall(r"url\(['\"]?(?!data:|#)[^)]*", style) == []
        assert "@import" not in style


def test_the_styles_that_are_let_in_were_looked_at_in_this_version() -> None:
    # After an update: open /docs in a browser. Hashes that its console names belong in STYLES.
    assert version("stopments") == pages.STYLES_OF


async def test_what_is_no_asset_is_not_there(shop: Shop) -> None:
    for name in ("scalar-api-reference.js", "..%2Froutes.py", "__init__.py", "favicon.ico"):
        assert (await shop.visit("GET", f"/assets/{name}")).status == 404
