"""How large it must be: arithmetic that a person can follow, and docs that are current."""

from __future__ import annotations

import json
import re
from itertools import pairwise
from pathlib import Path

import msgspec
import pytest

from engine.infra.errors import Invalid
from engine.ops import size_page, sizing
from engine.ops.size_page import TYPICAL, advice, verdict
from engine.ops.sizing import BUSY, PARTS, Cost, Costs, Sale, estimate
from tests.ops.conftest import Types

PERFORMANCE = (Path(__file__).parents[2] / "docs" / "PERFORMANCE.md").read_text()
ROUND = Costs(
    hold=Cost(workers=100, postgres=50, valkey=10),
    keyed=Cost(workers=80, postgres=20, valkey=5),
    refusal=Cost(workers=50, postgres=0, valkey=0),
    purchase=Cost(workers=120, postgres=80, valkey=0),
    poll=Cost(workers=40, postgres=0, valkey=0),
    token_micros=0,
    holds_per_second=10_000,
)
BY_HAND = Sale(buyers=200_000, units=10_000, seconds=100, tries=2, polls=5)


def test_a_sale_is_counted_as_one_does_by_hand() -> None:
    """100,000 come within 10 s, and 190,000 × 2 further tries and 1,000,000 polls in all 100 s."""
    found = estimate(BY_HAND, ROUND)

    assert (found.rush.seconds, found.rest.seconds) == (10, 90)
    assert found.rush.holds == 10_000
    assert found.rush.refusals == pytest.approx(90_000 + 38_000)
    assert found.rest.refusals == pytest.approx(100_000 + 342_000)
    assert (found.rush.polls, found.rest.polls) == pytest.approx((100_000, 900_000))
    assert (found.rush.purchases, found.rest.purchases) == (0, 10_000)
    # Workers: 1 + 10.24 + 4 core-seconds within the rush and the second that one may wait.
    assert found.needs[0].least == pytest.approx(15.24 / 11)
    assert found.needs[0].enough == pytest.approx(15.24 / 11 / BUSY)
    # Postgres: 0.5 + 2.56 core-seconds there.
    assert found.needs[1].least == pytest.approx(3.06 / 11)
    # 10,000 units have their buyers after a second; so fast they were sold when it was measured,
    # and Postgres would need half of it.
    assert found.sold_out_seconds == pytest.approx((1, 1))
    assert found.wal_bytes == 2 * 10_000 * (ROUND.wal_bytes + ROUND.image_bytes)


def test_who_comes_last_in_the_rush_waits_for_all_that_was_not_done() -> None:
    """19.04 core-seconds of all three parts are asked for in ten seconds; of two cores 1.4 work."""
    two = next(step for step in estimate(BY_HAND, ROUND).steps if step.cores == 2)

    rush = 15.24 + 3.06 + 0.74
    rest = (442_000 * 105 + 900_000 * 40 + 10_000 * 200) / 1e6
    after_rush = rush - 1.4 * 10
    assert two.wait_seconds == pytest.approx(max(after_rush, after_rush + rest - 1.4 * 90) / 1.4)
    assert two.verdict == "slow"


@pytest.mark.parametrize("field", ["buyers", "tries", "polls"])
def test_more_of_anything_never_needs_less(field: str) -> None:
    """But of units: who gets one does not try again."""
    for sale in TYPICAL:
        larger = (1, 1.1, 2, 10, 100)
        sales = [
            msgspec.structs.replace(sale, **{field: int(getattr(sale, field) * times)})
            for times in larger
        ]
        for less, more in pairwise(estimate(each, Costs()) for each in sales):
            assert less.cores <= more.cores
            assert all(
                one.least <= other.least for one, other in zip(less.needs, more.needs, strict=True)
            )
            assert less.row_bytes <= more.row_bytes
            assert less.seconds_min <= more.seconds_min
            assert size_page.workers(less) <= size_page.workers(more)


def test_more_time_and_more_cores_never_need_or_wait_more() -> None:
    spread = [estimate(msgspec.structs.replace(BY_HAND, seconds=s), Costs()) for s in (10, 60, 600)]
    assert [each.cores for each in spread] == sorted((e.cores for e in spread), reverse=True)
    for found in (*spread, *(estimate(sale, Costs()) for sale in TYPICAL)):
        waits = [step.wait_seconds for step in found.steps]
        assert waits == sorted(waits, reverse=True)


@pytest.mark.parametrize("sale", TYPICAL, ids=lambda sale: f"{sale.buyers}")
def test_what_is_recommended_is_enough_by_the_same_arithmetic(sale: Sale) -> None:
    found = estimate(sale, Costs())
    given = {row.name: row.value for row in advice(found, 16)}
    workers, pool = int(given["WORKERS"]), int(given["POOL_SIZE"])

    assert workers >= 2
    assert int(given["max_connections"]) >= (workers + 2) * pool + 5
    fits = [step for step in found.steps if step.cores >= found.cores]
    if not found.seconds_min:
        assert fits and all(step.verdict == "fits" for step in fits)


