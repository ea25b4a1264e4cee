"""The plan of a run: which fault, when, on whom, for how long. A seed fixes all of it.

    round 1             heal   round 2                    heal
    ├─ faults ... ──────┤ rest ├─ calm ─┼─ faults ... ────┤ rest ├─ ...

In a round a fault begins every half to four seconds, at most three are under way at once, never two
on the same target, and all end with the round; who is late waits for the target (mischief.py).
Every round but the first begins with a calm, in which buyers buy and nothing excuses the service.
Towards the end of a round nothing makes Valkey forget any more, and a worker dies with intents in
its hands: else a rest might find nothing to mend.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping

import msgspec

from loadtest.chaos import on_postgres, on_processes, on_valkey, on_wires
from loadtest.chaos.nemesis import ALL, Nemesis, Planned

ROUND_SECONDS = 50.0
HEAL_SECONDS = 10.0  # longer than a fault excuses anything (checker/soldout.py)
CALM_SECONDS = 6.0
AT_ONCE_MAX = 3
GAP_SECONDS = (0.5, 4.0)
COUNT = {"worker": 3, "keeper": 2}  # targets of a kind; one of the others
NEW_SHARE = 1 / 3
LAST_SECONDS = 0.5  # before its end a round begins nothing any more
MEMORY_SECONDS = 12.0  # before its end nothing makes Valkey forget
DEATH_SECONDS = 8.0  # before its end a worker is sent to die between two messages
DEATH = "worker dies between two messages"

FAMILIES = (on_processes, on_valkey, on_postgres, on_wires)  # importing them fills the list


class Round(msgspec.Struct, frozen=True):
    """A stretch of faults, after which everything heals."""

    seconds: float
    faults: list[Planned]


def draw(seed: int, seconds: float) -> list[Round]:
    """The plan for a run of so many seconds, healing included."""
    dice = random.Random(seed)
    whole = ROUND_SECONDS + HEAL_SECONDS
    lengths = [ROUND_SECONDS] * int(seconds // whole)
    left = seconds - whole * len(lengths) - HEAL_SECONDS
    if left >= 5.0 or not lengths:
        lengths.append(max(left, 5.0))
    new = dict(ALL)
    calms = [0.0] + [CALM_SECONDS] * (len(lengths) - 1)
    return [
        Round(length, _round(dice, calm, length, new))
        for calm, length in zip(calms, lengths, strict=True)
    ]


def _round(
    dice: random.Random, calm: float, length: float, new: dict[str, Nemesis]
) -> list[Planned]:
    faults: list[Planned] = []
    under_way: list[tuple[float, set[str]]] = []  # until when, on whom
    at = round(calm + dice.uniform(0.2, 1.0), 2)
    death: float | None = length - DEATH_SECONDS
    while at < length - LAST_SECONDS:
        under_way = [(until, whom) for until, whom in under_way if until > at]
        if len(under_way) >= AT_ONCE_MAX:
            at = round(min(until for until, _ in under_way) + 0.1, 2)
            continue
        if death is not None and at >= death:
            chosen, death = ALL[DEATH], None
        else:
            chosen = _choose(dice, new, remembers=at > length - MEMORY_SECONDS)
        index = dice.randrange(COUNT.get(chosen.on, 1))
        whom = targets(chosen, index)
        if any(whom & busy for _, busy in under_way):
            death = at if chosen.name == DEATH and death is None else death
            continue  # another throw
        new.pop(chosen.name, None)
        seconds = round(min(_between(dice, *chosen.seconds, skew=1.7), length - at), 2)
        faults.append(Planned(at, chosen.name, index, seconds, dice.getrandbits(32)))
        under_way.append((at + seconds, whom))
        at = round(at + _between(dice, *GAP_SECONDS, skew=3.0), 2)
    return faults


def _choose(dice: random.Random, new: dict[str, Nemesis], *, remembers: bool) -> Nemesis:
    """By weight; every third time one that did not come yet, so that a long run has them all."""
    fitting = [kind for kind in ALL.values() if not (remembers and kind.forgets)]
    fresh = [kind for kind in fitting if kind.name in new]
    kinds = fresh if fresh and dice.random() < NEW_SHARE else fitting
    return dice.choices(kinds, [kind.weight for kind in kinds])[0]


def _between(dice: random.Random, least: float, most: float, skew: float) -> float:
    """Short times are more frequent than long ones."""
    return least + (most - least) * math.pow(dice.random(), skew)


def targets(kind: Nemesis, index: int, count: Mapping[str, int] = COUNT) -> set[str]:
    """What it occupies while it lasts, if there are so many of each kind."""
    if kind.on == "workers":
        return {f"worker {each}" for each in range(count["worker"])}
    return {f"{kind.on} {index % count[kind.on]}" if kind.on in count else kind.on}


def told(rounds: list[Round]) -> str:
    """The plan as text, a line a fault."""
    lines = []
    for number, each in enumerate(rounds, 1):
        lines.append(f"round {number}, {each.seconds:.0f} s, {len(each.faults)} faults")
        lines += [
            f"  {fault.at:6.2f} s  {fault.nemesis:<40} #{fault.index}  for {fault.seconds:5.2f} s"
            for fault in each.faults
        ]
    return "\n".join(lines)
