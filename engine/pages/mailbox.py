"""/ops/mail: the mails that a developer's engine would send.

Where SMTP_URL is empty mails are files (infra/mail.py); with AUTH=open, which is for one's own
machine, this page shows them. Elsewhere there is no such page: mails hold what opens accounts.
"""

from __future__ import annotations

import asyncio
import re
from email import message_from_bytes, policy
from html import escape
from pathlib import Path

import msgspec

from engine.identity.access import Door
from engine.infra.errors import NotFound
from engine.infra.http import Answer, Call
from engine.infra.routing import Route
from engine.infra.settings import Settings

SHOWN_MAX = 50  # the newest
LETTER_BYTES_MAX = 65_536
AGAIN_SECONDS = 5
LINK = re.compile(r"(https?://[^\s<>\"']+)")
PAGE = """<!doctype html>
<html lang="en">
<head>
  <meta charset="utf-8">
  <meta name="viewport" content="width=device-width, initial-scale=1">
  <title>Mail · Velvetrope</title>
  <link rel="icon" href="/pictures/0-velvetrope.svg">
  <link rel="stylesheet" href="/assets/ops.css">
</head>
<body>
  <header>
    <h1>Velvetrope <span>mail</span></h1>
    <nav aria-label="Pages"><a href="/ops">Operations</a> <a href="/">Drops</a></nav>
  </header>
  <main>
    <p class="quiet-text">{lead}</p>
{letters}  </main>
</body>
</html>
"""
LETTER = """    <article class="letter">
      <h2>{subject}</h2>
      <p class="quiet-text">to {to} · {date}</p>
      <pre>{text}</pre>
    </article>
"""
WRITTEN = (
    "What a mail server would have been given, the newest first: SMTP_URL is empty."
    f" This page looks again every {AGAIN_SECONDS} seconds."
)
NONE = """    <p>No mails yet. What brings one: a forgotten password
    (<a href="/account#forgot">Account</a>), and a membership that is to move to another device
    (<a href="/membership">Members</a>).</p>
"""
SENT = "Mails are sent: SMTP_URL names a server."
HEADERS = [  # no script at all: what stands in a mail is not ours
    (
        b"content-security-policy",
        b"default-src 'none'; style-src 'self'; img-src 'self'; base-uri 'none';"
        b" form-action 'none'; frame-ancestors 'none'",
    ),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cache-control", b"no-store"),
]


class Letter(msgspec.Struct, frozen=True):
    """A mail that was written to a file."""

    subject: str
    to: str
    date: str
    text: str


class Mailbox:
    """The page of one worker."""

    def __init__(self, settings: Settings, door: Door) -> None:
        self._door = door
        self._is_open, self._is_sent = settings.auth == "open", bool(settings.smtp_url)
        self._folder = settings.data_dir / "mail"

    def routes(self) -> list[Route]:
        """/ops/mail, at the root."""
        return [Route("mailbox", "GET", "/ops/mail", self.show, root=True, operators=True)]

    async def show(self, call: Call) -> Answer:
        """The newest mails, for operators."""
        if not self._is_open:
            raise NotFound(f"There is no {call.scope['path']} here")
        await self._door.admit_operator(call)
        lead, shown, headers = SENT, "", HEADERS
        if not self._is_sent:
            letters = await asyncio.to_thread(read, self._folder)
            lead, shown = WRITTEN, "".join(_html(letter) for letter in letters) or NONE
            headers = [*HEADERS, (b"refresh", b"%d" % AGAIN_SECONDS)]
        page = PAGE.format(lead=lead, letters=shown)
        return Answer(page.encode(), headers=headers, content_type=b"text/html; charset=utf-8")


def read(folder: Path) -> list[Letter]:
    """The newest mails of a folder. Their names are their ids, which begin with their time."""
    found = []
    for path in sorted(folder.glob("*.eml"), reverse=True)[:SHOWN_MAX]:
        with path.open("rb") as file:
            found.append(_letter(file.read(LETTER_BYTES_MAX)))
    return found


def _letter(raw: bytes) -> Letter:
    message = message_from_bytes(raw, policy=policy.default)
    body = message.get_body(("plain",))
    subject, to, date = (str(message[name] or "") for name in ("Subject", "To", "Date"))
    return Letter(subject, to, date, "" if body is None else str(body.get_content()))


def _html(letter: Letter) -> str:
    """A letter, its links to be followed; nothing else of it is more than text."""
    pieces = LINK.split(letter.text)
    pieces[0::2] = [escape(piece) for piece in pieces[0::2]]
    pieces[1::2] = [f'<a href="{escape(link)}">{escape(link)}</a>' for link in pieces[1::2]]
    return LETTER.format(
        subject=escape(letter.subject),
        to=escape(letter.to),
        date=escape(letter.date),
        text="".join(pieces),
    )
