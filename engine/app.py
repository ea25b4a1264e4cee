"""The surface: one table of API routes mounted three times, and the pages at the root."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.applications import Starlette
from starlette.types import ASGIApp, Receive, Scope, Send

from engine.infra.http import serve
from engine.infra.routing import Lanes, Route, not_found, starlette_routes
from engine.pages.routes import Pages

CANONICAL = "/api/v1"
COMPATIBLE = ("/api", "")


class _NotFound:
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await serve(not_found, "not_found", scope, receive, send)


def build(routes: Sequence[Route], compat_mounts: bool = True) -> ASGIApp:
    """The ASGI app of one worker."""
    mounts = (CANONICAL, *COMPATIBLE) if compat_mounts else (CANONICAL,)
    at_root = [*Pages().routes(), *(route for route in routes if route.root)]
    routes = [route for route in routes if not route.root]
    pages = starlette_routes(at_root, [""])
    app = Starlette(routes=[*pages, *starlette_routes(routes, mounts)])
    app.router.redirect_slashes = False
    app.router.default = _NotFound()
    return Lanes(app, routes, mounts)
