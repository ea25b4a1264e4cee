"""What is counted as a fault has happened, and to who is named."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from loadtest.chaos import plan
from loadtest.chaos.history import Fault, Writer, now, read
from loadtest.chaos.mischief import Mischief
from loadtest.chaos.nemesis import ALL, Deed, Nemesis, Planned
from loadtest.chaos.redisproxy import RedisProxy
from loadtest.chaos.run import Options, Run
from loadtest.chaos.staff import Post, Stay
from loadtest.chaos.stage import Stage
from tests.support.wait import wait_until

DEATH = "worker dies between two messages"
LIVE = "exec sleep 60"
STAFF = SimpleNamespace(workers=[None] * 3, keepers=[None] * 2)


async def done(folder: Path, *names: str, seconds: float = 0.3, **parts: Any) -> list[Fault]:
    """What is written down of these faults, which a plan wants all at once."""
    stage = cast(Stage, SimpleNamespace(**{"staff": STAFF, **parts}))
    path = folder / "faults.jsonl"
    path.unlink(missing_ok=True)
    faults = [Planned(0.0, name, 0, seconds, random.Random(1).getrandbits(32)) for name in names]
    with Writer(path) as writer:
        mischief = Mischief(stage, writer, asyncio.Event())
        await mischief.perform(plan.Round(2 * seconds, faults))
    lines = [line for line in read(path) if isinstance(line, Fault)]
    assert mischief.done.total() == sum(not line.skipped for line in lines)
    return lines


async def test_backends_of_nobody_were_not_ended(database: str, tmp_path: Path) -> None:
    ground = SimpleNamespace(postgres=SimpleNamespace(url=database))

    for name in ("backends ended", "some backends ended"):
        [line] = await done(tmp_path, name, ground=ground)
        assert line.skipped == "the service has no connection just now"


async def test_clients_of_nobody_were_not_cut(redis_url: str, tmp_path: Path) -> None:
    ground = SimpleNamespace(valkey=SimpleNamespace(url=redis_url))

    [line] = await done(tmp_path, "valkey cuts its clients", ground=ground)

    assert line.skipped == "nobody was connected"


@pytest.mark.parametrize(
    "name", ["is treacherous", "loses answers", "is reset", "is cut", "is half open", "refuses"]
)
async def test_a_way_that_nobody_went_betrayed_nobody(
    redis_url: str, tmp_path: Path, name: str
) -> None:
    async with RedisProxy.open(redis_url) as way:
        [line] = await done(tmp_path, f"the way to valkey {name}", valkey_way=way)

    assert line.skipped == "nothing went that way"


async def test_a_file_without_an_end_to_cut_was_not_cut_and_still_may_forget(
    tmp_path: Path,
) -> None:
    async def nothing() -> None:
        await asyncio.sleep(0)

    ground = SimpleNamespace(cut_aof=lambda _: 0, kill_valkey=nothing, revive_valkey=nothing)

    [line] = await done(tmp_path, "valkey killed, its file cut", ground=ground)

    assert line.skipped and line.forgets and line.lasted


async def test_workers_who_were_not_there_were_not_killed(tmp_path: Path) -> None:
    nobody = [SimpleNamespace(signal=lambda _: False)]
    staff = SimpleNamespace(workers=nobody, keepers=nobody)

    [line] = await done(tmp_path, "workers killed at once", staff=staff)

    assert line.skipped == "everybody is still being started"


# ── who died, and of what ────────────────────────────────────────────────────────────────────


class Understudy(Post):
    """A post whose processes do what a test says instead of serving."""

    def __init__(self, folder: Path, then: str) -> None:
        super().__init__("worker-0", "serve", {}, folder / "log")
        self._then = then

    def _start(self) -> None:
        words = ["sh", "-c", self._then if self.crash_point else LIVE]
        self._take(subprocess.Popen(words, stdin=subprocess.DEVNULL, start_new_session=True))
        self.ready = True


@asynccontextmanager
async def on_stage(post: Post) -> AsyncIterator[SimpleNamespace]:
    async def tend() -> None:
        while True:
            post.tend()
            await asyncio.sleep(0.02)

    tending = asyncio.create_task(tend(), name="tend")
    try:
        yield SimpleNamespace(workers=[post], keepers=[None])
    finally:
        tending.cancel()
        post.end()
        await asyncio.gather(tending, return_exceptions=True)


@pytest.mark.parametrize(
    ("then", "skipped"),
    [
        ("kill -9 $$", ""),
        ("exit 3", "it ended otherwise, with 3"),
        (LIVE, "it did not come by"),
    ],
)
async def test_only_who_kills_itself_dies_between_two_messages(
    tmp_path: Path, then: str, skipped: str
) -> None:
    async with on_stage(Understudy(tmp_path, then)) as staff:
        [line] = await done(tmp_path, DEATH, seconds=1.5, staff=staff)

    assert line.skipped.startswith(skipped) and bool(line.skipped) == bool(skipped)


async def test_who_was_struck_did_not_die_between_two_messages(tmp_path: Path) -> None:
    post = Understudy(tmp_path, LIVE)
    async with on_stage(post) as staff:
        stage = cast(Stage, SimpleNamespace(staff=staff))
        await wait_until(lambda: is_there(post), "the first one is there")
        deed = Deed(Planned(0.0, DEATH, 0, 1.0, 1))
        async with ALL[DEATH].act(stage, deed):
            armed = post.stay
            assert armed is not None and post.signal(signal.SIGKILL)
            await wait_until(lambda: has_ended(armed), "it has ended")

    assert deed.nothing == "it was struck before"


async def is_there(post: Post) -> bool:
    return post.pid is not None


async def has_ended(stay: Stay) -> bool:
    return stay.ended is not None


async def test_two_faults_never_act_on_one_target_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spans: list[tuple[int, int]] = []

    @asynccontextmanager
    async def act(stage: Stage, deed: Deed) -> AsyncIterator[None]:
        since = now()
        yield
        spans.append((since, now()))

    for name, on in (("one", "worker"), ("all", "workers")):
        monkeypatch.setitem(ALL, name, Nemesis(name, cast(Any, on), (0.0, 1.0), 1.0, act))

    lines = await done(tmp_path, "one", "all", "one", "all", seconds=0.05)

    assert [line.skipped for line in lines] == [""] * 4
    assert {line.target for line in lines} == {"worker 0", "worker 0, worker 1, worker 2"}
    spans.sort()
    assert all(one[1] <= two[0] for one, two in pairwise(spans))


async def test_who_is_not_there_is_not_measured_by_our_own_process(tmp_path: Path) -> None:
    run = object.__new__(Run)
    run._options = Options(seed=1, seconds=1, folder=tmp_path)
    posts = [SimpleNamespace(name="worker-0", pid=None)]
    posts += [SimpleNamespace(name="worker-1", pid=os.getpid())]
    run._stage = cast(Any, SimpleNamespace(staff=SimpleNamespace(posts=posts)))

    run._look_at_resources("after")

    assert [getattr(line, "who", "") for line in read(tmp_path / "resources.jsonl")] == ["worker-1"]
