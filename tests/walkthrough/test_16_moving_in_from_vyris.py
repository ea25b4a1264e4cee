"""Who had VYRIS finds its README's lines here, one after the other; where an answer is another, the
test says so, and docs/SEEDS.md says why. Every row of its table, with every code: test_17.
"""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import msgspec
import pytest

from engine.identity import apikeys
from engine.infra import settings as knobs
from engine.infra.settings import Settings
from engine.runtime import Ground
from tests.membership.people import Phone
from tests.support.http import Reply
from tests.support.shop import Shop
from tests.support.wait import wait_until
from tests.walkthrough.conftest import Operator
from tests.walkthrough.members import Member, join, link_to

ANN, BOB = "0199a3f2-7c1e-7d43-9b5a-2f6c8e1d4a90", "0199a3f2-7c1e-7d43-9b5a-2f6c8e1d4a91"
SERVER = Phone()  # its ec_private.pem
CAPACITY = 4


class Backend(Operator):
    """The server of an app, which says for whom it asks."""

    async def ask(self, method: str, path: str, body: Any = None) -> Any:
        """What a request answers; it must succeed."""
        reply = await self.asks(method, path, body)
        assert reply.status < 300, reply.body
        return reply.json

    async def mints(self, receipt: str, user: str) -> Reply:
        """Present a receipt, in its README's words."""
        return await self.asks("POST", "/mint", {"receipt_data": receipt, "user_id": user})


@pytest.fixture
def settings(settings: Settings, tmp_path: Path) -> Settings:
    """As its .env is read."""
    return msgspec.structs.replace(
        settings,
        data_dir=tmp_path,
        drop_capacity=CAPACITY,
        encounter_jwt_public_key=SERVER.pem,
        public_url="https://vyris.example",
    )


@pytest.fixture
async def backend(shop: Shop, settings: Settings, ground: Ground, keeping: None) -> Backend:
    """It sends nothing where everybody is trusted, else a key. Its numbers are there."""
    headers = {}
    if settings.auth == "required":
        headers = {"x-api-key": await apikeys.create(ground.postgres, "backend", ["admin"])}
    backend = Backend(shop, "backend", headers, {})

    async def is_seeded() -> bool:
        tiers = (await backend.ask("GET", "/memberships/tiers"))["data"]
        return [(each["tier"], each["totalStock"]) for each in tiers] == [("genesis", CAPACITY)]

    await wait_until(is_seeded, "a keeper has opened the drop of DROP_CAPACITY")  # npm run seed
    return backend


async def test_the_mint_flow_line_by_line(backend: Backend, shop: Shop) -> None:
    first, again = await backend.mints("receipt-1", ANN), await backend.mints("receipt-1", ANN)
    # If FULFILLED → return existing membership (idempotent)
    assert (first.status, first.json["status"]) == (201, "FULFILLED")
    assert (again.status, again.json) == (200, first.json)
    assert first.json["membership"]["sequenceNum"] in range(1, CAPACITY + 1)
    used = await backend.mints("receipt-1", BOB)  # there the first user's membership
    assert (used.status, used.error) == (409, "RECEIPT_USED")

    rest = [await backend.mints(f"receipt-{n}", ANN) for n in range(2, CAPACITY + 1)]
    numbers = {reply.json["membership"]["sequenceNum"] for reply in (first, *rest)}
    assert numbers == set(range(1, CAPACITY + 1))  # SKIP LOCKED allocation: each once
    late = await backend.mints("receipt-9", BOB)  # If 0 → 410 SOLD_OUT
    # {"error": "SOLD_OUT", "message": …, "retryable": false}
    assert (late.status, late.error, late.json["retryable"]) == (410, "SOLD_OUT", False)
    assert late.json["message"] == "No allocations remaining for this drop"

    drop = first.json["membership"]["dropId"]
    await backend.changes(drop, addStock=1)
    more = [await backend.mints("receipt-9", BOB) for _ in range(2)]  # there twice
    assert [reply.status for reply in more] == [201, 200]
    assert await backend.counts(drop) == (0, 0, CAPACITY + 1)
    assert (await shop.visit("GET", "/health")).json["status"] == "ok"


