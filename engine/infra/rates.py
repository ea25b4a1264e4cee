"""Rates: how much somebody may ask for, as one readable text.

    200/s burst 1000    a bucket of 1,000 that refills at 200 a second
    10/m                ten a minute, all of them at once if need be
    0, off              no limit

A rate is kept by GCRA, the generic cell rate algorithm (virtual scheduling, ITU-T I.371 annex A;
ATM Forum Traffic Management 4.0, 4.4.2). All that is kept of a bucket is one moment, the
theoretical arrival time (TAT), at which it is full again; `limits.Policy.take` is the algorithm.
"""

from __future__ import annotations

import re

import msgspec

from engine.infra.errors import Misconfigured

SECOND = 1_000_000_000  # nanoseconds: whole numbers, so that thirty tenths are three
COUNT_MAX = 10_000_000
_UNITS = {"s": 1, "m": 60, "h": 3_600}
_FORM = re.compile(r"(\d{1,8})/([smh])(?: burst (\d{1,8}))?")


class Rate(msgspec.Struct, frozen=True):
    """So many a second on average, and `burst` at once."""

    count: int
    seconds: int
    burst: int

    @property
    def step(self) -> int:
        """Nanoseconds in which one comes back."""
        return max(self.seconds * SECOND // self.count, 1)

    @property
    def span(self) -> int:
        """Nanoseconds in which an empty bucket is full again: the width of the window."""
        return self.step * self.burst


def rate_of(text: str) -> Rate | None:
    """A rate from its text; None: no limit. Raises `Misconfigured`."""
    words = " ".join(text.lower().split())
    if words in ("0", "off"):
        return None
    form = _FORM.fullmatch(words)
    count = int(form[1]) if form else 0
    burst = int(form[3] or count) if form else 0
    if form is None or not 1 <= count <= COUNT_MAX or not 1 <= burst <= COUNT_MAX:
        raise Misconfigured(f"{text!r} is no rate: want 200/s burst 1000, 10/m, or off")
    return Rate(count, _UNITS[form[2]], burst)
