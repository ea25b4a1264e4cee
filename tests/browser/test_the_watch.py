"""The watch over the windows of the other tests notices what it is there for."""

from __future__ import annotations

import pytest
from playwright.async_api import Browser, Error

from tests.browser.house import House
from tests.browser.window import Window
from tests.support.wait import wait_until

pytestmark = [pytest.mark.at_length, pytest.mark.timeout(120)]
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
