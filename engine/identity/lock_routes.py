"""HTTP in, verb, HTTP out: who has which lock."""

from __future__ import annotations

from typing import Annotated

import msgspec

from engine.identity.access import require_admin
from engine.identity.parts import Parts
from engine.infra import locks
from engine.infra.describe import About, Moment, paged, shown
from engine.infra.http import Answer, Call, invalid, iso
from engine.infra.lists import Listing, listing, page_of
from engine.infra.locks import LockRow
from engine.infra.routing import Route


class LockView(msgspec.Struct, rename="camel"):
    """A named lock. `token` rises with each owner; `live` while somebody has it."""

    name: Annotated[str, shown(examples=["auditor"])]
    owner: Annotated[str | None, shown("Machine, process and a word of its own.")]
    token: int
    acquired_at: Moment
    expires_at: Moment
    live: bool


LIST_LOCKS = About(
    "Operators",
    "admin",
    counted="admin",
    query=paged("[ -~]{1,200}"),
    answers={200: Listing[LockView]},
)


class LockRoutes:
    """The one handler, and what it needs."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    def routes(self) -> list[Route]:
        """The table: operation, method, path, handler."""
        route = Route("list_locks", "GET", "/locks", self.list_locks, LIST_LOCKS)
        return [self._parts.turns.calm(route)]

    async def list_locks(self, call: Call) -> Answer:
        """All named locks, by name.

        One that was given back, or ran out, stays: so does its token."""
        require_admin(await self._parts.door.caller(call))
        page, postgres = page_of(call), self._parts.postgres
        if page.cursor is not None and not page.cursor.isprintable():
            raise invalid("cursor", "not a cursor of this list")
        found = await locks.rows(postgres, page.cursor, page.limit + 1, page.skip)
        items = await locks.count(postgres) if page.page else None
        shown = [_view(row) for row in found[: page.limit]]
        more = shown[-1].name if len(found) > page.limit else None
        return Answer(listing(shown, page, more, items))


def _view(row: LockRow) -> LockView:
    moments = iso(row.acquired_at), iso(row.expires_at)
    return LockView(row.name, row.owner, row.token, *moments, row.live)
