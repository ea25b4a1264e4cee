"""The whole of `make run` behind pages: workers, a keeper, and the mock provider buyers pay at."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2

from engine import runtime
from engine.coldchain.freezers import open_freezer
from engine.infra.settings import Settings
from engine.sale import reconcile
from engine.sale.models import unit_id
from tests.support.service import Service
from tests.support.wait import wait_until

OFTEN = "100000/s"  # all the buyers of a test come from one address


class House(Service):
    """A service that people look at."""

    database_url = ""
    settings: Settings

    @classmethod
    @asynccontextmanager
    async def of(
        cls, settings: Settings, folder: Path, workers: int = 2, **environment: str
    ) -> AsyncIterator[House]:
        """Start everything; end it at the end. With AUTH=required there is no mock provider."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            provider = probe.getsockname()[1]
        environment = {
            "PROVIDER_PORT": str(provider),
            "PAYMENT_URL": f"http://127.0.0.1:{provider}/checkout",
            "RATE_READS_PER_ADDRESS": OFTEN,
            "RATE_WRITES_PER_ADDRESS": OFTEN,
            "RATE_ADMIN_PER_ADDRESS": OFTEN,
        } | environment
        # They start beside one another: three programs are three seconds otherwise.
        async with cls.open(settings, folder, 0, 0, **environment) as house:
            assert isinstance(house, House)
            house.database_url, house.settings = settings.database_url, settings
            async with asyncio.TaskGroup() as starting:
                starting.create_task(house.start_worker())
                starting.create_task(house.start_keeper())
                if settings.auth == "open":
                    starting.create_task(house.start_provider(provider))
            for _ in range(1, workers):
                await house.start_worker()
            yield house

    @property
    def page(self) -> str:
        """Where people come in."""
        return f"http://127.0.0.1:{self.port}"

    async def start_provider(self, port: int) -> None:
        """Who takes the money, and is ended with the keepers."""
        self.keepers.append(await self._start("provider", ""))
        async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:

            async def answers() -> bool:
                try:
                    return (await client.get("/books")).status_code == 200
                except httpx2.ConnectError:
                    return False

            await wait_until(answers, "the provider answers", seconds=30, pause=0.05)

    async def open_freezer(self, *names: str) -> list[int]:
        """A freezer with slots of these names; their ids."""
        async with runtime.ground(self.settings) as base:
            async with base.postgres.transaction() as session:
                drop = await open_freezer(session, names, days=7)
            await reconcile.tell(base.postgres, base.bouncer, [drop])
        return [unit_id(drop, number) for number in range(1, len(names) + 1)]

    async def put_on_show(self, name: str, units: int, **terms: Any) -> int:
        """A drop with a picture, on sale now; its id."""
        return await self.open_drop(units, name=name, imageUrl="/pictures/3-aurora.svg", **terms)
