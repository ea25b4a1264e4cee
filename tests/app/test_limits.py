"""Who asks too much hears 429, who asked before hears the same again, and nobody else notices."""

from __future__ import annotations

import asyncio
import math
import re
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
import structlog

from engine import runtime
from engine.identity import apikeys, tokens
from engine.infra.settings import Settings
from engine.ops import devstack
from engine.runtime import Ground
from tests.faults.test_redis_forgets import redis_of
from tests.support.service import Service
from tests.support.shop import Shop
from tests.support.wait import wait_until

SECRET = "a secret for the tokens of limited people"
HOUR = "1/h burst "  # what comes back within a test is nothing

# A structured field (RFC 9651): a list of strings with whole numbers as parameters.
_ITEM = re.compile(r'"([\x20-\x21\x23-\x5b\x5d-\x7e]*)"((?:; ?[a-z]+=\d+)*)')


def _fields(text: str) -> dict[str, dict[str, int]]:
    """A RateLimit or RateLimit-Policy field, read strictly."""
    found = {}
    for member in text.split(", "):
        item = _ITEM.fullmatch(member)
        assert item is not None, text
        pairs = [pair.strip().split("=") for pair in item[2].split(";")[1:]]
        found[item[1]] = {name: int(value) for name, value in pairs}
    return found


@asynccontextmanager
async def _shop(settings: Settings, **limits: Any) -> AsyncIterator[Shop]:
    async with Shop.open(msgspec.structs.replace(settings, **limits)) as opened:
        yield opened


def _from(address: str) -> dict[str, str]:
    """Headers of a client behind our proxy, which is this machine."""
    return {"x-forwarded-for": address}


# ── the answer ───────────────────────────────────────────────────────────────────────────────────


async def test_a_refusal_says_by_which_limit_and_when_to_come_again(settings: Settings) -> None:
    async with _shop(settings, rate_writes_per_buyer="10/m burst 4") as shop:
        drop_id = await shop.open_drop(9, maxPerBuyer=None)
        replies = [await shop.reserve(drop_id, "ann") for _ in range(5)]
        bob = await shop.reserve(drop_id, "bob")

    assert [reply.status for reply in replies] == [201] * 4 + [429]
    assert bob.status == 201
    refused = replies[-1]
    assert (refused.error, refused.json["retryable"]) == ("RATE_LIMITED", True)
    seconds = int(refused.headers["retry-after"])
    assert refused.json["details"] == {"policy": "writes-per-buyer", "retrySeconds": seconds}
    assert 6 <= seconds <= 6 + math.ceil(6 / 4) + 1
    assert _fields(refused.headers["ratelimit-policy"]) == {"writes-per-buyer": {"q": 4, "w": 24}}
    assert _fields(refused.headers["ratelimit"]) == {"writes-per-buyer": {"r": 0, "t": seconds}}


async def test_what_is_left_is_told_once_less_than_half_is(settings: Settings) -> None:
    async with _shop(settings, rate_reads_per_buyer="1/s burst 4") as shop:
        replies = [await shop.send("GET", "/reservations?userId=ann") for _ in range(4)]

    assert [reply.status for reply in replies] == [200] * 4
    told = [_fields(each.headers["ratelimit"]) for each in replies if "ratelimit" in each.headers]
    assert told == [{"reads-per-buyer": {"r": r, "t": 4 - r}} for r in (1, 0)]


async def test_those_refused_together_do_not_come_back_together(settings: Settings) -> None:
    async with _shop(settings, rate_writes_per_buyer="1/m burst 1") as shop:
        drop_id = await shop.open_drop(9, maxPerBuyer=None)
        replies = [await shop.reserve(drop_id, "ann") for _ in range(30)]

    assert len({reply.headers["retry-after"] for reply in replies if reply.status == 429}) > 3


async def test_a_limit_lets_go_by_itself(settings: Settings) -> None:
    async with _shop(settings, rate_writes_per_buyer="20/s burst 1") as shop:
        drop_id = await shop.open_drop(9, maxPerBuyer=None)
        told = Counter([(await shop.reserve(drop_id, "ann")).status for _ in range(3)])

        async def passes() -> bool:
            return (await shop.reserve(drop_id, "ann")).status == 201

        await wait_until(passes, "the next one is let through")

    assert told[429] >= 1


async def test_off_is_off(settings: Settings) -> None:
    names = [name for name in settings.__struct_fields__ if name.startswith("rate_")]
    async with _shop(settings, **dict.fromkeys(names, "off")) as shop:
        replies = [await shop.send("GET", "/reservations?userId=ann") for _ in range(300)]

    assert {reply.status for reply in replies} == {200}


# ── who asked before ─────────────────────────────────────────────────────────────────────────────


