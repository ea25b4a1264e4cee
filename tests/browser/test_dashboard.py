"""The operator's page while a sale is under way."""

from __future__ import annotations

import re

import pytest
from playwright.async_api import Locator, Page, expect

from tests.browser.conftest import Opener
from tests.browser.house import House
from tests.support.rush import Rush
from tests.support.wait import wait_until

pytestmark = [pytest.mark.at_length, pytest.mark.timeout(120)]


def row_of(page: Page, drop: int) -> Locator:
    return page.locator(f'#drops > li[data-drop="{drop}"]')


async def presses(page: Page, deed: str, drop: int) -> None:
    """A deed's button, and the one that confirms it."""
    await row_of(page, drop).get_by_role("button", name=re.compile(f"^{deed} ")).click()
    dialog = page.get_by_role("dialog")
    await dialog.get_by_role("button", name=deed, exact=True).click()
    await expect(dialog).to_be_hidden()


async def test_the_figures_move_in_a_rush_and_pause_ends_it(house: House, windows: Opener) -> None:
    drop = await house.put_on_show("Rushed", 20_000)

    async def is_filled() -> bool:
        return bool((await house.show(drop))["status"] == "live")

    await wait_until(is_filled, "all of its units are on the shelf")
    page = (await windows()).page
    await page.goto(f"{house.page}/ops")
    held = row_of(page, drop).locator("div:has(> dt.held) > dd")
    await expect(held).to_have_text("0")

    async with Rush.of(house, drop, house.database_url, clients=8) as rush:
        await rush.sells(150)
        await expect(held).not_to_have_text("0")
        seen = await held.inner_text()
        await rush.sells(150)
        await expect(held).not_to_have_text(seen)
        await expect(page.locator("#overall")).not_to_contain_text("Looking")
        await presses(page, "Pause", drop)

        async def a_second_is_over() -> bool:
            return {reply.status for reply in rush.replies[-20:]} == {409}

        await wait_until(a_second_is_over, "buyers are refused", seconds=3)
        last = await rush.held()
        refused = len(rush.replies)
        await wait_until(lambda: more_than(rush, refused + 20), "twenty more were refused")

        assert await rush.held() == last
    rush.check(20_000, {"PAUSED"})
    assert rush.replies[-1].error == "PAUSED"
    await expect(row_of(page, drop)).to_contain_text("paused")
    await presses(page, "Resume", drop)

    async def sells_again() -> bool:
        return (await house.reserve(drop, "late")).status == 201

    await wait_until(sells_again, "it sells again", seconds=3, pause=0.1)


async def more_than(rush: Rush, replies: int) -> bool:
    return len(rush.replies) > replies


async def test_who_does_not_confirm_has_done_nothing(house: House, windows: Opener) -> None:
    drop = await house.put_on_show("Untouched", 5)
    page = (await windows()).page
    await page.goto(f"{house.page}/ops")
    pause = row_of(page, drop).get_by_role("button", name="Pause Untouched")

    await pause.click()
    await page.keyboard.press("Enter")  # on what has the focus: Cancel
    await expect(page.get_by_role("dialog")).to_be_hidden()
    await pause.click()
    await page.keyboard.press("Escape")
    await expect(page.get_by_role("dialog")).to_be_hidden()

    assert (await house.show(drop))["status"] == "live"


async def test_a_reconcile_says_what_it_found(house: House, windows: Opener) -> None:
    drop = await house.put_on_show("Tidy", 5)
    page = (await windows()).page
    await page.goto(f"{house.page}/ops")

    await row_of(page, drop).get_by_role("button", name="Reconcile Tidy").click()

    await expect(page.get_by_role("dialog")).to_contain_text("nothing to mend")
