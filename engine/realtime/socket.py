"""A listener over WebSocket: the protocol is the `websockets` library's, without its own I/O.

upgrade ─▶ connected ─▶ join, leave, auth, ping from the client; events, pings from us ─▶ close
"""

from __future__ import annotations

from typing import Any

import msgspec
from websockets.exceptions import ConnectionClosed, ProtocolError
from websockets.frames import Frame as Raw
from websockets.frames import Opcode
from websockets.http11 import Request
from websockets.protocol import State
from websockets.server import ServerProtocol

from engine.infra.errors import Invalid, Problem, RateLimited, Unauthorized
from engine.infra.http import problem_answer
from engine.realtime import frames
from engine.realtime.frames import Frame, Wired
from engine.realtime.hub import Hub
from engine.realtime.listener import Listener

FRAME_BYTES_MAX = 4_096  # that a client may send; the longest token fits
FRAMES_A_SECOND = 20
BURST = 40
WANTED = 'Want JSON like {"action": "join", "room": "drops"}'
GUESSES_MAX = 3  # bad tokens


class Socket(Listener):
    """One WebSocket."""

    kind = "socket"

    def __init__(self, hub: Hub, client: str | None) -> None:
        super().__init__(hub, client)
        self._protocol = ServerProtocol(max_size=FRAME_BYTES_MAX)
        self._allowance = float(BURST)
        self._counted_at = hub.now()
        self._guesses = 0
        self._is_cut = False

    def data_received(self, data: bytes) -> None:
        """Bytes from the client: first the upgrade, then frames."""
        protocol = self._protocol
        if self._is_cut and len(data) > FRAME_BYTES_MAX:
            return  # read into the void: this is no answer to our goodbye
        protocol.receive_data(data)
        for event in protocol.events_received():
            if isinstance(event, Request):
                self._shake_hands(event)
            elif isinstance(event, Raw):
                self._hear(event)
        self._flush()

    def eof_received(self) -> bool:
        """The client is done."""
        self._protocol.receive_eof()
        return False

    def _flush(self) -> None:
        """What the protocol itself has to say: pongs, and the end."""
        for data in self._protocol.data_to_send():
            if self._transport.is_closing():
                return
            if data:
                self._transport.write(data)
            else:
                self._transport.close()

    def _shake_hands(self, request: Request) -> None:
        response = self._protocol.accept(request)
        if response.status_code != 101:
            problem = Invalid("This is no WebSocket handshake that we understand")
            answer = problem_answer(problem, self.id)
            self._transport.write(
                b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-type: application/json"
                b"\r\ncontent-length: %d\r\n\r\n%b" % (len(answer.body), answer.body)
            )
            self._transport.close()
            return
        self._protocol.send_response(response)
        self._flush()
        self.is_open = True
        self._transport.pause_reading()  # until it was greeted, which waits for Postgres
        self.hub.enter(self)

    def greeted(self) -> None:
        """It has heard the first word: now it may speak."""
        self._transport.resume_reading()

    def _hear(self, raw: Raw) -> None:
        if not self.is_open:
            return
        self.heard_at = self.hub.now()
        try:
            self._count()
        except RateLimited as limited:
            self.complain(limited)
            return
        if raw.opcode is Opcode.PONG:
            self.pinged_at = 0.0
        elif raw.opcode is Opcode.TEXT and raw.fin:
            self._obey(bytes(raw.data))
        elif raw.opcode in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
            self.complain(Invalid("Want whole text frames of JSON"))

    def _obey(self, text: bytes) -> None:
        try:
            said = frames.decode_frame(text)
            match said.action:
                case "join":
                    self.hub.join(self, _room(said))
                case "leave":
                    self.hub.part(self, _room(said))
                case "auth":
                    self._let_in(said)
                case "ping":
                    self.tell(self.hub.stamped("pong"))
                case _:
                    raise Invalid("action: want join, leave, auth or ping")
        except (msgspec.DecodeError, UnicodeError, RecursionError) as wrong:
            self.complain(Invalid(f"{WANTED}: {wrong}"))
        except Problem as problem:
            self.complain(problem)

    def _count(self) -> None:
        """Raises `RateLimited`; who goes on regardless is cut."""
        now = self.hub.now()
        self._allowance = min(
            self._allowance + (now - self._counted_at) * FRAMES_A_SECOND, float(BURST)
        )
        self._counted_at = now
        self._allowance -= 1
        if self._allowance < -BURST:
            self.drop(1008, "flood")
        if self._allowance < 0:
            raise RateLimited(f"At most {FRAMES_A_SECOND} frames a second", seconds=1)

    def _let_in(self, said: Frame) -> None:
        try:
            named = None if said.user_id is msgspec.UNSET else said.user_id
            token = None if said.token is msgspec.UNSET else said.token
            self.hub.authenticate(self, token, named)
        except Unauthorized:
            self._guesses += 1
            if self._guesses >= GUESSES_MAX:
                self.drop(1008, "guesses")
            raise

    def complain(self, problem: Problem) -> None:
        """Say what was wrong, in the one shape."""
        self.tell(frames.problem(problem, self.id, self.hub.position))

    def pick(self, news: Wired) -> bytes:
        """As frames."""
        return news.frames

    def ping(self) -> None:
        """Ask for a pong."""
        self.pinged_at = self.hub.now()
        self.send(frames.frame(frames.PING))

    def say_goodbye(self, code: int, why: str) -> None:
        """A close frame."""
        self._is_cut = True
        if self._protocol.state is State.OPEN:
            try:
                self._protocol.send_close(code, why)
            except (ConnectionClosed, ProtocolError):
                return
            self._flush()

    def connection_lost(self, exc: Exception | None) -> None:
        """It is gone."""
        super().connection_lost(exc)
        self._protocol.receive_eof()


def _room(said: Any) -> str:
    if said.room is msgspec.UNSET:
        raise Invalid("room: want drops, drop:1, slots, ledger or me")
    return str(said.room)
