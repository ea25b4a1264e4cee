"""The protocol keeps its promises in random schedules; each known mistake breaks one.

The seeds are fixed, so a failure here is the change's fault and `--explain SEED` tells its story.
`run.py` is the same search with fresh seeds and more time.
"""

from __future__ import annotations

from collections import Counter

import pytest

from .model import Bouncer
from .mutants import MUTANTS, Mutant
from .postgres import LIMIT, UNITS, Postgres
from .run import catch, play
from .schedule import explain
from .seats import mask
from .words import Notice, Status, Wish

SCHEDULES = 7_000  # about 10 s
BOUNDS: dict[Mutant, int] = {  # ten times the mean or more
    "any_fence_is_definite": 30_000,
    "extend_twice": 5_000,
    "fence_before_lookup": 5_000,
    "fence_by_worker_epoch": 5_000,
    "partial_quantity": 3_000,
    "reconcile_ignores_free": 5_000,
    "retry_under_old_intent": 2_000,
    "settle_any_attempt": 5_000,
    "load_goes_back": 6_000,
    "undecided_forgotten": 5_000,
    "unnamed_debt_stays": 5_000,
}
BOUND = 2_000

# Schedules that once broke a promise, and what was wrong then.
ONCE_BROKEN = {
    10_300_520: "a refund of a purchase that was lost said of its hold that it had expired",
}

ANNA, BEN = Wish(1, buyer=1, quantity=1), Wish(2, buyer=2, quantity=LIMIT)


@pytest.mark.timeout(120)
def test_no_promise_breaks_in_random_schedules() -> None:
    found = play("", first=1, size=SCHEDULES)

    assert found.broken is None, explain(found.broken[0])
    _assert_the_schedules_were_eventful(found.counts)


@pytest.mark.parametrize("seed", ONCE_BROKEN)
def test_what_once_broke_a_promise_keeps_it_now(seed: int) -> None:
    assert play("", first=seed, size=1).broken is None, explain(seed)


def _assert_the_schedules_were_eventful(counts: Counter[str]) -> None:
    """A search that tries nothing finds nothing."""
    for kind in ("crashes", "zombies", "failovers", "silent restores", "redis emptied"):
        assert counts[kind] > SCHEDULES / 10, kind
    for word in ("yes", "no", "aborted", "unknown", "sold", "expired", "released"):
        assert counts[f"told {word}"] > SCHEDULES / 10, word
    for kind in ("words doubled", "paid late", "paid late, revived", "paid, already_paid"):
        assert counts[kind] > SCHEDULES / 10, kind
    for rare in ("paid, limit", "paid, sold_out", "paid, refunded", "undecided", "told refunded"):
        assert counts[rare] > SCHEDULES / 200, rare
    assert counts["told provider refund_due"] > SCHEDULES / 10
    assert counts["told taken"] > SCHEDULES
    assert counts["told scattered"] > SCHEDULES / 20
    assert counts["scripts that saw"] > SCHEDULES, "the bitmap is hardly ever known"


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


def test_of_two_intents_for_one_unit_the_first_covers_it_and_the_other_may_be_let_through() -> None:
    pg, bouncer = _named()
    one, other = ANNA._replace(picks=(3,)), BEN._replace(quantity=1, picks=(3,))
    assert bouncer.admit(one, (1, 1), True).word == "admitted"
    assert bouncer.admit(other, (1, 1), True).word == "contended"
    assert bouncer.admit(other, (1, 1), True, believe_seats=False).word == "admitted"

    bouncer.settle(other.rid, (1, 1), pg.look_up(other))
    assert bouncer.picked == {3}
    bouncer.settle(one.rid, (1, 1), pg.look_up(one))

    assert not bouncer.picked


def test_changes_are_applied_in_the_order_of_their_versions() -> None:
    pg, bouncer = _named()
    first = pg.claim(ANNA, (1, 1), 1, (0,))
    bouncer.publish(first)
    late = pg.claim(Wish(3, buyer=3, quantity=1), (1, 1), 1, (2,))
    taken, freed = pg.claim(BEN, (1, 1), 1, (4, 5)), pg.release(first.reservation)

    bouncer.publish(freed)
    bouncer.publish(taken)
    assert bouncer.seats_version == first.version, "what came in between is still under way"
    bouncer.publish(late)

    assert bouncer.offered == pg.shelf == mask((0, 1, 3))
    assert (bouncer.seats_version, bouncer.news) == (pg.version, {})


def test_changes_that_are_told_during_a_load_are_not_lost() -> None:
    pg, bouncer = _named()
    bouncer.publish(pg.begin_epoch(expected=1)._replace(seats=-1))  # knows of nothing now
    load = pg.read_stock()
    bouncer.publish(pg.claim(BEN, (pg.epoch, 1), pg.epoch, (4, 5)))

    bouncer.publish(load)

    assert (bouncer.seats, bouncer.seats_version) == (pg.shelf, pg.version)


def _named() -> tuple[Postgres, Bouncer]:
    pg, bouncer = Postgres(is_named=True), Bouncer(is_named=True)
    bouncer.publish(pg.read_stock())
    return pg, bouncer


def test_who_pays_past_his_deadline_keeps_his_units_until_somebody_swept() -> None:
    pg = Postgres()
    ann, ben = (pg.claim(Wish(n, n, 1), (1, 1), fence=1).reservation for n in (1, 2))
    pg.now += pg.ttl
    assert pg.confirm(ann).word == "expired"

    assert pg.settle_payment(Notice(1, ann, "succeeded")).word == "purchased"

    assert pg.reservations[ann].units == (0,)
    pg.expire_due()
    pg.claim(Wish(3, 3, 1), (1, 1), fence=1)  # has what was Ben's by now
    assert pg.settle_payment(Notice(2, ben, "succeeded")).word == "purchased"
    assert pg.reservations[ben].units == (2,)


def test_units_in_others_hands_are_not_sold_out() -> None:
    pg = Postgres()
    hold = pg.claim(ANNA, (1, 1), fence=1).reservation
    pg.release(hold)
    pg.in_hands = UNITS

    told = [pg.settle_payment(Notice(1, hold, "succeeded")).word for _ in range(2)]
    pg.in_hands = 0

    assert told == ["undecided"] * 2
    assert pg.settle_payment(pg.undecided().notice).word == "purchased"
    assert pg.undecided().word == "done"


def test_a_payment_is_decided_once_whatever_is_said_later() -> None:
    pg = Postgres()
    hold = pg.claim(ANNA, (1, 1), fence=1).reservation

    said: list[tuple[int, Status]] = [(1, "failed"), (1, "succeeded"), (1, "failed")]

    words = [pg.settle_payment(Notice(r, hold, s)).word for r, s in [*said, (2, "succeeded")]]

    assert words == ["noted", "purchased", "purchased", "refund_due"]
    assert pg.refunds == {(2, hold): "already_paid"}
