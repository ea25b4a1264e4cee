"""A ledger to seal and to damage: facts as the sale writes them, without a sale around them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from engine.infra.ids import new_id
from engine.infra.settings import Settings
from engine.record import keys
from engine.runtime import Ground

SECRET = "a secret of a ledger, for tests alone"
BEGAN = datetime(2030, 1, 1, 12, tzinfo=UTC)


def ring(secret: str = SECRET, previous: str = "", signing_key: str = "") -> keys.Keyring:
    """The keys of a service with that secret."""
    given = Settings(
        hmac_secret=secret, hmac_secret_previous=previous, ledger_signing_key=signing_key
    )
    return keys.ring(given)


class Facts:
    """What a sale leaves behind: purchases and bookings with their records."""

    def __init__(self, ground: Ground, connection: Any) -> None:
        self.ground, self.connection = ground, connection
        self._number = 0

    async def drop(self) -> int:
        """A drop to buy from."""
        found: int = await self.connection.fetchval(
            "INSERT INTO drops (name, price_cents, currency, starts_at, hold_seconds,"
            " max_hold_seconds, max_per_order, total_stock)"
            " VALUES ('Aurora', 12000, 'USD', now(), 60, 120, 1, 1000000) RETURNING id"
        )
        return found

    async def buy(self, drop_id: int, count: int, buyer: str = "") -> list[str]:
        """Purchases of one batch; their ids."""
        ids = [new_id() for _ in range(count)]
        buyers = [buyer or f"buyer-{self._number + i}" for i in range(count)]
        self._number += count
        await self.connection.execute(
            "WITH made AS (INSERT INTO purchases (id, request_id, reservation_id, drop_id,"
            " amount_cents, purchased_at, quantity, buyer, units)"
            " SELECT w.id, gen_random_uuid(), gen_random_uuid(), $1, 12000, $4, 1, w.buyer,"
            " ARRAY[w.n::integer] FROM unnest($2::uuid[], $3::text[]) WITH ORDINALITY"
            " AS w(id, buyer, n))"
            " INSERT INTO records (action, drop_id, subjects) VALUES ('PURCHASED', $1, $2)",
            drop_id,
            ids,
            buyers,
            BEGAN + timedelta(milliseconds=self._number),
        )
        return ids

    async def refund(self, purchase: str) -> None:
        """Undo one."""
        await self.connection.execute(
            "WITH undone AS (UPDATE purchases SET refunded_at = $2, restocked = true WHERE id = $1"
            " RETURNING drop_id) INSERT INTO records (action, drop_id, subjects)"
            " SELECT 'REFUNDED', drop_id, ARRAY[$1::uuid] FROM undone",
            purchase,
            BEGAN + timedelta(hours=1),
        )

    async def book(self, drop_id: int, count: int = 1, buyer: str = "") -> list[str]:
        """Bookings of one batch; their ids."""
        bought = [new_id() for _ in range(count)]
        ids = [new_id() for _ in range(count)]
        first, self._number = self._number + 1, self._number + count
        numbers = list(range(first, first + count))
        buyers = [buyer or f"buyer-{n}" for n in numbers]
        manifests = [f"MAN-é/{n}" for n in numbers]
        await self.connection.execute(
            "WITH made AS (INSERT INTO purchases (id, request_id, reservation_id, drop_id,"
            " amount_cents, purchased_at, quantity, buyer, units)"
            " SELECT w.id, gen_random_uuid(), w.id, $1, 0, $6, 1, w.buyer, ARRAY[w.n]"
            " FROM unnest($2::uuid[], $4::text[], $5::integer[]) w(id, buyer, n)),"
            " kept AS (INSERT INTO bookings (id, purchase_id, reservation_id, drop_id, number,"
            " buyer, manifest_id, confirmed_at) SELECT w.id, w.bought, w.bought, $1, w.n, w.buyer,"
            " w.manifest, $6 FROM unnest($3::uuid[], $2::uuid[], $4::text[], $5::integer[],"
            " $7::text[]) w(id, bought, buyer, n, manifest))"
            " INSERT INTO records (action, drop_id, subjects, slots, manifests, buyers, made_at)"
            " SELECT 'BOOKING_CONFIRMED', $1, $3, array_agg(($1::bigint << 20) + n), $7, $4, $6"
            " FROM unnest($5::integer[]) n",
            drop_id,
            bought,
            ids,
            buyers,
            numbers,
            BEGAN,
            manifests,
        )
        return ids
