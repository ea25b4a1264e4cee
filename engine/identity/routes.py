"""All routes of identity: each feature's, one line each."""

from __future__ import annotations

from engine.identity.log_routes import LogRoutes
from engine.identity.parts import Parts
from engine.infra.routing import Route


class IdentityRoutes:
    """Gathers what the features of accounts answer to."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    def routes(self) -> list[Route]:
        """The tables of all features, one after the other."""
        return [*LogRoutes(self._parts).routes()]
