"""The README's pictures: `make screenshots` takes them anew, of the demo on servers of its own.

storefront.png   the shop on a desk, in the light, while others buy
phone.png        a hold and its ring on a phone, in the dark
dashboard.png    the operator's page in a rush
seats.png        a hall on a map, two seats picked
slots.png        freezers, one slot held, one too warm
ledger.png       the newest links of the ledger, verified
members.png      a card on a phone, signed for by its browser, and what is left of two tiers
account.png      who is logged in, and what was bought
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from playwright.async_api import Browser, Page, expect

from engine.infra.settings import Settings
from engine.ops import devstack
from engine.ops.migrate import migrate
from engine.ops.seed import seed
from tests.browser import chromium
from tests.browser.accountholder import Accountholder
from tests.browser.house import OFTEN, House
from tests.browser.member import Member, opens_tier
from tests.browser.storefront import Storefront
from tests.browser.window import Window
from tests.support.provider import SECRET

TO = Path(__file__).parents[2] / "docs" / "img"
KILOBYTES_MAX = 150
RUSH_SECONDS = 40.0
SHOPPERS = 10
TOLD_SECONDS = 13.0  # the shop's sentence about a hold goes away after twelve
NAMED = "sessionStorage.me ??= 'ann'"


async def main() -> int:
    """Take all of them; 1 if there is no browser or a picture became too large."""
    if chromium.find() is None:
        print(chromium.MISSING)
        return 1
    with TemporaryDirectory() as name:
        postgres = devstack.start_postgres(Path(name) / "postgres", durable=False)
        valkey = devstack.start_valkey(Path(name) / "valkey", durable=False)
        try:
            settings = Settings(
                database_url=postgres.url,
                redis_url=valkey.url,
                auth="open",
                payment_secret=SECRET,
                rate_writes_per_buyer=OFTEN,
                data_dir=Path(name) / "data",  # the house's: what the seed seals, it must verify
            )
            await migrate(settings)
            await seed(settings)
            async with House.of(settings, Path(name)) as house, chromium.started() as browser:
                taken = [await shop(house, browser), await phone(house, browser)]
                taken += [await seats(house, browser), await slots(house, browser)]
                taken.append(await ledger(house, browser))
                taken += [await members(house, browser), await account(house, browser)]
                taken.append(await dashboard(house, browser))
        finally:
            valkey.stop()
            postgres.stop()
    for path in taken:
        print(f"{path.name}: {path.stat().st_size / 1024:.0f} KB")
    return int(any(path.stat().st_size > KILOBYTES_MAX * 1024 for path in taken))


async def opened(browser: Browser, width: int, height: int, scheme: str) -> Window:
    context = await browser.new_context(
        viewport={"width": width, "height": height},
        color_scheme="dark" if scheme == "dark" else "light",
        reduced_motion="reduce",
    )
    await context.add_init_script(NAMED)
    return await Window.of(context)


async def taken(page: Page, name: str) -> Path:
    path = TO / name
    await page.wait_for_load_state("networkidle")
    await page.screenshot(path=path, type="png", scale="css")
    return path


async def demo(house: House) -> list[dict[str, Any]]:
    """Drops of any units that are on sale, with plenty."""
    drops = (await house.send("GET", "/drops?limit=100")).json["data"]
    plenty = [drop for drop in drops if drop["status"] == "live" and drop["availableStock"] > 20]
    return [drop for drop in plenty if drop["pick"] == "any"]


async def buyers(house: House, drop: int, first: int, many: int) -> None:
    """Every second of them buys what he holds."""
    for number in range(first, first + many):
        name = f"buyer-{drop}-{number}"
        hold = await house.reserve(drop, name)
        if hold.status == 201 and number % 2:
            await house.confirm(hold.json["id"], name)


async def shop(house: House, browser: Browser) -> Path:
    """On a desk."""
    window = await opened(browser, 960, 600, "light")
    front = await Storefront.enter(window, house)
    await front.is_live()
    for drop in (await demo(house))[:6]:
        await buyers(house, drop["id"], 0, 9)
    await front.page.wait_for_timeout(1_500)  # for the figures to come to rest
    path = await taken(front.page, "storefront.png")
    await window.context.close()
    return path


async def phone(house: House, browser: Browser) -> Path:
    """In a hand."""
    window = await opened(browser, 360, 720, "dark")
    front = await Storefront.enter(window, house)
    card = front.card((await demo(house))[0]["name"])
    await card.get_by_role("button", name="Reserve").click()
    await expect(card.get_by_role("timer")).to_be_visible()
    await card.scroll_into_view_if_needed()
    await front.page.wait_for_timeout(TOLD_SECONDS * 1000)
    path = await taken(front.page, "phone.png")
    await window.context.close()
    return path


async def seats(house: House, browser: Browser) -> Path:
    """A hall in which others sit already."""
    window = await opened(browser, 1000, 720, "light")
    front = await Storefront.enter(window, house)
    hall = front.page.get_by_role("article").filter(has_text="Hall")
    await hall.get_by_role("button", name="Choose seats").click()
    free = front.page.locator(".seats .seat.free")
    for _ in range(2):
        await free.nth(30).click()
    path = await taken(front.page, "seats.png")
    await window.context.close()
    return path


async def slots(house: House, browser: Browser) -> Path:
    """A slot of one's own, and one that is too warm."""
    window = await opened(browser, 1000, 720, "dark")
    await window.page.goto(f"{house.page}/slots-board")
    await window.page.get_by_role("button", name="Hold ").first.click()
    await expect(window.page.get_by_role("button", name="Book ")).to_be_visible()
    await window.page.get_by_role("button", name="Simulate a failure").click()
    await window.page.wait_for_timeout(TOLD_SECONDS * 1000)
    path = await taken(window.page, "slots.png")
    await window.context.close()
    return path


