"""The gate: from where may somebody call at all? Asked before limits, and before any credential.

ADMIN_NETWORKS   operators' routes answer 403 to addresses outside of them; and what an operator's
                 credential could do on other routes it cannot do from there: it counts as a buyer's
                 token, or as a key without that scope
HTTPS_ONLY       whatever did not come over TLS is refused (pages are led to https)

The address is the client's own, read past the proxies that we trust; what a proxy says and nobody
can read is no address. This machine is like any other for ADMIN_NETWORKS: behind a proxy that
nobody told us of, the whole world would seem to call from here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Coroutine
from typing import Any
from urllib.parse import urlsplit

import msgspec
from starlette.types import ASGIApp, Receive, Scope, Send

from engine.infra.addresses import Addresses, networks
from engine.infra.errors import Forbidden, Problem
from engine.infra.http import Answer, Call, serve
from engine.infra.routing import Route
from engine.infra.settings import Settings

FORWARDED = frozenset(
    (b"forwarded", b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host", b"via")
)
HEALTH = ("/health", "/health/live", "/health/ready")
MOVED = 308
_PROTO = re.compile(rb'proto\s*=\s*"?([a-z]+)"?', re.IGNORECASE)
_HOST = re.compile(rb"([A-Za-z0-9.-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(:\d{1,5})?")


class Gate:
    """Knows the networks of operators."""

    def __init__(self, settings: Settings) -> None:
        self._addresses = Addresses(settings.trusted_proxies)
        self._networks = networks(settings.admin_networks, "ADMIN_NETWORKS")

    def guard(self, route: Route) -> Route:
        """The route; an operator's only for their networks."""
        if not self._networks or not route.is_for_operators:
            return route
        handler = route.handler

        def guarded(call: Call) -> Coroutine[Any, Any, Answer]:
            if not self.is_inside(call):
                raise Forbidden("Operators call from ADMIN_NETWORKS, and this address is outside")
            return handler(call)

        return msgspec.structs.replace(route, handler=guarded)

    def is_inside(self, call: Call) -> bool:
        """Whether an operator may call from there."""
        if not self._networks:
            return True
        address = self._addresses.certain(call.scope, call.headers)
        return address is not None and any(address in network for network in self._networks)


class Https:
    """Knows what came over TLS: our proxies say it."""

    def __init__(self, settings: Settings) -> None:
        self._is_on = settings.https_only
        self._addresses = Addresses(settings.trusted_proxies)

    def objection(self, scope: Scope) -> Problem | None:
        """Why a request, or a connection to listen, is refused; None: it is not."""
        if not self._is_on:
            return None
        headers = {name for name, _ in scope["headers"]}
        if not FORWARDED & headers and self._addresses.is_loopback(scope):
            return None  # this machine itself, past no proxy
        if not self._addresses.vouched(scope):
            return Forbidden(
                "HTTPS only: call the proxy that ends TLS, which TRUSTED_PROXIES names"
            )
        said = [value for name, value in scope["headers"] if name == b"x-forwarded-proto"]
        words = [word.strip().lower() for line in said for word in line.split(b",")]
        lines = [value for name, value in scope["headers"] if name == b"forwarded"]
        words += [word.lower() for line in lines for word in _PROTO.findall(line)]
        if words and all(word == b"https" for word in words):
            return None
        why = "it came by http" if words else "the proxy must send X-Forwarded-Proto"
        return Forbidden(f"HTTPS only: {why}")


class HttpsOnly:
    """The app, for what came over TLS. Its `pages` are led there; /health answers everybody."""

    def __init__(
        self,
        app: ASGIApp,
        settings: Settings,
        pages: Collection[str],
        mounts: Collection[str],
    ) -> None:
        self._app, self._https, self._pages = app, Https(settings), frozenset(pages)
        self._free = {mount + path for mount in (*mounts, "") for path in HEALTH}
        self._public = settings.public_url if settings.public_url.startswith("https://") else ""
        self._hot: Callable[[Scope], Route | None] | None = getattr(app, "hot", None)

    def hot(self, scope: Scope) -> Route | None:
        """The hot route of a request, if it has one and may be answered."""
        if self._hot is None or self._https.objection(scope) is not None:
            return None
        return self._hot(scope)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection's event."""
        problem = None
        if scope["type"] == "http" and scope["path"].rstrip("/") not in self._free:
            problem = self._https.objection(scope)
        if problem is None:
            await self._app(scope, receive, send)
            return
        refusal = problem

        async def refuse(call: Call) -> Answer:
            where = self._where(scope, call.headers.get(b"host", b""))
            if where is None:
                raise refusal
            return Answer(status=MOVED, headers=[(b"location", where)])

        await serve(refuse, "plain_http", scope, receive, send)

    def _where(self, scope: Scope, host: bytes) -> bytes | None:
        """Where a page stands, over TLS; None: it is no page, or nobody knows."""
        if scope["method"] not in ("GET", "HEAD") or scope["path"] not in self._pages:
            return None
        named = _HOST.fullmatch(host)
        place = urlsplit(self._public).netloc.encode() if self._public else named and named[1]
        if not place:
            return None
        query = scope["query_string"]
        target: bytes = scope["raw_path"] + (b"?" + query if query else b"")
        return b"https://" + place + target
