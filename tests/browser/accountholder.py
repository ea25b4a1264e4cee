"""The account's page as who has one sees it: fields by their labels, buttons by their words."""

from __future__ import annotations

import re

from playwright.async_api import Locator, Page, expect

from tests.browser.house import House
from tests.browser.window import Window

PASSWORD = "a long walk in the rain"


class Accountholder:
    """Somebody at /account, in one window."""

    def __init__(self, window: Window, house: House, name: str, page: Page | None = None) -> None:
        self.window, self.house, self.name = window, house, name
        self.page = page or window.page
        self.password = PASSWORD

    @property
    def email(self) -> str:
        """Whose it is."""
        return f"{self.name}@example.com"

    async def opens(self, where: str = "") -> None:
        """Go to the page."""
        await self.page.goto(f"{self.house.page}/account{where}")

    def form(self, name: str) -> Locator:
        """One of the forms."""
        return self.page.locator(f"#{name}-form")

    async def fills(self, form: str, press: str | None = None, **fields: str) -> None:
        """Type into a form, field by field, and press its button."""
        for label, text in fields.items():
            words = label.replace("_", " ").replace("mail", "-mail")
            named = re.compile(f"^{words}$", re.IGNORECASE)
            await self.form(form).get_by_label(named).fill(text)
        if press is not None:
            await self.form(form).get_by_role("button", name=press, exact=True).click()

    async def registers(self, where: str = "#register") -> None:
        """Make an account."""
        await self.opens(where)
        fields = {"username": self.name, "email": self.email, "password": self.password}
        await self.fills("register", "Create the account", **fields)
        await self.is_in()

    async def logs_in(self) -> None:
        """Come in."""
        await self.opens()
        await self.tries(self.password)
        await self.is_in()

    async def tries(self, password: str) -> None:
        """Try to come in."""
        await self.fills("login", "Log in", email=self.email, password=password)

    async def is_in(self) -> None:
        """Wait until the page's head says who it is."""
        await expect(self.page.locator("#account")).to_have_text(self.name)

    async def is_out(self) -> None:
        """Wait until it says nobody is."""
        await expect(self.page.locator("#account")).to_have_text("Log in")

    async def hears(self, form: str, words: str) -> None:
        """Wait until a form says so. `words` is a pattern."""
        await expect(self.form(form).locator(".told")).to_contain_text(re.compile(words))
