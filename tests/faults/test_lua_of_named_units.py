"""INV-6, INV-9: the bouncer's bitmaps of named units. What is free is what Postgres had at one
version, in whatever order changes arrive; what is picked is what open intents picked."""

from __future__ import annotations

import itertools
import random
from collections.abc import AsyncIterator, Sequence

import pytest
import redis.asyncio

from engine.infra.settings import Settings
from engine.runtime import Ground
from engine.sale.bouncer import ATTEMPTS_PER_EPOCH, Admission, Belief
from engine.sale.models import Figures, Offer
from tests.support.seats import bits

DROP, UNITS = 7, 40


@pytest.fixture
async def client(settings: Settings) -> AsyncIterator[redis.asyncio.Redis]:
    """Looks at keys behind the bouncer's back."""
    opened = redis.asyncio.Redis.from_url(settings.redis_url)
    yield opened
    await opened.aclose()


def _figures(epoch: int, version: int, free: int = UNITS) -> Figures:
    return Figures(epoch, version, free, UNITS - free, 0, 0, UNITS)


def _offer(epoch: int, version: int) -> Offer:
    return Offer(DROP, _figures(epoch, version), 1, 0, 0, "", 0, 9, is_named=True)


@pytest.fixture
async def blind(ground: Ground) -> Ground:
    """A bouncer that knows of a drop with 40 named units, and not which are free."""
    assert await ground.bouncer.tell(_offer(ground.postgres.epoch, 1))
    return ground


@pytest.fixture
async def seated(blind: Ground) -> Ground:
    """A bouncer that knows them all to be free, at version 1."""
    assert await _load(blind, 1, range(1, UNITS + 1))
    return blind


async def _load(ground: Ground, version: int, numbers: Sequence[int]) -> bool:
    return await ground.bouncer.seat(DROP, _figures(ground.postgres.epoch, version), numbers)


async def _change(
    ground: Ground, version: int, taken: Sequence[int] = (), freed: Sequence[int] = ()
) -> None:
    figures = _figures(ground.postgres.epoch, version)
    await ground.bouncer.settle(DROP, figures, changes=(taken, freed))


def _rid(n: int) -> str:
    return f"{n:032x}"


async def _ask(
    ground: Ground, *wishes: int | Sequence[int], first: int = 1, trusted: bool = False
) -> Admission:
    """Each of these requests picks these units, or wants so many beside each other."""
    epoch, batch, picks = ground.postgres.epoch, [], []
    for n, wish in enumerate(wishes, first):
        quantity = wish if isinstance(wish, int) else len(wish)
        batch.append((_rid(n), epoch * ATTEMPTS_PER_EPOCH + 1, quantity, f"b{n}", trusted))
        picks.append([] if isinstance(wish, int) else wish)
    return await ground.bouncer.admit(DROP, epoch, batch, picks)


async def _close(ground: Ground, *requests: int, attempt: int = 1) -> None:
    number = ground.postgres.epoch * ATTEMPTS_PER_EPOCH + attempt
    await ground.bouncer.settle(DROP, closed=[(_rid(n), number, True) for n in requests])


async def _belief(ground: Ground) -> Belief:
    belief = await ground.bouncer.inspect(DROP, deep=True)
    assert belief is not None
    assert (belief.open, belief.strays) == (belief.summed, 0), "INV-6"
    return belief


async def _dump(client: redis.asyncio.Redis) -> dict[bytes, object]:
    return {bytes(key): await client.dump(key) async for key in client.scan_iter()}


# ── picking ──────────────────────────────────────────────────────────────────────────────────────


async def test_a_unit_is_let_through_for_one_request_until_that_is_settled(
    seated: Ground, client: redis.asyncio.Redis
) -> None:
    together = await _ask(seated, [3, 9], [9, 10], [10])
    later = await _ask(seated, [3], first=4)
    await _close(seated, 1, attempt=2)
    not_his = await _ask(seated, [3], first=5)
    await _close(seated, 1)
    await _close(seated, 1)
    freed = await _ask(seated, [3], first=6)

    assert together.words == ["admitted", "contended", "admitted"]
    assert later.words == not_his.words == ["contended"]
    assert freed.words == ["admitted"]
    assert await bits(client, seated, DROP, "picked") == {3, 10}
    await _belief(seated)


