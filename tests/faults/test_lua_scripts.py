"""INV-4, INV-6, INV-9: each script alone. Twice is once, any order ends alike, a refusal writes
nothing, and the sum of open intents is always the sum of the intents."""

from __future__ import annotations

import itertools
import random
from collections.abc import AsyncIterator
from typing import Any

import pytest
import redis.asyncio

from engine.infra.settings import Settings
from engine.runtime import Ground
from engine.sale.bouncer import ATTEMPTS_PER_EPOCH, Belief
from engine.sale.models import Figures, Offer
from tests.support.ghosts import admit, strand
from tests.support.wait import wait_until

DROP = 7


@pytest.fixture
async def client(settings: Settings) -> AsyncIterator[redis.asyncio.Redis]:
    """Looks at keys behind the bouncer's back."""
    opened = redis.asyncio.Redis.from_url(settings.redis_url)
    yield opened
    await opened.aclose()


def _figures(epoch: int, version: int, free: int, total: int = 20) -> Figures:
    return Figures(epoch, version, free, total - free, 0, 0, total)


def _offer(epoch: int, version: int, free: int, **terms: Any) -> Offer:
    words: dict[str, Any] = {"terms_version": 1, "starts_ms": 0, "ends_ms": 0, "shut": ""}
    words |= {"max_per_buyer": 3, "max_per_order": 5} | terms
    return Offer(DROP, _figures(epoch, version, free), **words)


@pytest.fixture
async def told(ground: Ground) -> Ground:
    """A bouncer that knows of a drop with 20 free units, 3 for a buyer, 5 for an order."""
    assert await ground.bouncer.tell(_offer(ground.postgres.epoch, 1, 20))
    return ground


def _rid(n: int) -> str:
    return f"{n:032x}"


def _attempt(ground: Ground, n: int = 1) -> int:
    return ground.postgres.epoch * ATTEMPTS_PER_EPOCH + n


async def _close(ground: Ground, *requests: int, kept: bool = False, attempt: int = 1) -> None:
    closed = [(_rid(n), _attempt(ground, attempt), kept) for n in requests]
    await ground.bouncer.settle(DROP, closed=closed)


async def _belief(ground: Ground) -> Belief:
    belief = await ground.bouncer.inspect(DROP, deep=True)
    assert belief is not None
    assert belief.open == belief.summed, "INV-6: open is not the sum of the intents"
    return belief


async def _dump(client: redis.asyncio.Redis) -> dict[bytes, object]:
    """Every key and what is in it."""
    return {bytes(key): await client.dump(key) async for key in client.scan_iter()}


# ── admit ────────────────────────────────────────────────────────────────────────────────────────


async def test_admitting_a_request_twice_admits_it_once(told: Ground) -> None:
    assert (await admit(told, DROP, [(_rid(1), 2, "ann")])).words == ["admitted"]
    assert (await admit(told, DROP, [(_rid(1), 2, "ann")])).words == ["repeated"]
    assert (await admit(told, DROP, [(_rid(1), 2, "ann")], attempt=9)).words == ["repeated"]

    assert (await _belief(told)).available == 18


@pytest.mark.parametrize(
    ("wish", "word"),
    [
        ((_rid(1), 1, "ann"), "repeated"),
        ((_rid(2), 6, "bob"), "too_many"),
        ((_rid(2), 1, "ann"), "limit"),
        ((_rid(2), 3, "bob"), "sold_out"),
    ],
)
async def test_a_refused_request_leaves_every_key_as_it_was(
    told: Ground, client: redis.asyncio.Redis, wish: tuple[str, int, str], word: str
) -> None:
    await told.bouncer.settle(DROP, _figures(told.postgres.epoch, 2, 5))
    assert (await admit(told, DROP, [(_rid(1), 3, "ann")])).words == ["admitted"]
    before = await _dump(client)

    assert (await admit(told, DROP, [wish])).words == [word]

    assert await _dump(client) == before


