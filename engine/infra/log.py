"""Structured logs on stderr: events are dotted names with fields, never sentences."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Hashable

import structlog

from engine.infra.settings import Settings


def configure(settings: Settings, process: str) -> None:
    """Set up logging for this process. `process` stands in every line."""
    console = settings.log_format == "console" or (
        settings.log_format == "auto" and sys.stderr.isatty()
    )
    renderer: structlog.types.Processor = (
        structlog.dev.ConsoleRenderer() if console else structlog.processors.JSONRenderer()
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(
            getattr(logging, settings.log_level.upper())
        ),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.bind_contextvars(process=process)


class Seldom:
    """Says when a complaint that comes round again and again is due: an outage is told, not every
    round of it."""

    def __init__(self, seconds: float = 30.0, subjects_max: int = 1_000) -> None:
        self._seconds, self._subjects_max = seconds, subjects_max
        self._said: dict[Hashable, float] = {}

    def due(self, subject: Hashable = None) -> bool:
        """Whether to say it of this subject now; then it is not due for a while."""
        now = time.monotonic()
        if now < self._said.get(subject, float("-inf")) + self._seconds:
            return False
        if len(self._said) >= self._subjects_max:
            self._said.clear()
        self._said[subject] = now
        return True
