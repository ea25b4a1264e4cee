"""/ops/mail shows a developer the mails that would be sent, and is nowhere else."""

from __future__ import annotations

import msgspec

from engine.identity import tokens
from engine.infra.ids import new_id
from engine.infra.mail import Mailer
from engine.infra.settings import Settings
from engine.pages import mailbox
from tests.support.shop import Shop

SECRET = "a secret of the guarded, for the tokens"


async def write(settings: Settings, subject: str, text: str) -> None:
    """A mail, as the postman has it written."""
    await Mailer(settings).send(new_id(), "ann@example.com", subject, text)


async def test_mails_are_shown_the_newest_first_as_text_with_links(
    shop: Shop, settings: Settings
) -> None:
    empty = await shop.visit("GET", "/ops/mail")
    await write(settings, "First", "See https://shop.example/a?token=x&b=1 now")
    await write(settings, "<Second>", "<script>alert(1)</script> é")
    page = await shop.visit("GET", "/ops/mail")

    assert (empty.status, page.status) == (200, 200)
    assert b"<article" not in empty.body
    assert b"No mails yet. What brings one: a forgotten password" in empty.body
    assert b"No mails yet" not in page.body
    assert empty.headers["refresh"] == page.headers["refresh"] == "5"
    assert b"looks again every 5 seconds" in page.body
    text = page.body.decode()
    assert text.index("&lt;Second&gt;") < text.index("First")
    link = "https://shop.example/a?token=x&amp;b=1"
    assert f'See <a href="{link}">{link}</a> now' in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt; é" in text
    assert "<script" not in text
    assert page.headers["content-security-policy"].startswith("default-src 'none'; style-src")
    assert page.headers["cache-control"] == "no-store"


async def test_it_shows_so_many_and_no_more(settings: Settings) -> None:
    for n in range(mailbox.SHOWN_MAX + 2):
        await write(settings, f"No. {n}", "x" * 100_000 if n == 51 else "x")

    letters = mailbox.read(settings.data_dir / "mail")

    assert [letter.subject for letter in letters] == [f"No. {n}" for n in range(51, 1, -1)]
    assert len(letters[0].text) < mailbox.LETTER_BYTES_MAX


async def test_it_is_for_operators_of_an_open_engine_without_a_server_alone(
    shop: Shop, settings: Settings
) -> None:
    await write(settings, "Secret", "https://shop.example/")
    guarded = {"auth": "required", "jwt_secret": SECRET, "hmac_secret": SECRET}
    for given, status in (({"smtp_url": "smtp://127.0.0.1:1"}, 200), (guarded, 404)):
        async with Shop.open(msgspec.structs.replace(settings, **given)) as other:
            reply = await other.visit("GET", "/ops/mail")
            assert reply.status == status
            assert b"Secret" not in reply.body
            assert "refresh" not in reply.headers
    elsewhere = {"origin": "https://elsewhere.example"}
    signing = msgspec.structs.replace(settings, jwt_secret=SECRET)
    async with Shop.open(signing) as other:
        buyer = {"authorization": f"Bearer {tokens.create(SECRET, 'ann', 60)}"}
        for headers in (elsewhere, buyer):
            assert (await other.visit("GET", "/ops/mail", None, headers)).status == 403


async def test_the_dashboard_leads_there_where_it_is_open(shop: Shop) -> None:
    page = (await shop.visit("GET", "/ops")).body.decode()

    assert '<a id="mail" href="/ops/mail" hidden>Mail</a>' in page
