"""A worker in the test's own process, spoken to through ASGI, with words a story can use."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import unquote, urlsplit

from msgspec import UNSET, UnsetType
from starlette.types import ASGIApp, Message

from engine import app, runtime
from engine.infra.settings import Settings
from tests.support.http import Reply


class Shop:
    """Verbs of a shop over any way of sending requests."""

    client = ("127.0.0.1", 1)  # who is connected, where that matters

    def __init__(self, asgi: ASGIApp) -> None:
        self._asgi = asgi

    @classmethod
    @asynccontextmanager
    async def open(cls, settings: Settings) -> AsyncIterator[Shop]:
        """Start a worker; drain it at the end."""
        async with runtime.worker(settings) as house:
            yield cls(app.build(house.routes, settings))

    async def send(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> Reply:
        """One request to the API, through the app itself."""
        return await self.visit(method, "/api/v1" + path, body, headers)

    async def visit(
        self,
        method: str,
        path: str,
        body: Any = None,
        headers: dict[str, str] | None = None,
        client: str | None | UnsetType = UNSET,
    ) -> Reply:
        """The same of any path, such as a page's, and from any address."""
        raw = (
            b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        )
        parts = urlsplit(path)
        given = {"host": "127.0.0.1", "content-length": str(len(raw)), **(headers or {})}
        scope = {
            "type": "http",
            "method": method,
            "path": unquote(parts.path),
            "raw_path": parts.path.encode(),
            "query_string": parts.query.encode(),
            "root_path": "",
            "client": self.client if client is UNSET else client and (client, 50_000),
            "headers": [(name.lower().encode(), value.encode()) for name, value in given.items()],
        }
        sent: list[Message] = []
        coming: list[Message] = [{"type": "http.request", "body": raw, "more_body": False}]

        async def receive() -> Message:
            if not coming:
                await asyncio.Event().wait()  # we stay until we have our answer
            return coming.pop()

        async def send(message: Message) -> None:
            sent.append(message)

        await self._asgi(scope, receive, send)
        headers_out = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
        body_out = b"".join(message["body"] for message in sent[1:])
        return Reply(sent[0]["status"], headers_out, body_out)

    async def open_drop(self, units: int, **terms: Any) -> int:
        """A drop that is on sale now; its id."""
        body = {"name": "Aurora", "price": "120.00", "totalStock": units, **terms}
        reply = await self.send("POST", "/drops", body)
        assert reply.status == 201, reply.body
        return int(reply.json["id"])

    async def reserve(
        self, drop_id: int, buyer: str, key: str | None = None, quantity: int = 1
    ) -> Reply:
        """Ask for units."""
        headers = {"idempotency-key": key} if key else None
        body = {"dropId": drop_id, "userId": buyer, "quantity": quantity}
        return await self.send("POST", "/reservations", body, headers)

    async def confirm(
        self, reservation: str, buyer: str, key: str | None = None, **more: Any
    ) -> Reply:
        """Buy a hold."""
        headers = {"idempotency-key": key} if key else None
        body = {"reservationId": reservation, "userId": buyer, **more}
        return await self.send("POST", "/purchases", body, headers)

    async def release(self, reservation: str, buyer: str, key: str | None = None) -> Reply:
        """Give a hold back."""
        headers = {"idempotency-key": key} if key else None
        return await self.send(
            "DELETE", f"/reservations/{reservation}?userId={buyer}", None, headers
        )

    async def change(self, drop_id: int, key: str | None = None, **terms: Any) -> Reply:
        """Change a drop."""
        headers = {"idempotency-key": key} if key else None
        return await self.send("PATCH", f"/drops/{drop_id}", terms, headers)

    async def show(self, drop_id: int) -> dict[str, Any]:
        """A drop's page."""
        drop: dict[str, Any] = (await self.send("GET", f"/drops/{drop_id}")).json
        return drop

    async def stock(self, drop_id: int) -> dict[str, int]:
        """The cheap poll."""
        stock: dict[str, int] = (await self.send("GET", f"/drops/{drop_id}/stock")).json
        return stock

    async def audit(self, drop_id: int) -> dict[str, Any]:
        """Does it add up?"""
        audit: dict[str, Any] = (await self.send("GET", f"/drops/{drop_id}/audit")).json
        return audit

    async def settled(self, drop_id: int) -> bool:
        """Whether every invariant holds and the bouncer agrees, with nothing under way."""
        audit = await self.audit(drop_id)
        bouncer = audit["bouncer"] or {}
        return bool(
            audit["clean"]
            and bouncer
            and audit["drift"] == bouncer["miscounted"] == bouncer["openIntents"] == 0
            and (bouncer["version"], bouncer["available"]) == (audit["version"], audit["free"])
        )
