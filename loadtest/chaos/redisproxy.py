"""A proxy that understands Redis: a trap's marker is a command, what comes next, or both.

What comes next is a script's name for EVALSHA and EVAL, else the first key or the like: "INCR",
"admit", "EVALSHA admit" and "SET vr1:probe" are markers. Replies are told apart by counting them,
pushes aside, so a client may send requests ahead.

A connection that subscribes, monitors or turns replies off is answered in another measure: from
then on nothing is caught on it. Of a transaction only its MULTI and its EXEC are caught.
"""

from __future__ import annotations

import hashlib
from collections import deque

from engine.infra import lua
from loadtest.chaos.proxy import Proxy
from loadtest.chaos.respwire import Replies, Request, Requests
from loadtest.chaos.traps import Trap, TrapLink, TrapProxy

UNCOUNTED = {
    *("SUBSCRIBE", "PSUBSCRIBE", "SSUBSCRIBE", "UNSUBSCRIBE", "PUNSUBSCRIBE", "SUNSUBSCRIBE"),
    *("MONITOR", "SYNC", "PSYNC"),
}


class RedisLink(TrapLink):
    """One client of Redis."""

    proxy: RedisProxy

    def __init__(self, proxy: Proxy) -> None:
        super().__init__(proxy)
        self._requests, self._replies = Requests(), Replies()
        self._expected: deque[Trap | None] = deque()  # replies; to whose, if to a caught request's
        self._in_transaction = False

    def from_client(self, data: bytes) -> None:
        passed: list[bytes] = []
        for request in self._requests.feed(data):
            if self.is_spent:
                break
            trap = self._meet(request)
            if trap is None:
                passed.append(request.data)
                continue
            if passed:
                self.forth.carry(b"".join(passed))
                passed = []
            self.snap(trap, request.data)
        if passed:
            self.forth.carry(passed[0] if len(passed) == 1 else b"".join(passed))

    def _meet(self, request: Request) -> Trap | None:
        """The trap of a request. One that the client will hear of is counted."""
        if not request.words or self._replies.is_alien:
            return None
        said = self.proxy.said(request.words)
        command = said.partition(" ")[0]
        if command in UNCOUNTED or said == "CLIENT REPLY":
            self._requests.is_alien = self._replies.is_alien = True
            return None
        free = not self._in_transaction or command == "EXEC"
        trap = self.proxy.caught_by(said) if free else None
        if command in ("MULTI", "EXEC", "DISCARD"):
            self._in_transaction = command == "MULTI"
        if trap is None or trap.fate == "duplicate":
            self._expected.append(None)
        return trap

    def expect(self, trap: Trap) -> None:
        self._expected.append(trap)

    def from_server(self, data: bytes) -> None:
        passed: list[bytes] = []
        for piece in self._replies.feed(data):
            trap = self._expected[0] if self._expected and not piece.is_push else None
            if trap is None:
                passed.append(piece.data)
            else:
                self.keep(piece.data)
            if piece.is_end and not piece.is_push and self._expected:
                self._expected.popleft()
                if trap is not None:
                    self.back.carry(b"".join(passed))
                    passed = []
                    self.answered(trap)
        if passed:
            self.back.carry(passed[0] if len(passed) == 1 else b"".join(passed))


class RedisProxy(TrapProxy):
    """Forwards connections to a Redis; `url` is a REDIS_URL. Knows the scripts of lua/ by name."""

    default_port = 6379
    fates = ("lose", "drop", "tear", "hold", "duplicate")
    link = RedisLink

    def __init__(self, url: str, seed: int = 0) -> None:
        super().__init__(url, seed)
        scripts = [lua.load(path.stem) for path in lua.folder().glob("*.lua")]
        self.scripts = {script.sha: script.name for script in scripts}

    def said(self, words: tuple[bytes, ...]) -> str:
        """A request in two words."""
        command = words[0].decode(errors="replace").upper()
        if len(words) == 1:
            return command
        if command in ("EVALSHA", "EVALSHA_RO"):
            sha = words[1].decode(errors="replace").lower()
        elif command in ("EVAL", "EVAL_RO"):
            sha = hashlib.sha1(words[1]).hexdigest()
        else:
            next_word = words[1].decode(errors="replace")
            return f"{command} {next_word.upper() if command == 'CLIENT' else next_word}"
        return f"{command} {self.scripts.get(sha, sha)}"

    def matches(self, marker: str, said: str) -> bool:
        command, _, subject = said.partition(" ")
        return marker in (said, subject) or marker.upper() == command
