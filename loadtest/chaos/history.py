"""What a run leaves behind: one folder of JSON lines, from which everything is judged offline.

    client-<n>.jsonl   Invoke before a request is sent, Complete when its answer is here
    faults.jsonl       Fault: what was done to whom, from when to when, or why it was not done
    heals.jsonl        Heal: the quiet windows between the faults
    sights.jsonl       Sight: what the engine said of each drop, several times a second
    resources.jsonl    Resource: what a process or server had open, before and after
    facts-*.jsonl      what Postgres itself wrote down, in the same transactions (facts.py)
    run.json           seed, plan, versions, figures; and what the checker must know, see Run

Any file may hold any of the lines: they are told apart by their type.

Moments are nanoseconds of CLOCK_MONOTONIC, one clock for all processes of a machine.

`ok` and `fail` are definite. Everything else is `info`: a time-out, a cut connection, a 5xx that
does not say RETRYABLE. It may have happened, and may yet happen, at any later moment.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import msgspec

Verb = Literal["reserve", "purchase", "release", "extend", "pay", "callback", "look", "stock"]
Outcome = Literal["ok", "fail", "info"]


class Invoke(msgspec.Struct, frozen=True, tag="invoke", omit_defaults=True):
    """A request that is about to be sent. `op` numbers the requests of one process."""

    at: int
    process: str
    op: int
    verb: Verb
    drop: int
    buyer: str = ""
    key: str = ""  # the Idempotency-Key; "": none was sent
    copy: int = 1  # which sending of this key, from 1
    quantity: int = 0
    subject: str = ""  # the reservation it is about
    reference: str = ""  # of a payment
    said: str = ""  # what a callback says became of it


class Complete(msgspec.Struct, frozen=True, tag="complete", omit_defaults=True):
    """Its answer. `value`: the answer's body, as far as a check needs it: of a reserve or purchase
    all of it, of a look `status`, of a stock poll `version` (of a 304 the one in its ETag), of a
    refusal its `details`."""

    at: int
    process: str
    op: int
    outcome: Outcome
    status: int = 0  # 0: no answer
    code: str = ""  # the error's code, or why there was no answer
    replayed: bool = False
    value: dict[str, Any] = {}


class Fault(msgspec.Struct, frozen=True, tag="fault", omit_defaults=True):
    """Something done to the service. `skipped` says why it was not, or why it does not count; what
    was begun has its time all the same, of anything else `until` is `at`. `forgets`: it may have
    made Valkey forget."""

    at: int
    until: int
    nemesis: str
    target: str = ""
    words: dict[str, Any] = {}
    skipped: str = ""
    forgets: bool = False

    @property
    def lasted(self) -> bool:
        """Whether it may have done anything."""
        return not self.skipped or self.until > self.at


class Heal(msgspec.Struct, frozen=True, tag="heal", omit_defaults=True):
    """A quiet window: every fault ended at `at`; `rest_at` is when all had come to rest."""

    at: int
    until: int
    rest_at: int | None = None
    unrest: str = ""  # what was still under way at the end of the window


class Sight(msgspec.Struct, frozen=True, tag="sight", omit_defaults=True):
    """What was seen of a drop in one look, past the proxies. None: the server did not answer."""

    at: int
    drop: int
    epoch: int | None = None
    version: int | None = None
    free: int | None = None
    held: int | None = None
    sold: int | None = None
    overdue: int | None = None  # live holds past their deadline
    believed: tuple[int, int, int] | None = None  # the bouncer's epoch, version, available
    intents: int | None = None


class Resource(msgspec.Struct, frozen=True, tag="resource", omit_defaults=True):
    """What `who` had open. `when`: before the load, once everything was warm; or after the last
    heal. Of several of one `who` and `when` the last counts. None: not looked at."""

    at: int
    who: str  # worker-1, keeper-1, postgres: the same before and after, restarted or not
    when: Literal["before", "after"]
    connections: int | None = None  # of the service, as Postgres counts them
    fds: int | None = None
    tasks: int | None = None
    memory_kb: int | None = None


class Run(msgspec.Struct, frozen=True):
    """What the checker reads of run.json; there may be more in it."""

    lost_tail: bool = False  # an asynchronous standby was promoted: acknowledged work may be lost
    connections_max: int | None = None  # that the service's pools may open, all together


Line = Invoke | Complete | Fault | Heal | Sight | Resource

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Line).decode


def now() -> int:
    """This moment, for any of the lines."""
    return time.monotonic_ns()


class Writer:
    """Appends lines to one file. Each is in the file before `write` returns, so that a process
    that is killed leaves all but what it was writing."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("ab", buffering=0)

    def write(self, line: Line) -> None:
        """Append one line."""
        self._file.write(_encode(line) + b"\n")

    def __enter__(self) -> Writer:
        return self

    def __exit__(
        self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None
    ) -> None:
        self._file.close()


def read(path: Path) -> Iterator[Line]:
    """The lines of a file; a last one that was cut short is left out."""
    with path.open("rb") as file:
        for raw in file:
            if raw.endswith(b"\n"):
                yield _decode(raw)
