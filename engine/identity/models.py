"""Who is asking."""

from __future__ import annotations

from typing import Literal

import msgspec

Kind = Literal["anybody", "open", "buyer", "admin", "shop"]

SCOPES = ("sale:read", "sale:write", "identity", "membership", "metrics", "admin")


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
        return self.kind in ("open", "admin") or (
            self.kind == "buyer" and scope.startswith("sale:")
        )


def is_buyer(text: str) -> bool:
    """Whether this can be a buyer's id: 1 to 128 characters, none of them a control character."""
    return 1 <= len(text) <= 128 and text.isprintable()
