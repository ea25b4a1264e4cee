"""The postman: takes what is due out of `mails`, has its letter written, and sends it.

Who writes depends on the kind of the mail. A letter is written when it is sent, of how things are
then: one that is nobody's any more is not. A mail is put off before it is sent, so whoever dies
with it leaves it to the next; it may then come twice, with the same link. It is given up when its
link is too old to be used.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

import msgspec
import structlog

from engine.identity import user_store as store
from engine.identity.resets import Links
from engine.identity.user_store import Mail
from engine.infra.log import Seldom
from engine.infra.mail import Mailer, NotSent
from engine.infra.postgres import Postgres

log = structlog.get_logger()

REST_SECONDS = 20.0  # until a mail is tried again, then twice as long each time
SUBJECT = "Choose a new password"
TEXT = """Hello {name},

somebody, you we hope, forgot the password of your account. Choose a new one here:

{link}

The link opens once, until {until} UTC. If it was not you, there is nothing to do: your password is
what it was.
"""


class Letter(msgspec.Struct, frozen=True):
    """A mail as it is sent."""

    address: str
    subject: str
    text: str


Writer = Callable[[Mail], Awaitable[Letter | None]]  # None: it is nobody's, or nobody's any more


class Postman:
    """The mails of one keeper. `writers` by the mails' kinds: a kind that none of them writes is
    left to a process that knows it."""

    def __init__(
        self,
        postgres: Postgres,
        mailer: Mailer,
        writers: Mapping[str, Writer],
        rest_seconds: float = REST_SECONDS,
    ) -> None:
        self._postgres, self._mailer, self._writers = postgres, mailer, writers
        self._rest_seconds = rest_seconds
        self._complaints = Seldom()

    async def deliver(self) -> bool:
        """Take one mail that is due; whether there was one."""
        mail = await store.take_mail(self._postgres, self._rest_seconds)
        if mail is None:
            return False
        if mail.over:
            log.warning("mail.given_up", id=mail.id, attempts=mail.attempts - 1)
        elif not await self._send(mail):
            return True  # later again
        await store.drop_mail(self._postgres, mail.id)
        return True

    async def _send(self, mail: Mail) -> bool:
        """Whether it is done with."""
        write = self._writers.get(mail.kind)
        if write is None:
            return False
        letter = await write(mail)
        if letter is None:
            return True
        try:
            await self._mailer.send(mail.id, letter.address, letter.subject, letter.text)
        except NotSent as wrong:
            if self._complaints.due(str(wrong)):
                log.warning("mail.not_sent", why=str(wrong), attempts=mail.attempts)
            return wrong.for_good
        return True


def of_resets(postgres: Postgres, links: Links) -> Writer:
    """Who writes to those who forgot their password."""

    async def write(mail: Mail) -> Letter | None:
        found = await store.open_reset(postgres, mail.subject_id, mail.address, mail.gives_up_at)
        if found is None:  # nobody's: whoever asked was told nothing else
            return None
        address, name = found  # as its account writes it, not as somebody typed it
        text = TEXT.format(
            name=name or address,
            link=links.link(mail.subject_id),
            until=f"{mail.gives_up_at:%H:%M}",
        )
        return Letter(address, SUBJECT, text)

    return write
