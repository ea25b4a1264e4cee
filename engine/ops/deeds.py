"""Deeds at the terminal: whatever an operator does past the workers is told.

A line, and two rows of the audit log, as workers write them: one before it, without which nothing
is done, and one after it. A person's terminal is nobody's log, so the line goes where sudo's goes:
to the system log, as `authpriv`. Where nobody looks at the terminal (a script, a container) it goes
to stderr as well.
"""

from __future__ import annotations

import getpass
import os
import sys
import syslog
from collections.abc import Coroutine, Iterator, Mapping
from contextlib import AsyncExitStack, contextmanager
from typing import Any

import msgspec
import structlog
import uvloop

from engine.identity import trail, trail_store
from engine.identity.trail_store import Act, Ended
from engine.infra.errors import Fault, Misconfigured, Problem
from engine.infra.settings import Settings

log = structlog.get_logger()

NAMES = ("drop_id", "reservation_id", "key", "subject")  # what is meant, for the log's `target`
# Done though the audit log cannot be written; a token is made without any server.
BRAKES = trail.BRAKES | {"create_admin_token"}


@contextmanager
def deed(operation: str, **what: Any) -> Iterator[None]:
    """Tell of what is done inside, whatever becomes of it: who, what, and how it ended."""
    outcome = "done"
    try:
        yield
    except BaseException as wrong:
        outcome = _outcome(wrong)
        raise
    finally:
        line = {"who": f"terminal:{_user()}", "operation": operation, **what, "outcome": outcome}
        syslog.openlog("velvetrope", syslog.LOG_PID, syslog.LOG_AUTHPRIV)
        syslog.syslog(
            syslog.LOG_NOTICE, msgspec.json.encode({"event": "admin.action", **line}).decode()
        )
        if not sys.stderr.isatty():
            log.warning("admin.action", **line)  # a command's own log begins at warnings


def note(settings: Settings, operation: str, **what: Any) -> None:
    """Tell of what takes no work. Where no database is named there is the line alone."""
    with deed(operation, **what):
        if settings.database_url:
            uvloop.run(recorded(settings, operation, what, _nothing()))


async def _nothing() -> None:
    pass


async def recorded(
    settings: Settings,
    operation: str,
    what: Mapping[str, Any],
    work: Coroutine[Any, Any, str | None],
) -> None:
    """Do work that changes something, with its rows in the audit log. What it returns is the id of
    what was meant, if only the work finds that."""
    from engine.runtime import database

    named = [name for name in NAMES if name in what]
    rest = {name: value for name, value in what.items() if name not in named}
    target = str(what[named[0]])[: trail.TARGET_LENGTH] if named else None
    change = trail.written(trail.redacted(rest)) if rest else None
    act, began = Act(f"terminal:{_user()}", operation, target, change), None
    async with AsyncExitStack() as stack:
        try:
            postgres = await stack.enter_async_context(database(settings))
            began = await trail_store.begin_deed(postgres, act)
        except (Fault, Misconfigured) as why:
            if operation not in BRAKES:
                work.close()
                raise
            log.warning("admin.unwritten", operation=operation, why=str(why))
        outcome, meant = "done", None
        try:
            meant = await work
        except BaseException as wrong:
            outcome = _outcome(wrong)
            raise
        finally:
            if began is not None:
                try:
                    await trail_store.end_deed(postgres, began, act, Ended(outcome, target=meant))
                except Fault:
                    log.warning("admin.unwritten", operation=operation, outcome=outcome)


def _outcome(wrong: BaseException) -> str:
    if isinstance(wrong, Problem):
        return wrong.code
    return f"exit {wrong.code}" if isinstance(wrong, SystemExit) else type(wrong).__name__


def _user() -> str:
    """Who types, as far as the system knows; behind sudo, who was there before."""
    try:
        return os.environ.get("SUDO_USER") or getpass.getuser()
    except (KeyError, OSError):  # a user without a name, as in a container
        return f"uid {os.getuid()}"