async def _exhaust(shop: Shop, drop_id: int, buyer: str) -> None:
    async def is_refused() -> bool:
        return (await shop.reserve(drop_id, buyer)).status == 429

    await wait_until(is_refused, "the budget is spent", pause=0)


async def test_a_keyed_reservation_is_looked_up_before_it_is_refused(settings: Settings) -> None:
    async with _shop(settings, rate_writes_per_buyer=HOUR + "9") as shop:
        drop_id = await shop.open_drop(9, maxPerBuyer=None)
        first = await shop.reserve(drop_id, "ann", "hers")
        await _exhaust(shop, drop_id, "ann")
        before = await shop.stock(drop_id)

        again = await shop.reserve(drop_id, "ann", "hers")
        other = await shop.reserve(drop_id, "ann", "hers", quantity=2)
        fresh = await shop.reserve(drop_id, "ann", "new")

        assert (again.status, again.body) == (201, first.body)
        assert again.headers["idempotent-replayed"] == "true"
        assert (other.status, other.error) == (422, "IDEMPOTENCY_MISMATCH")
        assert (fresh.status, fresh.error) == (429, "RATE_LIMITED")
        assert await shop.stock(drop_id) == before
        assert await shop.settled(drop_id)


async def test_a_keyed_purchase_and_release_are_looked_up_before_they_are_refused(
    settings: Settings,
) -> None:
    async with _shop(settings, rate_writes_per_buyer=HOUR + "9") as shop:
        drop_id = await shop.open_drop(9, maxPerBuyer=None)
        holds = [(await shop.reserve(drop_id, "ann")).json["id"] for _ in range(4)]
        bought = await shop.confirm(holds[0], "ann", "buy")
        assert (await shop.release(holds[1], "ann", "let go")).status == 204

        async def is_refused() -> bool:
            return (await shop.release(holds[1], "ann")).status == 429

        await wait_until(is_refused, "the budget is spent", pause=0)
        again = await shop.confirm(holds[0], "ann", "buy")
        gone = await shop.release(holds[1], "ann", "let go")
        fresh = await shop.confirm(holds[2], "ann", "buy another")
        late = await shop.release(holds[3], "ann", "let another go")

        assert (again.status, again.body) == (201, bought.body)
        assert (gone.status, gone.headers["idempotent-replayed"]) == (204, "true")
        assert (fresh.status, late.status) == (429, 429)
        assert (await shop.stock(drop_id))["heldStock"] == 2


async def test_a_replay_costs_no_budget(settings: Settings) -> None:
    async with _shop(settings, rate_writes_per_buyer=HOUR + "3") as shop:
        drop_id = await shop.open_drop(9, maxPerBuyer=None)
        replies = [await shop.reserve(drop_id, "ann", "hers") for _ in range(20)]
        others = [(await shop.reserve(drop_id, "ann")).status for _ in range(3)]

    assert {(reply.status, reply.body) for reply in replies} == {(201, replies[0].body)}
    assert others == [201, 201, 429]


async def test_who_spent_all_on_asking_can_still_buy(settings: Settings) -> None:
    async with _shop(settings, rate_writes_per_buyer=HOUR + "5") as shop:
        drop_id = await shop.open_drop(9, maxPerBuyer=None)
        hold = await shop.reserve(drop_id, "ann")
        await _exhaust(shop, drop_id, "ann")

        assert (await shop.confirm(hold.json["id"], "ann")).status == 201


async def test_an_address_is_refused_without_a_look_up(settings: Settings) -> None:
    limits = {"rate_writes_per_address": HOUR + "3", "trusted_proxies": "127.0.0.1"}
    async with _shop(settings, **limits) as shop:
        drop_id = await shop.open_drop(9)
        wish = {"dropId": drop_id, "userId": "ann"}
        keyed = {"idempotency-key": "hers", **_from("203.0.113.9")}
        replies = [await shop.send("POST", "/reservations", wish, keyed) for _ in range(4)]

    assert [reply.status for reply in replies] == [201, 201, 201, 429]
    assert replies[-1].json["details"]["policy"] == "writes-per-address"


# ── whose budget ─────────────────────────────────────────────────────────────────────────────────


