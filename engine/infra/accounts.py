"""Accounts: what is remembered of an answer: a count, and now and then a line.

An error gets a line of its own, of everything else every thousandth does. Refusals are summed up
once a second (publisher.py). No line says who the buyer is, or repeats anything secret.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from engine.infra.meter import meter

if TYPE_CHECKING:
    from engine.infra.http import Call

log = structlog.get_logger()


def account(call: Call, status: int, code: str, seconds: float) -> None:
    """Count an answer of this status and (of a problem) code, and write a line if it is due."""
    if code and status < 500:
        meter.refused(call.drop_id, code)
    if meter.answered(call.operation, status, code, seconds):
        (log.warning if status >= 500 else log.info)(
            "http.request",
            operation=call.operation,
            status=status,
            code=code,
            ms=round(seconds * 1000, 1),
            request_id=call.request_id,
            drop_id=call.drop_id,
            credential=_credential(call.headers),
        )


def _credential(headers: dict[bytes, bytes]) -> str:
    if b"authorization" in headers:
        return "token"
    return "key" if b"x-api-key" in headers else "none"
