"""HTTP in, verb, HTTP out: tiers, and who has which number."""

from __future__ import annotations

from typing import Any

from engine.identity import arguments, deeds
from engine.identity.access import as_buyer, buyer_named, require, require_admin
from engine.identity.models import Caller
from engine.identity.parts import Parts
from engine.infra.errors import NotFound
from engine.infra.http import Answer, Call, invalid
from engine.infra.lists import listing, page_of
from engine.infra.postgres import Session
from engine.infra.routing import Route
from engine.membership import member_views as views
from engine.membership import mint_bodies as bodies
from engine.membership import mint_described as described
from engine.membership import openings, store
from engine.membership.errors import NotTheirs
from engine.membership.printed import printed
from engine.record import idempotency
from engine.sale import reconcile
from engine.sale.arguments import drop_number, flag, named_in_query
from engine.sale.bouncer import Bouncer


class MemberRoutes:
    """The handlers, and what they need."""

    def __init__(self, parts: Parts, bouncer: Bouncer) -> None:
        self._door, self._turns = parts.door, parts.turns
        self._postgres, self._reads, self._bouncer = parts.postgres, parts.reads, bouncer

    def routes(self) -> list[Route]:
        """The table: operation, method, path, handler."""
        open_to_all = [
            Route("list_tiers", "GET", "/memberships/tiers", self.tiers, described.TIERS),
            Route("my_memberships", "GET", "/memberships/mine", self.mine, described.MINE),
            printed(
                Route("show_membership", "GET", "/memberships/{id}", self.show, described.SHOW)
            ),
        ]
        operators = [
            Route("list_memberships", "GET", "/memberships", self.all, described.LIST),
            Route("open_tier", "POST", "/memberships/drops", self.open_tier, described.OPEN_TIER),
            Route(
                "revoke_membership",
                "POST",
                "/memberships/{id}/revoke",
                self.revoke,
                described.REVOKE,
            ),
        ]
        calm = [*open_to_all, *(deeds.told(self._door, route) for route in operators)]
        return [self._turns.calm(route) for route in calm]

    # ── everybody, and members ───────────────────────────────────────────────────────────────

    async def tiers(self, call: Call) -> Answer:
        """All tiers, and how many of their numbers are left."""
        found = await store.find_tiers(self._postgres)
        return Answer(views.TiersView([views.tier_view(tier) for tier in found]))

    async def mine(self, call: Call) -> Answer:
        """The memberships of a user, newest first, also those that ended."""
        caller = await self._door.caller(call)
        require(caller, "membership")
        buyer = buyer_named(caller, named_in_query(call))
        if buyer is None:
            raise invalid("userId", "required: whose memberships?")
        arguments.charge(call, caller, buyer)
        return await self._listed(call, buyer)

    async def show(self, call: Call) -> Answer:
        """One membership, for who has it."""
        caller = await self._door.caller(call)
        require(caller, "membership")
        id = arguments.id_in_path(call, "Membership")
        found = await store.find_membership(self._postgres, id)
        if found is None:
            raise NotFound("Membership not found")
        check_member(caller, named_in_query(call), found.buyer)
        return Answer(views.membership_view(found))

    # ── operators ────────────────────────────────────────────────────────────────────────────

    async def all(self, call: Call) -> Answer:
        """Memberships, newest first: all of them, or a user's, a drop's, a tier's."""
        require_admin(await self._door.caller(call))
        return await self._listed(call, as_buyer(named_in_query(call)), everything=True)

    async def _listed(self, call: Call, buyer: str | None, everything: bool = False) -> Answer:
        page, query = page_of(call), call.query
        wanted: dict[str, Any] = {"buyer": buyer}
        if everything:
            if (given := query.get("dropId")) and (drop_id := drop_number(given)) is None:
                raise invalid("dropId", "not a drop's id")
            wanted |= {
                "drop_id": drop_id if given else None,
                "number": bodies.number_asked(call),
                "tier": bodies.name_asked(call, "tier"),
                "year": bodies.name_asked(call, "year"),
                "revoked": flag(call, "revoked") if query.get("revoked") else None,
            }
        found = await store.list_memberships(
            self._reads if everything else self._postgres,
            **wanted,
            before=arguments.before(page),
            count=page.limit + 1,
            skip=page.skip,
        )
        items = await store.count_memberships(self._reads, **wanted) if page.page else None
        rows = [views.membership_view(each) for each in found[: page.limit]]
        cursor = rows[-1].id if len(found) > page.limit else None
        return Answer(listing(rows, page, cursor, items))

    async def open_tier(self, call: Call) -> Answer:
        """Open a tier: a drop whose numbers only receipts get.

        `drop pause`, `PATCH /drops/{id}` and the others work on it, too."""
        require_admin(caller := await self._door.caller(call))
        body = bodies.tier_body(call)
        (tier, year), numbers, name = body.named, body.numbers, body.shown_name
        start, limit = body.start, body.limit
        request = arguments.request(call, caller, arguments.OPERATOR, "open_tier")
        opened: list[int] = []

        async def effect(session: Session) -> Answer:
            words: dict[str, Any] = {"name": name, "starts_at": start, "max_per_buyer": limit}
            opened[:] = [await openings.open_tier(session, tier, year, numbers, **words)]
            [made] = await store.find_tiers(session, drop_id=opened[0])
            return Answer(views.tier_view(made), 201)

        async def publish() -> None:
            await reconcile.tell(self._postgres, self._bouncer, opened)

        meaning = f"open_tier {tier} {year} {numbers} {name} {start} {limit}"
        return await idempotency.once(self._postgres, request, meaning, effect, publish)

    async def revoke(self, call: Call) -> Answer:
        """End a membership.

        Its pass, its device and its encounters are worth nothing from now on; its number stays
        sold. Ended before, it stays as it was."""
        require_admin(caller := await self._door.caller(call))
        id, reason = arguments.id_in_path(call, "Membership"), bodies.revoke_body(call).why
        request = arguments.request(call, caller, arguments.OPERATOR, "revoke_membership")

        async def effect(session: Session) -> Answer:
            await store.revoke_membership(session, id, reason)
            found = await store.find_membership(session, id)
            if found is None:
                raise NotFound("Membership not found")
            return Answer(views.membership_view(found))

        meaning = f"revoke_membership {id} {reason}"
        return await idempotency.once(self._postgres, request, meaning, effect)


def check_member(caller: Caller, named: str | None, owner: str) -> None:
    """Raise `NotTheirs` unless this caller may act for the owner of a membership. Whoever stands
    for every owner (a shop, AUTH=open) and names nobody may."""
    if caller.kind == "admin":
        return
    buyer = buyer_named(caller, named)
    if buyer is not None and buyer != owner:
        raise NotTheirs("Membership does not belong to this user")
