"""The two servers, to be killed, stopped and started again in their place, on their port."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import psutil  # type: ignore[import-untyped, unused-ignore]

from engine.infra.errors import Misconfigured
from engine.ops.devstack import Server, start_postgres, start_valkey

AOF = "appendonlydir"


class Ground:
    """Postgres with all its durability, Valkey with an append-only file. Starting takes a thread,
    since it waits; nobody is ever cancelled in the middle of it."""

    def __init__(self, folder: Path) -> None:
        self._postgres_base, self._valkey_base = folder / "postgres", folder / "valkey"
        self._old_aof = folder / "old-aof"
        self.postgres: Server
        self.valkey: Server

    async def __aenter__(self) -> Ground:
        self.postgres = await _started(partial(start_postgres, self._postgres_base, durable=True))
        try:
            self.valkey = await _started(partial(start_valkey, self._valkey_base, durable=True))
        except BaseException:
            self.postgres.stop()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        self.stop_postgres(signal.SIGCONT)
        self.valkey.process.send_signal(signal.SIGCONT)
        await asyncio.gather(
            asyncio.to_thread(self.valkey.stop), asyncio.to_thread(self.postgres.stop)
        )

    # ── Postgres ─────────────────────────────────────────────────────────────────────────────

    async def kill_postgres(self, number: signal.Signals) -> None:
        """SIGQUIT: an immediate stop. SIGKILL: the postmaster alone, whose children notice."""
        self.postgres.process.send_signal(number)
        await asyncio.to_thread(self.postgres.process.wait)

    async def revive_postgres(self) -> None:
        """Start it again; it recovers from its log."""
        base, port = self._postgres_base, _port(self.postgres)
        self.postgres = await asyncio.to_thread(start_postgres, base, port=port, durable=True)

    def stop_postgres(self, number: signal.Signals) -> int:
        """SIGSTOP or SIGCONT to the postmaster and all its children; to how many."""
        with suppress(psutil.NoSuchProcess):
            postmaster = psutil.Process(self.postgres.pid)
            family = [postmaster.pid]
            if number == signal.SIGSTOP:  # first the parent, or it has more children meanwhile
                os.kill(postmaster.pid, number)
            family += [child.pid for child in postmaster.children(recursive=True)]
            for pid in family:
                with suppress(ProcessLookupError):
                    os.kill(pid, number)
            return len(family)
        return 0

    # ── Valkey ───────────────────────────────────────────────────────────────────────────────

    async def kill_valkey(self) -> None:
        """kill -9."""
        self.valkey.process.kill()
        await asyncio.to_thread(self.valkey.process.wait)

    async def revive_valkey(self) -> None:
        """Start it again on what is in its folder."""
        start = partial(start_valkey, self._valkey_base, port=_port(self.valkey), durable=True)
        try:
            self.valkey = await asyncio.to_thread(start)
        except Misconfigured:  # a copy that was taken in the middle of a change
            self.forget_aof()
            self.valkey = await asyncio.to_thread(start)

    def keep_aof(self) -> None:
        """Copy its append-only file as it is now, for `put_old_aof`."""
        if (self._valkey_base / AOF).exists():
            shutil.rmtree(self._old_aof, ignore_errors=True)
            shutil.copytree(self._valkey_base / AOF, self._old_aof)

    def put_old_aof(self) -> bool:
        """Put the copy in the place of the present file; False if there is none."""
        if not self._old_aof.exists():
            return False
        self.forget_aof()
        shutil.copytree(self._old_aof, self._valkey_base / AOF)
        return True

    def forget_aof(self) -> None:
        """So that it comes back empty."""
        shutil.rmtree(self._valkey_base / AOF, ignore_errors=True)

    def cut_aof(self, lost: int) -> int:
        """Take the last bytes off its log, as a machine that stopped would have; how many."""
        logs = sorted((self._valkey_base / AOF).glob("*.incr.aof"))
        if not logs:
            return 0
        size = logs[-1].stat().st_size
        os.truncate(logs[-1], max(size - lost, 0))
        return min(size, lost)


async def _started(start: Callable[[], Server]) -> Server:
    """Start one in a thread. Whoever is cancelled meanwhile leaves none behind."""
    starting = asyncio.create_task(asyncio.to_thread(start), name="start")
    try:
        return await asyncio.shield(starting)
    except asyncio.CancelledError:
        with suppress(Exception):
            (await starting).stop()
        raise


def _port(server: Server) -> int:
    return urlsplit(server.url).port or 0
