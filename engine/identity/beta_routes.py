"""HTTP in, verb, HTTP out: the private beta. Every handler is a translation, no more."""

from __future__ import annotations

from engine.identity import arguments, beta, deeds
from engine.identity import beta_bodies as bodies
from engine.identity import beta_described as described
from engine.identity import beta_store as store
from engine.identity.access import require, require_admin
from engine.identity.errors import KeyUnknown
from engine.identity.parts import Parts
from engine.infra.errors import Forbidden, NotFound, Unauthorized
from engine.infra.http import Answer, Call
from engine.infra.ids import parse_id
from engine.infra.lists import Listing, listing, page_of
from engine.infra.postgres import Session
from engine.infra.routing import Route
from engine.record import idempotency


class BetaRoutes:
    """The handlers, and what they need."""

    def __init__(self, parts: Parts) -> None:
        self._postgres, self._reads, self._door = parts.postgres, parts.reads, parts.door
        self._turns, self._activity = parts.turns, parts.activity

    def routes(self) -> list[Route]:
        """The table: operation, method, path, handler."""
        at = "/private-beta"
        operators = [
            Route("create_key", "POST", f"{at}/referral", self.create, described.CREATE),
            Route("create_key", "POST", f"{at}/referrals", self.create, described.CREATE),
            Route(
                "create_keys",
                "POST",
                f"{at}/referrals/bulk",
                self.create_many,
                described.CREATE_MANY,
            ),
            Route("unused_keys", "GET", f"{at}/referrals/unused", self.unused, described.UNUSED),
            Route("beta_users", "GET", f"{at}/users", self.users, described.USERS),
            Route("beta_debug", "GET", f"{at}/debug", self.debug, described.DEBUG),
        ]
        people = [
            Route("verify_key", "POST", f"{at}/verify", self.verify, described.VERIFY),
            Route("check_key", "POST", f"{at}/check-validity", self.check, described.CHECK),
            Route("beta_status", "POST", f"{at}/status", self.status, described.STATUS),
        ]
        table = [*people, *(deeds.told(self._door, route) for route in operators)]
        return [self._turns.calm(route) for route in table]

    # ── who invites ──────────────────────────────────────────────────────────────────────────

    async def create(self, call: Call) -> Answer:
        """Make an invitation."""
        require(caller := await self._door.caller(call), "identity")
        request = arguments.request(call, caller, arguments.OPERATOR, "create_key")

        async def effect(session: Session) -> Answer:
            [key] = await beta.create(session, 1)
            view = bodies.told_key_view(key, "Referral key created successfully")
            return Answer(view, 201)

        return await idempotency.once(self._postgres, request, "create_key", effect)

    async def create_many(self, call: Call) -> Answer:
        """Make up to 100 invitations."""
        require(caller := await self._door.caller(call), "identity")
        count = bodies.bulk_body(call).wanted
        request = arguments.request(call, caller, arguments.OPERATOR, "create_keys")

        async def effect(session: Session) -> Answer:
            keys = [bodies.key_view(key) for key in await beta.create(session, count)]
            message = f"{count} referral key{'s' if count > 1 else ''} created successfully"
            return Answer(bodies.BulkView(message, keys), 201)

        return await idempotency.once(self._postgres, request, f"create_keys {count}", effect)

    async def unused(self, call: Call) -> Answer:
        """Invitations that nobody has used, newest first."""
        require(await self._door.caller(call), "identity")
        return Answer((await self._page(call, "pending"))[0])

    async def users(self, call: Call) -> Answer:
        """All invitations, newest first, with the e-mails that used them."""
        require_admin(await self._door.caller(call))
        return Answer((await self._page(call, None))[0])

    async def debug(self, call: Call) -> Answer:
        """All invitations, and how many there are."""
        require_admin(await self._door.caller(call))
        shown, items = await self._page(call, None)
        message = "Debug: All referral keys in database"
        view = bodies.DebugView(shown.data, shown.next_cursor, shown.meta, message, items)
        return Answer(view)

    async def _page(
        self, call: Call, status: str | None
    ) -> tuple[Listing[bodies.BetaKeyView], int]:
        page = page_of(call)
        before = arguments.before(page)
        found = await store.list_beta_keys(self._reads, status, before, page.limit + 1, page.skip)
        items = await store.count_beta_keys(self._reads, status)
        rows = [bodies.key_view(key) for key in found[: page.limit]]
        cursor = rows[-1].id if len(found) > page.limit else None
        return listing(rows, page, cursor, items), items

    # ── who was invited ──────────────────────────────────────────────────────────────────────

    async def verify(self, call: Call) -> Answer:
        """Use an invitation.

        It is then this e-mail's, and nobody else's. Asked again with the same pair, it is the same
        answer. Only who has a key learns whether an e-mail used another."""
        caller = await self._door.caller(call)
        body = bodies.verify_body(call)
        given, email = body.given, body.email
        new: list[str] = []

        async def effect(session: Session) -> Answer:
            key, is_new = await beta.use(session, email, given)
            new[:] = [key.id] if is_new else []
            message = "Referral key verified and user activated successfully"
            return Answer(bodies.told_key_view(key, message))

        with beta.guessing(call, keyed=True):
            request = arguments.request(call, caller, email, "verify_key")
            meaning = f"verify_key {beta.as_key(given)} {email}"
            answer = await idempotency.once(self._postgres, request, meaning, effect)
        if new:
            self._activity.note("beta_key_used", None, call, key_id=new[0])
        return answer

    async def check(self, call: Call) -> Answer:
        """Can this invitation still be used?"""
        await self._door.caller(call)
        given = bodies.key_body(call).given
        with beta.guessing(call):
            text = beta.as_key(given)
            key = None if text is None else await store.find_beta_key(self._postgres, text)
            if key is None:
                raise KeyUnknown("Referral key not found")
        if key.status == "pending":
            return Answer(bodies.ValidityView(True, key.status, "Referral key is valid"))
        message = "Referral code has already been used"
        return Answer(bodies.ValidityView(False, key.status, message))

    async def status(self, call: Call) -> Answer:
        """The invitation that an e-mail used.

        Of whom it is the e-mail may ask, and who may see every account."""
        caller = await self._door.caller(call)
        if caller.kind == "anybody":
            raise Unauthorized
        email = bodies.email_body(call).email
        asker = None
        if not caller.may("identity"):
            asker = parse_id(caller.subject)
            if asker is None or caller.kind != "buyer":
                raise Forbidden
        key = await store.find_beta_key_of(self._postgres, email, asker)
        if key is None:  # also for an e-mail of somebody else: he learns nothing of it
            raise NotFound("User not found")
        return Answer(bodies.told_key_view(key, "User status retrieved successfully"))