async def test_a_pass_line_by_line(backend: Backend) -> None:
    minted = (await backend.mints("receipt-1", ANN)).json["membership"]

    wanted = {"membership_id": minted["id"], "user_id": ANN}
    issued = await backend.asks("POST", "/issue-pass", wanted)
    stranger = await backend.asks("POST", "/issue-pass", wanted | {"user_id": BOB})

    assert (issued.status, stranger.status, stranger.error) == (200, 401, "UNAUTHORIZED")
    assert stranger.json["message"] == "Membership does not belong to this user"
    with zipfile.ZipFile(io.BytesIO(issued.body)) as pkpass:  # there pass.json alone
        assert {"pass.json", "manifest.json", "signature"} <= set(pkpass.namelist())
        shown = json.loads(pkpass.read("pass.json"))
    assert (shown["formatVersion"], shown["serialNumber"]) == (1, minted["passSerial"])


async def test_encounters_line_by_line(backend: Backend) -> None:
    ann, bob = await join(backend.ask), await join(backend.ask)
    old = (await backend.mints("receipt-1", ANN)).json["membership"]["id"]
    without = Member(ANN, "", old, SERVER)  # no device: ENCOUNTER_JWT_PUBLIC_KEY checks it

    async def verify(token: str) -> Reply:
        return await backend.asks("POST", "/encounters/verify", {"token": token})

    for token in (ann.meets(bob), without.meets(bob)):
        met = await verify(token)
        assert (met.status, met.json["status"]) == (201, "VERIFIED")
        replay = await verify(token)  # there CONFLICT
        assert (replay.status, replay.error) == (409, "REPLAYED")
        assert replay.json["message"] == "Encounter already recorded (replay)"
    forged = await verify(Member("", "", ann.membership, SERVER).meets(bob))  # there 201
    late = await verify(ann.meets(bob, iat=1))
    for refused in (forged, late):
        assert (refused.status, refused.error) == (401, "UNAUTHORIZED")


async def test_a_device_transfer_line_by_line(backend: Backend, settings: Settings) -> None:
    ann, bob, tablet = await join(backend.ask), await join(backend.ask), Phone()

    begun = await backend.asks("POST", "/devices/reforge/init", ann.moves(tablet))
    link, token = await link_to(ann, settings.data_dir)
    confirmed = await backend.asks("POST", "/devices/reforge/confirm", {"token": token})

    assert (begun.status, begun.json["status"]) == (202, "PENDING")
    assert token not in begun.body.decode()  # there `confirm_url`
    assert link.startswith("https://vyris.example/reforge/confirm?token=")  # REFORGE_BASE_URL
    assert (confirmed.status, confirmed.json["status"]) == (200, "CONFIRMED")
    assert confirmed.json["newDeviceId"] == "tablet"
    moved = Member(ann.user, ann.email, ann.membership, tablet)
    for member, status in ((ann, 401), (moved, 201)):
        met = await backend.asks("POST", "/encounters/verify", {"token": member.meets(bob)})
        assert met.status == status
    again = await backend.asks("POST", "/devices/reforge/confirm", {"token": token})
    assert (again.status, again.error) == (404, "NOT_FOUND")


def test_its_environment_is_understood() -> None:
    told = knobs.read(
        {
            "NODE_ENV": "development",
            "HOST": "127.0.0.1",
            "PORT": "3000",
            "DATABASE_URL": "postgresql://vyris:vyris@localhost:5432/vyris",
            "REDIS_URL": "redis://localhost:6379",
            "DROP_TIER": "founders",
            "DROP_YEAR": "2026",
            "DROP_CAPACITY": "999",
            "ENCOUNTER_JWT_PUBLIC_KEY": SERVER.pem,
            "PKPASS_CERTIFICATE": "certificate.pem",
            "PKPASS_KEY": "key.pem",
            "PKPASS_PASSPHRASE": "hush",
            "REFORGE_FROM_EMAIL": "noreply@vyris.example",
            "REFORGE_BASE_URL": "https://vyris.example",
        }
    )

    assert (told.port, told.drop_tier, told.drop_year, told.drop_capacity) == (
        *(3000, "founders", "2026"),
        999,
    )
    assert told.encounter_jwt_public_key == SERVER.pem
    assert (told.wallet_certificate, told.wallet_key) == ("certificate.pem", "key.pem")
    assert (told.wallet_key_passphrase, told.mail_from, told.public_url) == (
        "hush",
        "noreply@vyris.example",
        "https://vyris.example",
    )
