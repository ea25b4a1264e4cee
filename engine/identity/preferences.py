"""Preferences: what a user wants to be told, by which channel, and when not.

Quiet hours go by the clock on the user's wall: a moment is quiet if that clock shows a time from
their start up to, and without, their end, across midnight too. So nothing is said of days on which
the clock is changed: an hour that is skipped ends them where it begins if their end lies in it, and
an hour that comes twice is as quiet the second time. Start and end the same is the whole day.
"""

from __future__ import annotations

from datetime import datetime, time, timedelta
from functools import cache
from importlib import resources
from typing import Any, Literal, get_args
from zoneinfo import ZoneInfo

import msgspec
from msgspec.structs import replace

from engine.infra.errors import Invalid
from engine.infra.http import invalid

DAY = timedelta(days=1)
HOUR = timedelta(hours=1)
SECOND = timedelta(seconds=1)
QUIET_HOURS_NEED_BOTH = "Quiet hours start and end times are required when quiet hours are enabled"

Channel = Literal["push", "email", "sms"]
Category = Literal[
    "transaction",
    "security",
    "marketing",
    "product",
    "trade-executed",
    "order-filled",
    "order-cancelled",
    "position-liquidated",
    "funding-payment",
    "price-alert",
    "margin-warning",
]
Reason = Literal["allowed", "user_not_active", "channel_off", "category_off", "quiet_hours"]
CHANNELS, CATEGORIES = get_args(Channel), get_args(Category)
FLAG_OF = {
    "transaction": "transaction_notifications",
    "security": "security_alerts",
    "marketing": "marketing_updates",
    "product": "product_updates",
}
LOUD = "security"  # who may be robbed is woken


class Flags(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What is on and off; what is said here holds of who said nothing."""

    push_enabled: bool = True
    email_enabled: bool = True
    sms_enabled: bool = False
    transaction_notifications: bool = True
    security_alerts: bool = True
    marketing_updates: bool = False
    product_updates: bool = True
    trade_executed_enabled: bool = True
    order_filled_enabled: bool = True
    order_cancelled_enabled: bool = True
    position_liquidated_enabled: bool = True
    funding_payment_enabled: bool = True
    price_alert_enabled: bool = False
    margin_warning_enabled: bool = True
    quiet_hours_enabled: bool = False


class Preferences(Flags, frozen=True, kw_only=True):
    """A user's preferences. Times are the wall's, in `timezone`."""

    quiet_hours_start: time | None = None
    quiet_hours_end: time | None = None
    timezone: str = "UTC"


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """Whether something may be sent, why, and (of quiet hours that end) from when on."""

    reason: Reason
    message: str
    until: datetime | None = None


@cache
def zones() -> frozenset[str]:
    """Every name of the time zone database, as IANA publishes it."""
    return frozenset((resources.files("tzdata") / "zones").read_text().split())


def changed(preferences: Preferences, changes: dict[str, Any]) -> Preferences:
    """The preferences with some of them changed. Raises `Invalid` for what cannot be wanted."""
    wanted = replace(preferences, **changes)
    if wanted.timezone not in zones():
        raise invalid("timezone", "want a name of the IANA database, such as Europe/Berlin")
    times = {"quietHoursStart": wanted.quiet_hours_start, "quietHoursEnd": wanted.quiet_hours_end}
    missing = [name for name, given in times.items() if given is None]
    if wanted.quiet_hours_enabled and missing:
        fields = [{"field": name, "problem": "required"} for name in missing]
        raise Invalid(QUIET_HOURS_NEED_BOTH, fields=fields)
    return wanted


def may_send(
    status: str, preferences: Preferences, channel: Channel, category: Category, at: datetime
) -> Verdict:
    """Whether a user of this status may be sent this at a moment. The first reason against it is
    told. Security alerts pass quiet hours."""
    if status != "active":
        return Verdict(reason="user_not_active", message=f"The account is {status}")
    if not getattr(preferences, f"{channel}_enabled"):
        return Verdict(reason="channel_off", message=f"The user wants nothing by {channel}")
    flag = FLAG_OF.get(category) or f"{category.replace('-', '_')}_enabled"
    if not getattr(preferences, flag):
        return Verdict(reason="category_off", message=f"The user wants nothing of {category}")
    start, end = preferences.quiet_hours_start, preferences.quiet_hours_end
    if category == LOUD or not preferences.quiet_hours_enabled or start is None or end is None:
        return Verdict(reason="allowed", message="The user wants it")
    zone = ZoneInfo(preferences.timezone)
    if not is_quiet(_wall(zone, at), start, end):
        return Verdict(reason="allowed", message="The user wants it")
    if start == end:
        return Verdict(reason="quiet_hours", message="The whole day is quiet")
    return Verdict(
        reason="quiet_hours",
        message=f"It is quiet until {end.isoformat()} ({preferences.timezone})",
        until=end_of_quiet(zone, start, end, at),
    )


def is_quiet(wall: time, start: time, end: time) -> bool:
    """Whether a clock that shows this says that it is quiet."""
    if start < end:
        return start <= wall < end
    return wall >= start or wall < end


def end_of_quiet(zone: ZoneInfo, start: time, end: time, at: datetime) -> datetime:
    """The first moment after a quiet one that is not. Start and end must differ."""
    while True:
        wall = _wall(zone, at)
        ends = at + (_since_midnight(end) - _since_midnight(wall)) % DAY
        change = _clock_change(zone, at, ends)
        if change is None:
            return ends
        if not is_quiet(_wall(zone, change), start, end):
            return change
        at = change


def _clock_change(zone: ZoneInfo, after: datetime, until: datetime) -> datetime | None:
    """When the clock on the wall is changed next, none if not until then. Offsets are compared from
    hour to hour, for no zone changes its clock twice within one."""
    early = after.replace(microsecond=0)
    before = _offset(zone, early)
    while early < until:
        late = min(early + HOUR, until)
        if _offset(zone, late) == before:
            early = late
            continue
        while late - early > SECOND:  # zones change their clocks at whole seconds
            middle = early + (late - early) // 2
            middle = middle.replace(microsecond=0)
            middle = middle if middle > early else early + SECOND
            early, late = (middle, late) if _offset(zone, middle) == before else (early, middle)
        return late.replace(microsecond=0)
    return None


def _offset(zone: ZoneInfo, at: datetime) -> timedelta | None:
    return at.astimezone(zone).utcoffset()


def _wall(zone: ZoneInfo, at: datetime) -> time:
    return at.astimezone(zone).time()


def _since_midnight(wall: time) -> timedelta:
    return timedelta(
        hours=wall.hour,
        minutes=wall.minute,
        seconds=wall.second,
        microseconds=wall.microsecond,
    )
