"""Metrics: every one there is, by name, and their text for Prometheus.

`METRICS` is the whole list: what is not in it is not shown, docs/OPERATIONS.md tells each of them,
and a test compares. Labels are few and bounded: operations, statuses and codes are the code's own
words; of drops at most `DROPS_MAX` are shown. Never a path, a buyer or a key.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Literal

import msgspec
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)

from engine.infra.meter import BATCH_BOUNDS, LATENCY_BOUNDS, Histogram, Labels
from engine.infra.tally import Snapshot

PREFIX = "velvetrope_"
DROPS_MAX = 50  # the ones that changed last; the labels of a shop's whole history would not end

Values = Mapping[str, Mapping[Labels, float]]  # of a metric, by its labels


class Named(msgspec.Struct, frozen=True):
    """A metric: its name without prefix, its kind, its labels, and what it tells."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    labels: Labels
    help: str

    @property
    def full(self) -> str:
        """Its name as Prometheus knows it."""
        return f"{PREFIX}{self.name}" + ("_total" if self.kind == "counter" else "")


def _counter(name: str, help: str, *labels: str) -> Named:
    return Named(name, "counter", labels, help)


def _gauge(name: str, help: str, *labels: str) -> Named:
    return Named(name, "gauge", labels, help)


METRICS = (
    # Counted by workers, summed over all of them, the dead ones included.
    _counter("requests", "Requests answered, by the status of the answer", "operation", "status"),
    _counter(
        "refusals",
        "Requests not done, by the code of the answer; RETRYABLE, OUTCOME_UNKNOWN and "
        "INTERNAL_ERROR are our fault, the others are true answers",
        "operation",
        "code",
    ),
    Named(
        "request_seconds",
        "histogram",
        ("operation",),
        "From the request's head to its answer, without the network",
    ),
    _counter("holds", "Holds made: committed in Postgres, whatever their buyers heard"),
    _counter("held_units", "Units that these holds took; one may take several"),
    _counter("purchases", "Holds that became purchases"),
    _counter("mints", "Receipts that became memberships"),
    _counter("payments", "What providers said, by what came of it", "status", "outcome"),
    _counter("refunds", "Purchases undone, by what became of their units", "units"),
    _counter("releases", "Holds that buyers or operators gave back"),
    _counter("expiries", "Holds that ran out and were freed"),
    _counter("replays", "Requests answered as the first time they came", "operation"),
    _counter("memory_refusals", "Sold out, said from a worker's memory without a round trip"),
    Named("batch_requests", "histogram", ("combiner",), "Requests that shared one transaction"),
    _counter("listeners_met", "Connections that came to hear a sale live", "kind"),
    _counter("listeners_dropped", "Such connections that we ended, by why", "why"),
    _counter("live_sent", "Pieces of news written to listeners"),
    Named(
        "live_lag_seconds",
        "histogram",
        ("stage",),
        "From a change to all who listen: told, when it was written to the last of them",
    ),
    _counter("direct_batches", "Batches sold without the bouncer, because Redis was away"),
    _counter(
        "claims_resolved",
        "Claims whose reply was lost, made definite since: held or aborted",
        "outcome",
    ),
    _counter("claims_undone", "Claims that Postgres undid, alone in their batch"),
    _counter("intents_reaped", "Intents of dead workers, closed by the reaper"),
    _counter(
        "lost_versions",
        "Changes of the stock that a failover or a restore lost, as far as the bouncer knew",
    ),
    _counter("lost_units", "Units that these changes had held or sold, less those given back"),
    _counter(
        "unreplicated_commits",
        "Commits that were to wait for a standby, and somebody ended the wait",
    ),
    _counter("limited", "Requests refused because a budget was used up", "policy"),
    _counter(
        "connections_cut", "Connections ended by us: idle, slow, or somebody needed the seat", "why"
    ),
    _counter("pool_waits", "Uses of Postgres that had to wait for a connection"),
    _counter("redis_away_seconds", "Time without an answer from Redis, of all processes together"),
    _counter(
        "keeper_rounds",
        "Rounds of the keepers: done, waited (a server was away) or failed",
        "keeper",
        "outcome",
    ),
    _counter(
        "replica_fallbacks",
        "Reads that the replica of DATABASE_READ_URL did not answer, and the primary did",
    ),
    _counter(
        "deeds_unwritten",
        "Rows the audit log lacks: begin of an urgent switch, end, refused beyond the budget",
        "what",
    ),
    _counter(
        "activity",
        "Acts of users: noted and written; lost were overflow, refused and unwritten",
        "outcome",
    ),
    # What processes have just now.
    _gauge("processes", "Processes of this machine that live", "kind"),
    _gauge("process_silent_seconds", "Since the most silent live process published its counts"),
    _gauge("listeners", "Connections that hear a sale live"),
    _gauge("queued_requests", "Requests that wait for a batch", "combiner"),
    _gauge("pool_connections", "Postgres connections there may be"),
    _gauge("pool_connections_in_use", "Postgres connections in use"),
    _gauge("redis_away_processes", "Processes that Redis does not answer"),
    _gauge("keeper_round_seconds", "How long a keeper's last round took", "keeper"),
    _gauge("keeper_round_age_seconds", "Since a keeper's last round ended", "keeper"),
    # Looked up when somebody asks.
    _gauge("postgres_up", "1: Postgres answers the process that was asked"),
    _gauge("redis_up", "1: Redis answers the process that was asked, and takes writes"),
    _gauge("keepers", "Keeper processes that gave a sign of life within 5 s, on all machines"),
    _gauge("keeper_beat_age_seconds", "Since the last sign of life of any keeper"),
    _gauge("expiry_lag_seconds", "How long the oldest hold is past its deadline and not freed"),
    _gauge("refunds_due", "Payments that must be given back, and were not yet"),
    _gauge("refund_oldest_seconds", "Since the oldest refund is due"),
    _gauge("payments_undecided", "Payments that came, of which nothing was made yet"),
    _gauge("payment_undecided_seconds", "Since the oldest of them came"),
    _gauge("outbox_facts", "Facts kept in the outbox, about"),
    _gauge("outbox_oldest_seconds", "Age of the oldest fact in the outbox"),
    _gauge("ledger_unsealed", "Facts that are recorded and not in the ledger yet"),
    _gauge("ledger_lag_seconds", "Since the oldest of them was recorded"),
    _gauge("ledger_sequence", "Records in the ledger"),
    _gauge("ledger_valid", "1: the last look at the whole ledger found it as it was sealed"),
    _gauge("ledger_checked_age_seconds", "Since that look"),
    _gauge("slots_critical", "Slots of freezers that are critically warm"),
    _gauge("warm_drops", "Drops that may still sell, or did so within the hour"),
    _gauge("audit_age_seconds", "Since the warm drop counted longest ago was counted, or made"),
    _gauge("audit_problem_drops", "Warm drops whose rows did not add up when last counted"),
    _gauge("audit_paused_drops", "Drops that the auditor paused"),
    _gauge(
        "stock_units",
        f"Units of the {DROPS_MAX} drops that changed last, by state",
        "drop",
        "state",
    ),
    _gauge("drift_units", "What the bouncer offers beyond what is free less what is open", "drop"),
    _gauge("undersell_units", "Free units that nobody can get", "drop"),
    _gauge("undersell_seconds", "For how long at most free units have been out of reach", "drop"),
    _gauge("open_intents", "Requests let through and not settled yet", "drop"),
    _gauge(
        "oldest_intent_seconds",
        "Age of the oldest open intent; 0 while none is older than INTENT_TTL_MS",
        "drop",
    ),
    _gauge(
        "publish_lag_versions", "Changes of the stock that the bouncer does not know yet", "drop"
    ),
    _gauge(
        "publish_lag_seconds",
        "Since the stock changed last, if the bouncer does not know it; else 0",
        "drop",
    ),
)


