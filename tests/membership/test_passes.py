"""A pass is a real one: openssl accepts its signature, and refuses it once a byte has changed."""

from __future__ import annotations

import asyncio
import hashlib
import json
import shutil
import stat
import struct
import subprocess
import threading
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest
import structlog

from engine.infra.combiner import Crew
from engine.infra.errors import Misconfigured
from engine.infra.settings import Settings
from engine.membership import artwork, certificates, passes
from engine.membership.models import Membership
from engine.membership.passes import Passes, Press
from engine.ops import preflight
from tests.membership.chains import Given, content, give, unpacked, wallet_of, written
from tests.membership.conftest import Club
from tests.support.service import Service
from tests.support.shop import Shop

needs_openssl = pytest.mark.skipif(
    shutil.which("openssl") is None, reason="openssl is not on this machine: who else would judge?"
)


@pytest.fixture
def bare(tmp_path: Path) -> Settings:
    """Settings of who signs, and needs no server for it."""
    return Settings(auth="open", data_dir=tmp_path / "data")


@pytest.fixture(scope="session")
def given() -> Given:
    """A chain as Apple would have it."""
    return give()


def judged(folder: Path, root: Path, manifest: bytes, signature: bytes) -> bool:
    """What openssl says of a detached signature."""
    paths = written(folder, {"manifest.json": manifest, "signature": signature})
    asked = ["openssl", "cms", "-verify", "-binary", "-inform", "DER", "-purpose", "any"]
    asked += ["-in", str(paths["signature"]), "-content", str(paths["manifest.json"])]
    told = subprocess.run(
        [*asked, "-CAfile", str(root), "-out", "/dev/null"], check=False, capture_output=True
    )
    return told.returncode == 0


@needs_openssl
async def test_openssl_accepts_a_pass_and_refuses_it_once_a_byte_has_changed(
    service: Service, tmp_path: Path
) -> None:
    club = Club(service)
    await club.open(9)
    made = await club.minted("receipt-1", "ann")
    body = {"membership_id": made["id"], "user_id": "ann"}
    # Both workers, which have no chain yet, want one at once.
    replies = await asyncio.gather(*(service.send("POST", "/issue-pass", body) for _ in range(8)))

    assert {reply.status for reply in replies} == {200}
    root = tmp_path / "data" / "wallet" / "root.pem"
    for data in {reply.body for reply in replies}:
        files = unpacked(data)
        manifest, signature = files["manifest.json"], files["signature"]
        assert judged(tmp_path, root, manifest, signature)
        assert not judged(tmp_path, root, manifest[:-2] + b"0}", signature)
    assert stat.S_IMODE(root.parent.stat().st_mode) == 0o700
    assert {stat.S_IMODE(file.stat().st_mode) for file in root.parent.iterdir()} == {0o600}
    reply = replies[0]
    assert reply.headers["content-type"] == "application/vnd.apple.pkpass"
    name = f"vr-genesis-{made['sequenceNum']}.pkpass"
    assert reply.headers["content-disposition"] == f'attachment; filename="{name}"'


async def test_a_pass_says_who_it_is_and_sums_up_all_that_is_in_it(club: Club) -> None:
    await club.open(9)
    made = await club.minted("receipt-1", "ann")
    reply = await issued(club.shop, made["id"], "ann")
    files = unpacked(reply)
    sums = json.loads(files["manifest.json"])

    assert sums.keys() == files.keys() - {"manifest.json", "signature"}
    assert {name: hashlib.sha1(files[name]).hexdigest() for name in sums} == sums
    told, number = content(reply), f"#{made['sequenceNum']}"
    assert (told["formatVersion"], told["serialNumber"]) == (1, made["passSerial"])
    assert told["passTypeIdentifier"] == "pass.local.velvetrope"
    assert told["generic"]["primaryFields"] == [
        {"key": "member", "label": "MEMBER", "value": number}
    ]
    assert [(f["label"], f["value"]) for f in told["generic"]["secondaryFields"]] == [
        ("TIER", "GENESIS"),
        ("YEAR", "2025"),
    ]
    assert "voided" not in told
    assert '"MEMBER" = "Mitglied";' in files["de.lproj/pass.strings"].decode()
    assert {"en", "de", "fr"} <= {name.split(".")[0] for name in files if "lproj" in name}
    assert "webServiceURL" not in told, "wallets refuse a pass whose service is not https"


async def issued(shop: Shop, id: str, user: str) -> bytes:
    """A pass that must be given."""
    reply = await shop.send("POST", "/issue-pass", {"membershipId": id, "userId": user})
    assert reply.status == 200, reply.body
    return reply.body


