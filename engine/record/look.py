"""Look: what the whole chain is like, for whoever asks, at the price of one look at a time.

A look reads everything, so there is at most one in five seconds, of all workers together; it takes
a share of one worker's time. Whoever asks meanwhile is told how far it is. The verdict is kept for
the others with a mac, so that one who may write rows cannot write that all is well.
"""

from __future__ import annotations

import asyncio
import hmac
import time
from collections.abc import Callable

import msgspec
import structlog

from engine.infra.combiner import Crew
from engine.infra.errors import Misconfigured, Problem, Retryable
from engine.infra.http import iso
from engine.infra.ids import new_id
from engine.infra.postgres import Postgres
from engine.record import books, ledger
from engine.record.keys import Keyring
from engine.record.models import Progress, Verdict
from engine.record.verify import verify

log = structlog.get_logger()

FRESH_SECONDS = 5.0
SILENT_SECONDS = 5.0  # without a sign of life, after which a look counts as dead
BEAT_SECONDS = 1.0
POLL_SECONDS = 0.2
SHARE = 0.25  # of a worker's time


class Told(msgspec.Struct, frozen=True):
    """A verdict, and when it was reached."""

    verdict: Verdict
    checked_at: str


class Looking:
    """The looks of one worker."""

    def __init__(self, postgres: Postgres, crew: Crew, ring: Callable[[], Keyring]) -> None:
        self._postgres, self._crew, self._ring = postgres, crew, ring
        self._task: asyncio.Task[Told | Problem] | None = None
        self._ended = float("-inf")
        self._beaten = 0.0
        self.checked, self.entries = 0, 0  # of the look under way, here or elsewhere

    async def look(self, patience_seconds: float) -> Told | None:
        """The verdict of a moment ago, or of the look that begins now; None if it takes longer.
        Raises what it failed of."""
        task = self._task
        if task is None or (task.done() and time.monotonic() > self._ended + FRESH_SECONDS):
            task = self._task = self._crew.start(self._watch(), "ledger-look")
        done, _ = await asyncio.wait([task], timeout=patience_seconds)
        if not done:
            return None
        found = task.result()
        if isinstance(found, Problem):
            raise found
        return found

    async def keep_fresh(self, seconds: float) -> None:
        """Look, in the caller's task, if no worker did for so long."""
        seen = await books.progress(self._postgres)
        age = (seen.now - seen.ended_at).total_seconds() if seen.verdict else seconds
        runner = new_id()
        if age >= seconds and await books.claim_check(self._postgres, runner, SILENT_SECONDS, 0):
            await self._run(runner)

    async def _watch(self) -> Told | Problem:
        """A verdict: another worker's, or else our own."""
        try:
            while True:
                seen = await books.progress(self._postgres)
                told = self._fresh(seen)
                if told is not None:
                    return told
                runner = new_id()
                if await books.claim_check(self._postgres, runner, SILENT_SECONDS, 0):
                    return await self._run(runner)
                self.checked, self.entries = seen.checked, seen.entries
                await self._pause()
        except Problem as problem:
            self._task = None  # the next who asks tries again
            return problem
        except Misconfigured as wrong:
            self._task = None
            log.warning("ledger.cannot_verify", why=str(wrong))
            return Retryable("The ledger cannot be verified here: this server has no HMAC_SECRET")
        finally:
            self._ended = time.monotonic()

    async def _pause(self) -> None:
        if self._crew.closing:
            raise Retryable
        await asyncio.sleep(POLL_SECONDS)

    async def _run(self, runner: str) -> Told:
        async def told(checked: int, entries: int) -> None:
            self.checked, self.entries = checked, entries
            if self._crew.closing:
                raise Retryable
            if time.monotonic() > self._beaten + BEAT_SECONDS:
                self._beaten = time.monotonic()
                await books.beat_check(self._postgres, runner, checked, entries)

        text = mac = moment = None
        try:
            ring = self._ring()
            verdict = await verify(self._postgres, ring, share=SHARE, told=told)
            if not verdict.valid:
                log.error(
                    "ledger.broken",
                    sequence=verdict.invalid_at,
                    reason=verdict.reason,
                    subject=verdict.subject,
                )
            moment = (await books.progress(self._postgres)).now
            found = Told(verdict, iso(moment))
            body = msgspec.json.encode(found)
            text, mac = body.decode(), ledger.data_hash(ring.secrets[ring.hmac_key], body)
            return found
        finally:
            await books.end_check(self._postgres, runner, text, mac, moment)

    def _fresh(self, seen: Progress) -> Told | None:
        """What another worker found a moment ago, if it was one of ours."""
        age = (seen.now - seen.ended_at).total_seconds() if seen.verdict else FRESH_SECONDS
        if seen.verdict is None or seen.mac is None or age >= FRESH_SECONDS:
            return None
        ring = self._ring()
        body = seen.verdict.encode()
        ours = ledger.data_hash(ring.secrets[ring.hmac_key], body)
        if not hmac.compare_digest(ours, seen.mac):
            return None
        told = msgspec.json.decode(body, type=Told)
        return told if told.checked_at == iso(seen.ended_at) else None
