"""Sixteen log in all the time. What does that cost those who buy?

    the most a second ─▶ 30 % of it: alone ─ beside logins ─▶ the p99 of the one ÷ of the other

A password's hash takes tens of milliseconds of a core by design, and the machine has few. Both
loads of a round are paced, so a reservation's latency counts from when it was due; those who log in
are a closed loop in a process of their own.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import msgspec

from loadtest import client
from loadtest.bench import paced
from loadtest.bench.plan import Act, Plan, Sample
from loadtest.bench.stage import API, WARM_UP_SECONDS, Stage
from loadtest.client import Figures, Gun, Shot, Unwatched, Watch, closed_loop
from loadtest.fleet import Untrustworthy, ask

MOST, ALONE, BESIDE = "logins-most", "logins-alone", "logins-beside"
SHARE = 0.3  # of the most
CLIENTS = 16
CONNECTIONS = 256  # of buyers
KEPT_SHARE = 0.9  # of what was due must be answered in time, or there was no such rate
BUSY = 503  # who waited long for a hash is told to try again
AFTER_SECONDS = 3  # logins go on until the last reservation: two programs start meanwhile
LOGIN = f"{API}/users/login"
PASSWORD = "a bench has no secrets"


class Logins(Act):
    """Two workers; a load of reservations without logins, then one with them."""

    names = (MOST, ALONE, BESIDE)

    def __init__(self, plan: Plan, stage: Stage, names: tuple[str, ...]) -> None:
        super().__init__(plan, stage, names)
        stage.age_log()
        self._engine = stage.enter(stage.engine())
        for number in range(CLIENTS):
            body = {"username": f"bench_{number}", "email": email(number), "password": PASSWORD}
            status, told = ask(self._engine.port, f"{API}/users/register", body)
            if status != 201:
                raise Untrustworthy(f"an account was refused: {status} {told}")

    @classmethod
    def opening(cls, plan: Plan) -> float:
        """Servers, log files, workers, accounts."""
        return 9.0 if plan.quick else 14.0

    @classmethod
    def each(cls, plan: Plan, name: str) -> float:
        """Warm-up, load, and what a drop takes to be filled and to come to rest."""
        return plan.seconds + WARM_UP_SECONDS + 1.0 + (AFTER_SECONDS if name == BESIDE else 0)

    def take(self, name: str, so_far: Mapping[str, Sample]) -> Sample:
        """Measure once."""
        if name == MOST:
            return self.stage.holds(self._engine, connections=CONNECTIONS)
        if MOST not in so_far:
            raise Untrustworthy("there is no rate of holds to take a share of")
        rate = SHARE * so_far[MOST].value
        beside = Beside(self._engine.port, self.stage.name_run(), rate)
        fire = beside.fire if name == BESIDE else partial(paced.fire, rate=rate)
        sample = self.stage.holds(
            self._engine, connections=CONNECTIONS, fire=fire, score=lambda figures: figures.p99_ms
        )
        assert sample.figures is not None
        if sample.figures.requests_per_s < KEPT_SHARE * rate:
            raise Untrustworthy(
                f"{rate:,.0f}/s were due, {sample.figures.requests_per_s:,.0f}/s were answered"
            )
        facts = {"rate": rate, **beside.facts()}
        return msgspec.structs.replace(sample, unit="ms", facts=facts)


def email(number: int) -> str:
    """Of one of the accounts."""
    return f"bench-{number}@example.com"


class Beside:
    """A paced load of reservations while others log in."""

    def __init__(self, port: int, run: str, rate: float) -> None:
        self._shot = Shot(port=port, path=LOGIN, run=run)
        self._rate = rate
        self._logins: Figures | None = None

    def fire(
        self, shot: Shot, connections: int, seconds: float, watch: Watch | None = None
    ) -> Figures:
        """The load; beside its warm-up, which nobody watches, nobody logs in."""
        if watch is None:
            return paced.fire(shot, connections, seconds, rate=self._rate)
        started = _Started()
        load = partial(closed_loop, gun=LoginGun)
        with ThreadPoolExecutor(1, "logins") as pool:
            logging_in = pool.submit(
                client.fire,
                self._shot,
                CLIENTS,
                seconds + AFTER_SECONDS,
                started,
                processes=1,
                load=load,
            )
            if not started.event.wait(20):
                raise Untrustworthy("nobody began to log in")
            figures = paced.fire(shot, connections, seconds, watch, rate=self._rate)
            if logging_in.done():
                raise Untrustworthy("the logins were over before the reservations")
            self._logins = logging_in.result()
        return figures

    def facts(self) -> dict[str, float]:
        """What became of the logins. Raises `Untrustworthy` if few of them were let in."""
        if self._logins is None:
            return {}
        logins = self._logins
        if logins.ok < CLIENTS or logins.errors or logins.statuses.keys() - {200, BUSY}:
            raise Untrustworthy(f"logins: {logins.statuses}, {logins.errors} lost")
        facts = {"logins/s": logins.ok_per_s, "login p99 ms": logins.p99_ms}
        return facts | {"told to wait": logins.statuses.get(BUSY, 0)}


class _Started(Unwatched):
    """Tells when a load began."""

    def __init__(self) -> None:
        self.event = threading.Event()

    def begin(self) -> None:
        """It does."""
        self.event.set()


class LoginGun(Gun):
    """Logs in with one account after the other."""

    def load(self) -> bytes:
        """A login."""
        self._sent += 1
        number = self._sent % CLIENTS
        body = (
            f'{{"email":"{email(number)}","password":"{PASSWORD}",'
            f'"deviceId":"bench-{number}","platform":"web"}}'
        )
        return self._letter(self._head, "", body)
