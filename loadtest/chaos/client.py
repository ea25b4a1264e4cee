"""A process full of buyers, led by words through a pipe, telling twice a second how it goes."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
from collections import Counter
from contextlib import suppress
from multiprocessing.connection import Connection as Pipe
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Literal

import msgspec
import uvloop

from loadtest.chaos.buyers import Buyer, Gate, Stall
from loadtest.chaos.diary import Diary, Tally

TELL_SECONDS = 0.5
FINISH_SECONDS = 40.0  # to come to an end, after which what is under way is given up


_decode = msgspec.msgpack.Decoder(Tally, dec_hook=lambda _, counts: Counter(counts)).decode


class Orders(msgspec.Struct, frozen=True):
    """What buyers are to do from now on, and where."""

    do: Literal["go", "rest", "finish"]
    stalls: list[Stall] = []


class Brief(msgspec.Struct, frozen=True):
    """What a client process needs to know."""

    folder: Path
    name: str
    port: int
    secret: str
    seed: int
    buyers: int


class Client:
    """The process, seen from outside. It ends when told to finish, or with `stop`."""

    def __init__(self, brief: Brief) -> None:
        spawn = multiprocessing.get_context("spawn")
        self.tally = Tally()
        self._pipe, theirs = spawn.Pipe()
        self.process: BaseProcess = spawn.Process(
            target=_work, args=(brief, theirs), name=brief.name, daemon=True
        )
        self.process.start()
        theirs.close()

    def order(self, orders: Orders) -> None:
        """Say what to do."""
        with suppress(OSError):
            self._pipe.send_bytes(msgspec.msgpack.encode(orders))

    def listen(self) -> None:
        """Take in what it told since."""
        with suppress(OSError, EOFError):
            while self._pipe.poll():
                self.tally = _decode(self._pipe.recv_bytes())

    @property
    def alive(self) -> bool:
        """Whether it still runs."""
        return self.process.is_alive()

    def stop(self) -> None:
        """End it now."""
        self.process.kill()
        self.process.join()
        self._pipe.close()


def _work(brief: Brief, pipe: Pipe) -> None:
    # Ctrl-C is for our parent, who then tells us.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    uvloop.run(_run(brief, pipe))


async def _run(brief: Brief, pipe: Pipe) -> None:
    gate, diary = Gate(), Diary(brief.folder, brief.name)
    finishing, loop = asyncio.Event(), asyncio.get_running_loop()

    def hear() -> None:
        try:
            while pipe.poll():
                orders = msgspec.msgpack.decode(pipe.recv_bytes(), type=Orders)
                gate.stalls = orders.stalls or gate.stalls
                {"go": gate.open, "rest": gate.shut, "finish": gate.finish}[orders.do]()
        except (EOFError, OSError):
            os._exit(1)  # our parent is gone
        if gate.finishing:
            finishing.set()

    loop.add_reader(pipe.fileno(), hear)
    buyers = [
        asyncio.create_task(
            Buyer(
                diary, gate, brief.port, f"{brief.seed}-{brief.name}-{number}", brief.secret
            ).shop(),
            name=f"buyer-{number}",
        )
        for number in range(brief.buyers)
    ]
    telling = asyncio.create_task(_tell(diary, pipe), name="tell")
    waiting = asyncio.create_task(finishing.wait(), name="finishing")
    await asyncio.wait([waiting, *buyers], return_when=asyncio.FIRST_EXCEPTION)
    _, late = await asyncio.wait(buyers, timeout=FINISH_SECONDS)
    telling.cancel()
    for task in (waiting, *late):
        task.cancel()
    ends = await asyncio.gather(*buyers, return_exceptions=True)
    for end in ends:
        if isinstance(end, Exception):
            diary.tally.strange[f"a buyer's own {type(end).__name__}: {end}"] += 1
    pipe.send_bytes(msgspec.msgpack.encode(diary.tally))


async def _tell(diary: Diary, pipe: Pipe) -> None:
    while True:
        pipe.send_bytes(msgspec.msgpack.encode(diary.tally))
        await asyncio.sleep(TELL_SECONDS)
