"""How membership says no.

Refusal
├── InvalidReceipt         it is none: forged, altered, expired, foreign, or not there
├── ReceiptUsed            it was another user's
├── NotTheirs              not this user's, revoked, or a proof that proves nothing
├── Replayed               this encounter was recorded before
├── AlreadyRegistered      the membership has a device: it is moved, not replaced
├── TierTaken              that tier has its drop of that year
├── LinkExpired            a reforge's link is too old
├── SoldOut                as the sale's; 410, as the README says
└── Unreadable             as Invalid; 422, as the README says
Fault
├── MintFailed             nothing was taken; 500, as the README says
└── Failed                 the same of its other routes
"""

from __future__ import annotations

from engine.infra.errors import Refusal, Retryable


class InvalidReceipt(Refusal):
    """Invalid receipt"""

    code = "INVALID_RECEIPT"
    status = 422


class ReceiptUsed(Refusal):
    """This receipt has already been fulfilled"""

    code = "RECEIPT_USED"
    status = 409


class NotTheirs(Refusal):
    """This membership is not yours, or has been revoked"""

    code = "UNAUTHORIZED"
    status = 401


class Replayed(Refusal):
    """Encounter already recorded (replay)"""

    code = "REPLAYED"
    status = 409


class AlreadyRegistered(Refusal):
    """This membership has an active device: move it by a reforge"""

    code = "ALREADY_RESOLVED"
    status = 409


class TierTaken(Refusal):
    """This tier has its drop of this year already"""

    code = "ALREADY_RESOLVED"
    status = 409


class LinkExpired(Refusal):
    """Reforge request has expired"""

    code = "EXPIRED"
    status = 410


class Unreadable(Refusal):
    """The request cannot be understood."""

    code = "VALIDATION_ERROR"
    status = 422


class SoldOut(Refusal):
    """No allocations remaining for this drop"""

    code = "SOLD_OUT"
    status = 410


class MintFailed(Retryable):
    """Mint transaction failed, slot returned — please retry"""

    status = 500


class Failed(Retryable):
    """We could not do it, and nothing was taken. Please try again."""

    status = 500
