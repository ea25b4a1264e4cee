"""One random schedule: buyers, a network that misbehaves, servers that forget.

Everything under way lies in one bag, requests and replies alike, and a step takes one out at
random: that is all the reordering, delay and concurrency there is. The same seed and variant
give the same schedule, so a violation is its seed; `trace` makes it readable.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from random import Random
from typing import Any

from .buyers import Buyers, Provider
from .flights import KEEPER, Flight, Task, brief
from .invariants import Checker
from .model import Bouncer, Worker
from .mutants import Variant
from .postgres import LIFE_MAX, PAY, TTLS, UNITS, Postgres
from .seating import OpenClaim
from .words import LOST, Answer, Course, Notice, Reply, Violation, Wish

STEPS, WORKERS = 240, 2
FAULTS = (
    "crashes",
    "requests lost",
    "replies lost",
    "zombies",
    "redis emptied",
    "redis went back",
    "failovers",
    "silent restores",
)
Copied = dict[str, Any]


class Weather:
    """Each schedule draws its own: a crowd on one key and a quiet shop break different things."""

    def __init__(self, random: Random) -> None:
        self.buyers, self.keys = random.randint(3, 9), random.randint(2, 7)
        self.network = random.uniform(0.68, 0.84)  # share of the steps that move a message
        self.keepers = random.uniform(0.03, 0.10)
        self.provider = random.uniform(0.02, 0.08)  # share of the steps that repeat its words
        self.ttl = random.choice(TTLS)
        self.gone = random.choice((0, 0, 3, 4))  # units sold before anybody here came
        self.faults = random.uniform(0.01, 0.05)
        self.trouble = random.choice((0.03, 0.10, 0.20, 0.30))  # share of the messages hit


class Schedule:
    """A world of its own; `run` plays it to the end and raises `Violation`.

    Every third seed is calm: messages get lost and workers die, but no server loses anything, so
    the bouncer may be held to INV-6. Every other seed sells units that have names.
    """

    def __init__(self, seed: int, variant: Variant = "", trace: bool = False) -> None:
        self.variant: Variant = variant
        self.random = Random(seed)
        self.weather = Weather(self.random)
        self.calm, self.is_named = seed % 3 == 0, seed % 2 == 1
        self.trace: list[str] | None = [] if trace else None
        self.counts: Counter[str] = Counter(schedules=1)
        self.pg = Postgres(variant, self.weather.ttl, self.is_named)
        self.bouncer = Bouncer(variant, self.is_named)
        self.sell_to_strangers()
        self.bouncer.publish(self.pg.read_stock())
        self.workers = [
            Worker(self.pg, self.bouncer, self.post, self.chance) for _ in range(WORKERS)
        ]
        for worker in self.workers:
            worker.may_pass = not self.calm  # INV-6 cannot count claims without an intent
        self.provider = Provider(self.random)
        weather = self.weather
        self.buyers = Buyers(
            self.random, weather.buyers, weather.keys, self.provider, self.is_named
        )
        self.checker = Checker(self.pg, self.bouncer, self.provider, self.counts)
        self.bag: list[Flight] = []
        self.spoken: set[Notice] = set()
        self.old_pg, self.old_redis = _copy(self.pg), _copy(self.bouncer)

    def sell_to_strangers(self) -> None:
        gone = range(self.weather.gone)
        units = self.random.sample(range(UNITS), len(gone)) if self.is_named else gone
        for stranger, unit in zip(gone, units, strict=True):
            wish = Wish(stranger - len(gone), stranger - len(gone), 1)
            picks = (unit,) if self.is_named else ()
            hold = self.pg.claim(wish._replace(picks=picks), (1, 1), 1, picks).reservation
            self.pg.confirm(hold)

    def run(self) -> Counter[str]:
        for _ in range(STEPS):
            self.step()
        self.heal()
        return self.counts

    def chance(self, probability: float) -> bool:
        return self.random.random() < probability

    def step(self) -> None:
        self.pg.now += 1
        self.counts["steps"] += 1
        dice = self.random.random()
        weather = self.weather
        if dice < weather.faults:
            self.inject_fault()
        elif dice < weather.faults + weather.keepers:
            self.run_keeper()
        elif dice > 1 - weather.network and self.bag:
            self.move(self.take_from_bag())
        elif dice < weather.faults + weather.keepers + weather.provider:
            self.repeat_word()
        else:
            self.buyers.act(self.any_worker(), self.start)

    # Keepers and callbacks.

    def any_worker(self) -> Worker:
        return self.workers[int(self.random.random() * WORKERS)]

    def run_keeper(self) -> None:
        worker = self.any_worker()
        keepers = (worker.sweep, worker.reap, worker.reconcile, worker.decide)
        keeper = keepers[int(self.random.random() * len(keepers))]
        self.start(keeper.__name__, keeper(), KEEPER)

    def repeat_word(self) -> None:
        notice = self.provider.pick()
        if notice:
            self.counts["words doubled"] += notice in self.spoken
            self.spoken.add(notice)
            self.start("settle", self.any_worker().settle(notice), notice)

    def start(self, title: str, course: Course, asked: Wish | Notice) -> None:
        task = Task(title, course, asked, self.pg.now)
        self.note("start", f"{title} {brief(asked)}")
        call, arguments = next(course)
        self.bag.append(Flight(call, arguments, task))

    # The network.

    def post(self, call: Callable[..., Reply], arguments: tuple[Any, ...]) -> None:
        """Sent without waiting for an answer."""
        self.bag.append(Flight(call, arguments, None))

    def take_from_bag(self) -> Flight:
        bag = self.bag
        index = int(self.random.random() * len(bag))
        bag[index], bag[-1] = bag[-1], bag[index]
        return bag.pop()

    def move(self, flight: Flight) -> None:
        if flight.reply is not None:
            self.resume(flight, flight.reply)
            return
        fate = self.random.random() / self.weather.trouble
        if fate > 1:
            self.arrive(flight)
        elif fate < 0.4:
            self.fault("replies lost")
            self.arrive(flight)
            flight.reply = LOST
        elif fate < 0.7:
            self.fault("requests lost", str(flight))
            self.answer(flight, LOST)
        elif flight.task:
            self.fault("zombies", str(flight))
            self.answer(Flight(flight.call, flight.arguments, flight.task), LOST)
            flight.task = None
            self.bag.append(flight)
        else:
            self.bag.append(flight)

    def arrive(self, flight: Flight) -> None:
        """The server runs the statement or script; whoever waits will hear of it later."""
        before = self.pg.version
        if flight.call.__name__ == "settle_payment":
            self.pg.in_hands = sum(wish.quantity for wish, *_ in self.claims_under_way())
        if self.is_named:
            self.pg.locked = self.locked() if self.chance(0.3) else frozenset()
        reply = flight.call(*flight.arguments)
        if self.trace is not None:
            self.note("arrive", f"{flight} -> {brief(reply)}")
        if reply.word == "admitted":
            self.counts["admissions"] += 1
        elif reply.word == "ok" and self.pg.version != before:
            self.counts["holds"] += 1
            wish, attempt, *_ = flight.arguments
            self.checker.count_overtaken(wish, attempt, flight.sent_at, flight.task is None)
        elif reply.word == "undecided":
            self.counts["undecided"] += 1
        self.audit()
        self.answer(flight, reply)

    def answer(self, flight: Flight, reply: Reply) -> None:
        if flight.task:
            flight.reply = reply
            self.bag.append(flight)

    def resume(self, flight: Flight, reply: Reply) -> None:
        task = flight.task
        assert task, "a reply without a task"
        try:
            call, arguments = task.course.send(reply)
        except StopIteration as stop:
            self.tell(task, stop.value)
        else:
            self.bag.append(Flight(call, arguments, task))

    def tell(self, task: Task, answer: Answer) -> None:
        asked = task.asked
        if asked is KEEPER:
            return
        self.note("tell", f"{task.title} {brief(asked)} sent at {task.sent_at}: {answer}")
        if isinstance(asked, Notice):
            self.checker.tell_provider(asked, task.sent_at, answer)
            self.buyers.hear_provider(asked, answer)
        else:
            self.checker.tell(asked, task.sent_at, answer)
            self.buyers.hear(asked, answer)

    def audit(self) -> None:
        self.checker.audit()
        self.checker.audit_bouncer()
        if self.calm:
            self.checker.audit_admission(self.claims_under_way())

    def claims_under_way(self) -> list[OpenClaim]:
        """Claims sent, and those that an admission on its way back will send."""
        claims = []
        for flight in self.bag:
            call = flight.call.__name__
            if call == "claim" and flight.reply is None:
                claims.append(
                    OpenClaim(flight.arguments[0], flight.arguments[1], flight.arguments[3])
                )
            elif call == "admit" and flight.reply and flight.reply.word == "admitted":
                claims.append(
                    OpenClaim(flight.arguments[0], flight.arguments[1], flight.reply.units)
                )
        return claims

    def locked(self) -> frozenset[int]:
        """Units in the hands of claims that Postgres is at."""
        return frozenset(unit for claim in self.claims_under_way() for unit in claim.picks)

    # Faults.

    def inject_fault(self) -> None:
        dice = self.random.random()
        if dice < 0.33 or self.calm:
            self.crash()
        elif dice < 0.50:
            self.old_pg = _copy(self.pg)
        elif dice < 0.60:
            self.old_redis = _copy(self.bouncer)
        elif dice < 0.76:
            self.lose_redis(empty=self.chance(0.5))
        elif dice < 0.92:
            self.lose_postgres_tail()
        else:
            self.restore_postgres_silently()

    def crash(self) -> None:
        """A worker dies waiting. What it sent still arrives, what was sent to it does not."""
        waiting = [flight for flight in self.bag if flight.task]
        if not waiting:
            return
        flight = waiting[int(self.random.random() * len(waiting))]
        self.fault("crashes", f"{flight.task and flight.task.title} while waiting for {flight}")
        if flight.reply is None:
            flight.task = None
        else:
            self.bag.remove(flight)
        # Its successor reads the epoch when it connects; the other worker still has the old one.
        self.any_worker().epoch = self.pg.epoch

    def lose_redis(self, empty: bool) -> None:
        self.fault("redis emptied" if empty else "redis went back", f"{self.old_redis}")
        _restore(
            self.bouncer, _copy(Bouncer(self.variant, self.is_named)) if empty else self.old_redis
        )
        self.checker.forget_consumer()

    def lose_postgres_tail(self) -> None:
        """Failover to a standby that lagged; the first connection begins a new epoch. The standby
        may lag behind the previous failover too."""
        before = self.pg.reservations
        self.fault("failovers", f"to epoch {self.old_pg['epoch']} version {self.old_pg['version']}")
        _restore(self.pg, self.old_pg)
        if self.variant != "no_epoch":
            self.pg.begin_epoch(self.pg.epoch)
        self.break_connections()
        self.checker.lose_history(before, fenced=True)

    def restore_postgres_silently(self) -> None:
        """A snapshot of the disk, put back without a new timeline: nobody is told."""
        before = self.pg.reservations
        self.fault("silent restores", f"{self.old_pg['epoch']}, {self.old_pg['version']}")
        _restore(self.pg, self.old_pg)
        self.break_connections()
        self.checker.lose_history(before, fenced=False)

    def break_connections(self) -> None:
        """Statements under way get no reply; a pooler in between may still deliver some."""
        for flight in self.bag[:]:
            if flight.reply is None and getattr(flight.call, "__self__", None) is self.pg:
                self.bag.remove(flight)
                if flight.task:
                    self.answer(Flight(flight.call, flight.arguments, flight.task), LOST)
                if self.chance(0.5):
                    flight.task = None
                    self.bag.append(flight)

    def fault(self, kind: str, what: str = "") -> None:
        self.counts[kind] += 1
        self.note("FAULT", f"{kind} {what}")

    # The end.

    def heal(self) -> None:
        """Everybody dies, late messages land or not, then the keepers get their turn."""
        self.note("heal", "")
        self.land_the_rest(probability=0.6)
        self.pg.now += LIFE_MAX + PAY
        self.pg.in_hands, self.pg.locked = 0, frozenset()
        worker = self.workers[0]
        for _ in range(2):
            self.drive(worker.sweep())
            while self.provider.unheard:
                self.insist(next(iter(self.provider.unheard)))
            for _ in self.provider.charges:
                self.drive(worker.decide())
            self.drive(worker.reconcile())
            while self.bouncer.intents and self.variant != "no_reaper":
                self.drive(worker.reap())
        if self.trace is not None:
            self.note("healed", f"{_copy(self.pg)} {_copy(self.bouncer)}")
        self.checker.audit_healed()

    def insist(self, notice: Notice) -> None:
        sent_at = self.pg.now
        answer = self.drive(self.workers[0].settle(notice))
        self.checker.tell_provider(notice, sent_at, answer)
        self.provider.hear(notice)

    def land_the_rest(self, probability: float) -> None:
        while self.bag:
            flight = self.take_from_bag()
            flight.task = None
            if flight.reply is None and self.chance(probability):
                self.arrive(flight)

    def drive(self, course: Course) -> Answer:
        """Run a keeper's round, or a callback, without any fault."""
        try:
            call, arguments = next(course)
            while True:
                call, arguments = course.send(call(*arguments))
                self.audit()
        except StopIteration as stop:
            self.land_the_rest(probability=1)
            answer: Answer = stop.value
            return answer

    def note(self, kind: str, what: str) -> None:
        if self.trace is not None:
            self.trace.append(f"{self.pg.now:4} {kind:7} {what}")


def explain(seed: int, variant: Variant = "") -> str:
    """The same schedule again, as a story: what happened, and which promise it broke."""
    schedule = Schedule(seed, variant, trace=True)
    try:
        schedule.run()
        verdict = "no violation"
    except Violation as violation:
        verdict = f"VIOLATION {violation}"
    return "\n".join([f"seed {seed} {variant}", *(schedule.trace or []), verdict])


def _copy(server: Postgres | Bouncer) -> Copied:
    """What a disk or a replica holds. Rows are immutable, so shallow copies are snapshots."""
    skipped = ("variant", "ttl", "now", "ids", "commits", "in_hands", "locked")
    state = {name: value for name, value in vars(server).items() if name not in skipped}
    return {n: v.copy() if isinstance(v, list | dict | set) else v for n, v in state.items()}


def _restore(server: Postgres | Bouncer, copied: Copied) -> None:
    for name, value in copied.items():
        setattr(server, name, value.copy() if isinstance(value, list | dict | set) else value)
