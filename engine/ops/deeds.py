"""Deeds at the terminal: a full line for whatever an operator does past the workers.

A person's terminal is nobody's log, so the line goes where sudo's goes: to the system log, as
`authpriv`. Where nobody looks at the terminal (a script, a container) it goes to stderr as well.
"""

from __future__ import annotations

import getpass
import os
import sys
import syslog
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
import structlog

from engine.infra.errors import Problem

log = structlog.get_logger()


@contextmanager
def deed(operation: str, **what: Any) -> Iterator[None]:
    """Tell of what is done inside, whatever becomes of it: who, what, and how it ended."""
    outcome = "done"
    try:
        yield
    except Problem as problem:
        outcome = problem.code
        raise
    except SystemExit as end:
        outcome = f"exit {end.code}"
        raise
    except BaseException as wrong:
        outcome = type(wrong).__name__
        raise
    finally:
        line = {"who": f"terminal:{_user()}", "operation": operation, **what, "outcome": outcome}
        syslog.openlog("velvetrope", syslog.LOG_PID, syslog.LOG_AUTHPRIV)
        syslog.syslog(
            syslog.LOG_NOTICE, msgspec.json.encode({"event": "admin.action", **line}).decode()
        )
        if not sys.stderr.isatty():
            log.warning("admin.action", **line)  # a command's own log begins at warnings


def _user() -> str:
    """Who types, as far as the system knows; behind sudo, who was there before."""
    try:
        return os.environ.get("SUDO_USER") or getpass.getuser()
    except (KeyError, OSError):  # a user without a name, as in a container
        return f"uid {os.getuid()}"
