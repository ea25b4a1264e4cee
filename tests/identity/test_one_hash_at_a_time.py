"""One hash at a time on a machine, however many log in at however many workers."""

from __future__ import annotations

import asyncio
import fcntl
import os
from pathlib import Path

from engine.identity.passwords import LOCK, NICE
from engine.infra.settings import Settings
from tests.identity.test_login import ANN
from tests.support.service import Service
from tests.support.wait import wait_until


def _waiting(inode: int) -> set[int]:
    """The processes that wait for the lock, as the kernel sees them."""
    lines = Path("/proc/locks").read_text().splitlines()
    words = [line.split() for line in lines if "->" in line and f":{inode} " in line]
    return {int(each[5]) for each in words}


def _niceness(pid: int) -> set[int]:
    """Of the threads of a process that hash."""
    tasks = list(Path(f"/proc/{pid}/task").iterdir())
    stats = [(task / "stat").read_text().rpartition(")")[2].split() for task in tasks]
    return {int(stat[16]) for stat in stats}


async def test_sixteen_logins_at_two_workers_wait_for_one_lock(
    settings: Settings, tmp_path: Path
) -> None:
    secrets = {"JWT_SECRET": settings.jwt_secret, "HMAC_SECRET": settings.hmac_secret}
    async with Service.open(settings, tmp_path, workers=2, keepers=0, **secrets) as service:
        assert (await service.send("POST", "/users/register", ANN)).status == 201
        path = tmp_path / "data" / LOCK
        ours = os.open(path, os.O_RDWR)
        try:
            fcntl.flock(ours, fcntl.LOCK_EX)  # as if a third worker were at a hash
            logins = [
                asyncio.create_task(service.send("POST", "/users/login", ANN)) for _ in range(16)
            ]
            workers = {process.pid for process in service.workers}

            async def all_wait() -> bool:
                return _waiting(os.fstat(ours).st_ino) == workers

            await wait_until(all_wait, "both workers wait for the lock")
            assert not any(login.done() for login in logins), "no hash goes past it"
            assert all(NICE in _niceness(pid) for pid in workers)
        finally:
            os.close(ours)
        replies = await asyncio.gather(*logins)

    told = [reply.status for reply in replies]
    assert set(told) <= {200, 503}, told  # who waits too long is told so
    assert 200 in told