@pytest.mark.parametrize(
    ("wish", "word"),
    [
        ([3], "taken"),
        ([2, 3], "taken"),
        ([5], "contended"),
        ([3, 5], "taken"),
        ([41], "taken"),
        (9, "scattered"),
    ],
)
async def test_a_refused_pick_leaves_every_key_as_it_was(
    seated: Ground, client: redis.asyncio.Redis, wish: int | list[int], word: str
) -> None:
    """All or nothing, also of units beyond the bitmap's end."""
    await _change(seated, 2, taken=[3, 12, 21, 30, 39])
    await _ask(seated, [5], first=90)
    before = await _dump(client)

    assert (await _ask(seated, wish)).words == [word]

    assert await _dump(client) == before


async def test_who_is_trusted_is_let_through_whatever_the_bitmaps_say_but_not_below_zero(
    seated: Ground, client: redis.asyncio.Redis
) -> None:
    """Postgres decides; what was picked stays its first picker's."""
    await _change(seated, 2, taken=[3])
    await _ask(seated, [5])

    trusted = await _ask(seated, [3, 5, 6], [7], 4, first=2, trusted=True)
    await _close(seated, 2)
    await seated.bouncer.settle(DROP, _figures(seated.postgres.epoch, 3, free=7))

    assert trusted.words == ["admitted"] * 3
    assert trusted.firsts == [0, 0, 0], "Postgres picks"
    assert await bits(client, seated, DROP, "picked") == {5, 7}
    assert (await _ask(seated, [8, 9], 2, first=9, trusted=True)).words == ["taken", "sold_out"]
    assert (await _belief(seated)).open == 6


# ── the best there is ────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("seed", range(8))
async def test_the_best_is_the_first_run_that_nobody_has_and_nobody_is_on_his_way_to(
    seated: Ground, client: redis.asyncio.Redis, seed: int
) -> None:
    dice = random.Random(seed)
    gone = dice.sample(range(1, UNITS + 1), dice.randint(0, 25))
    await _change(seated, 2, taken=gone)
    free = set(range(1, UNITS + 1)) - set(gone)
    on_their_way = dice.sample(sorted(free), 3)
    await _ask(seated, *([n] for n in on_their_way), first=900)
    free -= set(on_their_way)
    picks = [[n] for n in dice.sample(sorted(free), 3)]
    wishes: list[int | list[int]] = [*picks, *(dice.randint(1, 5) for _ in range(14))]
    dice.shuffle(wishes)

    admission = await _ask(seated, *wishes)

    left = free - {n for each in picks for n in each}
    for wish, word, first in zip(wishes, admission.words, admission.firsts, strict=True):
        if isinstance(wish, list):
            assert (word, first) == ("admitted", 0)
            continue
        runs = [n for n in sorted(left) if left.issuperset(range(n, n + wish))]
        if runs:
            assert (word, first) == ("admitted", runs[0])
            left -= set(range(first, first + wish))
        else:
            assert (word, first) in (("scattered", 0), ("sold_out", 0))
    assert await bits(client, seated, DROP, "picked") == set(on_their_way) | (free - left)
    await _belief(seated)


# ── changes by version ───────────────────────────────────────────────────────────────────────────


async def test_changes_in_any_order_and_twice_end_in_the_same_bitmap(
    seated: Ground, client: redis.asyncio.Redis
) -> None:
    changes = {2: ([1, 2], []), 3: ([], [1]), 4: ([1, 3], []), 5: ([], [])}
    ends = []
    for order in itertools.permutations(changes):
        assert await seated.bouncer.tell(_offer(seated.postgres.epoch, 1))
        await client.delete(seated.bouncer._key(DROP, "seats"))
        assert await _load(seated, 1, range(1, UNITS + 1))
        for version in (*order, order[0]):
            await _change(seated, version, *changes[version])
        ends.append(await bits(client, seated, DROP, "seats"))
        assert (await _belief(seated)).seats_version == 5
        assert not await client.exists(seated.bouncer._key(DROP, "news"))

    assert all(end == set(range(4, UNITS + 1)) for end in ends)
    assert len(ends) == 24


async def test_figures_alone_leave_the_bitmap_behind_and_a_load_catches_up_with_what_came_since(
    seated: Ground, client: redis.asyncio.Redis
) -> None:
    """A settle was lost: the bitmap stays what was true until somebody loads the whole."""
    await seated.bouncer.settle(DROP, _figures(seated.postgres.epoch, 2))
    await _change(seated, 4, taken=[4])
    behind = await _belief(seated)
    stale = await bits(client, seated, DROP, "seats")
    loaded = await _load(seated, 3, range(10, UNITS + 1))
    older = await _load(seated, 2, range(1, 3))

    assert (behind.version, behind.seats_version, behind.missed) == (4, 1, True)
    assert stale == set(range(1, UNITS + 1))
    assert (loaded, older) == (True, False)
    assert await bits(client, seated, DROP, "seats") == set(range(10, UNITS + 1))
    assert not (await _belief(seated)).missed


