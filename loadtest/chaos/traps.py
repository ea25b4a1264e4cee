"""What may become of one statement: the proxies that understand a protocol lay traps for them.

    lose       it runs, its reply does not arrive, the client's connection is reset
    drop       it does not arrive, the client's connection is reset
    tear       its first `bytes` bytes arrive, then both connections end
    hold       the client's connection is reset, and the statement arrives when it is let go or
               after `seconds`: a zombie
    duplicate  it arrives twice, the client gets the first reply (Redis)

A trap catches the next statement that its marker matches. `risk` does the same by chance: each
statement that one of the `risky` markers matches (none given: every statement) meets a fate with
its probability, drawn from the proxy's seed. What was done is counted in `done`, by fate.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Literal

import msgspec

from loadtest.chaos.lane import reset
from loadtest.chaos.proxy import Link, Proxy

Fate = Literal["lose", "drop", "tear", "hold", "duplicate"]
HOLD_SECONDS = (0.2, 2.0)  # a statement that is held by chance arrives so much later
HEAL_SECONDS = 5.0  # for held statements to be answered
REPLY_BYTES = 1 << 20  # of a caught reply are kept


class Trap(msgspec.Struct, eq=False):
    """What becomes of the next statement that `marker` matches."""

    marker: str
    fate: Fate
    caught: asyncio.Event  # set when it has one
    let_go: asyncio.Event  # set it to deliver what is held
    reply: asyncio.Future[bytes]  # what the server answered and the client did not get
    seconds: float | None = None  # held so long at the most
    bytes: int = 0  # that arrive of what is torn

    @classmethod
    def lay(cls, marker: str, fate: Fate, seconds: float | None = None, size: int = 0) -> Trap:
        """A trap that has caught nothing."""
        reply = asyncio.get_running_loop().create_future()
        return cls(marker, fate, asyncio.Event(), asyncio.Event(), reply, seconds, size)


class TrapLink(Link):
    """A link that does to a statement what its trap says."""

    proxy: TrapProxy

    def __init__(self, proxy: Proxy) -> None:
        super().__init__(proxy)
        self.is_spent = False  # what the client says after a caught statement is not heard
        self._traps: list[Trap] = []  # whose replies are not here yet
        self._held: asyncio.Task[None] | None = None
        self._reply = bytearray()

    def expect(self, trap: Trap) -> None:
        """The next thing that goes to the server is a caught statement: `keep` its reply, and then
        say that it was `answered`."""
        raise NotImplementedError

    def snap(self, trap: Trap, statement: bytes) -> None:
        """Do to a whole statement what its trap says."""
        self.proxy.done[trap.fate] += 1
        self.is_spent = trap.fate != "duplicate"
        if trap.fate not in ("drop", "tear"):
            self._traps.append(trap)
        if trap.fate in ("lose", "duplicate"):
            if trap.fate == "duplicate":
                self.forth.carry(statement)
            self.expect(trap)
            self.forth.carry(statement)
        elif trap.fate == "hold":
            self.client.lose(reset)
            self.proxy.links.discard(self)
            self.proxy.held[self] = trap
            self._held = self.proxy.spawn(self._hold(trap, statement), "proxy-hold")
        else:
            if trap.fate == "tear":
                self.forth.carry(statement[: trap.bytes])
            self.break_off()
        trap.caught.set()

    async def _hold(self, trap: Trap, statement: bytes) -> None:
        try:
            await asyncio.wait_for(trap.let_go.wait(), trap.seconds)
        except TimeoutError:
            trap.let_go.set()
        self.expect(trap)
        self.forth.carry(statement)

    def keep(self, data: bytes) -> None:
        """A piece of a caught statement's reply."""
        self._reply += data[: max(0, REPLY_BYTES - len(self._reply))]

    def answered(self, trap: Trap) -> None:
        """Its reply is complete."""
        if not trap.reply.done():  # who waited for it may have given up
            trap.reply.set_result(bytes(self._reply))
        self._reply.clear()
        self._traps.remove(trap)
        if trap.fate != "duplicate":
            self.break_off()

    def ended(self) -> None:
        if self._held is not None:
            self._held.cancel()
        for trap in self._traps:
            if trap.reply.done():
                continue
            trap.reply.set_exception(ConnectionResetError("the connection ended before a reply"))
            trap.reply.exception()  # seen, whether or not somebody asks


class TrapProxy(Proxy):
    """A proxy that can be armed."""

    fates: tuple[Fate, ...] = ("lose", "drop", "tear", "hold")
    link = TrapLink

    def __init__(self, url: str, seed: int = 0) -> None:
        super().__init__(url, seed)
        self.risk: Mapping[Fate, float] = {}
        self.risky: tuple[str, ...] = ()
        self.held: dict[Link, Trap] = {}
        self._laid: list[Trap] = []

    def arm(
        self,
        marker: str,
        fate: Fate,
        times: int = 1,
        *,
        seconds: float | None = None,
        size: int = 0,
    ) -> Trap:
        """Lay a trap for the next statement that this matches; the first of `times` is returned.

        `seconds`: after which a held statement arrives unless it is let go. `size`: how many bytes
        of a torn one arrive.
        """
        if fate not in self.fates:
            raise ValueError(f"{fate}: here a statement's fate is one of {', '.join(self.fates)}")
        traps = [Trap.lay(marker, fate, seconds, size) for _ in range(times)]
        self._laid += traps
        return traps[0]

    def disarm(self) -> None:
        """Forget the traps that caught nothing."""
        self._laid.clear()

    def again(self, trap: Trap) -> None:
        """The statement it was about to catch never became whole: it waits for the next."""
        if trap.marker:
            self._laid.insert(0, trap)

    def matches(self, marker: str, said: str) -> bool:
        """Whether a marker means this statement."""
        return marker in said

    def caught_by(self, said: str) -> Trap | None:
        """The trap, or the chance, that this statement meets."""
        for trap in self._laid:
            if self.matches(trap.marker, said):
                self._laid.remove(trap)
                return trap
        if not self.risk or not self._is_risky(said):
            return None
        throw = self.dice.random()
        for fate, chance in self.risk.items():
            throw -= chance
            if throw < 0:
                return Trap.lay(
                    "", fate, self.dice.uniform(*HOLD_SECONDS), self.dice.randint(1, 99)
                )
        return None

    def _is_risky(self, said: str) -> bool:
        return not self.risky or any(self.matches(marker, said) for marker in self.risky)

    async def heal(self) -> None:
        """No toxic, no trap, no risk; held statements arrive now, and are waited for a while."""
        self.disarm()
        self.risk = {}
        await super().heal()
        for trap in self.held.values():
            trap.let_go.set()
        if self.held:
            await asyncio.wait([link.over for link in self.held], timeout=HEAL_SECONDS)

    async def close(self) -> None:
        """End everything; what is still held never arrives."""
        await super().close()
        await self.end(self.held, Link.reset)

    def living(self) -> tuple[Link, ...]:
        return (*super().living(), *self.held)

    def forget(self, link: Link) -> None:
        super().forget(link)
        self.held.pop(link, None)
