"""A sale under load: buyers who wait, rush, think, and then buy, give back, or just leave.

    make loadtest                               headless, with a verdict
    make loadtest-ui                            the same with Locust's own page
    locust -f loadtest/locustfile.py --help     its own options are at the end of the list

Statistics are named by what the answer was: `reserve: accepted`, `reserve: refused SOLD_OUT`,
`flow: purchased`. A refusal is an answer, not a failure; failures are what nobody expects.
"""

from __future__ import annotations

import random
import time
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any

import gevent
from locust import FastHttpUser, LoadTestShape, between, events, task
from locust.argument_parser import LocustArgumentParser
from locust.env import Environment
from locust.exception import StopTest
from locust.runners import STATE_STOPPED, LocalRunner

from loadtest import answers, board, verdict
from loadtest.answers import Answer
from loadtest.fleet import Untrustworthy
from loadtest.promises import Claim
from loadtest.sale import PREFIX, Sale, Terms, check_allowed
from loadtest.shapes import SHAPES, START_RATE_MAX, choose, lead_seconds
from loadtest.till import USUAL

LAST_STEPS = ("pay", "purchase", "release")  # whose answers end a visit, as `flow:` counts it
LOOK_SECONDS = 0.5  # between two looks at a payment that is under way
FINISH_SECONDS = 20  # for buyers to end their visit when the test is over


@events.init_command_line_parser.add_listener
def add_options(parser: LocustArgumentParser) -> None:
    """Every knob of this test; the defaults are the rush of an ordinary drop."""
    add = parser.add_argument
    add("--shape", choices=["none", *SHAPES], default="none", help="none: as many as -u says")
    add("--units", type=int, default=3_000, help="how many the drop has")
    add("--per-buyer", type=int, default=1, help="how many one buyer may have")
    add("--hold-seconds", type=int, default=10, help="how long an abandoned hold lives")
    add("--drop", type=int, default=0, help="a drop that exists, instead of one of our own")
    add("--purchase", type=float, default=70, help="parts of the holders who buy")
    add("--abandon", type=float, default=20, help="parts who leave, so that the hold runs out")
    add("--release", type=float, default=10, help="parts who give the hold back")
    add("--think-min", type=float, default=0.5, help="seconds a holder thinks at least")
    add("--think-max", type=float, default=2.0, help="and at most")
    add("--patience", type=float, default=15, help="seconds a buyer waits for a unit to return")
    add("--insistent", type=float, default=5, help="percent who click twice and ask for more")
    add("--payments", default=USUAL, help="weights of a mock provider's behaviours, or none")
    add(
        "--provider",
        default="",
        include_in_web_ui=False,
        help="where it is; a hold's payUrl says it unless told",
    )
    add("--pay-seconds", type=int, default=5, help="how long a begun payment keeps a hold")
    add("--extend", type=float, default=5, help="percent of holders who ask for more time")
    add("--refund", type=float, default=3, help="percent of purchases that are sent back")
    add("--api-key", default="", env_var="API_KEY", include_in_web_ui=False, help="scope admin")
    add(
        "--anywhere",
        action="store_true",
        include_in_web_ui=False,
        help="allow targets other than this machine: only with their owner's consent",
    )


