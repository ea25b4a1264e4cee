"""HTTP in, verb, HTTP out: API keys. Every handler is a translation, no more.

To make a key, also in place of another, is never replayed: its answer holds a secret, and none is
kept. Whose answer was lost revokes what the list shows, and makes another.
"""

from __future__ import annotations

from engine.identity import apikeys, arguments, deeds, key_described, store
from engine.identity.access import require_admin
from engine.identity.apikeys import Issued
from engine.identity.parts import Parts
from engine.infra.errors import NotFound
from engine.infra.http import Answer, Call, invalid
from engine.infra.lists import listing, page_of
from engine.infra.postgres import Session
from engine.infra.routing import Route
from engine.record import idempotency


class KeyRoutes:
    """The handlers, and what they need."""

    def __init__(self, parts: Parts) -> None:
        self._postgres, self._door, self._turns = parts.postgres, parts.door, parts.turns

    def routes(self) -> list[Route]:
        """The table: operation, method, path, handler."""
        table = [
            Route("list_api_keys", "GET", "/api-keys", self.list, key_described.LIST_KEYS),
            Route("create_api_key", "POST", "/api-keys", self.create, key_described.CREATE_KEY),
            Route(
                "rotate_api_key",
                "POST",
                "/api-keys/{id}/rotate",
                self.rotate,
                key_described.ROTATE_KEY,
            ),
            Route(
                "revoke_api_key", "DELETE", "/api-keys/{id}", self.revoke, key_described.REVOKE_KEY
            ),
        ]
        return [self._turns.calm(deeds.told(self._door, route)) for route in table]

    async def list(self, call: Call) -> Answer:
        """Every API key there ever was, newest first, without its secret."""
        require_admin(await self._door.caller(call))
        page = page_of(call)
        before = arguments.before(page)
        found = await store.list_api_keys(self._postgres, before, page.limit + 1, page.skip)
        items = await store.count_api_keys(self._postgres) if page.page else None
        rows = [key_described.api_key_view(key) for key in found[: page.limit]]
        more = rows[-1].id if len(found) > page.limit else None
        return Answer(listing(rows, page, more, items))

    async def create(self, call: Call) -> Answer:
        """Make an API key.

        Shown once. Who sends a key makes none that may do more, lives longer, or signs less."""
        caller = await self._door.caller(call)
        require_admin(caller)
        name, scopes, days, must_sign = key_described.key_body(call).terms
        async with self._postgres.transaction() as session:
            by = await apikeys.giver(session, caller)
            self._check_signing(must_sign or by.must_sign)
            made = await apikeys.issue(session, name, scopes, days, must_sign, by)
        return Answer(key_described.issued_view(made, self._secret(made)), 201)

    async def rotate(self, call: Call) -> Answer:
        """A new key in place of a live one.

        Same name, scopes, end and signing; the old one ends after the grace."""
        caller = await self._door.caller(call)
        require_admin(caller)
        id = arguments.id_in_path(call, "API key")
        grace, days = key_described.rotate_body(call).terms
        async with self._postgres.transaction() as session:
            old = await _find(session, id)
            by = await apikeys.giver(session, caller)
            self._check_signing(old.must_sign or by.must_sign)
            made, ends_at = await apikeys.exchange(session, old, grace, days, by)
        return Answer(key_described.issued_view(made, self._secret(made), ends_at), 201)

    async def revoke(self, call: Call) -> Answer:
        """End an API key now.

        Every worker refuses it within a second. Twice is once."""
        caller = await self._door.caller(call)
        require_admin(caller)
        id = arguments.id_in_path(call, "API key")
        request = arguments.request(call, caller, arguments.OPERATOR, "revoke_api_key")

        async def effect(session: Session) -> Answer:
            await _find(session, id)
            await store.revoke_api_key(session, id, 0)
            return Answer(key_described.api_key_view(await _find(session, id)))

        return await idempotency.once(self._postgres, request, f"revoke_api_key {id}", effect)

    def _check_signing(self, must_sign: bool) -> None:
        if must_sign and self._door.signing.secret_of("") is None:
            raise invalid("mustSign", "this service can check no signature: HMAC_SECRET is not set")

    def _secret(self, made: Issued) -> str | None:
        return self._door.signing.secret_of(made.id) if made.must_sign else None


async def _find(session: Session, id: str) -> store.ListedKey:
    found = await store.find_api_keys_named(session, id)
    if not found:
        raise NotFound("API key not found")
    return found[0]
