"""Checks: what one field of a request must be. Each raises `Invalid` naming it."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Sequence
from datetime import datetime

from engine.infra.http import invalid, parse_time

NAME_MAX = 64
PICKS_MAX = 100  # an order's


def unit_name(name: str) -> str:
    """A name as it is kept: composed, so that what looks the same is the same."""
    text = name.strip()
    if not text.isascii():
        text = unicodedata.normalize("NFC", text)
    if not 1 <= len(text) <= NAME_MAX or not text.isprintable():
        raise invalid("units", f"want names of 1 to {NAME_MAX} printable characters")
    return text


def unit_names(given: Sequence[str]) -> tuple[str, ...]:
    """Names for new units, in their order, each once."""
    if not given:
        raise invalid("units", "want names, one a unit")
    names = tuple(map(unit_name, given))
    if len(set(names)) < len(names):
        twice = Counter(names).most_common(1)[0][0]
        raise invalid("units", f"{twice} is there twice: each name is one unit's")
    return names


def wanted_units(given: Sequence[str | int]) -> tuple[str | int, ...]:
    """The units that an order names, by name or by id."""
    if not 1 <= len(given) <= PICKS_MAX:
        raise invalid("units", f"want 1 to {PICKS_MAX} units")
    return tuple(each if isinstance(each, int) else unit_name(each) for each in given)


def count_of(names: Sequence[str], told: int | None, field: str) -> int:
    """How many units there are to be: as many as names, whatever count may be told beside them."""
    if told is not None and told != len(names):
        raise invalid(field, f"{len(names)} units are named: say as many, or leave it out")
    return len(names)


def whole(name: str, number: int, high: int, low: int = 1) -> int:
    """A whole number from low to high."""
    if not low <= number <= high:
        raise invalid(name, f"want {low} to {high}")
    return number


def image(url: str | None) -> str | None:
    """A picture's address: of this origin, or https."""
    if url is None:
        return None
    if (
        len(url) > 2_000
        or not url.isprintable()
        or not url.startswith(("/", "https://", "http://"))
    ):
        raise invalid("imageUrl", "want a path or an http(s) address")
    return url


def moment(name: str, text: str | None) -> datetime | None:
    """A time of these centuries, if there is one."""
    if text is None:
        return None
    time = parse_time(name, text)
    if not 2000 <= time.year <= 2200:
        raise invalid(name, "want a year from 2000 to 2200")
    return time
