"""A Postgres server. A backend runs one statement at a time as its course; it waits for locks, is
ended by time-outs, and its commit takes a moment during which it can die either way.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from . import statements
from .ledger import Redo, SqlError, Tables, Transaction

if TYPE_CHECKING:
    from random import Random

    from .loop import VirtualLoop

LOCK_TIMEOUT_MS, IDLE_IN_TRANSACTION_SECONDS = 1_000, 2.0  # as engine/infra/postgres.py asks for
ENDED = "57P01"


class Server:
    """One Postgres; a failover makes it its own standby."""

    def __init__(self, loop: VirtualLoop, tables: Tables, random: Random) -> None:
        self.loop, self.tables, self.random = loop, tables, random
        self.backends: list[Backend] = []
        self.away = False
        self.patience = 0.1  # how often a statement lets others have a turn at a lock
        self.flush_seconds = 0.000_5
        self.late_seconds: tuple[float, ...] = (0.02, 0.2, 0.8, 1.8)  # that a zombie takes
        self.after: Callable[[Transaction], None] = lambda tx: None  # the oracle, after a commit

    def pause(self) -> bool:
        return self.random.random() < self.patience

    def end_backends(self, commit_odds: float = 0.0) -> None:
        """All connections die; who is committing may just have made it."""
        for backend in list(self.backends):
            if backend.committing and self.random.random() < commit_odds:
                backend.commit()
            backend.end()


class Backend:
    """The server's side of one connection."""

    def __init__(self, server: Server, statement_ms: int) -> None:
        self.server, self.statement_ms = server, statement_ms
        self.tx: Transaction | None = None
        self.course: Any = None
        self.explicit = self.failed = self.committing = self.dead = self.gone = False
        self.tell: Callable[[Any], None] | None = None
        self.on_end: Callable[[], None] = lambda: None
        self.timers: dict[str, Any] = {}
        self.asleep = False
        server.backends.append(self)

    # ── statements ───────────────────────────────────────────────────────────────────────────

    def run(self, message: Any, sender: Any, sent_at: float, tell: Callable[[Any], None]) -> None:
        """One message: BEGIN, COMMIT, ROLLBACK, or (text, values)."""
        if self.dead:
            return
        self._cancel("idle")
        self.tell = tell
        if message == "BEGIN":
            self.explicit = True
            self._finish(None)
        elif message == "ROLLBACK":
            self._undo()
            self._finish(None)
        elif message == "COMMIT":
            self.explicit = False
            if self.failed or self.tx is None:
                self._undo()
                self._finish(None)
            else:
                self._flush(None)
        elif self.failed:
            self._finish(SqlError("25P02"))
        else:
            if self.tx is None:
                self.tx = Transaction(self.server.tables, self.server.pause)
                self.tx.wake = self._wake
            self.tx.sender, self.tx.sent_at = sender, sent_at
            self.course = statements.run(self.tx, *message)
            self._set("statement", self.statement_ms / 1000, self._time_out, "57014")
            self._step()

    def refuse(self, message: Any, sqlstate: str, tell: Callable[[Any], None]) -> None:
        """An error of the server's own instead of a statement."""
        self.tell = tell
        if message in ("COMMIT", "ROLLBACK"):
            self._undo()
        self._fail(SqlError(sqlstate))

    def _step(self) -> None:
        """Go on until the end, a lock, or somebody else's turn."""
        self.asleep = False
        if self.dead or self.course is None:
            return
        self._cancel("lock")
        try:
            waits = next(self.course)
        except StopIteration as stop:
            self.course = None
            if not self.explicit:
                self._flush(stop.value)
            elif self.gone:  # nobody is there to say COMMIT
                self.end()
            else:
                self._finish(stop.value)
            return
        except (SqlError, Redo) as error:
            self._fail(error if isinstance(error, SqlError) else SqlError("P0001"))
            return
        self.asleep = True
        if waits is None:
            self.server.loop.outside(self.server.random.random() * 0.002, self._step)
            return
        assert self.tx is not None
        ms = LOCK_TIMEOUT_MS if self.tx.lock_ms is None else self.tx.lock_ms
        self._set("lock", ms / 1000, self._time_out, "55P03")

    def _wake(self) -> None:
        self.server.loop.outside(0.0, self._woken)

    def _woken(self) -> None:
        if self.asleep and self.tx is not None and self.tx.waits_for is not None:
            self._step()

    def _time_out(self, sqlstate: str) -> None:
        if self.course is not None and not self.committing:
            self._fail(SqlError(sqlstate))

    def _fail(self, error: SqlError) -> None:
        if self.course is not None:
            self.course.close()
            self.course = None
        if self.explicit:
            self.failed = True
            if self.tx is not None:
                self.tx.end()  # an error undoes it at once; what is left is to be told ROLLBACK
            self._finish(error)
            return
        self._undo()
        self._finish(error)

    def _flush(self, rows: Any) -> None:
        """The commit record is on its way to the disk: the point of no return is not known yet."""
        self.committing = True
        seconds = self.server.flush_seconds * (0.5 + self.server.random.random())
        self.server.loop.outside(seconds, self._flushed, rows)

    def _flushed(self, rows: Any) -> None:
        if not self.dead and self.committing:
            self.commit()
            self._finish(rows)

    def commit(self) -> None:
        self.committing = False
        tx, self.tx = self.tx, None
        assert tx is not None
        writes = dict(tx.writes)
        tx.commit()
        tx.writes = writes  # for the oracle
        self.server.after(tx)

    def _undo(self) -> None:
        if self.tx is not None:
            self.tx.end()
        self.tx, self.explicit, self.failed, self.committing = None, False, False, False

    def _finish(self, outcome: Any) -> None:
        for name in tuple(self.timers):
            self._cancel(name)
        if self.explicit:
            self._set("idle", IDLE_IN_TRANSACTION_SECONDS, self.end)
        tell, self.tell = self.tell, None
        if tell is not None:
            tell(outcome)
        if self.gone:
            self.end()

    def end(self) -> None:
        """The backend dies; what it had not committed is undone."""
        if self.dead:
            return
        self.dead = True
        for name in tuple(self.timers):
            self._cancel(name)
        if self.course is not None:
            self.course.close()
            self.course = None
        self._undo()
        self.server.backends.remove(self)
        tell, self.tell = self.tell, None
        if tell is not None:
            tell(SqlError(ENDED))
        self.on_end()

    def hang_up(self) -> None:
        """The client is gone: a statement under way runs to its end, a transaction does not."""
        self.gone = True
        if self.course is None and not self.committing:
            self.end()

    def _set(self, name: str, seconds: float, callback: Callable[..., None], *args: Any) -> None:
        self._cancel(name)
        self.timers[name] = self.server.loop.outside(seconds, callback, *args)

    def _cancel(self, name: str) -> None:
        timer = self.timers.pop(name, None)
        if timer is not None:
            timer.cancel()
