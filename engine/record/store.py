"""Postgres for the record: one function a query of sql/queries/record.sql."""

from __future__ import annotations

from engine.infra import sql
from engine.infra.postgres import Postgres, Session
from engine.record.models import Kept

_queries = sql.load("record")


async def find_request(session: Session | Postgres, id: str) -> Kept | None:
    """The answer this request got, if it was done."""
    row = await session.call(_queries["find_request"], id=id)
    return row and Kept(row["fingerprint"], row["status"], row["body"])


async def claim_request(session: Session, id: str, fingerprint: bytes) -> bool:
    """Make a request ours; False if a copy of it was first. Waits for a copy under way."""
    return await session.call(_queries["claim_request"], id=id, fingerprint=fingerprint) is not None


async def answer_request(session: Session, id: str, status: int, body: bytes) -> None:
    """Write the answer of a request that is ours."""
    await session.call(_queries["answer_request"], id=id, status=status, body=body)


async def prune(postgres: Postgres, hours: int, count: int) -> int:
    """Forget answers and told facts older than the retention; how many went."""
    gone = 0
    for name in ("prune_requests", "prune_outbox"):
        gone += (await postgres.call(_queries[name], hours=hours, count=count))["pruned"]
    return gone
