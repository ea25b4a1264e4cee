"""The load clients: what they count is what was served."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from loadtest import client
from loadtest.bench import wrk
from loadtest.client import Shot

CREATED = b"HTTP/1.1 201 Created\r\nContent-Length: 2\r\n\r\n{}"
SOLD_OUT = b"HTTP/1.1 409 Conflict\r\ncontent-length: 2\r\n\r\n{}"

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


class Till:
    """A server that answers 201 until its stock is gone, and remembers what it was sent."""

    def __init__(self, stock: int) -> None:
        self.port = 0
        self.stock = stock
        self.bodies: list[bytes] = []

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().partition(b"content-length:")[2].split()[0])
                self.bodies.append(await reader.readexactly(length))
                writer.write(CREATED if len(self.bodies) <= self.stock else SOLD_OUT)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()


@contextmanager
def open_till(stock: int) -> Iterator[Till]:
    till, ready, loop = Till(stock), threading.Event(), asyncio.new_event_loop()
    closing = asyncio.Event()

    async def serve() -> None:
        server = await asyncio.start_server(till.answer, "127.0.0.1")
        till.port = server.sockets[0].getsockname()[1]
        ready.set()
        async with server:
            await closing.wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    try:
        assert ready.wait(10)
        yield till
    finally:
        loop.call_soon_threadsafe(closing.set)
        thread.join(10)
        loop.close()


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
