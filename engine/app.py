"""The surface: every slice's routes under one table, mounted three times."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.applications import Starlette
from starlette.types import ASGIApp, Receive, Scope, Send

from engine.infra.http import serve
from engine.infra.routing import Lanes, Route, not_found, starlette_routes

CANONICAL = "/api/v1"
COMPATIBLE = ("/api", "")


class _NotFound:
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await serve(not_found, scope, receive, send)


def build(routes: Sequence[Route], compat_mounts: bool = True) -> ASGIApp:
    """The ASGI app of one worker."""
    mounts = (CANONICAL, *COMPATIBLE) if compat_mounts else (CANONICAL,)
    app = Starlette(routes=starlette_routes(routes, mounts))
    app.router.redirect_slashes = False
    app.router.default = _NotFound()
    return Lanes(app, routes, mounts)
