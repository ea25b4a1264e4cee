"""The drops of a run: what is fought over, and how its holds end.

small     never sold: sells out and refills, over and over, by release and expiry
rush      a new one each round, sold to the last unit: then SOLD_OUT is for good
medium    there is always something left of it, and most of it is bought
limited   two units a buyer, and the buyers come again
paid      paid for at a provider who is late, says things twice, or nothing
"""

from __future__ import annotations

import asyncio
import time
from functools import partial
from typing import Any

import msgspec

from loadtest.chaos.buyers import API, Stall
from loadtest.fleet import Untrustworthy, ask

OPEN_SECONDS = 30.0  # for the service to open a drop
SMALL = {"extend": 1.0, "release": 3.0, "leave": 4.0}
MIXED = {"purchase": 5.0, "extend": 1.0, "release": 1.5, "leave": 1.5}
PAID = {"pay": 6.0, "release": 1.0, "leave": 1.0}
REGULARS = 40
SMALL_UNITS = 12
UNITS_A_MINUTE = {"medium": 2_500, "limited": 40, "paid": 120, "rush": 120}


class Market:
    """Opens drops, and keeps the list of those that buyers know."""

    def __init__(self, port: int, seconds: float) -> None:
        self.open: list[Stall] = []
        self._port, self._minutes = port, max(seconds / 60, 1.0)
        self._rounds = 0

    async def stalls(self) -> list[Stall]:
        """Those of the next round."""
        if not self.open:
            self.open = [
                await self._stall("small-a", SMALL_UNITS, SMALL, hold_seconds=2, weight=3.0),
                await self._stall("small-b", 5, SMALL, hold_seconds=1, weight=2.0),
                await self._stall(
                    "medium", self._units("medium"), MIXED, hold_seconds=8, weight=3.0
                ),
                await self._stall(
                    "limited",
                    self._units("limited"),
                    MIXED,
                    hold_seconds=3,
                    per_buyer=2,
                    weight=1.5,
                ),
                await self._stall("paid", self._units("paid"), PAID, hold_seconds=4, weight=2.0),
            ]
        self._rounds += 1
        rush = await self._stall(
            f"rush-{self._rounds}", UNITS_A_MINUTE["rush"], MIXED, hold_seconds=3, weight=2.0
        )
        self.open = [each for each in self.open if not each.name.startswith("rush")] + [rush]
        return self.open

    def _units(self, name: str) -> int:
        return int(UNITS_A_MINUTE[name] * self._minutes)

    async def _stall(
        self,
        name: str,
        units: int,
        endings: dict[str, float],
        *,
        hold_seconds: int,
        per_buyer: int | None = None,
        weight: float = 1.0,
    ) -> Stall:
        wanted = {
            "name": f"Chaos {name}",
            "price": "10.00",
            "totalStock": units,
            "holdSeconds": hold_seconds,
            "paySeconds": 4,
            "maxPerBuyer": per_buyer,
            "maxPerOrder": per_buyer or 3,
        }
        drop = (await self._ask("/drops", wanted))["id"]
        while (await self._ask(f"/drops/{drop}"))["status"] == "preparing":
            await asyncio.sleep(0.1)
        return Stall(
            drop=drop,
            name=name,
            endings=endings,
            weight=weight,
            quantity_max=per_buyer or 3,
            regulars=REGULARS if per_buyer else 0,
            hold_seconds=hold_seconds,
        )

    async def _ask(self, path: str, body: Any = None) -> dict[str, Any]:
        """An operator's request, again until it is done. A drop that was opened twice harms
        nobody: nobody hears of the first one."""
        until, told = time.monotonic() + OPEN_SECONDS, "no answer"
        while time.monotonic() < until:
            try:
                status, value = await asyncio.to_thread(partial(ask, self._port, API + path, body))
            except (OSError, msgspec.DecodeError) as wrong:
                told = str(wrong)
            else:
                if status < 300:
                    return dict(value)
                told = f"{status} {value}"
            await asyncio.sleep(0.3)
        raise Untrustworthy(f"{path}: {told}")
