"""A buyer's way through the pages, from the shop to the provider and back."""

from __future__ import annotations

import pytest
from playwright.async_api import expect

from tests.browser.conftest import Opener
from tests.browser.house import House
from tests.browser.storefront import Storefront


async def test_a_pair_is_reserved_paid_for_and_then_mine(house: House, windows: Opener) -> None:
    drop = await house.put_on_show("Daybreak", 2)
    shop = await Storefront.enter(await windows(), house)

    await shop.reserves("Daybreak")
    await shop.sees("Daybreak", "yours")
    assert (await house.stock(drop))["heldStock"] == 1
    await shop.goes_to_pay("Daybreak")
    await shop.presses_there("Pay", "Payment accepted")
    await shop.comes_back()

    await shop.sees("Daybreak", r"pair \d is yours")
    assert (await house.stock(drop))["soldStock"] == 1


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

    await shop.sees("Second Try", r"pair 1 is yours")
    assert (await house.stock(drop))["soldStock"] == 1


async def test_a_hold_runs_out_before_the_buyers_eyes(house: House, windows: Opener) -> None:
    drop = await house.put_on_show("Brief", 1, holdSeconds=3)
    shop = await Storefront.enter(await windows(), house)

    await shop.reserves("Brief")
    await shop.sees("Brief", r"0:0[123]")

    await shop.sees("Brief", "your time ran out")
    await expect(shop.button("Brief", "Reserve")).to_be_enabled()
    assert (await house.stock(drop))["availableStock"] == 1
    await shop.reserves("Brief")  # and nothing stands in the way of another


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

    await shop.sees("By Hand", r"pair 1 is yours")
    assert (await house.stock(drop))["soldStock"] == 1


async def tab_to(shop: Storefront, label: str, drop: str = "") -> None:
    """Press Tab until that has the focus, in that drop's card, and can be seen to have it."""
    seen = []
    for _ in range(60):
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
