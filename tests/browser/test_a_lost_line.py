"""The line to the engine breaks: the page says so, comes back, and knows what it has missed."""

from __future__ import annotations

import pytest
from playwright.async_api import expect

from loadtest.chaos.proxy import Proxy
from tests.browser.conftest import Opener
from tests.browser.house import House
from tests.browser.storefront import Storefront

pytestmark = [pytest.mark.at_length, pytest.mark.timeout(120)]
CUT = ("net::ERR_", "WebSocket connection", "EventSource")  # what a browser says of a cut line


async def test_a_line_that_was_cut_comes_back_and_tells_what_was_missed(
    house: House, windows: Opener
) -> None:
    drop = await house.put_on_show("Missed", 1)
    async with Proxy.open(house.page) as way:
        shop = await Storefront.enter(await windows(), house, way.url)
        shop.window.forgive(*CUT)
        await shop.is_live()

        way.refusing = True
        await way.cut()
        await expect(shop.page.locator("#state")).to_have_text("Reconnecting …")
        hold = await house.reserve(drop, "bob")
        assert (await house.confirm(hold.json["id"], "bob")).status == 201
        await expect(shop.button("Missed", "Reserve")).to_be_enabled()  # it cannot know yet
        way.refusing = False

        await shop.is_live(seconds=20)
        await shop.sees("Missed", "1 sold")
        await expect(shop.button("Missed", "Sold out")).to_be_disabled()
        assert len(shop.window.sockets) > 1


async def test_a_hold_that_was_bought_elsewhere_while_away_is_seen_as_bought(
    house: House, windows: Opener
) -> None:
    await house.put_on_show("Elsewhere", 1)
    async with Proxy.open(house.page) as way:
        shop = await Storefront.enter(await windows(), house, way.url)
        shop.window.forgive(*CUT)
        await shop.is_live()
        await shop.reserves("Elsewhere")
        me = await shop.page.locator("#name").input_value()
        held = (await house.send("GET", f"/reservations?userId={me}")).json["data"][0]

        way.refusing = True
        await way.cut()
        assert (await house.confirm(held["id"], me)).status == 201
        way.refusing = False

        await expect(shop.button("Elsewhere", "Bought")).to_be_disabled(timeout=20_000)


async def test_the_worker_that_holds_the_line_may_be_killed(house: House, windows: Opener) -> None:
    drop = await house.put_on_show("Bereft", 2)
    shop = await Storefront.enter(await windows(), house)
    shop.window.forgive(*CUT)
    await shop.is_live()
    old = [worker for worker in house.workers if worker.returncode is None]
    lines = len(shop.window.sockets)

    await house.start_worker()
    for worker in old:  # one of them had it
        await house.kill(worker)
    await house.crowd.close()  # its connections to them are dead too
    assert (await house.reserve(drop, "bob")).status == 201
    await shop.sees("Bereft", "1 held", seconds=20)
    await shop.is_live()

    assert len(shop.window.sockets) > lines
    await shop.reserves("Bereft")
    await house.start_worker()


@pytest.mark.parametrize(
    ("missing", "state"),
    [(["WebSocket"], "Live, by stream"), (["WebSocket", "EventSource"], "Every few seconds")],
    ids=["no sockets", "no streams either"],
)
async def test_who_has_no_socket_sees_the_stock_move_all_the_same(
    house: House, windows: Opener, missing: list[str], state: str
) -> None:
    name = f"Without {' '.join(missing)}"
    drop = await house.put_on_show(name, 2)
    window = await windows()
    await window.context.add_init_script("".join(f"delete globalThis.{each};" for each in missing))
    shop = await Storefront.enter(window, house)
    await expect(shop.page.locator("#state")).to_have_text(state, timeout=25_000)

    assert (await house.reserve(drop, "bob")).status == 201
    await shop.sees(name, "1 held", seconds=12)
    await shop.reserves(name)

    assert window.sockets == []
