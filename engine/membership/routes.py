"""The routes of membership, in one hand."""

from __future__ import annotations

from engine.identity.parts import Parts
from engine.infra.routing import Route
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
        self._features: list[MintRoutes | MemberRoutes | PassRoutes | WalletRoutes] = [
            MintRoutes(parts, bouncer),
            MemberRoutes(parts, bouncer),
            PassRoutes(parts, passes),
            WalletRoutes(parts, passes),
        ]

    def routes(self) -> list[Route]:
        """The table."""
        return [route for feature in self._features for route in feature.routes()]
