"""Who has an account: the way in, what is one's own, and the way out."""

from __future__ import annotations

import itertools
import secrets

import asyncpg
import msgspec
import pytest
from playwright.async_api import expect

from engine.identity.resets import Links
from engine.infra.ids import new_id
from tests.browser.accessible import is_too_wide, violations
from tests.browser.accountholder import Accountholder
from tests.browser.conftest import HMAC_SECRET, Opener
from tests.browser.house import House
from tests.browser.storefront import Storefront
from tests.browser.test_signed_in import opens
from tests.support.wait import wait_until

pytestmark = [pytest.mark.at_length, pytest.mark.timeout(120)]


def someone() -> str:
    return f"ann_{secrets.token_hex(4)}"


async def test_who_is_logged_in_buys_where_a_stranger_may_not(
    guarded: House, windows: Opener
) -> None:
    drop = await opens(guarded, "For Members")
    shop = await Storefront.enter(await windows(), guarded)
    await shop.page.get_by_role("note").get_by_role("link", name="log in").click()
    ann = Accountholder(shop.window, guarded, someone())
    await ann.registers("?next=/#register")
    await shop.page.wait_for_url(f"{guarded.page}/")
    await shop.is_live()
    await expect(shop.page.get_by_role("note")).to_be_hidden()

    await shop.reserves("For Members")
    await shop.button("For Members", "Pay").click()

    await expect(shop.button("For Members", "Bought")).to_be_disabled()
    await shop.sees("For Members", f"Latest buyers{ann.name}")
    assert (await guarded.stock(drop))["soldStock"] == 1
    await ann.opens()
    await expect(ann.page.locator("#purchases")).to_contain_text("For Members")
    asked = " ".join(shop.window.asked)
    assert "eyJ" not in asked  # no token in an address
    assert "vrr_" not in asked


async def test_windows_of_one_browser_share_a_login_and_its_end(
    guarded: House, windows: Opener
) -> None:
    await opens(guarded, "Shared")
    window = await windows()
    ann = Accountholder(window, guarded, someone())
    second = await window.context.new_page()
    await second.goto(guarded.page)
    await expect(second.locator("#account")).to_have_text("Log in")

    await ann.registers()
    await expect(second.locator("#account")).to_have_text(ann.name)
    await ann.page.get_by_role("button", name="Log out", exact=True).click()

    await expect(second.locator("#account")).to_have_text("Log in")
    await expect(second.locator("#farewell")).to_be_hidden()  # it was wished for


async def test_a_login_elsewhere_ends_this_one_and_says_so(guarded: House, windows: Opener) -> None:
    await opens(guarded, "Twice")
    here = Accountholder(await windows(), guarded, someone())
    await here.registers()
    shop = await Storefront.enter(here.window, guarded)
    there = Accountholder(await windows(), guarded, here.name)
    await there.logs_in()

    async def is_over() -> bool:  # each process hears of it within a second
        await here.page.evaluate("() => document.dispatchEvent(new Event('visibilitychange'))")
        return await here.page.locator("#account").inner_text() == "Log in"

    await wait_until(is_over, "the first login is over", pause=0.3)
    await expect(shop.page.locator("#said")).to_contain_text("logged in on another device")
    await expect(shop.page.locator("#farewell")).to_contain_text("logged in on another device")
    await expect(shop.button("Twice", "Log in to buy")).to_be_disabled()
    await there.is_in()
    await expect(there.page.locator("#sessions li")).to_have_count(2)
    await expect(there.page.locator("#sessions")).to_contain_text("another device logged in")


async def test_a_wrong_password_and_a_taken_name_say_what_to_do_next(
    house: House, windows: Opener
) -> None:
    ann = Accountholder(await windows(), house, someone())
    await ann.registers()
    other = Accountholder(await windows(), house, ann.name)
    await other.opens("#register")
    fields = {"username": ann.name, "email": "x" + ann.email, "password": ann.password}
    await other.fills("register", "Create the account", **fields)

    name = other.form("register").get_by_label("Username")
    await expect(name).to_have_attribute("aria-invalid", "true")
    await expect(name).to_be_focused()
    await other.opens()
    await other.tries("not hers at all")
    await other.hears("login", "do not fit. Try again, or have a link sent")
    await expect(other.form("login").get_by_label("Password")).to_be_focused()
    assert await violations(other.page) == []


