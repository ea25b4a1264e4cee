"""The surface: one table of API routes mounted three times, and the pages at the root."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from starlette.applications import Starlette
from starlette.routing import Route as Plain
from starlette.types import ASGIApp, Receive, Scope, Send

from engine.infra.cors import Cors
from engine.infra.gate import HttpsOnly
from engine.infra.http import serve
from engine.infra.routing import Lanes, Route, not_found, starlette_routes
from engine.infra.settings import Settings
from engine.pages.openapi import document
from engine.pages.routes import Pages

CANONICAL = "/api/v1"
COMPATIBLE = ("/api", "")


class _NotFound:
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await serve(not_found, "not_found", scope, receive, send)


def build(routes: Sequence[Route], settings: Settings, facade: ASGIApp | None = None) -> ASGIApp:
    """The ASGI app of one worker; `facade` answers the polling of Socket.IO's clients."""
    mounts = (CANONICAL, *COMPATIBLE) if settings.compat_mounts else (CANONICAL,)
    api = [route for route in routes if not route.root]
    write = partial(document, api, CANONICAL, is_open=settings.auth == "open")
    at_root = [*Pages(write).routes(), *(route for route in routes if route.root)]
    pages = starlette_routes(at_root, [""])
    polling = [Plain("/socket.io", facade)] if facade is not None else []
    app = Starlette(routes=[*pages, *polling, *starlette_routes(api, mounts)])
    app.router.redirect_slashes = False
    app.router.default = _NotFound()
    lanes = Lanes(app, api, mounts)
    served = Cors(lanes, settings.origins) if settings.origins else lanes
    if not settings.https_only:
        return served
    return HttpsOnly(served, settings, [page.path for page in at_root if not page.root], mounts)
