"""Every page for everybody: axe finds nothing, on a phone and a desk, in light and in dark."""

from __future__ import annotations

import itertools

import pytest
from playwright.async_api import expect

from tests.browser.accessible import is_too_wide, violations
from tests.browser.conftest import Opener
from tests.browser.house import House
from tests.browser.storefront import Storefront

pytestmark = [pytest.mark.at_length, pytest.mark.timeout(120)]
LOOKS = list(itertools.product((360, 1280), ("light", "dark")))


@pytest.mark.parametrize(("width", "scheme"), LOOKS)
async def test_the_shop_is_accessible_at_every_moment(
    house: House, windows: Opener, width: int, scheme: str
) -> None:
    name = f"Axe {width} {scheme}"
    await house.put_on_show(name, 1)
    await house.put_on_show(f"{name} later", 5, startsAt="2100-01-01T00:00:00Z")
    window = await windows(width, color_scheme=scheme)
    shop = await Storefront.enter(window, house)

    assert await violations(shop.page) == []
    await shop.reserves(name)
    assert await violations(shop.page) == []
    other = await Storefront.enter(await windows(width, color_scheme=scheme), house)
    await other.sees(name, "may return")
    assert await violations(other.page) == []
    assert not await is_too_wide(shop.page)


@pytest.mark.parametrize(("width", "scheme"), LOOKS)
async def test_the_providers_page_is_accessible(
    house: House, windows: Opener, width: int, scheme: str
) -> None:
    name = f"Pay {width} {scheme}"
    await house.put_on_show(name, 1)
    shop = await Storefront.enter(await windows(width, color_scheme=scheme), house)
    await shop.reserves(name)
    await shop.goes_to_pay(name)

    assert await violations(shop.page) == []
    assert not await is_too_wide(shop.page)
    await shop.presses_there("Card declined", "Payment declined")
    assert await violations(shop.page) == []


@pytest.mark.parametrize(("width", "scheme"), LOOKS)
async def test_the_dashboard_is_accessible(
    house: House, windows: Opener, width: int, scheme: str
) -> None:
    name = f"Ops {width} {scheme}"
    drop = await house.put_on_show(name, 1)
    page = (await windows(width, color_scheme=scheme)).page
    await page.goto(f"{house.page}/ops")
    await expect(page.locator("#heard")).to_contain_text("up to date")

    assert await violations(page) == []
    assert not await is_too_wide(page)
    await page.get_by_role("button", name=f"Pause {name}, drop {drop}").click()
    await expect(page.get_by_role("dialog")).to_be_visible()
    assert await violations(page) == []
