"""Explain: what a record is about that its row contradicts, and what differs. For operators."""

from __future__ import annotations

from typing import Any

import msgspec

from engine.infra.postgres import Postgres
from engine.record import books
from engine.record.models import Verdict

TOLD = ("changed_record", "removed_record")


class Explained(msgspec.Struct, frozen=True):
    """What a record is about, as `purchase 0190…`, and a line for each field that differs."""

    subject: str
    lines: list[str]


async def explain(postgres: Postgres, verdict: Verdict) -> Explained | None:
    """What is behind a verdict; None if it is not about one record's row."""
    if verdict.reason not in TOLD or verdict.invalid_at is None:
        return None
    found = await books.as_it_is(postgres, verdict.invalid_at)
    recorded = None if found is None else _fields(found[0])
    if found is None or recorded is None:
        return None
    kind = "purchase" if "purchaseId" in recorded else "booking"
    subject = f"{kind} {recorded.get(f'{kind}Id')}"
    present = None if found[1] is None else _fields(found[1])
    if present is None:
        return Explained(subject, ["its row, or something in it, is gone"])
    return Explained(subject, differences(recorded, present))


def differences(recorded: dict[str, Any], present: dict[str, Any]) -> list[str]:
    """A line for each field that is not as it was."""
    names = dict.fromkeys((*recorded, *present))
    return [
        f"{name}: recorded {_shown(recorded, name)}, now {_shown(present, name)}"
        for name in names
        if _shown(recorded, name) != _shown(present, name)
    ] or ["what is recorded agrees: its quantity, its buyer or its purchase's booking does not"]


def _shown(fields: dict[str, Any], name: str) -> str:
    return msgspec.json.encode(fields[name]).decode() if name in fields else "nothing"


def _fields(content: str) -> dict[str, Any] | None:
    try:
        return msgspec.json.decode(content, type=dict[str, Any])
    except msgspec.DecodeError:
        return None
