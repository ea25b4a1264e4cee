"""Resets: a new password for who can read the mails of an account.

    asked ─▶ a mail is wanted ─▶ postman: is it an account's? ─▶ its link, by mail ─▶ used, once

Who asks writes one row, whosever e-mail it is, so neither the answer nor its time tells whether it
is anybody's. A link is its id and an HMAC of it: nothing that opens an account is kept, or logged.
"""

from __future__ import annotations

import hmac
import re
from functools import cached_property

from engine.identity import passwords as rules
from engine.identity import user_store as store
from engine.identity.errors import LinkExpired
from engine.identity.guesses import Guesses
from engine.identity.passwords import Passwords
from engine.identity.sessions import end_all
from engine.infra.errors import Unauthorized
from engine.infra.http import Answer, Call
from engine.infra.ids import Request, new_id, parse_id
from engine.infra.postgres import Postgres, Session
from engine.infra.settings import Settings
from engine.infra.turns import Turns
from engine.record import idempotency, keys

LIFE_SECONDS = 1_800.0
FORM = re.compile(r"vrp_([0-9a-f]{32})_([0-9a-f]{64})")


class Links:
    """Makes links, and reads them."""

    def __init__(self, settings: Settings) -> None:
        self._settings, self._base = settings, base_of(settings)

    @cached_property
    def _secrets(self) -> list[bytes]:
        return keys.in_order(self._settings)

    def token(self, id: str) -> str:
        """What opens this reset."""
        return f"vrp_{id.replace('-', '')}_{_mac(self._secrets[0], id)}"

    def link(self, id: str) -> str:
        """The page where it is used. What stands behind the # is in no log of any server."""
        return f"{self._base}/account#reset={self.token(id)}"

    def read(self, token: str) -> str | None:
        """The reset that a token opens; None if it is none of ours."""
        form = FORM.fullmatch(token)
        id = form and parse_id(form[1])
        if form is None or id is None:
            return None
        ours = any(hmac.compare_digest(_mac(secret, id), form[2]) for secret in self._secrets)
        return id if ours else None


def base_of(settings: Settings) -> str:
    """Where links of mails lead: PUBLIC_URL, or where we listen."""
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return (settings.public_url or f"http://{host}:{settings.port}").rstrip("/")


def _mac(secret: bytes, id: str) -> str:
    return hmac.new(secret, f"velvetrope password reset\0{id}".encode(), "sha256").hexdigest()


class Resets:
    """The resets of one worker."""

    def __init__(
        self,
        postgres: Postgres,
        turns: Turns,
        passwords: Passwords,
        guesses: Guesses,
        links: Links,
    ) -> None:
        self._postgres, self._turns = postgres, turns
        self._passwords, self._guesses, self._links = passwords, guesses, links

    async def ask(self, request: Request, email: str, answer: Answer) -> Answer:
        """Have a link mailed to an e-mail, if it is an account's."""
        is_wanted = self._guesses.wants_mail(email)

        async def effect(session: Session) -> Answer:
            if is_wanted:
                await store.want_reset(session, new_id(), email, new_id(), LIFE_SECONDS)
            return answer

        meaning = f"reset_password {email.lower()}"
        async with self._turns.turn():
            return await idempotency.once(self._postgres, request, meaning, effect)

    async def confirm(
        self, call: Call, request: Request, token: str, new: str, answer: Answer
    ) -> tuple[str | None, Answer]:
        """Use a link: the password is this from now on, and every session of the account ends.
        Whose it was, None of a repetition. Raises `LinkExpired`."""
        id = self._links.read(token)
        meaning = f"confirm_reset {id}"
        if request.keyed and id is not None:
            async with self._turns.turn():
                known = await idempotency.recall(self._postgres, request, meaning)
            if known is not None:
                return None, known
        until = self._passwords.until()
        try:
            async with self._guesses.trying(call, None, until):
                if id is None:
                    raise Unauthorized
        except Unauthorized:
            raise LinkExpired from None
        async with self._turns.turn():
            found = await store.find_reset(self._postgres, id)
        if found is None:
            raise LinkExpired
        rules.choose(new, *found[1:])
        hash = await self._passwords.hash(new, self._guesses.who(call), until)
        used: list[str] = []

        async def effect(session: Session) -> Answer:
            user = await store.lock_user(session, found[0])
            if user is None or await store.use_reset(session, id) is None:
                raise LinkExpired
            if not await store.put_password(session, user.id, hash):
                raise LinkExpired
            await end_all(session, user.id, "password_reset")
            used[:] = [user.id]
            return answer

        async with self._turns.turn():
            answer = await idempotency.once(self._postgres, request, meaning, effect)
        return (used[0] if not answer.headers else None), answer
