"""What a person sees of a load test: one line while it runs, one table when it is over."""

from __future__ import annotations

import sys
from collections.abc import Iterable

from locust.stats import RequestStats, StatsEntry
from tqdm import tqdm  # type: ignore[import-untyped, unused-ignore]

FLOWS = ("flow: purchased", "flow: released", "flow: abandoned")


def merged(stats: RequestStats, starts: Iterable[str]) -> StatsEntry:
    """All entries whose names begin like one of these, as one."""
    total = StatsEntry(stats, " ".join(starts), "")
    for entry in stats.entries.values():
        if entry.name.startswith(tuple(starts)):
            total.extend(entry)
    return total


def table(stats: RequestStats, seconds: float) -> str:
    """Accepted, refused and whole flows: how many, how many a second, and how long they took."""
    line = "{:<28}{:>9}{:>10}{:>10}{:>10}{:>10}".format
    groups = [
        ("accepted", ["reserve: accepted"]),
        ("refused", ["reserve: refused"]),
        ("flows", ["flow: "]),
        *((f"  {name}", [name]) for name in FLOWS),
    ]
    named = sorted({e.name for e in stats.entries.values() if not e.name.startswith("flow: ")})
    groups += [(f"  {name}", [name]) for name in named]
    lines = [line("", "count", "per s", "p50 ms", "p95 ms", "p99 ms")]
    for title, starts in groups:
        entry = merged(stats, starts)
        times = (entry.get_response_time_percentile(share) for share in (0.5, 0.95, 0.99))
        rate = f"{entry.num_requests / seconds:,.1f}"
        lines.append(line(title, f"{entry.num_requests:,}", rate, *(f"{t:,}" for t in times)))
    return "\n".join(lines)


class Line:
    """A progress bar over the seconds of the test; where there is no terminal, a line in ten."""

    def __init__(self, seconds: int | None) -> None:
        tqdm.monitor_interval = 0  # its thread would outlive us
        self._is_seen = sys.stderr.isatty()
        layout = "{elapsed} |{bar:16}| {desc}" if seconds else "{elapsed} {desc}"
        self._bar = tqdm(
            total=seconds, bar_format=layout, leave=False, disable=not self._is_seen, ncols=110
        )
        self._seen = (0, 0)

    def show(self, second: int, users: int, stats: RequestStats, stock: dict[str, int]) -> None:
        """The state of affairs, once a second."""
        accepted, refused = (
            merged(stats, [f"reserve: {word}"]).num_requests for word in ("accepted", "refused")
        )
        line = (
            f"{users} users, {accepted - self._seen[0]}/s accepted, "
            f"{refused - self._seen[1]}/s refused, "
            f"{stock['soldStock']:,} of {stock['totalStock']:,} sold, {stock['heldStock']:,} held"
        )
        self._seen = accepted, refused
        if self._is_seen:
            self._bar.set_description_str(line, refresh=False)
            self._bar.update(second - self._bar.n)
            self._bar.refresh()
        elif second % 10 == 0:
            print(f"{second:>4} s  {line}", file=sys.stderr, flush=True)

    def close(self) -> None:
        """Make room for what follows."""
        self._bar.close()
