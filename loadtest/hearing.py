"""What a drill with listeners saw, how long changes took to reach them, and the verdict."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

import msgspec

from loadtest.audience import Heard
from loadtest.bench.usage import OTHERS, Usage
from loadtest.drills import Row

SHARE = 0.3  # of the most holds a second
STOPPED = 5  # listeners who read no more
RATIO_MAX = 1.25
LAG_MS_MAX = 1_000
BYTES_MAX = 30_000  # a socket
GONE_SECONDS_MAX = 10.0
BACK_SECONDS_MAX = 10.0


class Lags(msgspec.Struct, frozen=True):
    """From a change to a listener, in ms, over all pairs of the two."""

    p50: int = 0
    p99: int = 0
    longest: int = 0
    pairs: int = 0


class Phase(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """One load at the fixed rate, without listeners or with them."""

    name: str
    p50_ms: float
    p99_ms: float
    late_p99_ms: float = 0.0  # of the load generator itself
    usage: Usage | None = None
    ok: int = 0
    refused: int = 0
    listeners: int = 0
    events: int = 0
    events_per_s: float = 0.0
    audience_cpu: float = 0.0  # cores that the listeners themselves took
    lags: Lags = Lags()
    lost: int = 0
    behind: int = 0  # that did not end on the final state
    load_average: float = 0.0

    @property
    def strangers(self) -> float:
        """Cores that were taken by nobody of ours."""
        if self.usage is None:
            return 0.0
        answered = self.ok + self.refused
        others = self.usage.micros.get(OTHERS, 0.0) / 1e6 * answered / self.usage.seconds
        return max(others - self.audience_cpu, 0.0)


class Facts(msgspec.Struct, kw_only=True, rename="camel"):
    """All that was seen."""

    wanted: int
    hands: int = 0  # processes for listeners; 0: workers tell
    most_per_s: float = 0.0
    rate: float = 0.0
    phases: list[Phase] = []
    bytes_per_socket: list[float] = []  # of all processes that tell: alone, and after a load
    gone: list[float] = []  # seconds, of those who read no more
    stopped: Phase | None = None
    killed: Phase | None = None
    its_own: int = 0  # listeners of the worker that was killed
    back: list[float] = []  # seconds
    words: dict[int, int] = {}
    problems: list[str] = []

    def p99_ms(self, name: str) -> float:
        """The mean p99 of all phases of this name."""
        found = [each.p99_ms for each in self.phases if each.name == name]
        return sum(found) / len(found) if found else 0.0

    def heard(self) -> list[Phase]:
        """The phases with listeners who all read."""
        return [each for each in self.phases if each.name == "heard"]


def judge(facts: Facts, *, only_counts: bool = False) -> list[Row]:
    """The verdict, from all that was seen; `only_counts`: the run was too short for times."""
    before, after = facts.p99_ms("alone"), facts.p99_ms("heard")
    ratio = after / before if before else float("inf")
    judged = [*facts.heard(), *filter(None, (facts.stopped, facts.killed))]
    behind = sum(each.behind for each in judged)
    refused = sum(each.refused for each in facts.phases)
    least = min((each.listeners for each in facts.heard()), default=0)
    lost = sum(each.lost for each in facts.heard())
    return [
        Row("sockets on one drop", f"{least:,}", f"{facts.wanted:,}", least == facts.wanted > 0),
        Row("reservations, 1/s", f"{facts.rate:,.0f}", f"{SHARE:.0%} of {facts.most_per_s:,.0f}"),
        Row("p99 of a reservation, ms", f"{before:.1f}", "alone"),
        Row("", f"{after:.1f}", "heard"),
        _timed("  ratio", f"{ratio:.2f}", f"<= {RATIO_MAX}", ratio <= RATIO_MAX, only_counts),
        Row(
            "cores taken by strangers", ", ".join(f"{each.strangers:.1f}" for each in facts.phases)
        ),
        Row("refused, lost to the load", f"{refused}", "0", refused == 0),
        *(row for each in facts.heard() for row in _of_heard(each, only_counts)),
        Row("listeners lost while told", f"{lost}", "0", lost == 0),
        *_memory(facts, only_counts),
        *_of_stopped(facts, only_counts),
        *_of_killed(facts, only_counts),
        Row("not on the final state", f"{behind}", "0", behind == 0 and bool(judged)),
        Row("audit", "; ".join(facts.problems) or "clean", "clean", not facts.problems),
    ]


def _timed(measure: str, seen: str, wanted: str, holds: bool, only_counts: bool) -> Row:
    return Row(measure, seen, wanted, None if only_counts else holds)


def _of_heard(phase: Phase, only_counts: bool) -> Iterable[Row]:
    lags = phase.lags
    yield Row("events delivered, 1/s", f"{phase.events_per_s:,.0f}", "> 0", phase.events > 0)
    yield Row("  lag p50, max, ms", f"{lags.p50:,}, {lags.longest:,}")
    good = lags.pairs > 0 and lags.p99 < LAG_MS_MAX
    yield _timed("  lag p99, ms", f"{lags.p99:,}", f"< {LAG_MS_MAX:,}", good, only_counts)


def _memory(facts: Facts, only_counts: bool) -> Iterable[Row]:
    worst = max(facts.bytes_per_socket, default=0.0)
    told = ", ".join(f"{each / 1_000:.1f}" for each in facts.bytes_per_socket)
    good = 0 < worst < BYTES_MAX
    yield _timed("kB a socket: idle, told", told, f"< {BYTES_MAX // 1_000}", good, only_counts)


def _of_stopped(facts: Facts, only_counts: bool) -> Iterable[Row]:
    if facts.stopped is None:
        return
    gone, lags = sorted(facts.gone), facts.stopped.lags
    complete = len(gone) == STOPPED
    yield Row("read no more, and were cut", f"{len(gone)}", f"{STOPPED}", complete)
    latest = gone[-1] if gone else 0.0
    good = latest <= GONE_SECONDS_MAX
    yield _timed("  the last after, s", f"{latest:.1f}", "<= 10", good, only_counts)
    yield Row("  others lost", f"{facts.stopped.lost}", "0", facts.stopped.lost == 0)
    good = lags.pairs > 0 and lags.p99 < LAG_MS_MAX
    told = f"{lags.p99:,}"
    yield _timed("  lag p99 of the others, ms", told, f"< {LAG_MS_MAX:,}", good, only_counts)


def _of_killed(facts: Facts, only_counts: bool) -> Iterable[Row]:
    if facts.killed is None:
        return
    lost, back, lags = facts.killed.lost, sorted(facts.back), facts.killed.lags
    yield Row(
        "a worker's listeners, lost", f"{lost:,}", f"{facts.its_own:,}", lost == facts.its_own
    )
    first, last = (back[0], back[-1]) if back else (0.0, 0.0)
    yield Row("  came back", f"{len(back):,}", f"{lost:,}", len(back) == lost)
    good = last <= BACK_SECONDS_MAX
    yield _timed("  first, last, s", f"{first:.1f}, {last:.1f}", "<= 10", good, only_counts)
    good = lags.p99 < LAG_MS_MAX
    told = f"{lags.p99:,}"
    yield _timed("  lag p99 of the others, ms", told, f"< {LAG_MS_MAX:,}", good, only_counts)


def lags(heard: Iterable[Heard], written: Mapping[int, float]) -> Lags:
    """Beside the moments (ms) at which versions were written; one whose row is not there, because
    it was no change of its own, is nobody's."""
    counts = Counter[int]()
    for each in heard:
        changes = [written[v] for v in range(each.before + 1, each.version + 1) if v in written]
        for moment, listeners in each.moments.items():
            for change in changes:
                counts[max(round(moment + 0.5 - change), 0)] += listeners
    total = counts.total()
    ordered = sorted(counts)
    if not total:
        return Lags()
    return Lags(
        _at(counts, ordered, total * 0.5), _at(counts, ordered, total * 0.99), ordered[-1], total
    )


def _at(counts: Mapping[int, int], ordered: Iterable[int], rank: float) -> int:
    seen = 0
    for each in ordered:
        seen += counts[each]
        if seen > rank:
            return each
    return each
