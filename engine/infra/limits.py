"""Limits: who asks too much hears 429, and everybody else pays a microsecond.

Each worker decides by itself: one look-up and a little arithmetic (rates.py), nothing is awaited.
What it let through it tells Redis afterwards, for all subjects together, and only of those whose
untold use has reached an eighth of their burst: an ordinary buyer never costs a round trip. What
comes back is how far the subject's bucket is used by all workers together.

    address   before any credential is looked at; loopback is not counted
    failures  credentials that are none, by address
    buyer     a token's, or with AUTH=open the one who is named     after the credential, see
    key       an API key's                                          `Budgets.charge`

So N workers together let through at most burst · (1 + N/8) and what arrives while a report is on
its way, never more than N · burst, and in the long run exactly the rate. While Redis is away each
goes on with its share, rate / WORKERS and burst / WORKERS.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Callable, Coroutine
from typing import Any

import msgspec
import structlog

from engine.infra import lua
from engine.infra.addresses import Addresses
from engine.infra.combiner import Crew
from engine.infra.errors import RateLimited
from engine.infra.http import Answer, Call, Handler
from engine.infra.log import Seldom
from engine.infra.meter import meter
from engine.infra.postgres import Postgres
from engine.infra.rates import SECOND, Rate, rate_of
from engine.infra.redis import ABI, Away, Redis
from engine.infra.routing import Route
from engine.infra.settings import Settings

log = structlog.get_logger()

TOLD_AT = 8  # a subject is told of when so much of its burst is untold: one part in eight
GAP_SECONDS = 0.002  # between two reports; what is due meanwhile goes along
BACK_SECONDS = 0.02  # between two looks whether Redis is back
REPORT_MAX = 500  # subjects in one report
SUBJECTS_MAX = 100_000  # a policy and worker, twice; then those not seen longest are forgotten
FORGET_SECONDS = 10
IDEMPOTENCY_KEY, REPLAYED = b"idempotency-key", b"idempotent-replayed"

_limit = lua.load("limit")
_now = time.monotonic_ns


class Policy:
    """One limit: its name, its rate, and the buckets of its subjects in this worker."""

    def __init__(
        self, name: str, rate: Rate, workers: int, due: Callable[[Policy, str], None]
    ) -> None:
        self.name, self.rate = name, rate
        self.step, self.span = rate.step, rate.span
        self.half = rate.span // 2  # from here on the caller is told what is left
        self._share = min(rate.step * workers, rate.span)
        self._told_at = max(rate.burst // TOLD_AT, 1)
        self._due = due
        # The arrival time of each subject, and how many of its requests were not told, 1 where
        # nothing stands: most people ask once. Two generations: who is not seen through one is
        # forgotten with the next, when its bucket is full and what was never told of it is less
        # than an eighth of the rate.
        self._tats: dict[str, int] = {}
        self._untold: dict[str, int] = {}
        self._old: tuple[dict[str, int], dict[str, int]] = {}, {}
        self._age = max(rate.span * workers, FORGET_SECONDS * SECOND)
        self._turn_at = 0

    def take(self, subject: str, now: int) -> int:
        """Take one if there is one; how far the arrival time is, or would be, ahead of now. More
        than `span`: there was none, nothing was taken, and there will be one after the
        nanoseconds it is more."""
        first = now + self.step
        tat = self._tats.setdefault(subject, first)  # one look-up, for most ask once
        if tat is first:
            return self._meet(subject, now)
        ahead = (tat - now if tat > now else 0) + self.step
        if ahead <= self.span:
            self._tats[subject] = now + ahead
            untold = self._untold[subject] = self._untold.get(subject, 1) + 1
            if untold >= self._told_at:
                self._due(self, subject)
        return ahead

    def _meet(self, subject: str, now: int) -> int:
        """One that is new to this generation, and stands in it now."""
        tats, untold = self._old
        if subject in tats:
            self._tats[subject] = tats[subject]
            self._untold[subject] = untold.get(subject, 1)
            return self.take(subject, now)
        if now > self._turn_at or len(self._tats) > SUBJECTS_MAX:
            self._old, self._turn_at = (self._tats, self._untold), now + self._age
            self._tats, self._untold = {subject: now + self.step}, {}
        if self._told_at == 1:
            self._due(self, subject)
        return self.step

    def give_back(self, subject: str) -> None:
        """One was taken that should not have been."""
        if subject in self._tats:
            self._tats[subject] -= self.step
            self._untold[subject] = self._untold.get(subject, 1) - 1

    def wait(self, subject: str, now: int) -> int:
        """Nanoseconds until there is one for the subject; 0: there is. Takes nothing."""
        tat = self._tats.get(subject) or self._old[0].get(subject, 0)
        return max(tat - now + self.step - self.span, 0)

    def left(self, subject: str, now: int) -> int:
        """How many there are for the subject now. Takes nothing."""
        tat = self._tats.get(subject) or self._old[0].get(subject, 0)
        return max(self.span - max(tat - now, 0), 0) // self.step

    def untold(self, subject: str) -> int:
        """How many were let through that nobody was told of; from now on they are told."""
        count = self._untold.get(subject, 1) if subject in self._tats else 0
        self._untold[subject] = 0
        return count

    def hear(self, subject: str, tat: int) -> None:
        """What all workers together let through, but for what was since."""
        if subject in self._tats:
            since = self._untold.get(subject, 0) * self.step
            self._tats[subject] = max(self._tats[subject], tat + since)

    def alone(self, alone: bool) -> None:
        """Whether this worker must do with its share, for nobody tells it of the others."""
        self.step = self._share if alone else self.rate.step

    def headers(self, ahead: int, seconds: int | None = None) -> tuple[tuple[bytes, bytes], ...]:
        """RateLimit-Policy and RateLimit of draft-ietf-httpapi-ratelimit-headers-11: what is left,
        and in how many seconds all of it is back (or, of a refusal, when to come again)."""
        left = max(self.span - ahead, 0) // self.step if seconds is None else 0
        back = seconds if seconds is not None else math.ceil(ahead / SECOND)
        window = math.ceil(self.rate.span / SECOND)
        quota = f'"{self.name}";q={self.rate.burst};w={window}'
        return (
            (b"ratelimit-policy", quota.encode()),
            (b"ratelimit", f'"{self.name}";r={left};t={back}'.encode()),
        )

    def refusal(self, wait: int) -> RateLimited:
        """No, and when to come again: not all at the same moment."""
        meter.count("limited", self.name)
        seconds = wait / SECOND
        retry = math.ceil(seconds + random.uniform(0, max(seconds / 4, 1)))
        ahead = wait + self.span
        return RateLimited(
            seconds=retry,
            headers=self.headers(ahead, retry),
            policy=self.name,
            retrySeconds=retry,
        )


class Budgets(msgspec.Struct, frozen=True):
    """The limits of one operation."""

    addresses: Addresses
    address: Policy | None
    buyer: Policy | None
    key: Policy | None
    failures: Policy | None
    warn: Callable[[Call], None]

    def arrive(self, call: Call) -> None:
        """Charge the address, before anything is known. Raises `RateLimited`: it says nothing of
        what became of an earlier copy of the request."""
        call.budgets = self
        if self.address is None:
            return
        subject = self.addresses.subject(call.scope, call.headers)
        if subject is None:
            return
        ahead = self.address.take(subject, _now())
        if ahead > self.address.half:
            if ahead > self.address.span:
                self.warn(call)
                raise self.address.refusal(ahead - self.address.span)
            call.notes = [*(call.notes or ()), *self.address.headers(ahead)]

    def charge(self, call: Call, kind: str, subject: str) -> None:
        """Charge a buyer or a shop's key, once a request. Raises `RateLimited`, unless the request
        carries a key: then it may be a repetition, and `call.over` waits for the look-up."""
        policy = self.key if kind == "shop" else self.buyer
        if policy is None or call.spent is not None or call.over is not None:
            return
        ahead = policy.take(subject, _now())
        if ahead <= policy.half:
            call.spent = policy, subject
        elif ahead <= policy.span:
            call.spent = policy, subject
            call.notes = [*(call.notes or ()), *policy.headers(ahead)]
        else:
            refusal = policy.refusal(ahead - policy.span)
            if call.scope["method"] in ("GET", "HEAD") or IDEMPOTENCY_KEY not in call.headers:
                raise refusal
            call.over = refusal

    def check_guesser(self, call: Call) -> None:
        """Before a credential is looked up that nobody here remembers: not for an address of which
        too many were none. Raises `RateLimited`."""
        if self.failures is not None:
            subject = self.addresses.subject(call.scope, call.headers)
            if subject is not None and (wait := self.failures.wait(subject, _now())):
                raise self.failures.refusal(wait)

    def failed(self, call: Call) -> None:
        """The credential was none."""
        if self.failures is not None:
            subject = self.addresses.subject(call.scope, call.headers)
            if subject is not None:
                self.failures.take(subject, _now())


class Limits:
    """All limits of one worker."""

    def __init__(self, settings: Settings, postgres: Postgres, redis: Redis, crew: Crew) -> None:
        self._postgres, self._redis, self._crew = postgres, redis, crew
        self._workers = settings.workers
        self._due = set[tuple[Policy, str]]()
        self._telling = False
        self._alone = False
        self._complaints = Seldom()
        self._addresses = Addresses(settings.trusted_proxies)
        self.policies: list[Policy] = []
        failures = self.policy("failed-auth-per-address", settings.rate_failed_auth_per_address)
        self.failures = failures
        reads = self.policy("reads-per-address", settings.rate_reads_per_address)
        writes = self.policy("writes-per-address", settings.rate_writes_per_address)
        admin = self.policy("admin-per-address", settings.rate_admin_per_address)
        callbacks = self.policy("callbacks-per-address", settings.rate_callbacks_per_address)
        operators = self.policy("admin-per-caller", settings.rate_admin_per_caller)
        reads_of_buyer = self.policy("reads-per-buyer", settings.rate_reads_per_buyer)
        writes_of_buyer = self.policy("writes-per-buyer", settings.rate_writes_per_buyer)
        confirms_of_buyer = self.policy("confirms-per-buyer", settings.rate_writes_per_buyer)
        reads_of_key = self.policy("reads-per-key", settings.rate_reads_per_key)
        writes_of_key = self.policy("writes-per-key", settings.rate_writes_per_key)
        self._budgets = {
            "read": self._of(reads, reads_of_buyer, reads_of_key, failures),
            "write": self._of(writes, writes_of_buyer, writes_of_key, failures),
            "confirm": self._of(writes, confirms_of_buyer, writes_of_key, failures),
            "admin": self._of(admin, operators, operators, failures),
            "callback": self._of(callbacks, None, None, failures),
        }

    def policy(self, name: str, text: str) -> Policy | None:
        """One more limit, that somebody charges himself; None: there is none."""
        rate = rate_of(text)
        if rate is None:
            return None
        self.policies.append(Policy(name, rate, self._workers, self._put))
        return self.policies[-1]

    def _of(
        self,
        address: Policy | None,
        buyer: Policy | None,
        key: Policy | None,
        failures: Policy | None,
    ) -> Budgets:
        return Budgets(self._addresses, address, buyer, key, failures, self._warn)

    def guard(self, route: Route) -> Route:
        """The route, its requests counted."""
        if route.budget == "free" or not self.policies:
            return route
        budgets, handler = self._budgets[route.budget], route.handler

        def guarded(call: Call) -> Coroutine[Any, Any, Answer]:
            budgets.arrive(call)
            return _spared(call, handler) if IDEMPOTENCY_KEY in call.headers else handler(call)

        return msgspec.structs.replace(route, handler=guarded)

    def address_of(self, call: Call) -> str | None:
        """Under which name a call's address is counted; None: it is this machine's own."""
        return self._addresses.subject(call.scope, call.headers)

    def arrive(self, call: Call) -> None:
        """Charge the address of what is no request of a route. Raises `RateLimited`."""
        if self.policies:
            self._budgets["read"].arrive(call)

    def _warn(self, call: Call) -> None:
        """An address is refused that speaks for others: it may be a proxy we were not told of."""
        if (
            b"x-forwarded-for" in call.headers
            and not self._addresses.vouched(call.scope)
            and self._complaints.due()
        ):
            mend = "if it is your proxy, name it in TRUSTED_PROXIES: all behind it count as one"
            log.warning("limits.unknown_proxy", peer=call.scope["client"][0], mend=mend)

    # ── what the other workers let through ───────────────────────────────────────────────────

    def _put(self, policy: Policy, subject: str) -> None:
        if self._alone:
            policy.untold(subject)  # nobody asks for it afterwards
            return
        self._due.add((policy, subject))
        if not self._telling and not self._crew.closing:
            self._telling = True
            self._crew.start(self._tell(), "limits")

    async def _tell(self) -> None:
        """Report what is due until nothing is, then end: nobody pays for a quiet worker."""
        try:
            while self._due and not self._crew.closing:
                due = [self._due.pop() for _ in range(min(len(self._due), REPORT_MAX))]
                try:
                    await self._report(due)
                except Away:
                    await self._alone_until_redis_is_back()
                await asyncio.sleep(GAP_SECONDS)
        finally:
            self._telling = False

    async def _report(self, due: list[tuple[Policy, str]]) -> None:
        prefix = f"{ABI}:{{{self._postgres.identity}:limits}}"
        told, names, uses = [], [], list[float]()
        for policy, subject in due:
            if (count := policy.untold(subject)) > 0:
                told.append((policy, subject))
                names.append(f"{prefix}:{policy.name}:{subject}")
                uses += (policy.rate.step / 1_000, policy.rate.burst, count)
        if told:
            ahead = await self._redis.run(_limit, {"buckets": names}, uses=uses)
            now = _now()
            for (policy, subject), ahead_us in zip(told, ahead, strict=True):
                policy.hear(subject, now + ahead_us * 1_000)

    async def _alone_until_redis_is_back(self) -> None:
        self._set_alone(True)
        self._due.clear()
        while self._redis.away and not self._crew.closing:
            await asyncio.sleep(BACK_SECONDS)
        self._set_alone(False)

    def _set_alone(self, alone: bool) -> None:
        self._alone = alone
        for policy in self.policies:
            policy.alone(alone)


async def _spared(call: Call, handler: Handler) -> Answer:
    """A repetition that hears its first answer again costs its buyer nothing."""
    answer = await handler(call)
    if call.spent is not None and any(name == REPLAYED for name, _ in answer.headers):
        policy, subject = call.spent
        policy.give_back(subject)
    return answer
