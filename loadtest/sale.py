"""The drop that a load test is about: opened, waited for, and judged when everybody has left."""

from __future__ import annotations

import itertools
import time
import uuid
from collections.abc import Callable
from datetime import datetime, timedelta
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

import msgspec

from loadtest import verdict
from loadtest.fleet import Untrustworthy, ask
from loadtest.promises import Promises
from loadtest.till import USUAL, Till
from loadtest.verdict import Evidence

PREFIX = "/api/v1"
KEY_WANTED = "set API_KEY=vr_… with the scopes sale:read, sale:write and admin"
REST_SECONDS = 20.0  # for everything under way to end, beyond the life of the last hold
PAGES_MAX = 1_000
HOLD_SECONDS_MAX = 60  # longer holds are not waited for


class Terms(msgspec.Struct, frozen=True, kw_only=True):
    """What drop to open; or, with an id, whose drop to use as it is."""

    drop_id: int = 0
    units: int = 3_000
    per_buyer: int = 1
    hold_seconds: int = 10
    pay_seconds: int = 5
    payments: str = USUAL
    provider: str = ""
    starts_in_seconds: float = 3.0


def is_loopback(address: str) -> bool:
    """Whether an address is this machine's own."""
    host = urlsplit(address).hostname or ""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def check_allowed(target: str, *, anywhere: bool) -> None:
    """Raise unless this machine is the target, or somebody has taken the responsibility."""
    if not (anywhere or is_loopback(target)):
        raise Untrustworthy(
            f"{target} is not this machine: a load test there needs its owner's consent. "
            "If you have it: make loadtest ANYWHERE=1, or --anywhere"
        )


class Sale:
    """One drop under load, and what its buyers were promised."""

    def __init__(self, target: str, headers: dict[str, str], terms: Terms) -> None:
        self.buyers = itertools.count(1)
        self.run = uuid.uuid4().hex[:8]  # begins the buyers' names: no two tests share a buyer
        self.till = Till(self.run, terms.payments, terms.provider)
        self._target, self._headers = target.rstrip("/"), headers
        self._is_ours = not terms.drop_id
        self.drop_id = terms.drop_id or self._open(terms)
        drop = self.ask(f"/drops/{self.drop_id}")
        starts_in = _moment(drop["startsAt"]) - _moment(drop["serverTime"])
        self.starts_at = time.monotonic() + starts_in.total_seconds()
        self.per_buyer: int | None = drop["maxPerBuyer"]
        self.hold_seconds: int = drop["holdSeconds"]
        self.life_seconds: int = drop["maxHoldSeconds"] + drop["paySeconds"]
        self.promises = Promises(self.per_buyer)
        self._sold_before: int = drop["soldStock"]

    def _open(self, terms: Terms) -> int:
        health = self.ask("/health")
        starts_at = _moment(health["timestamp"]) + timedelta(seconds=terms.starts_in_seconds)
        wanted = {
            "name": f"Load test {self.run}",
            "price": "10.00",
            "totalStock": terms.units,
            "maxPerBuyer": terms.per_buyer,
            "holdSeconds": terms.hold_seconds,
            "paySeconds": terms.pay_seconds,
            "startsAt": starts_at.isoformat(),
        }
        return int(self.ask("/drops", wanted)["id"])

    def ask(self, path: str, body: object = None) -> dict[str, Any]:
        """The JSON of an operator's request. Raises `Untrustworthy` unless it is answered well."""
        try:
            status, told = ask(self._target, PREFIX + path, body, self._headers)
        except (OSError, msgspec.DecodeError) as wrong:
            raise Untrustworthy(f"{self._target}{PREFIX}{path}: {wrong}") from None
        if status >= 400:
            hint = f": {KEY_WANTED}" if status in (401, 403) else ""
            raise Untrustworthy(f"{path} was answered {status} {told.get('error')}{hint}")
        return dict(told)

    def stock(self) -> dict[str, int]:
        """The five figures."""
        return self.ask(f"/drops/{self.drop_id}/stock")

    def rows(self, path: str) -> list[dict[str, Any]]:
        """All of an operator's list."""
        found: list[dict[str, Any]] = []
        cursor = ""
        for _ in range(PAGES_MAX):
            page = self.ask(f"{path}?limit=100{cursor}")
            found += page["data"]
            if page["nextCursor"] is None:
                return found
            cursor = f"&cursor={page['nextCursor']}"
        raise Untrustworthy(f"{path} has more than {PAGES_MAX} pages")

    def judge(self, failures: list[str], pause: Callable[[float], None]) -> tuple[Evidence, bool]:
        """After the last buyer has left: wait for everything to end. Whether all adds up."""
        self.till.await_told(pause)  # a payment may come, and buy, when its buyer has left
        evidence = self._rest(failures, pause)
        if self._is_ours:
            self.ask(f"/drops/{self.drop_id}/close", {})
        return evidence, not verdict.judge(evidence)

    def _rest(self, failures: list[str], pause: Callable[[float], None]) -> Evidence:
        left = self.ask(f"/drops/{self.drop_id}")["serverTime"]
        await_holds = self._is_ours and self.hold_seconds <= HOLD_SECONDS_MAX
        patience = REST_SECONDS + (self.life_seconds if await_holds else 0)
        until = time.monotonic() + patience
        while True:
            audit = self.ask(f"/drops/{self.drop_id}/audit")
            remains = verdict.unsettled(audit, left, await_holds=await_holds)
            if not remains or time.monotonic() > until:
                break
            pause(0.5)
        stock, purchases = self.stock(), self.rows(f"/drops/{self.drop_id}/purchases")
        return Evidence(
            stock=stock,
            purchased=sum(row["quantity"] for row in purchases if row["status"] != "refunded"),
            reckoning=self.till.reckon(purchases, lambda: self.rows("/refunds"), pause),
            audit=audit,
            sold_before=self._sold_before,
            promises=self.promises,
            failures=failures,
            unsettled=remains,
        )


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text)
