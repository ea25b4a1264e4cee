"""The trail: the audit log, two rows an act, of which nobody changes any.

    began = await trail.begin(act)        before it: what is not written down is not done
    …
    await trail.end(began, act, ended)    after it, however it ended
    trail.refused(act, ended)             one row for who may not; so many, and no more

An act without an end was under way when somebody looked, or when its process died.

What strangers are refused is bounded: nothing is ever taken out of this table, so that whoever
could fill it would. Who has a good credential and those who have none have budgets of their own;
what is beyond is in the log and in a metric.
"""

from __future__ import annotations

import asyncio
import re
import time
from typing import Any

import msgspec
import structlog

from engine.identity import trail_store
from engine.identity.trail_store import Act, Ended
from engine.infra import storable
from engine.infra.addresses import Addresses
from engine.infra.combiner import Crew
from engine.infra.errors import Fault
from engine.infra.http import Call
from engine.infra.meter import meter
from engine.infra.postgres import Postgres

log = structlog.get_logger()

# Their first row must not stop them: what cannot be written down is done all the same, and said.
BRAKES = frozenset({"pause"})
REFUSALS_AT_ONCE, REFUSAL_SECONDS = 60, 10.0  # a worker and kind of caller; one comes back in
RETRY_SECONDS = 1.0
TARGET_LENGTH, ADDRESS_LENGTH, CHANGE_BYTES = 200, 64, 4_096
# And what names a person: he may want to be forgotten, and nothing is ever taken out.
SECRETS = re.compile(
    "pass(word|wd|phrase)|secret|token|signature|authorization|credential|otp|privatekey|keys?$"
    "|mail|phone|wallet|username|displayname|privyid"
)
# What is somebody's, and not the log's to keep: who is erased cannot be erased from what stays.
PERSONAL = frozenset(
    {
        *("email", "useremail", "phone", "username", "displayname", "privyid", "walletaddress"),
        *("deviceid", "devicename"),
    }
)
HIDDEN = "***"


class Trail:
    """The audit log, as one process writes it."""

    def __init__(self, postgres: Postgres, crew: Crew, addresses: Addresses) -> None:
        self._postgres, self._crew, self._addresses = postgres, crew, addresses
        self._known, self._strangers = _Allowance(), _Allowance()

    def act(self, call: Call, who: str, operation: str, change: object = None) -> Act:
        """What a call is about, as it is written down."""
        target = call.params.get("id")
        address = self._addresses.client(call.scope, call.headers)
        return Act(
            storable.text(who, TARGET_LENGTH),
            operation,
            None if target is None else storable.text(target, TARGET_LENGTH),
            written(change),
            call.request_id,
            None if address is None else storable.text(address, ADDRESS_LENGTH),
        )

    async def begin(self, act: Act) -> int | None:
        """Write down what is about to be done. Raises a `Fault` if that cannot be, unless it is an
        urgent switch: then None."""
        try:
            return await trail_store.begin_deed(self._postgres, act)
        except Fault as fault:
            if act.operation not in BRAKES:
                raise
            meter.count("deeds_unwritten", "begin")
            log.error("admin.unwritten", why=type(fault).__name__, **_said(act))  # noqa: TRY400
            return None

    async def end(self, began: int | None, act: Act, ended: Ended) -> None:
        """Write down how it ended; by and by, if not now: what was done is done."""
        if began is None:
            return
        try:
            await trail_store.end_deed(self._postgres, began, act, ended)
        except Fault:
            self._crew.start(self._insist(began, act, ended), "deed-end")

    async def _insist(self, began: int, act: Act, ended: Ended) -> None:
        is_written = False
        try:
            while not is_written:
                await asyncio.sleep(RETRY_SECONDS)
                try:
                    await trail_store.end_deed(self._postgres, began, act, ended)
                    is_written = True
                except Fault:
                    continue
        finally:
            if not is_written:  # the worker had to leave
                meter.count("deeds_unwritten", "end")
                log.error("admin.unwritten", outcome=ended.outcome, **_said(act))

    def refused(self, act: Act, ended: Ended, known: bool) -> None:
        """Write down, behind the caller's back, who tried what he may not. `known`: his credential
        is good, though not for this."""
        if (self._known if known else self._strangers).take():
            self._crew.start(self._refuse(act, ended), "deed-refused")
        else:
            meter.count("deeds_unwritten", "refused")

    async def _refuse(self, act: Act, ended: Ended) -> None:
        try:
            await trail_store.refuse_deed(self._postgres, act, ended)
        except Fault:
            meter.count("deeds_unwritten", "refused")


class _Allowance:
    """So many at once, and one more after a while."""

    def __init__(self) -> None:
        self._left, self._at = float(REFUSALS_AT_ONCE), time.monotonic()

    def take(self) -> bool:
        now = time.monotonic()
        back = (now - self._at) / REFUSAL_SECONDS
        self._left, self._at = min(self._left + back, float(REFUSALS_AT_ONCE)), now
        if self._left < 1:
            return False
        self._left -= 1
        return True


def _said(act: Act) -> dict[str, Any]:
    return {"who": act.who, "operation": act.operation, "target": act.target}


def redacted(given: Any) -> Any:
    """The same without what is called a password, a key, a token or the like, or is personal."""
    if isinstance(given, dict):
        return {
            name: HIDDEN if _is_hidden(str(name)) else redacted(value)
            for name, value in given.items()
        }
    if isinstance(given, (list, tuple)):
        return [redacted(each) for each in given]
    return given


def _is_hidden(name: str) -> bool:
    bare = re.sub("[^a-z]", "", name.lower())
    return bare in PERSONAL or SECRETS.search(bare) is not None


def change_of(body: bytes) -> object:
    """What was sent, without secrets and what is personal; None for nothing. Of what is no JSON
    object, where no name tells a secret, only how long it is."""
    if not body:
        return None
    try:
        sent = msgspec.json.decode(body)
        if isinstance(sent, dict):
            return redacted(sent)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        pass
    return f"{len(body)} bytes that are no JSON object"


def written(change: object) -> str | None:
    """A change as the table keeps it: an object, of a bounded length."""
    if change is None:
        return None
    told = change if isinstance(change, dict) else {"sent": change}
    kept = storable.document(told, CHANGE_BYTES)
    return kept or storable.document({"sent": "too long", "names": list(told)[:50]}, CHANGE_BYTES)