class Buyer(FastHttpUser):
    """Each visit is another buyer, so one user plays many of them."""

    connection_timeout = 5.0
    network_timeout = 10.0  # the service answers within 5 s, whatever happens
    wait_time = between(0.1, 0.5)
    sale: Sale

    waited = 0.0  # for the service, in this visit
    leaving = False  # asked to go: end this visit soon

    def stop(self, force: bool = False) -> Any:
        """Locust's way of saying that it is time to go."""
        self.leaving = True
        return super().stop(force)

    @task
    def visit(self) -> None:
        """One buyer, from the closed door to whatever becomes of the hold."""
        options = self.environment.parsed_options
        self.wait_for_start()
        buyer = f"{self.sale.run}-{next(self.sale.buyers)}"
        claim, began = self.reserve(buyer)
        if claim is None:
            return
        self.waited = time.monotonic() - began
        if random.random() * 100 < options.insistent:
            self.ask_for_more(buyer)
        if random.random() * 100 < options.extend:
            self.extend(claim)
        gevent.sleep(random.uniform(options.think_min, options.think_max))
        match choose(
            random.random(),
            (
                ("purchased", options.purchase),
                ("abandoned", options.abandon),
                ("released", options.release),
            ),
        ):
            case "purchased":
                done = self.buy(claim)
            case "released":
                done = "released" if self.release(claim) else ""
            case _:
                done = "abandoned"
        if done:
            self.environment.events.request.fire(
                request_type="FLOW",
                name=f"flow: {done}",
                response_time=self.waited * 1_000,
                response_length=0,
                exception=None,
                context={},
            )

    def wait_for_start(self) -> None:
        """Poll the stock, as a shop's page does, until the drop starts."""
        while (left := self.sale.starts_at - time.monotonic()) > 0 and not self.leaving:
            if left > 1:
                self.send("poll", "GET", f"/drops/{self.sale.drop_id}/stock")
            left = self.sale.starts_at - time.monotonic()
            gevent.sleep(min(max(left, 0), random.uniform(0.5, 1.5)))

    def reserve(self, buyer: str) -> tuple[Claim | None, float]:
        """Rush: ask until there is a hold or no hope. Also, when the last attempt began."""
        give_up_at = time.monotonic() + self.environment.parsed_options.patience
        wish = {"dropId": self.sale.drop_id, "userId": buyer}
        while True:
            key, began = str(uuid.uuid4()), time.monotonic()
            answer = self.ask("reserve", "POST", "/reservations", wish, key)
            if answer.fate == "accepted":
                claim = self.sale.promises.held(answer.body, began)
                if random.random() * 100 < self.environment.parsed_options.insistent:
                    self.click_again(wish, key, answer)
                return claim, began
            hopeful = answer.code == "SOLD_OUT" and answer.retryable
            may_wait = answer.fate == "later" or (hopeful and time.monotonic() < give_up_at)
            if self.leaving or not may_wait:
                return None, began
            gevent.sleep(answer.wait_seconds * random.uniform(1.0, 1.5))

    def click_again(self, wish: dict[str, Any], key: str, first: Answer) -> None:
        """Repeat an answered request: the same hold must come back."""
        again = self.ask("reserve", "POST", "/reservations", wish, key)
        if again.status:
            self.sale.promises.replayed(first.body, again.body)

    def ask_for_more(self, buyer: str) -> None:
        """Ask for one more than is allowed, with a key of its own."""
        wish = {"dropId": self.sale.drop_id, "userId": buyer}
        key, began = str(uuid.uuid4()), time.monotonic()
        answer = self.ask("reserve", "POST", "/reservations", wish, key)
        if answer.fate == "accepted":
            self.sale.promises.held(answer.body, began)

    def extend(self, claim: Claim) -> None:
        """Ask for more time, and once more, which must be refused."""
        began, body = time.monotonic(), {"userId": claim.buyer}
        path = f"/reservations/{claim.id}/extend"
        answer = self.ask("extend", "POST", path, body, str(uuid.uuid4()))
        if answer.fate == "accepted":
            self.sale.promises.prolonged(claim, answer.body, began)
            again = self.ask("extend", "POST", path, body, str(uuid.uuid4()))
            if again.fate == "accepted":
                self.sale.promises.extended_again(claim)

    def buy(self, claim: Claim) -> str:
        """Pay at the provider, or confirm where there is none; what it came to, "" for nothing."""
        if not self.sale.till.is_open:
            return "purchased" if self.confirm(claim) else ""
        began, path = time.monotonic(), f"/reservations/{claim.id}/pay"
        begun = self.ask("pay", "POST", path, {"userId": claim.buyer}, str(uuid.uuid4()))
        if begun.fate != "accepted":
            if begun.fate == "refused":
                self.sale.promises.lost(claim, begun.code)
            return ""
        life = self.sale.promises.prolonged(claim, begun.body, began)
        if not self.sale.till.takes(begun.body):
            return "purchased" if self.confirm(claim) else ""
        names = self.sale.till.pay(begun.body, life)
        if names == "lost":
            return "abandoned"
        self.sale.promises.asked("purchase", claim.id, len(claim.units))
        return self.await_payment(claim, began + life)

    def await_payment(self, claim: Claim, deadline: float) -> str:
        """Look at the hold until it is known what became of the payment."""
        path, hopeless = f"/reservations/{claim.id}?userId={claim.buyer}", 0
        pause = LOOK_SECONDS / 4
        while time.monotonic() < deadline + FINISH_SECONDS:
            gevent.sleep(pause)
            pause = min(pause * 1.5, LOOK_SECONDS)
            shown = self.send("look", "GET", path)
            if shown.fate != "accepted":
                continue
            status, payments = shown.body["status"], shown.body.get("payments", [])
            owed = any(each["outcome"] == "refund_due" for each in payments)
            if status == "purchased":
                bought = self.sale.promises.paid(claim, shown.body)
                self.sale.promises.answered(claim.id)
                ids = [each["purchaseId"] for each in payments if each["outcome"] == "purchased"]
                self.maybe_refund(bought, ids[0])
                return "purchased"
            if status == "expired":
                self.sale.promises.lost(claim, "expired")
                if owed:
                    self.sale.promises.answered(claim.id)
                    return "paid too late"
            elif owed or {each["status"] for each in payments} == {"failed"}:
                hopeless += 1
                if hopeless > 3:  # or else another card is being tried
                    self.sale.promises.answered(claim.id)
                    return "declined" if self.release(claim) else ""
        return ""

    def maybe_refund(self, claim: Claim, purchase: str) -> None:
        """Some pairs come back."""
        if random.random() * 100 >= self.environment.parsed_options.refund:
            return
        self.sale.promises.refunding(claim)
        path, body = f"/purchases/{purchase}/refund", {"restock": True, "reason": "wrong size"}
        key = str(uuid.uuid4())
        if self.ask("refund", "POST", path, body, key, len(claim.units)).fate == "accepted":
            self.sale.promises.refunded(claim)

    def confirm(self, claim: Claim) -> bool:
        """Buy it, if it still lives."""
        wish = {"reservationId": claim.id, "userId": claim.buyer}
        key = str(uuid.uuid4())
        answer = self.ask("purchase", "POST", "/purchases", wish, key, len(claim.units))
        if answer.fate == "accepted":
            self.sale.promises.bought(claim, answer.body)
        elif answer.fate == "refused":
            self.sale.promises.lost(claim, answer.code)
        return answer.fate == "accepted"

    def release(self, claim: Claim) -> bool:
        """Give it back."""
        self.sale.promises.giving_back(claim)
        path = f"/reservations/{claim.id}?userId={claim.buyer}"
        return self.ask("release", "DELETE", path, None, str(uuid.uuid4())).fate == "accepted"

    def ask(
        self, verb: str, method: str, path: str, body: object, key: str, units: int = 1
    ) -> Answer:
        """Ask until the answer is definite, always with the same key, so that it counts once."""
        self.sale.promises.asked(verb, key, units)
        began = time.monotonic()
        while True:
            answer = self.send(verb, method, path, body, {"Idempotency-Key": key})
            waited = time.monotonic() - began
            if answer.fate != "again":
                self.sale.promises.answered(key)
            if answer.fate != "again" or waited > FINISH_SECONDS:
                self.waited += waited if verb in LAST_STEPS else 0
                return answer
            gevent.sleep(answer.wait_seconds * random.uniform(1.0, 1.5))

    def send(
        self,
        verb: str,
        method: str,
        path: str,
        body: object = None,
        headers: dict[str, str] | None = None,
    ) -> Answer:
        """One request, which statistics know by its answer."""
        api_key = self.environment.parsed_options.api_key
        sent = (headers or {}) | ({"X-API-Key": api_key} if api_key else {})
        with self.client.request(
            method, PREFIX + path, json=body, headers=sent, catch_response=True
        ) as response:
            content = response.content or b""
            answer = answers.read(response.status_code, response.headers or {}, content)
            response.request_meta["name"] = f"{verb}: {answer.name}"
            if answer.fate == "failed":
                response.failure(f"{answer.name}: {content[:200].decode(errors='replace')}")
            else:
                response.success()
        return answer


