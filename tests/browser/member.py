"""The members' page as a member sees it: cards by their names, buttons by their words."""

from __future__ import annotations

import re

from playwright.async_api import Locator, Page, expect

from tests.browser.house import House
from tests.browser.window import Window


class Member:
    """Somebody at /membership, in one window."""

    def __init__(self, window: Window, house: House, page: Page | None = None) -> None:
        self.window, self.house, self.page = window, house, page or window.page

    async def comes(self, name: str = "") -> None:
        """Go to the page, and wait until it knows the tiers; be called so, where anybody may."""
        await self.page.goto(f"{self.house.page}/membership")
        await expect(self.page.locator("#state")).to_have_text("Live", timeout=10_000)
        await expect(self.page.locator("#none")).not_to_have_text("Loading …")
        if name:
            await self.page.get_by_label("You are").fill(name)
            await self.page.get_by_role("button", name="Change").click()
            await self.hears(f"You are {name} now")

    def tier(self, name: str) -> Locator:
        """One of the tiers to choose from."""
        return self.page.locator(".tier").filter(has_text=name)

    async def mints(self, tier: str, receipt: str) -> Locator:
        """Present a receipt; the card that it gave."""
        before = await self.cards.count()
        await self.tier(tier).get_by_role("radio").check()
        await self.page.get_by_label("Receipt", exact=True).fill(receipt)
        await self.page.get_by_role("button", name="Get my number").click()
        await expect(self.cards).to_have_count(before + 1)
        fresh = await id_of(self.page.locator(".member.fresh"))
        return self.page.locator(f'.member[data-id="{fresh}"]')

    @property
    def cards(self) -> Locator:
        """What one has, the newest first."""
        return self.page.locator(".member")

    @property
    def dialog(self) -> Locator:
        """The one that is open."""
        return self.page.get_by_role("dialog")

    async def hears(self, words: str) -> None:
        """Wait until the page's head says so."""
        await expect(self.page.locator("#said")).to_contain_text(words)

    async def presses(self, card: Locator, label: str) -> None:
        """One of a card's buttons."""
        await card.get_by_role("button", name=re.compile(f"^{label}: ")).click()

    async def registers(self, card: Locator) -> None:
        """Let this browser sign for a membership."""
        await self.presses(card, "Register this device")
        await self.hears("This device signs for")
        await expect(card).to_contain_text("This device signs for it")

    async def signs(self, card: Locator, whom: str) -> str:
        """Meet somebody; the token that says so."""
        await self.presses(card, "Meet somebody")
        await self.dialog.get_by_label("Id of their membership").fill(whom)
        await self.dialog.get_by_role("button", name="Sign").click()
        await expect(self.dialog).to_contain_text("Signed")
        return await self.dialog.get_by_label("Show this to them").input_value()

    async def shows(self, token: str, words: str) -> None:
        """Have a token verified, and hear of it."""
        form = self.page.locator("#verify-form")
        await form.get_by_label("A token that a member showed you").fill(token)
        await form.get_by_role("button", name="Verify").click()
        await expect(form.locator(".told")).to_contain_text(words)


async def id_of(card: Locator) -> str:
    """A card's membership."""
    return await card.get_attribute("data-id") or ""


async def opens_tier(house: House, tier: str, headers: dict[str, str] | None = None) -> str:
    """A tier of fifty; as the page calls it."""
    body = {"tier": tier, "year": "2026", "capacity": 50}
    reply = await house.send("POST", "/memberships/drops", body, headers)
    assert reply.status == 201, reply.body
    return f"{tier.title()} 2026"
