"""Spans: sent to a collector if one is named, and to nobody else."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from structlog.testing import capture_logs

from engine.infra import tracing
from engine.infra.settings import Settings
from tests.support.shop import Shop
from tests.support.wait import wait_until

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SAMPLED = {"traceparent": f"00-{TRACE}-{PARENT}-01"}
UNSAMPLED = {"traceparent": f"00-{TRACE}-{PARENT}-00"}


class Collector:
    """What a collector was sent over HTTP."""

    def __init__(self) -> None:
        self.spans: list[Any] = []
        self.requests = 0
        self.resource: dict[str, str] = {}

    async def hear(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                assert head.startswith(b"POST /v1/traces HTTP/1.1")
                fields = dict(
                    line.split(": ", 1) for line in head.decode().lower().split("\r\n")[1:] if line
                )
                body = await reader.readexactly(int(fields["content-length"]))
                self._take(ExportTraceServiceRequest.FromString(body))
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    def _take(self, request: ExportTraceServiceRequest) -> None:
        self.requests += 1
        for each in request.resource_spans:
            self.resource = {a.key: a.value.string_value for a in each.resource.attributes}
            for scope in each.scope_spans:
                self.spans.extend(scope.spans)

    def named(self, name: str) -> list[Any]:
        """Spans of this name."""
        return [span for span in self.spans if span.name == name]


@pytest.fixture
async def collector() -> AsyncIterator[tuple[Collector, str]]:
    """A collector, and its address."""
    collector = Collector()
    server = await asyncio.start_server(collector.hear, "127.0.0.1", 0)
    yield collector, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    server.close()


def _traced(settings: Settings, endpoint: str, ratio: float = 0.0) -> Settings:
    return msgspec.structs.replace(
        settings, otel_exporter_otlp_endpoint=endpoint, otel_traces_sampler_arg=ratio
    )


def _attributes(span: Any) -> dict[str, Any]:
    return {each.key: each.value.int_value or each.value.string_value for each in span.attributes}


async def _reserve(shop: Shop, drop_id: int, buyer: str, headers: dict[str, str]) -> int:
    body = {"dropId": drop_id, "userId": buyer}
    return (await shop.send("POST", "/reservations", body, headers)).status


async def test_a_batch_is_linked_to_the_requests_in_it(
    settings: Settings, collector: tuple[Collector, str]
) -> None:
    heard, endpoint = collector
    async with Shop.open(_traced(settings, endpoint)) as shop:
        drop_id = await shop.open_drop(2)
        statuses = await asyncio.gather(
            *(_reserve(shop, drop_id, f"b{n}", SAMPLED if n % 2 else UNSAMPLED) for n in range(8))
        )
        assert sorted(statuses) == [201] * 2 + [409] * 6

    requests, batches = heard.named("reserve"), heard.named("batch reserve")
    assert len(requests) == 4, "who is not sampled has no span"
    assert {span.trace_id.hex() for span in requests} == {TRACE}
    assert {span.parent_span_id.hex() for span in requests} == {PARENT}
    linked = [link.span_id for span in batches for link in span.links]
    assert {span.span_id for span in requests} == set(linked)
    sizes = [_attributes(span)["velvetrope.batch.size"] for span in batches]
    assert max(sizes) > 1
    results = [_attributes(span) for span in batches]
    assert sum(each.get("velvetrope.result.done", 0) for each in results) == 2
    assert sum(each.get("velvetrope.result.SOLD_OUT", 0) for each in results) == 6
    assert {each["velvetrope.drop_id"] for each in results} == {drop_id}
    assert heard.resource["service.name"] == "velvetrope"


async def test_a_span_tells_how_it_ended_and_names_nobody(
    settings: Settings, collector: tuple[Collector, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    heard, endpoint = collector
    async with Shop.open(_traced(settings, endpoint)) as shop:
        headers = SAMPLED | {"x-request-id": "find-me"}
        await shop.send("GET", "/reservations?userId=ann-of-the-hill", None, headers)
        await shop.send("GET", "/drops/777", None, SAMPLED)

        async def crash(*_: object) -> None:
            raise ZeroDivisionError

        monkeypatch.setattr("engine.sale.drops.one", crash)
        with capture_logs():
            await shop.send("GET", "/drops/777", None, SAMPLED)

    fine, missing, crashed = sorted(heard.spans, key=lambda span: span.start_time_unix_nano)
    assert fine.name == "list_reservations"
    assert _attributes(fine) == {
        "http.request.method": "GET",
        "http.response.status_code": 200,
        "velvetrope.request_id": "find-me",
    }
    assert _attributes(missing)["error.type"] == "NOT_FOUND"
    assert missing.status.code == 0, "a refusal is a good answer"
    assert _attributes(crashed)["error.type"] == "INTERNAL_ERROR"
    assert crashed.status.code == 2
    assert "ann-of-the-hill" not in str(heard.spans)


@pytest.mark.parametrize(("ratio", "spans"), [(1.0, 20), (0.0, 0)])
async def test_of_requests_whose_caller_did_not_decide_a_share_is_traced(
    settings: Settings, collector: tuple[Collector, str], ratio: float, spans: int
) -> None:
    heard, endpoint = collector
    async with Shop.open(_traced(settings, endpoint, ratio)) as shop:
        for number in range(20):
            rubbish = {"traceparent": "rubbish"} if number % 2 else None
            await shop.send("GET", "/drops", None, rubbish)

    assert len(heard.named("list_drops")) == spans


async def test_a_stranger_cannot_have_every_request_traced(
    settings: Settings, collector: tuple[Collector, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracing, "SPANS_PER_SECOND_MAX", 5)
    monkeypatch.setattr("time.monotonic", lambda: 1_000.0)
    heard, endpoint = collector
    tracing.start(_traced(settings, endpoint), "worker")
    on = tracing.on()
    assert on is not None

    headers = {name.encode(): value.encode() for name, value in SAMPLED.items()}
    begun = [on.begin("reserve", "POST", headers) for _ in range(50)]
    for span in begun:
        if span is not None:
            span.end(200, "", "")
    monkeypatch.undo()
    await tracing.stop()

    assert len(heard.spans) == 5


async def test_nothing_is_sent_when_no_collector_is_named(shop: Shop) -> None:
    assert tracing.on() is None
    assert (await shop.send("GET", "/drops", None, SAMPLED)).status == 200
    assert tracing.current() is None


async def test_a_collector_that_is_away_changes_nothing(settings: Settings) -> None:
    async with Shop.open(_traced(settings, "http://127.0.0.1:1", 1.0)) as shop:
        drop_id = await shop.open_drop(1)
        assert await _reserve(shop, drop_id, "ann", SAMPLED) == 201

    assert tracing.on() is None


async def test_without_the_extra_a_start_says_so_and_goes_on(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with capture_logs() as lines:
        async with Shop.open(_traced(settings, "http://127.0.0.1:1")) as shop:
            assert (await shop.send("GET", "/drops", None, SAMPLED)).status == 200

    [line] = [each for each in lines if each["event"] == "tracing.off"]
    assert line["log_level"] == "warning"
    assert "otel" in line["mend"]


async def test_spans_leave_within_seconds_while_the_worker_runs(
    settings: Settings, collector: tuple[Collector, str]
) -> None:
    heard, endpoint = collector

    async def arrived() -> bool:
        return bool(heard.named("list_drops"))

    async with Shop.open(_traced(settings, endpoint)) as shop:
        await shop.send("GET", "/drops", None, SAMPLED)
        await wait_until(arrived, "the span is there")
