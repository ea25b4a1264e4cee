"""A membership's first device proves that it has its key; nothing else becomes one."""

from __future__ import annotations

import asyncio
import base64
from datetime import timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from engine.infra.errors import Invalid, Misconfigured
from engine.infra.settings import Settings
from engine.membership import devices, p256
from tests.membership.people import Phone, make_member, packed, pem_of, run
from tests.support.http import Reply
from tests.support.shop import Shop

PHONE = Phone()
NOBODY = "0199a3f2-7c1e-7d43-9b5a-2f6c8e1d4a90"


def message(membership: str, device: str, challenge: str) -> bytes:
    """What docs/MEMBERSHIP.md tells to sign."""
    return f"velvetrope device v1\n{membership}\n{device}\n{challenge}".encode()


async def challenged(shop: Shop, membership: str, user: str = "ann") -> str:
    """A fresh challenge."""
    path = f"/memberships/{membership}/devices/challenge"
    reply = await shop.send("POST", path, {"userId": user})
    assert reply.status == 200, reply.body
    return str(reply.json["challenge"])


async def register(
    shop: Shop,
    membership: str,
    phone: Phone = PHONE,
    device: str = "phone",
    key: str | None = None,
    **other: Any,
) -> Reply:
    """A device with its proof, or with something else in its place."""
    challenge = other.pop("challenge", None) or await challenged(shop, membership)
    body = {
        "user_id": "ann",
        "device_id": device,
        "public_key": phone.pem,
        "challenge": challenge,
        "signature": packed(phone.sign(message(membership, device, challenge))),
    }
    headers = {"idempotency-key": key} if key else None
    return await shop.send("POST", f"/memberships/{membership}/devices", body | other, headers)


# ── keys ─────────────────────────────────────────────────────────────────────────────────────────


def framed(der: bytes) -> str:
    """Bytes in PEM's frame."""
    text = base64.b64encode(der).decode()
    return f"-----BEGIN PUBLIC KEY-----\n{text}\n-----END PUBLIC KEY-----\n"


DER = PHONE.private.public_key().public_bytes(
    serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
)
COMPRESSED = bytes.fromhex("3039301306072a8648ce3d020106082a8648ce3d030107032200")
COMPRESSED += PHONE.private.public_key().public_bytes(
    serialization.Encoding.X962, serialization.PublicFormat.CompressedPoint
)


@pytest.mark.parametrize(
    "text",
    [
        PHONE.pem,
        PHONE.pem.replace("\n", "\r\n"),
        PHONE.pem.replace("\n", ""),
        PHONE.pem.replace("\n", "\\n"),
        PHONE.pem.replace("PUBLIC", "EC PUBLIC"),
        f"\n  {PHONE.pem}\n",
        framed(DER),
        framed(COMPRESSED),
    ],
)
def test_a_key_is_kept_in_one_form_however_it_was_written(text: str) -> None:
    assert p256.read(text) == PHONE.pem


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nothing",
        framed(b""),
        framed(b"\x30\x00"),
        framed(DER + b"\0"),
        framed(DER[:-1]),
        framed(DER[:-1] + bytes([DER[-1] ^ 1])),  # no point of the curve
        framed(DER)[:-5],
        framed(DER).replace("M", "*", 1),
        PHONE.pem.replace("PUBLIC", "PRIVATE"),
        PHONE.pem + " " * p256.PEM_MAX,
        Phone(ec.SECP384R1()).pem,
        Phone(ec.SECP256K1()).pem,
        pem_of(rsa.generate_private_key(65_537, 2_048).public_key()),
        pem_of(ed25519.Ed25519PrivateKey.generate().public_key()),
    ],
)
def test_what_is_no_p_256_key_is_refused(text: str) -> None:
    with pytest.raises(Invalid, match="Invalid public key PEM format"):
        p256.read(text)


def test_a_key_of_the_settings_is_itself_or_a_file_and_a_wrong_one_stops_the_start(
    settings: Settings,
) -> None:
    path = settings.data_dir / "key.pem"
    path.write_text(PHONE.pem)

    assert p256.of_settings("X", str(path)) == p256.of_settings("X", PHONE.pem) == PHONE.pem
    assert p256.of_settings("X", "") == ""
    for wrong in ("/nowhere", "-----BEGIN"):
        with pytest.raises(Misconfigured):
            p256.of_settings("X", wrong)


# ── the first device ─────────────────────────────────────────────────────────────────────────────


async def test_the_first_device_is_registered_once_and_another_is_refused(
    shop: Shop, settings: Settings
) -> None:
    anns = await make_member(settings.database_url, "ann")

    made, again = await register(shop, anns), await register(shop, anns)
    other = await register(shop, anns, Phone())
    renamed = await register(shop, anns, device="tablet")

    assert (made.status, again.status, again.json) == (201, 200, made.json)
    assert made.json["publicKey"] == PHONE.pem
    assert (made.json["membershipId"], made.json["deviceId"]) == (anns, "phone")
    for reply in (other, renamed):
        assert (reply.status, reply.error) == (409, "ALREADY_RESOLVED")
    listed = await shop.send("GET", f"/memberships/{anns}/devices?userId=ann")
    assert listed.json == {"data": [made.json], "nextCursor": None}


