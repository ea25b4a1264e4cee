"""The shop's page as a buyer sees it: cards by their names, buttons by their words."""

from __future__ import annotations

import re

from playwright.async_api import Locator, expect

from tests.browser.house import House
from tests.browser.window import Window


class Storefront:
    """The shop in one window."""

    def __init__(self, window: Window, url: str) -> None:
        self.window, self.page, self.url = window, window.page, url

    @classmethod
    async def enter(cls, window: Window, house: House, url: str = "") -> Storefront:
        """Come in, and wait until there is something to see."""
        shop = cls(window, url or house.page)
        await window.page.goto(shop.url)
        await expect(window.page.get_by_role("article").first).to_be_visible()
        return shop

    def card(self, drop: str) -> Locator:
        """A drop's."""
        return self.page.get_by_role("article", name=drop, exact=True)

    def button(self, drop: str, label: str) -> Locator:
        """One of a drop's buttons."""
        return self.card(drop).get_by_role("button", name=label, exact=True)

    async def is_live(self, seconds: float = 10.0) -> None:
        """Wait until the line to the engine stands."""
        await expect(self.page.locator("#state")).to_have_text("Live", timeout=seconds * 1000)

    async def reserves(self, drop: str) -> None:
        """Press Reserve, and see that the pair is held."""
        await self.button(drop, "Reserve").click()
        await expect(self.button(drop, "Pay")).to_be_visible()

    async def goes_to_pay(self, drop: str) -> None:
        """Press Pay, and be at the provider's."""
        await self.button(drop, "Pay").click()
        await self.page.wait_for_url("**/checkout?*")

    async def presses_there(self, label: str, ending: str) -> None:
        """At the provider's: choose how the payment goes, and see how it ended."""
        await self.page.get_by_role("button", name=label, exact=True).click()
        title = self.page.get_by_role("heading", name=ending)
        await expect(title).to_be_visible(timeout=10_000)

    async def comes_back(self) -> None:
        """From the provider's to the shop."""
        await self.page.get_by_role("link", name="Back to the shop").click()
        await self.page.wait_for_url(f"{self.url}/**")

    async def buys(self, drop: str) -> None:
        """All of it: reserve, pay at the provider's, come back, and have it."""
        await self.reserves(drop)
        await self.goes_to_pay(drop)
        await self.presses_there("Pay", "Payment accepted")
        await self.comes_back()
        await self.has(drop)

    async def has(self, drop: str) -> None:
        """The pair is bought: its card and the list of purchases say so."""
        await expect(self.button(drop, "Bought")).to_be_disabled(timeout=8_000)
        await self.sees(drop, r"pair \d+ is yours\.")
        await self.page.get_by_text("My purchases").click()
        await expect(self.page.locator("#purchases")).to_contain_text(drop)

    async def sees(self, drop: str, words: str, seconds: float = 8.0) -> None:
        """Wait until a card says so. `words` is a pattern."""
        told = re.compile(words, re.IGNORECASE)
        await expect(self.card(drop)).to_contain_text(told, timeout=seconds * 1000)
