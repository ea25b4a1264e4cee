"""Two buyers look at one drop, each in a window of their own."""

from __future__ import annotations

from playwright.async_api import expect

from tests.browser.conftest import Opener
from tests.browser.house import House
from tests.browser.storefront import Storefront


async def test_two_windows_see_each_other(house: House, windows: Opener) -> None:
    drop = await house.put_on_show("Last Pair", 1)
    ann = await Storefront.enter(await windows(), house)
    bob = await Storefront.enter(await windows(), house)
    await expect(bob.button("Last Pair", "Reserve")).to_be_enabled()
    loads = bob.window.asked_for("/assets/")

    await ann.reserves("Last Pair")
    await bob.sees("Last Pair", "1 .*may return")
    await ann.button("Last Pair", "Give it back").click()
    await bob.sees("Last Pair", "1 of 1 left")
    await bob.reserves("Last Pair")

    await ann.sees("Last Pair", "1 .*may return")
    assert (await house.stock(drop))["heldStock"] == 1
    assert bob.window.asked_for("/assets/") == loads  # nobody reloaded
