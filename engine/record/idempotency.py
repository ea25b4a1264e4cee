"""Once: a calm operation and its answer, in one transaction, whatever the network does.

Holds and purchases carry their request in their own row (they are batched); everything else goes
through here. A copy of a request waits on the first one's row and gets its answer.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress

from engine.infra.errors import Fault, IdempotencyMismatch, InProgress, OutcomeUnknown, Retryable
from engine.infra.http import Answer
from engine.infra.ids import Request
from engine.infra.meter import meter
from engine.infra.postgres import Postgres, Session, Undone, Unreachable
from engine.record import store
from engine.record.models import Kept

COPY_WAIT_SECONDS = 3.5  # and a second more for the last look: within the deadline
LOCK_NOT_AVAILABLE = "55P03"
REPLAYED = (b"idempotent-replayed", b"true")


async def once(
    postgres: Postgres,
    request: Request,
    meaning: str,
    effect: Callable[[Session], Awaitable[Answer]],
    publish: Callable[[], Awaitable[object]] | None = None,
) -> Answer:
    """Run an effect unless this request was done before; then answer as then.

    `meaning` is the request in canonical words: the same key with another meaning is refused. The
    effect may be run more than once, each time in a transaction that is undone but for the last.
    `publish` follows the commit; if it fails a keeper does it, for what is done is done.
    """
    if request.over is not None:
        if (known := await recall(postgres, request, meaning)) is not None:
            return known
        raise request.over
    answer = await _insist(postgres, request, meaning, effect)
    if publish is not None:
        with suppress(Fault):
            await publish()
    return answer


@contextmanager
def doubtful(is_so: bool = True) -> Iterator[None]:
    """In here it was done already, or (a request with a key that nobody looked up yet) may have
    been: what fails of ours says `OutcomeUnknown`, not that nothing was taken."""
    try:
        yield
    except Retryable as fault:
        if not is_so:
            raise
        raise OutcomeUnknown from fault


async def recall(postgres: Postgres, request: Request, meaning: str) -> Answer | None:
    """The first answer of a request that was done before. For what may be done twice anyway, and
    takes too long to be done inside `once`."""
    try:
        kept = await store.find_request(postgres, request.id)
    except (Undone, Unreachable) as fault:  # only the look that failed would have told
        raise (OutcomeUnknown() if request.keyed else fault) from fault
    return None if kept is None else replay(kept, _fingerprint(meaning))


def _fingerprint(meaning: str) -> bytes:
    return hashlib.blake2b(meaning.encode(), digest_size=16).digest()


async def _insist(
    postgres: Postgres,
    request: Request,
    meaning: str,
    effect: Callable[[Session], Awaitable[Answer]],
) -> Answer:
    fingerprint = _fingerprint(meaning)
    until = time.monotonic() + COPY_WAIT_SECONDS
    while True:
        try:
            return await _once(postgres, request.id, fingerprint, effect)
        except InProgress:
            if time.monotonic() >= until:
                raise
        except (Undone, Unreachable) as fault:
            transient = isinstance(fault, Undone) and fault.transient
            if transient and time.monotonic() < until:
                continue
            # An earlier copy of a keyed request may have been done: only a look would tell.
            raise (OutcomeUnknown() if request.keyed else fault) from fault


async def _once(
    postgres: Postgres,
    request_id: str,
    fingerprint: bytes,
    effect: Callable[[Session], Awaitable[Answer]],
) -> Answer:
    async with postgres.transaction() as session:
        try:
            ours = await store.claim_request(session, request_id, fingerprint)
        except Undone as undone:
            if undone.sqlstate == LOCK_NOT_AVAILABLE:  # a copy of it is still running
                raise InProgress from None
            raise
        if not ours:
            return replay(await store.find_request(session, request_id), fingerprint)
        answer = await effect(session)
        await store.answer_request(session, request_id, answer.status, answer.body)
        return answer


def replay(kept: Kept | None, fingerprint: bytes) -> Answer:
    """The first answer again."""
    if kept is None:
        raise InProgress
    if kept.fingerprint != fingerprint:
        raise IdempotencyMismatch
    meter.count("replays", "other")
    return Answer(kept.body, kept.status, [REPLAYED])
