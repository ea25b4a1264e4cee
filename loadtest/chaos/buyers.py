"""Buyers who want what there is too little of, and do to a service what buyers do: click twice,
lose patience, hang up, ask again with the same key, or with the same key for something else.

    reserve ─┬─ purchase          keyed or not, once or several times at once
             ├─ extend ─ purchase
             ├─ release
             ├─ pay ─ the provider's signed words: succeeded, failed, twice, late, never
             └─ nothing: it runs out

All that is random comes from one seed, so that a run can be tried again; what the service makes of
it differs from run to run.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import msgspec

from engine.identity.signatures import HEADERS, hook
from loadtest.chaos.diary import PATIENCE_SECONDS, Diary, Told, Wish
from loadtest.chaos.wire import Wire

API = "/api/v1"
TRIES_MAX = 60  # of one keyed request; far more than any fault lasts
BACK_OFF_SECONDS = (0.1, 1.0)
THINK_SECONDS = (0.005, 0.15)


class Stall(msgspec.Struct, frozen=True, kw_only=True):
    """A drop as buyers see it. `endings`: how often a hold of it ends in which way."""

    drop: int
    name: str
    endings: dict[str, float]
    weight: float = 1.0
    quantity_max: int = 3
    regulars: int = 0  # so many buyers come again and again; 0: everybody comes once
    hold_seconds: float = 4.0
    pay_seconds: float = 4.0


class Gate:
    """Whether buyers may act, linger in peace, or must come to an end."""

    def __init__(self) -> None:
        self.stalls: list[Stall] = []
        self.finishing = False
        self._open = asyncio.Event()

    async def passed(self) -> None:
        """Wait until it is open."""
        await self._open.wait()

    def open(self) -> None:
        """Go on."""
        self._open.set()

    def shut(self) -> None:
        """Rest; what is under way comes to its end."""
        self._open.clear()

    def finish(self) -> None:
        """Begin nothing new, and insist on what is not known yet."""
        self.finishing = True
        self._open.set()


class Buyer:
    """One buyer after the other, with a few connections of their own."""

    def __init__(self, diary: Diary, gate: Gate, port: int, name: str, secret: str) -> None:
        self._diary, self._gate, self._name = diary, gate, name
        self._dice = random.Random(name)
        self._wires = [Wire(port) for _ in range(3)]
        self._hook = hook(secret)
        self._count = 0
        self._endings: dict[str, Callable[[Stall, dict[str, Any]], Awaitable[None]]] = {
            "purchase": self._purchase,
            "extend": self._extend,
            "release": self._release,
            "pay": self._pay,
            "leave": self._leave,
        }

    async def shop(self) -> None:
        """Until it is time to finish."""
        try:
            while not self._gate.finishing:
                await self._gate.passed()
                await self._think(*THINK_SECONDS)
                if self._gate.stalls and not self._gate.finishing:
                    await self._visit()
        finally:
            for wire in self._wires:
                wire.close()

    async def _think(self, least: float, most: float) -> None:
        if not self._gate.finishing:
            await asyncio.sleep(self._dice.uniform(least, most))

    def _next(self) -> str:
        """A name nobody had before."""
        self._count += 1
        return f"{self._name}-{self._count}"

    # ── a visit ──────────────────────────────────────────────────────────────────────────────

    async def _visit(self) -> None:
        dice = self._dice
        stall = dice.choices(self._gate.stalls, [each.weight for each in self._gate.stalls])[0]
        if dice.random() < 0.1:
            await self._poll(stall)
        buyer = self._next()
        if stall.regulars:  # shared by all processes: it is their limits that are tried
            buyer = f"regular-{stall.drop}-{dice.randrange(stall.regulars)}"
        quantity = dice.randint(1, stall.quantity_max)
        hold = await self._reserve(stall, buyer, quantity)
        if hold is None:
            return
        await self._think(*THINK_SECONDS)
        ending = dice.choices(list(stall.endings), list(stall.endings.values()))[0]
        await self._endings[ending](stall, hold)
        if dice.random() < 0.1:
            await self._look(stall, hold)

    async def _reserve(self, stall: Stall, buyer: str, quantity: int) -> dict[str, Any] | None:
        wish = Wish(
            verb="reserve",
            method="POST",
            path=f"{API}/reservations",
            drop=stall.drop,
            body={"dropId": stall.drop, "userId": buyer, "quantity": quantity},
            buyer=buyer,
            key=f"k-{self._next()}" if self._dice.random() < 0.8 else "",
            quantity=quantity,
        )
        told, copies = await self._insist(wish)
        if not wish.key and told.outcome == "info":
            await self._look_for(stall, buyer)
        if wish.key and told.outcome == "ok" and self._dice.random() < 0.05:
            await self._misuse(wish, copies)
        return told.value if told.outcome == "ok" else None

    async def _misuse(self, wish: Wish, copies: int) -> None:
        """The key of this wish, for another one."""
        self._diary.tally.tricks["another body"] += 1
        other = wish.quantity % 3 + 1
        changed = msgspec.structs.replace(
            wish, quantity=other, body={**wish.body, "quantity": other}
        )
        await self._diary.attempt(changed, self._wire(), copies + 1)

    async def _poll(self, stall: Stall) -> None:
        path = f"{API}/drops/{stall.drop}/stock"
        await self._once(Wish(verb="stock", method="GET", path=path, drop=stall.drop))

    async def _look(self, stall: Stall, hold: dict[str, Any]) -> None:
        path = f"{API}/reservations/{hold['id']}?userId={hold['userId']}"
        await self._once(
            Wish(
                verb="look",
                method="GET",
                path=path,
                drop=stall.drop,
                buyer=hold["userId"],
                subject=hold["id"],
            )
        )

    async def _look_for(self, stall: Stall, buyer: str) -> None:
        """Without a key nobody can ask again: but what one holds can be seen."""
        path = f"{API}/reservations?userId={buyer}"
        await self._once(Wish(verb="look", method="GET", path=path, drop=stall.drop, buyer=buyer))

    # ── how a hold ends ──────────────────────────────────────────────────────────────────────

    async def _purchase(self, stall: Stall, hold: dict[str, Any]) -> None:
        reference = f"ref-{self._next()}" if self._dice.random() < 0.3 else ""
        body = {"reservationId": hold["id"], "userId": hold["userId"]}
        if reference:
            body["paymentReference"] = reference
        wish = self._about(stall, hold, "purchase", "POST", f"{API}/purchases", body)
        await self._insist(msgspec.structs.replace(wish, reference=reference))

    async def _extend(self, stall: Stall, hold: dict[str, Any]) -> None:
        await self._prolong(stall, hold, "extend")
        await self._think(0.0, 0.7 * stall.hold_seconds)
        if self._dice.random() < 0.5 and "purchase" in stall.endings:
            await self._purchase(stall, hold)

    async def _release(self, stall: Stall, hold: dict[str, Any]) -> None:
        path = f"{API}/reservations/{hold['id']}?userId={hold['userId']}"
        await self._insist(self._about(stall, hold, "release", "DELETE", path, None))

    async def _leave(self, stall: Stall, hold: dict[str, Any]) -> None:
        """It runs out, with somebody looking now and then, or coming too late."""
        if self._dice.random() < 0.1:
            await self._think(stall.hold_seconds * 0.9, stall.hold_seconds * 1.1)
            if "purchase" in stall.endings:
                await self._purchase(stall, hold)

    async def _pay(self, stall: Stall, hold: dict[str, Any]) -> None:
        told = await self._prolong(stall, hold, "pay")
        if told.outcome != "ok":
            return
        reference = f"pay-{self._next()}"
        manners = {"ok": 5, "declined": 1, "declined_then_ok": 1, "twice": 2, "late": 2, "lost": 1}
        manner = self._dice.choices(list(manners), list(manners.values()))[0]
        self._diary.tally.tricks[f"payment {manner}"] += 1
        if manner == "late":
            await self._think(stall.hold_seconds + stall.pay_seconds, 1.2 * stall.hold_seconds + 5)
        else:
            await self._think(0.0, 1.0)
        if manner.startswith("declined"):
            await self._say(stall, hold, f"{reference}-declined", "failed")
        if manner == "twice":
            words = [self._say(stall, hold, reference, "succeeded") for _ in range(2)]
            await asyncio.gather(*words)
        elif manner in ("ok", "late", "declined_then_ok"):
            await self._say(stall, hold, reference, "succeeded")

    async def _say(self, stall: Stall, hold: dict[str, Any], reference: str, status: str) -> None:
        """The provider's word, until the shop has heard it."""
        notice = {
            "reference": reference,
            "reservationId": hold["id"],
            "status": status,
            "amount": hold["amount"],
            "currency": hold["currency"],
        }
        wish = Wish(
            verb="callback",
            method="POST",
            path=f"{API}/payments/callback",
            drop=stall.drop,
            body=msgspec.json.encode(notice),
            buyer=hold["userId"],
            subject=hold["id"],
            reference=reference,
            said=status,
        )
        told, copy = Told("info"), 0
        wire = Wire(self._wires[0].port)
        while told.outcome != "ok" and copy < TRIES_MAX:
            if copy:
                await self._pause()
            copy += 1
            signed = msgspec.structs.replace(wish, headers=self._sign(wish.body, reference))
            told = await self._diary.attempt(signed, wire, copy)
        wire.close()

    def _sign(self, body: bytes, reference: str) -> dict[str, str]:
        id, now = f"msg_{reference}", datetime.now(UTC)
        words = (id, str(int(now.timestamp())), self._hook.sign(id, now, body.decode()))
        return dict(zip(HEADERS, words, strict=True))

    async def _prolong(self, stall: Stall, hold: dict[str, Any], verb: Any) -> Told:
        path = f"{API}/reservations/{hold['id']}/{verb}"
        wish = self._about(stall, hold, verb, "POST", path, {"userId": hold["userId"]})
        return (await self._insist(wish))[0]

    def _about(
        self, stall: Stall, hold: dict[str, Any], verb: Any, method: str, path: str, body: Any
    ) -> Wish:
        keyed = self._dice.random() < 0.85
        return Wish(
            verb=verb,
            method=method,
            path=path,
            drop=stall.drop,
            body=body,
            buyer=hold["userId"],
            key=f"k-{self._next()}" if keyed else "",
            quantity=hold["quantity"],
            subject=hold["id"],
        )

    # ── sending ──────────────────────────────────────────────────────────────────────────────

    def _wire(self) -> Wire:
        return self._dice.choice(self._wires)

    async def _once(self, wish: Wish) -> Told:
        return await self._diary.attempt(wish, self._wires[0])

    async def _pause(self) -> None:
        await asyncio.sleep(self._dice.uniform(*BACK_OFF_SECONDS))
        await self._gate.passed()

    async def _insist(self, wish: Wish) -> tuple[Told, int]:
        """Send it in one of many ways; with a key, again until it is known what became of it. What
        was told at last, and how often it was sent."""
        told, copies = await self._first(wish)
        if not wish.key:
            return told, copies
        ambiguous = told.outcome == "info"
        self._diary.tally.ambiguous += ambiguous
        wanted = ambiguous or (told.code == "RETRYABLE" and self._dice.random() < 0.7)
        while wanted and told.outcome != "ok" and copies < TRIES_MAX:
            await self._pause()
            copies += 1
            told = await self._diary.attempt(wish, self._wire(), copies)
            ambiguous = self._weigh(told, ambiguous)
            wanted = told.outcome == "info" or told.code == "RETRYABLE"
        return told, copies

    def _weigh(self, told: Told, ambiguous: bool) -> bool:
        """Count what has become definite; whether it still is not."""
        now = told.outcome == "info"
        self._diary.tally.ambiguous += now and not ambiguous
        self._diary.tally.resolved += ambiguous and not now
        return now

    async def _first(self, wish: Wish) -> tuple[Told, int]:
        tricks, dice = self._diary.tally.tricks, self._dice
        chance = dice.random()
        if wish.key and chance < 0.12:  # the same, two or three times at once
            copies = dice.randint(2, 3)
            tricks["at once"] += copies - 1
            all_told = await asyncio.gather(
                *(
                    self._diary.attempt(wish, wire, number)
                    for number, wire in enumerate(self._wires[:copies], 1)
                )
            )
            return min(
                all_told, key=lambda told: ("ok", "info", "fail").index(told.outcome)
            ), copies
        if chance < 0.16:
            tricks["hung up"] += 1
            hang_up = dice.choice((0.0, 0.002, 0.01, 0.05))
            return await self._diary.attempt(wish, self._wire(), hang_up_seconds=hang_up), 1
        patience = PATIENCE_SECONDS
        if chance < 0.26:
            tricks["impatient"] += 1
            patience = dice.uniform(0.02, 1.0)
        return await self._diary.attempt(wish, self._wire(), patience_seconds=patience), 1