async def test_who_must_wait_is_known_only_while_the_drop_says_so(
    ground: Ground, client: redis.asyncio.Redis
) -> None:
    epoch = ground.postgres.epoch
    await ground.bouncer.tell(_offer(epoch, 1, 20, cooldown_factor=2))
    await ground.bouncer.settle(DROP, cools=[("ann", 60_000), ("bob", 1), ("cat", 60_000)])
    await ground.bouncer.settle(DROP, cools=[("cat", 0)])
    before = await _dump(client)

    async def bob_is_free() -> bool:
        wish = (_rid(99), _attempt(ground), 6, "bob", False)
        return (await ground.bouncer.admit(DROP, epoch, [wish])).words == ["too_many"]

    await wait_until(bob_is_free, "a millisecond has passed")
    words = (await admit(ground, DROP, [(_rid(1), 1, "ann")])).words
    unchanged = await _dump(client)
    others = await admit(ground, DROP, [(_rid(2), 1, "bob"), (_rid(3), 1, "cat")])
    trusted = (_rid(4), _attempt(ground), 1, "ann", True)
    checked = await ground.bouncer.admit(DROP, epoch, [trusted])
    await ground.bouncer.tell(_offer(epoch, 1, 20, terms_version=2))
    off = await admit(ground, DROP, [(_rid(5), 1, "ann")])

    assert words == ["cooling"]
    assert unchanged == before, "a refusal writes nothing"
    assert others.words == ["admitted", "admitted"]
    assert checked.words == off.words == ["admitted"]
    await _belief(ground)


@pytest.mark.parametrize(
    ("terms", "word"),
    [
        ({"shut": "preparing"}, "preparing"),
        ({"shut": "admin"}, "admin"),
        ({"starts_ms": 1 << 45}, "not_started"),
        ({"ends_ms": 1}, "ended"),
    ],
)
async def test_a_closed_drop_refuses_and_leaves_every_key_as_it_was(
    ground: Ground, client: redis.asyncio.Redis, terms: dict[str, Any], word: str
) -> None:
    await ground.bouncer.tell(_offer(ground.postgres.epoch, 1, 20, **terms))
    before = await _dump(client)

    admission = await admit(ground, DROP, [(_rid(1), 1, "ann")])

    assert (admission.word, admission.words) == ("shut", [word])
    assert await _dump(client) == before


async def test_an_unknown_drop_and_another_epoch_are_said_so_and_write_nothing(
    ground: Ground, client: redis.asyncio.Redis
) -> None:
    assert (await admit(ground, DROP, [(_rid(1), 1, "ann")])).word == "unknown"
    assert await _dump(client) == {}
    await ground.bouncer.tell(_offer(ground.postgres.epoch + 1, 1, 20))
    before = await _dump(client)

    assert (await admit(ground, DROP, [(_rid(1), 1, "ann")])).word == "fenced"

    assert await _dump(client) == before


async def test_a_batch_is_served_in_its_order_and_never_below_zero(told: Ground) -> None:
    await told.bouncer.settle(DROP, _figures(told.postgres.epoch, 2, 6))
    wishes = [(_rid(n), size, f"b{n}") for n, size in enumerate([3, 2, 3, 1, 1])]

    admission = await admit(told, DROP, wishes)

    assert admission.words == ["admitted", "admitted", "sold_out", "admitted", "sold_out"]
    assert (await _belief(told)).available == 0


# ── settle ───────────────────────────────────────────────────────────────────────────────────────


async def test_closing_an_intent_twice_gives_its_units_back_once(told: Ground) -> None:
    await strand(told, DROP, 4)

    await _close(told, 0, 1)
    await _close(told, 0, 1)

    belief = await _belief(told)
    assert (belief.intents, belief.available) == (2, 18)


async def test_an_intent_is_closed_only_by_its_own_attempt(told: Ground) -> None:
    await admit(told, DROP, [(_rid(1), 2, "ann")], attempt=2)

    await _close(told, 1, attempt=1)
    await _close(told, 1, attempt=3)

    assert (await _belief(told)).available == 18
    await _close(told, 1, attempt=2)
    assert (await _belief(told)).available == 20