async def test_a_change_from_elsewhere_is_shown_and_what_was_typed_is_kept(
    house: House, windows: Opener
) -> None:
    window = await windows()
    ann = Accountholder(window, house, someone())
    await ann.registers()
    page = await window.context.new_page()
    second = Accountholder(window, house, ann.name, page)
    await second.opens()
    await expect(second.form("profile").get_by_label("Username")).to_have_value(ann.name)

    await ann.fills("profile", "Save", phone="+1 555 0100", name="Ann")
    await ann.hears("profile", "Saved")
    await second.fills("profile", "Save", name="Ann <b>K.</b> \u202e")

    await second.hears("profile", "want 1 to|printable|changed meanwhile")
    await second.fills("profile", "Save", name="Ann <b>K.</b>")
    await second.hears("profile", "changed meanwhile")
    await expect(second.form("profile").get_by_label("Phone")).to_have_value("+1 555 0100")
    await expect(second.form("profile").get_by_label("Name", exact=True)).to_have_value(
        "Ann <b>K.</b>"
    )
    await second.fills("profile", "Save")
    await second.hears("profile", "Saved")
    email = second.form("profile").get_by_label("E-mail")
    await second.fills("profile", "Save", email="x" + ann.email)
    await second.hears("profile", "currentPassword: required")
    await second.fills("profile", "Save", password=ann.password)
    await second.hears("profile", "Saved")
    await expect(email).to_have_value("x" + ann.email)
    await expect(second.form("profile").get_by_label("Password")).to_have_value("")


async def test_quiet_hours_begin_with_the_browsers_own_clock(house: House, windows: Opener) -> None:
    ann = Accountholder(await windows(timezone_id="Europe/Berlin"), house, someone())
    await ann.registers()
    news = ann.form("news")
    await expect(news.get_by_label("by the clock of")).to_have_value("Europe/Berlin")

    await news.get_by_label("Send nothing in these hours").check()
    await news.get_by_label("From").fill("23:30")
    await news.get_by_label("Offers").check()
    await news.get_by_role("button", name="Save").click()
    await ann.hears("news", "Saved")
    await ann.page.reload()

    await expect(news.get_by_label("From")).to_have_value("23:30")
    await expect(news.get_by_label("Offers")).to_be_checked()
    await news.get_by_role("button", name="Back to the defaults").click()
    await ann.hears("news", "defaults hold")
    await expect(news.get_by_label("Offers")).not_to_be_checked()


async def test_a_link_from_a_mail_sets_a_new_password_once(guarded: House, windows: Opener) -> None:
    ann = Accountholder(await windows(), guarded, someone())
    await ann.registers()
    other = Accountholder(await windows(), guarded, ann.name)
    await other.opens("#forgot")
    await other.fills("forgot", "Send a link", email=ann.email)
    await other.hears("forgot", "a link is on its way")
    token = await link_of(guarded, ann.email)

    await other.opens(f"#reset={token}")
    await expect(other.page).to_have_url(f"{guarded.page}/account#reset")  # in no history
    await other.fills("reset", "Set the password", **{"new password": "another long walk"})
    await other.hears("login", "Your new password is set")
    await other.tries("another long walk")
    await other.is_in()
    late = Accountholder(await windows(), guarded, ann.name)
    await late.opens(f"#reset={token}")
    await late.fills("reset", "Set the password", **{"new password": "a third long walk"})
    await late.hears("reset", "used or is too old: ask for another one")
    await ann.page.reload()
    await ann.is_out()


