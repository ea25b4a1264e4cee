"""Verify: the whole chain, and the sale behind it, read once from the first record to the last.

No snapshot is held: what is sealed never changes, so pages that were read one after the other, up
to a head that was read before, are as good as one look; and each page of purchases is compared with
what is sealed and what waits in one statement, between which nothing is.

Pages are small and a pause follows each, so that the process that looks serves others meanwhile.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable

from engine.infra.errors import NotFound
from engine.infra.postgres import Postgres
from engine.record import books
from engine.record.check import Checker, Flaw
from engine.record.keys import Keyring
from engine.record.models import Head, Link, Record, Verdict

LINKS = 500  # in a page
RECORDS = 1_000
PURCHASES = 1_000
PAUSE_SECONDS_MAX = 1.0

Told = Callable[[int, int], Awaitable[object]]


async def nobody(_checked: int, _entries: int) -> None:
    """Nobody wants to know."""


async def verify(
    postgres: Postgres,
    ring: Keyring,
    *,
    witness: Head | None = None,
    share: float = 1.0,
    told: Told = nobody,
) -> Verdict:
    """Look at everything. `share` of its time is used; `told` hears how many records were checked,
    of how many. `witness` is a head that was kept elsewhere, which must be of this chain."""
    try:
        ends = await books.ends(postgres)
    except NotFound:
        return Verdict(False, 0, None, "bad_head")
    checker = Checker(ring, await books.keys(postgres), witness)
    pace, entries = Pace(share), ends.head.sequence
    chain = Chain(postgres, ends.head, pace, told)
    try:
        async for link, following in chain.links():
            checker.begin(link, following)
            async for record in chain.records(link.first + link.records - 1):
                checker.record(record)
            checker.end()
        checker.close(ends.head)
        if ends.last_height > ends.head.height or ends.last_sequence > ends.head.sequence:
            raise Flaw(entries + 1, "inserted")
        if ends.has_strays:
            raise Flaw(None, "inserted")
        await _miss_nothing(postgres, pace, lambda: told(entries, entries))
    except Flaw as flaw:
        reason = flaw.reason
        due = checker.height + 1
        if reason == "removed" and await books.is_elsewhere(postgres, checker.previous, due):
            reason = "reordered"
        return Verdict(False, entries, flaw.sequence, reason, flaw.subject)
    return Verdict(True, entries, unchecked=sorted(checker.unchecked))


class Chain:
    """Links and records up to a head, page after page: a page may end amid a block, or hold many
    entries."""

    def __init__(self, postgres: Postgres, head: Head, pace: Pace, told: Told = nobody) -> None:
        self._postgres, self._head, self._pace, self._told = postgres, head, pace, told
        self._page: deque[Record] = deque()
        self._read = 0

    async def links(self) -> AsyncIterator[tuple[Link, Link | None]]:
        """Every link, with the one after it."""
        after, before = 0, None
        while after < self._head.height:
            count = min(LINKS, self._head.height - after)
            page = await books.links(self._postgres, after, count)
            await self._pace.rest()
            for link in page:
                if link.height > self._head.height:
                    break
                if before is not None:
                    yield before, link
                before = link
            if not page:
                break
            after = page[-1].height
        if before is not None:
            yield before, None

    async def records(self, last: int) -> AsyncIterator[Record]:
        """The records that were not given yet, up to a sequence."""
        while True:
            while self._page and self._page[0].sequence <= last:
                yield self._page.popleft()
            end = min(last, self._head.sequence)
            if self._page or self._read >= end:
                return
            first = self._read + 1
            self._read = min(self._read + RECORDS, self._head.sequence)
            self._page.extend(await books.records(self._postgres, first, self._read))
            await self._pace.rest()
            await self._told(first - 1, self._head.sequence)


async def _miss_nothing(
    postgres: Postgres, pace: Pace, told: Callable[[], Awaitable[object]]
) -> None:
    """Every fact has its one record, sealed or waiting. Raises `Flaw`."""
    first, last = "", books.NOBODY
    while last != first:
        first = last  # looked at twice: so there is no id before the first
        found, faults = await books.missing(postgres, first, PURCHASES)
        for subject, reason in faults:
            raise Flaw(None, reason, subject)
        last = found or first
        await pace.rest()
        await told()


class Pace:
    """Works a share of the time."""

    def __init__(self, share: float) -> None:
        self._idle_per_work = 1 / share - 1
        self._since = time.monotonic()

    async def rest(self) -> None:
        """Let others be served, in proportion to the time since the last rest."""
        worked = time.monotonic() - self._since
        await asyncio.sleep(min(worked * self._idle_per_work, PAUSE_SECONDS_MAX))
        self._since = time.monotonic()
