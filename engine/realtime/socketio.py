"""Socket.IO, for clients of other systems: the facts under the names and keys they know.

Three vocabularies on one socket, as their READMEs have them; each client listens for its own.
A socket hears all that is public: the systems it was written for knew one room or none. What names
a buyer or a reservation goes to that buyer's sockets alone: their `auth` holds its token.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

import socketio
import structlog
from engineio import packet
from msgspec.structs import replace
from socketio.exceptions import ConnectionRefusedError as Refused
from starlette.types import Receive, Scope, Send

from engine.identity.access import as_buyer
from engine.identity.models import Caller
from engine.infra.errors import Fault, Forbidden, Problem, RateLimited, Retryable
from engine.infra.http import Answer, Call, encode, iso, serve
from engine.infra.meter import meter
from engine.realtime.cryovault import slot_events
from engine.realtime.models import Batch, Bought, Moved, SlotMoved
from engine.realtime.places import ENTRIES_MAX
from engine.realtime.sessions import Frame, Sessions, Text, Told, session_of
from engine.record.views import EntryView
from engine.sale.models import Hold
from engine.sale.views import Recent, drop_view

log = structlog.get_logger()

# Engine.IO has no frame for several events, and each passes a queue and a task. Over so many a
# second a client hears less often what came to pass meanwhile, at least once in REST_SECONDS_MAX.
FRAMES_A_SECOND = 5_000
REST_SECONDS_MAX = 0.9
BEGIN_AGAIN_SECONDS = 1.0
PURCHASES_TOLD = 3  # of a drop, however much was put together
WELCOME = {"message": "Connected to inventory system"}
SESSIONS_MAX = 10_000
COME_AGAIN_SECONDS = 10
_ENDED = ("expired", "released")


class News(NamedTuple):
    """A frame for everybody; for those it is about, on their own sockets, another one."""

    frame: Frame
    owners: frozenset[str | None] = frozenset()
    own: Callable[[str], Frame] | None = None

    def of(self, buyer: str) -> Frame:
        """As this buyer's sockets hear it."""
        return self.own(buyer) if self.own is not None and buyer in self.owners else self.frame


def _nobody(_: Scope) -> str | None:
    return None


class _Server(socketio.AsyncServer):  # type: ignore[misc]  # it has no types
    def _engineio_server_class(self) -> type[Sessions]:
        return Sessions


