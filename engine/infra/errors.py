"""What can go wrong, as a tree.

    Problem                 has a code, a status and a sentence
    ├── Refusal             no, and why: the caller's turn (4xx)
    │   └── …               each slice adds its own in its errors.py
    └── Fault               our side failed
        ├── Retryable       nothing was taken, we know it
        └── OutcomeUnknown  we do not know yet: repeat with the same key
    Misconfigured           the process cannot start; the text says how to mend it

A class's docstring is its default message. The word in `code` is the same word in the Lua
reply, the API's answer and the log. `example` shows its details in the API's document.
"""

from __future__ import annotations

from typing import Any, ClassVar


class Problem(Exception):
    """Something went wrong."""

    code: ClassVar[str] = "INTERNAL_ERROR"
    status: ClassVar[int] = 500
    example: ClassVar[dict[str, Any]] = {}
    retryable: bool = False
    retry_after_seconds: int | None = None
    headers: tuple[tuple[bytes, bytes], ...] = ()  # that its answer carries
    # Its answer up to the request's id, its headers, and these as they go over the wire, once it
    # was told: thousands may share one.
    said: tuple[bytes, list[tuple[bytes, bytes]], bytes | None] | None = None

    def __init__(self, message: str = "", **details: Any) -> None:
        self.message = message or (self.__doc__ or "").strip().splitlines()[0]
        self.details = details
        super().__init__(self.message)


class Refusal(Problem):
    """The request was refused."""

    status = 400


class Invalid(Refusal):
    """The request cannot be understood."""

    code = "VALIDATION_ERROR"
    example: ClassVar[dict[str, Any]] = {
        "fields": [{"field": "quantity", "problem": "want 1 to 100"}]
    }


class Unauthorized(Refusal):
    """A valid credential is needed."""

    code = "UNAUTHORIZED"
    status = 401


class Forbidden(Refusal):
    """This caller may not do that."""

    code = "FORBIDDEN"
    status = 403


class NotFound(Refusal):
    """There is nothing here."""

    code = "NOT_FOUND"
    status = 404


class MethodNotAllowed(Refusal):
    """This route does not know that method."""

    code = "METHOD_NOT_ALLOWED"  # the header `Allow` says which are
    status = 405


class UpgradeRequired(Refusal):
    """Only a WebSocket is spoken here: connect with one."""

    code = "UPGRADE_REQUIRED"
    status = 426
    headers = ((b"upgrade", b"websocket"),)


class RequestTimeout(Refusal):
    """The request took too long to arrive. Nothing was taken."""

    code = "REQUEST_TIMEOUT"
    status = 408
    retryable = True


class TooLarge(Refusal):
    """The body is larger than 64 KiB."""

    code = "PAYLOAD_TOO_LARGE"
    status = 413


class UriTooLong(Refusal):
    """The address is longer than 8 KiB."""

    code = "URI_TOO_LONG"
    status = 414


class HeadersTooLarge(Refusal):
    """The request's headers are more than 100 or larger than 16 KiB."""

    code = "HEADERS_TOO_LARGE"
    status = 431


class IdempotencyMismatch(Refusal):
    """This Idempotency-Key was used for a different request."""

    code = "IDEMPOTENCY_MISMATCH"
    status = 422


class InProgress(Refusal):
    """The first request with this Idempotency-Key is still running."""

    code = "IN_PROGRESS"
    status = 409
    retryable = True
    retry_after_seconds = 1


class RateLimited(Refusal):
    """Too many requests. Nothing was done: try again later."""

    code = "RATE_LIMITED"
    status = 429
    retryable = True

    def __init__(
        self,
        message: str = "",
        *,
        seconds: int,
        headers: tuple[tuple[bytes, bytes], ...] = (),
        **details: Any,
    ) -> None:
        super().__init__(message, **details)
        self.retry_after_seconds = seconds
        self.headers = headers


class Fault(Problem):
    """Something on our side failed."""

    status = 503
    retryable = True
    retry_after_seconds = 1


class Retryable(Fault):
    """We could not do it, and nothing was taken. Please try again."""

    code = "RETRYABLE"


class OutcomeUnknown(Fault):
    """We do not know yet whether it was done. Repeat with the same Idempotency-Key."""

    code = "OUTCOME_UNKNOWN"
    retry_after_seconds = 2


class Misconfigured(Exception):
    """The process cannot start as configured."""
