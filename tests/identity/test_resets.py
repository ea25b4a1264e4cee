"""A password that was forgotten: a link by mail, which opens once, and for nobody who guesses."""

from __future__ import annotations

import re

import msgspec
import pytest

from engine.identity.postman import Postman, of_resets
from engine.identity.resets import Links
from engine.infra.ids import new_id
from engine.infra.mail import Mailer
from engine.infra.settings import Settings
from engine.runtime import Ground
from tests.identity.test_login import ANN, login, registered
from tests.support.http import Reply
from tests.support.people import ask
from tests.support.shop import Shop
from tests.support.smtp import MailServer


async def forgotten(shop: Shop, email: str = ANN["email"]) -> Reply:
    """Somebody says that he forgot it."""
    return await shop.send("POST", "/users/password/reset", {"email": email})


def postman(ground: Ground, settings: Settings, url: str = "") -> Postman:
    """A postman who comes again at once."""
    given = msgspec.structs.replace(settings, smtp_url=url)
    writers = {"password_reset": of_resets(ground.postgres, Links(given))}
    return Postman(ground.postgres, Mailer(given), writers, rest_seconds=0)


async def confirm(shop: Shop, token: str, password: str = "better horse") -> Reply:
    """Choose a new password."""
    body = {"token": token, "password": password}
    return await shop.send("POST", "/users/password/reset/confirm", body)


async def test_a_link_comes_by_mail_and_opens_once(
    shop: Shop, ground: Ground, settings: Settings
) -> None:
    ann = (await registered(shop)).json
    async with MailServer.open() as mails:
        hers, strangers = await forgotten(shop, "ANN@Example.com"), await forgotten(shop, "x@y.zz")
        post = postman(ground, settings, mails.url)
        mails.refusals = ["451 later"]
        rounds = [await post.deliver() for _ in range(4)]

    assert (hers.status, hers.body) == (202, strangers.body)
    assert rounds == [True, True, True, False], "put off, nobody's, sent, and none is left"
    [mail] = mails.taken
    assert mail["To"] == ANN["email"]
    text = mail.get_payload(decode=True)
    assert isinstance(text, bytes)
    found = re.search(rb"/account#reset=(vrp_[0-9a-f_]+)", text)
    assert found is not None
    token = found[1].decode()

    weak = await confirm(shop, token, "123456")
    done, again = await confirm(shop, token), await confirm(shop, token)

    assert (weak.status, done.status) == (400, 200)
    assert (again.status, again.error) == (410, "EXPIRED")
    assert (await login(shop)).status == 401
    assert (await login(shop, password="better horse")).status == 200
    refresh = {"refreshToken": ann["refreshToken"]}
    assert (await shop.send("POST", "/users/refresh", refresh)).status == 401, "it ended"


@pytest.mark.parametrize("change", ["password", "email"])
async def test_a_link_opens_nothing_after_its_account_changed(
    shop: Shop, ground: Ground, settings: Settings, change: str
) -> None:
    ann = (await registered(shop)).json
    await forgotten(shop)
    assert await postman(ground, settings).deliver()
    [(reset,)] = await ask(ground.postgres, "SELECT id FROM password_resets")
    bearer = {"authorization": f"Bearer {ann['token']}"}
    if change == "password":
        body = {"oldPassword": ANN["password"], "newPassword": "best horse"}
        done = await shop.send("POST", "/users/password", body, bearer)
    else:
        body = {
            "email": "new@example.com",
            "version": ann["user"]["version"],
            "currentPassword": ANN["password"],
        }
        done = await shop.send("PUT", f"/users/{ann['user']['id']}", body, bearer)
    assert done.status == 200, done.body

    assert (await confirm(shop, Links(settings).token(str(reset)))).error == "EXPIRED"


@pytest.mark.parametrize("word", ["", "vrp_", "vrp_" + "0" * 32 + "_" + "0" * 64])
async def test_what_is_no_link_opens_nothing(shop: Shop, word: str) -> None:
    assert (await confirm(shop, word)).status == (410 if word else 400)


async def test_a_link_of_another_secret_and_one_too_old_open_nothing(
    shop: Shop, ground: Ground, settings: Settings
) -> None:
    await registered(shop)
    other = msgspec.structs.replace(settings, hmac_secret="x" * 32)
    forged = Links(other).token(new_id())
    assert (await confirm(shop, forged)).status == 410
    await forgotten(shop)
    async with ground.postgres.session() as session:
        asking = session._connection
        await asking.execute("UPDATE mails SET gives_up_at = clock_timestamp()")
        assert await postman(ground, settings).deliver()
        assert await asking.fetchval("SELECT count(*) FROM mails") == 0
        assert await asking.fetchval("SELECT count(*) FROM password_resets") == 0


async def test_without_a_server_a_mail_is_a_file_that_others_cannot_read(
    shop: Shop, ground: Ground, settings: Settings
) -> None:
    await registered(shop)
    for _ in range(5):
        assert (await forgotten(shop)).status == 202

    post = postman(ground, settings)
    while await post.deliver():
        pass

    files = list((settings.data_dir / "mail").glob("*.eml"))
    assert len(files) == 3, "nobody's letter-box is filled"
    assert {path.stat().st_mode & 0o777 for path in files} == {0o600}
