"""The guard of the other tests notices what it is there for; and the browser itself is silent."""

from __future__ import annotations

import os

import psutil
import pytest
from playwright.async_api import Browser, Error

from tests.browser.conftest import Opener
from tests.browser.house import House
from tests.browser.storefront import Storefront
from tests.browser.window import LOOPBACK, Window
from tests.support.wait import wait_until

SENDS_ELSEWHERE = """() => Promise.allSettled([
    fetch("http://shop.example/collect"),
    new Promise((over) => { new WebSocket("ws://192.0.2.1/live").onclose = over; }),
])"""


async def test_a_page_that_speaks_to_strangers_is_caught(browser: Browser) -> None:
    async with await browser.new_context() as context:
        window = await Window.of(context)
        await window.page.evaluate(SENDS_ELSEWHERE)

        assert set(window.strangers()) == {"http://shop.example/collect", "ws://192.0.2.1/live"}


async def test_what_a_page_complains_of_is_heard(house: House, browser: Browser) -> None:
    async with await browser.new_context() as context:
        window = await Window.of(context)
        await window.page.goto(house.page)
        await window.page.evaluate("() => { setTimeout(() => { throw new Error('oh') }) }")
        await window.page.evaluate("() => { console.error('no good') }")
        with pytest.raises(Error):
            await window.page.add_script_tag(url="http://shop.example/spy.js")
        for words in ("thrown: oh", "no good", "policy: script-src-elem forbids http://shop.exa"):

            async def is_told(words: str = words) -> bool:
                return any(words in complaint for complaint in window.complaints)

            await wait_until(is_told, f"the watch tells of {words}", seconds=5)


async def test_nothing_leaves_loopback(house: House, windows: Opener) -> None:
    await house.put_on_show("Homebody", 1)
    shop = await Storefront.enter(await windows(), house)
    shop.window.forgive("React Router")  # in the document's page: what its library will change
    await shop.reserves("Homebody")
    await shop.goes_to_pay("Homebody")
    await shop.presses_there("Pay", "Payment accepted")
    await shop.comes_back()
    for path in ("/docs", "/ops"):
        await shop.page.goto(house.page + path)
        await shop.page.wait_for_load_state("networkidle")

    assert len(shop.window.asked) > 10
    assert shop.window.strangers() == []
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
