"""A mail server of a test's own: takes what it is told to take, and keeps it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from email import message_from_bytes
from email.message import Message


class MailServer:
    """Speaks as much SMTP as a client needs (RFC 5321). `refusals`: replies to the next mails."""

    def __init__(self) -> None:
        self.port = 0
        self.taken: list[Message] = []
        self.refusals: list[str] = []

    @classmethod
    @asynccontextmanager
    async def open(cls) -> AsyncIterator[MailServer]:
        """Listen until the end."""
        mails = cls()
        server = await asyncio.start_server(mails._serve, "127.0.0.1", 0)
        mails.port = server.sockets[0].getsockname()[1]
        try:
            yield mails
        finally:
            server.close()
            await server.wait_closed()

    @property
    def url(self) -> str:
        """Its SMTP_URL."""
        return f"smtp://127.0.0.1:{self.port}"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 here\r\n")
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            while line := await reader.readline():
                word = line[:4].upper().strip()
                if word == b"DATA":
                    writer.write(b"354 go on\r\n")
                    raw = await reader.readuntil(b"\r\n.\r\n")
                    said = self.refusals.pop(0) if self.refusals else "250 taken"
                    if said.startswith("250"):
                        self.taken.append(message_from_bytes(raw[:-3]))
                    writer.write(f"{said}\r\n".encode())
                else:
                    writer.write(b"221 bye\r\n" if word == b"QUIT" else b"250 fine\r\n")
                    if word == b"QUIT":
                        break
        writer.close()
