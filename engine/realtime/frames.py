"""Events as bytes: the same JSON goes out as a WebSocket frame and as a server-sent event.

An event is encoded once, whoever hears it; `Wired` holds both forms of what one room is told.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any

import msgspec

from engine.infra.errors import Problem
from engine.infra.http import encode, iso, problem_answer
from engine.realtime.models import Moved, Seats, SeatsMoved, Slot, SlotMoved
from engine.record.views import EntryView
from engine.sale.models import Hold, unit_id
from engine.sale.views import DropView, Recent, StockView, drop_view

TEXT, CLOSE, PING = 0x81, 0x88, 0x89  # first bytes of whole frames, RFC 6455 5.2


class StockUpdate(StockView):
    """A drop's figures. Of two, the one with the greater (epoch, version) is the newer."""

    epoch: int = 0


class NewPurchase(msgspec.Struct, rename="camel"):
    """Somebody bought."""

    drop_id: int
    username: str
    purchased_at: str


class HoldNews(msgspec.Struct, rename="camel"):
    """A hold changed or ended, told to its owner."""

    reservation_id: str
    drop_id: int
    user_id: str
    status: str
    quantity: int
    expires_at: str
    server_time: str


class HoldsEnded(msgspec.Struct, rename="camel"):
    """So many holds of a drop ended, told to everybody: not whose, and not which."""

    drop_id: int
    available_stock: int
    count: int
    reservation_id: None = None
    user_id: None = None


class LiveDrop(DropView):
    """A drop as everybody sees it, and the history that its version counts in."""

    epoch: int = 0


class Shelf(msgspec.Struct, rename="camel"):
    """Which units of a named drop nobody can have, at one (epoch, version)."""

    drop_id: int
    version: int
    epoch: int
    taken: list[int]


class UnitsUpdate(msgspec.Struct, rename="camel"):
    """Units of a named drop that went and came back since another version. Who does not know the
    drop at that one asks how it stands."""

    drop_id: int
    since: int
    version: int
    epoch: int
    taken: list[int]
    freed: list[int]


class LiveSlot(msgspec.Struct, rename="camel"):
    """A slot for everybody: not who holds it, nor what is in it."""

    slot_id: int
    name: str
    status: str
    temp_status: str
    temperature: float
    target_temp: float
    measured_at: str
    expires_at: str | None  # of the hold on it


class Frame(msgspec.Struct):
    """What a client says. Which words it needs depends on the action."""

    action: str
    room: Annotated[str, msgspec.Meta(max_length=64)] | msgspec.UnsetType = msgspec.UNSET
    token: str | msgspec.UnsetType = msgspec.UNSET
    user_id: str | int | msgspec.UnsetType = msgspec.field(name="userId", default=msgspec.UNSET)


class Wired(msgspec.Struct, frozen=True):
    """The same news for either kind of listener; empty: nothing."""

    frames: bytes = b""
    events: bytes = b""

    def __add__(self, other: Wired) -> Wired:
        return Wired(self.frames + other.frames, self.events + other.events)

    def marked(self, position: tuple[int, int]) -> Wired:
        """The same; whoever has heard it to its last event has heard all up to this position."""
        before, data, last = self.events.rpartition(_DATA)
        return Wired(self.frames, b"%b\nid: %d-%d%b%b" % (before, *position, data, last))


_DATA = b"\ndata: "  # JSON has no line breaks, so the last one is the last event's
decode_frame = msgspec.json.Decoder(Frame).decode


def wired(event: str, data: Any, position: tuple[int, int]) -> Wired:
    """One event in both forms, made at this (epoch, place in the outbox)."""
    body = data if isinstance(data, bytes) else encode(data)
    name = event.encode()
    text = b'{"event":"%b","data":%b,"seq":%d}' % (name, body, position[1])
    return Wired(frame(TEXT, text), b"event: %b\ndata: %b\n\n" % (name, body))


