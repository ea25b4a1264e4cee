"""The slots board and the ledger's page: what one window does, the others see."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import pytest
from playwright.async_api import Locator, Page, Route, expect

from tests.browser.accessible import is_too_wide, violations
from tests.browser.conftest import Opener
from tests.browser.house import House
from tests.browser.window import Window

pytestmark = pytest.mark.timeout(120)


async def board(window: Window, house: House) -> Page:
    await window.page.goto(f"{house.page}/slots-board")
    await expect(window.page.locator("#state")).to_have_text("Live")
    return window.page


def slot(page: Page, name: str) -> Locator:
    heading = page.get_by_role("heading", name=name, exact=True)
    return page.locator("li.slot").filter(has=heading)


async def says(page: Page, words: str) -> None:
    await expect(page.locator("#said")).to_contain_text(words)


async def test_a_slot_is_held_and_booked_live_and_the_ledger_that_says_so_is_whole(
    house: House, windows: Opener, tmp_path: Path
) -> None:
    await house.open_freezer("Q1-A", "Q1-B")
    ann, bob = await board(await windows(360), house), await board(await windows(), house)

    await ann.get_by_role("button", name="Hold Q1-A").click()
    await expect(slot(ann, "Q1-A").get_by_role("timer")).to_be_visible()
    await expect(slot(bob, "Q1-A")).to_contain_text("Free again in")
    await expect(bob.get_by_role("button", name="Hold Q1-A")).to_have_count(0)
    await ann.get_by_role("button", name="Book Q1-A").click()
    await ann.get_by_label("Manifest").fill("MAN-7")
    assert await violations(ann) == []
    await ann.keyboard.press("Enter")
    await says(ann, "Q1-A is booked")
    await expect(slot(bob, "Q1-A")).to_contain_text("Booked")
    assert not await is_too_wide(ann)
    assert await violations(ann) == []
    assert "MAN-7" not in await bob.content()

    await bob.goto(f"{house.page}/ledger-view")
    await expect(bob.locator(".link").first).to_contain_text("Booked")
    newest = await bob.locator(".link h3").first.text_content()
    await ann.get_by_role("button", name="Release Q1-A").click()
    await expect(bob.locator(".link").first).to_contain_text("Booking released")
    await expect(bob.locator(".link").first).to_contain_text(f"linked to {newest}")
    await bob.get_by_role("button", name="Verify the chain").click()
    await expect(bob.locator("#verdict")).to_contain_text("Whole")
    await bob.goto(f"{house.page}/ops")
    await expect(bob.locator("#sign-ledger")).to_contain_text("nothing waits; whole")
    await bob.go_back()
    assert await violations(bob) == []

    async with bob.expect_download() as coming:
        await bob.get_by_role("button", name="Download the proof").click()
    download = await coming.value
    await download.save_as(tmp_path / download.suggested_filename)
    proof = json.loads((tmp_path / download.suggested_filename).read_text())
    assert download.suggested_filename == f"proof-{proof['sequence']}.json"
    async with bob.expect_download() as coming:
        await bob.get_by_role("link", name="Download check_proof.py").click()
    await (await coming.value).save_as(tmp_path / "check_proof.py")
    told = (await bob.locator("#command").text_content() or "").split()
    assert told[:-1] == ["python", "check_proof.py", download.suggested_filename]
    checking = await asyncio.create_subprocess_exec(
        sys.executable, *told[1:], stdout=asyncio.subprocess.PIPE, cwd=tmp_path
    )
    said, _ = await checking.communicate()
    assert said.startswith(b"proven:"), said


@pytest.mark.at_length
async def test_a_slot_that_somebody_else_just_took_says_so_and_a_sensor_is_seen(
    house: House, windows: Opener
) -> None:
    [first, second] = await house.open_freezer("Z1-A", "Z1-B")
    page = await board(await windows(color_scheme="dark"), house)

    async def snatch(route: Route) -> None:
        wish = {"slotId": first, "userId": "cat"}
        assert (await house.send("POST", "/hold", wish)).status == 201
        await route.continue_()

    await page.route("**/api/v1/hold", snatch, times=1)
    await page.get_by_role("button", name="Hold Z1-A").click()
    await says(page, "Somebody was faster: Z1-A is taken")
    await expect(slot(page, "Z1-A")).to_contain_text("Held")
    await expect(page.get_by_role("button", name="Book Z1-A")).to_have_count(0)

    reading = {"temperature": -58.5}
    assert (await house.send("POST", f"/slots/{second}/readings", reading)).status == 201
    await expect(slot(page, "Z1-B")).to_contain_text("critical")
    await says(page, "Z1-B is critical")
    await page.goto(house.page)
    await expect(page.locator("#state")).to_have_text("Live")
    await expect(page.locator("#empty")).not_to_have_text("Loading …")
    await expect(page.get_by_role("article", name="Freezer")).to_have_count(0)
    await page.go_back()
    points = await slot(page, "Z1-B").locator("polyline.line").get_attribute("points")
    assert points

    await page.get_by_role("button", name="Hold Z1-B").click()
    await says(page, "Z1-B is critical: −58.5 °C".replace(" °", "\u00a0°"))
    await page.get_by_role("button", name="Book Z1-B").click()
    await expect(page.get_by_role("dialog")).to_contain_text("Z1-B is critical")
    await page.get_by_label("Manifest").fill("MAN-8")
    assert await violations(page) == []
    await page.keyboard.press("Enter")
    await expect(page.get_by_label("Book it all the same")).to_be_focused()
    await page.get_by_label("Book it all the same").check()
    await page.get_by_role("dialog").get_by_role("button", name="Book", exact=True).click()
    release = page.get_by_role("button", name="Release Z1-B")
    await expect(release).to_be_visible()
    assert (await release.bounding_box() or {"height": 99})["height"] < 50, "a broken word"
    assert await violations(page) == []


@pytest.mark.at_length
@pytest.mark.parametrize("width", [360, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_the_board_and_the_ledger_are_accessible(
    house: House, windows: Opener, width: int, scheme: str
) -> None:
    await house.open_freezer(f"{scheme}{width}-A", f"{scheme}{width}-B")
    page = await board(await windows(width, color_scheme=scheme), house)
    assert await violations(page) == []
    assert not await is_too_wide(page)
    await page.goto(f"{house.page}/ledger-view")
    await expect(page.locator("#state")).to_have_text("Live")
    assert await violations(page) == []
    assert not await is_too_wide(page)
