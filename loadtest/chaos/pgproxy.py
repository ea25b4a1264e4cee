"""A proxy that understands Postgres: a trap's marker is a piece of a statement's SQL.

A statement is caught where it is bound (or sent as a simple query: BEGIN and COMMIT are), together
with all that follows up to its Sync; so it may have been prepared long before the trap was laid.
What came before it in the same batch has gone to the server. Replies are told apart by counting
each ReadyForQuery, so a client may send batches ahead.
"""

from __future__ import annotations

from loadtest.chaos import pgwire
from loadtest.chaos.proxy import Proxy
from loadtest.chaos.traps import Trap, TrapLink, TrapProxy

BATCH_ENDS = (b"S", b"Q", b"F")  # Sync, Query, FunctionCall: each is answered by a ReadyForQuery


class PgLink(TrapLink):
    """One client of Postgres."""

    def __init__(self, proxy: Proxy) -> None:
        super().__init__(proxy)
        self._messages, self._ready = pgwire.Messages(), pgwire.Ready()
        self._prepared: dict[bytes, str] = {}
        self._owed = 0  # ReadyForQuery to what was passed on
        self._expected: Trap | None = None  # whose reply comes when none of those is owed
        self._catching: Trap | None = None
        self._caught = bytearray()  # its statement, so far

    def from_client(self, data: bytes) -> None:
        passed: list[bytes] = []
        for kind, message in self._messages.feed(data):
            if self.is_spent:
                break
            if kind == pgwire.DECLINE:
                self.back.carry(b"N")
                continue
            said = self._said(kind, message) if self._catching is None else ""
            trap = self.proxy.caught_by(said) if said else None
            if trap is not None:
                self._catching, self._caught = trap, bytearray()
            if self._catching is None:
                passed.append(message)
                self._owed += kind in BATCH_ENDS or kind == pgwire.START
                continue
            self._caught += message
            if len(self._caught) > pgwire.LONGEST:  # too much to be kept: it gets away
                passed.append(bytes(self._caught))
                self._owed += kind in BATCH_ENDS
                self._let_away()
            elif kind in BATCH_ENDS:
                self._pass(passed)
                passed = []
                trap, self._catching = self._catching, None
                self.snap(trap, bytes(self._caught))
        self._pass(passed)

    def _pass(self, messages: list[bytes]) -> None:
        if messages:
            self.forth.carry(b"".join(messages) if len(messages) > 1 else messages[0])

    def _said(self, kind: bytes, message: bytes) -> str:
        """The SQL that this message is about to run."""
        if kind == b"B":  # Bind: portal, statement, ...
            return self._prepared.get(message[5:].partition(b"\0")[2].partition(b"\0")[0], "")
        if kind == b"Q":
            return message[5:-1].decode(errors="replace")
        if kind == b"P":  # Parse: statement, text, ...
            name, _, rest = message[5:].partition(b"\0")
            self._prepared[name] = rest.partition(b"\0")[0].decode(errors="replace")
        elif kind == b"C" and message[5:6] == b"S":  # Close: what, name
            self._prepared.pop(message[6:-1], None)
        return ""

    def expect(self, trap: Trap) -> None:
        self._expected = trap

    def from_server(self, data: bytes) -> None:
        ends = self._ready.feed(data)
        trap = self._expected
        if trap is None:
            self._owed = max(0, self._owed - len(ends))
            self.back.carry(data)
            return
        at = 0
        if self._owed:
            passed = ends[: self._owed]
            self._owed -= len(passed)
            at = passed[-1] if not self._owed else len(data)
            self.back.carry(data[:at])
            ends = ends[len(passed) :]
        self.keep(data[at : ends[0] if ends else None])
        if ends:
            self._expected = None
            self.answered(trap)

    def _let_away(self) -> None:
        if self._catching is not None:
            self.proxy.again(self._catching)
            self._catching = None

    def ended(self) -> None:
        self._let_away()
        super().ended()


class PgProxy(TrapProxy):
    """Forwards connections to a Postgres; `url` is a DATABASE_URL. TLS is declined."""

    default_port = 5432
    link = PgLink
