"""Members: a receipt becomes a card, a browser the device that signs for it; it moves by mail."""

from __future__ import annotations

import io
import itertools
import json
import re
import zipfile
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import msgspec
import pytest
from playwright.async_api import Locator, Page, Route, expect

from engine.membership.reforge import Links
from tests.browser.accessible import is_too_wide, violations
from tests.browser.accountholder import Accountholder
from tests.browser.conftest import HMAC_SECRET, Opener
from tests.browser.house import House
from tests.browser.member import Member, id_of, opens_tier
from tests.browser.test_account import someone
from tests.browser.test_signed_in import HEADERS

pytestmark = [pytest.mark.at_length, pytest.mark.timeout(120)]
LOOKS = list(itertools.product((360, 1280), ("light", "dark")))


async def test_members_mint_meet_and_are_shown_what_came_of_it(
    house: House, windows: Opener, tmp_path: Path
) -> None:
    tier = await opens_tier(house, "atelier")
    ann = Member(await windows(360, color_scheme="dark"), house)
    bob = Member(await windows(), house)
    await ann.comes("ann of the atelier")
    await bob.comes("bob of the atelier")
    await expect(bob.tier(tier)).to_contain_text("50 of 50 left")

    hers = await ann.mints(tier, "receipt of ann <b>")
    picture = re.compile(rf"^{tier}, number \d+ of 50$")
    await expect(hers.get_by_role("img")).to_have_accessible_name(picture)
    await expect(hers).to_be_focused()
    await expect(bob.tier(tier)).to_contain_text("49 of 50 left")
    his = await bob.mints(tier, "receipt of bob")
    await bob.page.get_by_label("Receipt", exact=True).fill("receipt of ann <b>")
    await bob.page.get_by_role("button", name="Get my number").click()
    await expect(bob.page.locator("#mint-form .told")).to_contain_text("already been fulfilled")

    async with ann.page.expect_download() as coming:
        await ann.presses(hers, "Download the pass")
    download = await coming.value
    await download.save_as(tmp_path / "a.pkpass")
    assert re.fullmatch(r"atelier-2026-\d+\.pkpass", download.suggested_filename)
    with zipfile.ZipFile(io.BytesIO((tmp_path / "a.pkpass").read_bytes())) as told:
        assert (await id_of(hers)) in json.loads(told.read("pass.json"))["serialNumber"]

    await ann.registers(hers)
    token = await ann.signs(hers, await id_of(his))
    assert await violations(ann.page) == []
    assert not await is_too_wide(ann.page)
    await ann.page.get_by_role("button", name="Close").click()
    await bob.shows(token, "Verified")
    await expect(bob.page.locator("#encounters")).to_contain_text(await id_of(hers))
    await bob.shows(token, "already recorded")
    await ann.page.reload()
    await expect(ann.page.locator("#encounters")).to_contain_text(await id_of(his))
    await expect(hers).to_contain_text("This device signs for it")  # the key is still there
    other = Member(ann.window, house, await ann.window.context.new_page())
    await other.comes("ann of the atelier")
    await expect(other.cards).to_contain_text("This device signs for it")

    await ann.page.goto(house.page)
    await expect(ann.page.locator("#empty")).not_to_have_text("Loading …")
    await expect(ann.page.get_by_role("article", name=tier)).to_have_count(0)


async def test_a_key_can_be_read_by_nobody(house: House, windows: Opener) -> None:
    tier = await opens_tier(house, "vault")
    ann = Member(await windows(), house)
    await ann.comes("ann of the vault")
    await ann.registers(await ann.mints(tier, "receipt of the vault"))

    told = await ann.page.evaluate("""async () => {
        const { keysOf } = await import("/assets/keyring.js");
        const [{ key }] = await keysOf(document.querySelector(".member").dataset.id);
        const exporting = crypto.subtle.exportKey("pkcs8", key);
        return [key.extractable, await exporting.then(() => "", String)];
    }""")

    assert told[0] is False
    assert "InvalidAccessError" in told[1]


