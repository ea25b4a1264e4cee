"""The words of membership: receipts, memberships, devices, encounters."""

from __future__ import annotations

from datetime import datetime

import msgspec

NAME_FORM = "^[A-Za-z0-9_-]{1,32}$"  # of a tier, and of a year: they stand in names of files
LIMIT_MAX = 10_000  # numbers of one user, where there is a limit


class Receipt(msgspec.Struct, frozen=True):
    """What a verifier found in a receipt. Where nobody verifies, only its text is known."""

    hash: bytes  # SHA-256 of the text
    transaction_id: str | None = None  # the original one, if the receipt says so itself


class Mint(msgspec.Struct, frozen=True):
    """A wish for a number: a verified receipt, and whose it is."""

    receipt: Receipt
    transaction_id: str | None  # the receipt's own, or the one the client named
    buyer: str
    drop_id: int


class Presented(msgspec.Struct, frozen=True):
    """What is known of a receipt: pending, fulfilled, used, other_transaction."""

    word: str
    id: str
    drop_id: int
    attempt: int
    membership_id: str | None


class GivenUp(msgspec.Struct, frozen=True):
    """What became of a receipt that was to be given up.

    failed     nothing was taken, and nothing can be; `error` says why, maybe since before
    fulfilled  it was minted after all, or before: `membership_id`
    pending    it was presented again since, and that attempt decides
    left       it is not sold out after all: pending as before
    """

    word: str
    membership_id: str | None
    error: str | None


class Tier(msgspec.Struct, frozen=True):
    """A membership drop with its stock."""

    drop_id: int
    tier: str
    year: str
    name: str
    image_url: str | None
    status: str
    starts_at: datetime
    ends_at: datetime | None
    max_per_buyer: int | None
    total: int
    free: int
    sold: int
    withdrawn: int
    version: int


class Membership(msgspec.Struct, frozen=True):
    """A number of a tier, and whose it is. Its id is that of its purchase."""

    id: str
    drop_id: int
    tier: str
    year: str
    number: int
    buyer: str
    minted_at: datetime
    changed_at: datetime  # when what a pass shows of it last changed
    revoked_at: datetime | None = None
    revoke_reason: str | None = None

    @property
    def serial(self) -> str:
        """What a pass is called, in wallets and at doors; never another one's."""
        return f"vr-{self.tier}-{self.year}-{self.id}"
