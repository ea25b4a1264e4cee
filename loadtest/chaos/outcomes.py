"""What an answer proves about the request that got it: ok, fail, or info.

ok     a 2xx: it was done
fail   a definite no: this sending took nothing, whatever an earlier one did
info   anything else: it may have been done, and may yet be
"""

from __future__ import annotations

from loadtest.chaos.history import Outcome

DEFINITE = {403, 404, 408, 409, 410, 422, 429}
# A copy that grew tired of waiting for the first one knows nothing of what became of that.
UNDECIDED = {"IN_PROGRESS"}


def outcome(status: int, code: str) -> Outcome:
    """Of an answer with this status and this word in its `error`; 0: there was no answer."""
    if 200 <= status < 300:
        return "ok"
    if code == "RETRYABLE" or (status in DEFINITE and code not in UNDECIDED):
        return "fail"
    return "info"


def is_strange(status: int, code: str) -> bool:
    """Whether this answer is never to be given, whatever fails: a crash, or words of no use to
    buyers who ask properly."""
    if status == 0 or 200 <= status < 300 or status in DEFINITE:
        return False
    return code not in ("RETRYABLE", "OUTCOME_UNKNOWN")
