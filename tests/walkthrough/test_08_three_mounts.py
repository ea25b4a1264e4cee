"""One table of routes under /api/v1, /api and /; a trailing slash is the same route."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest
from starlette.types import ASGIApp, Receive, Scope, Send

from engine import app, runtime
from engine.infra.settings import Settings
from tests.support.shop import Shop
from tests.walkthrough.conftest import Buyer, Operator, introduce


def _under(there: ASGIApp, mount: str, slash: str) -> ASGIApp:
    """The app as who calls it under another mount, perhaps with a slash at the end."""

    async def moved(scope: Scope, receive: Receive, send: Send) -> None:
        path = mount + scope["path"].removeprefix("/api/v1") + slash
        await there({**scope, "path": path, "raw_path": path.encode()}, receive, send)

    return moved


@pytest.mark.parametrize("slash", ["", "/"], ids=["plain", "slash"])
@pytest.mark.parametrize("mount", ["/api/v1", "/api", ""], ids=["api-v1", "api", "root"])
async def test_the_same_story_under_every_mount(
    operator: Operator, shop: Shop, settings: Settings, mount: str, slash: str
) -> None:
    drop = await operator.opens(units=5, maxPerBuyer=3)
    ann = introduce(Shop(_under(shop._asgi, mount, slash)), settings, "ann")

    hold = await ann.reserves(drop)
    short = await ann.asks("POST", f"/reserve/{drop}")
    bought = await ann.buys(hold)
    other = await ann.asks("POST", f"/purchase/{short.json['id']}")
    unwanted = await ann.reserves(drop)

    assert [each.status for each in (hold, short, bought, other, unwanted)] == [201] * 5
    assert (await ann.looks_at(f"/reservations/{unwanted.json['id']}"))["status"] == "active"
    assert len((await ann.looks_at("/reservations"))["data"]) == 1
    assert (await ann.gives_back(unwanted)).status == 204
    assert len((await ann.looks_at("/purchases/mine"))["data"]) == 2
    assert (await ann.looks_at(f"/purchases/{bought.json['id']}"))["id"] == bought.json["id"]
    assert (await ann.looks_at(f"/drops/{drop}/stock"))["soldStock"] == 2
    assert (await ann.looks_at("/health"))["database"] == "ok"
    assert await operator.counts(drop) == (3, 0, 2)


async def test_compat_mounts_can_be_turned_off(
    operator: Operator, buyer: Callable[[str], Buyer], shop: Shop, settings: Settings
) -> None:
    drop = await operator.opens(units=5)

    async with runtime.worker(settings) as house:
        strict = app.build(house.routes, msgspec.structs.replace(settings, compat_mounts=False))
        replies = {
            mount: await Shop(_under(strict, mount, "")).send("GET", f"/drops/{drop}/stock")
            for mount in ("/api/v1", "/api", "")
        }

    assert {mount: reply.status for mount, reply in replies.items()} == {
        "/api/v1": 200,
        "/api": 404,
        "": 404,
    }
    assert replies[""].error == "NOT_FOUND"