@pytest.mark.parametrize(("at", "by"), [("", 1), ("@2x", 2), ("@3x", 3)])
def test_pictures_have_the_sizes_that_wallets_want(at: str, by: int) -> None:
    drawn = artwork.pictures()
    for kind, wide, high in (("icon", 29, 29), ("logo", 160, 50)):
        picture = drawn[f"{kind}{at}.png"]
        assert picture.startswith(b"\x89PNG\r\n\x1a\n")
        width, height = struct.unpack(">II", picture[16:24])
        assert width <= wide * by
        assert height == high * by


async def test_a_pass_is_refused_as_the_readme_says(club: Club) -> None:
    await club.open(9)
    id = (await club.minted("receipt-1", "ann"))["id"]
    gone = (await club.minted("receipt-2", "ann"))["id"]
    revoked = await club.shop.send("POST", f"/memberships/{gone}/revoke", {"reason": "refunded"})
    assert revoked.status == 200
    unknown = "0199a3f2-7c1e-7d43-9b5a-2f6c8e1d4a90"

    for membership, user, status, error, message in (
        (None, None, 422, "VALIDATION_ERROR", "membershipId: required"),
        (id, None, 422, "VALIDATION_ERROR", "userId: required"),
        (7, "ann", 422, "VALIDATION_ERROR", "membership_id: "),
        ("x", "ann", 404, "NOT_FOUND", "Membership not found"),
        (unknown, "ann", 404, "NOT_FOUND", "Membership not found"),
        (id, "bob", 401, "UNAUTHORIZED", "Membership does not belong to this user"),
        (gone, "ann", 401, "UNAUTHORIZED", "Membership has been revoked"),
    ):
        wish = {"membership_id": membership, "user_id": user}
        body = {name: value for name, value in wish.items() if value is not None}
        reply = await club.shop.send("POST", "/issue-pass", body)
        assert (reply.status, reply.error) == (status, error), reply.body
        assert reply.json["message"].startswith(message)


async def test_a_pass_names_its_web_service_where_that_is_https(settings: Settings) -> None:
    public = msgspec.structs.replace(settings, public_url="https://club.example/")
    async with Shop.open(public) as shop:
        club = Club(shop)
        await club.open(9)
        told = content(await issued(shop, (await club.minted("r", "ann"))["id"], "ann"))
        path, headers = wallet_of(told)

        assert told["webServiceURL"] == "https://club.example/wallet"
        assert (await shop.visit("GET", path, headers=headers)).status == 200, "at that very path"


async def test_what_cannot_be_signed_any_more_is_told_as_the_readme_says(
    settings: Settings,
) -> None:
    """A worker looks at its certificate when it starts; this one was taken away since."""
    unfit = msgspec.structs.replace(settings, wallet_key="gone.pem")
    async with Shop.open(unfit) as shop:
        club = Club(shop)
        await club.open(9)
        body = {"membership_id": (await club.minted("r", "ann"))["id"], "user_id": "ann"}
        with structlog.testing.capture_logs() as seen:
            replies = [await shop.send("POST", "/issue-pass", body) for _ in range(2)]

    assert [(reply.status, reply.error) for reply in replies] == [(500, "RETRYABLE")] * 2
    assert "gone" not in str([reply.body for reply in replies])
    told = [line["event"] for line in seen if line["event"] != "http.request"]
    assert told == ["passes.misconfigured"] * 2


# ── certificates ─────────────────────────────────────────────────────────────────────────────────


@needs_openssl
@pytest.mark.parametrize("form", ["text", "one line", "files"])
async def test_a_certificate_is_text_or_one_line_or_a_file(
    bare: Settings, tmp_path: Path, form: str
) -> None:
    given = give(passphrase="open sesame")
    texts = {"certificate": given.certificate, "key": given.key, "intermediate": given.intermediate}
    if form == "one line":
        texts = {name: text.replace("\n", "\\n") for name, text in texts.items()}
    if form == "files":
        texts = {name: str(path) for name, path in written(tmp_path, {**texts}).items()}
    words = {f"wallet_{name}": text for name, text in texts.items()}
    signer = certificates.signer(given.settings(bare, **words, wallet_key_passphrase="open sesame"))

    root = written(tmp_path, {"root.pem": given.root})["root.pem"]
    assert judged(tmp_path, root, b"{}", signer.sign(b"{}"))
    assert not judged(tmp_path, root, b"{ }", signer.sign(b"{}"))
    assert (signer.is_ours, signer.days_left) == (False, 363)


