"""The postman: takes what is due out of `mails`, finds out whether it is anybody's, and sends it.

A mail is put off before it is sent, so whoever dies with it leaves it to the next; it may then come
twice, with the same link. It is given up when its link is too old to be used.
"""

from __future__ import annotations

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


class Postman:
    """The mails of one keeper."""

    def __init__(
        self, postgres: Postgres, links: Links, mailer: Mailer, rest_seconds: float = REST_SECONDS
    ) -> None:
        self._postgres, self._links, self._mailer = postgres, links, mailer
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
        found = await store.open_reset(
            self._postgres, mail.subject_id, mail.address, mail.gives_up_at
        )
        if found is None:  # nobody's: whoever asked was told nothing else
            return True
        address, name = found  # as its account writes it, not as somebody typed it
        text = TEXT.format(
            name=name or address,
            link=self._links.link(mail.subject_id),
            until=f"{mail.gives_up_at:%H:%M}",
        )
        try:
            await self._mailer.send(mail.id, address, SUBJECT, text)
        except NotSent as wrong:
            if self._complaints.due(str(wrong)):
                log.warning("mail.not_sent", why=str(wrong), attempts=mail.attempts)
            return wrong.for_good
        return True