async def link_of(guarded: House, email: str) -> str:
    """What the postman writes into a mail."""
    connection, id = await asyncpg.connect(guarded.database_url), new_id()
    await connection.execute(
        "INSERT INTO password_resets (id, user_id, expires_at)"
        " SELECT $1, id, now() + interval '30 minutes' FROM users WHERE email = $2",
        *(id, email),
    )
    await connection.close()
    return Links(msgspec.structs.replace(guarded.settings, hmac_secret=HMAC_SECRET)).token(id)


async def test_a_password_is_changed_and_an_account_erased(house: House, windows: Opener) -> None:
    ann = Accountholder(await windows(), house, someone())
    await ann.registers()
    page = ann.page
    await ann.fills(
        "password",
        "Change the password",
        **{"password now": "no idea what it was", "new password": "a new long walk"},
    )
    await ann.hears("password", "The old password is wrong")
    await ann.fills("password", "Change the password", **{"password now": ann.password})
    await ann.hears("password", "Your password is changed")
    await page.reload()
    await ann.is_in()

    await page.get_by_role("button", name="Erase my account").click()
    sure = page.get_by_role("dialog")
    await expect(sure.get_by_role("textbox")).to_be_focused()
    assert await violations(page) == []
    await sure.get_by_role("textbox").fill("not me")
    await sure.get_by_role("button", name="Yes, do it").click()
    await ann.hears("sure", "to the letter")
    await sure.get_by_role("textbox").fill(ann.name)
    await sure.get_by_role("button", name="Yes, do it").click()
    await ann.is_out()
    ann.password = "a new long walk"
    await ann.tries(ann.password)
    await ann.hears("login", "do not fit")


async def test_a_username_is_text_whatever_stands_in_it(house: House, windows: Opener) -> None:
    """Whatever the rules of names let through, a page only writes it."""
    drop = await house.put_on_show("Hostile", 3)
    ann = Accountholder(await windows(), house, someone())
    await ann.registers()
    name = "<img src=x onerror=alert(1)>\u202ebob"
    connection = await asyncpg.connect(house.database_url)
    user = await connection.fetchval(
        "UPDATE users SET username = $1, version = version + 1 WHERE username = $2 RETURNING id",
        *(name, ann.name),
    )
    await connection.close()
    hold = (await house.reserve(drop, str(user))).json["id"]
    await house.confirm(hold, str(user))

    shop = await Storefront.enter(ann.window, house)
    await expect(shop.card("Hostile").locator(".buyers b").first).to_have_text(name, timeout=8_000)
    await ann.opens()
    await expect(ann.page.locator("#hello")).to_have_text(name)
    assert await ann.page.locator("main img[src=x], header img[src=x]").count() == 0
    assert await violations(ann.page) == []


LOOKS = list(itertools.product((320, 1280), ("light", "dark")))


@pytest.mark.parametrize(("width", "scheme"), LOOKS)
async def test_the_account_is_accessible_at_every_moment(
    house: House, windows: Opener, width: int, scheme: str
) -> None:
    ann = Accountholder(await windows(width, color_scheme=scheme), house, someone())
    for way in ("", "#register", "#forgot", "#reset=x"):
        await ann.opens(way)
        await expect(ann.page.locator(".way:visible")).to_have_count(1)
        assert await violations(ann.page) == []
        assert not await is_too_wide(ann.page)
    await ann.page.goto(house.page)
    await ann.registers("?x#register")
    await expect(ann.page.locator("#sessions li")).to_have_count(1)
    assert await violations(ann.page) == []
    assert not await is_too_wide(ann.page)


async def test_one_comes_in_by_keyboard_alone(house: House, windows: Opener) -> None:
    ann = Accountholder(await windows(), house, someone())
    await ann.registers()
    await ann.page.get_by_role("button", name="Log out", exact=True).click()
    await expect(ann.page.get_by_label("E-mail").first).to_be_focused()
    keyboard = ann.page.keyboard
    await keyboard.type(ann.email)
    await keyboard.press("Tab")
    await keyboard.type(ann.password)
    await keyboard.press("Enter")

    await ann.is_in()
    await expect(ann.page.locator("#main")).to_be_focused()
