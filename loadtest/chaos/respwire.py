"""Where the messages of Redis's protocol (RESP2 and RESP3) begin and end, however a stream is cut.

https://redis.io/docs/latest/develop/reference/protocol-spec/
"""

from __future__ import annotations

import msgspec

LONGEST = 16 << 20  # a longer request is alien: it is not kept
WORDS = 2  # of a request that are told: a command and a script, a container and its command


class Request(msgspec.Struct, frozen=True):
    """What a client asks. No words: the server says nothing to it."""

    data: bytes
    words: tuple[bytes, ...]


class Piece(msgspec.Struct, frozen=True):
    """Some of what a server says, all of one reply or of one push."""

    data: bytes
    is_push: bool
    is_end: bool  # whether it ends there


class Requests:
    """What a client asks: arrays of bulk strings, or lines of words.

    What is neither, and all that follows it, are requests without words.
    """

    def __init__(self) -> None:
        self.is_alien = False
        self._kept = b""
        self._at = 0  # what is read of that
        self._left = 0  # words of the request under way
        self._words: list[bytes] = []

    def feed(self, data: bytes) -> list[Request]:
        """The requests that are whole now."""
        requests: list[Request] = []
        data = self._kept + data if self._kept else data
        start, at = 0, self._at
        while not self.is_alien and (line := data.find(b"\n", at)) >= 0:
            try:
                stop = self._read(data, at, line)
            except ValueError:
                self.is_alien = True
                break
            if stop > len(data):
                break
            at = stop
            if not self._left:
                requests.append(Request(data[start:at], tuple(self._words)))
                self._words, start = [], at
        if self.is_alien or len(data) - start > LONGEST:
            self.is_alien = True
            requests.append(Request(data[start:], ()))
            start = at = len(data)
        self._kept, self._at = data[start:], at - start
        return requests

    def _read(self, data: bytes, at: int, line: int) -> int:
        """Read a line that begins at `at`, and its string. Returns where they end, or would."""
        first, text = data[at : at + 1], data[at + 1 : line]
        if not self._left:
            if first == b"*":
                self._left = max(0, int(text))
            else:
                self._words = data[at:line].split()[:WORDS]
            return line + 1
        size = int(text)
        if first != b"$" or size < 0:
            raise ValueError(first)
        stop = line + 1 + size + 2
        if stop <= len(data):
            self._left -= 1
            if len(self._words) < WORDS:
                self._words.append(data[line + 1 : stop - 2])
        return stop


class Replies:
    """What a server says. Keeps no more than the beginning of a line.

    Streamed strings and aggregates, which no server sends, are alien: a push without an end.
    """

    def __init__(self) -> None:
        self.is_alien = False
        self._line = b""
        self._skip = 0  # bytes left of a string
        self._left = 0  # values left of what is under way
        self._is_push = False

    def feed(self, data: bytes) -> list[Piece]:
        """All of it in pieces, but for a line that is cut."""
        pieces: list[Piece] = []
        data = self._line + data if self._line else data
        start = at = 0
        while at < len(data) and not self.is_alien:
            if self._skip:
                step = min(self._skip, len(data) - at)
                self._skip -= step
                at += step
            else:
                line = data.find(b"\n", at)
                if line < 0:
                    self.is_alien = len(data) - at > LONGEST
                    break
                try:
                    self._read(data[at], data[at + 1 : line])
                except ValueError:
                    self.is_alien = True
                    break
                at = line + 1
            if not self._left and not self._skip:
                pieces.append(Piece(data[start:at], self._is_push, is_end=True))
                start = at
        if self.is_alien:
            self._line = b""
            return [*pieces, Piece(data[start:], is_push=True, is_end=False)]
        self._line = data[at:]
        if start < at:
            pieces.append(Piece(data[start:at], self._is_push, is_end=False))
        return pieces

    def _read(self, kind: int, text: bytes) -> None:
        """A line says what comes: a value, a string of so many bytes, or so many values."""
        if not self._left:
            self._left, self._is_push = 1, kind == ord(">")
        if kind in b"+-:_#,(":
            self._left -= 1
        elif kind in b"$!=":
            self._left -= 1
            self._skip = int(text) + 2 if int(text) >= 0 else 0
        elif kind in b"*~>":
            self._left += max(0, int(text)) - 1
        elif kind == ord("%"):
            self._left += 2 * max(0, int(text)) - 1
        elif kind == ord("|"):  # attributes, and then what they are about
            self._left += 2 * max(0, int(text))
        else:
            raise ValueError(kind)
