"""C10 and C13: after each heal all comes to rest in time, and at the end nothing is left open."""

from __future__ import annotations

from operator import attrgetter

from loadtest.chaos.checker.record import Record
from loadtest.chaos.checker.verdict import Verdict
from loadtest.chaos.history import Heal, Resource, Sight

REST_NS = 8_000_000_000  # INV-7
LAG_NS = 1_000_000_000  # that sweeper and reconciler may take for what happens in a window of rest
FDS_ROOM = 32  # files a process opens for a moment
MEMORY_FACTOR, MEMORY_ROOM_KB = 1.5, 64_000
TASKS_ROOM = 16


def convergence(record: Record, verdict: Verdict) -> None:
    """C10: within 8 s of each heal no intent is open, no hold is past its deadline, and the bouncer
    believes what Postgres says; the sights must bear out who says so."""
    heals = record.of(Heal)
    sights = record.by(Sight, attrgetter("drop"))
    times: list[float] = []
    for heal in heals:
        if heal.rest_at is None:
            verdict.found("C10", f"no rest after a heal: {heal.unrest or 'nobody knows why'}", heal)
            continue
        times.append((heal.rest_at - heal.at) / 1e9)
        if heal.rest_at - heal.at > REST_NS:
            verdict.found("C10", f"rest came {times[-1]:.1f} s after a heal", heal)
        for seen in sights.values():
            _at_rest(verdict, heal, heal.rest_at, seen)
    verdict.close("C10", "heals without rest in 8 s")
    if times:
        times.sort()
        told = "/".join(f"{_share(times, share):.1f}" for share in (0.5, 0.99, 1.0))
        verdict.figure("s to rest, p50/p99/max", told)
    verdict.figure("heals judged", str(len(heals)), "> 0", bool(heals))


def _share(times: list[float], share: float) -> float:
    return times[min(int(len(times) * share), len(times) - 1)]


def _at_rest(verdict: Verdict, heal: Heal, rest_at: int, seen: list[Sight]) -> None:
    """Rest once reached lasts to the end of the window, as far as nobody buys in it. Holds still
    run out in it, and each is swept and told of a moment later: longer than that nothing stays."""
    within = [s for s in seen if rest_at <= s.at <= heal.until and s.version is not None]
    since: Sight | None = None
    for sight in within:
        truth = (sight.epoch, sight.version, sight.free)
        wrong = sight.believed is not None and sight.believed != truth
        if not (sight.intents or sight.overdue or wrong):
            since = None
            continue
        since = since or sight
        if sight.at - since.at > LAG_NS:
            why = "the bouncer was wrong" if wrong else "it was not"
            verdict.found("C10", f"said to be at rest, and {why}", heal, since, sight)


def leaks(record: Record, verdict: Verdict) -> None:
    """C13: what was open before is open after, and no more."""
    before = {line.who: line for line in record.of(Resource) if line.when == "before"}
    after = {line.who: line for line in record.of(Resource) if line.when == "after"}
    for who, now in after.items():
        was = before.get(who)
        if was is not None:
            _leak(record, verdict, was, now)
    for seen in record.by(Sight, attrgetter("drop")).values():
        looked = [sight for sight in seen if sight.intents is not None]
        calm = max((op.since for op in record.ops), default=0) + REST_NS
        if looked and looked[-1].intents and looked[-1].at > calm:
            verdict.found("C13", f"{looked[-1].intents} intents are left", looked[-1])
    verdict.close("C13", "left open at the end")
    compared = len(before.keys() & after.keys())
    verdict.figure("processes compared", str(compared), "> 0", compared > 0)


def _leak(record: Record, verdict: Verdict, was: Resource, now: Resource) -> None:
    pools = record.run.connections_max
    room = {
        "connections": max((pools or 0) - (was.connections or 0), 0),
        "fds": FDS_ROOM + (pools or 0),
        "tasks": TASKS_ROOM,
        "memory_kb": int((was.memory_kb or 0) * (MEMORY_FACTOR - 1)) + MEMORY_ROOM_KB,
    }
    for name, more in room.items():
        one, two = getattr(was, name), getattr(now, name)
        if one is not None and two is not None and two > one + more:
            sentence = f"{was.who}: {name} {one} before, {two} after"
            verdict.found("C13", sentence, was, now)