async def test_a_closed_intent_gives_its_buyer_back_his_allowance_unless_he_kept_the_units(
    told: Ground,
) -> None:
    await admit(told, DROP, [(_rid(1), 3, "ann"), (_rid(2), 3, "bob")])

    await _close(told, 1, kept=True)
    await _close(told, 2, kept=False)

    again = await admit(told, DROP, [(_rid(3), 1, "ann"), (_rid(4), 3, "bob")])
    assert again.words == ["limit", "admitted"]


async def test_settling_a_drop_that_is_unknown_writes_nothing(
    ground: Ground, client: redis.asyncio.Redis
) -> None:
    closed = [(_rid(1), _attempt(ground), False)]
    await ground.bouncer.settle(DROP, closed=closed, uses=[("ann", 2, True)], ring_ms=1_000)

    assert await _dump(client) == {}


async def test_figures_are_taken_in_any_order_and_the_newest_stay(told: Ground) -> None:
    epoch = told.postgres.epoch
    news = [_figures(epoch, 2, 19), _figures(epoch, 3, 17), _figures(epoch + 1, 1, 9)]
    news.append(_figures(epoch + 1, 2, 8))
    for order in itertools.permutations(news):
        await told.redis.client.flushall()
        seen = []
        for figures in order:
            await told.bouncer.settle(DROP, figures)
            belief = await _belief(told)
            seen.append((belief.epoch, belief.version))
        assert seen == sorted(seen), f"INV-9: a version fell in {order}"
        assert (belief.epoch, belief.version, belief.free) == (epoch + 1, 2, 8)


async def test_terms_are_taken_in_any_order_and_the_newest_stay(ground: Ground) -> None:
    epoch = ground.postgres.epoch
    offers = [
        _offer(epoch, 1, 20, terms_version=n, shut="admin" if n < 3 else "") for n in (1, 2, 3)
    ]
    for order in itertools.permutations(offers):
        await ground.redis.client.flushall()
        for offer in order:
            await ground.bouncer.tell(offer)
        assert (await admit(ground, DROP, [(_rid(1), 1, "ann")])).word == "open"


async def test_one_batch_and_its_reports_in_every_order_end_alike(told: Ground) -> None:
    """Two requests are admitted; one is held, one refused; a third is reported by a zombie."""
    epoch = told.postgres.epoch

    async def publish() -> None:
        await told.bouncer.settle(DROP, _figures(epoch, 2, 18))

    async def close_held() -> None:
        await _close(told, 1, kept=True)

    async def close_refused() -> None:
        await _close(told, 2)

    async def zombie() -> None:
        await told.bouncer.settle(
            DROP, _figures(epoch, 1, 20), closed=[(_rid(3), _attempt(told), False)]
        )

    for order in itertools.permutations([publish, close_held, close_refused, zombie] * 1):
        await told.redis.client.flushall()
        await told.bouncer.tell(_offer(epoch, 1, 20))
        await admit(told, DROP, [(_rid(1), 2, "ann"), (_rid(2), 1, "bob")])
        for step in (*order, *order):
            await step()
            assert (await _belief(told)).available <= 20
        belief = await _belief(told)
        assert (belief.version, belief.available, belief.intents) == (2, 18, 0)


async def test_a_new_epoch_forgets_the_intents_and_buyers_of_the_old_one(told: Ground) -> None:
    await admit(told, DROP, [(_rid(1), 3, "ann")])

    await told.bouncer.tell(_offer(told.postgres.epoch + 1, 1, 20))
    await _close(told, 1)

    belief = await _belief(told)
    assert (belief.available, belief.intents) == (20, 0)


async def test_a_bell_rings_when_its_time_has_come_and_is_named_once(told: Ground) -> None:
    await told.bouncer.settle(DROP, ring_ms=30, bell_ms=1)
    assert await told.bouncer.ring_due(DROP) == 0

    async def rings() -> int:
        return await told.bouncer.ring_due(DROP)

    assert await wait_until(rings, "the bell is due") == 1
    assert await told.bouncer.ring_due(DROP) == 0