def text(processes: Iterable[Snapshot], looked_up: Values) -> bytes:
    """The page that Prometheus reads: what the processes counted (the dead ones in one snapshot),
    and what was looked up."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Page(list(processes), looked_up))
    return generate_latest(registry)


class _Page:
    """A collector in prometheus_client's sense, of one moment."""

    def __init__(self, processes: list[Snapshot], looked_up: Values) -> None:
        self._live = [each for each in processes if each.kind != "departed"]
        self._sum = Snapshot("departed", 0.0)
        for each in processes:
            self._sum.add(each)
        self._values: dict[str, Mapping[Labels, float]] = {
            **self._sum.counts,
            **_answers(self._sum),
            **_present(self._live),
            **looked_up,
        }

    def collect(self) -> Iterator[Metric]:
        """Every metric of which anything is known, in the order of the list."""
        tallies = {
            "request_seconds": (LATENCY_BOUNDS, self._sum.latency),
            "batch_requests": (BATCH_BOUNDS, self._sum.batches),
            "live_lag_seconds": (LATENCY_BOUNDS, self._sum.lags),
        }
        for named in METRICS:
            if named.kind == "histogram":
                yield _histogram(named, *tallies[named.name])
                continue
            kind = CounterMetricFamily if named.kind == "counter" else GaugeMetricFamily
            family = kind(PREFIX + named.name, named.help, labels=named.labels)
            # A counter that never rose is 0: an alert on its rise must see it rise from there.
            nothing = {(): 0.0} if named.kind == "counter" and not named.labels else {}
            for labels, value in (self._values.get(named.name) or nothing).items():
                family.add_metric(labels, value)
            yield family


