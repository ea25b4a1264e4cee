"""A key that must sign is worth nothing alone, and what it signed is done once."""

from __future__ import annotations

import asyncio
import os
import re
import secrets
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import asyncpg
import msgspec
import pytest

from engine.identity import apikeys, signing, store
from engine.identity.apikeys import Issued
from engine.infra.settings import Settings
from engine.runtime import Ground
from tests.identity.conftest import HMAC_SECRET, JWT_SECRET
from tests.support.http import Reply
from tests.support.service import Service
from tests.support.shop import Shop

DOCS = Path(__file__).parents[2] / "docs" / "SIGNING.md"
PATH = "/drops?limit=5"


class Signer:
    """Somebody with a key that must sign, and its secret."""

    def __init__(self, shop: Shop, made: Issued, secret: str) -> None:
        self._shop, self.made, self.secret = shop, made, secret

    def headers(self, method: str, path: str, body: bytes = b"", **other: str) -> dict[str, str]:
        """Good ones, but for what is said otherwise."""
        moment = other.get("moment", str(int(time.time())))
        nonce = other.get("nonce", secrets.token_hex(8))
        target = b"/api/v1" + path.encode()
        words = signing.canonical(method, target, body, moment.encode(), nonce.encode())
        return {
            "x-api-key": self.made.key,
            "x-timestamp": moment,
            "x-nonce": nonce,
            "x-signature": signing.sign(self.secret, words),
        }

    async def send(self, method: str, path: str, body: bytes = b"", **other: str) -> Reply:
        """A request, signed."""
        headers = self.headers(method, path, body, **other)
        return await self._shop.send(method, path, body, headers)


@pytest.fixture
async def signer(shop: Shop, ground: Ground) -> Signer:
    """One that may sell and look."""
    scopes = ["sale:read", "sale:write", "admin"]
    made = await apikeys.issue(ground.postgres, "till", scopes, must_sign=True)
    return Signer(shop, made, signing.secret_of(HMAC_SECRET, made.id))


def _why(reply: Reply) -> tuple[int, str]:
    return reply.status, reply.json["message"] if reply.status >= 400 else ""


async def test_a_signed_request_is_done_and_an_unsigned_one_is_not(
    shop: Shop, signer: Signer, drop: int
) -> None:
    key = {"x-api-key": signer.made.key}
    assert (await signer.send("GET", PATH)).status == 200
    assert (await signer.send("GET", PATH)).status == 200, "with the key remembered"
    assert _why(await shop.send("GET", PATH, headers=key)) == (
        401,
        "This key must sign: X-Timestamp is missing",
    )
    body = b'{"dropId": %d, "userId": "ann", "quantity": 1}' % drop
    hot = await signer.send("POST", "/reservations", body)
    named = await signer.send("POST", f"/reserve/{drop}", b'{"userId": "ann"}')
    operates = await signer.send("POST", f"/drops/{drop}/pause")
    assert (hot.status, named.status, operates.status) == (201, 201, 200)
    refused = await shop.send("POST", "/reservations", body, key)
    assert refused.status == 401


ALTERED: dict[str, Any] = {
    "method": lambda h: ("POST", PATH, b"", h),
    "path": lambda h: ("GET", "/drops/?limit=5", b"", h),
    "query": lambda h: ("GET", "/drops?limit=6", b"", h),
    "encoding of the query": lambda h: ("GET", "/drops?limit=%35", b"", h),
    "timestamp": lambda h: ("GET", PATH, b"", h | {"x-timestamp": str(int(time.time()) + 1)}),
    "nonce": lambda h: ("GET", PATH, b"", h | {"x-nonce": "another-one"}),
    "signature": lambda h: ("GET", PATH, b"", h | {"x-signature": "0" * 64}),
    "no hexadecimal": lambda h: ("GET", PATH, b"", h | {"x-signature": "ü" * 64}),
}


async def test_whatever_is_altered_on_the_way_is_noticed(shop: Shop, signer: Signer) -> None:
    for what, alter in ALTERED.items():
        method, path, body, headers = alter(signer.headers("GET", PATH))
        status, why = _why(await shop.send(method, path, body, headers))
        assert status == 401, what
        assert why.startswith("X-Signature is not valid"), what
    body = b'{"name": "a", "price": 1, "totalStock": 1}'
    headers = signer.headers("POST", "/drops", body)
    assert (await shop.send("POST", "/drops", body.replace(b"1", b"9"), headers)).status == 401
    assert (await shop.send("POST", "/drops", body, headers)).status == 201
    upper = signer.headers("GET", PATH)
    upper["x-signature"] = upper["x-signature"].upper()
    assert (await shop.send("GET", PATH, headers=upper)).status == 200


async def test_what_was_signed_is_done_once_also_by_fifty_at_once(
    shop: Shop, signer: Signer, settings: Settings
) -> None:
    headers = signer.headers("GET", PATH)
    told = [
        _why(reply)
        for reply in await asyncio.gather(
            *(shop.send("GET", PATH, headers=headers) for _ in range(50))
        )
    ]

    assert told.count((200, "")) == 1
    assert told.count((401, "X-Nonce was used before: each request needs a new one")) == 49
    database = await asyncpg.connect(settings.database_url)
    assert await database.fetchval("SELECT count(*) FROM nonces") == 1
    forged = headers | {"x-nonce": "of-a-stranger", "x-signature": "0" * 64}
    await shop.send("GET", PATH, headers=forged)
    assert await database.fetchval("SELECT count(*) FROM nonces") == 1, "strangers fill no table"
    await database.close()


