"""What the engine is measured against, served exactly as the engine is.

`python -m loadtest.baselines.echo PORT` (or `one_by_one`, or `for_update`) each
run one worker; start two on the same port and the kernel shares the connections out.
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import uvicorn

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


def serve(app: App, lifespan: str = "off") -> None:
    """Serve `app` on the port named on the command line, until a signal."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listener.bind(("127.0.0.1", int(sys.argv[1])))
    config = uvicorn.Config(
        app,
        loop="uvloop",
        http="httptools",
        ws="none",
        lifespan="on" if lifespan == "on" else "off",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=30,
        log_level="warning",
        backlog=2_048,
    )
    uvicorn.Server(config).run(sockets=[listener])


async def read(receive: Receive) -> bytes:
    """The whole body of a request."""
    body: bytes = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body", False):
            return body


async def answer(send: Send, status: int, body: bytes) -> None:
    """Send a JSON answer in one piece."""
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
