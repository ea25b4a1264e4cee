"""The people of the stories. Every story runs twice: with AUTH=open, where a buyer says her own
name, and with AUTH=required, where a token says it. `Person` hides which.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any
from urllib.parse import urlencode

import pytest

from engine import runtime
from engine.identity import tokens
from engine.infra.settings import Settings
from tests.support.http import Reply
from tests.support.provider import SECRET
from tests.support.shop import Shop

JWT_SECRET = "a secret of the walkthrough, for tokens"
HMAC_SECRET = "another of the walkthrough, for names"
HOUR_SECONDS = 3_600


class Person:
    """Somebody in front of the shop, with a name and perhaps a credential."""

    def __init__(
        self, shop: Shop, name: str, headers: dict[str, str], says: dict[str, str]
    ) -> None:
        self.name = name
        self._shop, self._headers, self._says = shop, headers, says

    async def asks(
        self,
        method: str,
        path: str,
        body: dict[str, Any] | None = None,
        key: str | None = None,
        **query: Any,
    ) -> Reply:
        """One request, saying who asks in the way this mode wants it."""
        headers = self._headers | ({"idempotency-key": key} if key else {})
        if method == "POST":
            body = (body or {}) | self._says
        else:
            query |= self._says
        return await self._shop.send(
            method, f"{path}?{urlencode(query)}" if query else path, body, headers
        )


class Buyer(Person):
    """Wants a pair."""

    async def reserves(self, drop: int, quantity: int = 1, key: str | None = None) -> Reply:
        """Ask for units."""
        return await self.asks("POST", "/reservations", {"dropId": drop, "quantity": quantity}, key)

    async def reserves_seats(self, drop: int, *names: str) -> Reply:
        """Ask for these very units."""
        return await self.asks("POST", "/reservations", {"dropId": drop, "units": [*names]})

    async def buys(self, hold: Reply, key: str | None = None, **more: Any) -> Reply:
        """Turn a hold into a purchase."""
        body = {"reservationId": hold.json["id"], **more}
        return await self.asks("POST", "/purchases", body, key)

    async def gives_back(self, hold: Reply, key: str | None = None) -> Reply:
        """Release a hold."""
        return await self.asks("DELETE", f"/reservations/{hold.json['id']}", key=key)

    async def looks_at(self, path: str, **query: Any) -> Any:
        """What is there; it must be."""
        reply = await self.asks("GET", path, **query)
        assert reply.status == 200, reply.body
        return reply.json


class Operator(Person):
    """Opens drops and watches over them."""

    async def opens(self, units: int, **terms: Any) -> int:
        """A new drop; its id."""
        body = {"name": "Aurora", "price": "120.00", "totalStock": units, **terms}
        reply = await self.asks("POST", "/drops", body)
        assert reply.status == 201, reply.body
        return int(reply.json["id"])

    async def opens_seats(self, names: list[str]) -> int:
        """A new drop whose units buyers pick; its id."""
        terms = {"price": "120.00", "pick": "named", "maxPerBuyer": 4, "totalStock": len(names)}
        reply = await self.asks("POST", "/drops", {"name": "Aurora", "units": names} | terms)
        assert reply.status == 201, reply.body
        return int(reply.json["id"])

    async def does(self, verb: str, drop: int) -> Any:
        """Pause, resume or close; the drop afterwards."""
        reply = await self.asks("POST", f"/drops/{drop}/{verb}")
        assert reply.status == 200, reply.body
        return reply.json

    async def changes(self, drop: int, **terms: Any) -> Any:
        """Change a drop in mid-sale; the drop afterwards."""
        reply = await self.asks("PATCH", f"/drops/{drop}", terms)
        assert reply.status == 200, reply.body
        return reply.json

    async def status_of(self, drop: int) -> str:
        """What the drop's page says."""
        return str((await self.asks("GET", f"/drops/{drop}")).json["status"])

    async def counts(self, drop: int) -> tuple[int, int, int]:
        """Free, held and sold; it is asserted that everything adds up."""
        audit = await self._shop.audit(drop)
        assert audit["clean"], audit["problems"]
        assert await self._shop.settled(drop), audit
        return audit["free"], audit["held"], audit["sold"]


@pytest.fixture(params=["open", "required"])
def settings(request: pytest.FixtureRequest, database: str, redis_url: str) -> Settings:
    """Both modes, one after the other."""
    return Settings(
        database_url=database,
        redis_url=redis_url,
        auth=request.param,
        jwt_secret=JWT_SECRET,
        hmac_secret=HMAC_SECRET,
        payment_secret=SECRET,
        log_level="warning",
    )


@pytest.fixture
def buyer(shop: Shop, settings: Settings) -> Callable[[str], Buyer]:
    """`buyer("ann")` is Ann."""
    return lambda name: introduce(shop, settings, name)


def introduce(shop: Shop, settings: Settings, name: str) -> Buyer:
    """A buyer as the mode wants her: named, or with a token."""
    if settings.auth == "open":
        return Buyer(shop, name, {}, {"userId": name})
    token = tokens.create(JWT_SECRET, name, HOUR_SECONDS)
    return Buyer(shop, name, {"authorization": f"Bearer {token}"}, {})


@pytest.fixture
def operator(shop: Shop, settings: Settings) -> Operator:
    """Who runs the sale: anybody in the open mode, an admin otherwise."""
    if settings.auth == "open":
        return Operator(shop, "operator", {}, {})
    token = tokens.create(JWT_SECRET, "operator", HOUR_SECONDS, "admin")
    return Operator(shop, "operator", {"authorization": f"Bearer {token}"}, {})


@pytest.fixture
def keepers_at_work(settings: Settings) -> Callable[[], AbstractAsyncContextManager[None]]:
    """`async with keepers_at_work():` for stories that begin without them."""

    @asynccontextmanager
    async def at_work() -> AsyncIterator[None]:
        stop, ready = asyncio.Event(), asyncio.Event()
        task = asyncio.create_task(runtime.keep(settings, stop, ready))
        await ready.wait()
        yield
        stop.set()
        await task

    return at_work
