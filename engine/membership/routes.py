"""The routes of membership, in one hand."""

from __future__ import annotations

from collections.abc import Callable

from engine.identity.parts import Parts
from engine.infra.routing import Route
from engine.membership.device_routes import DeviceRoutes
from engine.membership.encounter_routes import EncounterRoutes
from engine.membership.member_routes import MemberRoutes
from engine.membership.mint_routes import MintRoutes
from engine.membership.pass_routes import PassRoutes
from engine.membership.passes import Passes
from engine.membership.wallet_routes import WalletRoutes
from engine.sale.bouncer import Bouncer


class MembershipRoutes:
    """All of them, made in the order of their table."""

    def __init__(self, parts: Parts, bouncer: Bouncer) -> None:
        passes = Passes(parts.settings, parts.crew)
        self._tables: list[Callable[[], list[Route]]] = [
            MintRoutes(parts, bouncer).routes,
            MemberRoutes(parts, bouncer).routes,
            DeviceRoutes(parts).routes,
            EncounterRoutes(parts).routes,
            PassRoutes(parts, passes).routes,
            WalletRoutes(parts, passes).routes,
        ]

    def routes(self) -> list[Route]:
        """The table."""
        return [route for table in self._tables for route in table()]
