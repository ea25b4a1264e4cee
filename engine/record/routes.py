"""HTTP in, verb, HTTP out: the ledger. Every handler is a translation, no more."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Protocol

from msgspec import UNSET

from engine.infra.combiner import Crew
from engine.infra.errors import NotFound, Retryable
from engine.infra.http import Answer, Call, invalid
from engine.infra.lists import Listing
from engine.infra.postgres import Postgres
from engine.infra.reads import steady
from engine.infra.routing import Route
from engine.infra.settings import Settings
from engine.infra.turns import Turns
from engine.record import books, described, keys, transcript
from engine.record.described import LIMIT, LIMIT_MAX, SEQUENCE_MAX
from engine.record.look import Looking
from engine.record.proof import proof, signed_head
from engine.record.verify import Pace
from engine.record.views import (
    EntryView,
    KeysView,
    ProgressView,
    VerdictView,
    entry_view,
    key_view,
)

PATIENCE_SECONDS = 2.5  # for a look; longer ones are asked for again
RETRY = [(b"retry-after", b"1")]
EXPORT_SHARE = 0.25  # of a worker's time
NAME = (b"content-disposition", b'attachment; filename="ledger.ndjson"')


class Doorkeeper(Protocol):
    """Who knows who calls (engine/identity/access.py)."""

    async def is_operator(self, call: Call) -> bool:
        """Whether an operator calls. A bad credential is refused."""

    async def admit_operator(self, call: Call) -> None:
        """Refuse whoever is none."""


class LedgerRoutes:
    """The handlers, and what they need."""

    def __init__(
        self,
        settings: Settings,
        postgres: Postgres,
        reads: Postgres,
        crew: Crew,
        door: Doorkeeper,
        turns: Turns,
    ) -> None:
        self._settings, self._postgres, self._door, self._turns = settings, postgres, door, turns
        self._reads = reads
        self._keyring: keys.Keyring | None = None
        self._looking = Looking(postgres, crew, self._ring)
        self._exporting = False

    def routes(self) -> list[Route]:
        """The table: operation, method, path, handler."""
        calm, urgent = self._turns.calm, self._turns.urgent
        return [
            calm(Route("ledger", "GET", "/ledger", self.list, described.LIST)),
            # No turn: who waits for a look that is under way takes no connection.
            urgent(Route("verify", "GET", "/ledger/verify", self.verify, described.VERIFY)),
            calm(Route("ledger_key", "GET", "/ledger/key", self.key, described.KEY)),
            calm(Route("ledger_head", "GET", "/ledger/head", self.head, described.HEAD)),
            calm(Route("ledger_export", "GET", "/ledger/export", self.export, described.EXPORT)),
            calm(Route("proof", "GET", "/ledger/{id}/proof", self.proof, described.PROOF)),
        ]

    async def list(self, call: Call) -> Answer:
        """The newest records of the ledger.

        Who bought is a salted hash. Records of a block share its link: hashes and nonce."""
        await self._door.is_operator(call)
        query = call.query
        limit = _number("limit", query.get("limit") or str(LIMIT), LIMIT_MAX)
        cursor = query.get("cursor") or ""
        before = _number("cursor", cursor, SEQUENCE_MAX) if cursor else SEQUENCE_MAX
        found = await books.shown(self._reads, before, limit + 1)
        rows = [entry_view(record) for record in found[:limit]]
        more = str(rows[-1].sequence) if len(found) > limit else None
        return Answer(Listing[EntryView](rows, more))

    async def verify(self, call: Call) -> Answer:
        """Is the whole ledger what was sealed?

        Reads everything, at most once in five seconds. 202 while that takes longer: ask again."""
        is_operator = await self._door.is_operator(call)
        told = await self._looking.look(PATIENCE_SECONDS)
        if told is None:
            seen = ProgressView(self._looking.checked, self._looking.entries)
            return Answer(seen, 202, RETRY)
        found = told.verdict
        view = VerdictView(
            found.valid,
            found.entries,
            told.checked_at,
            found.invalid_at or UNSET,
            found.reason or UNSET,
            (is_operator and found.subject) or UNSET,
            found.unchecked or UNSET,
        )
        return Answer(view)

    async def proof(self, call: Call) -> Answer:
        """Prove one record.

        Its content, and the hashes from it to the signed head: checked offline, by anybody."""
        await self._door.is_operator(call)
        id = call.params["id"]
        if not id.isascii() or not id.isdigit() or len(id) > len(str(SEQUENCE_MAX)):
            raise NotFound("There is no such record in the ledger")
        return Answer(await proof(self._postgres, self._ring(), min(int(id), SEQUENCE_MAX)))

    async def key(self, call: Call) -> Answer:
        """The public key that heads are signed with, and those before it."""
        await self._door.is_operator(call)
        known = await books.keys(self._postgres)
        if known:
            now = known[-1].signing_key, known[-1].public_key.hex()
        else:  # nothing is sealed yet: it will be this one
            ring = self._ring()
            now = ring.signing_key, (ring.public(ring.signing_key) or b"").hex()
        return Answer(KeysView(*now, [key_view(key) for key in known]))

    async def head(self, call: Call) -> Answer:
        """Where the chain ends, signed.

        Whoever keeps it can prove later that nothing before it was taken away or changed."""
        await self._door.is_operator(call)
        return Answer(await signed_head(self._postgres, self._ring()))

    async def export(self, call: Call) -> Answer:
        """The whole ledger, a line for each key, link and record; the head at the end.

        `velvetrope ledger verify FILE` checks it with no server."""
        await self._door.admit_operator(call)
        if call.scope["method"] == "HEAD":
            return Answer(headers=[NAME], content_type=transcript.MEDIA_TYPE, pieces=_nothing())
        if self._exporting:
            raise Retryable("The ledger is being exported here: try again later")

        async def pieces() -> AsyncGenerator[bytes, None]:
            self._exporting = True
            try:
                lines = transcript.lines(await steady(self._reads), Pace(EXPORT_SHARE))
                async with aclosing(lines):
                    async for piece in lines:
                        yield piece
            finally:
                self._exporting = False

        return Answer(headers=[NAME], content_type=transcript.MEDIA_TYPE, pieces=pieces())

    def _ring(self) -> keys.Keyring:
        """Our keys. Only when somebody wants them: without them the sale goes on."""
        if self._keyring is None:
            self._keyring = keys.ring(self._settings)
        return self._keyring


def _number(field: str, text: str, high: int) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > len(str(high)):
        raise invalid(field, f"want 1 to {high}")
    if not 1 <= int(text) <= high:
        raise invalid(field, f"want 1 to {high}")
    return int(text)


async def _nothing() -> AsyncGenerator[bytes, None]:
    for piece in list[bytes]():
        yield piece
