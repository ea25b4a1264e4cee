"""HTTP in, verb, HTTP out: a member's pass, and the keys by which doors check it."""

from __future__ import annotations

from functools import cached_property

from engine.identity import arguments
from engine.identity.access import buyer_named, require
from engine.identity.parts import Parts
from engine.infra.errors import NotFound, Retryable
from engine.infra.http import Answer, Call, invalid
from engine.infra.ids import parse_id
from engine.infra.routing import Route
from engine.membership import pass_bodies as bodies
from engine.membership import pass_described as described
from engine.membership import store
from engine.membership.barcode import Barcodes
from engine.membership.errors import NotTheirs
from engine.membership.models import Membership
from engine.membership.passes import MEDIA_TYPE, Passes
from engine.membership.printed import printed


class PassRoutes:
    """The handlers, and what they need."""

    def __init__(self, parts: Parts, passes: Passes) -> None:
        self._door, self._turns, self._crew = parts.door, parts.turns, parts.crew
        self._postgres, self._settings, self._passes = parts.postgres, parts.settings, passes

    def routes(self) -> list[Route]:
        """The table: operation, method, path, handler. Who waits for a signature has no turn."""
        return [
            printed(Route("issue_pass", "POST", "/issue-pass", self.issue, described.ISSUE)),
            Route("pass_keys", "GET", "/wallet/keys", self.keys, described.KEYS),
        ]

    async def issue(self, call: Call) -> Answer:
        """A membership's pass, for Apple's Wallet.

        A signed `.pkpass`. Its barcode can be checked offline, see `/wallet/keys`. Asking changes
        nothing: ask as often as you like."""
        deadline_seconds = self._settings.request_deadline_ms / 1000
        return await self._crew.within(self._issued(call), deadline_seconds, Retryable)

    async def _issued(self, call: Call) -> Answer:
        caller = await self._door.caller(call)
        require(caller, "membership")
        body = bodies.issue_body(call)
        id, buyer = parse_id(body.membership), buyer_named(caller, body.buyer)
        if buyer is None:
            raise invalid("userId", "required: whose pass is it?")
        arguments.charge(call, caller, buyer)
        found = await self._membership(id)
        if found.buyer != buyer:
            raise NotTheirs("Membership does not belong to this user")
        if found.revoked_at is not None:
            raise NotTheirs("Membership has been revoked")
        made = await self._passes.of(found)
        return Answer(made.data, headers=[made.disposition], content_type=MEDIA_TYPE)

    async def _membership(self, id: str | None) -> Membership:
        found = None
        if id is not None:
            async with self._turns.turn():
                found = await store.find_membership(self._postgres, id)
        if found is None:
            raise NotFound("Membership not found")
        return found

    async def keys(self, call: Call) -> Answer:
        """The public keys that barcodes of passes are signed with, the one in force first.

        A door that has them checks a pass without a network: docs/PASSES.md."""
        return Answer(self._barcodes.public())

    @cached_property
    def _barcodes(self) -> Barcodes:
        return Barcodes(self._settings)
