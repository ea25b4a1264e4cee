"""How a sale says no.

Refusal
├── SoldOut                not enough left
├── SlotNotAvailable       named units that are taken
├── NotOpen                outside the window, or switched off
│   └── NotStarted · Ended · Paused · Preparing · MintedOnly
├── CoolingDown            let holds of this drop go, and must wait for the next one
├── LimitReached           this buyer has all that one buyer may have
├── NotYourReservation     the hold is another buyer's
├── HoldExpired            past its deadline, swept or not
├── ExtensionUsed          it was extended before, or can live no longer
└── AlreadyResolved        the hold ended another way
"""

from __future__ import annotations

from typing import Any, ClassVar

from engine.infra.errors import RateLimited, Refusal


class SoldOut(Refusal):
    """No allocations remaining for this drop"""

    code = "SOLD_OUT"
    status = 409
    example: ClassVar[dict[str, Any]] = {"availableStock": 0, "heldStock": 3}
    retryable = True
    retry_after_seconds: int | None = 1

    def __init__(self, message: str = "", *, final: bool, **details: Any) -> None:
        super().__init__(message, **details)
        # Final only when Postgres said that every unit is sold or withdrawn: holds may return.
        self.retryable = not final
        if final:
            self.retry_after_seconds = None  # nothing to wait for


class SlotNotAvailable(Refusal):
    """What you picked is taken."""

    code = "SLOT_NOT_AVAILABLE"
    status = 409
    example: ClassVar[dict[str, Any]] = {"units": ["F1-A"]}
    retryable = True
    retry_after_seconds: int | None = 1

    def __init__(self, message: str = "", *, final: bool, **details: Any) -> None:
        super().__init__(message, **details)
        self.retryable = not final  # as of SoldOut: what is held may return
        if final:
            self.retry_after_seconds = None


class NotOpen(Refusal):
    """This drop is not on sale now."""

    status = 409


class NotStarted(NotOpen):
    """This drop has not started yet."""

    code = "NOT_STARTED"
    retryable = True
    retry_after_seconds = 1


class Ended(NotOpen):
    """This drop has ended."""

    code = "ENDED"


class Paused(NotOpen):
    """This drop is paused."""

    code = "PAUSED"
    example: ClassVar[dict[str, Any]] = {"pausedReason": "admin"}
    retryable = True
    retry_after_seconds = 5


class Preparing(NotOpen):
    """This drop is still being filled."""

    code = "PREPARING"
    retryable = True
    retry_after_seconds = 2


class MintedOnly(NotOpen):
    """Numbers of this drop are given for receipts: POST /mint."""

    code = "MINTED_ONLY"


class LimitReached(Refusal):
    """You already have as many units of this drop as one buyer may have."""

    code = "LIMIT_REACHED"
    status = 409
    example: ClassVar[dict[str, Any]] = {"limit": 1, "remaining": 0}
    retry_after_seconds: int | None = 5

    def __init__(self, *, overdue: bool = False, **details: Any) -> None:
        super().__init__(**details)
        self.retryable = overdue  # a hold of this buyer ran out, and is about to be swept
        if not overdue:
            self.retry_after_seconds = None  # nothing to wait for


class CoolingDown(RateLimited):
    """You let a hold of this drop go. Please wait before you reserve again."""

    def __init__(self, *, seconds: int, **details: Any) -> None:
        told = f'"cooldown";r=0;t={seconds}'.encode()
        policy = f'"cooldown";q=1;w={seconds}'.encode()
        headers = ((b"ratelimit-policy", policy), (b"ratelimit", told))
        super().__init__(seconds=seconds, headers=headers, reason="cooldown", **details)


class NotYourReservation(Refusal):
    """This reservation belongs to another buyer."""

    code = "NOT_YOUR_RESERVATION"
    status = 403


class HoldExpired(Refusal):
    """The hold ran out before this."""

    code = "HOLD_EXPIRED"
    status = 410
    example: ClassVar[dict[str, Any]] = {"status": "expired"}


class ExtensionUsed(Refusal):
    """This hold cannot be extended any more."""

    code = "EXTENSION_USED"
    status = 409


class AlreadyResolved(Refusal):
    """The hold has already ended another way."""

    code = "ALREADY_RESOLVED"
    status = 409
    example: ClassVar[dict[str, Any]] = {"status": "released"}
