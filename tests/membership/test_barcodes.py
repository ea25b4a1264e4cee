"""A door without a network knows a member by the barcode of his pass, and nobody else."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from engine.infra.settings import Settings
from engine.membership import barcode
from engine.membership.barcode import Barcodes, Refused
from tests.membership.chains import content, written
from tests.membership.conftest import Club
from tests.membership.test_passes import issued, member

SCRIPT = Path(__file__).parents[2] / "docs" / "check_pass.py"
OLD, NEW = "a secret of the doors, and an old one", "a secret of the doors, and a new one"


def under(secret: str, previous: str = "") -> Barcodes:
    """The barcodes of whoever has these secrets."""
    return Barcodes(Settings(hmac_secret=secret, hmac_secret_previous=previous))


def test_a_barcode_says_whose_it_is() -> None:
    codes = under(NEW)
    message = codes.message(member(12))

    shown = barcode.check(message, barcode.by_id(codes.public()))

    assert (shown.tier, shown.year, shown.number) == ("genesis", "2025", 12)
    assert (shown.membership_id, shown.minted_on) == (member(12).id, "2025-03-01")
    assert len(message) < 200, "a phone reads it at arm's length"


def test_a_barcode_that_was_changed_anywhere_is_refused() -> None:
    codes = under(NEW)
    known, message = barcode.by_id(codes.public()), codes.message(member())

    for place, letter in enumerate(message):
        for other in {"0", "1", "A", "B", ":", "=", "é", "\n"} - {letter}:
            with pytest.raises(Refused):
                barcode.check(message[:place] + other + message[place + 1 :], known)
    for odd in (
        "",
        message[:-1],
        message + "=",
        message + "\n",
        " " + message,
        "VR1:",
        message * 2,
    ):
        with pytest.raises(Refused):
            barcode.check(odd, known)


def test_a_barcode_of_the_key_before_holds_and_a_strangers_does_not() -> None:
    old = under(OLD).message(member())
    both = under(NEW, OLD)

    assert barcode.check(old, barcode.by_id(both.public())).number == 7
    assert both.message(member()) == under(NEW).message(member())
    with pytest.raises(Refused, match="not among ours"):
        barcode.check(old, barcode.by_id(under(NEW).public()))


def test_whose_membership_has_ended_is_refused() -> None:
    codes = under(NEW)
    known, message = barcode.by_id(codes.public()), codes.message(member())

    with pytest.raises(Refused, match="revoked"):
        barcode.check(message, known, {member().id})
    assert barcode.check(message, known, {member(8).id})


async def test_a_door_checks_with_a_script_and_what_it_fetched_before(
    club: Club, tmp_path: Path
) -> None:
    await club.open(9)
    made, gone = [await club.minted(f"receipt-{n}", "ann") for n in range(2)]
    keys = (await club.shop.send("GET", "/wallet/keys")).body
    paths = written(tmp_path, {"keys": keys, "revoked": json.dumps({"revoked": [gone["id"]]})})

    door = tuple(map(str, paths.values()))

    def says(message: str, files: tuple[str, ...] = door) -> tuple[int, str]:
        asked = [sys.executable, str(SCRIPT), message, *files]
        told = subprocess.run(asked, check=False, capture_output=True, text=True)
        return told.returncode, told.stdout + told.stderr

    messages = [
        content(await issued(club.shop, each["id"], "ann"))["barcodes"][0]["message"]
        for each in (made, gone)
    ]
    code, said = says(messages[0])
    assert code == 0, said
    assert said.startswith(f"genesis 2025 #{made['sequenceNum']}, ")
    for wrong, why in (
        (messages[0].replace("genesis", "founder"), "no: the signature is not ours"),
        (messages[0].replace("VR1:", "VR2:"), "no: a newer kind"),
        (messages[1], f"no: membership {gone['id']} has been revoked"),
        ("hello", "no: this is no barcode"),
    ):
        code, said = says(wrong)
        assert (code, said.startswith(why)) == (1, True), said
    for files, code, word in (
        (door[:1], 0, "without revoked.json"),
        (door[::-1], 1, "swapped"),
        ((), 1, "usage: "),
    ):
        told = says(messages[0], files)
        assert (told[0], word in told[1]) == (code, True), told