async def test_of_fifty_first_devices_at_once_one_is(shop: Shop, settings: Settings) -> None:
    anns = await make_member(settings.database_url, "ann")
    challenge = await challenged(shop, anns)

    replies = await asyncio.gather(
        *(register(shop, anns, device=f"phone {n}", challenge=challenge) for n in range(50))
    )

    assert sorted(reply.status for reply in replies) == [201] + [409] * 49


async def test_a_signature_may_be_der_and_a_key_repeats_its_answer(
    shop: Shop, settings: Settings
) -> None:
    anns = await make_member(settings.database_url, "ann")
    challenge = await challenged(shop, anns)
    signature = packed(PHONE.der(message(anns, "phone", challenge)))

    said: dict[str, Any] = {"challenge": challenge, "signature": signature, "key": "k"}
    made, again = await register(shop, anns, **said), await register(shop, anns, **said)

    assert (made.status, again.status) == (201, 201), made.body
    assert again.headers["idempotent-replayed"] == "true"
    assert again.json == made.json
    [(kept,)] = await run(settings.database_url, "SELECT body FROM requests WHERE status = 201")
    assert kept.decode() == made.json["id"], "nothing that is somebody's is remembered of it"


async def test_a_proof_that_proves_nothing_is_refused(shop: Shop, settings: Settings) -> None:
    anns = await make_member(settings.database_url, "ann")
    bens = await make_member(settings.database_url, "ben")
    challenge, bens_challenge = await challenged(shop, anns), await challenged(shop, bens, "ben")
    until, mac = challenge.split("_")[1:]

    def signed(*parts: str) -> str:
        return packed(PHONE.sign(message(*parts)))

    wrong: list[dict[str, Any]] = [
        {"signature": packed(Phone().sign(message(anns, "phone", challenge)))},
        {"signature": signed(anns, "tablet", challenge)},
        {"signature": signed(bens, "phone", challenge)},
        {"signature": packed(PHONE.sign(challenge.encode()))},
        {"signature": packed(b"\0" * 64)},
        {"signature": packed(b"\xff" * 64)},
        {"signature": packed(b"0")},
        {"challenge": bens_challenge, "signature": signed(anns, "phone", bens_challenge)},
        {"challenge": "vrd_", "signature": signed(anns, "phone", "vrd_")},
        *(
            {"challenge": each, "signature": signed(anns, "phone", each)}
            for each in (f"vrd_{int(until) + 1}_{mac}", f"vrd_{until}_{'0' * 64}")
        ),
    ]
    for other in wrong:
        reply = await register(shop, anns, **{"challenge": challenge} | other)
        assert (reply.status, reply.error) == (401, "UNAUTHORIZED"), other
    assert await run(settings.database_url, "SELECT FROM membership_devices") == []


async def test_a_challenge_is_good_for_five_minutes(
    shop: Shop, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    anns = await make_member(settings.database_url, "ann")
    monkeypatch.setattr(devices, "LIFE", timedelta(seconds=-1))
    late = await challenged(shop, anns)
    monkeypatch.setattr(devices, "LIFE", timedelta(seconds=10))

    assert (await register(shop, anns, challenge=late)).error == "UNAUTHORIZED"
    assert (await register(shop, anns)).status == 201


async def test_devices_are_for_whom_the_membership_is_while_it_lives(
    shop: Shop, settings: Settings
) -> None:
    anns = await make_member(settings.database_url, "ann")
    challenge = await challenged(shop, anns)
    path = f"/memberships/{anns}/devices"

    told = [
        (await shop.send("POST", f"{path}/challenge", {"userId": "ben"}), 401),
        (await shop.send("GET", f"{path}?userId=ben"), 401),
        (await register(shop, anns, challenge=challenge, user_id="ben"), 401),
        (await shop.send("POST", f"/memberships/{NOBODY}/devices/challenge"), 404),
        (await shop.send("GET", "/memberships/nothing/devices"), 404),
    ]
    await run(settings.database_url, "UPDATE memberships SET revoked_at = clock_timestamp()")
    told += [
        (await shop.send("POST", f"{path}/challenge", {"userId": "ann"}), 401),
        (await shop.send("GET", f"{path}?userId=ann"), 401),
        (await register(shop, anns, challenge=challenge), 401),
    ]

    assert [reply.status for reply, _ in told] == [status for _, status in told]


async def test_what_cannot_be_understood_is_a_422(shop: Shop, settings: Settings) -> None:
    anns = await make_member(settings.database_url, "ann")
    wrong: list[dict[str, Any]] = [
        {"device_id": ""},
        {"device_id": "a\nb"},
        {"device_id": "x" * 201},
        {"public_key": "nothing"},
        {"signature": "***"},
        {"challenge": "x" * 101},
        {"challenge": 7},
        {"deviceId": "twice"},
        {"user_id": ""},
    ]

    for other in wrong:
        reply = await register(shop, anns, **{"challenge": "c"} | other)
        assert (reply.status, reply.error) == (422, "VALIDATION_ERROR"), reply.body
    assert (await register(shop, anns, public_key="x")).json["message"] == p256.SENTENCE
