"""Tracing: spans for OpenTelemetry, when a collector is named; else one `is None` a request.

A request that is sampled gets a span; so does each batch in which one sits, linked to the spans of
all its sampled requests, since a batch belongs to none of them. The trace of the caller is gone on
with (`traceparent`) and its decision to sample is honoured, up to a limit: a stranger who sends one
with every request must not make every request dear.

Only the API of OpenTelemetry is ours; the SDK and its exporter are the `otel` extra.
"""

from __future__ import annotations

import asyncio
import logging
import random
import re
import threading
import time
from collections import Counter
from collections.abc import Sequence
from contextvars import ContextVar, Token
from typing import TYPE_CHECKING, Any

import structlog

from engine import __version__
from engine.infra.eager import Outcome
from engine.infra.log import Seldom
from engine.infra.settings import Settings

if TYPE_CHECKING:
    from opentelemetry.trace import Span

log = structlog.get_logger()

TRACEPARENT = re.compile(rb"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-([0-9a-f]{2})(-.*)?")
SPANS_PER_SECOND_MAX = 200  # requests; a span costs as much as a fifth of a hold
LINKS_MAX = 128  # of one batch
EXPORT_SECONDS = 3.0
LEAVE_SECONDS = 2.0  # for what was not sent yet when the process ends

_current: ContextVar[Any] = ContextVar("span", default=None)


class Tracing:
    """The spans of one process that has a collector."""

    def __init__(self, provider: Any, ratio: float) -> None:
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._provider, self._ratio = provider, ratio
        self._tracer = provider.get_tracer("velvetrope", __version__)
        self._extract = TraceContextTextMapPropagator().extract
        self._second, self._left = 0.0, SPANS_PER_SECOND_MAX

    def begin(self, operation: str, method: str, headers: dict[bytes, bytes]) -> Begun | None:
        """A span for a request, if it is sampled; `Begun.end` must follow."""
        parent = headers.get(b"traceparent")
        if parent is not None and (form := TRACEPARENT.fullmatch(parent)):
            if not int(form[1], 16) & 1:
                return None
        else:
            parent = None
            if random.random() >= self._ratio:
                return None
        if not self._affordable():
            return None
        from opentelemetry.trace import SpanKind

        context = self._extract({"traceparent": parent.decode()}) if parent else None
        span = self._tracer.start_span(
            operation, context, SpanKind.SERVER, {"http.request.method": method}
        )
        return Begun(span)

    def batch(self, combiner: str, seats: Sequence[Any]) -> BatchSpan | None:
        """A span for a batch in which a sampled request sits; `BatchSpan.end` must follow."""
        spans = [seat.span for seat in seats if seat.span is not None]
        if not spans:
            return None
        from opentelemetry.trace import Link

        kind, _, subject = combiner.partition("-")
        about: dict[str, str | int] = {"velvetrope.batch.size": len(seats)}
        if subject:
            about["velvetrope.drop_id"] = int(subject)
        links = [Link(span.get_span_context()) for span in spans[:LINKS_MAX]]
        return BatchSpan(self._tracer.start_span(f"batch {kind}", links=links, attributes=about))

    async def close(self) -> None:
        """Send what was not sent yet, if that does not take long."""
        loop, done = asyncio.get_running_loop(), asyncio.Event()

        def leave() -> None:
            self._provider.shutdown()
            loop.call_soon_threadsafe(done.set)

        # A thread that nobody waits for: a collector that hangs must not keep a worker from ending.
        threading.Thread(target=leave, name="tracing-leaves", daemon=True).start()
        try:
            await asyncio.wait_for(done.wait(), LEAVE_SECONDS)
        except TimeoutError:
            log.warning("tracing.lost", why="the collector does not answer")

    def _affordable(self) -> bool:
        now = time.monotonic()
        if now >= self._second + 1:
            self._second, self._left = now, SPANS_PER_SECOND_MAX
        self._left -= 1
        return self._left >= 0


class Begun:
    """The span of a request under way: what is put into a queue meanwhile knows it."""

    def __init__(self, span: Span) -> None:
        self._span = span
        self._token: Token[Any] = _current.set(span)

    def end(self, status: int, code: str, request_id: str) -> None:
        """The request was answered."""
        _current.reset(self._token)
        self._span.set_attribute("http.response.status_code", status)
        self._span.set_attribute("velvetrope.request_id", request_id)
        if code:
            self._span.set_attribute("error.type", code)
        if status >= 500:
            from opentelemetry.trace import StatusCode

            self._span.set_status(StatusCode.ERROR)
        self._span.end()


class BatchSpan:
    """The span of a batch under way."""

    def __init__(self, span: Span) -> None:
        self._span = span

    def end(self, seats: Sequence[Any]) -> None:
        """The batch is over: how many of its requests heard what."""
        for word, count in Counter(_result(seat) for seat in seats).items():
            self._span.set_attribute(f"velvetrope.result.{word}", count)
        self._span.end()


def _result(seat: Outcome[Any]) -> str:
    if not seat.told:
        return "again"  # it sits in a later batch, too
    return str(getattr(seat.problem, "code", "done" if seat.problem is None else "error"))


def current() -> Any:
    """The span of the request this runs for, if it has one."""
    return _current.get()


_tracing: Tracing | None = None


def on() -> Tracing | None:
    """This process's tracing, if it has a collector."""
    return _tracing


def start(settings: Settings, kind: str) -> None:
    """Send spans to the collector that the settings name, if they name one."""
    global _tracing
    endpoint = settings.otel_exporter_otlp_endpoint
    if not endpoint:
        return
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.trace.sampling import ALWAYS_ON
    except ImportError:
        mend = 'pip install "velvetrope[otel]", or unset OTEL_EXPORTER_OTLP_ENDPOINT'
        log.warning("tracing.off", why="the otel extra is not installed", mend=mend)
        return
    about = Resource.create(
        {
            "service.name": "velvetrope",
            "service.version": __version__,
            "velvetrope.process": kind,
        }
    )
    # Who is sampled was decided before a span is begun.
    provider = TracerProvider(ALWAYS_ON, about, shutdown_on_exit=False)
    url = endpoint.rstrip("/") + "/v1/traces"
    exporter = OTLPSpanExporter(url, timeout=EXPORT_SECONDS)
    provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=1_000))
    # Its exporter complains of every attempt in plain text: seldom, and as lines of our log.
    logging.getLogger("opentelemetry").handlers = [_Complaints()]
    logging.getLogger("opentelemetry").propagate = False
    _tracing = Tracing(provider, settings.otel_traces_sampler_arg)
    log.info("tracing.on", endpoint=endpoint, share=settings.otel_traces_sampler_arg)


class _Complaints(logging.Handler):
    """The exporter's troubles, once in half a minute."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._complaints = Seldom()

    def emit(self, record: logging.LogRecord) -> None:
        """Say it, if it is due."""
        if self._complaints.due():
            log.warning("tracing.troubled", why=record.getMessage()[:200])


async def stop() -> None:
    """The end of it, with the last spans sent."""
    global _tracing
    if _tracing is not None:
        leaving, _tracing = _tracing, None
        await leaving.close()
