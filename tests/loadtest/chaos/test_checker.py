"""Every check lets true histories pass, and finds the lies that it is there for."""

from __future__ import annotations

from pathlib import Path

import pytest

from loadtest.chaos.checker import check, judge
from tests.support import lies
from tests.support.tale import Tale


def told() -> Tale:
    """A history with every feature. Drop 1 has 4 units, two a buyer; drop 2 has many."""
    tale = Tale(1)
    tale.opens(1, 4, 2)
    tale.opens(2, 20, 20)
    tale.measures("before")
    tale.looks()
    ann = tale.reserves(1, "ann", "k-ann")
    tale.reserves(1, "ann", "k-ann")  # the same again
    tale.reserves(1, "ann", "k-ann", 2)  # the key for something else
    bob = tale.reserves(1, "bob", "", 2)
    eve = tale.reserves(1, "eve", "k-eve", answered=False)  # she never hears of it
    tale.reserves(1, "dan", "k-dan")  # sold out
    tale.passes(1_000)
    assert ann is not None and bob is not None and eve is not None
    tale.buys(ann, "p-ann")
    tale.buys(ann, "p-ann")
    tale.buys(ann)  # another request: it is bought already
    tale.polls(1)
    tale.lengthens(bob, "extend")
    tale.lengthens(bob, "pay")
    tale.pays(bob, "ref-bob")
    tale.pays(bob, "ref-bob-again")  # paid twice: owed back
    tale.ends(eve, "expired")
    tale.buys(eve, "p-eve")  # too late
    tale.passes(1_000)
    tale.polls(1)
    tale.looks()
    dan = tale.reserves(1, "dan", "k-dan-2")
    gus = tale.reserves(2, "gus", "k-gus", answered=False)
    tale.reserves(2, "gus", "k-gus")  # hears of it the second time
    tale.reserves(2, "hal", "", answered=False)
    fay = tale.reserves(2, "fay", "k-fay")
    assert dan is not None and gus is not None and fay is not None
    tale.lengthens(fay, "extend")
    tale.reserves(1, "bob", "k-bob-2")  # has all that one may have
    tale.ends(dan, "released")
    tale.buys(gus, "p-gus", answered=False)
    tale.ends(ann, "refunded")
    tale.heals()
    tale.passes(10_000)
    tale.looks()
    tale.measures("after")
    return tale


def test_a_true_history_with_every_feature_passes(tmp_path: Path) -> None:
    verdict = judge(told().write(tmp_path))

    assert verdict.findings == [], "\n".join(map(verdict.story, verdict.findings))
    assert all(row.holds is not False for row in verdict.rows)


def test_every_check_has_a_lie_to_find(tmp_path: Path) -> None:
    rows = check(told().write(tmp_path))

    checks = {f"C{number}" for number in range(1, 14)} | {"INV-13"}
    assert {row.measure.split()[0] for row in rows} >= checks
    assert set().union(*(names for names, _ in lies.LIES)) == checks


@pytest.mark.parametrize(("checks", "lie"), lies.LIES, ids=lambda x: getattr(x, "__name__", ""))
def test_a_lie_is_found_by_the_checks_that_are_there_for_it(
    tmp_path: Path, checks: set[str], lie: lies.Lie
) -> None:
    tale = told()
    lie(tale)

    verdict = judge(tale.write(tmp_path))

    assert set(verdict.counts) == checks, "\n".join(map(verdict.story, verdict.findings))
    assert any(row.holds is False for row in verdict.rows)