async def test_a_key_outlives_a_list_that_did_not_come_and_none_is_made_without_a_database(
    house: House, windows: Opener
) -> None:
    """Without the list the page offers to register what signs already, and is told no."""
    tier = await opens_tier(house, "cellar")
    ann = Member(await windows(), house)
    await ann.comes("ann of the cellar")
    await ann.registers(await ann.mints(tier, "receipt of the cellar"))
    listed = re.compile(r"/devices\?")
    await ann.page.route(listed, lambda route: route.fulfill(json={"data": []}))
    await ann.page.reload()
    await ann.presses(ann.cards, "Register this device")
    await ann.hears("This membership has an active device")
    await ann.page.unroute(listed)
    await ann.page.reload()
    await expect(ann.cards).to_contain_text("This device signs for it")

    await ann.page.add_init_script("IDBFactory.prototype.open = () => { throw new Error('no'); };")
    await ann.page.reload()
    await ann.presses(ann.cards, "Move it to this device")
    await ann.dialog.get_by_role("button", name="Send the mail").click()
    await expect(ann.dialog).to_contain_text("This browser keeps no keys here")


async def test_a_membership_moves_by_the_button_behind_a_mailed_link(
    guarded: House, windows: Opener
) -> None:
    tier = await opens_tier(guarded, "voyager", HEADERS)
    stranger = Member(await windows(), guarded)
    await stranger.comes()
    await expect(stranger.tier(tier)).to_contain_text("50 of 50 left")
    await expect(stranger.page.get_by_role("button", name="Get my number")).to_be_hidden()
    account = Accountholder(stranger.window, guarded, someone())
    await stranger.page.get_by_role("note").get_by_role("link").click()
    await account.registers("?next=/membership#register")
    await expect(account.page).to_have_url(f"{guarded.page}/membership")
    me = await account.page.evaluate("JSON.parse(localStorage.login).id")
    wish = {"receiptData": "paid at the counter", "userId": me}
    drop = int(await stranger.tier(tier).get_by_role("radio").get_attribute("value") or 0)
    reply = await guarded.send("POST", "/mint", {**wish, "dropId": drop}, await till(guarded))
    assert reply.status == 201, reply.body
    old = Member(stranger.window, guarded)
    await old.comes()
    await old.registers(old.cards)

    new = Member(await windows(360), guarded)
    await Accountholder(new.window, guarded, account.name).logs_in()
    await new.comes()
    await new.presses(new.cards, "Move it to this device")
    assert await violations(new.page) == []
    await new.dialog.get_by_role("button", name="Send the mail").click()
    await expect(new.dialog).to_contain_text("A mail is on its way")
    await new.dialog.get_by_role("button", name="Close").click()
    await expect(new.cards).to_contain_text("until you press the button")
    link = await link_of(guarded, reply.json["membership"]["id"])
    token = link.partition("token=")[2]

    page = await new.window.context.new_page()
    answer = await page.goto(guarded.page + link)
    assert answer is not None
    assert answer.headers["referrer-policy"] == "no-referrer"
    await expect(page).to_have_url(f"{guarded.page}/reforge/confirm")
    await expect(new.cards).to_contain_text("until you press the button")
    assert await violations(page) == []
    new.window.forgive(r"\b500\b.*/devices/reforge/confirm$")
    await page.route("**/devices/reforge/confirm", loses_the_answer, times=1)
    await page.get_by_role("button", name="Yes, move it").click()
    await expect(page.get_by_role("alert")).to_contain_text("It may be done")
    await page.get_by_role("button", name="Yes, move it").click()
    await is_over(page, "Your membership has moved")
    assert await violations(page) == []
    await new.page.evaluate("dispatchEvent(new Event('focus'))")  # in tests all windows have it
    await expect(new.cards).to_contain_text("This device signs for it")

    again = await windows()
    await again.page.goto(guarded.page + link)
    await again.page.get_by_role("button", name="Yes, move it").click()
    await is_over(again.page, "This link moves nothing any more")
    assert await violations(again.page) == []
    assert token not in guarded.log()


