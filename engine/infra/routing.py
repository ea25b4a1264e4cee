"""One table of routes, several mounts.

The hot operations are found by a dictionary look-up; everything else goes through Starlette's
router. Both end in the same handlers, so which way a request takes changes nothing but its cost.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable

import msgspec
from starlette.routing import Route as StarletteRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from engine.infra.describe import About, Counted
from engine.infra.errors import MethodNotAllowed, NotFound
from engine.infra.http import Answer, Call, Handler, serve


class Route(msgspec.Struct, frozen=True):
    """An operation: its name (for limits, metrics and logs), method, path and handler, and what the
    API's document says of it. `text` is the handler's docstring, whatever is wrapped round it."""

    operation: str
    method: str
    path: str  # {id}, or any name, stands for one segment, {id:path} for one that may hold slashes
    handler: Handler
    about: About | None = None  # None: a page, not of the API
    hot: bool = False
    root: bool = False  # stands at the root alone, under no mount of the API
    operators: bool = False  # for operators, though not of the API
    text: str = ""

    def __post_init__(self) -> None:
        if not self.text:
            msgspec.structs.force_setattr(self, "text", inspect.getdoc(self.handler) or "")

    @property
    def budget(self) -> Counted:
        """As what its requests are limited: as it says, else by its method."""
        said = self.about.counted if self.about is not None else "free" if self.root else None
        return said or ("read" if self.method == "GET" else "write")

    @property
    def is_for_operators(self) -> bool:
        """Whether nobody but operators has to do with it. What wants the scope `identity` users do
        to their own accounts, and shops to theirs."""
        about = self.about
        return self.operators or (
            about is not None and about.who != "identity" and "admin" in (about.who, about.counted)
        )


async def not_found(call: Call) -> Answer:
    """Any path that is no route."""
    raise NotFound(f"There is no {call.scope['path']} here")


class _Methods:
    """The handlers of one path, by method; 405 with `Allow` for any other."""

    def __init__(self, routes: dict[str, Route]) -> None:
        self._routes = routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        route = self._routes.get(scope["method"])
        if route is None and scope["method"] == "HEAD":
            route = self._routes.get("GET")
        if route is None:
            await serve(self._refuse, "method_not_allowed", scope, receive, send)
        else:
            await serve(route.handler, route.operation, scope, receive, send)

    async def _refuse(self, call: Call) -> Answer:
        allow = ", ".join(sorted(self._routes))
        raise MethodNotAllowed(
            f"{call.scope['method']} is not possible here; possible: {allow}", allow=allow
        )


def starlette_routes(routes: Iterable[Route], mounts: Iterable[str]) -> list[StarletteRoute]:
    """Starlette's routes for each mount; a literal segment comes before a name's."""
    paths: dict[str, dict[str, Route]] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method] = route
    ordered = sorted(paths, key=lambda path: [part[:1] == "{" for part in path.split("/")])
    return [
        StarletteRoute(mount + path, _Methods(paths[path]), methods=None)
        for mount in mounts
        for path in ordered
    ]


class Lanes:
    """The app in front of the router: the hot lane, and no difference for a trailing slash."""

    def __init__(self, app: ASGIApp, routes: Iterable[Route], mounts: Iterable[str]) -> None:
        self._app = app
        hot = [route for route in routes if route.hot]
        self._literal = {
            (r.method, mount + r.path): r for r in hot if "{" not in r.path for mount in mounts
        }
        # By what stands before and after the {id} of a path; a hot one has no other name in it.
        self._shaped = {
            (r.method, *(mount + r.path).split("{id}")): r
            for r in hot
            if "{" in r.path
            for mount in mounts
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection's event."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        route = self.hot(scope)
        if route is not None:
            await serve(route.handler, route.operation, scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def hot(self, scope: Scope) -> Route | None:
        """The hot route of a request, if it has one."""
        path = scope["path"]
        if len(path) > 1 and path[-1] == "/":
            path = scope["path"] = path.rstrip("/") or "/"
        return self._literal.get((scope["method"], path)) or self._by_shape(scope, path)

    def _by_shape(self, scope: Scope, path: str) -> Route | None:
        head, _, last = path.rpartition("/")
        route = self._shaped.get((scope["method"], head + "/", ""))
        if route is not None:
            scope["path_params"] = {"id": last}
            return route
        head, _, middle = head.rpartition("/")
        route = self._shaped.get((scope["method"], head + "/", "/" + last))
        if route is not None:
            scope["path_params"] = {"id": middle}
        return route
