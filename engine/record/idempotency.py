"""Once: a calm operation and its answer, in one transaction, whatever the network does.

Holds and purchases carry their request in their own row (they are batched); everything else goes
through here. A copy of a request waits on the first one's row and gets its answer.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable

from engine.infra.errors import IdempotencyMismatch, InProgress, OutcomeUnknown
from engine.infra.http import Answer
from engine.infra.postgres import Postgres, Session, Undone, Unknown
from engine.record import store
from engine.record.models import Kept

REPLAYED = (b"idempotent-replayed", b"true")


async def once(
    postgres: Postgres,
    request_id: str,
    meaning: str,
    effect: Callable[[Session], Awaitable[Answer]],
) -> Answer:
    """Run an effect unless this request was done before; then answer as then.

    `meaning` is the request in canonical words: the same key with another meaning is refused.
    """
    fingerprint = hashlib.blake2b(meaning.encode(), digest_size=16).digest()
    try:
        async with postgres.transaction() as session:
            if await store.claim_request(session, request_id, fingerprint):
                answer = await effect(session)
                await store.answer_request(session, request_id, answer.status, answer.body)
                return answer
            kept = await store.find_request(session, request_id)
    except Undone as undone:
        # We waited a second for a copy that is still running.
        raise (InProgress() if undone.sqlstate == "55P03" else undone) from undone
    except Unknown:
        raise OutcomeUnknown from None
    return replay(kept, fingerprint)


def replay(kept: Kept | None, fingerprint: bytes) -> Answer:
    """The first answer again."""
    if kept is None:
        raise InProgress
    if kept.fingerprint != fingerprint:
        raise IdempotencyMismatch
    return Answer(kept.body, kept.status, [REPLAYED])
