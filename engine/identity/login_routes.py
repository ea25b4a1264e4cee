"""HTTP in, verb, HTTP out: login. Every handler is a translation, no more.

Whoever waits here for a hash has no turn and no connection meanwhile: a crowd at the login is in
nobody's way.
"""

from __future__ import annotations

from contextlib import nullcontext

import msgspec

from engine.identity import arguments, beta, login_bodies, session_store, users
from engine.identity import login_described as described
from engine.identity import passwords as rules
from engine.identity.access import as_buyer, buyer_named, require
from engine.identity.errors import UserExists
from engine.identity.guesses import Guesses
from engine.identity.login import LoginDesk
from engine.identity.models import Caller, Entered
from engine.identity.parts import Parts
from engine.identity.passwords import Passwords
from engine.identity.resets import Links, Resets
from engine.identity.sessions import Sessions
from engine.identity.user_store import NewUser
from engine.identity.user_views import ToldView, entered_view, user_view
from engine.infra.addresses import Addresses
from engine.infra.errors import OutcomeUnknown, Unauthorized
from engine.infra.http import Answer, Call, invalid
from engine.infra.ids import Request, new_id
from engine.infra.routing import Route
from engine.record import idempotency

ANYBODY = Caller("anybody")
SENT = ToldView(
    "If an account has this e-mail, a link is on its way to it. It opens for 30 minutes."
)
CHANGED = ToldView("Your password was changed: log in with it.")
LEFT = ToldView("Logged out")


