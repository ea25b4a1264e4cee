"""What one client process asked and was told, written down before sending and after the answer."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import msgspec

from loadtest.chaos.history import Complete, Invoke, Outcome, Verb, Writer, now
from loadtest.chaos.outcomes import is_strange, outcome
from loadtest.chaos.wire import Lost, Wire

PATIENCE_SECONDS = 6.5  # more than the service takes for anything


class Wish(msgspec.Struct, frozen=True, kw_only=True):
    """A request as a buyer means it; its sendings are copies of it. `body`: JSON, or nothing."""

    verb: Verb
    method: str
    path: str
    drop: int
    body: Any = None
    headers: dict[str, str] = {}
    buyer: str = ""
    key: str = ""
    quantity: int = 0
    subject: str = ""
    reference: str = ""
    said: str = ""


class Told(msgspec.Struct, frozen=True):
    """What came of one sending."""

    outcome: Outcome
    status: int = 0
    code: str = ""
    value: dict[str, Any] = {}
    replayed: bool = False


class Tally(msgspec.Struct):
    """Counts of one process, or of all."""

    ok: int = 0
    fail: int = 0
    info: int = 0
    ambiguous: int = 0  # keyed requests of which a sending had no definite answer
    resolved: int = 0  # … that have one now
    codes: Counter[str] = msgspec.field(default_factory=Counter)  # of everything but ok
    strange: Counter[str] = msgspec.field(default_factory=Counter)  # never to be given
    tricks: Counter[str] = msgspec.field(default_factory=Counter)  # by what buyers do

    def add(self, other: Tally) -> None:
        """Count another's as well."""
        for name in ("ok", "fail", "info", "ambiguous", "resolved"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for name in ("codes", "strange", "tricks"):
            getattr(self, name).update(getattr(other, name))


class Diary:
    """The history of one process, and its counts."""

    def __init__(self, folder: Path, process: str) -> None:
        self.tally = Tally()
        self.process = process
        self._writer = Writer(folder / f"{process}.jsonl")
        self._ops = 0

    async def attempt(
        self,
        wish: Wish,
        wire: Wire,
        copy: int = 1,
        patience_seconds: float = PATIENCE_SECONDS,
        hang_up_seconds: float | None = None,
    ) -> Told:
        """Send it once. Whatever becomes of it is written down."""
        self._ops += 1
        op = self._ops
        invoke = Invoke(
            at=now(),
            process=self.process,
            op=op,
            verb=wish.verb,
            drop=wish.drop,
            buyer=wish.buyer,
            key=wish.key,
            copy=copy,
            quantity=wish.quantity,
            subject=wish.subject,
            reference=wish.reference,
            said=wish.said,
        )
        self._writer.write(invoke)
        told = Told("info", 0, "cancelled")  # if we are ended meanwhile
        try:
            told = await _exchange(wish, wire, patience_seconds, hang_up_seconds)
        finally:
            self._writer.write(
                Complete(
                    at=now(),
                    process=self.process,
                    op=op,
                    outcome=told.outcome,
                    status=told.status,
                    code=told.code,
                    replayed=told.replayed,
                    value=told.value,
                )
            )
            self._count(told)
        return told

    def _count(self, told: Told) -> None:
        setattr(self.tally, told.outcome, getattr(self.tally, told.outcome) + 1)
        if told.outcome != "ok":
            self.tally.codes[told.code] += 1
        if is_strange(told.status, told.code):
            self.tally.strange[f"{told.status} {told.code}"] += 1


async def _exchange(wish: Wish, wire: Wire, patience: float, hang_up: float | None) -> Told:
    headers = dict(wish.headers)
    if wish.key:
        headers["Idempotency-Key"] = wish.key
    body = wish.body if isinstance(wish.body, bytes) else b""
    if wish.body is not None and not body:
        body = msgspec.json.encode(wish.body)
    try:
        reply = await wire.ask(wish.method, wish.path, body, headers, patience, hang_up)
    except Lost as lost:
        return Told("info", 0, lost.why)
    try:
        value = msgspec.json.decode(reply.body, type=dict[str, Any]) if reply.body else {}
    except msgspec.DecodeError:
        return Told("info", reply.status, "unreadable")
    code = str(value.get("error", "")) if reply.status >= 400 else ""
    replayed = "idempotent-replayed" in reply.headers
    return Told(outcome(reply.status, code), reply.status, code, value, replayed)
