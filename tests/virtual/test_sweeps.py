"""One thing goes wrong in a short sale, at every place where it can: all promises are kept.

The sale is scene.py's. That each sweep really hits something is asserted of the sweep as a whole.
"""

from __future__ import annotations

from collections import Counter
from functools import cache

import pytest

from .mistakes import at_risk_is_forgotten, no_tombstone, sells_in_the_request_task
from .oracle import Violation
from .scene import DarkReply, LateClaim, Scene

POSTGRES = ("request lost", "reply lost", "zombie", "dark reply", "error 40P01")
REDIS = ("request lost", "reply lost", "cut after", "late")


@cache
def _undisturbed() -> Scene:
    scene = Scene()
    scene.run()
    return scene


def _play(scene: Scene, what: str) -> Counter[str]:
    try:
        return scene.run()
    except Violation as violation:
        raise AssertionError(f"{what}: {violation}") from None


def test_the_sale_is_one_in_which_everything_happens() -> None:
    counts = _undisturbed().counts

    assert counts["told yes"] >= 4
    for became in ("holds", "purchased", "released", "paid: purchased"):
        assert counts[became], became


def test_who_hangs_up_at_any_await_leaves_nothing_open_even_without_a_reaper() -> None:
    """The worker finishes by itself what a request began: a reaper is for dead workers."""
    rounds = ("sweeper", "settler", "reconciler")
    hung_up = 0
    for number, (copy, counted) in enumerate(_undisturbed().requests, 1):
        assert counted.steps > 0
        for step in range(1, counted.steps + 1):
            scene = Scene(hang_up=(number, step), rounds=rounds)
            _play(scene, f"{copy.op} hung up at await {step}")
            hung_up += scene.requests[number - 1][0].word == "gone"

    assert hung_up >= len(_undisturbed().requests)


def test_a_protocol_in_the_request_task_would_be_noticed() -> None:
    """The sweep above sees what it is there to see."""
    with pytest.raises(Violation, match="INV"):
        for step in range(1, 12):
            for number in range(1, 5):
                hang_up = (number, step)
                Scene(hang_up=hang_up, rounds=("sweeper",), patch=sells_in_the_request_task).run()


@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.parametrize("number", [0, 1])
def test_a_worker_may_die_at_any_of_its_steps(number: int) -> None:
    steps = _undisturbed().staff[number].steps
    assert steps > 50
    deaths = 0
    for step in range(1 + number, steps + 1, 2):
        scene = Scene(die=(number, step))
        _play(scene, f"worker {number} dies at step {step}")
        deaths += bool(scene.oracle.deaths)

    assert deaths > steps * 0.45


@pytest.mark.timeout(240)
def test_a_worker_may_stop_for_longer_than_its_intents_live() -> None:
    for number in (0, 1):
        for step in range(3, _undisturbed().staff[number].steps, 6):
            _play(Scene(freeze=(number, step)), f"worker {number} is frozen at step {step}")


@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    "kind,fate", [*(("postgres", fate) for fate in POSTGRES), *(("redis", fate) for fate in REDIS)]
)
def test_any_one_message_may_get_lost(kind: str, fate: str) -> None:
    messages = _undisturbed().messages[kind]
    assert messages > 5
    hit = 0
    for number in range(1, messages + 1):
        scene = Scene(fates={(kind, number): fate})
        _play(scene, f"{kind} message {number}: {fate}")
        hit += scene.counts[f"{kind} {fate}"]

    assert hit > messages * 0.9


def test_a_claim_that_comes_after_its_refusal_finds_a_tombstone() -> None:
    scene = LateClaim()
    _play(scene, "a late claim")

    assert scene.counts["postgres zombie"] == 1
    assert scene.counts["holds"] == 1


def test_without_the_tombstone_it_would_be_noticed() -> None:
    with pytest.raises(Violation, match="INV-3"):
        LateClaim(patch=no_tombstone).run()


def test_who_has_no_key_and_no_reply_hears_that_nothing_is_known() -> None:
    scene = DarkReply()
    _play(scene, "a dark reply")

    assert scene.counts["told unknown"] == 1
    assert scene.counts["holds"] == 1


def test_a_forgotten_risk_would_be_noticed() -> None:
    with pytest.raises(Violation, match="INV-3"):
        DarkReply(patch=at_risk_is_forgotten).run()