async def loses_the_answer(route: Route) -> None:
    """It was done, and nobody knows."""
    await route.fetch()
    said = {"error": "OUTCOME_UNKNOWN", "message": "It may be done."}
    await route.fulfill(status=500, json=said)


async def is_over(page: Page, title: str) -> None:
    """One heading that says what came of it, and no question."""
    await expect(page.get_by_role("heading", level=2)).to_have_text(title)
    await expect(page.locator("#ask")).to_be_focused()
    await expect(page.get_by_role("button")).to_have_count(0)
    await expect(page.locator("main")).not_to_contain_text("nothing happens")


async def till(guarded: House) -> dict[str, str]:
    """What a shop's server sends along, which says who has paid."""
    body = {"name": "till", "scopes": ["membership"]}
    made = await guarded.send("POST", "/api-keys", body, HEADERS)
    assert made.status == 201, made.body
    return {"x-api-key": made.json["apiKey"]}


async def link_of(guarded: House, membership: str) -> str:
    """What the postman writes into a mail: path and query."""
    connection = await asyncpg.connect(guarded.database_url)
    found = await connection.fetchrow(
        "SELECT id, token_hash FROM reforges WHERE membership_id = $1", membership
    )
    await connection.close()
    assert found is not None
    links = Links(msgspec.structs.replace(guarded.settings, hmac_secret=HMAC_SECRET))
    parts = urlsplit(links.link(str(found["id"]), found["token_hash"]) or "")
    return f"{parts.path}?{parts.query}"


async def test_an_operator_finds_a_member_and_revokes_with_a_reason(
    house: House, windows: Opener
) -> None:
    tier = await opens_tier(house, "ended")
    ann = Member(await windows(), house)
    await ann.comes("ann of the ended")
    card = await ann.mints(tier, "receipt that was charged back")
    page = (await windows(360)).page
    await page.goto(f"{house.page}/ops")
    rows = await finds(page, User="ann of the ended", Tier="ended 2026", State="live")
    await expect(rows).to_have_count(1)
    assert await violations(page) == []

    await rows.get_by_role("button", name="Revoke ended 2026").click()
    dialog = page.get_by_role("dialog")
    await dialog.get_by_role("button", name="Revoke", exact=True).click()
    await expect(dialog).to_contain_text("Say why")
    await dialog.get_by_label("Reason").fill("charged back <i>")
    assert await violations(page) == []
    await dialog.get_by_role("button", name="Revoke", exact=True).click()

    await expect(dialog).to_be_hidden()
    await expect(rows).to_contain_text("charged back <i>")
    await expect(rows.get_by_role("button")).to_have_count(0)
    assert not await is_too_wide(page)
    await ann.page.reload()
    await expect(card).to_contain_text("charged back <i>")
    await expect(ann.cards.get_by_role("button")).to_have_count(0)
    await finds(page, User="ann of the ended", State="live")
    await expect(page.locator("#found")).to_contain_text("no such membership")


async def finds(page: Page, **asked: str) -> Locator:
    """Fill the search's fields, and look."""
    form = page.locator("#find")
    for label, value in asked.items():
        field = form.get_by_label(label)
        if label == "User":
            await field.fill(value)
        else:
            await field.select_option(label=value)
    await form.get_by_role("button", name="Find").click()
    return page.locator("#members > li")


@pytest.mark.parametrize(("width", "scheme"), LOOKS)
async def test_the_members_pages_are_accessible(
    house: House, windows: Opener, width: int, scheme: str
) -> None:
    tier = await opens_tier(house, f"axe_{width}_{scheme}")
    ann = Member(await windows(width, color_scheme=scheme), house)
    await ann.comes(f"ann {width} {scheme}")
    assert await violations(ann.page) == []

    await ann.mints(tier.replace("_", " "), f"receipt {width} {scheme}")

    assert await violations(ann.page) == []
    assert not await is_too_wide(ann.page)
    await ann.page.goto(f"{house.page}/reforge/confirm")
    await is_over(ann.page, "There is no token here")
    assert await violations(ann.page) == []
    assert not await is_too_wide(ann.page)
