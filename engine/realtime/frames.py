"""Events as bytes: the same JSON goes out as a WebSocket frame and as a server-sent event.

An event is encoded once, whoever hears it; `Wired` holds both forms of what one room is told.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from engine.infra.errors import Problem
from engine.infra.http import encode, iso, problem_answer
from engine.realtime.models import Moved
from engine.sale.models import Hold
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