async def test_a_certificate_that_cannot_sign_passes_is_found_at_the_start(
    bare: Settings, given: Given
) -> None:
    for name, wrong, said in (
        ("key", "", "WALLET_KEY is not set"),
        ("certificate", "no such file", "WALLET_CERTIFICATE: want PEM text, or the path"),
        ("certificate", given.key, "WALLET_CERTIFICATE is no certificate in PEM"),
        ("key", given.certificate, "WALLET_KEY cannot be read"),
        ("key", give().key, "WALLET_CERTIFICATE is not of WALLET_KEY"),
        ("key_passphrase", "x", "the key has no passphrase: unset it"),
        ("intermediate", given.root, "WALLET_INTERMEDIATE did not issue"),
        ("type_id", "pass.other", "not for WALLET_TYPE_ID=pass.other, but for pass.example"),
        ("team_id", "OTHER", "is not for WALLET_TEAM_ID=OTHER, but for TEAM123456"),
    ):
        unfit = given.settings(bare, **{f"wallet_{name}": wrong})
        with pytest.raises(Misconfigured, match=said):
            certificates.signer(unfit)
        with pytest.raises(Misconfigured, match=said):
            await preflight.at_start(unfit, secrets=True)


async def test_a_certificate_that_ended_or_soon_ends_is_told(bare: Settings) -> None:
    over = give(days=0.5).settings(bare)
    soon = give(days=20).settings(bare)

    with pytest.raises(Misconfigured, match=r"WALLET_CERTIFICATE is good from .*: get a new one"):
        certificates.signer(over)
    found = {each.check: each for each in await preflight.everything(soon)}["passes"]
    assert (found.verdict, found.refuses) == ("warn", False)
    assert "18 days" in found.found


async def test_a_chain_of_our_own_is_for_the_kind_it_was_made_for(bare: Settings) -> None:
    first = certificates.signer(bare)
    other = msgspec.structs.replace(bare, wallet_type_id="pass.other")

    assert certificates.signer(bare).certificate == first.certificate
    with pytest.raises(Misconfigured, match=r"remove .*wallet, and another chain is made"):
        certificates.signer(other)


async def test_of_several_who_make_a_chain_at_once_one_wins(
    bare: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They share nothing but the folder, as two workers do, and all find it empty."""
    everybody, publish = threading.Barrier(4), certificates._publish

    def together(folder: Path, files: dict[str, bytes]) -> None:
        everybody.wait(10)
        publish(folder, files)

    monkeypatch.setattr(certificates, "_publish", together)
    made = await asyncio.gather(*(asyncio.to_thread(certificates.signer, bare) for _ in range(4)))

    assert len({signer.certificate.serial_number for signer in made}) == 1
    assert [path.name for path in bare.data_dir.iterdir()] == ["wallet"], "nothing is left over"


# ── made once ────────────────────────────────────────────────────────────────────────────────────


def member(number: int = 7, **more: object) -> Membership:
    """Somebody, as Postgres would tell."""
    moment = datetime(2025, 3, 1, 12, tzinfo=UTC)
    id = f"0199a3f2-7c1e-7d43-9b5a-{number:012d}"
    made = Membership(id, 3, "genesis", "2025", number, "ann", moment, moment)
    return msgspec.structs.replace(made, **more)


async def test_a_pass_is_signed_once_for_all_who_want_it_at_once(
    bare: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []
    make = Press.make

    def counted(press: Press, whose: Membership) -> passes.Pass:
        made.append(whose.number)
        return make(press, whose)

    monkeypatch.setattr(passes, "KEPT_MAX", 2)
    monkeypatch.setattr(Press, "make", counted)
    crew = Crew()
    kept = Passes(bare, crew)

    same = await asyncio.gather(*(kept.of(member(1)) for _ in range(20)))
    assert (made, len({id(each) for each in same})) == ([1], 1)
    for number in (2, 3, 1):
        await kept.of(member(number))
    assert made == [1, 2, 3, 1], "the oldest was forgotten"


async def test_what_is_voided_says_so_and_the_same_content_has_the_same_tag(
    bare: Settings,
) -> None:
    press, later = Press(bare), member().minted_at.replace(year=2026)
    one, other = press.make(member()), press.make(member())
    voided = press.make(member(revoked_at=later, changed_at=later))

    assert one.etag == other.etag != voided.etag
    assert content(voided.data)["voided"] is True
