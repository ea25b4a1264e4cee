"""HTTP in, verb, HTTP out: the devices of memberships. Every handler is a translation, no more.

What is remembered of a request is the id of the device that it made, not what that calls itself:
who is erased leaves no names. Its repetition is told how the device is now.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from engine.identity import arguments
from engine.identity.access import buyer_named, require
from engine.identity.models import Caller
from engine.identity.parts import Parts
from engine.infra.errors import Fault, NotFound
from engine.infra.http import Answer, Call, invalid, iso
from engine.infra.lists import listing, page_of
from engine.infra.postgres import Session
from engine.infra.routing import Route
from engine.membership import device_bodies as bodies
from engine.membership import device_described as described
from engine.membership import device_store as store
from engine.membership import device_views as views
from engine.membership import devices, reforge
from engine.membership.device_store import Device
from engine.membership.devices import Challenges, Wish
from engine.membership.errors import LinkExpired
from engine.membership.printed import printed
from engine.membership.reforge import Links, Move
from engine.record import idempotency
from engine.sale.arguments import named_in_query

ANYBODY = Caller("anybody")
SENT = "Confirmation email sent: its link opens for 24 hours"


class DeviceRoutes:
    """The handlers, and what they need."""

    def __init__(self, parts: Parts) -> None:
        self._postgres, self._door, self._turns = parts.postgres, parts.door, parts.turns
        self._challenges, self._links = Challenges(parts.settings), Links(parts.settings)

    def routes(self) -> list[Route]:
        """The table: operation, method, path, handler."""
        table = [
            Route(
                "challenge_device",
                "POST",
                "/memberships/{id}/devices/challenge",
                self.challenge,
                described.CHALLENGE,
            ),
            Route(
                "register_device",
                "POST",
                "/memberships/{id}/devices",
                self.register,
                described.REGISTER,
            ),
            Route(
                "list_devices",
                "GET",
                "/memberships/{id}/devices",
                self.devices,
                described.DEVICES,
            ),
            Route("begin_reforge", "POST", "/devices/reforge/init", self.begin, described.BEGIN),
            Route(
                "confirm_reforge",
                "POST",
                "/devices/reforge/confirm",
                self.confirm,
                described.CONFIRM,
            ),
        ]
        return [printed(self._turns.calm(route)) for route in table]

    async def challenge(self, call: Call) -> Answer:
        """Get what a membership's first device signs.

        For five minutes: see `POST /memberships/{id}/devices`."""
        caller = await self._member(call)
        id = arguments.id_in_path(call, "Membership")
        buyer = buyer_named(caller, bodies.challenge_body(call).buyer)
        arguments.charge(call, caller, buyer or arguments.OWNER)
        member = devices.check_member(await store.find_member(self._postgres, id), buyer)
        challenge, until = self._challenges.make(id, member.now)
        return Answer(views.ChallengeView(challenge, iso(until)))

    async def register(self, call: Call) -> Answer:
        """Register a membership's first device.

        `signature` is ES256 over four lines, in UTF-8: `velvetrope device v1`, the membership's id,
        `deviceId` and `challenge`, a line feed between. 201; the same device with the same key
        again is 200; another one is a 409: a membership moves by `/devices/reforge/init`."""
        caller = await self._member(call)
        id, body = arguments.id_in_path(call, "Membership"), bodies.device_body(call)
        device, key, (challenge, signature) = body.device, body.key, body.proof
        buyer = buyer_named(caller, body.buyer)
        request = arguments.request(call, caller, buyer or arguments.OWNER, "register_device")
        wish = Wish(id, buyer, device, key, challenge, signature)

        async def effect(session: Session) -> Answer:
            made, is_new = await devices.register(session, self._challenges, wish)
            return Answer(made.id.encode(), 201 if is_new else 200)

        meaning = f"register_device {id} {buyer} {device!r} {key} {challenge} {signature.hex()}"
        kept = await idempotency.once(self._postgres, request, meaning, effect)
        return await self._as_it_is(kept, views.device_view)

    async def devices(self, call: Call) -> Answer:
        """The devices that a membership has had, the newest first."""
        caller = await self._member(call)
        id = arguments.id_in_path(call, "Membership")
        buyer = buyer_named(caller, named_in_query(call))
        page = page_of(call)
        before = arguments.before(page)
        member = await store.find_member(self._postgres, id)
        devices.check_member(member, None if caller.kind == "admin" else buyer)
        found = await store.list_devices(self._postgres, id, before, page.limit + 1, page.skip)
        items = await store.count_devices(self._postgres, id) if page.page else None
        rows = [views.device_view(each) for each in found[: page.limit]]
        cursor = rows[-1].id if len(found) > page.limit else None
        return Answer(listing(rows, page, cursor, items))

    # ── reforge ──────────────────────────────────────────────────────────────────────────────

    async def begin(self, call: Call) -> Answer:
        """Move a membership to another device.

        A link is mailed to the account whose membership it is; it confirms once, for 24 hours, and
        stands in no answer. Another one begun supersedes it; three an hour may be."""
        caller = await self._member(call)
        body = bodies.reforge_body(call)
        membership, (old, new), key = body.membership, body.devices, body.key
        buyer = buyer_named(caller, body.buyer)
        if buyer is None:
            raise invalid("userId", "required: whose membership is it?")
        request = arguments.request(call, caller, buyer, "begin_reforge")
        move = Move(membership, buyer, old, new, key)

        async def effect(session: Session) -> Answer:
            id = await reforge.begin(session, self._links, move)
            return Answer(views.BegunView("PENDING", id, SENT), 202)

        meaning = f"begin_reforge {membership} {buyer!r} {old!r} {new!r} {key}"
        return await idempotency.once(self._postgres, request, meaning, effect)

    async def confirm(self, call: Call) -> Answer:
        """Confirm a move with the link from a mail.

        From now on the old device's key is worth nothing."""
        await self._door.caller(call)
        token = bodies.link_body(call).word
        request = arguments.request(call, ANYBODY, token, "confirm_reforge")
        hash = reforge.digest(token)
        meaning = f"confirm_reforge {hash.hex()}"
        if request.keyed:
            known = await idempotency.recall(self._postgres, request, meaning)
            if known is not None:
                return await self._as_it_is(known, views.confirmed_view)
        id, membership = await self._opened(call, hash)

        async def effect(session: Session) -> Answer:
            device = await reforge.confirm(session, id, membership)
            return Answer(device.id.encode())

        try:
            kept = await idempotency.once(self._postgres, request, meaning, effect)
        except LinkExpired:
            with suppress(Fault):  # else a keeper writes it down
                await store.expire_reforges(self._postgres, 1, id)
            raise
        return await self._as_it_is(kept, views.confirmed_view)

    async def _as_it_is(self, kept: Answer, view: Callable[[Device], object]) -> Answer:
        with idempotency.doubtful():
            device = await store.read_device(self._postgres, kept.body.decode())
        return Answer(view(device), kept.status, kept.headers)

    async def _opened(self, call: Call, hash: bytes) -> tuple[str, str]:
        """The reforge of a link, and its membership. One that is none is a bad credential."""
        if call.budgets is not None:
            call.budgets.check_guesser(call)
        found = await store.find_reforge(self._postgres, hash)
        if found is None:
            if call.budgets is not None:
                call.budgets.failed(call)
            raise NotFound(reforge.NO_SUCH_REFORGE)
        return found

    async def _member(self, call: Call) -> Caller:
        caller = await self._door.caller(call)
        require(caller, "membership")
        return caller
