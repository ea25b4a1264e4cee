"""HTTP in, verb, HTTP out: encounters."""

from __future__ import annotations

from engine.identity import arguments
from engine.identity.access import buyer_named, require
from engine.identity.parts import Parts
from engine.infra.http import Answer, Call, invalid
from engine.infra.lists import listing, page_of
from engine.infra.postgres import Session
from engine.infra.routing import Route
from engine.membership import device_bodies as bodies
from engine.membership import device_views as views
from engine.membership import encounter_described as described
from engine.membership import encounter_store as store
from engine.membership import encounters, p256
from engine.membership.printed import printed
from engine.record import idempotency
from engine.sale.arguments import named_in_query


class EncounterRoutes:
    """The handlers, and what they need."""

    def __init__(self, parts: Parts) -> None:
        self._postgres, self._door, self._turns = parts.postgres, parts.door, parts.turns
        self._reads = parts.reads
        self._server_key = p256.of_settings(
            "ENCOUNTER_JWT_PUBLIC_KEY", parts.settings.encounter_jwt_public_key
        )

    def routes(self) -> list[Route]:
        """The table: operation, method, path, handler."""
        verify = Route(
            "verify_encounter", "POST", "/encounters/verify", self.verify, described.VERIFY
        )
        mine = Route("my_encounters", "GET", "/encounters/mine", self.mine, described.MINE)
        return [printed(self._turns.calm(verify)), self._turns.calm(mine)]

    async def verify(self, call: Call) -> Answer:
        """Record that two members met.

        By a token (JWT, ES256) that the initiator's active device signed: `sub` is the initiator's
        membership, `aud` the receiver's, `jti` counts once; it holds for 300 seconds from `iat`.
        `lat` and `lng` say where. A user's own token can only record what is one of his."""
        caller = await self._door.caller(call)
        require(caller, "membership")
        given = bodies.encounter_body(call).word
        token = encounters.read(given)
        buyer = caller.subject if caller.kind == "buyer" else None
        request = arguments.request(call, caller, buyer or arguments.OWNER, "verify_encounter")

        async def effect(session: Session) -> Answer:
            made = await encounters.verify(session, token, self._server_key, buyer)
            return Answer(views.VerifiedView("VERIFIED", views.encounter_view(made)), 201)

        meaning = f"verify_encounter {given}"
        return await idempotency.once(self._postgres, request, meaning, effect)

    async def mine(self, call: Call) -> Answer:
        """The encounters of all memberships of a user, in either role, the newest first."""
        caller = await self._door.caller(call)
        require(caller, "membership")
        buyer = buyer_named(caller, named_in_query(call))
        if buyer is None:
            raise invalid("userId", "required: whose encounters?")
        arguments.charge(call, caller, buyer)
        page = page_of(call)
        before = arguments.before(page)
        found = await store.list_encounters(self._reads, buyer, before, page.limit + 1, page.skip)
        items = await store.count_encounters(self._reads, buyer) if page.page else None
        rows = [views.listed_view(each) for each in found[: page.limit]]
        cursor = rows[-1].id if len(found) > page.limit else None
        return Answer(listing(rows, page, cursor, items))
