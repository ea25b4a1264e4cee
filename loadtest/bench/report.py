"""What a bench says in the end: medians, ratios within rounds, tables, JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

import msgspec

from loadtest.bench.goals import RATIO, Goal, shown
from loadtest.bench.plan import Plan, Sample
from loadtest.bench.usage import PARTS, Usage

Round = Mapping[str, Sample]


class Verdict(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """One goal over all rounds: each value was computed within its round."""

    id: str
    key: str
    title: str
    how: str
    unit: str
    bound: str
    at_least: float | None
    at_most: float | None
    value: float | None  # the median; None: no round could be trusted
    least: float
    most: float
    met: bool | None  # None: nothing is asked
    rounds: list[float]


class Row(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """One sample over all rounds: medians and extremes."""

    name: str
    unit: str
    value: float
    least: float
    most: float
    p50_ms: float
    p99_ms: float
    errors: int
    rss_mb: float
    usage: Usage | None
    facts: dict[str, float]
    rounds: list[Sample]


class Result(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """All of a run."""

    quick: bool
    began: str  # UTC
    minutes: float
    machine: dict[str, Any]
    versions: dict[str, str]
    commit: str
    plan: Plan
    network: str = "loopback only"
    goals: list[Verdict]
    samples: list[Row]
    refused: list[str] = []  # samples that could not be trusted, and why


def judge(goals: Sequence[Goal], rounds: Sequence[Round]) -> list[Verdict]:
    """Every goal, from the rounds that have its samples."""
    return [
        _judge(goal, [v for each in rounds if (v := _value(goal, each)) is not None])
        for goal in goals
    ]


def _judge(goal: Goal, values: list[float]) -> Verdict:
    value = median(values) if values else None
    bounded = goal.at_least is not None or goal.at_most is not None
    return Verdict(
        id=goal.id,
        key=goal.key,
        title=goal.title,
        how=goal.how,
        unit=goal.unit,
        bound=goal.bound,
        at_least=goal.at_least,
        at_most=goal.at_most,
        value=value,
        least=min(values, default=0.0),
        most=max(values, default=0.0),
        met=goal.is_met(value) if value is not None else False if bounded else None,
        rounds=values,
    )


def _value(goal: Goal, samples: Round) -> float | None:
    """The goal's value in a round that is its own; None in another act's."""
    if not any(name in samples for name in goal.needs):
        return None
    try:
        return goal.value(samples)
    except (KeyError, ValueError):  # not taken, or none of the alternatives
        return None


def rows(rounds: Sequence[Round]) -> list[Row]:
    """Every sample, in the order in which they were taken."""
    names = list(dict.fromkeys(name for each in rounds for name in each))
    return [_row(name, [each[name] for each in rounds if name in each]) for name in names]


def _row(name: str, samples: list[Sample]) -> Row:
    values = [sample.value for sample in samples]
    figures = [sample.figures for sample in samples if sample.figures is not None]
    return Row(
        name=name,
        unit=samples[0].unit,
        value=median(values),
        least=min(values),
        most=max(values),
        p50_ms=median([each.p50_ms for each in figures] or [0.0]),
        p99_ms=median([each.p99_ms for each in figures] or [0.0]),
        errors=sum(each.errors for each in figures),
        rss_mb=median([sample.rss_mb for sample in samples]),
        usage=typical([sample.usage for sample in samples if sample.usage is not None]),
        facts={
            fact: median([sample.facts[fact] for sample in samples if fact in sample.facts])
            for fact in samples[0].facts
        },
        rounds=samples,
    )


def typical(usages: Sequence[Usage]) -> Usage | None:
    """The median of each part."""
    if not usages:
        return None
    parts = list(dict.fromkeys(part for usage in usages for part in usage.micros))
    return Usage(
        seconds=median([usage.seconds for usage in usages]),
        idle=median([usage.idle for usage in usages]),
        micros={part: median([usage.micros.get(part, 0.0) for usage in usages]) for part in parts},
    )


def verdict_table(verdicts: Sequence[Verdict]) -> str:
    """Goals as text: what is missed says so."""
    line = "{:<4} {:<48}{:>11}{:>18}{:>13}  {}".format
    marks = {True: "met", False: "MISSED", None: ""}
    lines = [line("", "goal", "median", "min – max", "wanted", "")]
    for each in verdicts:
        spread = f"{shown(each.least, RATIO)} – {shown(each.most, RATIO)}"
        value = "unknown" if each.value is None else shown(each.value, each.unit)
        lines.append(line(each.id, each.title, value, spread, each.bound, marks[each.met]).rstrip())
    return "\n".join(lines)


def load_table(samples: Sequence[Row]) -> str:
    """Loads as text: rates, and whose CPU a request took."""
    loads = [row for row in samples if row.usage is not None]
    taken = {part for row in loads for part in (row.usage.micros if row.usage else ())}
    parts = [part for part in PARTS if part in taken]
    line = ("{:<20}{:>26}{:>8}{:>8}" + "{:>10}" * len(parts) + "{:>7}{:>7}{:>7}").format
    lines = [line("", "median [min – max]", "p50 ms", "p99 ms", *parts, "µs", "idle", "MB")]
    for row in loads:
        assert row.usage is not None
        value = f"{row.value:,.0f} [{row.least:,.0f} – {row.most:,.0f}] {row.unit}"
        if row.unit == "ms":
            value = f"{row.value:.1f} [{row.least:.1f} – {row.most:.1f}] ms"
        micros = [f"{row.usage.micros.get(part, 0.0):.1f}" for part in parts]
        lines.append(
            line(
                row.name,
                value,
                f"{row.p50_ms:.1f}",
                f"{row.p99_ms:.1f}",
                *micros,
                f"{row.usage.total:.0f}",
                f"{row.usage.idle:.0%}",
                f"{row.rss_mb:.0f}",
            )
            + (f"  {row.errors} errors" if row.errors else "")
        )
    return "\n".join(lines)


def other_table(samples: Sequence[Row]) -> str:
    """What is no load: a value, and what else was seen."""
    line = "{:<20}{:>30}  {}".format
    lines = []
    for row in samples:
        facts = ", ".join(f"{name} {shown(value, RATIO)}" for name, value in row.facts.items())
        if row.usage is None or facts:
            spread = f" [{shown(row.least, RATIO)} – {shown(row.most, RATIO)}]"
            value = f"{shown(row.value, RATIO)}{spread} {row.unit}"
            lines.append(line(row.name, value, facts).rstrip())
    return "\n".join(lines)


def text(result: Result) -> str:
    """All of it for a terminal."""
    plan = result.plan
    heading = (
        f"Quick, so roughly: loads of {plan.seconds} s, {plan.live_holds:,} live holds of which "
        f"{plan.due_at_once:,} due at once, a large drop of {plan.large_units:,} units, a past of "
        f"{plan.past_holds:,} holds, a snapshot of {plan.snapshot_seconds} s"
    )
    words = {**result.machine, **result.versions, "commit": result.commit}
    told = [
        heading * result.quick,
        verdict_table(result.goals),
        "CPU in µs a request" + "\n" + load_table(result.samples),
        other_table(result.samples),
        "\n".join(f"REFUSED {each}" for each in result.refused),
        ", ".join(f"{name} {word}" for name, word in words.items()),
    ]
    return "\n\n".join(part for part in told if part)
