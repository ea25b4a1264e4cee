"""`python -m tests.support.reception FOLDER NAME`: a process that takes connections and repeats.

It says `ready`, then a line for each word on its stdin: `count` how many it has taken, `close` ends
its reception and goes on repeating.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import cast

import uvloop

from engine.infra.handover import Reception


class Repeating(asyncio.Protocol):
    """Answers `NAME<what it heard>`, at once."""

    def __init__(self, name: bytes, taken: list[Repeating]) -> None:
        self._name = name
        self.heard = b""
        taken.append(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self.heard += data
        self.transport.write(self._name + b"<" + data + b">")


async def main(folder: Path, name: str) -> None:
    taken: list[Repeating] = []
    reception = Reception(folder, name, lambda: Repeating(name.encode(), taken))
    reception.open()
    print("ready", flush=True)
    while word := await asyncio.to_thread(sys.stdin.readline):
        if word.strip() == "close":
            reception.close()
        print(len(taken), flush=True)


if __name__ == "__main__":
    uvloop.run(main(Path(sys.argv[1]), sys.argv[2]))
