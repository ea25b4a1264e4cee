"""Where the messages of Postgres's protocol (version 3) begin and end, however a stream is cut.

https://www.postgresql.org/docs/current/protocol-message-formats.html
"""

from __future__ import annotations

import struct

START = b"start"  # kind of the first message, which has none on the wire; also a CancelRequest
DECLINE = b"decline"  # SSLRequest, GSSENCRequest: answered with N, and another first one follows
ALIEN = b""  # bytes that are no message of this protocol, and all that follow
LONGEST = 16 << 20  # a longer message is alien: it is not kept
ENCRYPTION = {80877103, 80877104}
_SIZE = struct.Struct("!I")


class Messages:
    """What a client says."""

    def __init__(self) -> None:
        self._kept = b""
        self._head = 0  # bytes before the length: none until it has introduced itself
        self._is_alien = False

    def feed(self, data: bytes) -> list[tuple[bytes, bytes]]:
        """The messages that are whole now: kind, and all their bytes."""
        if self._is_alien:
            return [(ALIEN, data)]
        data = self._kept + data if self._kept else data
        messages = []
        at, end = 0, len(data)
        while end - at >= self._head + 4:
            size: int = _SIZE.unpack_from(data, at + self._head)[0]
            if not 4 <= size <= LONGEST or (not self._head and size < 8):
                self._is_alien = True
                messages.append((ALIEN, data[at:]))
                at = end
                break
            stop = at + self._head + size
            if stop > end:
                break
            messages.append((self._kind(data, at), data[at:stop]))
            at = stop
        self._kept = data[at:]
        return messages

    def _kind(self, data: bytes, at: int) -> bytes:
        if self._head:
            return data[at : at + 1]
        if _SIZE.unpack_from(data, at + 4)[0] in ENCRYPTION:
            return DECLINE
        self._head = 1
        return START


class Ready:
    """Where a server has become ready for a query. Keeps no more than a message's head."""

    def __init__(self) -> None:
        self._head = b""
        self._left = 0  # bytes of the message under way
        self._is_ready = False  # whether that is a ReadyForQuery

    def feed(self, data: bytes) -> list[int]:
        """The offsets in `data` just behind each ReadyForQuery."""
        ends = []
        at, end = 0, len(data)
        while at < end:
            if self._left:
                step = min(self._left, end - at)
                self._left -= step
                at += step
            else:
                need = 5 - len(self._head)
                head = self._head + data[at : at + need]
                at += need
                if len(head) < 5:
                    self._head = head
                    break
                self._head = b""
                self._is_ready = head[0] == 90  # Z
                self._left = max(0, _SIZE.unpack_from(head, 1)[0] - 4)
            if self._is_ready and not self._left:
                ends.append(at)
                self._is_ready = False
        return ends
