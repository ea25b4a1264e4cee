"""The mock provider: it behaves as told, tells the shop until the shop has heard, and its books and
the shop's agree."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from engine.identity.signatures import hook
from engine.infra.settings import Settings
from engine.ops.provider import Behaviour, Charge, Mix, MockProvider, behaviour, compare
from tests.support.provider import SECRET
from tests.support.service import Service
from tests.support.wait import wait_until

ROOT = Path(__file__).parents[2]
LONG, SHORT = {"holdSeconds": 60, "paySeconds": 60}, {"holdSeconds": 1, "paySeconds": 1}
PURCHASED, DUE = "purchased", "refund_due"

# behaviour, the drop's terms → the hold's end, and its payments' outcomes
ENDS: dict[str, tuple[dict[str, int], str, list[tuple[str, str | None, str | None]]]] = {
    "ok": (LONG, "purchased", [("succeeded", PURCHASED, None)]),
    "slow": (LONG, "purchased", [("succeeded", PURCHASED, None)]),
    "declined": (LONG, "paying", [("failed", None, None)]),
    "declined_then_ok": (
        LONG,
        "purchased",
        [("failed", None, None), ("succeeded", PURCHASED, None)],
    ),
    "duplicate": (LONG, "purchased", [("succeeded", PURCHASED, None)]),
    "twice": (
        LONG,
        "purchased",
        [("succeeded", PURCHASED, None), ("succeeded", DUE, "already_paid")],
    ),
    "out_of_order": (LONG, "purchased", [("succeeded", PURCHASED, None)]),
    "wrong_amount": (LONG, "paying", [("succeeded", DUE, "wrong_amount")]),
    "refunded": (LONG, "purchased", [("refunded", PURCHASED, None)]),
    "lost": (SHORT, "expired", []),
    "late": (SHORT, "purchased", [("succeeded", PURCHASED, None)]),
    "slow+duplicate+out_of_order": (LONG, "purchased", [("succeeded", PURCHASED, None)]),
}


@asynccontextmanager
async def selling(settings: Settings, folder: Path) -> AsyncIterator[Service]:
    async with Service.open(settings, folder, workers=1, PAYMENT_SECRET=SECRET) as service:
        yield service


async def begins(service: Service, drop: int, buyer: str) -> dict[str, Any]:
    """A hold whose payment has begun."""
    hold = await service.reserve(drop, buyer)
    paying = await service.send("POST", f"/reservations/{hold.json['id']}/pay", {"userId": buyer})
    assert paying.status == 200, paying.body
    begun: dict[str, Any] = paying.json
    return begun


async def rows(service: Service, path: str) -> list[dict[str, Any]]:
    """All of a list."""
    found: list[dict[str, Any]] = []
    cursor = ""
    while True:
        page = (await service.send("GET", f"{path}?limit=100{cursor}")).json
        found += page["data"]
        if page["nextCursor"] is None:
            return found
        cursor = f"&cursor={page['nextCursor']}"


async def test_every_behaviour_ends_as_it_is_written_down(
    settings: Settings, tmp_path: Path
) -> None:
    async with (
        selling(settings, tmp_path) as service,
        MockProvider(f"http://127.0.0.1:{service.port}", SECRET) as provider,
    ):
        holds: dict[str, str] = {}
        for name, (terms, _, _) in ENDS.items():
            drop = await service.open_drop(1, **terms)
            hold = await begins(service, drop, name.replace("+", "-"))
            how = behaviour(name, slow_seconds=0.2, late_seconds=3.0)
            await provider.pay(hold["id"], hold["amount"], hold["currency"], how)
            holds[name] = hold["id"]
        await provider.idle()

        for name, (_, status, payments) in ENDS.items():

            async def ended(id: str = holds[name], status: str = status) -> Any:
                shown = (await service.send("GET", f"/reservations/{id}")).json
                return shown if shown["status"] == status else None

            shown = await wait_until(ended, f"{name} is {status}")
            told = [
                (each["status"], each["outcome"], each["reason"])
                for each in shown.get("payments", [])
            ]
            assert sorted(told, key=str) == sorted(payments, key=str), name

    assert provider.tally.given_up == []
    assert set(provider.tally.answers) == {200}


@pytest.mark.at_length
@pytest.mark.slow
async def test_after_a_random_mix_the_books_agree_and_all_that_is_owed_is_paid_back(
    settings: Settings, tmp_path: Path
) -> None:
    weights = dict.fromkeys(ENDS, 1.0) | {"late+twice": 1.0, "declined_then_ok+duplicate": 1.0}
    mix = Mix(weights, seed=7, slow_seconds=0.3, late_seconds=2.5)
    async with (
        selling(settings, tmp_path) as service,
        MockProvider(f"http://127.0.0.1:{service.port}", SECRET, seed=7) as provider,
    ):
        drop = await service.open_drop(60, **SHORT)

        async def visits(n: int) -> None:
            hold = await begins(service, drop, f"buyer-{n}")
            await provider.pay(hold["id"], hold["amount"], hold["currency"], mix.choose()[1])

        await asyncio.gather(*(visits(n) for n in range(60)))
        await provider.idle()
        purchases = await rows(service, f"/drops/{drop}/purchases")
        owed = await rows(service, "/refunds")

        assert purchases
        assert owed
        assert not compare(provider.charges.values(), purchases, owed)
        stock = await service.stock(drop)
        assert stock["soldStock"] == len(purchases)
        given = await provider.give_back(owed)
        await provider.idle()
        assert sorted(given) == sorted(each["reference"] for each in owed)
        assert (await service.send("GET", "/refunds?status=due")).json["data"] == []
        assert all(provider.charges[reference].given_back for reference in given)
    assert len(provider.behaved) > 8
    assert provider.tally.given_up == []


class Deaf:
    """A shop that answers 503 so many times, then 200; it keeps what it was sent."""

    def __init__(self, refusals: int) -> None:
        self.refusals = refusals
        self.heard: list[tuple[dict[str, str], bytes]] = []

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        lines = [line.partition(": ") for line in head.splitlines()[1:] if line]
        headers = {name.lower(): value for name, _, value in lines}
        body = await reader.readexactly(int(headers["content-length"]))
        self.heard.append((headers, body))
        status = "503 Later" if len(self.heard) <= self.refusals else "200 OK"
        writer.write(
            f"HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n".encode()
        )
        await writer.drain()
        writer.close()
        await writer.wait_closed()


async def test_a_shop_that_is_busy_hears_it_again_signed_anew_under_the_same_name() -> None:
    shop = Deaf(refusals=2)
    server = await asyncio.start_server(shop, "127.0.0.1", 0)
    address = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"

    async with server, MockProvider(address, SECRET, seed=1) as provider:
        await provider.pay("r", "1.00", "USD", reference="pay_1")
        await provider.idle()

    assert provider.tally.answers == {503: 2, 200: 1}
    assert provider.tally.delivered == 1
    assert len({headers["webhook-id"] for headers, _ in shop.heard}) == 1
    assert len({body for _, body in shop.heard}) == 1
    for headers, body in shop.heard:
        hook(SECRET).verify(body, headers)


async def test_what_a_dead_shop_never_heard_is_counted_and_kept() -> None:
    server = await asyncio.start_server(Deaf(0), "127.0.0.1", 0)
    address = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    server.close()
    await server.wait_closed()

    async with MockProvider(address, SECRET, seed=1, attempts_max=3) as provider:
        await provider.pay("r", "1.00", "USD", reference="pay_1")
        await provider.idle()

    assert provider.tally.answers == {0: 3}
    assert [each.reference for each in provider.tally.given_up] == ["pay_1"]
    assert compare(provider.charges.values(), [], []).without == ["pay_1"]


async def test_a_shop_that_comes_back_in_time_hears_everything(
    settings: Settings, tmp_path: Path
) -> None:
    async with (
        selling(settings, tmp_path) as service,
        MockProvider(f"http://127.0.0.1:{service.port}", SECRET) as provider,
    ):
        drop = await service.open_drop(1, **LONG)
        hold = await begins(service, drop, "ann")
        await service.kill(service.workers[0])
        await provider.pay(hold["id"], hold["amount"], hold["currency"], "duplicate")
        await wait_until(_refused(provider), "nobody was there")
        await service.crowd.close()
        await service.start_worker()
        await provider.idle()

        shown = (await service.send("GET", f"/reservations/{hold['id']}")).json
        assert shown["status"] == "purchased"
    assert provider.tally.given_up == []


def _refused(provider: MockProvider) -> Any:
    async def look() -> int:
        return provider.tally.answers[0]

    return look


async def test_a_wrong_secret_buys_nothing(settings: Settings, tmp_path: Path) -> None:
    wrong = "a-secret-that-the-shop-has-never-heard-of"
    async with (
        selling(settings, tmp_path) as service,
        MockProvider(f"http://127.0.0.1:{service.port}", wrong, attempts_max=2) as provider,
    ):
        drop = await service.open_drop(1, **LONG)
        hold = await begins(service, drop, "ann")
        await provider.pay(hold["id"], hold["amount"], hold["currency"])
        await provider.idle()

        shown = (await service.send("GET", f"/reservations/{hold['id']}")).json
    assert provider.tally.answers == {401: 2}
    assert shown["status"] == "paying"
    assert "payments" not in shown


@pytest.mark.skipif(
    not (shutil.which("openssl") and shutil.which("curl")), reason="a shell's tools"
)
async def test_the_callback_of_the_manual_works_as_it_stands(
    settings: Settings, tmp_path: Path
) -> None:
    manual = (ROOT / "docs" / "OPERATIONS.md").read_text()
    (shown,) = (block for block in re.findall(r"```\n(.*?)```", manual, re.S) if "webhook" in block)
    async with selling(settings, tmp_path) as service:
        drop = await service.open_drop(1, price="139.00", **LONG)
        hold = await begins(service, drop, "ann")
        process = await asyncio.create_subprocess_exec(
            "bash",
            "-c",
            shown.replace("127.0.0.1:8000", f"127.0.0.1:{service.port}"),
            env=os.environ | {"PAYMENT_SECRET": SECRET, "RESERVATION": hold["id"]},
            stdout=asyncio.subprocess.PIPE,
        )
        out, _ = await process.communicate()

    assert (process.returncode, json.loads(out)["outcome"]) == (0, "purchased"), out


async def test_one_reference_is_one_payment_and_strangers_are_not_paid_back() -> None:
    server = await asyncio.start_server(Deaf(0), "127.0.0.1", 0)
    address = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server, MockProvider(address, SECRET) as provider:
        for _ in range(3):
            await provider.pay("r", "1.00", "USD", reference="pay_1")
        await provider.idle()
        given = await provider.give_back([{"reference": "pay_1"}, {"reference": "nobodys"}])
        await provider.idle()

    assert (given, provider.strangers) == (["pay_1"], ["nobodys"])
    assert provider.charges == {"pay_1": Charge("pay_1", "r", "1.00", "USD", given_back=True)}


def test_behaviours_are_read_from_words_and_drawn_alike_with_the_same_seed() -> None:
    assert behaviour("late+duplicate", copies=2) == Behaviour(
        manners=frozenset({"late", "duplicate"}), copies=2
    )
    for words in ("kind", "ok+declined"):
        with pytest.raises(ValueError, match=r"want one|one way"):
            behaviour(words)
    one, other = (Mix.read("ok=6 slow=2 late+duplicate=1", seed=3) for _ in range(2))
    drawn = [one.choose()[0] for _ in range(50)]
    assert drawn == [other.choose()[0] for _ in range(50)]
    assert set(drawn) == {"ok", "slow", "late+duplicate"}
    for text in ("ok=-1", "ok=0", "ok"):
        with pytest.raises(ValueError, match=r"weight|float"):
            Mix.read(text)


def test_what_does_not_agree_is_named() -> None:
    taken = [Charge(name, "r", "1.00", "USD") for name in ("a", "b", "c")]
    taken.append(Charge("d", "other", "1.00", "USD", given_back=True))
    bought = [{"paymentReference": "a", "status": "purchased"}]

    found = compare(taken, bought, [{"reference": "c"}])

    assert (found.without, found.twice, found.both) == ([], ["b"], [])
    assert compare(taken[:1], bought, [{"reference": "a"}]).both == ["a"]
    assert compare(taken[1:2], bought, []).without == ["b"]
