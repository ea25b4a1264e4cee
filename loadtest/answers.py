"""What an answer means to a buyer who behaves: done, no, wait, or ask the same again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import msgspec

# Nobody knows what became of the request, or nothing was taken: repeat it with the same key.
AGAIN = {(503, "RETRYABLE"), (503, "OUTCOME_UNKNOWN"), (409, "IN_PROGRESS"), (429, "RATE_LIMITED")}
LATER = {(409, "NOT_STARTED"), (409, "PREPARING"), (409, "PAUSED")}
REFUSED = {
    (409, "SOLD_OUT"),
    (409, "LIMIT_REACHED"),
    (409, "ENDED"),
    (409, "ALREADY_RESOLVED"),
    (409, "EXTENSION_USED"),
    (410, "HOLD_EXPIRED"),
}
WAIT_MAX_SECONDS = 5.0  # however long a server asks for

Fate = Literal["accepted", "refused", "later", "again", "failed"]


class Answer(msgspec.Struct, frozen=True):
    """An answer, or the lack of one: then the status is 0."""

    status: int
    code: str = ""  # the one error shape's word
    retryable: bool = False
    wait_seconds: float = 1.0
    body: Any = None
    replayed: bool = False

    @property
    def fate(self) -> Fate:
        """What follows from it."""
        word = (self.status, self.code)
        if 200 <= self.status < 300 or self.status == 304:
            return "accepted"
        if self.status == 0 or word in AGAIN:
            return "again"
        if word in LATER:
            return "later"
        return "refused" if word in REFUSED else "failed"

    @property
    def name(self) -> str:
        """The fate and its reason, as statistics are grouped."""
        if self.fate == "accepted":
            return "replayed" if self.replayed else "accepted"
        reason = self.code or (str(self.status) if self.status else "no answer")
        return f"{self.fate} {reason}"


def read(status: int, headers: Mapping[str, str], content: bytes) -> Answer:
    """An answer from its parts; one that is no JSON is that status and nothing else."""
    try:
        body = msgspec.json.decode(content) if content else None
    except msgspec.DecodeError:
        return Answer(status, code="UNREADABLE")
    shape = body if isinstance(body, dict) else {}
    refused = status >= 400
    return Answer(
        status,
        code=str(shape.get("error", "")) if refused else "",
        retryable=refused and shape.get("retryable") is True,
        wait_seconds=_seconds(headers.get("retry-after")),
        body=body,
        replayed=headers.get("idempotent-replayed") == "true",
    )


def _seconds(text: str | None) -> float:
    if text is None or not text.isdigit():
        return 1.0
    return min(float(text), WAIT_MAX_SECONDS)