async def test_nobody_gets_more_by_lying_about_an_address(settings: Settings) -> None:
    limits = {"rate_reads_per_address": HOUR + "5", "trusted_proxies": "127.0.0.1"}

    async def statuses(shop: Shop, *addresses: str) -> list[int]:
        asked = [await shop.send("GET", "/drops", None, _from(each)) for each in addresses]
        return [reply.status for reply in asked]

    async with _shop(settings, **limits) as shop:
        liars = await statuses(shop, *(f"198.51.100.{n}, 203.0.113.9" for n in range(8)))
        neighbours = await statuses(shop, "203.0.113.10")
        customer = await statuses(shop, *(f"2001:db8::{n:x}:1" for n in range(8)))
        next_door = await statuses(shop, "2001:db8:0:1::1")
        live = [
            await shop.send("GET", "/health/live", None, _from("203.0.113.9")) for _ in range(9)
        ]
    async with _shop(settings, rate_reads_per_address=HOUR + "5") as shop:
        local = await statuses(shop, *["203.0.113.9"] * 8)

    assert liars == customer == [200] * 5 + [429] * 3
    assert neighbours == next_door == [200]
    assert {reply.status for reply in live} == {200}
    assert local == [200] * 8, "this machine's own proxy is not limited, whatever it forwards"


async def test_a_proxy_that_nobody_named_is_told_of_once(settings: Settings) -> None:
    async with _shop(settings, rate_reads_per_address=HOUR + "3") as shop:
        shop.client = ("192.0.2.1", 4_711)
        with structlog.testing.capture_logs() as logs:
            replies = [
                await shop.send("GET", "/drops", None, _from(f"203.0.113.{n}")) for n in range(6)
            ]

    assert [reply.status for reply in replies] == [200] * 3 + [429] * 3
    told = [line for line in logs if line["event"] == "limits.unknown_proxy"]
    assert [line["peer"] for line in told] == ["192.0.2.1"]
    assert "TRUSTED_PROXIES" in told[0]["mend"]


async def test_an_operator_over_budget_repairs_nothing_but_hears_the_first_answer_again(
    guarded: Settings,
) -> None:
    admin = {"authorization": f"Bearer {tokens.create(SECRET, 'root', 600, 'admin')}"}
    async with _shop(guarded, rate_admin_per_caller=HOUR + "3") as shop:
        body = {"name": "Aurora", "price": "1.00", "totalStock": 3}
        keyed = admin | {"idempotency-key": "first"}
        made = await shop.send("POST", "/drops", body, keyed)
        path = f"/drops/{made.json['id']}"
        told = [
            await shop.send("POST", f"{path}/{word}", None, admin) for word in ("pause", "resume")
        ]
        again = await shop.send("POST", "/drops", body, keyed)
        fresh = admin | {"idempotency-key": "another"}
        refused = [
            await shop.send("POST", f"{path}/reconcile?dryRun={dry}", None, fresh)
            for dry in ("true", "false")
        ]
        refused += [await shop.send("PATCH", path, {"name": "Other"}, fresh)]
        shown = await shop.show(made.json["id"])

    assert (made.status, *(reply.status for reply in told)) == (201, 200, 200)
    assert (again.status, again.body) == (201, made.body)
    assert [reply.status for reply in refused] == [429] * 3
    assert shown["name"] == "Aurora"


@pytest.fixture
def guarded(settings: Settings) -> Settings:
    """AUTH=required, and clients with addresses."""
    return msgspec.structs.replace(
        settings,
        auth="required",
        jwt_secret=SECRET,
        hmac_secret=SECRET + " and more",
        trusted_proxies="127.0.0.1",
    )


async def test_a_token_and_a_key_have_budgets_of_their_own(
    guarded: Settings, ground: Ground
) -> None:
    key = await apikeys.create(ground.postgres, "a shop", ["sale:read", "sale:write"])
    ann, bob = (tokens.create(SECRET, name, 600) for name in ("ann", "bob"))
    limits = {"rate_reads_per_buyer": HOUR + "3", "rate_reads_per_key": HOUR + "6"}
    async with _shop(guarded, **limits) as shop:

        async def asks(times: int, **headers: str) -> Counter[int]:
            given = {name.replace("_", "-"): value for name, value in headers.items()}
            path = "/reservations" + ("?userId=eve" if "x_api_key" in headers else "")
            return Counter(
                [(await shop.send("GET", path, None, given)).status for _ in range(times)]
            )

        assert await asks(5, authorization=f"Bearer {ann}") == {200: 3, 429: 2}
        assert await asks(3, authorization=f"Bearer {bob}") == {200: 3}
        assert await asks(8, x_api_key=key) == {200: 6, 429: 2}


