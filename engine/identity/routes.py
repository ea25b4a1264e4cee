"""All routes of identity: each feature's, one line each."""

from __future__ import annotations

from engine.identity.beta_routes import BetaRoutes
from engine.identity.key_routes import KeyRoutes
from engine.identity.lock_routes import LockRoutes
from engine.identity.log_routes import LogRoutes
from engine.identity.login_routes import LoginRoutes
from engine.identity.parts import Parts
from engine.identity.preference_routes import PreferenceRoutes
from engine.identity.session_routes import SessionRoutes
from engine.identity.user_routes import UserRoutes
from engine.infra.routing import Route


class IdentityRoutes:
    """Gathers what the features of accounts answer to."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._login = LoginRoutes(parts)
        self._users = UserRoutes(parts, self._login.desk)

    def routes(self) -> list[Route]:
        """The tables of all features, one after the other."""
        return [
            *SessionRoutes(self._parts).routes(),
            *self._users.routes(),
            *self._login.routes(),
            *BetaRoutes(self._parts).routes(),
            *PreferenceRoutes(self._parts).routes(),
            *KeyRoutes(self._parts).routes(),
            *LockRoutes(self._parts).routes(),
            *LogRoutes(self._parts).routes(),
        ]

    def close(self) -> None:
        """Let go of what outlives a request."""
        self._login.passwords.close()