class Shape(LoadTestShape):
    """The chosen shape; `none` is what -u and -r say, also while they are changed on the page."""

    abstract = True  # ours to set: Locust would apply the first shape it finds, always
    use_common_options = True

    def tick(self) -> tuple[int, float] | None:
        """How many users now; None ends the test."""
        options: Any = self.runner and self.runner.environment.parsed_options
        users, seconds = options.num_users or 1, options.run_time
        if options.shape == "none":
            over = seconds and self.get_run_time() > seconds
            return None if over else (users, options.spawn_rate or START_RATE_MAX)
        return SHAPES[options.shape](self.get_run_time(), float(seconds or 120), users)


class Course:
    """One test from start to verdict."""

    def __init__(self, environment: Environment) -> None:
        self._stats = environment.stats
        self._runner: Any = environment.runner
        options: Any = environment.parsed_options
        target = environment.host or ""
        check_allowed(target, anywhere=options.anywhere)
        headers = {"X-API-Key": options.api_key} if options.api_key else {}
        terms = Terms(
            drop_id=options.drop,
            units=options.units,
            per_buyer=options.per_buyer,
            hold_seconds=options.hold_seconds,
            pay_seconds=options.pay_seconds,
            payments=options.payments,
            provider=options.provider,
            starts_in_seconds=lead_seconds(options.num_users or 1),
        )
        self.sale = Buyer.sale = Sale(target, headers, terms)
        self._html: str | None = options.html_file
        self._began = time.monotonic()
        self._line = board.Line(options.run_time) if options.headless else None
        self._watching = gevent.spawn(self._watch)

    def _watch(self) -> None:
        while self._line:
            second = int(time.monotonic() - self._began)
            with suppress(Untrustworthy):  # an absent service is for the buyers to find out
                self._line.show(second, self._runner.user_count, self._stats, self.sale.stock())
            gevent.sleep(1)

    def end(self) -> bool:
        """The verdict, told; whether everything adds up."""
        self._watching.kill()
        if self._line:
            self._line.close()
        seconds = max(time.monotonic() - max(self.sale.starts_at, self._began), 1.0)
        failures = [
            f"{error.occurrences} × {error.name}: {error.error}"
            for error in self._stats.errors.values()
        ]
        failures += [each["msg"] for each in self._runner.exceptions.values()]
        evidence, is_clean = self.sale.judge(failures, gevent.sleep)
        print(board.table(self._stats, seconds))
        said = verdict.told(evidence, verdict.judge(evidence))
        print(said, flush=True)
        if self._html:
            Path(self._html).with_suffix(".verdict").write_text(said)
        return is_clean


