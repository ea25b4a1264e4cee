"""The load clients: what they count is what was served."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from loadtest import client
from loadtest.bench import paced, wrk
from loadtest.client import Figures, Shot
from tests.support.till import open_till

NEEDS_WRK = pytest.mark.skipif(not wrk.is_installed(), reason="wrk is not installed")
Fire = Callable[..., Figures]

WRK_OUTPUT = """\
Running 2s test @ http://127.0.0.1:8000/api/v1/reservations
  2 threads and 512 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency   184.44ms  276.63ms   1.99s    86.79%
    Req/Sec     2.67k     1.05k    5.09k    65.79%
  Latency Distribution
     50%   71.70ms
     75%  221.03ms
     90%  571.85ms
     99%    1.25s 
  10394 requests in 2.05s, 2.07MB read
  Socket errors: connect 0, read 3, write 0, timeout 19
  Non-2xx or 3xx responses: 394
Requests/sec:   5074.90
Transfer/sec:      1.01MB
"""  # noqa: W291 - wrk ends its seconds with a blank


def test_the_client_counts_exactly_what_was_served() -> None:
    with open_till(stock=100) as till:
        shot = Shot(port=till.port, path="/", run="t", drop_id=7, keyed=True)
        figures = client.fire(shot, connections=8, seconds=0.3)

    assert figures.errors == 0
    assert figures.requests == len(till.bodies) > 100
    assert figures.ok == 100
    assert figures.statuses == {201: 100, 409: figures.non_2xx}
    assert 0 < figures.p50_ms <= figures.p99_ms


def test_no_buyer_asks_twice() -> None:
    with open_till(stock=0) as till:
        client.fire(Shot(port=till.port, path="/", run="t", drop_id=7), connections=4, seconds=0.2)

    assert len(set(till.bodies)) == len(till.bodies) > 0
    assert all(body.startswith(b'{"dropId":7,"userId":"t-') for body in till.bodies)


def test_a_server_that_is_not_there_is_an_error_not_an_answer() -> None:
    with open_till(stock=0) as till:
        gone = till.port

    figures = client.fire(Shot(port=gone, path="/", run="t"), connections=2, seconds=0.2)

    assert figures.requests == 0
    assert figures.errors > 0


def test_wrks_summary_is_read() -> None:
    figures = wrk.parse(WRK_OUTPUT)

    assert figures.requests == 10_394
    assert figures.non_2xx == 394
    assert figures.ok == 10_000
    assert figures.requests_per_s == 5_074.90
    assert round(figures.ok_per_s, 1) == round(5_074.90 * 10_000 / 10_394, 1)
    assert (figures.p50_ms, figures.p99_ms) == (71.7, 1_250)
    assert figures.errors == 22
    assert figures.seconds == 2.05


@pytest.mark.parametrize(
    "fire", [client.fire, pytest.param(wrk.fire, marks=NEEDS_WRK)], ids=["own", "wrk"]
)
def test_every_hold_is_bought_once_by_the_buyer_who_got_it(fire: Fire) -> None:
    with open_till(stock=1_000_000) as till:
        shot = Shot(port=till.port, path="/", run="t", drop_id=7, then="/buy")
        figures = fire(shot, 8, 1)

    bodies = [json.loads(body) for body in till.bodies]
    bought = [body for body in bodies if "reservationId" in body]
    made = {
        f"019aa4de-7c1f-7b6e-9d3c-{number:012d}": body["userId"]
        for number, body in enumerate(bodies, 1)
        if "dropId" in body
    }
    assert len({body["reservationId"] for body in bought}) == len(bought) > 10
    assert all(made[body["reservationId"]] == body["userId"] for body in bought)
    assert abs(len(made) - len(bought)) <= 8
    assert figures.cpu_seconds > 0


def test_a_paced_load_keeps_its_rate() -> None:
    with open_till(stock=1_000_000) as till:
        shot = Shot(port=till.port, path="/", run="t", drop_id=7)
        figures = paced.fire(shot, 8, 1, rate=200)

    assert figures.requests == len(till.bodies) == 200
    assert figures.errors == 0
    assert figures.requests_per_s <= 200


def test_a_paced_load_counts_what_a_standstill_does_to_those_who_come_meanwhile() -> None:
    with open_till(stock=1_000_000, stall_seconds=0.5) as till:
        shot = Shot(port=till.port, path="/", run="t", drop_id=7)
        paced_figures = paced.fire(shot, 4, 1, rate=200)
    with open_till(stock=1_000_000, stall_seconds=0.5) as till:
        shot = Shot(port=till.port, path="/", run="t", drop_id=7)
        closed_figures = client.fire(shot, 4, 1)

    # A hundred were due while nobody was served; of four connections only four felt it.
    assert paced_figures.requests == 200
    assert paced_figures.p50_ms < 400 < paced_figures.p99_ms
    assert closed_figures.p99_ms < 400
