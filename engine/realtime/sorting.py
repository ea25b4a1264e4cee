"""Sorting: what a batch of the feed means for each room, and who is told it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

from engine.realtime import frames
from engine.realtime.frames import Wired
from engine.realtime.listener import Listener
from engine.realtime.models import Batch
from engine.realtime.shows import key_of

Rooms = Mapping[str, Mapping[Listener, None]]
Jobs = list[tuple[list[Listener], Wired]]


def sort(batch: Batch, rooms: Rooms, position: tuple[int, int]) -> Jobs:
    """Who is told what. Who hears all drops is told of one of them there, and beyond it only what
    its own room adds."""
    everybody = _Told(rooms)  # what a room is told
    beyond = _Told(rooms)  # and what of it those hear who hear all drops
    for moved in batch.drops:
        news, ended = frames.of_drop(moved, position)
        room = f"drop:{moved.drop.id}"
        everybody.add("drops", news)
        everybody.add(room, news + ended)
        beyond.add(room, ended)
    for seats in batch.seats:
        room, news = f"drop:{seats.drop_id}", frames.of_seats(seats, position)
        everybody.add(room, news)
        beyond.add(room, news)
    for hold in batch.holds:
        everybody.add(key_of("me", hold.buyer), frames.of_hold(hold, position))
    if "slots" in rooms:
        everybody.add("slots", frames.of_slots(batch.slots, position))
    if "ledger" in rooms:
        everybody.add("ledger", frames.of_entries(batch.entries, position))
    all_hear, jobs = rooms.get("drops", {}), []
    for room, news in everybody.news.items():
        members = list(rooms[room])
        if all_hear and room.startswith("drop:"):
            jobs.append(([each for each in members if each in all_hear], beyond.news[room]))
            members = [each for each in members if each not in all_hear]
        jobs.append((members, news))
    return [(members, news) for members, news in jobs if members and news.frames]


class _Told:
    """News by room, of the rooms that there are."""

    def __init__(self, rooms: Rooms) -> None:
        self._rooms = rooms
        self.news: dict[str, Wired] = defaultdict(Wired)

    def add(self, room: str, news: Wired) -> None:
        """News for a room, if anybody is in it."""
        if room in self._rooms:
            self.news[room] += news