_course: Course | None = None


@events.init.add_listener
def prepare(environment: Environment, **_: Any) -> None:
    """Once, before anything runs."""
    if not isinstance(environment.runner, LocalRunner):
        raise SystemExit("loadtest: promises are kept in one process: leave --master, --processes")
    environment.shape_class = Shape()
    environment.shape_class.runner = environment.runner
    environment.stop_timeout = environment.stop_timeout or FINISH_SECONDS


@events.test_start.add_listener
def begin(environment: Environment, **_: Any) -> None:
    """Open the drop; the buyers are started next."""
    global _course
    try:
        _course = Course(environment)
    except Untrustworthy as wrong:
        environment.process_exit_code = 2
        raise StopTest(f"loadtest: {wrong}") from None


@events.test_stop.add_listener
def judge(environment: Environment, **_: Any) -> None:
    """Every buyer has left: does it add up?"""
    global _course
    ended, _course = _course, None
    if ended is None:
        return
    try:
        environment.process_exit_code = 0 if ended.end() else 1
    except Untrustworthy as wrong:
        environment.process_exit_code = 1
        print(f"verdict: BROKEN\n  - {wrong}", flush=True)


@events.quitting.add_listener
def leave(environment: Environment, **_: Any) -> None:
    """Ctrl-C: Locust would choose its exit code before it stops the buyers."""
    if environment.runner and environment.runner.state != STATE_STOPPED:
        environment.runner.stop()
