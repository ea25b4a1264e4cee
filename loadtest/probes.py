"""Beside the load of a drill: is a returned unit on sale at once, and what does health say?"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

import msgspec

from loadtest.fleet import Untrustworthy, ask

PATIENCE_SECONDS = 10.0
API = "/api/v1"


class Return(msgspec.Struct, frozen=True, rename="camel"):
    """A unit that was given back: how long it was refused, and until somebody had it."""

    at: float
    refused_seconds: float  # SOLD_OUT was still said to a request sent that long afterwards
    taken_seconds: float | None  # None: not within the patience


class Sight(msgspec.Struct, frozen=True):
    """What was seen of the service at one moment."""

    at: float
    health: str
    agrees: bool  # the bouncer knows the quiet drop, and has the same figures


class Beside:
    """A thread that looks again and again until the block ends."""

    def __init__(self, look: Callable[[], None], every_seconds: float) -> None:
        self._look, self._every_seconds = look, every_seconds
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        self._thread.join(PATIENCE_SECONDS * 3)

    def _run(self) -> None:
        while not self._over.wait(self._every_seconds):
            self._look()


class Returns:
    """A small drop, sold out by us; each look gives one hold back and wants it again."""

    def __init__(self, port: int, drop_id: int, units: int) -> None:
        self.seen: list[Return] = []
        self._port, self._drop_id = port, drop_id
        self._holds = [self._reserve(f"holder-{number}") for number in range(units)]
        self._count = 0
        if any(told is None for _, told in self._holds):
            raise Untrustworthy("a unit of a new, small drop was refused")

    def look(self) -> None:
        """Give the oldest hold back, then ask until somebody has the unit again."""
        buyer, hold = self._holds.pop(0)
        self._release(buyer, str(hold))
        began = time.monotonic()
        self._count += 1
        buyer, refused = f"next-{self._count}", 0.0
        while (since := time.monotonic() - began) < PATIENCE_SECONDS:
            taken, told = self._reserve(buyer)
            if told:
                self._holds.append((taken, told))
                self.seen.append(Return(began, refused, time.monotonic() - began))
                return
            refused = since if self._was_sold_out else refused
            time.sleep(0.05)
        self.seen.append(Return(began, refused, None))
        self._holds.append((buyer, hold))  # released before: releasing it again changes nothing

    def _reserve(self, buyer: str) -> tuple[str, str | None]:
        """The buyer, and the hold's id if there is one. The key is the buyer's name."""
        wish = {"dropId": self._drop_id, "userId": buyer}
        status, told = self._ask("/reservations", wish, buyer)
        self._was_sold_out = told.get("error") == "SOLD_OUT"
        return buyer, told["id"] if status in (200, 201) else None

    def _release(self, buyer: str, hold: str) -> None:
        key, until = str(uuid.uuid4()), time.monotonic() + PATIENCE_SECONDS
        path = f"/reservations/{hold}?userId={buyer}"
        while self._ask(path, None, key, "DELETE")[0] != 204 and time.monotonic() < until:
            time.sleep(0.1)

    def _ask(
        self, path: str, body: object, key: str, method: str | None = None
    ) -> tuple[int, dict[str, Any]]:
        try:
            status, told = ask(self._port, API + path, body, {"Idempotency-Key": key}, method)
        except (OSError, msgspec.DecodeError):
            return 0, {}
        return status, told or {}


class Sights:
    """What /health says, and whether the bouncer agrees about the quiet, small drop."""

    def __init__(self, port: int, drop_id: int) -> None:
        self.seen: list[Sight] = []
        self._port, self._drop_id = port, drop_id

    @property
    def health(self) -> str:
        """The newest word."""
        return self.seen[-1].health if self.seen else "?"

    def look(self) -> None:
        """Ask both."""
        at = time.monotonic()
        try:
            health = ask(self._port, f"{API}/health")[1]["status"]
            audit = ask(self._port, f"{API}/drops/{self._drop_id}/audit")[1]
            agrees = audit.get("bouncer") is not None and audit["drift"] == 0
        except (OSError, msgspec.DecodeError):
            health, agrees = "no answer", False
        self.seen.append(Sight(at, health, agrees))
