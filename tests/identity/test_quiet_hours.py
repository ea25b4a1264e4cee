"""Quiet hours, against somebody who looks at the clock on the wall every minute."""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta
from functools import cache
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from engine.identity.preferences import (
    CATEGORIES,
    CHANNELS,
    Category,
    Channel,
    Preferences,
    Verdict,
    changed,
    may_send,
)
from engine.infra.errors import Invalid

MINUTE = timedelta(minutes=1)
ZONES = [
    "Europe/Berlin",
    "America/New_York",
    "Australia/Lord_Howe",
    "Asia/Kathmandu",
    "Africa/Cairo",
    "America/Sao_Paulo",
]


def night(start: str, end: str, zone: str = "Europe/Berlin") -> Preferences:
    """Quiet from one time to the other."""
    return Preferences(
        quiet_hours_enabled=True,
        quiet_hours_start=time.fromisoformat(start),
        quiet_hours_end=time.fromisoformat(end),
        timezone=zone,
    )


def asked(preferences: Preferences, at: datetime, category: Category = "product") -> Verdict:
    """May something be pushed?"""
    return may_send("active", preferences, "push", category, at)


@cache
def changes_of(zone: str) -> tuple[datetime, ...]:
    """The days on which a zone changed its clock, 2005 to 2034; any day of one that did not."""
    there = ZoneInfo(zone)
    days = [datetime(2005, 1, 1, tzinfo=UTC) + timedelta(days=n) for n in range(365 * 30)]
    offsets = [day.astimezone(there).utcoffset() for day in days]
    changed = [day for day, a, b in zip(days, offsets, offsets[1:], strict=False) if a != b]
    return tuple(changed) or (days[0],)


@st.composite
def nights(draw: st.DrawFn) -> tuple[Preferences, datetime]:
    """Preferences, and a minute near a change of their clock."""
    zone = draw(st.sampled_from(ZONES))
    wall = st.integers(0, 1439).map(lambda n: time(n // 60, n % 60))
    small = st.integers(0, 239).map(lambda n: time(n // 60, n % 60))  # when clocks are changed
    either = st.one_of(wall, small)
    wanted = Preferences(
        quiet_hours_enabled=True,
        quiet_hours_start=draw(either),
        quiet_hours_end=draw(either),
        timezone=zone,
    )
    day = draw(st.sampled_from(changes_of(zone)))
    return wanted, day + MINUTE * draw(st.integers(-1_500, 3_000))


def oracle(wanted: Preferences, at: datetime) -> datetime | None:
    """The first minute from here on of which the clock on the wall does not say that it is quiet;
    None if no time of the day is such."""
    start, end = wanted.quiet_hours_start, wanted.quiet_hours_end
    assert start is not None and end is not None
    first, last = start.hour * 60 + start.minute, end.hour * 60 + end.minute
    quiet = {(first + n) % 1440 for n in range((last - first) % 1440 or 1440)}
    if len(quiet) == 1440:
        return None
    while True:
        wall = at.astimezone(ZoneInfo(wanted.timezone))
        if wall.hour * 60 + wall.minute not in quiet:
            return at
        at += MINUTE


@pytest.mark.slow
@settings(max_examples=400, deadline=None)
@given(nights())
@example((night("22:00", "02:30"), datetime(2026, 3, 29, 0, 30, tzinfo=UTC)))  # the end is skipped
@example((night("02:15", "06:00"), datetime(2026, 3, 29, 1, 0, tzinfo=UTC)))  # the start is
@example((night("22:00", "02:30"), datetime(2026, 10, 25, 1, 10, tzinfo=UTC)))  # the second 02:10
@example((night("22:00", "03:00"), datetime(2026, 10, 25, 0, 59, tzinfo=UTC)))  # 03:00 comes once
@example((night("07:00", "07:00"), datetime(2026, 3, 29, 1, 0, tzinfo=UTC)))
def test_quiet_hours_are_what_the_clock_on_the_wall_says(
    case: tuple[Preferences, datetime],
) -> None:
    wanted, at = case
    until = oracle(wanted, at)

    verdict = asked(wanted, at)

    assert (verdict.reason == "quiet_hours") == (until != at)
    assert verdict.until == (None if until == at else until)
    if verdict.until is not None:
        assert asked(wanted, verdict.until).reason == "allowed"
        assert asked(wanted, verdict.until - timedelta(microseconds=1)).reason == "quiet_hours"


@settings(max_examples=100, deadline=None)
@given(nights(), st.integers(1, 59_999_999))
def test_the_end_is_exact_whatever_the_moment(
    case: tuple[Preferences, datetime], microseconds: int
) -> None:
    wanted, at = case
    between = at + timedelta(microseconds=microseconds)

    assert asked(wanted, between).until == asked(wanted, at).until


@pytest.mark.parametrize(
    ("at", "until"),
    [
        ("2026-06-01T20:00:00Z", "2026-06-02T05:00:00Z"),  # 22:00 in summer
        ("2026-12-01T21:00:00Z", "2026-12-02T06:00:00Z"),
        ("2026-03-28T21:00:00Z", "2026-03-29T05:00:00Z"),  # a night of eight hours
        ("2026-10-24T20:00:00Z", "2026-10-25T06:00:00Z"),  # and one of ten
    ],
)
def test_a_night_ends_when_the_user_gets_up(at: str, until: str) -> None:
    told = asked(night("22:00", "07:00"), datetime.fromisoformat(at))

    assert (told.reason, told.until) == ("quiet_hours", datetime.fromisoformat(until))


@pytest.mark.parametrize("channel", CHANNELS)
@pytest.mark.parametrize("category", CATEGORIES)
def test_the_first_reason_against_it_is_told(channel: Channel, category: Category) -> None:
    at = datetime(2026, 6, 1, tzinfo=UTC)  # 02:00
    told = may_send("active", night("22:00", "07:00"), channel, category, at)

    wanted = "allowed" if category == "security" else "quiet_hours"
    if category in ("marketing", "price-alert"):
        wanted = "category_off"
    if channel == "sms":
        wanted = "channel_off"
    assert told.reason == wanted
    assert may_send("suspended", Preferences(), channel, category, at).reason == "user_not_active"


def test_what_cannot_be_wanted_is_refused() -> None:
    for wrong in (
        {"timezone": "Europe/Atlantis"},
        {"timezone": "../etc/passwd"},
        {"timezone": "right/Europe/Berlin"},
        {"timezone": ""},
        {"quiet_hours_enabled": True},
        {"quiet_hours_enabled": True, "quiet_hours_start": time(22)},
    ):
        with pytest.raises(Invalid):
            changed(Preferences(), wrong)
    with pytest.raises(Invalid, match="Quiet hours start and end times are required when quiet"):
        changed(night("22:00", "07:00"), {"quiet_hours_end": None})