async def test_guesses_at_credentials_are_bounded_and_good_ones_are_let_in(
    guarded: Settings, ground: Ground
) -> None:
    key = await apikeys.create(ground.postgres, "a shop", ["sale:read"])
    token = tokens.create(SECRET, "ann", 600)
    stale = tokens.create(SECRET, "ann", -600)
    limits = {"rate_failed_auth_per_address": HOUR + "5"}
    async with _shop(guarded, **limits) as shop:

        async def is_told(address: str, **headers: str) -> int:
            given = {name.replace("_", "-"): value for name, value in headers.items()}
            path = "/reservations?userId=ann"
            return (await shop.send("GET", path, None, given | _from(address))).status

        here = "203.0.113.9"
        old = [await is_told(here, authorization=f"Bearer {stale}") for _ in range(9)]
        guesses = [await is_told(here, x_api_key=f"vr_{n:012x}_{n:064x}") for n in range(8)]
        forged = [await is_told(here, authorization=f"Bearer {token}x{n}") for n in range(3)]

        assert old == [401] * 9, "who was let in before is no guesser"
        assert guesses == [401] * 5 + [429] * 3
        assert forged == [429] * 3
        assert await is_told(here, x_api_key=key) == 429, "not even looked up"
        assert await is_told("203.0.113.10", x_api_key=key) == 200
        assert await is_told(here, x_api_key=key) == 200, "remembered: it is no guess"
        assert await is_told(here, authorization=f"Bearer {token}") == 200


async def test_every_operation_says_as_what_it_is_limited(settings: Settings) -> None:
    async with runtime.worker(settings) as house:
        found = {
            route.operation: (route.method, route.about and route.about.counted, route.budget)
            for route in house.routes
        }

    unsaid = [name for name, (method, said, _) in found.items() if method != "GET" and said is None]
    assert unsaid == [], "name a budget: counted=…"
    assert {name for name, (_, _, budget) in found.items() if budget == "free"} <= {
        *("health", "live", "ready", "metrics", "mailbox")
    }
    assert found["reserve"][2] == "write"
    assert found["purchase"][2] == found["release"][2] == "confirm"
    assert found["pause"][2] == "admin"


# ── several workers ──────────────────────────────────────────────────────────────────────────────

BURST, WAVE, WAVES = 80, 4, 40


@asynccontextmanager
async def _two_workers(settings: Settings, folder: Path) -> AsyncIterator[list[Service]]:
    """Each behind a port of its own, so that a test knows whom it asks."""
    limits: dict[str, Any] = {
        "RATE_READS_PER_ADDRESS": f"{HOUR}{BURST}",
        "TRUSTED_PROXIES": "127.0.0.1",
        "WORKERS": "2",
    }
    async with AsyncExitStack() as stack:
        services = []
        for name in ("one", "two"):
            (folder / name).mkdir()
            opening = Service.open(settings, folder / name, workers=1, keepers=0, **limits)
            services.append(await stack.enter_async_context(opening))
        yield services


async def _waves(services: list[Service]) -> list[Counter[int]]:
    """What one address is told by each worker, asking both at once in small waves."""
    told = [Counter[int]() for _ in services]

    async def ask(n: int) -> None:
        reply = await services[n].send("GET", "/drops?limit=1", None, _from("203.0.113.9"))
        told[n][reply.status] += 1

    for _ in range(WAVES):
        await asyncio.gather(*(ask(n) for n in range(len(services)) for _ in range(WAVE)))
    return told


async def test_two_workers_let_through_one_burst_and_a_quarter_together(
    settings: Settings, tmp_path: Path
) -> None:
    """The bound of engine/infra/limits.py: burst · (1 + N/8), and two waves that were under way."""
    async with _two_workers(settings, tmp_path) as services:
        told = await _waves(services)
        async with redis_of(settings.redis_url) as client:
            keys = [key async for key in client.scan_iter("*:limits}:*")]
            lives = [await client.pttl(key) for key in keys]

    through = [each[200] for each in told]
    print(f"a burst of {BURST}: two workers let {through[0]} + {through[1]} through")
    assert BURST <= sum(through) <= BURST * 1.25 + 2 * (2 * WAVE)
    assert min(through) > BURST / 4, "both were asked"
    assert all(set(each) == {200, 429} for each in told)
    assert len(keys) == 1
    assert 0 < lives[0] <= 2 * BURST * 3_600_000, "it goes by itself"


async def test_without_redis_each_worker_goes_on_with_its_share(
    settings: Settings, tmp_path: Path
) -> None:
    valkey = devstack.start_valkey(tmp_path / "valkey", durable=False)
    try:
        own = msgspec.structs.replace(settings, redis_url=valkey.url)
        async with _two_workers(own, tmp_path) as services:
            valkey.stop()
            told = await _waves(services)
    finally:
        valkey.stop()

    through = [each[200] for each in told]
    print(f"a burst of {BURST}, no Redis: two workers let {through[0]} + {through[1]} through")
    # What was let through before each noticed that it is alone counts single.
    assert all(BURST / 2 <= each <= BURST / 2 + BURST / 8 for each in through)
    assert all(set(each) == {200, 429} for each in told)
