"""Workers and keepers: killed, stopped, sent away. The staff puts another in their place."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from loadtest.chaos.nemesis import Deed, Skip, nemesis
from loadtest.chaos.staff import Post
from loadtest.chaos.stage import Stage

# Where a worker has something in its hands that nobody else knows of. The first two strand an
# intent for certain; where others end depends on what the servers did with the message.
POINTS = (
    "reserve/admit.after",
    "reserve/claim_units.before",
    "reserve/admit.amid",
    "reserve/claim_units.amid",
    "reserve/claim_units.after",
    "reserve/settle.amid",
    "purchase/purchase_units.amid",
    "purchase/purchase_units.after",
    "release/release_holds.amid",
    "release/settle.before",
    "payment/settle_payments.amid",
    "request/commit.amid",
    "request/commit.after",
)
HITS_MAX = 20
THERE_SECONDS = 4.0  # for who was killed a moment ago to be there again


async def _there(posts: list[Post], deed: Deed) -> Post:
    """The one that was meant, once it is there; whose fellows are others' to strike."""
    post = posts[deed.planned.index % len(posts)]
    deed.target = post.name
    until = time.monotonic() + THERE_SECONDS
    while not post.ready or post.pid is None:
        if time.monotonic() > until:
            raise Skip("it is still being started")
        await asyncio.sleep(0.05)
    return post


def _posts(stage: Stage, deed: Deed) -> list[Post]:
    staff = stage.staff
    return staff.workers if deed.planned.nemesis.startswith("worker") else staff.keepers


async def _end(stage: Stage, deed: Deed, number: signal.Signals) -> None:
    if not (await _there(_posts(stage, deed), deed)).signal(number):
        raise Skip("it ended by itself")


@nemesis("worker killed", on="worker", weight=3)
async def worker_killed(stage: Stage, deed: Deed) -> AsyncIterator[None]:
    """kill -9, with whatever it had in its hands."""
    await _end(stage, deed, signal.SIGKILL)
    yield


@nemesis("worker sent away", on="worker", weight=1)
async def worker_sent_away(stage: Stage, deed: Deed) -> AsyncIterator[None]:
    """SIGTERM: it drains."""
    await _end(stage, deed, signal.SIGTERM)
    yield


@nemesis("keeper killed", on="keeper", weight=1.5)
async def keeper_killed(stage: Stage, deed: Deed) -> AsyncIterator[None]:
    """kill -9 in the middle of a round."""
    await _end(stage, deed, signal.SIGKILL)
    yield


@nemesis("keeper sent away", on="keeper", weight=0.5)
async def keeper_sent_away(stage: Stage, deed: Deed) -> AsyncIterator[None]:
    """SIGTERM."""
    await _end(stage, deed, signal.SIGTERM)
    yield


@asynccontextmanager
async def _stopped(stage: Stage, deed: Deed) -> AsyncIterator[None]:
    post = await _there(_posts(stage, deed), deed)
    pid = post.pid
    post.signal(signal.SIGSTOP)
    try:
        yield
    finally:
        if post.pid == pid:
            post.signal(signal.SIGCONT)


@nemesis("worker stopped", on="worker", seconds=(0.2, 10.0), weight=3)
async def worker_stopped(stage: Stage, deed: Deed) -> AsyncIterator[None]:
    """It stands still with its connections open, and goes on as if nothing had been."""
    async with _stopped(stage, deed):
        yield


@nemesis("keeper stopped", on="keeper", seconds=(0.2, 10.0), weight=1)
async def keeper_stopped(stage: Stage, deed: Deed) -> AsyncIterator[None]:
    """It comes back as a zombie with an old round in its hands."""
    async with _stopped(stage, deed):
        yield


@nemesis("workers killed at once", on="workers", weight=0.5)
async def workers_killed(stage: Stage, deed: Deed) -> AsyncIterator[None]:
    """All of them: a machine that loses power, but for its database."""
    deed.target = "all workers"
    deed.words["count"] = sum(post.signal(signal.SIGKILL) for post in stage.staff.workers)
    if not deed.words["count"]:
        raise Skip("everybody is still being started")
    yield


@nemesis("worker dies between two messages", on="worker", seconds=(5.0, 9.0), weight=3)
async def worker_dies_at_a_point(stage: Stage, deed: Deed) -> AsyncIterator[None]:
    """kill -9 exactly there: it is replaced by one that ends itself at a crash point. One that does
    not come by in time is replaced again, so that nobody is left who ends in a time of rest."""
    post = await _there(stage.staff.workers, deed)
    point = deed.dice.choice((*POINTS[:2] * 4, *POINTS))
    deed.words["point"] = point
    post.arm(f"kill:{point}:{deed.dice.randint(1, HITS_MAX)}")
    post.signal(signal.SIGKILL)
    while (armed := post.armed) is None:  # the staff comes by ten times a second
        await asyncio.sleep(0.05)
    try:
        yield
    finally:
        if armed.ended is None:
            deed.nothing = f"it did not come by {point}"
            if post.stay is armed:
                post.signal(signal.SIGKILL)
        elif armed.struck:
            deed.nothing = "it was struck before"
        elif armed.ended != -signal.SIGKILL:
            deed.nothing = f"it ended otherwise, with {armed.ended}"
