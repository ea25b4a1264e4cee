"""What buyers are called in public: who has an account by its username, others by a pseudonym.

A buyer's id that is no account's id is never looked for. What was found is known for a moment: so
long a name is told that its account gave up, was suspended with, or was deleted with.
"""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Iterable

from engine.identity.users import usernames
from engine.infra.ids import parse_id
from engine.infra.postgres import Postgres

FRESH_SECONDS = 2.0
KNOWN_MAX = 10_000


class Names:
    """The names of one process."""

    def __init__(self, postgres: Postgres, salt: bytes) -> None:
        self._postgres, self._salt = postgres, salt
        self._known: dict[str, tuple[str, float]] = {}  # accounts' ids: name, and until when

    async def of(self, buyers: Iterable[str]) -> dict[str, str]:
        """Each buyer's public name: at most one query, none if all are known. Raises `Fault`."""
        now, named, unknown = time.monotonic(), dict[str, str](), list[str]()
        for buyer in set(buyers):
            name, until = self._known.get(buyer, ("", 0.0))
            if now < until:
                named[buyer] = name
            else:
                named[buyer] = public_name(self._salt, buyer)
                if parse_id(buyer) == buyer:
                    unknown.append(buyer)
        if unknown:
            named |= await usernames(self._postgres, unknown)
            if len(self._known) + len(unknown) > KNOWN_MAX:
                self._known.clear()
            # Counted from before the question: a change that it just missed is not told longer.
            self._known |= {buyer: (named[buyer], now + FRESH_SECONDS) for buyer in unknown}
        return named


def public_name(salt: bytes, buyer: str) -> str:
    """A buyer's pseudonym: the same for one buyer, telling nothing of who it is. It has a space,
    as no username does."""
    return f"Buyer {hmac.new(salt, buyer.encode(), hashlib.sha256).hexdigest()[:4]}"