def _answers(sum: Snapshot) -> dict[str, dict[Labels, float]]:
    requests: dict[Labels, float] = {}
    refusals: dict[Labels, float] = {}
    for (operation, status, code), times in sum.answers.items():
        subject = operation, str(status)
        requests[subject] = requests.get(subject, 0) + times
        if code:
            refusals[operation, code] = refusals.get((operation, code), 0) + times
    return {"requests": requests, "refusals": refusals}


def _present(live: list[Snapshot]) -> dict[str, dict[Labels, float]]:
    """What live processes have, together; of keepers the round that ended last, of the longest."""
    now = time.monotonic()
    found: dict[str, dict[Labels, float]] = {
        "processes": {("worker",): 0.0, ("keeper",): 0.0, ("listener",): 0.0},
        "queued_requests": {},
        "keeper_round_seconds": {},
        "keeper_round_age_seconds": {},
    }
    queued, ages = found["queued_requests"], found["keeper_round_age_seconds"]
    longest = found["keeper_round_seconds"]
    for each in live:
        found["processes"][each.kind,] += 1
        for combiner, waiting in each.gauges.queued.items():
            queued[combiner,] = queued.get((combiner,), 0) + waiting
        for keeper, round in each.rounds.items():
            ages[keeper,] = min(ages.get((keeper,), float("inf")), max(now - round.ended, 0))
            longest[keeper,] = max(longest.get((keeper,), 0), round.seconds)
    sums = {
        "process_silent_seconds": max((now - each.at for each in live), default=0.0),
        "pool_connections": sum(each.gauges.pool_size for each in live),
        "pool_connections_in_use": sum(each.gauges.pool_in_use for each in live),
        "redis_away_processes": sum(each.gauges.redis_away for each in live),
        "listeners": sum(each.gauges.listeners for each in live),
    }
    return found | {name: {(): max(float(value), 0.0)} for name, value in sums.items()}


def _histogram(
    named: Named, bounds: tuple[float, ...], tallies: Mapping[str, Histogram]
) -> HistogramMetricFamily:
    family = HistogramMetricFamily(PREFIX + named.name, named.help, labels=named.labels)
    for label, tally in tallies.items():
        buckets, below = [], 0
        for bound, count in zip((*map(str, bounds), "+Inf"), tally.buckets, strict=True):
            below += count
            buckets.append((bound, below))
        family.add_metric([label], buckets, sum_value=tally.sum)
    return family