async def ledger(house: House, browser: Browser) -> Path:
    """A chain that is whole."""
    window = await opened(browser, 1000, 830, "light")
    await window.page.goto(f"{house.page}/ledger-view")
    await window.page.get_by_role("button", name="Verify the chain").click()
    await expect(window.page.locator("#verdict")).to_contain_text("Whole")
    path = await taken(window.page, "ledger.png")
    await window.context.close()
    return path


async def members(house: House, browser: Browser) -> Path:
    """In a hand: a card that this browser signs for, and what is left. Two cards are 200 KB."""
    window = await opened(browser, 360, 720, "dark")
    member = Member(window, house)
    await member.comes()
    await opens_tier(house, "voyager")
    await member.registers(await member.mints("Genesis 2025", "the receipt of ann"))
    await window.page.wait_for_timeout(TOLD_SECONDS * 1000)
    await member.cards.evaluate("each => { each.blur(); each.scrollIntoView(); }")
    path = await taken(window.page, "members.png")
    await window.context.close()
    return path


async def account(house: House, browser: Browser) -> Path:
    """With two purchases."""
    window = await opened(browser, 1000, 720, "light")
    holder = Accountholder(window, house, "ann")
    await holder.registers()
    me = await window.page.evaluate("JSON.parse(localStorage.login).id")
    for drop in (await demo(house))[:2]:
        hold = await house.reserve(drop["id"], me)
        await house.confirm(hold.json["id"], me)
    await window.page.reload()
    await expect(window.page.locator("#purchases li")).to_have_count(2)
    path = await taken(window.page, "account.png")
    await window.context.close()
    return path


async def dashboard(house: House, browser: Browser) -> Path:
    """While hundreds buy."""
    window = await opened(browser, 1120, 830, "light")
    await window.page.goto(f"{house.page}/ops")
    drop = await house.open_drop(60_000, name="Harbour Line", imageUrl="/pictures/5-harbour.svg")
    until = asyncio.get_running_loop().time() + RUSH_SECONDS

    async def shopper(number: int) -> None:
        first = number * 1_000_000
        while asyncio.get_running_loop().time() < until:
            await buyers(house, drop, first, 2)
            first += 2

    await asyncio.gather(*map(shopper, range(SHOPPERS)))
    path = TO / "dashboard.png"
    await window.page.screenshot(path=path, type="png", scale="css")
    await window.context.close()
    return path


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
