"""What is answered at a WebSocket's address to who speaks HTTP there."""

from __future__ import annotations

from engine.infra.errors import UpgradeRequired
from engine.infra.http import Answer, Call
from engine.infra.routing import Route


async def not_upgraded(call: Call) -> Answer:
    """No WebSocket."""
    raise UpgradeRequired


def routes() -> list[Route]:
    """/ws and /api/v1/ws."""
    return [Route("live", "GET", path, not_upgraded, root=True) for path in ("/ws", "/api/v1/ws")]
