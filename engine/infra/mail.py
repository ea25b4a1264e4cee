"""Mail: one message to one server, by SMTP; without a server, a file that a developer can read.

smtp://user:password@host:587     STARTTLS, without which nothing is sent but to this machine
smtps://user:password@host:465    TLS from the first byte
"""

from __future__ import annotations

import asyncio
import os
from email.message import EmailMessage
from email.utils import formatdate
from pathlib import Path
from urllib.parse import unquote, urlsplit

import aiosmtplib
import structlog

from engine.infra.settings import Settings

log = structlog.get_logger()

TIMEOUT_SECONDS = 15.0
LOOPBACK = ("localhost", "127.0.0.1", "::1")


class NotSent(Exception):
    """The server did not take it. `for_good`: it will not take it later either."""

    def __init__(self, why: str, for_good: bool = False) -> None:
        self.for_good = for_good
        super().__init__(why)


class Mailer:
    """Sends mails from one address."""

    def __init__(self, settings: Settings) -> None:
        self._url, self._from = settings.smtp_url, settings.mail_from
        self._folder = settings.data_dir / "mail"

    async def send(self, id: str, to: str, subject: str, text: str) -> None:
        """Send a mail once; its id is the same whenever it is sent again. Raises `NotSent`."""
        message = EmailMessage()
        message["From"], message["Subject"] = self._from, subject
        try:
            message["To"] = to
        except Exception as wrong:  # of what is no address the library raises anything
            raise NotSent(f"no address: {type(wrong).__name__}", for_good=True) from None
        message["Date"] = formatdate()
        domain = self._from.rpartition("@")[2].rstrip(">") or "localhost"
        message["Message-ID"] = f"<{id}@{domain}>"
        message["Auto-Submitted"] = "auto-generated"
        message.set_content(text)
        if self._url:
            await self._deliver(message, to)
        else:
            path = await asyncio.to_thread(self._write, id, message)
            log.warning("mail.is_a_file", path=str(path), mend="SMTP_URL names a mail server")

    def _write(self, id: str, message: EmailMessage) -> Path:
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        path = self._folder / f"{id}.eml"
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        with os.fdopen(os.open(path, flags, 0o600), "wb") as file:
            file.write(bytes(message))
        return path

    async def _deliver(self, message: EmailMessage, to: str) -> None:
        parts = urlsplit(self._url)
        is_tls, host = parts.scheme == "smtps", parts.hostname or ""
        try:
            await aiosmtplib.send(
                message,
                recipients=[to],  # not what a header can be made to say
                hostname=host,
                port=parts.port or (465 if is_tls else 587),
                username=None if parts.username is None else unquote(parts.username),
                password=None if parts.password is None else unquote(parts.password),
                use_tls=is_tls,
                # To a server on this machine whatever it can; elsewhere not in the clear.
                start_tls=False if is_tls else None if host in LOOPBACK else True,
                timeout=TIMEOUT_SECONDS,
            )
        except aiosmtplib.SMTPRecipientsRefused as refused:
            codes = [each.code for each in refused.recipients]
            raise NotSent("the recipient is refused", all(c >= 500 for c in codes)) from None
        except aiosmtplib.SMTPResponseException as refused:
            raise NotSent(f"the server says {refused.code}") from None
        except (aiosmtplib.SMTPException, OSError, ValueError) as wrong:
            raise NotSent(type(wrong).__name__) from None
