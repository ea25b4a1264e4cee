"""Who is asking."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

import msgspec

Kind = Literal["anybody", "open", "buyer", "admin", "shop"]

SCOPES = ("sale:read", "sale:write", "identity", "membership", "metrics", "admin")
OWN = frozenset({"sale:read", "sale:write", "membership"})  # what a buyer may, for himself


class Caller(msgspec.Struct, frozen=True):
    """A verified caller. `subject` is a buyer's id, or the id of a shop's key.

    anybody   no credential          public reads
    open      AUTH=open, none given  whoever it says it is; admin routes too
    buyer     a JWT                  acts for its own id
    admin     a JWT with that role   admin routes
    shop      an API key             acts for any buyer, as far as its scopes go
    """

    kind: Kind
    subject: str = ""
    scopes: frozenset[str] = frozenset()
    session: str = ""  # of the account that logged in; a token from elsewhere has none

    def may(self, scope: str) -> bool:
        """Whether the caller's credential covers a scope."""
        if self.kind == "shop":
            return scope in self.scopes or "admin" in self.scopes
        return self.kind in ("open", "admin") or (self.kind == "buyer" and scope in OWN)


class Device(msgspec.Struct, frozen=True):
    """What logs in: `device_id` is the device's own name for itself."""

    device_id: str
    platform: str = "web"
    device_name: str | None = None
    device_model: str | None = None
    os_version: str | None = None
    app_version: str | None = None
    push_token: str | None = None
    ip_address: str | None = None


class LiveSession(msgspec.Struct, frozen=True):
    """A device that is logged in, or was: its row."""

    id: str
    user_id: str
    device_id: str
    device_name: str | None
    device_model: str | None
    platform: str
    os_version: str | None
    app_version: str | None
    push_token: str | None
    push_token_updated_at: datetime | None
    ip_address: str | None
    idempotency_key: str | None
    is_active: bool
    refresh_generation: int
    refreshed_at: datetime | None
    created_at: datetime
    last_activity_at: datetime
    expires_at: datetime
    terminated_at: datetime | None
    termination_reason: str | None
    is_past: bool  # though nobody has ended it yet

    @property
    def is_live(self) -> bool:
        """Whether its tokens are worth anything."""
        return self.is_active and not self.is_past


class Entered(msgspec.Struct, frozen=True):
    """A session and its tokens. They are empty if it is over, as one may be that a key names.

    opened     it is new
    repeated   this key opened it, an earlier time
    kept       the device was in already
    rotated    its refresh token was taken for the next one
    again      the same, an earlier time
    """

    word: str
    session: LiveSession
    token: str
    refresh_token: str
    expires_at: datetime  # of the token
    role: str = "user"  # of its account


def is_buyer(text: str) -> bool:
    """Whether this can be a buyer's id: 1 to 128 characters, none of them a control character."""
    return 1 <= len(text) <= 128 and text.isprintable()