class LoginRoutes:
    """The handlers, and what they need."""

    def __init__(self, parts: Parts) -> None:
        settings = parts.settings
        self._postgres, self._door, self._crew = parts.postgres, parts.door, parts.crew
        self._turns, self._activity = parts.turns, parts.activity
        self._deadline_seconds = settings.request_deadline_ms / 1000
        self._sessions = Sessions(settings)
        self._addresses = Addresses(settings.trusted_proxies)
        self._is_private = settings.private_beta
        self._guesses = Guesses(settings, parts.limits)
        passwords = Passwords(settings.data_dir, self._deadline_seconds)
        self.desk = LoginDesk(
            parts.postgres,
            parts.turns,
            self._sessions,
            passwords,
            self._guesses,
            settings.private_beta,
            settings.auth == "open",
        )
        self._resets = Resets(
            parts.postgres, parts.turns, passwords, self._guesses, Links(settings)
        )
        self.passwords = passwords

    def routes(self) -> list[Route]:
        """The table: operation, method, path, handler. Those that hash see to their turns
        themselves."""
        hashing = [
            Route("register", "POST", "/users/register", self.register, described.REGISTER),
            Route("login", "POST", "/users/login", self.login, described.LOGIN),
            Route(
                "change_password",
                "POST",
                "/users/password",
                self.change_password,
                described.PASSWORD,
            ),
            Route(
                "forgot_password",
                "POST",
                "/users/password/reset",
                self.forgot,
                described.FORGOTTEN,
            ),
            Route(
                "reset_password",
                "POST",
                "/users/password/reset/confirm",
                self.reset,
                described.RESET,
            ),
        ]
        calm = [
            Route("refresh", "POST", "/users/refresh", self.refresh, described.REFRESH),
            Route("logout", "POST", "/users/logout", self.logout, described.LOGOUT),
            Route("me", "GET", "/users/me", self.me, described.ME),
        ]
        return [*map(self._timed, hashing), *map(self._turns.calm, calm)]

    def _timed(self, route: Route) -> Route:
        """The route, ending by its deadline. A hash that was not begun is told of earlier."""
        handler = route.handler

        async def in_time(call: Call) -> Answer:
            return await self._crew.within(handler(call), self._deadline_seconds, OutcomeUnknown)

        return msgspec.structs.replace(route, handler=in_time)

    # ── coming in ────────────────────────────────────────────────────────────────────────────

    async def register(self, call: Call) -> Answer:
        """Make an account for oneself, and come in.

        A repetition with its key is the same account, with fresh tokens. Nobody's choice are
        passwords of less than 8 characters, and one's own e-mail or username."""
        body = login_bodies.register_body(call)
        username, email, password = body.names
        rules.choose(password, username, email, email.partition("@")[0])
        wish = NewUser(id=new_id(), username=username, email=email)
        try:
            with beta.guessing(call, keyed=True) if self._is_private else nullcontext():
                request = await self._request(call, email, "register")
                device = body.device(call, self._address(call), call.key if request.keyed else None)
                id, entered, answer = await self.desk.register(
                    call, request, wish, password, body.referral, device
                )
        except UserExists:
            if call.budgets is not None:  # who looks for e-mails guesses too
                call.budgets.failed(call)
            raise
        if not answer.headers:
            self._activity.note("user_register", id, call)
            self._note_session(call, entered)
        return await self._told(entered, 201, answer.headers)

    async def login(self, call: Call) -> Answer:
        """Come in with e-mail and password.

        Any other session of the account ends."""
        await self._door.caller(call)
        body = login_bodies.login_body(call)
        email, password = body.words
        entered = await self.desk.login(
            call, email, password, body.device(call, self._address(call))
        )
        self._note_session(call, entered)
        return await self._told(entered)

    async def refresh(self, call: Call) -> Answer:
        """Get the next tokens of a session.

        A refresh token is taken once; within ten seconds it gets the same answer again, since one
        may be lost on its way. Taken later it ends the session: two have it."""
        token = login_bodies.refresh_body(call).token
        if call.budgets is not None:
            call.budgets.check_guesser(call)
        try:
            entered = await self._sessions.refresh(self._postgres, token)
        except Unauthorized:
            if call.budgets is not None:
                call.budgets.failed(call)
            raise
        return Answer(entered_view(entered))

    async def logout(self, call: Call) -> Answer:
        """End one's session; its tokens are worth nothing from now on."""
        caller = await self._door.caller(call)
        require(caller, "sale:read")
        if caller.session:
            # That one alone: another device may have come in since.
            ended = await session_store.end_session(self._postgres, caller.session, "user_logout")
            if ended is not None:
                self._activity.note("user_logout", caller.subject, call, session_id=ended.id)
        return Answer(LEFT)

    async def me(self, call: Call) -> Answer:
        """One's own account."""
        caller = await self._door.caller(call)
        require(caller, "sale:read")
        query = call.query
        whose = buyer_named(caller, as_buyer(query.get("userId", query.get("user_id"))))
        if whose is None:
            raise invalid("userId", "required: whose account is it?")
        if caller.kind == "shop":
            require(caller, "identity")
        user = await users.own(self._postgres, whose)
        return Answer(user_view(user), headers=[(b"etag", b'"%d"' % user.version)])

    # ── passwords ────────────────────────────────────────────────────────────────────────────

    async def change_password(self, call: Call) -> Answer:
        """Put a password in another's place.

        Every session of the account ends; whoever asked with one gets the tokens of a new one."""
        caller = await self._door.caller(call)
        require(caller, "sale:read")
        old, new = login_bodies.password_body(call).words
        entered = await self.desk.change_password(call, caller, old, new)
        self._activity.note("password_changed", caller.subject, call)
        if entered is None:
            return Answer(status=204)
        return await self._told(entered)

    async def forgot(self, call: Call) -> Answer:
        """Have a link mailed with which a new password can be chosen.

        The answer is always this one, whether or not there is such an account."""
        email = login_bodies.forgotten_body(call).address
        request = await self._request(call, email, "forgot_password")
        if call.budgets is not None:  # a mail is a try too
            call.budgets.check_guesser(call)
            call.budgets.failed(call)
        return await self._resets.ask(request, email, Answer(SENT, 202))

    async def reset(self, call: Call) -> Answer:
        """Choose a new password with the link from a mail.

        It opens once, for 30 minutes; every session of the account ends."""
        token, password = login_bodies.reset_body(call).words
        rules.choose(password)
        request = await self._request(call, token, "reset_password")
        id, answer = await self._resets.confirm(call, request, token, password, Answer(CHANGED))
        if id is not None:
            self._activity.note("password_reset", id, call)
        return answer

    # ── helpers ──────────────────────────────────────────────────────────────────────────────

    async def _request(self, call: Call, whose: str, operation: str) -> Request:
        """The identity of a request that needs no credential: whoever sends it, it is about this
        e-mail, or this link."""
        await self._door.caller(call)
        return arguments.request(call, ANYBODY, whose.lower(), operation)

    async def _told(
        self,
        entered: Entered,
        status: int = 200,
        headers: list[tuple[bytes, bytes]] | None = None,
    ) -> Answer:
        async with self._turns.turn():
            with idempotency.doubtful():
                user = await users.one(self._postgres, entered.session.user_id)
        return Answer(entered_view(entered, user), status, headers)

    def _address(self, call: Call) -> str | None:
        """Where a device is, whole, past the proxies that we trust."""
        return self._addresses.client(call.scope, call.headers)

    def _note_session(self, call: Call, entered: Entered) -> None:
        session = entered.session
        self._activity.note(
            "session_created",
            session.user_id,
            call,
            session_id=session.id,
            platform=session.platform,
        )
