"""Buying when it goes less smoothly: a declined card, no mouse, no sign-in."""

from __future__ import annotations

import pytest
from playwright.async_api import expect

from tests.browser.conftest import Opener
from tests.browser.house import House
from tests.browser.storefront import Storefront

pytestmark = [pytest.mark.at_length, pytest.mark.timeout(120)]


async def test_a_declined_card_may_be_tried_again(house: House, windows: Opener) -> None:
    drop = await house.put_on_show("Second Try", 1)
    shop = await Storefront.enter(await windows(), house)

    await shop.reserves("Second Try")
    await shop.goes_to_pay("Second Try")
    await shop.presses_there("Card declined", "Payment declined")
    await shop.comes_back()
    await shop.sees("Second Try", "declined")
    assert (await house.stock(drop))["heldStock"] == 1

    await shop.button("Second Try", "Try again").click()
    await shop.page.wait_for_url("**/checkout?*")
    await shop.presses_there("Pay", "Payment accepted")
    await shop.comes_back()

    await shop.has("Second Try")
    assert (await house.stock(drop))["soldStock"] == 1


async def test_a_pair_is_bought_with_the_keyboard_alone(house: House, windows: Opener) -> None:
    drop = await house.put_on_show("By Hand", 1)
    shop = await Storefront.enter(await windows(), house)

    await tab_to(shop, "Reserve", "By Hand")
    await shop.page.keyboard.press("Enter")
    await expect(shop.button("By Hand", "Pay")).to_be_visible()
    await tab_to(shop, "Pay", "By Hand")
    await shop.page.keyboard.press("Enter")
    await shop.page.wait_for_url("**/checkout?*")
    await tab_to(shop, "Pay")
    await shop.page.keyboard.press("Enter")
    await expect(shop.page.get_by_role("heading", name="Payment accepted")).to_be_visible()
    await tab_to(shop, "Back to the shop")
    await shop.page.keyboard.press("Enter")

    await shop.has("By Hand")
    assert (await house.stock(drop))["soldStock"] == 1


async def tab_to(shop: Storefront, label: str, drop: str = "") -> None:
    """Press Tab until that has the focus, in that drop's card, and can be seen to have it."""
    seen = []
    for _ in range(150):
        await shop.page.keyboard.press("Tab")
        text, card, outline = await shop.page.evaluate(FOCUS)
        seen.append(text)
        if text == label and drop in card:
            assert outline, f"nothing shows that {label} has the focus"
            return
    pytest.fail(f"no {label} by Tab; seen {seen}")


FOCUS = """() => {
    const at = document.activeElement, style = getComputedStyle(at);
    return [at.textContent.trim(), at.closest("article")?.textContent ?? "",
            style.outlineStyle !== "none" || style.boxShadow !== "none"];
}"""
