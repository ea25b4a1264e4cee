"""What clients send and see of preferences: both sets of names that are in use, and every check."""

from __future__ import annotations

import re
from datetime import datetime, time
from typing import Annotated, Any, cast, get_args

import msgspec
from msgspec import UNSET, UnsetType, field

from engine.identity import preferences as rules
from engine.identity.preference_store import Kept
from engine.identity.preferences import CATEGORIES, CHANNELS, Category, Channel, Flags, Verdict
from engine.infra.describe import Id, Moment, shown
from engine.infra.http import Call, decoder, either, invalid, iso, parse_time

CLOCK = "([01][0-9]|2[0-3]):([0-5][0-9])(:([0-5][0-9]))?"
YEARS = range(2000, 2200)
TIMES = "quiet_hours_start", "quiet_hours_end"
WallTime = Annotated[str, shown(pattern=f"^{CLOCK}$", examples=["22:00"])]
Zone = Annotated[str, shown("A name of the IANA database.", examples=["Europe/Berlin"])]
When = Annotated[str, shown(format="date-time", pattern=r"^(20|21)[0-9]{2}-")]
Reason = Annotated[str, shown(enum=[*get_args(rules.Reason)])]


class PreferencesView(Flags, frozen=True, kw_only=True, rename="camel"):
    """A user's preferences. Of who has set none, the defaults: their times are null."""

    id: Id
    user_id: Id
    quiet_hours_start: WallTime | None
    quiet_hours_end: WallTime | None
    timezone: Zone
    created_at: Moment | None
    updated_at: Moment | None


class MaySendView(msgspec.Struct):
    """Whether a message may be sent, and why; `until` says when quiet hours are over."""

    allowed: bool
    reason: Reason
    message: str
    until: Moment | UnsetType = UNSET


def _camel(name: str) -> str:
    head, *rest = name.split("_")
    return head + "".join(part.capitalize() for part in rest)


def _both(name: str, kind: Any) -> list[tuple[str, Any, Any]]:
    """A field under its two names."""
    return [
        (name, kind, field(name=_camel(name), default=UNSET)),
        (f"{name}_snake", kind, field(name=name, default=UNSET)),
    ]


FLAGS = Flags.__struct_fields__
PreferencesBody = msgspec.defstruct(
    "PreferencesBody",
    [
        *(each for flag in FLAGS for each in _both(flag, bool | UnsetType)),
        *_both("quiet_hours_start", WallTime | None | UnsetType),
        *_both("quiet_hours_end", WallTime | None | UnsetType),
        *_both("timezone", Zone | UnsetType)[:1],
        *_both("quiet_hours_timezone", Zone | UnsetType),
    ],
    namespace={"__doc__": "What is to be changed; what is left out stays as it is."},
)
preferences_body = decoder(PreferencesBody)


def changes_in(call: Call) -> dict[str, Any]:
    """What a call's body changes, by the names of `Preferences`."""
    body = preferences_body(call)
    given = {name: getattr(body, name) for name in body.__struct_fields__}
    names: dict[str, tuple[str, ...]] = {name: (name, f"{name}_snake") for name in (*FLAGS, *TIMES)}
    names["timezone"] = "timezone", "quiet_hours_timezone", "quiet_hours_timezone_snake"
    changes = {}
    for name, spoken in names.items():
        values = [given[each] for each in spoken]
        if any(value is not UNSET for value in values):
            value = either(_camel(name), *values)
            changes[name] = _clock(_camel(name), value) if name in TIMES else value
    return changes


def _clock(field: str, text: str | None) -> time | None:
    if text is not None and re.fullmatch(CLOCK, text) is None:
        raise invalid(field, "want HH:MM or HH:MM:SS")
    return None if text is None else time.fromisoformat(text)


def question_in(call: Call) -> tuple[Channel, Category, datetime | None]:
    """What may be sent, and when; None: now."""
    query = call.query
    channel, category, at = query.get("channel"), query.get("category"), query.get("at")
    if channel not in CHANNELS:
        raise invalid("channel", f"want {', '.join(CHANNELS)}")
    if category not in CATEGORIES:
        raise invalid("category", f"want {', '.join(CATEGORIES)}")
    moment = parse_time("at", at) if at else None
    if moment is not None and moment.year not in YEARS:
        raise invalid("at", f"want a year from {YEARS[0]} to {YEARS[-1]}")
    return cast(Channel, channel), cast(Category, category), moment


def preferences_view(user_id: str, kept: Kept) -> PreferencesView:
    """A user's preferences for whoever may see them."""
    wanted = kept.preferences
    return PreferencesView(
        id=user_id,
        user_id=user_id,
        quiet_hours_start=_told(wanted.quiet_hours_start),
        quiet_hours_end=_told(wanted.quiet_hours_end),
        timezone=wanted.timezone,
        created_at=None if kept.created_at is None else iso(kept.created_at),
        updated_at=None if kept.updated_at is None else iso(kept.updated_at),
        **{flag: getattr(wanted, flag) for flag in FLAGS},
    )


def _told(wall: time | None) -> str | None:
    return None if wall is None else wall.isoformat("seconds")


def may_send_view(verdict: Verdict) -> MaySendView:
    """A verdict for whoever asked."""
    view = MaySendView(verdict.reason == "allowed", verdict.reason, verdict.message)
    if verdict.until is not None:
        view.until = iso(verdict.until)
    return view
