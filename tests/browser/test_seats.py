"""Choosing seats: by key and by finger, live, and against others who want the same."""

from __future__ import annotations

import pytest
from playwright.async_api import Locator, Route, expect

from tests.browser.accessible import is_too_wide, violations
from tests.browser.conftest import Opener
from tests.browser.house import House
from tests.browser.storefront import Storefront

pytestmark = pytest.mark.timeout(120)
ROWS = [f"{row}{seat}" for row in "AB" for seat in range(1, 7)]


class SeatMap:
    """The open map in a window."""

    def __init__(self, shop: Storefront) -> None:
        self.shop, self.page = shop, shop.page
        self.dialog = shop.page.get_by_role("dialog")

    @classmethod
    async def open(cls, shop: Storefront, drop: str) -> SeatMap:
        """Press the card's button, and wait for the seats."""
        await shop.button(drop, "Choose seats").click()
        seats = cls(shop)
        await expect(seats.dialog.get_by_role("gridcell").first).to_be_focused()
        return seats

    def seat(self, name: str, state: str) -> Locator:
        """A seat, if it is in this state."""
        return self.dialog.get_by_role("gridcell", name=f"{name}, {state}", exact=True)

    async def hears(self, words: str) -> None:
        """Wait until the map says so."""
        await expect(self.page.locator("#chooser-said")).to_contain_text(words)

    async def holds(self, label: str) -> None:
        """Press that, and have them."""
        await self.dialog.get_by_role("button", name=label, exact=True).click()
        await expect(self.dialog).to_be_hidden()


async def hall(house: House, name: str, **terms: object) -> int:
    """Two rows of six, on sale now."""
    body = {"name": name, "price": "48.00", "totalStock": 12, "pick": "named", "units": ROWS}
    reply = await house.send("POST", "/drops", body | terms)
    assert reply.status == 201, reply.body
    return int(reply.json["id"])


async def taken(house: House, drop: int) -> dict[str, str]:
    units = (await house.send("GET", f"/drops/{drop}/units")).json["data"]
    return {unit["name"]: unit["status"] for unit in units if unit["status"] != "free"}


async def test_a_seat_is_picked_by_keyboard_on_a_phone_and_bought(
    house: House, windows: Opener
) -> None:
    wide = [f"{row}{seat}" for row in "AB" for seat in range(1, 13)]
    drop = await hall(house, "Phone Hall", maxPerBuyer=4, units=wide, totalStock=24)
    shop = await Storefront.enter(await windows(360, color_scheme="dark"), house)
    seats = await SeatMap.open(shop, "Phone Hall")
    await expect(seats.dialog.get_by_text("More seats to the right")).to_be_visible()
    await expect(seats.dialog.get_by_text("stage")).to_be_visible()

    for key in ("ArrowRight", "ArrowRight", "ArrowDown", "Enter"):
        await shop.page.keyboard.press(key)
    await expect(seats.seat("B3", "picked")).to_be_focused()
    await shop.page.keyboard.press("Home")
    await shop.page.keyboard.press("Space")
    await seats.hears("B1 picked. 2 of 4.")
    assert await violations(shop.page) == []
    assert not await is_too_wide(shop.page)
    await seats.holds("Hold 2 seats")
    await shop.sees("Phone Hall", "Seats B1, B3 are yours")
    assert await taken(house, drop) == {"B1": "held", "B3": "held"}

    await shop.goes_to_pay("Phone Hall")
    await shop.presses_there("Pay", "Payment accepted")
    await shop.comes_back()
    await shop.sees("Phone Hall", "Seats B1, B3 are yours")
    assert await taken(house, drop) == {"B1": "sold", "B3": "sold"}


@pytest.mark.at_length
async def test_two_windows_fight_over_one_seat_and_the_other_stays_picked(
    house: House, windows: Opener
) -> None:
    drop = await hall(house, "Fought Hall", maxPerBuyer=4)
    ann = await SeatMap.open(await Storefront.enter(await windows(), house), "Fought Hall")
    bob = await SeatMap.open(await Storefront.enter(await windows(), house), "Fought Hall")
    await bob.seat("A1", "free").click()
    await bob.seat("A2", "free").click()
    await ann.seat("A1", "free").click()
    await ann.holds("Hold 1 seat")

    await bob.hears("Somebody was faster: A1 just went. Still picked: A2.")
    await expect(bob.seat("A1", "held")).to_be_visible()

    async def snatch(route: Route) -> None:
        """Somebody is faster between bob's wish and our hearing of it."""
        reply = await house.send(
            "POST", "/reservations", {"dropId": drop, "userId": "cat", "units": ["A2"]}
        )
        assert reply.status == 201, reply.body
        await route.continue_()

    await bob.seat("A3", "free").click()
    await bob.page.route("**/api/v1/reservations", snatch, times=1)
    await bob.dialog.get_by_role("button", name="Hold 2 seats").click()
    await bob.hears("Somebody was faster: A2 just went. Still picked: A3.")
    await bob.holds("Hold 1 seat")
    await bob.shop.sees("Fought Hall", "Seat A3 is yours")
    assert await taken(house, drop) == {"A1": "held", "A2": "held", "A3": "held"}


@pytest.mark.at_length
async def test_the_best_two_are_beside_each_other_and_what_is_given_back_is_free_before_all(
    house: House, windows: Opener
) -> None:
    drop = await hall(house, "Best Hall", maxPerBuyer=12)
    for seat in ("A2", "A4", "A5"):  # so the first neighbours by number are A6 and B1
        wish = {"dropId": drop, "userId": f"of {seat}", "units": [seat]}
        assert (await house.send("POST", "/reservations", wish)).status == 201
    shop = await Storefront.enter(await windows(), house)
    watching = await SeatMap.open(await Storefront.enter(await windows(), house), "Best Hall")
    seats = await SeatMap.open(shop, "Best Hall")
    await seats.holds("Best 2 beside each other")
    await shop.sees("Best Hall", "Seats B3, B4 are yours")
    await expect(watching.seat("B4", "held")).to_be_visible()
    await shop.button("Best Hall", "Give it back").click()
    await expect(watching.seat("B4", "free")).to_be_visible()

    await watching.dialog.get_by_label("How many").select_option("10")
    await watching.dialog.get_by_role("button", name="Best 10 beside each other").click()
    await watching.hears("beside each other")
    await expect(watching.dialog).to_be_visible()
    await watching.dialog.get_by_label("How many").select_option("7")
    await watching.holds("Best 7 beside each other")
    await expect(watching.page.locator("#said")).to_contain_text("A6, B1")
    await expect(watching.page.locator("#said")).to_contain_text("not beside each other in one row")


@pytest.mark.at_length
@pytest.mark.parametrize(("width", "scheme"), [(360, "light"), (1280, "dark")])
async def test_a_thousand_seats_without_rows_are_a_map_too(
    house: House, windows: Opener, width: int, scheme: str
) -> None:
    name = f"Arena {width}"
    await house.put_on_show(name, 1_000, pick="named", maxPerBuyer=None, maxPerOrder=100)
    shop = await Storefront.enter(await windows(width, color_scheme=scheme), house)
    seats = await SeatMap.open(shop, name)
    await expect(seats.dialog.get_by_role("gridcell")).to_have_count(1_000)
    await shop.page.keyboard.press("Control+End")
    await shop.page.keyboard.press("ArrowUp")
    await shop.page.keyboard.press("Enter")

    await expect(seats.dialog.locator(":focus")).to_have_attribute("aria-selected", "true")
    assert await violations(shop.page) == []
    assert not await is_too_wide(shop.page)
    await seats.holds("Hold 1 seat")
