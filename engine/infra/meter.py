"""The meter: what a process did, counted in plain integers.

There is one a process, like its log, since what is counted happens in every layer: handing it down
would put it into a dozen signatures and change nothing. The hot lane adds to integers that are
there already (about a microsecond a request); everything dear is done once a second by who
publishes them (tally.py), or when somebody asks (metrics.py).

Histograms have powers of two for bounds, so that finding a bucket is `int.bit_length`:

    latency   0.1 ms · 0.2 · 0.4 · … · 6.5536 s · more
    batches   1 · 2 · 4 · … · 512 · more
"""

from __future__ import annotations

from collections import defaultdict

import msgspec

Labels = tuple[str, ...]

SAMPLE_ONE_IN = 1_000  # requests, of those that went well or were refused
ERRORS_LOGGED_MAX = 100  # a second; an outage must not drown the log that explains it
SUBJECTS_MAX = 1_000  # (drop, code) pairs that are told apart within a second
DROPS_TOLD = 20  # lines a second
LATENCY_BUCKETS = 18  # the last one has no bound
LATENCY_BOUNDS = tuple(2**i / 10_000 for i in range(LATENCY_BUCKETS - 1))  # seconds
BATCH_BUCKETS = 11
BATCH_BOUNDS = tuple(float(2**i) for i in range(BATCH_BUCKETS - 1))  # requests


class Histogram(msgspec.Struct, array_like=True):
    """How many fell into each bucket, and their sum."""

    buckets: list[int]
    sum: float = 0.0


class Round(msgspec.Struct, array_like=True):
    """A keeper's last round: when it ended, by this machine's monotonic clock, and how long it
    took, in seconds."""

    ended: float
    seconds: float


class Meter:
    """The counts of one process since it started. Only its event loop writes to it."""

    def __init__(self) -> None:
        self.answers: dict[tuple[str, int, str], int] = defaultdict(int)
        self.latency: dict[str, Histogram] = {}
        self.batches: dict[str, Histogram] = {}
        self.rounds: dict[str, Round] = {}
        self.lags: dict[str, Histogram] = {}
        self.listeners = 0  # connections that hear a sale live, just now
        self.counts: dict[str, dict[Labels, float]] = {}
        self.memory_refusals = 0
        self._until_sample = SAMPLE_ONE_IN
        self._errors_left = ERRORS_LOGGED_MAX
        self._refused: dict[tuple[int | None, str], int] = {}

    # ── the hot lane ─────────────────────────────────────────────────────────────────────────

    def answered(self, operation: str, status: int, code: str, seconds: float) -> bool:
        """Count an answer; whether it is worth a line of its own: an error, or one of a sample."""
        self.answers[operation, status, code] += 1
        tally = self.latency.get(operation)
        if tally is None:
            tally = self.latency[operation] = Histogram([0] * LATENCY_BUCKETS)
        bucket = int(seconds * 10_000).bit_length()
        tally.buckets[bucket if bucket < LATENCY_BUCKETS else -1] += 1
        tally.sum += seconds
        self._until_sample -= 1
        if status >= 500:
            self._errors_left -= 1
            return self._errors_left >= 0
        if self._until_sample <= 0:
            self._until_sample = SAMPLE_ONE_IN
            return True
        return False

    def refused(self, drop_id: int | None, code: str) -> None:
        """Count a refusal for the line that sums up this second."""
        subject = drop_id, code
        if subject not in self._refused and len(self._refused) >= SUBJECTS_MAX:
            subject = None, code  # ids are the clients' to invent
        self._refused[subject] = self._refused.get(subject, 0) + 1

    # ── once a batch, or less often ──────────────────────────────────────────────────────────

    def count(self, name: str, *labels: str, by: float = 1) -> None:
        """Add to a counter of metrics.py, named without its prefix and its `_total`."""
        counter = self.counts.get(name)
        if counter is None:
            counter = self.counts[name] = {}
        counter[labels] = counter.get(labels, 0) + by

    def batch(self, combiner: str, size: int) -> None:
        """Count one batch of a kind of combiner."""
        tally = self.batches.get(combiner)
        if tally is None:
            tally = self.batches[combiner] = Histogram([0] * BATCH_BUCKETS)
        bucket = (size - 1).bit_length()
        tally.buckets[bucket if bucket < BATCH_BUCKETS else -1] += 1
        tally.sum += size

    def lag(self, name: str, seconds: float) -> None:
        """Count how late something was."""
        tally = self.lags.get(name)
        if tally is None:
            tally = self.lags[name] = Histogram([0] * LATENCY_BUCKETS)
        bucket = int(max(seconds, 0) * 10_000).bit_length()
        tally.buckets[bucket if bucket < LATENCY_BUCKETS else -1] += 1
        tally.sum += seconds

    def take_refusals(self) -> dict[int | None, dict[str, int]]:
        """The refusals since the last time, by drop and code: the drops most refused come first,
        and what is beyond `DROPS_TOLD` of them is summed up under None. A new second of errors
        begins, too."""
        taken, self._refused = self._refused, {}
        self._errors_left = ERRORS_LOGGED_MAX
        weight: dict[int | None, int] = defaultdict(int)
        for (drop_id, _), times in taken.items():
            weight[drop_id] += times
        heaviest = sorted((id for id in weight if id is not None), key=lambda id: -weight[id])
        told = set(heaviest[:DROPS_TOLD])
        lines: dict[int | None, dict[str, int]] = {}
        for (drop_id, code), times in sorted(taken.items(), key=lambda each: -each[1]):
            line = lines.setdefault(drop_id if drop_id in told else None, {})
            line[code] = line.get(code, 0) + times
        return lines

    @property
    def errors_unsaid(self) -> int:
        """Errors of this second that got no line of their own."""
        return max(-self._errors_left, 0)


meter = Meter()
