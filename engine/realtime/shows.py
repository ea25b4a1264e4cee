"""Shows: how a room stands, for whoever joins it. Made once for all who come at the same time."""

from __future__ import annotations

import asyncio
import re
import time

import msgspec

from engine.infra.errors import Invalid, NotFound, Unauthorized
from engine.infra.postgres import Postgres
from engine.realtime import frames
from engine.realtime.feed import Feed
from engine.realtime.frames import LiveDrop, LiveSlot, Shelf, Wired, live_drop, live_slot
from engine.record.views import EntryView
from engine.sale.bodies import DROP_ID_MAX
from engine.sale.store import list_reservations
from engine.sale.views import HoldView, hold_view

DROPS_MAX = 100  # the newest; the others are heard of when they change
HOLDS_MAX = 100
MAKING_MAX = 2  # at once: the other connections are for those who buy
FRESH_SECONDS = 0.5  # a snapshot may be so old when nothing changed since
PUBLIC = frozenset({"drops", "slots", "ledger"})
_DROP = re.compile(r"drop:([1-9][0-9]{0,12})")


class Snapshot(msgspec.Struct, rename="camel", omit_defaults=True):
    """How a room stands: it replaces all that was known of it."""

    room: str
    server_time: str | None
    drops: list[LiveDrop] | msgspec.UnsetType = msgspec.UNSET
    reservations: list[HoldView] | msgspec.UnsetType = msgspec.UNSET
    units: Shelf | msgspec.UnsetType = msgspec.UNSET  # of one drop, if they have names
    slots: list[LiveSlot] | msgspec.UnsetType = msgspec.UNSET
    entries: list[EntryView] | msgspec.UnsetType = msgspec.UNSET  # newest first


def key_of(room: str, buyer: str | None) -> str:
    """A room as the hub keeps it: `me` is another one for each buyer. Raises `Invalid` for what is
    no room, `Unauthorized` for the private one of nobody."""
    if room == "me":
        if buyer is None:
            raise Unauthorized("The room me is somebody's: say whose, by a frame or in the request")
        return f"me:{buyer}"
    named = _DROP.fullmatch(room)
    if room not in PUBLIC and (named is None or int(named[1]) > DROP_ID_MAX):
        raise Invalid(f"There is no room {room!r}: want drops, drop:1, slots, ledger or me")
    return room


def room_of(key: str) -> str:
    """A room as clients call it."""
    return "me" if key.startswith("me:") else key


class Shows:
    """The snapshots of one process."""

    def __init__(self, postgres: Postgres, feed: Feed) -> None:
        self._postgres, self._feed = postgres, feed
        self._places = asyncio.Semaphore(MAKING_MAX)
        self._made: dict[str, tuple[int, float, asyncio.Task[Wired]]] = {}

    async def of(self, key: str, turn: int) -> Wired:
        """The snapshot of a room, not older than this turn of the feed.
        Raises `NotFound`, `Fault`."""
        known, now = self._made.get(key), time.monotonic()
        if known is None or known[0] != turn or now > known[1] + FRESH_SECONDS:
            if len(self._made) > DROPS_MAX:
                self._made = {
                    each: made
                    for each, made in self._made.items()
                    if made[0] == turn and now <= made[1] + FRESH_SECONDS
                }
            making = asyncio.create_task(self._make(key), name="snapshot")
            known = self._made[key] = turn, now, making
        try:
            # One who leaves must not take it from the others.
            return await asyncio.shield(known[2])
        except BaseException:
            if self._made.get(key) is known:
                del self._made[key]
            raise

    async def _make(self, key: str) -> Wired:
        async with self._places:
            return await self._ask(key)

    async def _ask(self, key: str) -> Wired:
        kind, _, name = key.partition(":")
        position, is_whole = self._feed.position, not self._feed.passed_over
        shown = Snapshot(room_of(key), self._feed.time())
        if kind == "me":
            holds = await list_reservations(self._postgres, name, None, HOLDS_MAX, 0)
            shown.reservations = [hold_view(hold) for hold in holds]
        elif kind == "slots":
            shown.slots = [live_slot(slot) for slot in await self._feed.freezers()]
        elif kind == "ledger":
            shown.entries = await self._feed.entries()
        else:
            await self._show_drops(shown, int(name) if kind == "drop" else None)
        told = frames.wired("snapshot", shown, position)
        return told.marked(position) if is_whole else told

    async def _show_drops(self, shown: Snapshot, one: int | None) -> None:
        drops = await self._feed.standing(None if one is None else [one], DROPS_MAX)
        shown.drops = [live_drop(each) for each in drops]
        if one is None:
            return
        if not drops:
            raise NotFound(f"There is no drop {one}")
        if drops[0].drop.pick == "named":
            seats = await self._feed.shelf(one)
            shown.units = frames.shelf(seats, drops[0].drop.total_stock) if seats else msgspec.UNSET