class SocketIo:
    """The facade, an ASGI app: http and websocket scopes of /socket.io, whatever their path.

    origins   of pages elsewhere that may connect, besides our own
    enter     who calls, from a request's headers (`Door.caller`)
    name      of this process, in the ids of its sessions; unique on the machine, without a dot
    begin     makes sure that somebody reads the facts (`Hub.begin`)
    arrive    charges the caller's address, and knows guessers (`Budgets.arrive`)
    subject   under which name a request's address is counted; None: not at all
    """

    def __init__(
        self,
        origins: Collection[bytes],
        enter: Callable[[Call], Awaitable[Caller]],
        name: str,
        begin: Callable[[], Awaitable[None]] | None = None,
        arrive: Callable[[Call], None] | None = None,
        sessions_max: int = SESSIONS_MAX,
        subject: Callable[[Scope], str | None] = _nobody,
        sessions_of_one_max: int = SESSIONS_MAX,
    ) -> None:
        self._origins, self._enter, self._arrive = origins, enter, arrive
        self._begin = begin
        self._sessions_max, self._most_of_one = sessions_max, sessions_of_one_max
        self._subject = subject
        self.name = name
        self._server = _Server(
            serializer=Text, async_handlers=False, logger=False, name=name, subject=subject
        )
        self._sessions: Sessions = self._server.eio
        self._listeners: dict[str, str | None] = {}  # session → buyer, None: not known
        self._came_with: dict[str, str] = {}  # session → that of the account whose token it sent
        self._drops: dict[int, Moved] = {}  # what nobody was told yet
        self._holds: dict[str, Hold] = {}
        self._slots: dict[tuple[int, int], SlotMoved] = {}
        self._entries: list[EntryView] = []
        self._rests_until = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._server.on("connect", self._connect)
        self._server.on("disconnect", self._disconnect)
        self._server.on("join", _join)

    @property
    def count(self) -> int:
        """Sockets that listen."""
        return len(self._listeners)

    @property
    def dropped(self) -> int:
        """Sockets that were dropped because they did not read."""
        return self._sessions.dropped

    @property
    def buyers(self) -> set[str]:
        """Buyers who listen here: the feed brings their holds."""
        return {buyer for buyer in self._listeners.values() if buyer is not None}

    @property
    def sessions(self) -> set[str]:
        """The sessions of accounts with whose tokens sockets came."""
        return set(self._came_with.values())

    def end(self, sessions: Collection[str]) -> None:
        """The sockets that came with one of these go."""
        for socket in [sid for sid, one in self._came_with.items() if one in sessions]:
            meter.count("listeners_dropped", "session")
            self._sessions.start_background_task(self._sessions.disconnect, socket)

    async def close(self) -> None:
        """End all sessions; their clients come back to another process."""
        if self._timer is not None:
            self._timer.cancel()
        await self._sessions.close()

    # ── coming and going ─────────────────────────────────────────────────────────────────────

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or one WebSocket until it ends."""
        problem = self._problem(scope)
        if problem is None:
            told = Told(scope, send)
            try:
                await self._server.handle_request(scope, receive, told)
                problem = told.problem
                if problem is None:
                    return
            except Exception as wrong:  # of what strangers sent: it ends them alone
                log.debug("socketio.cut", why=type(wrong).__name__)
                problem = Problem("Something went wrong on our side.")
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008, "reason": problem.message})
            return

        async def refuse(_: Call) -> Answer:
            raise problem

        # As a GET: what there was of a body may have been read.
        await serve(refuse, "socketio", {**scope, "method": "GET"}, receive, send)

    def _problem(self, scope: Scope) -> Problem | None:
        """Why a request is not served; None: it is."""
        headers = dict(scope["headers"])
        origin = headers.get(b"origin")
        is_ours = origin is None or origin.partition(b"://")[2] == headers.get(b"host")
        if not is_ours and origin not in self._origins:
            return Forbidden("Pages of this origin may not connect: CORS_ORIGINS names others")
        if session_of(scope) is not None:
            return None
        if len(self._sessions.sockets) >= self._sessions_max:
            return Retryable("Too many listen here. Please try again.")
        subject = self._subject(scope)
        if subject is not None and self._sessions.clients[subject] >= self._most_of_one:
            most = f"At most {self._most_of_one} sessions an address"
            return RateLimited(most, seconds=COME_AGAIN_SECONDS)
        try:
            if self._arrive is not None:  # a session costs us more than its request costs them
                self._arrive(Call({**scope, "method": "GET"}, "socketio"))
        except Problem as problem:
            return problem
        return None

    async def _connect(self, sid: str, environ: dict[str, Any], auth: object = None) -> None:
        """A client introduces itself. Its token must be good, if it has one."""
        given = auth if isinstance(auth, dict) else {}
        try:
            buyer, account = await self._buyer(environ["asgi.scope"], given)
        except Problem as problem:
            raise Refused(
                problem.message, {"code": problem.code, "retryable": problem.retryable}
            ) from None
        session = self._server.manager.eio_sid_from_sid(sid, "/")
        if account:
            self._came_with[session] = account
        # When python-socketio has answered the introduction, not before.
        self._sessions.start_background_task(self._welcome, session, buyer)

    async def _buyer(self, scope: Scope, given: dict[str, Any]) -> tuple[str | None, str]:
        """Whose holds it hears, and the session of the account whose token it sent."""
        token, named = given.get("token"), given.get("userId")
        headers = [*scope["headers"]]
        if isinstance(token, str) and token:
            headers.append((b"authorization", b"Bearer " + token.encode()))
        call = Call({**scope, "method": "GET", "headers": headers}, "socketio")
        if self._arrive is not None:
            self._arrive(call)
        caller = await self._enter(call)
        if caller.kind in ("buyer", "admin"):
            return caller.subject, caller.session
        is_named = caller.kind == "open" and isinstance(named, str | int)
        return as_buyer(named) if is_named else None, ""

    async def _welcome(self, session: str, buyer: str | None) -> None:
        if self._server.manager.sid_from_eio_sid(session, "/") is None:
            return
        self._listeners[session] = buyer
        meter.count("listeners_met", "socketio")
        self._sessions.tell(session, _frame("connected", WELCOME))
        # Not before: the feed ends when nobody listens. A client that were refused now would not
        # try again by itself, so who comes while Postgres is away waits for it here.
        while self._begin is not None and session in self._listeners:
            try:
                await self._begin()
                break
            except Fault:
                await asyncio.sleep(BEGIN_AGAIN_SECONDS)

    async def _disconnect(self, sid: str, reason: str) -> None:
        session = self._server.manager.eio_sid_from_sid(sid, "/")
        self._listeners.pop(session, None)
        self._came_with.pop(session, None)

    # ── what there is to hear ────────────────────────────────────────────────────────────────

    def hear(self, batch: Batch) -> None:
        """Tell everybody of one look at the facts: now, or with the next ones if there was more to
        tell than there is time for."""
        for moved in batch.drops:
            now = replace(moved, has_moved=True) if batch.is_fresh else moved
            before = self._drops.get(now.drop.id)
            self._drops[now.drop.id] = now if before is None else _both(before, now)
        self._holds |= {hold.id: hold for hold in batch.holds}
        for slot in batch.slots:
            key = slot.slot.drop_id, slot.slot.number
            lapsed = slot.lapsed or (self._slots[key].lapsed if key in self._slots else None)
            self._slots[key] = replace(slot, lapsed=lapsed)
        self._entries = [*self._entries, *batch.entries][-ENTRIES_MAX:]
        if self._timer is None:
            rest = self._rests_until - time.monotonic()
            if rest > 0:
                self._timer = asyncio.get_running_loop().call_later(rest, self._tell)
            else:
                self._tell()

    def _tell(self) -> None:
        """Tell what there is; each frame is encoded once."""
        self._timer = None
        drops, holds, self._drops, self._holds = self._drops, self._holds, {}, {}
        slots, entries, self._slots, self._entries = self._slots, self._entries, {}, []
        if not self._listeners:
            return
        freezers = {drop_id for drop_id, _ in slots}
        news = [each for moved in drops.values() for each in _news(moved, freezers)]
        news += [each for slot in slots.values() for each in _slot_news(slot)]
        news += [News(_frame("ledger_update", {"entry": entry})) for entry in entries]
        owned: dict[str | None, list[Hold]] = {}
        for hold in holds.values():
            owned.setdefault(hold.buyer, []).append(hold)
        concerned = frozenset[str | None]().union(owned, *(each.owners for each in news))
        frames, told = [each.frame for each in news], 0
        for session, buyer in self._listeners.items():
            mine = frames
            if buyer is not None and buyer in concerned:
                mine = [each.of(buyer) for each in news]
                mine += _own_ends(owned.get(buyer, []), drops, freezers)
            for frame in mine:
                self._sessions.tell(session, frame)
            told += len(mine)
        meter.count("live_sent", by=told)
        self._rests_until = time.monotonic() + min(told / FRAMES_A_SECOND, REST_SECONDS_MAX)


async def _join(sid: str, *rooms: object) -> None:
    """Any room may be joined, and nothing changes: every socket hears all that is public."""


def _frame(event: str, data: object) -> Frame:
    """One Socket.IO event as an Engine.IO packet, which is encoded once for all."""
    return Frame(packet.MESSAGE, f"2{encode([event, data]).decode()}")


def _both(before: Moved, after: Moved) -> Moved:
    """Two looks at one drop as one."""
    return replace(
        after,
        is_new=before.is_new or after.is_new,
        has_changed=before.has_changed or after.has_changed,
        has_moved=before.has_moved or after.has_moved,
        bought=[*before.bought, *after.bought][-PURCHASES_TOLD:],
        recent=before.recent if after.recent is None else after.recent,
        expired=before.expired + after.expired,
        released=before.released + after.released,
    )


def _news(moved: Moved, freezers: Collection[int]) -> Iterator[News]:
    """What everybody is told of one drop, in the order the other systems tell it."""
    drop = moved.drop
    if moved.is_new:
        recent = [Recent(one.username, iso(one.purchased_at)) for one in moved.recent or ()]
        yield News(_frame("new_drop", drop_view(drop, recent)))
    if moved.has_moved:
        stock = {"dropId": drop.id, "availableStock": drop.free}
        yield News(_frame("stockUpdate", stock))
        yield News(_frame("inventory_update", stock))
    for one in moved.bought:
        moment = iso(one.purchased_at)
        yield News(_purchase(one, None), frozenset({one.buyer}), partial(_purchase, one))
        told = {"dropId": drop.id, "username": one.username, "purchasedAt": moment}
        yield News(_frame("purchase_update", told))
    if moved.expired or moved.released:
        has_expired = moved.expired > 0 and drop.id not in freezers  # that is told slot by slot
        for frame in _ended(drop.id, drop.free, None, has_expired):
            yield News(frame)


def _slot_news(moved: SlotMoved) -> Iterator[News]:
    """What everybody is told of one slot, and its owners."""
    lapsed_of = moved.lapsed[1] if moved.lapsed else None
    owners = frozenset({moved.slot.buyer, lapsed_of})
    for n, (event, told) in enumerate(slot_events(moved, None)):

        def own(buyer: str, n: int = n) -> Frame:
            return _frame(*slot_events(moved, buyer)[n])

        yield News(_frame(event, told), owners, own)


def _own_ends(
    holds: Iterable[Hold], drops: Mapping[int, Moved], freezers: Collection[int]
) -> list[Frame]:
    """For a buyer's own sockets: its holds that ended, with their ids."""
    frames = []
    for hold in holds:
        if hold.status in _ENDED:
            moved = drops.get(hold.drop_id)
            left = hold.available if moved is None else moved.drop.free
            has_expired = hold.status == "expired" and hold.drop_id not in freezers
            frames += _ended(hold.drop_id, left, hold, has_expired)
    return frames


def _purchase(one: Bought, buyer: str | None) -> Frame:
    moment = iso(one.purchased_at)
    data = {"dropId": one.drop_id, "userId": buyer, "username": one.username, "timestamp": moment}
    return _frame("newPurchase", data)


def _ended(drop_id: int, free: int | None, hold: Hold | None, has_expired: bool) -> list[Frame]:
    """Holds that ended: for their owner with its ids, for everybody without, once a drop."""
    ids = (None, None) if hold is None else (hold.id, hold.buyer)
    update = {
        "reservationId": ids[0],
        "dropId": drop_id,
        "userId": ids[1],
        "availableStock": free,
    }
    frames = [_frame("reservation_update", update)]
    if has_expired:  # of a drop: it has no slots
        gone = {"reservationId": ids[0], "dropId": drop_id, "slotId": None, "slotName": None}
        frames.append(_frame("reservation_expired", gone))
    return frames
