"""HTTP in, verb, HTTP out: sessions. Every handler is a translation, no more.

What is remembered of a request that carries a key is the session's id: no token is kept, and its
repetition is told how the session is now.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import msgspec

from engine.identity import arguments, deeds, user_store
from engine.identity import session_bodies as bodies
from engine.identity import session_described as described
from engine.identity import session_store as store
from engine.identity import session_views as views
from engine.identity.access import buyer_named
from engine.identity.errors import SessionEnded, SessionOver
from engine.identity.models import Caller, Entered, LiveSession
from engine.identity.parts import Parts
from engine.identity.sessions import Sessions, ended
from engine.infra.addresses import Addresses
from engine.infra.errors import Forbidden, Invalid, NotFound, OutcomeUnknown, Unauthorized
from engine.infra.http import Answer, Call, encode, invalid
from engine.infra.ids import Request, parse_id
from engine.infra.lists import listing, page_of
from engine.infra.postgres import Session, Undone, Unreachable
from engine.infra.routing import Route
from engine.record import idempotency
from engine.record.idempotency import REPLAYED

AHEAD_DAYS_MAX = 730  # a session ends within two years, however often it is extended
Change = Callable[[Session], Awaitable[LiveSession | None]]


class SessionRoutes:
    """The handlers, and what they need."""

    def __init__(self, parts: Parts) -> None:
        self._postgres, self._door, self._turns = parts.postgres, parts.door, parts.turns
        self._activity = parts.activity
        self._addresses = Addresses(parts.settings.trusted_proxies)
        self._sessions = Sessions(parts.settings)

    def routes(self) -> list[Route]:
        """The table: operation, method, path, handler."""
        of_user = "/sessions/user/{id}"
        entering = [
            Route("open_session", "POST", "/sessions", self.open, described.ENTER),
            Route("keep_session", "POST", "/sessions/get-or-create", self.keep, described.KEEP),
        ]
        readers = [
            Route("list_sessions", "GET", "/sessions", self.list, described.LIST),
            Route("show_session", "GET", "/sessions/{id}", self.show, described.SHOW),
            Route("active_session", "GET", of_user + "/active", self.active, described.ACTIVE),
            Route("list_sessions_of", "GET", of_user, self.list_of, described.LIST_OF),
            Route("count_sessions", "GET", of_user + "/stats", self.stats, described.STATS),
        ]
        one = "/sessions/{id}"
        writers = [
            Route("change_session", "PUT", one, self.change, described.CHANGE),
            Route("touch_session", "POST", one + "/activity", self.touch, described.TOUCH),
            Route("change_push_token", "PUT", one + "/push-token", self.push, described.PUSH),
            Route("extend_session", "POST", one + "/extend", self.extend, described.EXTEND),
            Route("end_session", "DELETE", one, self.end, described.END),
            Route("end_sessions", "DELETE", of_user + "/all", self.end_all, described.END_ALL),
        ]
        own = [
            *(self._told(route, "admin") for route in entering),
            *readers,
            *(self._told(route, "identity") for route in writers),
        ]
        return [self._turns.calm(route) for route in own]

    def _told(self, route: Route, scope: str) -> Route:
        """A deed is what an operator does to somebody's; who changes his own acts for himself, and
        a shop's own login lets its users in all day: but who could let an admin in is told of."""
        told = deeds.told(self._door, route, scope)

        async def handler(call: Call) -> Answer:
            caller = await self._door.caller(call)
            is_deed = caller.kind == "shop" and (scope != "admin" or caller.may("admin"))
            is_deed |= caller.kind == "admin" and scope != "admin"
            return await (told if is_deed else route).handler(call)

        return msgspec.structs.replace(route, handler=handler)

    # ── coming in ────────────────────────────────────────────────────────────────────────────

    async def open(self, call: Call) -> Answer:
        """Open a session.

        An account has one: any other of it ends at once, and its tokens with it. The same key is
        the same session, however often it is asked for. A token opens one for its own account, a
        shop's server for any that it names: so a shop with a login of its own gets tokens."""
        return await self._enter(call, "open_session", False)

    async def keep(self, call: Call) -> Answer:
        """Open a session, unless this device has one.

        A live one is kept, and what the device says of itself is noted. One that has ended stays
        so: a new one is opened."""
        return await self._enter(call, "keep_session", True)

    async def _enter(self, call: Call, operation: str, keep: bool) -> Answer:
        caller = await self._door.caller(call)
        if caller.kind == "anybody":
            raise Unauthorized
        body = bodies.enter_body(call)
        user = self._named(caller, body.named)
        device = body.device(self._addresses.subject(call.scope, call.headers))
        days, given = body.days, bodies.body_key(call, body)
        call.key = given
        request = arguments.request(call, caller, user, operation)
        keyed, key = request.keyed or given is not None, call.key
        assert key is not None

        async def enter(session: Session) -> Entered:
            over = await self._over(session, caller)
            entered = await self._sessions.enter(session, user, device, key, days, keep)
            _check_role(caller, entered)
            if over is not None and entered.word != "repeated":
                raise over
            return entered

        if keep and keyed:
            request = msgspec.structs.replace(request, keyed=True)
            meaning = encode([operation, user, device.device_id, device.platform]).decode()
            entered = await self._keep_once(request, meaning, enter)
            _check_role(caller, entered)
        else:
            try:
                if request.over is not None and not await self._is_repeated(user, key):
                    raise request.over
                async with self._postgres.transaction() as session:
                    entered = await enter(session)
            except (Undone, Unreachable) as fault:
                raise (OutcomeUnknown() if keyed else fault) from fault
        if entered.word == "opened":
            self._activity.note("session_created", user, call, entered.session.id)
        headers = [REPLAYED] if entered.word == "repeated" else None
        return Answer(views.opened_view(entered), 200 if keep else 201, headers)

    @staticmethod
    async def _over(session: Session, caller: Caller) -> SessionEnded | None:
        """Why the session with whose token somebody asks for another one is worth nothing. Workers
        hear of that within a second: who stole a token could else survive, by asking all the time,
        the new password that was to end it. With the user's row locked nothing ends it meanwhile.
        """
        if not caller.session:
            return None
        await user_store.lock_user(session, caller.subject)
        own = await store.find_session(session, caller.session)
        if own is None:
            return ended("unknown")
        return None if own.is_live else ended(own.termination_reason or "expired")

    async def _keep_once(
        self, request: Request, meaning: str, enter: Callable[[Session], Awaitable[Entered]]
    ) -> Entered:
        """The session that this request kept or opened: its key is not in the row of a kept one,
        and a repetition must not end what another device opened since."""
        kept: list[Entered] = []

        async def effect(session: Session) -> Answer:
            kept[:] = [await enter(session)]
            return Answer(kept[0].session.id.encode())

        answer = await idempotency.once(self._postgres, request, meaning, effect)
        if not answer.headers:
            return kept[0]
        with idempotency.doubtful():
            return await self._sessions.again(self._postgres, answer.body.decode())

    def _named(self, caller: Caller, named: str | None) -> str:
        """Whose session it is to be: whoever proves to be that user, or speaks for all of them."""
        if caller.kind == "shop" and not caller.may("identity"):
            raise Forbidden
        user = buyer_named(caller, named)
        if user is None:
            sentence = bodies.USER_MISSING
            raise Invalid(sentence, fields=[{"field": "userId", "problem": sentence}])
        id = parse_id(user)
        if id is None:
            raise NotFound("User not found")
        return id

    async def _is_repeated(self, user: str, key: str) -> bool:
        return await store.find_session_by_key(self._postgres, user, key) is not None

    # ── reading ──────────────────────────────────────────────────────────────────────────────

    async def list(self, call: Call) -> Answer:
        """My sessions, the newest first.

        The live one; with `includeInactive` all there were. Who may see anybody's names one."""
        caller = await self._door.caller(call)
        named = call.query.get("userId", call.query.get("user_id"))
        own = caller.subject if caller.kind in ("buyer", "admin") else None
        user = named or own
        if caller.kind != "anybody" and user is None:
            raise invalid("userId", "required: whose sessions?")
        return await self._list(call, _visible(caller, parse_id(user or "")))

    async def list_of(self, call: Call) -> Answer:
        """A user's sessions, the newest first.

        The live one; with `includeInactive` all there were."""
        return await self._list(call, await self._user(call))

    async def _list(self, call: Call, user: str) -> Answer:
        everything = _flag(call, "includeInactive", "include_inactive")
        page = page_of(call)
        before = arguments.before(page)
        found = await store.list_sessions(
            self._postgres, user, everything, before, page.limit + 1, page.skip
        )
        items = None
        if page.page is not None:
            counts = (await store.count_sessions(self._postgres, user)).values()
            items = sum(total if everything else live for total, live in counts)
        rows = [views.session_view(session) for session in found[: page.limit]]
        cursor = rows[-1].id if len(found) > page.limit else None
        return Answer(listing(rows, page, cursor, items))

    async def show(self, call: Call) -> Answer:
        """One session, live or over."""
        return Answer(views.session_view(await self._session(call)))

    async def active(self, call: Call) -> Answer:
        """A user's live session."""
        session = await store.find_active_session(self._postgres, await self._user(call))
        if session is None:
            raise NotFound("No active session found")
        return Answer(views.session_view(session))

    async def stats(self, call: Call) -> Answer:
        """How many sessions a user has and had, and on which platforms."""
        user = await self._user(call)
        return Answer(views.stats_view(await store.count_sessions(self._postgres, user)))

    # ── changing ─────────────────────────────────────────────────────────────────────────────

    async def change(self, call: Call) -> Answer:
        """Note what a live session's device says of itself."""
        return await self._change(call, "change_session", lambda: bodies.change_body(call).changes)

    async def touch(self, call: Call) -> Answer:
        """Note that a live session was active just now."""
        return await self._change(call, "touch_session", lambda: bodies.NOTHING)

    async def push(self, call: Call) -> Answer:
        """Note where a live session's device hears of what happens."""
        return await self._change(
            call, "change_push_token", lambda: bodies.change_body(call).pushed
        )

    async def _change(
        self, call: Call, operation: str, read: Callable[[], dict[str, str | None]]
    ) -> Answer:
        found, changes = await self._session(call), read()

        async def work(session: Session) -> LiveSession | None:
            return await store.change_session(session, found.id, changes)

        return await self._once(call, found, operation, encode(changes).decode(), work)

    async def extend(self, call: Call) -> Answer:
        """Put off a live session's end.

        By whole days, from its present end on; it ends within two years all the same."""
        found, days = await self._session(call), bodies.extend_body(call).days

        async def work(session: Session) -> LiveSession | None:
            extended = await store.extend_session(session, found.id, days, AHEAD_DAYS_MAX)
            if extended is None and (await self._there(session, found.id)).is_live:
                raise invalid("additionalDays", f"a session ends within {AHEAD_DAYS_MAX} days")
            return extended

        return await self._once(call, found, "extend_session", str(days), work)

    async def end(self, call: Call) -> Answer:
        """End a session.

        Its tokens are worth nothing from then on, within a second everywhere. Ended before, it
        stays as it was."""
        found, reason = await self._session(call), bodies.end_body(call).why("user_logout")
        gone: list[LiveSession] = []

        async def work(session: Session) -> LiveSession:
            one = await store.end_session(session, found.id, reason)
            gone[:] = [] if one is None else [one]
            return one or found

        answer = await self._once(call, found, "end_session", reason, work)
        for one in gone:
            self._activity.note("session_terminated", one.user_id, call, one.id, reason=reason)
        return answer

    async def end_all(self, call: Call) -> Answer:
        """End all sessions of a user, wherever he is logged in."""
        caller, user = await self._door.caller(call), await self._user(call)
        await self._check_over(caller, user)
        reason = bodies.end_body(call).why("user_logout_all")
        request = arguments.request(call, caller, user, "end_sessions")
        gone: list[LiveSession] = []

        async def effect(session: Session) -> Answer:
            await user_store.lock_user(session, user)  # whoever opens one just now is waited for
            gone[:] = await store.end_sessions(session, user, reason)
            count = len(gone)
            return Answer(views.AllEndedView(f"{count} session(s) terminated successfully", count))

        meaning = f"end_sessions {user} {reason}"
        answer = await idempotency.once(self._postgres, request, meaning, effect)
        for one in gone:
            self._activity.note("user_logout", user, call, one.id, reason=reason)
        return answer

    async def _once(
        self, call: Call, found: LiveSession, operation: str, meaning: str, work: Change
    ) -> Answer:
        """Do it once to a session; told is how that is now."""
        caller = await self._door.caller(call)
        await self._check_over(caller, found.user_id)
        request = arguments.request(call, caller, found.user_id, operation)

        async def effect(session: Session) -> Answer:
            if await work(session) is None:
                raise SessionOver
            return Answer(found.id.encode())

        meaning = f"{operation} {found.id} {meaning}"
        answer = await idempotency.once(self._postgres, request, meaning, effect)
        with idempotency.doubtful():
            present = await self._there(self._postgres, found.id)
        return Answer(views.session_view(present), headers=answer.headers)

    # ── whose it is ──────────────────────────────────────────────────────────────────────────

    async def _user(self, call: Call) -> str:
        """The user in the path, if the caller may see his sessions."""
        caller = await self._door.caller(call)
        return _visible(caller, parse_id(call.params["id"]))

    async def _session(self, call: Call) -> LiveSession:
        """The session in the path, if the caller may see it: to a stranger there is none."""
        caller = await self._door.caller(call)
        if caller.kind == "anybody":
            raise Unauthorized
        if caller.kind == "shop" and not caller.may("identity"):
            raise Forbidden
        with idempotency.doubtful(call.idempotency_key() is not None):
            session = await self._there(self._postgres, parse_id(call.params["id"]) or "")
        if not caller.may("identity") and caller.subject != session.user_id:
            raise NotFound("Session not found")
        return session

    async def _check_over(self, caller: Caller, user: str) -> None:
        """A shop's key has nothing to do to an admin's session."""
        if caller.kind == "shop" and not caller.may("admin"):
            found = await user_store.find_user(self._postgres, user)
            if found is not None and found.role == "admin":
                raise Forbidden("Only an admin changes an admin's session")

    async def _there(self, caller: store.Caller, id: str) -> LiveSession:
        session = await store.find_session(caller, id) if id else None
        if session is None:
            raise NotFound("Session not found")
        return session


def _visible(caller: Caller, user: str | None) -> str:
    """A user whose sessions the caller may see and end."""
    if caller.kind == "anybody":
        raise Unauthorized
    if caller.kind == "shop" and not caller.may("identity"):
        raise Forbidden
    if user is None or not (caller.may("identity") or caller.subject == user):
        raise NotFound("User not found")
    return user


def _check_role(caller: Caller, entered: Entered) -> None:
    """No key that may not do what an admin may gets an admin's tokens."""
    if entered.role == "admin" and caller.kind == "shop" and not caller.may("admin"):
        raise Forbidden("A session of an admin's account needs a key with the scope admin")


def _flag(call: Call, *names: str) -> bool:
    given = next((call.query[name] for name in names if name in call.query), "false").lower()
    if given not in ("true", "false", "1", "0"):
        raise invalid(names[0], "want true or false")
    return given in ("true", "1")