@pytest.mark.parametrize(
    ("seconds", "status", "why"),
    [
        (-290, 200, ""),
        (290, 200, ""),
        (-320, 401, "behind our clock: mend yours"),
        (330, 401, "ahead of our clock: mend yours"),
    ],
)
async def test_a_clock_may_be_five_minutes_off(
    signer: Signer, seconds: int, status: int, why: str
) -> None:
    reply = await signer.send("GET", PATH, moment=str(int(time.time()) + seconds))

    told, said = _why(reply)
    assert told == status
    assert said.endswith(why)


async def test_what_cannot_be_a_time_or_a_nonce_is_named(signer: Signer) -> None:
    for moment in ("soon", "-5", "1e9", "9" * 12, "١٢٣"):
        assert _why(await signer.send("GET", PATH, moment=moment)) == (
            401,
            "X-Timestamp is no time in seconds",
        )
    for nonce in ("short", "a" * 65, "with space", "a\x00bcdefgh"):
        assert _why(await signer.send("GET", PATH, nonce=nonce)) == (
            401,
            "X-Nonce is not 8 to 64 of A-Z a-z 0-9 . _ ~ -",
        )


async def test_one_keys_secret_signs_for_no_other_and_an_older_hmac_secret_still_does(
    settings: Settings, signer: Signer, ground: Ground
) -> None:
    other = await apikeys.issue(ground.postgres, "other", ["sale:read"], must_sign=True)
    stolen = Signer(signer._shop, other, signer.secret)
    assert (await stolen.send("GET", PATH)).status == 401

    older = "o" * 32
    new = msgspec.structs.replace(settings, hmac_secret_previous=f"{'x' * 32} {older}")
    async with Shop.open(new) as shop:
        for secret in (HMAC_SECRET, older):
            mine = Signer(shop, signer.made, signing.secret_of(secret, signer.made.id))
            assert (await mine.send("GET", PATH)).status == 200
        strange = Signer(shop, signer.made, signing.secret_of("y" * 32, signer.made.id))
        assert (await strange.send("GET", PATH)).status == 401


async def test_who_has_but_the_key_takes_nothing_of_its_budget(
    settings: Settings, signer: Signer
) -> None:
    few = msgspec.structs.replace(settings, rate_reads_per_key="1/h burst 2")
    async with Shop.open(few) as shop:
        for _ in range(10):
            told = await shop.send(
                "GET", "/reservations?userId=a", headers={"x-api-key": signer.made.key}
            )
            assert told.status == 401
        mine = Signer(shop, signer.made, signer.secret)
        replies = [await mine.send("GET", "/reservations?userId=a") for _ in range(3)]
    assert [reply.status for reply in replies] == [200, 200, 429]


async def test_nonces_are_forgotten_when_their_requests_are_too_old(
    ground: Ground, signer: Signer, settings: Settings
) -> None:
    await signer.send("GET", PATH)
    await signer.send("GET", PATH)
    assert signing.REMEMBERED_SECONDS > 2 * signing.WINDOW_SECONDS
    assert await store.prune_nonces(ground.postgres, signing.REMEMBERED_SECONDS, 100) == 0
    database = await asyncpg.connect(settings.database_url)
    await database.execute("UPDATE nonces SET seen_at = seen_at - interval '12 minutes'")
    await database.close()

    assert await store.prune_nonces(ground.postgres, signing.REMEMBERED_SECONDS, 1) == 1
    assert await store.prune_nonces(ground.postgres, signing.REMEMBERED_SECONDS, 100) == 1


@pytest.mark.slow
async def test_the_examples_of_the_documentation_work(
    settings: Settings, ground: Ground, tmp_path: Path
) -> None:
    """Over a real socket: what is signed is what went over the wire."""
    python, shell = re.findall(r"```(?:python|sh)\n(.*?)```", DOCS.read_text(), re.DOTALL)
    made = await apikeys.issue(ground.postgres, "docs", ["admin"], must_sign=True)
    words = {"JWT_SECRET": JWT_SECRET, "HMAC_SECRET": HMAC_SECRET}
    async with Service.open(settings, tmp_path, workers=1, keepers=0, **words) as service:
        env = os.environ | {
            "URL": f"http://127.0.0.1:{service.port}",
            "API_KEY": made.key,
            "SIGNING_SECRET": signing.secret_of(HMAC_SECRET, made.id),
        }

        async def run(*command: str) -> str:
            process = await asyncio.create_subprocess_exec(
                *command, env=env, stdout=asyncio.subprocess.PIPE
            )
            out, _ = await asyncio.wait_for(process.communicate(), 20)
            return out.decode().strip()

        assert await run(sys.executable, "-c", python) == "200"
        if shutil.which("curl") and shutil.which("openssl"):
            assert await run("sh", "-c", shell) == "201"
