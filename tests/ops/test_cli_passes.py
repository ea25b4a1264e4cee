"""`velvetrope pass …`: a door is equipped, and judges."""

from __future__ import annotations

from pathlib import Path

from tests.membership.chains import content, written
from tests.membership.conftest import Club
from tests.membership.test_passes import issued
from tests.ops.conftest import Types
from tests.support.shop import Shop


async def test_a_door_is_equipped_from_the_terminal_and_judges_without_a_database(
    types: Types, shop: Shop, tmp_path: Path
) -> None:
    club = Club(shop)
    await club.open(9)
    made, gone = [await club.minted(f"receipt-{n}", "ann") for n in range(2)]
    ended = f"/memberships/{gone['id']}/revoke"
    messages = [
        content(await issued(shop, each["id"], "ann"))["barcodes"][0]["message"]
        for each in (made, gone)
    ]
    assert (await types("pass", "revoked")).json == {"revoked": []}
    assert (await shop.send("POST", ended, {"reason": "refunded"})).status == 200
    lists = await types("pass", "revoked")
    assert lists.json == {"revoked": [gone["id"]]}
    files = {"keys.json": (await types("pass", "key")).out, "revoked.json": lists.out}
    paths = written(tmp_path, {**files})
    known = ("--keys", str(paths["keys.json"]))
    door = (*known, "--revoked", str(paths["revoked.json"]))
    nowhere = {"DATABASE_URL": "postgresql://nobody@127.0.0.1:1/nothing"}

    good = await types("pass", "check", *door, "--", messages[0], **nowhere)
    assert (good.code, good.err) == (0, "")
    assert good.out.startswith(f"genesis 2025 #{made['sequenceNum']}, minted on ")
    told = await types("pass", "check", *door, "--json", "--", messages[0])
    assert told.json["membershipId"] == made["id"]
    unsure = await types("pass", "check", "--", messages[1])
    assert (unsure.code, "without --revoked" in unsure.err) == (0, True)
    for wrong, why in (
        (messages[1], "has been revoked"),
        (messages[0].replace("genesis", "founder"), "forged"),
        ("--help", "no barcode of a pass"),
        ("", "no barcode of a pass"),
    ):
        said = await types("pass", "check", *door, "--", wrong, **nowhere)
        assert (said.code, said.out, why in said.err) == (1, "", True), wrong
    told = await types("pass", "check", *door, "--json", "--", messages[1])
    assert (told.code, told.json) == (
        1,
        {"ok": False, "why": f"membership {gone['id']} has been revoked"},
    )
    strict = {"AUTH": "required", "HMAC_SECRET": ""}
    for command in (("key",), ("check", "--", messages[0])):
        said = await types("pass", *command, **strict)
        assert (said.code, "the one the service has" in said.err) == (3, True)
    nobody = await types("tier", "revoke", made["id"][::-1], "--reason", "none")
    assert (nobody.code, "there is no membership" in nobody.err) == (1, True)
    for odd in (("--keys", str(tmp_path / "none")), ("--keys", str(paths["revoked.json"]))):
        said = await types("pass", "check", *odd, "--", messages[0])
        assert (said.code, said.out) == (2, "")
