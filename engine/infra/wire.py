"""The wire: uvicorn's HTTP protocol, with a lobby instead of a timer.

uvicorn waits for ever for a head or a body, and answers what is no HTTP at once, also while an
earlier request of the same connection has no answer yet: the client takes the one for the other.
Here a refusal waits for its turn, has the one error shape, and ends the connection.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast
from urllib.parse import unquote

import httptools
from uvicorn.config import Config
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from engine.infra import heads, tracing
from engine.infra.answering import Cycle, farewell, straight
from engine.infra.eager import eagerly
from engine.infra.errors import Invalid, Problem, RequestTimeout, Retryable
from engine.infra.heads import HEAD_BYTES_MAX
from engine.infra.lobby import Lobby, Place
from engine.infra.meter import meter
from engine.infra.routing import Route
from engine.infra.taking import Taker

PIPELINED_MAX = 32  # requests sent ahead of the answer

ASGI: Any = {"version": "3.0", "spec_version": "2.3"}

# What has been read of the message that comes in.
NOTHING, HEAD, BODY = range(3)


class Protocol(HttpToolsProtocol):
    """One connection. uvicorn's state is its, the `_` ones are ours."""

    cycle: Cycle

    def __init__(
        self,
        lobby: Lobby,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        taker: Taker | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._lobby = lobby
        self._taker = taker
        self._place: Place | None = None
        self._hot: Callable[[Any], Route | None] | None = getattr(self.app, "hot", None)
        self._begun: Cycle | None = None  # a request of this piece, not worked on yet
        self._working: Cycle | None = None  # the request that is being answered
        self._part = NOTHING
        self._piece = 0  # bytes being parsed
        self._heard = 0  # bytes that came with this head; what came before it in a piece included
        self._is_deaf = False
        self._goes_on = False  # there is more to parse behind this piece
        self._problem: Problem | None = None  # why a parser's callback gave up
        self._farewell = b""  # a refusal that waits for earlier answers

    # ── coming and going ─────────────────────────────────────────────────────────────────────────

    def connection_made(self, transport: Any) -> None:
        """A client is there. It may be silent as long as it may be slow with a head."""
        super().connection_made(transport)
        if self._lobby.enter(self):
            self._stand(self._lobby.heads)

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone; a request under way goes on without it."""
        if self._working is not None:  # not the one that came last, if others wait in the pipe
            self._working.disconnected = True
            self._working.wake()
            self._working = None
        self._begun, self.cycle = None, cast(Cycle, None)  # else they would hold each other
        super().connection_lost(exc)
        self._part_company()
        self.pipeline.clear()

    def _part_company(self) -> None:
        self._stand(None)
        self._lobby.guests -= 1

    # ── places ───────────────────────────────────────────────────────────────────────────────────

    def _stand(self, place: Place | None) -> None:
        was = self._place
        if place is was:
            return
        if was is not None:
            del was[self]
        self._place = place
        if place is not None:
            place[self] = self.loop.time()

    def _where(self) -> Place | None:
        """What we wait for; None while it is the client who waits."""
        lobby, cycle = self._lobby, self.cycle
        if self.flow.write_paused:
            return lobby.unread
        if cycle is not None and not cycle.response_complete:
            # With others before it, its body is not even read.
            return lobby.bodies if self._part == BODY and not self.pipeline else None
        return (lobby.idle, lobby.heads, lobby.bodies)[self._part]

    def pause_writing(self) -> None:
        """The client does not read: from now on its time runs."""
        super().pause_writing()
        if self._place is not self._lobby.lingering:
            self._stand(self._lobby.unread)

    def resume_writing(self) -> None:
        """It has read again."""
        super().resume_writing()
        if not self._is_deaf or self._farewell:
            self._stand(self._where())

    def overdue(self, place: Place) -> str:
        """Cut: with a 408 if there is a request to be answered."""
        lobby = self._lobby
        if place is lobby.unread or place is lobby.lingering:
            self.abort()
            return "unread" if place is lobby.unread else "lingering"
        if place is lobby.idle or self._part == NOTHING:
            # Browsers connect ahead of time: an answer to no question would confuse them.
            self._hang_up()
            return "idle" if place is lobby.idle else "silent"
        if lobby.is_leaving:
            self.refuse(Retryable("This worker is leaving. Nothing was taken: try again."))
        else:
            self.refuse(RequestTimeout(f"The request was not there in {place.patience_seconds} s"))
        return "slow head" if place is lobby.heads else "slow body"

    def give_way(self) -> None:
        """Somebody else needs the seat."""
        if self._part == NOTHING or self._place is self._lobby.unread:
            self._hang_up()
        else:
            self.refuse(Retryable("Too many connections. Nothing was taken: try again."))

    def abort(self) -> None:
        """End it now, whatever was still to be written."""
        self._is_deaf = True
        self._stand(None)
        self.transport.abort()

    # ── reading ──────────────────────────────────────────────────────────────────────────────────

    def data_received(self, data: bytes) -> None:
        """Bytes: never parse more at once than a head may have."""
        if self._is_deaf:
            return  # read on, so that no reset destroys our last word
        if len(data) <= HEAD_BYTES_MAX:
            goes_on = self._feed(data)
        else:
            goes_on = self._feed_by_pieces(data)
        if goes_on and (place := self._where()) is not self._lobby.idle:
            self._stand(place)  # stray line breaks make nobody less idle

    def _feed_by_pieces(self, data: bytes) -> bool:
        last = (len(data) - 1) // HEAD_BYTES_MAX * HEAD_BYTES_MAX
        for at in range(0, last + 1, HEAD_BYTES_MAX):
            self._goes_on = at < last
            if not self._feed(data[at : at + HEAD_BYTES_MAX]):
                return False
        return True

    def _feed(self, data: bytes) -> bool:
        """Parse; whether there may be more."""
        self._piece = len(data)
        if self._part == HEAD:
            self._heard += self._piece
        try:
            try:
                self.parser.feed_data(data)
            finally:
                if self._begun is not None:
                    self._work_on(self._begun)
        except httptools.HttpParserUpgrade as upgrade:
            if self._is_deaf:  # the answer before it was the last one here
                return False
            rest = data[upgrade.args[0] :]
            if rest or not self._is_for_taker() or not self._give_away(b""):
                return self._read_without_upgrade(rest)
        except httptools.HttpParserError:
            if not self._is_deaf:  # else the answer before it was the last one, or is another's
                self.refuse(self._problem or Invalid("This is not HTTP as we understand it"))
        else:
            if self._part == HEAD and self._heard > HEAD_BYTES_MAX:
                problem = heads.objection_unfinished(self.url, self.headers, self._heard)
                if problem is not None:
                    self.refuse(problem)
        return not self._is_deaf

    def _read_without_upgrade(self, rest: bytes) -> bool:
        """Read a request again without its Upgrade, as RFC 9110 7.8 allows.

        The parser takes all that follows an Upgrade for the other protocol: a body would be lost,
        or taken for the next request. Java's client offers h2c with every body.
        """
        head = heads.without_upgrade(self.scope["method"], self.url, self.headers)
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        return self._feed(head + rest)

    def on_message_begin(self) -> None:
        """A request begins."""
        self.url, self.headers, self.expect_100_continue = b"", [], False
        self.scope = cast(
            Any,
            {
                "type": "http",
                "asgi": ASGI,
                "http_version": "1.1",
                "server": self.server,
                "client": self.client,
                "scheme": self.scheme,
                "root_path": self.root_path,
                "headers": self.headers,
            },
        )
        self._part = HEAD
        self._heard = self._piece

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header. What comes behind the body is none."""
        if self._part == BODY:
            return
        name = name.lower()
        if name == b"expect" and value.lower() == b"100-continue":
            self.expect_100_continue = True
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        """Start the app, or queue the request behind the one that is being answered."""
        parser, scope = self.parser, self.scope
        version = parser.get_http_version()
        method = scope["method"] = parser.get_method().decode("ascii")
        if problem := heads.objection(method, self.url, version, self.headers, self._heard):
            self._give_up(problem)
        if len(self.pipeline) >= PIPELINED_MAX:
            self._give_up(Retryable(f"{PIPELINED_MAX} requests wait already. Nothing was taken."))
        if version != "1.1":
            scope["http_version"] = version
        raw, query = heads.path_and_query(self.url)
        path = raw.decode("ascii")
        scope["path"] = self.root_path + (unquote(path) if "%" in path else path)
        scope["raw_path"] = raw
        scope["query_string"] = query
        if parser.should_upgrade():
            return  # the parser raises HttpParserUpgrade next
        before = self.cycle
        self.cycle = Cycle(
            scope,
            self.transport,
            self.flow,
            self.logger,
            self.server_state.default_headers,
            self.expect_100_continue,
            version == "1.1" and parser.should_keep_alive(),
            self._answered,
        )
        self._part = BODY
        if before is None or before.response_complete:
            self._begun = self.cycle
        else:
            self.flow.pause_reading()
            self.pipeline.appendleft((self.cycle, self.app))

    def _work_on(self, cycle: Cycle) -> None:
        """Start on the request that this piece began: most are whole by now. One of the hot lane
        needs no task then, unless it waits; a span belongs to a task, though."""
        if cycle.more_body and self._is_for_taker():
            return  # until it is whole: each piece leads here again
        self._begun, self._working = None, cycle
        self._stand(None)  # else who is answered at once would stay idle since his first request
        route = None
        if self._hot is not None and not cycle.more_body and tracing.on() is None:
            route = self._hot(cycle.scope)
        if route is None:
            if cycle.more_body or not self._is_for_taker() or not self._give_away(cycle.body):
                self._start_asgi_task(cycle, self.app)
        elif (rest := eagerly(straight(route.handler, route.operation, cycle))) is not None:
            task = self.loop.create_task(rest, name=route.operation)
            task.add_done_callback(self.tasks.discard)
            self.tasks.add(task)

    def _is_for_taker(self) -> bool:
        """Whether somebody takes the connection for what was read: alone, and short."""
        taker, cycle = self._taker, self.cycle
        if taker is None or self.pipeline or self.flow.write_paused:
            return False
        if self._part == HEAD:  # an Upgrade, or the head of what comes behind
            is_alone = (cycle is None or cycle.response_complete) and not self._goes_on
            if not is_alone or self._get_upgrade() != b"websocket" or heads.has_body(self.headers):
                return False
            return self.parser.should_upgrade() and taker.takes(cast(Any, self.scope), True)
        is_alone = self._part == BODY or not self._goes_on
        is_short = len(cycle.body) <= HIGH_WATER_LIMIT and not cycle.waiting_for_100_continue
        return is_alone and is_short and taker.takes(cast(Any, self.scope), False)

    def _give_away(self, body: bytes | bytearray) -> bool:
        """Whether somebody else keeps the connection's time, and answers, from here on."""
        taker, scope = self._taker, cast(Any, self.scope)
        head = heads.whole(scope["method"], self.url, scope["http_version"], self.headers, body)
        if taker is None or not taker.take(self.transport, scope, head):
            return False
        self._is_deaf = True
        self._part_company()
        self.connections.discard(self)
        self._working, self.cycle, self.parser = None, cast(Cycle, None), cast(Any, None)
        return True

    def on_body(self, body: bytes) -> None:
        """A piece of the body."""
        cycle = self.cycle
        if not cycle.response_complete:
            cycle.body += body
            if len(cycle.body) > HIGH_WATER_LIMIT:
                self.flow.pause_reading()
            cycle.wake()

    def _give_up(self, problem: Problem) -> None:
        """Out of a callback only an exception stops the parser."""
        self._problem = problem
        raise problem

    def on_message_complete(self) -> None:
        """The request is there."""
        if self._part == BODY:  # else an Upgrade, which is read again
            self._part = NOTHING
            self.cycle.more_body = False
            self.cycle.wake()

    # ── answering ────────────────────────────────────────────────────────────────────────────────

    def _answered(self, cycle: Cycle) -> None:
        """An answer was written: go on with the next request, or wait for one."""
        self.server_state.total_requests += 1
        if self._is_deaf and not self._farewell:
            return
        if not cycle.keep_alive:
            self._hang_up(linger=cycle.more_body)
        elif self.pipeline:
            following, app = self.pipeline.pop()
            self._working = cast(Cycle, following)
            self._start_asgi_task(following, app)
            self._stand(self._where())
        elif self._farewell:
            self.transport.write(self._farewell)
            self._hang_up(linger=True)
        else:
            self.flow.resume_reading()
            self._stand(self._where())

    def refuse(self, problem: Problem) -> None:
        """Answer what is no request, or not a whole one, and hang up; in its turn."""
        self._is_deaf = True
        meter.answered("malformed", problem.status, problem.code, 0.0)
        cycle, is_whole = self.cycle, self._part != BODY
        self._farewell = farewell(problem, self.server_state.default_headers)
        is_answered = cycle is None or cycle.response_complete
        if not is_answered:
            if self.pipeline and not is_whole:
                self.pipeline.popleft()  # the one that is refused
                is_whole = True
            if is_whole:
                self._part = NOTHING
                self._stand(self._where())
                self.flow.pause_reading()
                return
            cycle.disconnected = True  # whoever reads its body hears that nobody is there
            cycle.wake()
        # Whose body goes on after the answer has his answer.
        if is_whole or not cycle.response_started:
            self.transport.write(self._farewell)
        self._hang_up(linger=True)

    def _hang_up(self, linger: bool = False) -> None:
        """Close when all is written. Lingering: not before the client does, so that it can read
        what we said though it still sends (RFC 9112 9.6)."""
        self._is_deaf = True
        self._farewell = b""
        if linger and not self.transport.is_closing():
            self.transport.write_eof()
            self.flow.resume_reading()
        else:
            self.transport.close()
        has_more = self.flow.write_paused or (
            not linger and self.transport.get_write_buffer_size() > 0
        )
        self._stand(self._lobby.unread if has_more else self._lobby.lingering)
