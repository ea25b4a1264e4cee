"""The engine itself, recorded in a rush of all verbs with a killed worker, is without fault."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from loadtest.chaos import facts
from loadtest.chaos.checker import judge
from loadtest.chaos.history import Complete, Invoke, Outcome, Verb, Writer, now
from loadtest.drills import table
from tests.support.http import Reply
from tests.support.provider import signed
from tests.support.service import Service
from tests.support.wait import wait_until

UNITS, CLIENTS, SECONDS = 60, 24, 3.0


class Diary:
    """One process's requests, written down before the sending and after the answer."""

    def __init__(self, service: Service, writer: Writer, name: str) -> None:
        self._service, self._writer, self._name, self._ops = service, writer, name, 0

    async def ask(
        self, verb: Verb, method: str, path: str, body: Any = None, **words: Any
    ) -> tuple[Outcome, dict[str, Any]]:
        """Send it once."""
        op = self._ops = self._ops + 1
        self._writer.write(Invoke(now(), self._name, op, verb, **words))
        headers = {"idempotency-key": words["key"]} if words.get("key") else {}
        if verb == "callback":
            headers |= signed(body)
        try:
            reply = await self._service.send(method, path, body, headers)
            answer = _read(self._name, op, reply)
        except (ConnectionError, EOFError):
            answer = Complete(now(), self._name, op, "info")
        self._writer.write(answer)
        return answer.outcome, answer.value


def _read(name: str, op: int, reply: Reply) -> Complete:
    value = reply.json if reply.body else {}
    code = value.get("error", "") if reply.status >= 400 else ""
    outcome: Outcome = "ok" if reply.status < 300 else "info"
    if code == "RETRYABLE" or (400 <= reply.status < 500 and code != "IN_PROGRESS"):
        outcome = "fail"
    replayed = "idempotent-replayed" in reply.headers
    return Complete(now(), name, op, outcome, reply.status, code, replayed, value)


class Buyer:
    """One client after another thing: each buyer comes with a key or without, often twice."""

    def __init__(self, diary: Diary, drop: int, name: str) -> None:
        self._diary, self._drop, self._name = diary, drop, name
        self._dice, self._numbers = random.Random(name), iter(range(1_000_000))

    async def shop(self, until: float) -> None:
        """Until this moment of the monotonic clock."""
        while time.monotonic() < until:
            await self._visit()

    async def _visit(self) -> None:
        dice = self._dice
        buyer = f"{self._name}-{next(self._numbers) % 40}"
        key = f"k{next(self._numbers)}" if dice.random() < 0.8 else ""
        quantity = dice.randint(1, 2)
        wish = {"dropId": self._drop, "userId": buyer, "quantity": quantity}
        words = {"drop": self._drop, "buyer": buyer, "key": key, "quantity": quantity}
        copies = dice.choice([1, 1, 2, 3]) if key else 1
        told = await asyncio.gather(
            *(
                self._diary.ask("reserve", "POST", "/reservations", wish, copy=n + 1, **words)
                for n in range(copies)
            )
        )
        if key and dice.random() < 0.1:
            other = wish | {"quantity": 3 - quantity}
            await self._diary.ask(
                "reserve",
                "POST",
                "/reservations",
                other,
                copy=9,
                **words | {"quantity": 3 - quantity},
            )
        hold = next((value for outcome, value in told if outcome == "ok"), None)
        await self._diary.ask("stock", "GET", f"/drops/{self._drop}/stock", drop=self._drop)
        if hold is not None:
            await self._end(hold)

    async def _end(self, hold: dict[str, Any]) -> None:
        dice, id, buyer = self._dice, hold["id"], hold["userId"]
        key = f"k{next(self._numbers)}" if dice.random() < 0.8 else ""
        words = {"drop": self._drop, "buyer": buyer, "subject": id, "key": key}
        body = {"reservationId": id, "userId": buyer}
        way = dice.choice(["buy", "buy", "give back", "extend", "pay", "leave"])
        if way == "extend":
            await self._diary.ask("extend", "POST", f"/reservations/{id}/extend", body, **words)
        elif way == "give back":
            path = f"/reservations/{id}?userId={buyer}"
            await self._diary.ask("release", "DELETE", path, **words)
        elif way == "pay":
            await self._diary.ask("pay", "POST", f"/reservations/{id}/pay", body, **words)
            await asyncio.sleep(dice.choice([0.0, 1.2]))
            for number in range(dice.randint(1, 2)):
                await self._say(hold, f"ref-{id}-{number}")
        elif way == "buy":
            if dice.random() < 0.2:
                await asyncio.sleep(1.0)
            wants = [
                self._diary.ask("purchase", "POST", "/purchases", body, copy=n + 1, **words)
                for n in range(dice.randint(1, 2))
            ]
            await asyncio.gather(*wants)

    async def _say(self, hold: dict[str, Any], reference: str) -> None:
        notice = {
            "reference": reference,
            "reservationId": hold["id"],
            "status": "succeeded",
            "amount": hold["amount"],
            "currency": hold["currency"],
        }
        words = {"drop": self._drop, "subject": hold["id"], "reference": reference}
        body = json.dumps(notice).encode()
        outcome, tries = "info", 0
        while outcome != "ok" and tries < 20:
            tries += 1
            outcome, _ = await self._diary.ask(
                "callback", "POST", "/payments/callback", body, copy=tries, **words
            )


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Where the run leaves what it saw."""
    place = tmp_path / "run"
    place.mkdir()
    yield place


@pytest.mark.at_length
@pytest.mark.slow
async def test_a_rush_with_a_killed_worker_is_found_without_fault(
    service: Service, database: str, folder: Path
) -> None:
    await facts.install(database)
    terms = {"holdSeconds": 1, "paySeconds": 1, "maxPerBuyer": 2, "maxPerOrder": 2}
    drop = await service.open_drop(UNITS, **terms)
    with Writer(folder / "client-1.jsonl") as writer:
        until = time.monotonic() + SECONDS
        buyers = [
            Buyer(Diary(service, writer, f"client-{n}"), drop, f"b{n}") for n in range(CLIENTS)
        ]
        rush = [asyncio.create_task(each.shop(until), name="buyer") for each in buyers]
        await asyncio.sleep(SECONDS / 2)
        await service.kill(service.workers.pop(0))
        await service.start_worker()
        await asyncio.gather(*rush)
    await wait_until(lambda: service.settled(drop), "all is settled", seconds=30)
    await facts.export(database, folder)

    verdict = judge(folder)

    told = "\n".join(map(verdict.story, verdict.findings))
    print(table(verdict.rows))
    assert not verdict.findings, told
    # Of those there are none in this rush.
    nothing_of = ["heals judged", "processes compared"]
    assert [row.measure for row in verdict.rows if row.holds is False] == nothing_of
