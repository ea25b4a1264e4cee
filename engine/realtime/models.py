"""What a feed hears in one look at the facts, and what listeners are told of it."""

from __future__ import annotations

from datetime import datetime

import msgspec

from engine.record.views import EntryView
from engine.sale.models import Drop, Hold


class Bought(msgspec.Struct, frozen=True):
    """A purchase: for everybody its buyer's public name, see engine/identity/names.py."""

    drop_id: int
    username: str
    purchased_at: datetime
    buyer: str  # told to nobody but himself


class Moved(msgspec.Struct, frozen=True):
    """A drop of which there is news: how it stands, and what became of it since the last look."""

    drop: Drop
    epoch: int  # (epoch, drop.version) orders what is said of one drop
    is_new: bool  # it was created
    has_changed: bool  # its terms or its status, beyond the figures
    has_moved: bool  # its figures
    bought: list[Bought]  # the newest since the last look, oldest first, at most three
    recent: list[Bought] | None  # the three newest of all, newest first; None: as before
    expired: int  # holds that ran out since the last look
    released: int  # holds that were given back


class Seats(msgspec.Struct, frozen=True):
    """Which units of a named drop are on the shelf, at one (epoch, version)."""

    drop_id: int
    epoch: int
    version: int
    free: frozenset[int]


class SeatsMoved(msgspec.Struct, frozen=True):
    """Units of a named drop that left the shelf or came back, from one version to another."""

    drop_id: int
    epoch: int
    since: int  # the version at which those who listen know the shelf
    version: int
    taken: list[int]
    freed: list[int]


class Slot(msgspec.Struct, frozen=True):
    """A slot as it stands, for those who look at all of them."""

    drop_id: int
    number: int
    name: str
    status: str  # AVAILABLE, RESERVED, OCCUPIED
    temp_status: str
    temperature: float
    target_temp: float
    measured_at: datetime
    expires_at: datetime | None  # of the hold on it
    reservation_id: str | None  # told to its owner alone, as is
    buyer: str | None


class SlotMoved(msgspec.Struct, frozen=True):
    """A slot that is another than was told, or whose hold ran out."""

    slot: Slot
    lapsed: tuple[str, str] | None = None  # the hold that ran out, and whose it was


class Batch(msgspec.Struct, frozen=True):
    """All news of one look. What is missing did not change."""

    seq: int  # the position in the outbox, the same in all processes
    epoch: int
    since: float  # when the oldest fact in it was written, by this process's monotonic clock
    drops: list[Moved]
    holds: list[Hold]  # of buyers who listen: as they stand now
    is_fresh: bool = False  # what went before is not known: everybody gets a snapshot instead
    seats: list[SeatsMoved] = []  # of drops that somebody looks at alone
    slots: list[SlotMoved] = []
    entries: list[EntryView] = []  # of the ledger, oldest first: the newest at most
