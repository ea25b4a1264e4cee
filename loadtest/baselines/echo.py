"""The ceiling: read a POST, answer a constant of the size of a reservation (or, of the path that
buys, of a purchase). Nothing else.

What this server does in a second is what HTTP, Python and the load generator leave to anybody.
"""

from __future__ import annotations

from loadtest.baselines import Receive, Scope, Send, answer, read, serve

HOLD = (
    b'{"id":"019aa4de-7c1f-7b6e-9d3c-0f4b2c1a9e55","dropId":42,"userId":"b0-123456","quantity":1,'
    b'"units":[{"id":44040193,"number":1}],"status":"active","amount":"10.00","currency":"USD",'
    b'"expiresAt":"2026-01-01T00:01:00.000Z","serverTime":"2026-01-01T00:00:00.000Z",'
    b'"availableStock":199999}'
)
PURCHASE = (
    b'{"id":"019aa4de-7c1f-7b6e-9d3c-0f4b2c1a9e56","reservationId":'
    b'"019aa4de-7c1f-7b6e-9d3c-0f4b2c1a9e55","dropId":42,"userId":"b0-123456","quantity":1,'
    b'"units":[{"id":44040193,"number":1}],"status":"purchased","amount":"10.00","currency":"USD",'
    b'"purchasedAt":"2026-01-01T00:00:00.000Z"}'
)


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Any request is a 201."""
    await read(receive)
    await answer(send, 201, PURCHASE if scope["path"] == "/purchases" else HOLD)


if __name__ == "__main__":
    serve(app)
