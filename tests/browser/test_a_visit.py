"""What a browser sees of the whole: the part of tests/browser that `make test` runs."""

from __future__ import annotations

import os

import psutil
import pytest
from playwright.async_api import expect

from tests.browser.accessible import violations
from tests.browser.accountholder import Accountholder
from tests.browser.conftest import Opener
from tests.browser.house import House
from tests.browser.member import Member, opens_tier
from tests.browser.storefront import Storefront
from tests.browser.window import LOOPBACK

pytestmark = pytest.mark.timeout(120)  # the first starts a browser and a whole shop


async def test_a_pair_is_reserved_paid_for_and_then_mine(house: House, windows: Opener) -> None:
    drop = await house.put_on_show("Daybreak", 2)
    shop = await Storefront.enter(await windows(360, color_scheme="dark"), house)

    assert await violations(shop.page) == []
    await shop.reserves("Daybreak")
    assert (await house.stock(drop))["heldStock"] == 1
    await shop.goes_to_pay("Daybreak")
    assert await violations(shop.page) == []
    await shop.presses_there("Pay", "Payment accepted")
    await shop.comes_back()

    await shop.has("Daybreak")
    assert (await house.stock(drop))["soldStock"] == 1


async def test_two_windows_see_each_other(house: House, windows: Opener) -> None:
    drop = await house.put_on_show("Last Pair", 1)
    ann = await Storefront.enter(await windows(), house)
    bob = await Storefront.enter(await windows(), house)
    await bob.is_live()
    loads = bob.window.asked_for("/assets/")

    await ann.reserves("Last Pair")
    await bob.sees("Last Pair", "1 hold may return")
    await ann.button("Last Pair", "Give it back").click()
    await bob.sees("Last Pair", "1 free")
    await bob.reserves("Last Pair")
    await ann.sees("Last Pair", "1 hold may return")
    await bob.button("Last Pair", "Pay").click()
    await bob.presses_there("Pay", "Payment accepted")

    await ann.sees("Last Pair", "sold out")
    assert (await house.stock(drop))["soldStock"] == 1
    assert bob.window.asked_for("/assets/") == loads  # nobody reloaded
    assert any("stock_update" in frame for frame in ann.window.frames)


async def test_a_hold_runs_out_before_the_buyers_eyes(house: House, windows: Opener) -> None:
    drop = await house.put_on_show("Brief", 1, holdSeconds=3)
    shop = await Storefront.enter(await windows(), house)

    await shop.reserves("Brief")
    await shop.sees("Brief", r"0:0[123]")

    await shop.sees("Brief", "your time ran out")
    await shop.sees("Brief", "1 free")
    assert (await house.stock(drop))["availableStock"] == 1
    await shop.reserves("Brief")  # and nothing stands in the way of another


async def test_who_registers_is_called_by_a_name_that_others_see(
    house: House, windows: Opener
) -> None:
    drop = await house.put_on_show("Named", 2)
    bob = await Storefront.enter(await windows(), house)
    await bob.is_live()
    ann = Accountholder(await windows(360, color_scheme="dark"), house, "ann.of_the_visit")
    await ann.registers()
    assert await violations(ann.page) == []
    id = await ann.page.evaluate("() => JSON.parse(localStorage.login).id")
    hold = (await house.reserve(drop, id)).json["id"]
    assert (await house.confirm(hold, id)).status == 201

    await bob.sees("Named", f"Latest buyers{ann.name}")
    await ann.page.get_by_role("link", name="Drops").click()
    await ann.is_in()


async def test_a_receipt_becomes_a_card_that_this_browser_signs_for(
    house: House, windows: Opener
) -> None:
    tier = await opens_tier(house, "visitors")
    ann = Member(await windows(360), house)
    await ann.comes("ann")

    card = await ann.mints(tier, "a visitor's receipt")
    await expect(ann.tier(tier)).to_contain_text("49 of 50 left")
    await ann.registers(card)

    assert await violations(ann.page) == []


async def test_nothing_leaves_loopback(house: House, windows: Opener) -> None:
    await house.put_on_show("Homebody", 1)
    shop = await Storefront.enter(await windows(), house)
    shop.window.forgive("React Router")  # in the document's page: what its library will change
    await shop.is_live()
    for path, title in (("/ops", "Vital signs"), ("/docs", "Velvetrope")):
        await shop.page.goto(house.page + path)
        await expect(shop.page.get_by_role("heading", name=title).first).to_be_visible()

    assert shop.window.sockets, "no line to the engine was seen"
    assert len(shop.window.asked) > 10
    assert strangers_of_the_browser() == set()


def strangers_of_the_browser() -> set[str]:
    """Whom the processes of the browser are connected to on other machines."""
    children = psutil.Process(os.getpid()).children(recursive=True)
    browsers = [child for child in children if "chrom" in child.name()]
    assert browsers, "no browser was looked at"
    ends = {
        end.raddr.ip for child in browsers for end in child.net_connections("inet") if end.raddr
    }
    assert ends & {*LOOPBACK, "::1"}, "a browser without one connection shows no page"
    return ends - {*LOOPBACK, "::1"}
