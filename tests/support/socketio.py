"""The real npm `socket.io-client`, in a process of its own; fetched once a machine."""

from __future__ import annotations

import asyncio
import hashlib
import json
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.wait import wait_until

NODE = Path(__file__).parent.parent / "realtime" / "node"


def fetched() -> Path:
    """The folder with the client in it; skips, and says why, where it cannot be had."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        pytest.skip("no Socket.IO client: node and npm are not installed")
    files = sorted(path for path in NODE.iterdir() if path.is_file())
    state = hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:16]
    folder = Path(tempfile.gettempdir()) / f"velvetrope-socketio-{state}"
    if folder.exists():
        return folder
    making = Path(tempfile.mkdtemp(prefix=folder.name))
    for path in files:
        shutil.copy(path, making)
    command = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--prefer-offline"]
    try:
        done = subprocess.run(
            command, cwd=making, capture_output=True, text=True, timeout=50, check=False
        )
        failed = done.stderr.strip()[-300:] if done.returncode else ""
    except subprocess.TimeoutExpired:
        failed = "npm took longer than 50 s"
    if not failed:
        try:
            making.rename(folder)
        except OSError:  # another test process was faster
            shutil.rmtree(making)
        return folder
    shutil.rmtree(making)
    pytest.skip(f"no Socket.IO client: {failed}")


class Client:
    """One client: `heard` holds (event, data) in the order it came."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.heard: list[tuple[str, list[Any]]] = []
        self._process = process

    @classmethod
    @asynccontextmanager
    async def open(cls, url: str, *transports: str, **options: Any) -> AsyncIterator[Client]:
        """A client that has begun to connect."""
        folder = fetched()
        given = {"transports": transports, "forceNew": True, **options}
        process = await asyncio.create_subprocess_exec(
            "node",
            str(folder / "listen.mjs"),
            url,
            json.dumps(given),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        client = cls(process)
        reading = asyncio.create_task(client._read(), name="client")
        try:
            yield client
        finally:
            process.kill()
            await process.wait()
            await reading

    async def _read(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            told = json.loads(line)
            self.heard.append((told["what"], told["data"]))

    def all(self, event: str) -> list[list[Any]]:
        """The data of all events of one name."""
        return [data for name, data in self.heard if name == event]

    async def hear(self, event: str, count: int = 1) -> list[list[Any]]:
        """Wait until an event came so often."""

        async def came() -> list[list[Any]]:
            found = self.all(event)
            return found if len(found) >= count else []

        try:
            return await wait_until(came, f"{event} is heard", seconds=15)
        except AssertionError as late:
            raise AssertionError(f"{late}; heard {self.heard}") from None

    async def say(self, event: str, *data: Any, acknowledged: bool = False) -> None:
        """Emit an event, and ask for a reply if it is to be acknowledged."""
        assert self._process.stdin is not None
        told = {"event": event, "data": data, "acknowledged": acknowledged}
        self._process.stdin.write(json.dumps(told).encode() + b"\n")
        await self._process.stdin.drain()
