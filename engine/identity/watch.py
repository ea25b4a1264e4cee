"""The watch: what became of credentials, followed by each process instead of asked for by each
request.

    session, user or key changes ─▶ credential_changes (in the same transaction, by triggers)
    every 300 ms one look ─▶ what was remembered of it is forgotten
    a request ─▶ what is remembered; else one look at its session, which is then remembered

A look sees what was committed since the snapshot of the look before: a transaction that began early
and committed late is in neither of the two that it lay between, and in the third. Where history was
lost, all is forgotten. While no look succeeded within FRESH_SECONDS nothing that is remembered
counts: then each request asks Postgres, and what cannot be asked is not decided.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection
from contextlib import suppress

import msgspec
import structlog

from engine.identity import session_store as store
from engine.identity.models import Caller
from engine.identity.session_store import Standing
from engine.identity.sessions import ended
from engine.infra.combiner import Combiner, Crew, Seat
from engine.infra.errors import Fault, Problem
from engine.infra.log import Seldom
from engine.infra.postgres import Postgres

log = structlog.get_logger()

PAUSE_SECONDS = 0.3
FRESH_SECONDS = 1.0
LONG_SECONDS = 600.0  # between two looks, by Postgres's clock: what happened may have been pruned
CHANGES_MAX = 10_000  # in one look; of more, all at once, it is cheaper to forget all
ANSWER_SECONDS = 4.0
REMEMBERED_MAX = 50_000


class Known(msgspec.Struct, frozen=True):
    """What is known of a session: whose it is, until when; or (`why`) what ended it."""

    caller: Caller
    expires_at: float  # seconds of Postgres's clock
    why: str = ""


class Watch:
    """The credentials of one process."""

    def __init__(self, postgres: Postgres, crew: Crew) -> None:
        self._postgres = postgres
        self._loading: Combiner[str, Known] = Combiner(
            crew, "sessions", self._load, deadline_seconds=ANSWER_SECONDS
        )
        self._known: dict[str, Known] = {}
        self._forgettings = 0
        self._snapshot: str | None = None
        self._history: tuple[object, ...] = ()
        self._looked_at = float("-inf")
        self._saw_at = float("-inf")  # the same by Postgres's clock, which also prunes
        self._ahead = (
            0.0  # Postgres's clock before our monotonic one, rather too far than too little
        )
        self._complaints = Seldom()
        self._watching: asyncio.Task[None] | None = None
        self._about_keys: list[Callable[[Collection[str] | None], None]] = []

    def tell_of_keys(self, forget: Callable[[Collection[str] | None], None]) -> None:
        """Call this with the ids of keys that changed; None: any may have."""
        self._about_keys.append(forget)

    @property
    def is_fresh(self) -> bool:
        """Whether what is remembered counts."""
        return time.monotonic() - self._looked_at < FRESH_SECONDS

    def known(self, session: str) -> Known | None:
        """What is known of a session now; None: Postgres must be asked."""
        known, now = self._known.get(session), time.monotonic()
        if known is None or now - self._looked_at >= FRESH_SECONDS:
            return None
        # Its end may have been put off, and our clock is not the one that decides: look again.
        return known if known.why or now + self._ahead < known.expires_at else None

    async def caller(self, claimed: Caller, keyed: bool = False) -> Caller:
        """Who speaks with a token of a session. Raises `SessionEnded`, or what can truthfully be
        said (`keyed`: of a request with a key) if Postgres cannot say."""
        known = self.known(claimed.session) or await self._loading.put(claimed.session, keyed)
        return _admitted(known, claimed)

    def not_ended(self, claimed: Caller) -> Caller:
        """The same as far as it is known without asking: who it is may turn out later. Raises
        `SessionEnded`."""
        known = self.known(claimed.session) if claimed.session else None
        return claimed if known is None else _admitted(known, claimed)

    async def over(self, sessions: Collection[str]) -> set[str]:
        """Which of these have ended. Raises `Fault`; nothing is asked while Postgres is away."""
        if not self.is_fresh:
            return set()
        unknown = [each for each in sessions if self.known(each) is None]
        seats = [self._loading.put(each) for each in unknown]
        for seat in seats:
            await seat
        known = {each: self.known(each) for each in sessions}
        return {each for each, found in known.items() if found is not None and found.why}

    async def _load(self, seats: list[Seat[str, Known]]) -> None:
        """What was forgotten while we looked may be older than that: it is told, not remembered."""
        turn = self._forgettings
        found = await store.find_sessions(self._postgres, {seat.wish for seat in seats})
        if len(self._known) + len(seats) > REMEMBERED_MAX:
            self._known.clear()
        for seat in seats:
            known = _known(found.get(seat.wish))
            if turn == self._forgettings:
                self._known[seat.wish] = known
            seat.answer(known)

    # ── following ────────────────────────────────────────────────────────────────────────────

    async def begin(self) -> None:
        """Follow, from now on. Postgres need not be there."""
        with suppress(Fault):
            await self._look()
        self._watching = asyncio.create_task(self._follow(), name="watch")

    async def close(self) -> None:
        """Follow no longer."""
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)

    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(PAUSE_SECONDS)
            try:
                await self._look()
            except Problem as problem:
                if self._complaints.due():
                    log.warning("watch.blind", why=type(problem).__name__)
            except Exception:
                log.exception("watch.failed")

    async def _look(self) -> None:
        asked_at = time.monotonic()
        seen = await store.follow_credentials(self._postgres, self._snapshot, CHANGES_MAX)
        history, now = (self._postgres.identity, self._postgres.epoch), seen.now.timestamp()
        # A machine that sleeps stops our own clock.
        is_long_ago = abs(now - self._saw_at) > LONG_SECONDS
        if seen.is_rewound or seen.is_cut or is_long_ago or history != self._history:
            self._forget_all()
        elif seen.changed:
            self._forget(seen.changed)
        self._snapshot, self._history = seen.snapshot, history
        self._saw_at, self._looked_at, self._ahead = now, asked_at, now - asked_at

    def _forget_all(self) -> None:
        self._forgettings += 1
        self._known.clear()
        for forget in self._about_keys:
            forget(None)

    def _forget(self, changed: list[tuple[str, str]]) -> None:
        self._forgettings += 1
        by_kind: dict[str, set[str]] = {"session": set(), "user": set(), "key": set()}
        for kind, id in changed:
            by_kind[kind].add(id)
        for session in by_kind["session"]:
            self._known.pop(session, None)
        if users := by_kind["user"]:
            known = self._known.items()
            self._known = {id: one for id, one in known if one.caller.subject not in users}
        if by_kind["key"]:
            for forget in self._about_keys:
                forget(by_kind["key"])


def _admitted(known: Known, claimed: Caller) -> Caller:
    if known.why or known.caller.subject != claimed.subject:
        raise ended(known.why)
    return known.caller


def _known(found: Standing | None) -> Known:
    if found is None:  # its history was lost, or another database signs with our secret
        return Known(Caller("anybody"), 0.0, "unknown")
    caller = Caller("admin" if found.role == "admin" else "buyer", found.user_id, session=found.id)
    why = "" if found.status == "active" else found.status
    if not why and not found.is_active:
        why = found.termination_reason or "unknown"
    if not why and found.is_past:
        why = "expired"
    return Known(caller, found.expires_at.timestamp(), why)
