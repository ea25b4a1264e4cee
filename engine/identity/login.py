"""Login: who knows the password of an account gets a session and its tokens.

However it ends, it costs one look at the database and one hash, and a login that fails says one
sentence: nobody learns whether there is such an account.
"""

from __future__ import annotations

import msgspec

from engine.identity import beta, session_store, users
from engine.identity import passwords as rules
from engine.identity import user_store as store
from engine.identity.guesses import Guesses
from engine.identity.models import Caller, Device, Entered, LiveSession
from engine.identity.passwords import Passwords
from engine.identity.sessions import Sessions
from engine.identity.user_store import NewUser, User
from engine.infra.errors import Forbidden, IdempotencyMismatch, NotFound, Unauthorized
from engine.infra.http import Answer, Call, encode
from engine.infra.ids import Request
from engine.infra.postgres import Postgres, Session
from engine.infra.turns import Turns
from engine.record import idempotency

WRONG = "Invalid email or password"


class LoginDesk:
    """The logins of one worker."""

    def __init__(
        self,
        postgres: Postgres,
        turns: Turns,
        sessions: Sessions,
        passwords: Passwords,
        guesses: Guesses,
        is_private: bool,
        is_open: bool,
    ) -> None:
        self._postgres, self._turns = postgres, turns
        self._sessions, self._passwords, self._guesses = sessions, passwords, guesses
        self._is_private, self._is_open = is_private, is_open

    async def login(self, call: Call, email: str, password: str, device: Device) -> Entered:
        """A session for who knows the password. Raises `Unauthorized`, `RateLimited`, `Busy`."""
        user, rehash = await self._who(call, email, password)
        try:
            return await self._let_in(user, rehash, device)
        except Unauthorized:  # perhaps another login of it just made a better hash
            user, rehash = await self._who(call, email, password)
            return await self._let_in(user, rehash, device)

    async def _who(self, call: Call, email: str, password: str) -> tuple[User, str | None]:
        """Whose e-mail and password these are, and the hash to keep from now on."""
        until = self._passwords.until()
        async with self._guesses.trying(call, email, until):
            async with self._turns.turn():
                user = await store.find_user_by_email(self._postgres, email)
            hash = user.password_hash if user is not None and user.is_active else None
            who = self._guesses.who(call)
            verdict = await self._passwords.verify(password, hash, who, until)
            # The demo's accounts may be left from a day on which everybody was trusted.
            is_known = password == rules.WELL_KNOWN and not self._is_open
            if user is None or not verdict.ok or is_known:
                raise Unauthorized(WRONG)
            return user, verdict.rehash

    async def _let_in(
        self, user: User, rehash: str | None, device: Device, key: str | None = None
    ) -> Entered:
        """A session, if nobody changed the password or ended the account meanwhile."""
        async with self._turns.turn(), self._postgres.transaction() as session:
            now = await store.lock_user(session, user.id)
            if now is None or not now.is_active or now.password_hash != user.password_hash:
                raise Unauthorized(WRONG)
            if rehash is not None:
                await store.set_password(session, user.id, user.password_hash, rehash)
            return await self._sessions.enter(session, user.id, device, key)

    async def register(
        self,
        call: Call,
        request: Request,
        wish: NewUser,
        password: str,
        referral_key: str | None,
        device: Device,
    ) -> tuple[str, Entered, Answer]:
        """A new account and its first session: the account's id, the session, and how to answer.

        What is kept of the request is the account's id. Who repeats it with its key gets fresh
        tokens, and proves by the password that he is who sent it first. Raises `UserExists`, and
        what `beta.admit` raises."""
        meaning = f"register {(wish.email or '').lower()} {wish.username}"
        key = f"register:{call.key}" if request.keyed else None
        known = None
        if request.keyed:
            async with self._turns.turn():
                known = await idempotency.recall(self._postgres, request, meaning)
        if known is None:
            if request.over is not None:  # before it costs a hash
                raise request.over
            until = self._passwords.until()
            hash = await self._passwords.hash(password, self._guesses.who(call), until)
            entered: list[Entered] = []

            async def effect(session: Session) -> Answer:
                if self._is_private:
                    await beta.admit(session, wish.email or "", referral_key)
                account = msgspec.structs.replace(wish, password_hash=hash)
                await users.create(session, account)
                entered[:] = [await self._sessions.enter(session, wish.id, device, key)]
                return Answer(encode(wish.id), 201)

            async with self._turns.turn():
                known = await idempotency.once(self._postgres, request, meaning, effect)
            if not known.headers:  # no repetition
                return wish.id, entered[0], known
        id = msgspec.json.decode(known.body, type=str)
        with idempotency.doubtful():
            try:
                user, rehash = await self._who(call, wish.email or "", password)
            except Unauthorized:
                raise IdempotencyMismatch from None
            if user.id != id:
                raise IdempotencyMismatch
            return id, await self._let_in(user, rehash, device, key), known

    async def change_password(
        self, call: Call, caller: Caller, old: str, new: str
    ) -> Entered | None:
        """Another password for who knows the old one. Every session of the account ends; whoever
        came with one gets a new one on the same device. Raises `Unauthorized`."""
        user = await self._own(caller)
        rules.choose(new, user.email, user.username, field="newPassword")
        until = self._passwords.until()
        await self.prove(call, user, old, until)
        hash = await self._passwords.hash(new, self._guesses.who(call), until)
        async with self._turns.turn(), self._postgres.transaction() as session:
            now = await store.lock_user(session, user.id)
            is_old = now is not None and now.password_hash == user.password_hash
            if not is_old or not await store.put_password(session, user.id, hash):
                raise Unauthorized("The old password is wrong")
            ended = await session_store.end_sessions(session, user.id, "password_changed")
            ours = [each for each in ended if each.id == caller.session]
            return (
                await self._sessions.enter(session, user.id, device_of(ours[0])) if ours else None
            )

    async def prove(
        self, call: Call, user: User, password: str, until: float | None = None
    ) -> None:
        """Whether somebody knows an account's password. Raises `Unauthorized`, `RateLimited`,
        `Busy`."""
        until, who = until or self._passwords.until(), self._guesses.who(call)
        async with self._guesses.trying(call, user.email or user.id, until):
            verdict = await self._passwords.verify(password, user.password_hash, who, until)
            if not verdict.ok:
                raise Unauthorized("The old password is wrong")

    async def _own(self, caller: Caller) -> User:
        if caller.kind not in ("buyer", "admin"):
            raise Forbidden("Only an account changes its own password")
        async with self._turns.turn():
            user = await users.own(self._postgres, caller.subject)
        if user.password_hash is None:
            raise NotFound("This account has no password: have a link mailed to its e-mail")
        return user


def device_of(session: LiveSession) -> Device:
    """The device that a session was opened on."""
    return Device(*(getattr(session, name) for name in Device.__struct_fields__))