def frame(kind: int, payload: bytes = b"") -> bytes:
    """A whole frame from a server, which masks nothing."""
    length = len(payload)
    if length < 126:
        return bytes((kind, length)) + payload
    if length < 65_536:
        return bytes((kind, 126)) + length.to_bytes(2, "big") + payload
    return bytes((kind, 127)) + length.to_bytes(8, "big") + payload


def problem(failure: Problem, request_id: str, position: tuple[int, int]) -> Wired:
    """An error in the one shape."""
    return wired("error", problem_answer(failure, request_id).body, position)


def live_drop(moved: Moved) -> LiveDrop:
    """A drop for everybody, with its newest buyers."""
    recent = [Recent(each.username, iso(each.purchased_at)) for each in moved.recent or ()]
    seen = drop_view(moved.drop, recent)
    return LiveDrop(**msgspec.structs.asdict(seen), epoch=moved.epoch)


def of_drop(moved: Moved, position: tuple[int, int]) -> tuple[Wired, Wired]:
    """What happened to a drop: for who looks at all drops, and beyond it for who looks at this."""
    drop, told = moved.drop, Wired()
    if moved.is_new or moved.has_changed:
        told += wired("new_drop" if moved.is_new else "drop_update", live_drop(moved), position)
    if moved.has_moved:
        figures = (drop.free, drop.held, drop.sold, drop.withdrawn)
        stock = StockUpdate(drop.id, *figures, sum(figures), drop.version, moved.epoch)
        told += wired("stock_update", stock, position)
    for each in moved.bought:
        purchase = NewPurchase(drop.id, each.username, iso(each.purchased_at))
        told += wired("new_purchase", purchase, position)
    ended = Wired()
    if moved.expired:
        gone = HoldsEnded(drop.id, drop.free, moved.expired)
        ended += wired("reservation_expired", gone, position)
    if moved.expired or moved.released:
        gone = HoldsEnded(drop.id, drop.free, moved.expired + moved.released)
        ended += wired("reservation_update", gone, position)
    return told, ended


def shelf(seats: Seats, total: int) -> Shelf:
    """How a named drop of so many units stands, one by one."""
    taken = [number for number in range(1, total + 1) if number not in seats.free]
    return Shelf(seats.drop_id, seats.version, seats.epoch, taken)


def of_seats(moved: SeatsMoved, position: tuple[int, int]) -> Wired:
    """Which units went and came back, for who looks at their drop."""
    update = UnitsUpdate(
        moved.drop_id, moved.since, moved.version, moved.epoch, moved.taken, moved.freed
    )
    return wired("units_update", update, position)


def live_slot(slot: Slot) -> LiveSlot:
    """A slot for everybody."""
    return LiveSlot(
        unit_id(slot.drop_id, slot.number),
        slot.name,
        slot.status,
        slot.temp_status,
        slot.temperature,
        slot.target_temp,
        iso(slot.measured_at),
        None if slot.expires_at is None else iso(slot.expires_at),
    )


def of_slots(moved: Iterable[SlotMoved], position: tuple[int, int]) -> Wired:
    """Slots that changed, for who looks at all of them."""
    told = Wired()
    for each in moved:
        told += wired("slot_update", live_slot(each.slot), position)
    return told


def of_entries(entries: Iterable[EntryView], position: tuple[int, int]) -> Wired:
    """What the ledger got."""
    told = Wired()
    for entry in entries:
        told += wired("ledger_update", {"entry": entry}, position)
    return told


def of_hold(hold: Hold, position: tuple[int, int]) -> Wired:
    """What became of a hold, for its owner."""
    news = HoldNews(
        hold.id,
        hold.drop_id,
        hold.buyer,
        hold.status,
        hold.quantity,
        iso(hold.expires_at),
        iso(hold.server_time),
    )
    event = "reservation_expired" if hold.status == "expired" else "reservation_update"
    return wired(event, news, position)
