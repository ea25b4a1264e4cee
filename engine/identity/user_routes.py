"""HTTP in, verb, HTTP out: users. Every handler is a translation, no more.

What is remembered of a request that carries a key is the account's id, nothing personal: its
repetition is told how the account is now.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, nullcontext

import msgspec

from engine.identity import arguments, beta, deeds, user_bodies, users
from engine.identity import user_described as described
from engine.identity import user_store as store
from engine.identity.access import require
from engine.identity.errors import UserExists, UserTaken
from engine.identity.login import LoginDesk
from engine.identity.models import Caller
from engine.identity.parts import Parts
from engine.identity.user_store import User
from engine.identity.user_views import ToldView, stranger_view, user_view
from engine.infra.errors import Fault, Forbidden, NotFound, OutcomeUnknown, Unauthorized
from engine.infra.http import Answer, Call, encode, invalid
from engine.infra.ids import new_id, parse_id
from engine.infra.lists import listing, page_of
from engine.infra.postgres import Session
from engine.infra.routing import Route
from engine.record import idempotency

ADMINS_ALONE = ("role", "status")


class UserRoutes:
    """The handlers, and what they need."""

    def __init__(self, parts: Parts, desk: LoginDesk) -> None:
        self._postgres, self._reads, self._door = parts.postgres, parts.reads, parts.door
        self._turns, self._activity = parts.turns, parts.activity
        self._desk, self._crew = desk, parts.crew
        self._deadline_seconds = parts.settings.request_deadline_ms / 1000

    def routes(self) -> list[Route]:
        """The table: operation, method, path, handler."""
        readers = [
            Route("list_users", "GET", "/users", self.list, described.LIST),
            Route("first_user", "GET", "/users/first", self.first, described.FIRST),
            Route("show_user", "GET", "/users/{id}", self.show, described.SHOW),
            Route("user_by_privy", "GET", "/users/privy/{id}", self.by_privy, described.BY_PRIVY),
            Route(
                "user_by_wallet", "GET", "/users/wallet/{id}", self.by_wallet, described.BY_WALLET
            ),
        ]
        writers = [
            Route("create_user", "POST", "/users", self.create, described.CREATE),
            Route("change_user", "PUT", "/users/{id}", self.change, described.CHANGE),
            Route(
                "register_wallet",
                "POST",
                "/users/{id}/wallet",
                self.register_wallet,
                described.WALLET,
            ),
            Route("touch_user", "POST", "/users/{id}/activity", self.touch, described.ACTIVITY),
            Route("delete_user", "DELETE", "/users/{id}", self.delete, described.DELETE),
        ]
        own = [*readers, *(deeds.told_of_others(self._door, route) for route in writers)]
        calm = [self._turns.calm(route) for route in own]
        return [self._proven(route) if route.about is described.CHANGE else route for route in calm]

    def _proven(self, route: Route) -> Route:
        """The route, once who changes his own e-mail has proven that it is his to change. It has no
        turn meanwhile."""
        handler = route.handler

        async def proven(call: Call) -> Answer:
            await self._prove(call)
            return await handler(call)

        async def in_time(call: Call) -> Answer:
            return await self._crew.within(proven(call), self._deadline_seconds, OutcomeUnknown)

        return msgspec.structs.replace(route, handler=in_time)

    # ── reading ──────────────────────────────────────────────────────────────────────────────

    async def list(self, call: Call) -> Answer:
        """All accounts, the newest first.

        Also the deleted ones; who was erased has an id and no more."""
        require(await self._door.caller(call), "identity")
        page = page_of(call)
        before = arguments.before(page)
        found = await store.list_users(self._reads, before, page.limit + 1, page.skip)
        items = await store.count_users(self._reads) if page.page else None
        rows = [user_view(user) for user in found[: page.limit]]
        cursor = rows[-1].id if len(found) > page.limit else None
        return Answer(listing(rows, page, cursor, items))

    async def first(self, call: Call) -> Answer:
        """The oldest account that is not deleted."""
        require(await self._door.caller(call), "identity")
        user = await store.find_first_user(self._postgres)
        if user is None:
            raise NotFound("No users found")
        return Answer(user_view(user))

    async def show(self, call: Call) -> Answer:
        """One account.

        All of it for itself and for who administers accounts; for others id and username."""
        caller = await self._door.caller(call)
        if caller.kind == "anybody":
            raise Unauthorized
        id = arguments.id_in_path(call, "User")
        user = await users.one(self._postgres, id)
        if caller.may("identity") or _is_self(caller, id):
            return _full(user)
        return Answer(stranger_view(user))

    async def by_privy(self, call: Call) -> Answer:
        """One account, by the id that Privy gave it."""
        require(await self._door.caller(call), "identity")
        named = call.params["id"]
        user = (
            await store.find_user_by_privy(self._postgres, named) if named.isprintable() else None
        )
        return _full(_there(user))

    async def by_wallet(self, call: Call) -> Answer:
        """One account, by its wallet, whatever the case of its digits."""
        require(await self._door.caller(call), "identity")
        named = call.params["id"]
        is_wallet = user_bodies.WALLET.fullmatch(named) is not None
        user = await store.find_user_by_wallet(self._postgres, named) if is_wallet else None
        return _full(_there(user))

    # ── writing ──────────────────────────────────────────────────────────────────────────────

    async def create(self, call: Call) -> Answer:
        """Make an account for somebody whom you know.

        It has no password: who it is, your own login or Privy says. For others there is
        `/users/register`."""
        caller = await self._door.caller(call)
        require(caller, "identity")
        wish = user_bodies.new_user_body(call).user(new_id())
        meaning = encode(msgspec.structs.replace(wish, id="")).decode()

        async def effect(session: Session) -> str:
            await users.create(session, wish, UserTaken)
            return wish.id

        answer = await self._once(call, caller, "create_user", meaning, effect, 201)
        if not answer.headers:
            self._activity.note("user_register", wish.id, call, by="privy")
        return await self._as_it_is(answer)

    async def change(self, call: Call) -> Answer:
        """Change an account.

        Of two who change the same version one does; the other is told so, and looks again. Role
        and status are for admins, and for nobody's own account."""
        caller, id = await self._admit(call)
        body = user_bodies.change_body(call)
        version, changes = body.of_version(call), body.changes()
        for name in ADMINS_ALONE:
            if name in changes and (not caller.may("admin") or _is_self(caller, id)):
                raise Forbidden(f"Only another admin can change somebody's {name}")
        meaning = f"{id} {version} {encode(changes).decode()}"

        async def effect(session: Session) -> str:
            await self._check_over(session, caller, id)
            await users.change(session, id, version, changes)
            return id

        with self._searching(call, caller):
            answer = await self._once(call, caller, "change_user", meaning, effect)
        if not answer.headers:
            self._activity.note("profile_updated", id, call, fields=sorted(changes))
        return await self._as_it_is(answer)

    async def register_wallet(self, call: Call) -> Answer:
        """Give an account a wallet, in place of the one it had."""
        caller, id = await self._admit(call)
        wallet = user_bodies.wallet_body(call).wallet

        async def effect(session: Session) -> str:
            await self._check_over(session, caller, id)
            await users.change(session, id, None, {"walletAddress": wallet})
            return id

        with self._searching(call, caller):
            answer = await self._once(call, caller, "register_wallet", f"{id} {wallet}", effect)
        if not answer.headers:
            self._activity.note("wallet_connected", id, call)
        return await self._as_it_is(answer)

    async def touch(self, call: Call) -> Answer:
        """Note that an account was active just now."""
        caller, id = await self._admit(call)

        async def effect(session: Session) -> str:
            await users.touch(session, id)
            return id

        answer = await self._once(call, caller, "touch_user", id, effect)
        return Answer(ToldView("Activity updated successfully"), headers=answer.headers)

    async def delete(self, call: Call) -> Answer:
        """Delete an account.

        Its session ends, its names stay taken. With `erase=true` whatever is personal is gone, for
        good, and no record in the ledger tells any more who it was."""
        caller, id = await self._admit(call)
        is_erased = _flag(call, "erase")

        async def effect(session: Session) -> str:
            await self._check_over(session, caller, id)
            await (users.erase if is_erased else users.delete)(session, id)
            return id

        answer = await self._once(call, caller, "delete_user", f"{id} {is_erased}", effect)
        if not answer.headers:
            # Of who is to be forgotten nobody keeps where he was when he said so.
            deed, seen = ("user_erased", None) if is_erased else ("user_deleted", call)
            self._activity.note(deed, id, seen)
        return Answer(ToldView("User deleted successfully"), headers=answer.headers)

    # ── helpers ──────────────────────────────────────────────────────────────────────────────

    async def _admit(self, call: Call) -> tuple[Caller, str]:
        """Who may change the account in the path: itself, and who administers accounts."""
        caller = await self._door.caller(call)
        if caller.kind == "anybody":
            raise Unauthorized
        id = parse_id(call.params["id"]) or ""
        if not _is_self(caller, id):
            require(caller, "identity")
        return caller, arguments.id_in_path(call, "User")

    async def _prove(self, call: Call) -> None:
        """Whoever reads an account's mails can have a new password: with a token that was stolen,
        or a window that was left open, nobody makes them come to himself."""
        caller = await self._door.caller(call)
        if not deeds.is_own(caller, call):
            return
        body = user_bodies.change_body(call)
        changes = body.changes()
        if "email" not in changes:
            return
        try:
            async with self._turns.turn():
                user = await store.find_user(self._postgres, caller.subject)
        except Fault as fault:  # an earlier copy of a keyed request may have been done
            if call.idempotency_key() is not None:
                raise OutcomeUnknown from fault
            raise
        if user is None or user.email == changes["email"]:  # which may be a repetition
            return
        if user.password_hash is None:
            if user.email is None:
                return
            raise invalid("email", "first have a link mailed to it, and choose a password")
        proof = body.proof
        if not proof:
            raise invalid("currentPassword", "required, to change the e-mail")
        try:
            await self._desk.prove(call, user, proof)
        except Unauthorized:
            raise invalid("currentPassword", "this is not the password") from None

    @staticmethod
    def _searching(call: Call, caller: Caller) -> AbstractContextManager[None]:
        """A user who finds out which names are taken is counted as who guesses."""
        if caller.kind not in ("buyer", "admin"):
            return nullcontext()
        return beta.guessing(call, keyed=True, wrong=UserExists)

    @staticmethod
    async def _check_over(session: Session, caller: Caller, id: str) -> None:
        """A shop's key does not change an admin, who could then be anybody."""
        if caller.may("admin") or _is_self(caller, id):
            return
        if (await users.one(session, id)).role == "admin":
            raise Forbidden("Only an admin can change an admin")

    async def _once(
        self,
        call: Call,
        caller: Caller,
        operation: str,
        meaning: str,
        effect: Callable[[Session], Awaitable[str]],
        status: int = 200,
    ) -> Answer:
        """Do it once. The answer's body is the account's id; a repetition has headers."""
        whose = call.params.get("id") or arguments.OPERATOR
        request = arguments.request(call, caller, whose, operation)

        async def kept(session: Session) -> Answer:
            return Answer(await effect(session), status)

        return await idempotency.once(self._postgres, request, f"{operation} {meaning}", kept)

    async def _as_it_is(self, answer: Answer) -> Answer:
        """The account that an answer is about, as it is now."""
        id = msgspec.json.decode(answer.body, type=str)
        with idempotency.doubtful():
            full = _full(await users.one(self._postgres, id))
        return Answer(full.body, answer.status, [*full.headers, *answer.headers])


def _is_self(caller: Caller, id: str) -> bool:
    return caller.kind in ("buyer", "admin") and caller.subject == id


def _there(user: User | None) -> User:
    if user is None:
        raise users.missing()
    return user


def _full(user: User) -> Answer:
    return Answer(user_view(user), headers=[(b"etag", b'"%d"' % user.version)])


def _flag(call: Call, name: str) -> bool:
    given = call.query.get(name, "false").lower()
    if given not in ("true", "false", "1", "0"):
        raise invalid(name, "want true or false")
    return given in ("true", "1")
