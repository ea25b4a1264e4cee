"""Leader: of several keeper processes, the one that does what need be done once.

A lease in Postgres, by Postgres's clock: it works behind a pooler, and ends by itself with its
holder. It saves work and guards nothing: for a moment two may believe that they lead.
"""

from __future__ import annotations

from engine.infra import sql
from engine.infra.ids import new_id
from engine.infra.postgres import Postgres

LEASE_SECONDS = 15.0


class Leader:
    """This process's claim to lead."""

    def __init__(self, postgres: Postgres, name: str) -> None:
        self._postgres, self._name, self._id = postgres, name, new_id()

    async def leads(self) -> bool:
        """Take or renew the lease; whether we hold it now."""
        words = {"name": self._name, "holder": self._id, "seconds": LEASE_SECONDS}
        return await self._postgres.call(sql.load("engine")["take_lease"], **words) is not None
