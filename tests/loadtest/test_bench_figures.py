"""What the bench computes: ratios within rounds, medians, goals, CPU by process, the picture."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import msgspec
import pytest

from engine.infra import sql
from loadtest.bench import deadlines, pgbench, plot, report
from loadtest.bench.__main__ import ACTS, programme
from loadtest.bench.goals import GOALS, chosen, shown
from loadtest.bench.plan import QUICK, Plan, Sample
from loadtest.bench.usage import Reading, Usage, between, tree_seconds
from loadtest.fleet import Untrustworthy

PGBENCH_OUTPUT = """\
transaction type: /dev/stdin
number of transactions actually processed: 1036
latency average = 7.7 ms
initial connection time = 8.5 ms
tps = 259.250000 (without initial connection time)
"""
SVG = "{http://www.w3.org/2000/svg}"


def goal(key: str):
    return next(each for each in GOALS if each.key == key)


def round_of(**values: float) -> dict[str, Sample]:
    return {name.replace("_", "-"): Sample(value=value) for name, value in values.items()}


def test_a_ratio_is_taken_within_a_round_and_the_median_counts() -> None:
    rounds = [
        round_of(echo=100, holds=40),
        round_of(echo=10, holds=6),  # a noisy minute, for both of them
        round_of(echo=100, holds=70),
    ]

    [verdict] = report.judge([goal("holds")], rounds)

    assert verdict.rounds == [0.4, 0.6, 0.7]
    assert (verdict.least, verdict.value, verdict.most) == (0.4, 0.6, 0.7)
    assert verdict.met is True


def test_a_goal_that_is_missed_says_so() -> None:
    [verdict] = report.judge([goal("holds")], [round_of(echo=100, holds=49)])

    assert verdict.met is False
    assert "MISSED" in report.verdict_table([verdict])


def test_a_goal_of_which_no_round_could_be_trusted_is_unknown_and_not_met() -> None:
    [verdict] = report.judge([goal("holds")], [round_of(echo=100)])

    assert (verdict.value, verdict.met) == (None, False)
    assert "unknown" in report.verdict_table([verdict])


def test_the_best_pool_of_each_round_is_what_holds_are_compared_with() -> None:
    rounds = [
        round_of(holds=80, one_by_one_4=8, one_by_one_16=10),
        round_of(holds=80, one_by_one_4=20, one_by_one_16=10),
    ]

    [verdict] = report.judge([goal("one-by-one")], rounds)

    assert verdict.rounds == [8, 4]


def test_the_worst_step_from_one_to_two_to_four_workers_counts() -> None:
    [verdict] = report.judge(
        [goal("workers")], [round_of(workers_1=100, workers_2=180, workers_4=171)]
    )

    assert verdict.value == 0.95
    assert verdict.met is False


def test_what_is_wanted_at_most_is_met_below() -> None:
    assert goal("p99").is_met(3.9) is True
    assert goal("p99").is_met(4.1) is False
    assert goal("holds-64").is_met(0.1) is None


def test_every_sample_that_a_goal_needs_is_taken_by_one_act() -> None:
    taken = [name for act in ACTS for name in act.names]
    assert len(taken) == len(set(taken))
    for each in GOALS:
        acts = [act for act in ACTS if set(each.needs) & set(act.names)]
        assert len(acts) == 1, each.key
        assert set(each.needs) <= set(acts[0].names), each.key
    assert len({each.key for each in GOALS}) == len(GOALS)


def test_every_goal_of_the_table_has_its_bound() -> None:
    bounds = {(each.id, each.at_least, each.at_most) for each in GOALS if each.bound}

    assert bounds == {
        ("P1", 0.50, None),
        ("P2", 0.90, None),
        ("P2", 0.55, None),
        ("P3", 8, None),
        ("P6", 0.20, None),
        ("P7", None, 0.3),
        ("P7", None, 2.0),
        ("P8", 0.85, None),
        ("P10", 0.5, None),
        ("P11", None, 4),
        ("P12", None, 900),
        ("P12", None, 500),
        ("P12", None, 400),
        ("P13", 1.0, None),
        ("", 0.8, None),
        ("", None, 1.25),
    }


def test_a_goal_is_chosen_by_key_or_number_with_the_samples_it_needs() -> None:
    goals = chosen("p2,workers")

    assert [each.key for each in goals] == ["sold-out", "sold-out-keyed", "workers"]
    assert [(act.__name__, names) for act, names in programme(Plan(), goals)] == [
        ("Rates", ("echo", "sold-out", "sold-out-keyed")),
        ("Spread", ("workers-1", "workers-2", "workers-4")),
    ]
    with pytest.raises(ValueError, match="no goal is called p99x"):
        chosen("p99x")


def test_without_being_asked_limits_stay_on_and_clients_are_compared_if_there_are_two() -> None:
    keys = {each.key for each in chosen("")}
    more = {each.key for each in chosen("", without_limits=True, clients=True)}

    assert more - keys == {"no-limits", "no-limits-sold-out", "clients-echo", "clients-holds"}


def test_a_full_run_and_a_quick_one_are_as_short_as_they_say() -> None:
    def minutes(plan: Plan, clients: bool) -> float:
        acts = programme(plan, chosen("", clients=clients, quick=plan.quick))
        return sum(act.lasts(plan, names) for act, names in acts) / 60

    assert 5 < minutes(Plan(), clients=True) <= 25
    assert 1 < minutes(QUICK, clients=False) <= 2


def test_cpu_is_told_apart_by_process_and_the_rest_is_others() -> None:
    before = Reading(at=10.0, busy=100.0, rest=50.0, parts={"workers": 40.0, "postgres": 7.0})
    after = Reading(at=14.0, busy=107.0, rest=51.0, parts={"workers": 43.0, "postgres": 8.0})

    usage = between(before, after, requests=1_000_000, client_seconds=2.0)

    assert usage == Usage(
        seconds=4.0,
        idle=0.125,
        micros={"workers": 3.0, "postgres": 1.0, "client": 2.0, "others": 1.0},
    )
    assert usage.total == 7.0


def test_a_process_that_is_gone_took_nothing_and_ours_took_something() -> None:
    import os

    assert tree_seconds(2**22 + 1) == 0.0
    assert tree_seconds(os.getpid()) > 0.0


def test_pgbenchs_summary_is_read() -> None:
    assert pgbench.parse(PGBENCH_OUTPUT) == (1_036, 259.25)
    with pytest.raises(ValueError, match="not pgbench"):
        pgbench.parse("pgbench: error")


def test_pgbench_runs_the_engines_own_statement(monkeypatch: pytest.MonkeyPatch) -> None:
    script = pgbench.script(drop_id=7, epoch=3)

    assert "FROM claim_units(7::bigint, 3::bigint," in script
    assert not re.search(r"\$\d", script)
    query = sql.load("sale")["claim_units"]
    more = msgspec.structs.replace(query, words=(*query.words, "mood"))
    monkeypatch.setattr(sql, "load", lambda _: {"claim_units": more})
    with pytest.raises(Untrustworthy, match="mood"):
        pgbench.script(drop_id=7, epoch=3)


def test_lags_count_from_each_deadline_until_as_many_units_were_seen_free() -> None:
    course = [(10.0, 5), (10.2, 5), (10.3, 7), (11.1, 8)]

    lags = deadlines.shown_lags([10.1, 10.2, 11.0], before=5, course=course)

    assert [round(each, 3) for each in lags] == [0.1, 0.1, 0.2]


def test_all_is_on_sale_when_the_last_of_three_says_so() -> None:
    seen = {"row": [(10.4, 9)], "bouncer": [(10.2, 1), (10.6, 9)], "shown": [(10.5, 9)]}

    sample = deadlines.all_on_sale(10.0, [0.1, 0.3], seen)

    assert round(sample.value, 3) == 0.6
    assert round(sample.facts["row s"], 3) == 0.4


def test_the_picture_is_xml_with_a_bar_for_each_goal_even_if_names_are_strange() -> None:
    usage = Usage(seconds=4.0, idle=0.1, micros={"workers": 50.0, "postgres": 30.0, "new": 1.0})
    rounds = [round_of(echo=100, holds=40, sold_out=95)]
    rounds[0]["holds"] = Sample(value=40, usage=usage)
    result = report.Result(
        quick=True,
        began="2026-01-01T00:00:00+00:00",
        minutes=1.0,
        machine={"cores": 2, "cpu": '<Brand> & "Model"'},
        versions={"python": "3.11"},
        commit="abc",
        plan=QUICK,
        goals=report.judge([goal("holds"), goal("sold-out"), goal("p99")], rounds),
        samples=report.rows(rounds),
    )

    root = ElementTree.fromstring(plot.picture(result))

    words = " ".join(element.text or "" for element in root.iter(f"{SVG}text"))
    assert '<Brand> & "Model"' in words
    assert "0.40  (wanted ≥ 0.50) missed" in words
    assert "0.95  (wanted ≥ 0.90) met" in words
    assert "unknown  (wanted ≤ 4.00) missed" in words
    assert all(float(each.get("width", 0)) >= 0 for each in root.iter(f"{SVG}rect"))
    assert msgspec.json.decode(msgspec.json.encode(result))["goals"][0]["value"] == 0.4
    assert "unknown" in report.text(result)


@pytest.mark.parametrize(
    ("value", "unit", "words"),
    [
        (0.333, "×", "0.33"),
        (8.96, "×", "8.96"),
        (12.34, "×", "12.3"),
        (1234.5, "bytes", "1,234 bytes"),
    ],
)
def test_figures_are_short(value: float, unit: str, words: str) -> None:
    assert shown(value, unit) == words