async def test_too_many_changes_that_wait_for_one_drop_the_bitmap(seated: Ground) -> None:
    for version in range(3, 68):
        await _change(seated, version, taken=[4])

    assert (await _belief(seated)).seats_version == -1
    assert await _load(seated, 66, [9])
    assert (await _belief(seated)).seats_version == 67


@pytest.mark.parametrize("how", ["never loaded", "its key was lost alone"])
async def test_a_blind_bouncer_refuses_nobody_but_for_what_is_on_its_way(
    blind: Ground, client: redis.asyncio.Redis, how: str
) -> None:
    if how != "never loaded":
        assert await _load(blind, 1, [1])
        await client.delete(blind.bouncer._key(DROP, "seats"))

    admission = await _ask(blind, [30], 3, [30])

    assert (admission.named, admission.blind) == (True, True)
    assert admission.words == ["admitted", "admitted", "contended"]
    assert admission.firsts == [0, 0, 0]
    await _change(blind, 2, taken=[30])
    assert (await _belief(blind)).seats_version == -1, "changes of nothing make no bitmap"


async def test_another_epoch_forgets_what_was_free_and_what_was_picked(
    seated: Ground, client: redis.asyncio.Redis
) -> None:
    await _ask(seated, [5])
    await _change(seated, 3, taken=[1])
    epoch = seated.postgres.epoch

    await seated.bouncer.tell(_offer(epoch + 1, 1))

    assert await client.keys() == [seated.bouncer._key(DROP, "drop").encode()]
    assert not await _load(seated, 9, [1]), "of the epoch before"
    assert (await _belief(seated)).seats_version == -1


# ── mending ──────────────────────────────────────────────────────────────────────────────────────


async def test_recounting_believes_what_open_intents_picked(
    seated: Ground, client: redis.asyncio.Redis
) -> None:
    await _ask(seated, [5, 6], 2)
    picked, picks = (seated.bouncer._key(DROP, name) for name in ("picked", "picks"))
    await client.setbit(picked, 33, 1)
    await client.setbit(picked, 5, 0)
    await client.setbit(picked, 34, 1)
    await client.hset(picks, _rid(77), b"\x91\x09")

    assert await seated.bouncer.recount(DROP) == 0

    assert await bits(client, seated, DROP, "picked") == {1, 2, 5, 6}
    assert await client.hlen(picks) == 2
    await _belief(seated)


@pytest.mark.parametrize("seed", range(4))
async def test_whatever_happens_free_is_the_shelf_at_its_version_and_picked_is_on_its_way(
    seated: Ground, client: redis.asyncio.Redis, seed: int
) -> None:
    """Random steps: admissions, changes late, doubled and lost, loads of any age, losses."""
    dice = random.Random(seed)
    shelves = [set(range(1, UNITS + 1))] * 2  # by version
    steps: list[tuple[int, list[int], list[int]]] = []
    for step in range(150):
        match dice.choice(["ask"] * 3 + ["close"] * 3 + ["change"] * 4 + ["tell"] * 4 + ["load"]):
            case "ask":
                wish = dice.sample(range(1, UNITS + 1), dice.randint(1, 3))
                await _ask(seated, dice.randint(1, 3), sorted(wish), first=dice.randint(1, 60))
            case "close":
                await _close(seated, *dice.sample(range(1, 60), 9))
            case "change":
                moved = set(dice.sample(range(1, UNITS + 1), 4))
                taken, freed = sorted(moved & shelves[-1]), sorted(moved - shelves[-1])
                steps.append((len(shelves), taken, freed))
                shelves.append(shelves[-1] ^ moved)
            case "tell" if steps:
                told = steps.pop(dice.randrange(max(len(steps) - 4, 0), len(steps)))
                if dice.random() < 0.9:
                    await _change(seated, *told)
                if dice.random() < 0.2:
                    steps.append(told)
            case "load":
                version = dice.randrange(max(len(shelves) - 5, 1), len(shelves))
                await _load(seated, version, sorted(shelves[version]))
            case _ if step % 5 == 0:
                lost = dice.choice(["seats", "news"])
                await client.delete(seated.bouncer._key(DROP, lost))
        belief = await _belief(seated)
        if belief.seats_version >= 0:
            assert await bits(client, seated, DROP, "seats") == shelves[belief.seats_version]
