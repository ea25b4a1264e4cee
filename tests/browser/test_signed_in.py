"""With AUTH=required: the public page stands and says what it cannot do; operators sign in."""

from __future__ import annotations

import pytest
from playwright.async_api import expect

from engine.identity import tokens
from tests.browser.conftest import JWT_SECRET, Opener
from tests.browser.house import House
from tests.browser.storefront import Storefront

pytestmark = [pytest.mark.at_length, pytest.mark.timeout(120)]
ADMIN = tokens.create(JWT_SECRET, "operator", 3_600, "admin")
HEADERS = {"authorization": f"Bearer {ADMIN}"}


async def opens(guarded: House, name: str) -> int:
    body = {"name": name, "price": "120.00", "totalStock": 3}
    reply = await guarded.send("POST", "/drops", body, HEADERS)
    assert reply.status == 201, reply.body
    return int(reply.json["id"])


async def test_a_stranger_sees_the_stock_and_is_told_why_no_more(
    guarded: House, windows: Opener
) -> None:
    drop = await opens(guarded, "Behind Glass")
    shop = await Storefront.enter(await windows(), guarded)
    await shop.is_live()

    await expect(shop.page.get_by_role("note")).to_contain_text("log in or create an account")
    await expect(shop.button("Behind Glass", "Log in to buy")).to_be_disabled()
    token = tokens.create(JWT_SECRET, "ann", 3_600)
    body = {"dropId": drop}
    reply = await guarded.send("POST", "/reservations", body, {"authorization": f"Bearer {token}"})

    assert reply.status == 201, reply.body
    await shop.sees("Behind Glass", "1 held")


async def test_an_operator_signs_in_and_may_pause(guarded: House, windows: Opener) -> None:
    drop = await opens(guarded, "Operated")
    page = (await windows()).page
    await page.goto(f"{guarded.page}/ops")
    row = page.locator(f'#drops > li[data-drop="{drop}"]')
    await row.get_by_role("button", name="Pause Operated").click()
    dialog = page.get_by_role("dialog")
    await dialog.get_by_role("button", name="Pause", exact=True).click()
    await page.get_by_label("Token or API key").fill(ADMIN)
    await page.locator("#door").get_by_role("button", name="Sign in", exact=True).click()
    await expect(page.locator("#door")).to_be_hidden()

    await row.get_by_role("button", name="Pause Operated").click()
    await dialog.get_by_role("button", name="Pause", exact=True).click()

    await expect(row).to_contain_text("paused")
    assert (await guarded.show(drop))["status"] == "paused"
    asked = await page.evaluate("() => performance.getEntries().map((each) => each.name).join()")
    assert ADMIN not in asked  # no token in an address
