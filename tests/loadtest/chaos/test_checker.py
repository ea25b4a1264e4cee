"""Every check lets true histories pass, and finds the lies that it is there for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from loadtest.chaos.checker import check, judge
from loadtest.chaos.checker.__main__ import main
from loadtest.chaos.facts import HoldFact, PurchaseFact, Tick
from loadtest.chaos.history import Complete, Fault, Heal, Invoke, Resource
from loadtest.fleet import Untrustworthy
from tests.support import lies
from tests.support.tale import Tale, wall


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
    tale.pays(dan, "ref-dan")  # too late, and a unit is free: it is his
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


def the_last_unit(tale: Tale) -> None:
    """Eve has it, and her answer was lost. Nothing comes after it: the drop is sold out."""
    tale.opens(1, 2, 2)
    tale.looks()
    tale.reserves(1, "ann", "k-ann")
    tale.passes(1_000)
    assert tale.reserves(1, "eve", "k-eve", answered=False) is not None


def eve_hears_sold_out(tale: Tale) -> None:
    """A copy of her request, with its key."""
    words = {"buyer": "eve", "key": "k-eve", "quantity": 1, "copy": 2}
    tale.asks("reserve", 1, "fail", status=409, code="SOLD_OUT", **words)


def seen_at_once(tale: Tale) -> None:
    for _ in range(2):  # a look is over when the next one begins
        tale.passes(500)
        tale.looks()


def polled_at_once(tale: Tale) -> None:
    tale.passes(500)
    tale.polls(1)


@pytest.mark.parametrize("proof", [seen_at_once, polled_at_once, lambda tale: tale.passes(6_000)])
def test_a_winner_of_the_last_unit_is_not_told_sold_out(
    tmp_path: Path, proof: Callable[[Tale], None]
) -> None:
    tale = Tale(1)
    the_last_unit(tale)
    proof(tale)
    tale.passes(1_000)
    eve_hears_sold_out(tale)

    assert set(judge(tale.write(tmp_path)).counts) == {"C5"}


def test_a_copy_may_be_told_sold_out_while_the_last_unit_is_being_committed(tmp_path: Path) -> None:
    tale = Tale(1)
    the_last_unit(tale)
    at = tale.moment
    tale.lines.append(Fault(at, at + 6_000_000_000, "postgres stopped", "postgres"))
    tale.passes(5_500)
    eve_hears_sold_out(tale)
    tale.passes(2_000)
    tale.looks()

    assert judge(tale.write(tmp_path)).findings == []


def test_a_bouncer_that_was_made_to_forget_may_go_back(tmp_path: Path) -> None:
    tale = told()
    lies.the_bouncer_goes_back(tale)
    at = tale.moment
    fault = Fault(at - 2_000_000_000, at, "valkey killed", "valkey", skipped="no", forgets=True)
    tale.lines.append(fault)

    assert judge(tale.write(tmp_path)).findings == []


@pytest.mark.parametrize(
    ("gone", "measure"), [(Resource, "processes compared"), (Heal, "heals judged")]
)
def test_what_was_not_looked_at_is_no_proof(tmp_path: Path, gone: type, measure: str) -> None:
    tale = told()
    tale.lines = [line for line in tale.lines if not isinstance(line, gone)]

    rows = check(tale.write(tmp_path))

    assert [row.measure for row in rows if row.holds is False] == [measure]


def test_an_unanswered_request_may_be_served_at_any_later_moment(tmp_path: Path) -> None:
    tale = told()
    asked = lies.first(tale, Invoke, buyer="eve", verb="reserve")
    lies.unsay(tale, asked, answer_only=True)
    lies.change(tale, asked, at=0)  # long before, and its process may be gone since

    assert judge(tale.write(tmp_path)).findings == []


def test_a_refused_copy_and_a_served_one_may_cross(tmp_path: Path) -> None:
    tale = told()
    gus = lies.first(tale, Invoke, buyer="gus", verb="reserve")  # its answer was lost
    twin = [x for x in tale.lines if isinstance(x, Invoke) and x.key == gus.key][-1]
    lies.unsay(tale, twin)
    lies.change(tale, twin, at=gus.at)
    words = {"process": gus.process, "op": 1_000, "copy": 2}
    tale.lines.append(msgspec.structs.replace(gus, **words))
    tale.lines.append(Complete(gus.at + 1, gus.process, 1_000, "fail", 409, "PAUSED"))

    assert judge(tale.write(tmp_path)).findings == []


def test_lost_acknowledgements_are_counted_where_a_tail_may_be_lost(tmp_path: Path) -> None:
    tale = told()
    lies.told_yes_for_nothing(tale)
    tale.run["lost_tail"] = True

    rows = {row.measure: row for row in check(tale.write(tmp_path))}

    assert rows["acknowledgements lost"].seen == "1"
    assert all(row.holds is not False for row in rows.values())


def test_false_sold_out_under_a_fault_is_a_figure(tmp_path: Path) -> None:
    tale = told()
    lies.false_sold_out(tale)
    since = lies.first(tale, Invoke, buyer="kim").at
    tale.lines.append(Fault(since - 9_000_000_000, since - 7_000_000_000, "kill"))

    rows = {row.measure: row for row in check(tale.write(tmp_path))}

    assert float(rows["false sold out, under faults, s"].seen) > 0
    assert rows["false sold out, calm, s"].holds is True


def test_a_clock_that_was_set_is_followed(tmp_path: Path) -> None:
    tale = told()
    step, at = 3_600_000_000, tale.facts[len(tale.facts) // 2].at
    tale.facts = [
        msgspec.structs.replace(fact, at=fact.at + step) if getattr(fact, "at", 0) >= at else fact
        for fact in tale.facts
    ]
    for fact in [f for f in tale.facts if isinstance(f, HoldFact | PurchaseFact) and f.at >= at]:
        if isinstance(fact, PurchaseFact):
            lies.change(tale, fact, bought=fact.bought + step)
        else:
            lies.change(tale, fact, expires=fact.expires + step)
    assert judge(tale.write(tmp_path)).findings, "nobody knows that it was set"

    ours = (at - wall(0)) * 1000
    tale.facts.append(Tick(ours - 1_000, at + step, ours + 1_000))

    assert judge(tale.write(tmp_path)).findings == []


def test_the_command_tells_the_story_of_each_violation(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tale = told()
    lies.told_no_and_it_exists(tale)

    assert main([str(tale.write(tmp_path))]) == 1

    said = capsys.readouterr().out
    assert "C5 told no, and it was done" in said
    story = said[said.index("C5: reserve: all who can have done it were told no") :]
    assert [word in story for word in ('"SOLD_OUT"', '"k-eve"', '"type":"hold"')] == [True] * 3


def test_a_folder_without_facts_cannot_be_judged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "client-1.jsonl").write_bytes(b'{"type":"invo')  # and a line that was cut short

    with pytest.raises(Untrustworthy, match="no histories"):
        check(tmp_path)
    assert main([str(tmp_path)]) == 2
    assert "no histories" in capsys.readouterr().err
