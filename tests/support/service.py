"""The real thing: worker and keeper processes on a real port, to be killed and restarted."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from engine.infra.settings import Settings
from tests.support.http import Crowd, Reply
from tests.support.nursery import Child, Nursery
from tests.support.shop import Shop
from tests.support.wait import wait_until


class Service(Shop):
    """Processes of one service, and a crowd in front of them."""

    def __init__(self, settings: Settings, folder: Path, port: int) -> None:
        self.port = port
        self.url = f"http://127.0.0.1:{port}/api/v1"
        self.crowd = Crowd(self.url)
        self.workers: list[Child] = []
        self.keepers: list[Child] = []
        self.listeners: list[Child] = []
        self._folder = folder
        self._environment = os.environ | {
            "DATABASE_URL": settings.database_url,
            "REDIS_URL": settings.redis_url,
            "PORT": str(port),
            "AUTH": settings.auth,
            "PAYMENT_SECRET": settings.payment_secret,
            "LOG_FORMAT": "json",
            "RECOUNT_SECONDS": "0",
            "DATA_DIR": str(folder / "data"),
            "METRICS_DIR": str(folder / "metrics"),
            "RATE_READS_PER_BUYER": settings.rate_reads_per_buyer,
            "RATE_WRITES_PER_BUYER": settings.rate_writes_per_buyer,
            "RATE_ADMIN_PER_CALLER": settings.rate_admin_per_caller,
        }

    @classmethod
    @asynccontextmanager
    async def open(  # type: ignore[override]  # a service needs a folder for its logs
        cls,
        settings: Settings,
        folder: Path,
        workers: int = 2,
        keepers: int = 1,
        **environment: str,
    ) -> AsyncIterator[Service]:
        """Start; end everything at the end, gently."""
        Nursery.ours()  # takes its time before anything runs that has none
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            service = cls(settings, folder, probe.getsockname()[1])
        service._environment |= environment
        try:
            for _ in range(workers):
                await service.start_worker()
            for _ in range(keepers):
                await service.start_keeper()
            yield service
        finally:
            await service.crowd.close()
            await service.stop()

    async def start_worker(self) -> Child:
        """One more worker, ready."""
        process = await self._start("serve", "worker.ready")
        self.workers.append(process)
        return process

    async def start_keeper(self) -> Child:
        """One more keeper, ready."""
        process = await self._start("keep", "keeper.ready")
        self.keepers.append(process)
        return process

    async def start_listener(self) -> Child:
        """A process for listeners, ready."""
        process = await self._start("listen", "listener.ready")
        self.listeners.append(process)
        return process

    async def _start(self, command: str, ready: str) -> Child:
        log = self._folder / f"{command}-{len(self._everybody)}.log"
        process = Nursery.ours().start(command, self._environment, log)

        async def is_ready() -> bool:
            assert process.returncode is None, log.read_text()
            return process.said(ready)

        await wait_until(is_ready, f"{command} says {ready}", seconds=30)
        return process

    async def kill(self, process: Child) -> None:
        """kill -9."""
        process.kill()
        await process.wait()

    async def stop(self) -> None:
        """SIGTERM to all, and wait."""
        for process in self._everybody:
            if process.returncode is None:
                process.terminate()
        for process in self._everybody:
            await asyncio.wait_for(process.wait(), 20)

    @property
    def _everybody(self) -> list[Child]:
        return [*self.workers, *self.keepers, *self.listeners]

    def log(self) -> str:
        """Everything the processes said."""
        return "".join(path.read_text() for path in sorted(self._folder.glob("*.log")))

    async def send(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> Reply:
        """One request over the network."""
        return await self.crowd.send(method, path, body, headers)
