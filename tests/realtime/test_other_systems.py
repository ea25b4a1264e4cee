"""Other systems' clients beside a running sale of several workers, over whichever way they take."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from engine.infra.settings import Settings
from tests.realtime.test_socketio import WAYS
from tests.support.service import Service
from tests.support.socketio import Client


@pytest.mark.slow
@pytest.mark.timeout(180)  # three processes and four clients have to start
@pytest.mark.parametrize(
    "way",
    [WAYS[0], *(pytest.param(way, marks=pytest.mark.at_length) for way in WAYS[1:])],
    ids="-then-".join,
)
async def test_clients_of_all_workers_hear_the_sale(
    settings: Settings, tmp_path: Path, way: tuple[str, ...]
) -> None:
    async with Service.open(settings, tmp_path, DATA_DIR=str(tmp_path)) as service:
        await hear_a_sale(service, way)


async def hear_a_sale(service: Service, way: tuple[str, ...]) -> None:
    address = f"http://127.0.0.1:{service.port}"
    async with AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(
                Client.open(address, *way, auth={"userId": f"buyer-{n}"})
            )
            for n in range(4)
        ]
        await asyncio.gather(*(client.hear("connected") for client in clients))
        drop = await service.open_drop(3)
        hold = (await service.reserve(drop, "buyer-0")).json["id"]
        await asyncio.gather(*(client.hear("inventory_update") for client in clients))
        assert (await service.confirm(hold, "buyer-0")).status == 201
        heard = await asyncio.gather(*(client.hear("newPurchase") for client in clients))
        shown = await asyncio.gather(*(client.hear("new_drop") for client in clients))
        broken = [client.all("on.disconnect") for client in clients]
    assert [each[0][0]["userId"] for each in heard] == ["buyer-0", None, None, None]
    assert {each[0][0]["dropId"] for each in heard} == {drop}
    assert {each[0][0]["id"] for each in shown} == {drop}
    assert broken == [[]] * 4, "no poll was answered by a worker that does not know its session"
