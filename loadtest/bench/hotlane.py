"""What counting costs a request (docs/PERFORMANCE.md). `python -m loadtest.bench.hotlane`.

The very calls of engine/infra/http.py, in a loop: two looks at the clock, whether anybody traces,
and the account of the answer.
"""

from __future__ import annotations

import time
import timeit

import structlog

from engine.infra import tracing
from engine.infra.accounts import account
from engine.infra.http import Call

ROUNDS, TIMES = 7, 200_000


def counted(call: Call, status: int, code: str) -> None:
    """What `serve` does for the metrics, the logs and the traces of one request."""
    began = time.monotonic()
    spans = tracing.on()
    span = None if spans is None else spans.begin("reserve", "POST", call.headers)
    account(call, status, code, time.monotonic() - began)
    assert span is None


def microseconds(status: int, code: str) -> float:
    """Of one request, in the best of several rounds: the others were disturbed."""
    call = Call({"headers": [], "path": "/"}, "reserve")
    call.drop_id = 20
    best = min(timeit.repeat(lambda: counted(call, status, code), number=TIMES, repeat=ROUNDS))
    return best / TIMES * 1e6


def main() -> None:
    """Print both figures."""
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())  # lines of the sample
    print(f"a request that is held:    {microseconds(201, ''):.2f} µs")
    print(f"a request that is refused: {microseconds(409, 'SOLD_OUT'):.2f} µs")


if __name__ == "__main__":
    main()
