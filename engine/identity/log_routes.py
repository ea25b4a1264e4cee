"""HTTP in, verb, HTTP out: what users did, and what operators did."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from engine.identity import deeds, log_described, trail_store
from engine.identity.access import require, require_admin
from engine.identity.arguments import id_in_path
from engine.identity.log_views import ActionCount, ActivityStats, activity_view, deed_view
from engine.identity.models import Caller
from engine.identity.parts import Parts
from engine.identity.trail_store import Wanted
from engine.infra.errors import Forbidden, Unauthorized
from engine.infra.http import Answer, Call, invalid, parse_time
from engine.infra.ids import parse_id
from engine.infra.lists import Page, listing, page_of
from engine.infra.routing import Route
from engine.record import activity_store
from engine.record.activity_store import Entry, Filter

COUNTED_MAX = 100_000  # rows of a list that are counted for its `meta`, and that pages lead to
TEXT_LENGTH = 200
ACTIVITY_CURSOR = re.compile(log_described.ACTIVITY_CURSOR)
DEED_CURSOR = re.compile(log_described.DEED_CURSOR)
BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)


class LogRoutes:
    """The handlers, and what they need. All of it is history: a replica may tell it."""

    def __init__(self, parts: Parts) -> None:
        self._reads, self._door, self._turns = parts.reads, parts.door, parts.turns

    def routes(self) -> list[Route]:
        """The table: operation, method, path, handler."""
        users = [
            Route("list_activity", "GET", "/activity-logs", self.list, log_described.LIST_ACTIVITY),
            Route(
                "recent_activity",
                "GET",
                "/activity-logs/user/{id}/recent",
                self.recent,
                log_described.RECENT_ACTIVITY,
            ),
            Route(
                "sum_activity",
                "GET",
                "/activity-logs/stats",
                self.stats,
                log_described.SUM_ACTIVITY,
            ),
        ]
        audit = Route(
            "list_deeds", "GET", "/admin/audit-log", self.list_deeds, log_described.LIST_DEEDS
        )
        return [self._turns.calm(each) for each in (*users, deeds.told(self._door, audit))]

    # ── users ────────────────────────────────────────────────────────────────────────────────

    async def list(self, call: Call) -> Answer:
        """What users did, newest first.

        A user hears what he did himself, an admin all of it. Kept for ACTIVITY_DAYS."""
        wanted = self._filter(call, await self._door.caller(call))
        page = _page(call)
        before = _activity_cursor(page)
        found = await activity_store.list_activity(
            self._reads, wanted, before, page.limit + 1, page.skip
        )
        items = None
        if page.page:
            items = await activity_store.count_activity(self._reads, wanted, COUNTED_MAX)
        more = len(found) > page.limit
        cursor = _cursor_of(found[page.limit - 1]) if more else None
        rows = [activity_view(each) for each in found[: page.limit]]
        return Answer(listing(rows, page, cursor, items))

    async def recent(self, call: Call) -> Answer:
        """What a user did last."""
        caller = await self._door.caller(call)
        wanted = Filter(user_id=_whose(caller, id_in_path(call, "User")))
        page = _page(call)
        found = await activity_store.list_activity(self._reads, wanted, None, page.limit + 1)
        more = len(found) > page.limit
        cursor = _cursor_of(found[page.limit - 1]) if more else None
        rows = [activity_view(each) for each in found[: page.limit]]
        return Answer(listing(rows, page, cursor))

    async def stats(self, call: Call) -> Answer:
        """How often each thing was done."""
        wanted = self._filter(call, await self._door.caller(call))
        found = await activity_store.sum_activity(self._reads, wanted)
        counts = [ActionCount(action, times) for action, times in found]
        return Answer(ActivityStats(sum(each.count for each in counts), counts))

    def _filter(self, call: Call, caller: Caller) -> Filter:
        query = call.query
        user = _id("userId", query.get("userId", query.get("user_id")))
        return Filter(
            _whose(caller, user),
            _id("sessionId", query.get("sessionId", query.get("session_id"))),
            _text("action", query.get("action")),
            _moment("startDate", query.get("startDate", query.get("start_date"))),
            _moment("endDate", query.get("endDate", query.get("end_date"))),
        )

    # ── operators ────────────────────────────────────────────────────────────────────────────

    async def list_deeds(self, call: Call) -> Answer:
        """What operators did, and others tried, newest first.

        Written before and after it; what has no end is under way, or its process died."""
        require_admin(await self._door.caller(call))
        query, page = call.query, _page(call)
        wanted = Wanted(
            _text("who", query.get("who")),
            _text("operation", query.get("operation")),
            _text("outcome", query.get("outcome")),
            _moment("from", query.get("from")),
            _moment("to", query.get("to")),
        )
        if page.cursor is not None and not DEED_CURSOR.fullmatch(page.cursor):
            raise invalid("cursor", "not a cursor of this list")
        before = None if page.cursor is None else int(page.cursor)
        found = await trail_store.list_deeds(self._reads, wanted, before, page.limit + 1, page.skip)
        items = None
        if page.page:
            items = await trail_store.count_deeds(self._reads, wanted, COUNTED_MAX)
        cursor = str(found[page.limit - 1].id) if len(found) > page.limit else None
        rows = [deed_view(each) for each in found[: page.limit]]
        return Answer(listing(rows, page, cursor, items))


def _whose(caller: Caller, user: str | None) -> str | None:
    """Whose activity this caller may read; None: everybody's."""
    if caller.may("identity"):
        return user
    if caller.kind == "anybody":
        raise Unauthorized
    if caller.kind != "buyer":
        require(caller, "identity")
    own = parse_id(caller.subject)
    if own is None or user not in (None, own):
        raise Forbidden("A user may read his own activity only")
    return own


def _page(call: Call) -> Page:
    page = page_of(call)
    if page.skip > COUNTED_MAX:
        raise invalid("page", f"past {COUNTED_MAX} rows only a cursor leads on")
    return page


def _id(field: str, given: str | None) -> str | None:
    if given is None:
        return None
    found = parse_id(given)
    if found is None:
        raise invalid(field, "want an id")
    return found


def _text(field: str, given: str | None) -> str | None:
    if given is None:
        return None
    if not (1 <= len(given) <= TEXT_LENGTH and given.isprintable()):
        raise invalid(field, f"want 1 to {TEXT_LENGTH} printable characters")
    return given


def _moment(field: str, given: str | None) -> datetime | None:
    return None if given is None else parse_time(field, given)


def _cursor_of(entry: Entry) -> str:
    """The moment in microseconds, so that none is skipped, and the id."""
    return f"{(entry.created_at - BEGINNING) // timedelta(microseconds=1)}_{entry.id}"


def _activity_cursor(page: Page) -> tuple[datetime, str] | None:
    if page.cursor is None:
        return None
    if not ACTIVITY_CURSOR.fullmatch(page.cursor):
        raise invalid("cursor", "not a cursor of this list")
    micros, _, id = page.cursor.partition("_")
    try:
        return BEGINNING + timedelta(microseconds=int(micros)), id
    except OverflowError:
        raise invalid("cursor", "not a cursor of this list") from None