def test_what_one_valkey_cannot_do_is_said_with_the_time_that_it_needs() -> None:
    sale = msgspec.structs.replace(BY_HAND, buyers=20_000_000)
    found = estimate(sale, ROUND)
    longer = estimate(msgspec.structs.replace(sale, seconds=found.seconds_min), ROUND)

    assert "too much for one Valkey" in verdict(found, 16)
    assert found.steps[-1].verdict.startswith("too few")
    assert longer.enough("valkey") <= 1
    assert estimate(BY_HAND, ROUND).seconds_min == 0


def test_fewer_buyers_than_units_never_sell_out() -> None:
    found = estimate(Sale(buyers=10, units=11), Costs())

    assert found.sold_out_seconds is None
    assert dict(size_page.takes(found))["sold out after"] == "never: 11 units, 10 buyers"


# ── figures of another machine ───────────────────────────────────────────────────────────────


def usage(workers: float, postgres: float, valkey: float) -> dict[str, object]:
    return {"micros": {"workers": workers, "postgres": postgres, "valkey": valkey, "client": 9}}


@pytest.fixture
def result(tmp_path: Path) -> Path:
    """A result of `make bench` with a part of its samples."""
    path = tmp_path / "part.json"
    samples = [
        {"name": "holds", "value": 5_000, "usage": usage(200, 90, 30)},
        {"name": "pairs", "value": 2_000, "usage": usage(220, 100, 20)},
        {"name": "sizes", "value": 900, "facts": {"images": 100, "rows": 400, "redis": 300}},
    ]
    path.write_text(json.dumps({"samples": samples, "machine": {"cores": 64, "cpu": "Fast"}}))
    return path


def test_a_bench_of_ones_own_machine_takes_the_place_of_our_figures(result: Path) -> None:
    costs = sizing.measured(result)

    assert costs.hold == Cost(workers=200, postgres=90, valkey=30, source="part.json")
    assert costs.purchase == Cost(workers=240, postgres=110, valkey=10, source="part.json")
    assert costs.keyed == Costs().keyed
    assert costs.holds_per_second == 5_000
    assert (costs.wal_bytes, costs.image_bytes) == (900, 100)
    assert (costs.row_bytes, costs.redis_bytes) == (400, 300)
    assert costs.machine == "64 × Fast, part.json"


@pytest.mark.parametrize("text", ["", "[]", '{"samples": 1}', '{"samples": []}', "\xff"])
def test_what_is_no_result_of_a_bench_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "other.json"
    path.write_bytes(text.encode("latin-1"))

    with pytest.raises(Invalid, match=r"other\.json"):
        sizing.measured(path)


# ── the command and the docs ─────────────────────────────────────────────────────────────────


async def test_size_says_what_is_asked_what_it_takes_and_what_to_set(types: Types) -> None:
    said = await types("size", "--buyers", "500000", "--units", "5000")

    assert (said.code, said.err) == (0, "")
    for word in ("the rush", "a refusal, with a key", "sold out after", "longest wait", "WORKERS"):
        assert word in said.out
    for word in ("max_connections", "shared_buffers", "min_wal_size", "maxmemory"):
        assert word in said.out


async def test_size_for_a_program(types: Types, result: Path) -> None:
    told = await types("size", "--buyers=9000", "--units=10", "--bench", str(result), "--json")

    assert told.json["estimate"]["sale"]["buyers"] == 9_000
    assert told.json["estimate"]["costs"]["hold"]["source"] == "part.json"
    assert {row["name"] for row in told.json["set"]} >= {"WORKERS", "POOL_SIZE", "disk flush"}


@pytest.mark.parametrize(
    "words",
    [
        ("--buyers", "5"),
        ("--buyers", "0", "--units", "1"),
        ("--buyers", "1", "--units", "1", "--bench", "none.json"),
    ],
)
async def test_a_sale_that_is_none_is_code_2(types: Types, words: tuple[str, ...]) -> None:
    said = await types("size", *words)

    assert (said.code, said.out) == (2, "")
    assert said.err


async def test_the_table_in_the_docs_is_what_the_command_prints(types: Types) -> None:
    said = await types("size")

    assert said.out.count("\n") == len(TYPICAL) + 2
    assert said.out in PERFORMANCE, "replace the table: velvetrope size"


def test_our_figures_are_those_of_the_docs() -> None:
    rows = {
        name: tuple(float(cell) for cell in cells.split("|")[:3])
        for name, cells in re.findall(r"^\| ([a-z][^|]+?) \|((?: \d+ \|){3})", PERFORMANCE, re.M)
    }
    costs = Costs()

    for name, cost in (
        ("a hold", costs.hold),
        ("sold out, from memory", costs.refusal),
        ("sold out, with a key", costs.keyed),
    ):
        assert rows[name] == tuple(getattr(cost, part) for part in PARTS), name
    pair = rows["a reservation or its purchase, in equal parts"]
    for mean, part in zip(pair, PARTS, strict=True):
        assert getattr(costs.hold, part) + getattr(costs.purchase, part) == 2 * mean
    for figure in (costs.wal_bytes, costs.row_bytes):
        assert f"{figure:,.0f} bytes" in PERFORMANCE