async def test_only_intents_past_their_deadline_are_stale_and_looking_changes_nothing(
    told: Ground, client: redis.asyncio.Redis
) -> None:
    old, told.bouncer._intent_ttl_ms = told.bouncer._intent_ttl_ms, 1
    await admit(told, DROP, [(_rid(1), 2, "a:b:7")])
    told.bouncer._intent_ttl_ms = old
    await admit(told, DROP, [(_rid(2), 1, "bob")])

    async def stale() -> list[tuple[str, int, int, str]]:
        found = await told.bouncer.stale_intents(DROP, 10)
        return [(i.request_id, i.attempt, i.quantity, i.buyer) for i in found]

    before = await _dump(client)
    assert await wait_until(stale, "it is stale") == [(_rid(1), _attempt(told), 2, "a:b:7")]
    assert await _dump(client) == before


# ── recount ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("off", [-5, -1, 2, 7])
async def test_recounting_believes_the_intents_and_says_how_far_the_sum_was_off(
    told: Ground, client: redis.asyncio.Redis, off: int
) -> None:
    await admit(told, DROP, [(_rid(1), 3, "ann"), (_rid(2), 1, "a:1:2:b")])
    await client.hincrby(told.bouncer._key(DROP, "drop"), "open", off)

    assert await told.bouncer.recount(DROP) == off
    assert await told.bouncer.recount(DROP) == 0

    belief = await _belief(told)
    assert (belief.intents, belief.open, belief.available) == (2, 4, 16)


async def test_recounting_what_is_right_or_unknown_leaves_every_key_as_it_was(
    told: Ground, client: redis.asyncio.Redis
) -> None:
    await admit(told, DROP, [(_rid(1), 3, "ann")])
    before = await _dump(client)

    assert await told.bouncer.recount(DROP) == 0
    assert await told.bouncer.recount(DROP + 1) == 0

    assert await _dump(client) == before


async def test_recounting_after_the_intents_were_lost_frees_their_units(
    told: Ground, client: redis.asyncio.Redis
) -> None:
    await admit(told, DROP, [(_rid(1), 3, "ann")])
    await client.delete(told.bouncer._key(DROP, "intents"))

    assert await told.bouncer.recount(DROP) == 3
    assert (await _belief(told)).available == 20


@pytest.mark.parametrize("seed", range(6))
async def test_whatever_happens_open_is_the_sum_of_the_intents(told: Ground, seed: int) -> None:
    """200 random steps: admissions, reports in any order and twice, losses, new epochs."""
    dice = random.Random(seed)
    epoch, version = told.postgres.epoch, 1
    for step in range(200):
        match dice.choice(
            ["admit"] * 5 + ["close"] * 4 + ["publish"] * 2 + ["use", "epoch", "lose", "recount"]
        ):
            case "admit":
                ids = dice.sample(range(60), dice.randint(1, 8))
                wishes = [(_rid(n), dice.randint(1, 5), f"b{n % 9}") for n in ids]
                batch = [(r, _attempt(told), q, b, dice.random() < 0.5) for r, q, b in wishes]
                admission = await told.bouncer.admit(DROP, epoch, batch)
                assert admission.available >= 0 or "admitted" not in admission.words
            case "close":
                ids = dice.sample(range(60), dice.randint(1, 20))
                closed = [(_rid(n), _attempt(told, dice.choice([1, 1, 1, 2])), False) for n in ids]
                await told.bouncer.settle(DROP, closed=closed)
            case "publish":
                version += dice.choice([-1, 0, 1, 1, 1])
                await told.bouncer.settle(DROP, _figures(epoch, version, dice.randint(0, 20)))
            case "use":
                uses = [(f"b{dice.randint(0, 8)}", dice.randint(-3, 3), dice.random() < 0.3)]
                await told.bouncer.settle(
                    DROP, uses=[(b, max(u, 0) if x else u, x) for b, u, x in uses]
                )
            case "epoch":
                epoch += dice.choice([0, 1])
                await told.bouncer.tell(_offer(epoch, version, dice.randint(0, 20)))
            case "recount":
                assert await told.bouncer.recount(DROP) == 0
            case "lose" if step % 3 == 0:
                await told.redis.client.flushall()
                await told.bouncer.tell(_offer(epoch, version, 20))
        if await told.bouncer.inspect(DROP) is not None:
            await _belief(told)
