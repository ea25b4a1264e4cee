"""How many users there are, second by second. A shape is a function; add yours to `SHAPES`.

    spike   ████████      soak    ▁▄██████      waves   ▁▇▁▇▁▇

Each returns the users wanted at that second and how many to start (or send home) a second, or
None once it is over. A value stays the same for seconds on end, so that no ramp is cut short.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

Wanted = tuple[int, float] | None
Shape = Callable[[float, float, int], Wanted]

START_RATE_MAX = 100.0  # Locust starts so many a second without falling behind
SOAK_RAMP = 0.2  # of the time
WAVES = 3
TROUGH = 0.1  # of the users stay between two waves


def lead_seconds(users: int) -> float:
    """How long before its start a drop must be open, so that everybody stands in front of it."""
    return 2.0 + users / START_RATE_MAX


def spike(second: float, seconds: float, users: int) -> Wanted:
    """Everybody stands there before the drop starts, and stays."""
    return (users, START_RATE_MAX) if second < seconds else None


def soak(second: float, seconds: float, users: int) -> Wanted:
    """A gentle ramp, then flat."""
    ramp = max(seconds * SOAK_RAMP, 1.0)
    return (users, min(users / ramp, START_RATE_MAX)) if second < seconds else None


def waves(second: float, seconds: float, users: int) -> Wanted:
    """Several ramps up and down; each half of a wave has half of its time for the ramp."""
    if second >= seconds:
        return None
    half = seconds / WAVES / 2
    rising = int(second / half) % 2 == 0
    low = max(int(users * TROUGH), 1)
    rate = min(max((users - low) / max(half / 2, 1.0), 1.0), START_RATE_MAX)
    return (users if rising else low, rate)


SHAPES: dict[str, Shape] = {"spike": spike, "soak": soak, "waves": waves}


def choose(share: float, proportions: tuple[tuple[str, float], ...]) -> str:
    """The choice on which `share`, from 0 to 1, falls; the last one takes what is left."""
    total = sum(part for _, part in proportions)
    upto = 0.0
    for (name, part), _ in pairwise(proportions):
        upto += part / total
        if share < upto:
            return name
    return proportions[-1][0]
