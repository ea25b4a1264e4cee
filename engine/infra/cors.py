"""CORS: which pages elsewhere a browser may let call us.

Off unless CORS_ORIGINS names somebody, and then exactly these origins: no patterns, no wildcard.
Credentials travel in headers that a page sets itself, never in cookies, so
`Access-Control-Allow-Credentials` is never sent.
"""

from __future__ import annotations

from collections.abc import Collection

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from engine.infra.http import Answer, Call, serve

ALLOWED = (
    (b"access-control-allow-methods", b"GET, HEAD, POST, PUT, PATCH, DELETE"),
    (
        b"access-control-allow-headers",
        b"Authorization, Content-Type, Idempotency-Key, If-Match, If-None-Match, X-API-Key,"
        b" X-Nonce, X-Request-ID, X-Signature, X-Timestamp",
    ),
    (b"access-control-max-age", b"600"),
)
EXPOSED = (
    b"access-control-expose-headers",
    b"ETag, Idempotency-Key, Idempotent-Replayed, Location, RateLimit, RateLimit-Policy,"
    b" Retry-After, X-Request-ID",
)
VARY = (b"vary", b"Origin")


class Cors:
    """The app, with what a browser wants to hear before it hands an answer to a page."""

    def __init__(self, app: ASGIApp, origins: Collection[bytes]) -> None:
        self._app, self._origins = app, origins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection's event."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = [value for name, value in scope["headers"] if name == b"origin"]
        known = [(b"access-control-allow-origin", origin) for origin in given[:1]]
        if len(given) != 1 or given[0] not in self._origins:
            known = []

        async def tell(message: Message) -> None:
            if message["type"] == "http.response.start":
                # Also to strangers: a cache must not give their answer to a friend.
                extra = [*known, EXPOSED, VARY] if known else [VARY]
                message["headers"] = [*message["headers"], *extra]
            await send(message)

        if known and scope["method"] == "OPTIONS" and _asks_first(scope):
            await serve(_allow, "preflight", scope, receive, tell)
        else:
            await self._app(scope, receive, tell)


def _asks_first(scope: Scope) -> bool:
    return any(name == b"access-control-request-method" for name, _ in scope["headers"])


async def _allow(call: Call) -> Answer:
    return Answer(status=204, headers=list(ALLOWED))
