"""The protocol keeps its promises in random schedules; each known mistake breaks one.

The seeds are fixed, so a failure here is the change's fault and `--explain SEED` tells its story.
`run.py` is the same search with fresh seeds and more time.
"""

from __future__ import annotations

from collections import Counter

import pytest

from .model import LIMIT, Bouncer, Postgres
from .mutants import MUTANTS, Mutant
from .run import catch, play
from .schedule import explain
from .words import Wish

SCHEDULES = 8_000  # about 8 s
BOUNDS: dict[Mutant, int] = {  # ten times the mean or more
    "any_fence_is_definite": 30_000,
    "fence_before_lookup": 5_000,
    "fence_by_worker_epoch": 2_000,
    "partial_quantity": 3_000,
    "reconcile_ignores_free": 5_000,
    "retry_under_old_intent": 2_000,
    "settle_any_attempt": 5_000,
}
BOUND = 1_000

ANNA, BEN = Wish(1, buyer=1, quantity=1), Wish(2, buyer=2, quantity=LIMIT)


@pytest.mark.timeout(120)
def test_no_promise_breaks_in_random_schedules() -> None:
    found = play("", first=1, size=SCHEDULES)

    assert found.broken is None, explain(found.broken[0])
    _assert_the_schedules_were_eventful(found.counts)


def _assert_the_schedules_were_eventful(counts: Counter[str]) -> None:
    """A search that tries nothing finds nothing."""
    for kind in ("crashes", "zombies", "failovers", "silent restores", "redis emptied"):
        assert counts[kind] > SCHEDULES / 10, kind
    for word in ("yes", "no", "aborted", "unknown", "sold", "expired", "released"):
        assert counts[f"told {word}"] > SCHEDULES / 10, word


@pytest.mark.timeout(120)
@pytest.mark.parametrize("mutant", MUTANTS)
def test_each_mistake_is_caught(mutant: Mutant) -> None:
    bound = BOUNDS.get(mutant, BOUND)

    caught = catch(mutant, first=1, limit=bound)

    assert caught.schedules, f"{mutant} got away with {bound} schedules"


def test_a_tombstone_stops_the_claim_that_comes_late() -> None:
    pg = Postgres()

    answer = pg.tombstone(ANNA.rid, (1, 1))

    assert answer.word == "aborted"
    assert pg.claim(ANNA, (1, 1), fence=1).word == "blocked"
    assert pg.claim(ANNA, (1, 2), fence=1).word == "ok"


def test_a_replay_is_answered_before_the_fence() -> None:
    pg = Postgres()
    first = pg.claim(ANNA, (1, 1), fence=1)
    pg.now += 1
    pg.begin_epoch(expected=1)

    again = pg.claim(ANNA, (1, 1), fence=1)

    assert (again.word, again.reservation) == ("ok", first.reservation)
    assert pg.claim(BEN, (1, 1), fence=1).word == "fenced"


def test_a_refusal_speaks_for_one_copy_only() -> None:
    """The known limit of unstored refusals: Redis forgets the intent of a claim under way, a
    second copy of the key is refused, then the first lands. `tombstone_refusals` would stop it."""
    pg, bouncer = Postgres(), Bouncer()
    bouncer.publish(pg.read_stock())
    assert bouncer.admit(ANNA, (1, 1), True).word == "admitted"
    bouncer.ready = False
    others = [pg.claim(Wish(10 + n, 10 + n, LIMIT), (1, 1), fence=1).reservation for n in range(3)]
    bouncer.publish(pg.read_stock())
    assert bouncer.admit(ANNA, (1, 1), True).word == "sold_out"
    assert pg.look_up(ANNA).word == "absent"

    pg.release(others[0])

    assert pg.claim(ANNA, (1, 1), fence=1).word == "ok"


def test_with_tombstoned_refusals_no_refusal_is_overtaken() -> None:
    found = play("tombstone_refusals", first=1, size=1_000)

    assert found.broken is None
    assert found.counts["refusals overtaken"] == 0
