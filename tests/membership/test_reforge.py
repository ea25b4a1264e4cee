"""A membership moves to another device by a link that only its account's mails have."""

from __future__ import annotations

import asyncio
import re
import time
from collections import Counter
from email.message import Message
from pathlib import Path
from typing import Any

import msgspec
import pytest

from engine.identity import tokens, users
from engine.identity.postman import Postman
from engine.infra.mail import Mailer
from engine.infra.settings import Settings
from engine.membership import device_store, reforge
from engine.runtime import Ground
from tests.membership.people import Phone, make_member, run, somebody_waits
from tests.support.http import Reply
from tests.support.people import add_user
from tests.support.service import Service
from tests.support.shop import Shop
from tests.support.smtp import MailServer
from tests.support.wait import wait_until

OLD, NEW = Phone(), Phone()
SECRET = "a secret of the members, for what they sign"
TOKEN = re.compile(rb"/reforge/confirm\?token=(vrf_[0-9a-f]{32}_[0-9a-f]{64})")
AGO = "created_at = created_at - interval '2 h'"


class Mover:
    """Ann, whose account has an e-mail and whose membership has a device; and a look at both."""

    def __init__(self, shop: Shop, settings: Settings, user: str, membership: str) -> None:
        self.shop, self.settings, self.user, self.membership = shop, settings, user, membership

    @classmethod
    async def of(cls, shop: Shop, settings: Settings) -> Mover:
        """At any worker."""
        user = await add_user(settings.database_url, "ann@example.com")
        membership = await make_member(settings.database_url, user, device=OLD.pem)
        return cls(shop, settings, user, membership)

    async def begin(self, key: str | None = None, **other: Any) -> Reply:
        """Ask for a link."""
        body = {
            "membership_id": self.membership,
            "user_id": self.user,
            "old_device_id": "phone",
            "new_device_id": "tablet",
            "new_public_key": NEW.pem,
        }
        headers = {"idempotency-key": key} if key else None
        return await self.shop.send("POST", "/devices/reforge/init", body | other, headers)

    async def begun(self) -> str:
        """A reforge that is pending."""
        reply = await self.begin()
        assert reply.status == 202, reply.body
        return str(reply.json["reforgeId"])

    async def token(self, reforge_id: str, settings: Settings | None = None) -> str:
        """What its mail says."""
        [(kept,)] = await self.ask("SELECT token_hash FROM reforges WHERE id = $1", reforge_id)
        link = reforge.Links(settings or self.settings).link(reforge_id, kept)
        assert link is not None
        return link.rpartition("=")[2]

    async def confirm(self, token: str, key: str | None = None) -> Reply:
        """Use a link."""
        headers = {"idempotency-key": key} if key else None
        return await self.shop.send("POST", "/devices/reforge/confirm", {"token": token}, headers)

    async def meets(self, phone: Phone) -> int:
        """What becomes of an encounter that this device signs."""
        ben = await make_member(self.settings.database_url, "ben")
        claims = {"jti": ben, "sub": self.membership, "aud": ben, "iat": int(time.time())}
        body = {"token": phone.token(claims)}
        return (await self.shop.send("POST", "/encounters/verify", body)).status

    async def ask(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        """The database."""
        return await run(self.settings.database_url, statement, *values)

    async def active(self) -> list[tuple[Any, ...]]:
        """Devices that were not revoked."""
        look = "SELECT device_id, public_key FROM membership_devices WHERE revoked_at IS NULL"
        return await self.ask(look)

    async def states(self) -> list[str]:
        """Of all reforges, in their order."""
        return [state for (state,) in await self.ask("SELECT state FROM reforges ORDER BY id")]


@pytest.fixture
async def ann(shop: Shop, settings: Settings) -> Mover:
    """At a worker in this process."""
    return await Mover.of(shop, settings)


def postman(ground: Ground, url: str = "") -> Postman:
    """A postman who comes again at once."""
    given = msgspec.structs.replace(ground.settings, smtp_url=url)
    writers = {"reforge": reforge.letters(ground.postgres, given)}
    return Postman(ground.postgres, Mailer(given), writers, rest_seconds=0)


def token_in(mail: Message) -> str:
    """The token of its link."""
    text = mail.get_payload(decode=True)
    assert isinstance(text, bytes)
    found = TOKEN.search(text)
    assert found is not None, text
    return found[1].decode()


async def test_a_link_comes_by_mail_and_moves_the_membership_once(
    ann: Mover, ground: Ground
) -> None:
    async with MailServer.open() as mails:
        begun = await ann.begin()
        post = postman(ground, mails.url)
        mails.refusals = ["451 later"]
        rounds = [await post.deliver() for _ in range(3)]

    assert begun.status == 202, begun.body
    assert (begun.json["status"], set(begun.json)) == (
        "PENDING",
        {"status", "reforgeId", "message"},
    )
    assert begun.json["message"].startswith("Confirmation email sent")
    assert rounds == [True, True, False], "put off, sent, and none is left"
    [mail] = mails.taken
    assert mail["To"] == "ann@example.com"
    token = token_in(mail)
    assert await ann.active() == [("phone", OLD.pem)], "nothing has moved yet"
    assert [await ann.meets(phone) for phone in (OLD, NEW)] == [201, 401]

    done, again = await ann.confirm(token), await ann.confirm(token)

    wanted = {"status": "CONFIRMED", "membershipId": ann.membership, "newDeviceId": "tablet"}
    assert (done.status, done.json) == (200, wanted)
    assert (again.status, again.error) == (404, "NOT_FOUND")
    assert again.json["message"] == "Reforge request not found or already processed"
    assert await ann.active() == [("tablet", NEW.pem)]
    assert [await ann.meets(phone) for phone in (OLD, NEW)] == [401, 201]


async def test_its_mail_says_what_the_confirmation_does_and_for_how_long_it_can_be(
    ann: Mover, ground: Ground
) -> None:
    await ann.begin()
    async with MailServer.open() as mails:
        assert await postman(ground, mails.url).deliver()
    [mail] = mails.taken
    raw = mail.get_payload(decode=True)
    assert isinstance(raw, bytes)
    said = " ".join(raw.decode().split())

    assert re.search(r"This link confirms once, until \d\d \w+ \d\d:\d\d UTC\. With", said)
    assert "With the confirmation tablet signs for your membership, and the old" in said
    assert "device's key is worth nothing. Until then nothing changes" in said


async def test_a_device_that_signs_already_is_told_so_and_its_link_stays(ann: Mover) -> None:
    pending = await ann.begun()
    for pem in (OLD.pem, OLD.pem.replace("\n", "\r\n")):
        reply = await ann.begin(new_device_id="phone", new_public_key=pem)
        assert (reply.status, reply.error) == (422, "VALIDATION_ERROR")
        assert "with this very key: there is nothing to move" in reply.json["message"]

    assert await ann.states() == ["pending"]
    assert len(await ann.ask("SELECT FROM mails")) == 1
    assert (await ann.confirm(await ann.token(pending))).status == 200


async def test_no_other_link_comes_by_that_mail(ann: Mover, ground: Ground) -> None:
    """A device is called what somebody with a stolen token calls it."""
    await ann.begin(new_device_id="Ann's phone (2), https://evil.example/?a@b")
    async with MailServer.open() as mails:
        assert await postman(ground, mails.url).deliver()
    [mail] = mails.taken
    raw = mail.get_payload(decode=True)
    assert isinstance(raw, bytes)
    text = raw.decode()

    assert "\nAnn's phone (2), https···evil·example··a·b\n" in text.replace("\r", "")
    assert text.count("://") == 1


async def test_fifty_confirmations_at_once_move_it_once(ann: Mover) -> None:
    token = await ann.token(await ann.begun())

    replies = await asyncio.gather(*(ann.confirm(token) for _ in range(50)))

    assert Counter(reply.status for reply in replies) == {200: 1, 404: 49}
    assert await ann.active() == [("tablet", NEW.pem)]


async def test_a_key_repeats_the_answer_that_was_lost(ann: Mover) -> None:
    begun, again = await ann.begin("k"), await ann.begin("k")
    assert (begun.status, again.status, begun.json) == (202, 202, again.json)
    assert len(await ann.states()) == 1
    token = await ann.token(begun.json["reforgeId"])

    replies = await asyncio.gather(*(ann.confirm(token, "k") for _ in range(9)))

    assert {reply.status for reply in replies} == {200}
    assert len({reply.body for reply in replies}) == 1


async def test_who_begins_must_have_membership_device_and_a_key(ann: Mover) -> None:
    theirs = "Membership not found or not owned by user"
    device = "Active device not found for this membership"
    cases: list[tuple[dict[str, Any], int, str]] = [
        ({"user_id": "ben"}, 401, theirs),
        ({"membership_id": "0199a3f2-7c1e-7d43-9b5a-2f6c8e1d4a90"}, 401, theirs),
        ({"membership_id": "nothing"}, 401, theirs),
        ({"old_device_id": "another"}, 404, device),
        ({"new_public_key": "nothing"}, 422, "Invalid public key PEM format"),
        ({"new_public_key": ""}, 422, "newPublicKey: required"),
        ({"new_device_id": ""}, 422, "newDeviceId: required"),
        ({"old_device_id": "a\nb"}, 422, "oldDeviceId: want 1 to 200 printable characters"),
        ({"membershipId": ann.membership}, 422, "membershipId: given twice, under two names"),
    ]
    for other, status, said in cases:
        reply = await ann.begin(**other)
        assert (reply.status, reply.json["message"]) == (status, said), other
    await ann.ask("UPDATE memberships SET revoked_at = clock_timestamp()")
    reply = await ann.begin()
    assert (reply.status, reply.json["message"]) == (401, theirs)
    assert await ann.states() == []


async def test_whoever_has_no_account_with_an_e_mail_is_told_what_to_do(
    shop: Shop, settings: Settings
) -> None:
    for user in ("ann", await add_user(settings.database_url)):
        membership = await make_member(settings.database_url, user, device=OLD.pem)
        reply = await Mover(shop, settings, user, membership).begin()
        assert (reply.status, reply.error) == (422, "VALIDATION_ERROR")
        assert "no account with an e-mail" in reply.json["message"]


async def test_another_one_supersedes_it_and_three_an_hour_may_be(
    ann: Mover, ground: Ground
) -> None:
    first, second, third = [await ann.begun() for _ in range(3)]
    refused = await ann.begin()

    assert (refused.status, refused.error) == (429, "RATE_LIMITED")
    assert 3_500 < int(refused.headers["retry-after"]) <= 3_600
    assert await ann.states() == ["superseded", "superseded", "pending"]
    for old in (first, second):
        assert (await ann.confirm(await ann.token(old))).status == 404
    async with MailServer.open() as mails:
        post = postman(ground, mails.url)
        while await post.deliver():
            pass
    [mail] = mails.taken
    assert token_in(mail) == await ann.token(third)
    await ann.ask(f"UPDATE reforges SET {AGO}")
    assert (await ann.begin()).status == 202


async def test_of_ten_begun_at_once_three_may_be_and_one_is_pending(ann: Mover) -> None:
    replies = await asyncio.gather(*(ann.begin() for _ in range(10)))

    assert Counter(reply.status for reply in replies) == {202: 3, 429: 7}
    assert Counter(await ann.states()) == {"superseded": 2, "pending": 1}


async def test_a_membership_that_is_being_revoked_moves_nowhere(ann: Mover, ground: Ground) -> None:
    """Whoever revokes it has its row; the confirmation waits, and then sees it."""
    token = await ann.token(await ann.begun())
    async with ground.postgres.transaction() as session:
        revoke = "UPDATE memberships SET revoked_at = clock_timestamp()"
        await session._connection.execute(revoke)
        moving = asyncio.create_task(ann.confirm(token), name="moving")
        url = ground.settings.database_url
        await wait_until(lambda: somebody_waits(url), "it stands before the lock")
    reply = await moving

    assert (reply.status, reply.error) == (401, "UNAUTHORIZED")
    assert await ann.active() == [("phone", OLD.pem)]


async def test_a_link_is_good_for_24_hours(ann: Mover, ground: Ground) -> None:
    first = await ann.begun()
    [(left,)] = await ann.ask("SELECT expires_at - clock_timestamp() FROM reforges")
    assert 86_000 < left.total_seconds() <= 86_400
    late = "UPDATE reforges SET expires_at = clock_timestamp() WHERE id = $1"
    await ann.ask(late, first)

    for _ in range(2):
        reply = await ann.confirm(await ann.token(first))
        assert (reply.status, reply.error) == (410, "EXPIRED")
        assert reply.json["message"] == "Reforge request has expired"
        assert await ann.states() == ["expired"]
    second = await ann.begun()
    await ann.ask(late, second)
    assert await device_store.expire_reforges(ground.postgres, 10, first) == 0
    assert await device_store.expire_reforges(ground.postgres, 10) == 1
    assert (await ann.confirm(await ann.token(second))).status == 410
    assert await postman(ground).deliver()
    assert not (ground.settings.data_dir / "mail").exists(), "nobody is written to any more"


async def test_what_changed_meanwhile_is_seen(ann: Mover) -> None:
    token = await ann.token(await ann.begun())
    await ann.ask("UPDATE membership_devices SET device_id = 'another'")
    assert (await ann.confirm(token)).status == 404
    await ann.ask("UPDATE membership_devices SET device_id = 'phone'")
    await ann.ask("UPDATE memberships SET revoked_at = clock_timestamp()")
    revoked = await ann.confirm(token)
    assert (revoked.status, revoked.error) == (401, "UNAUTHORIZED")
    await ann.ask("UPDATE memberships SET revoked_at = NULL")
    assert (await ann.confirm(token)).status == 200


async def test_a_link_opens_after_the_secret_was_rotated(
    ann: Mover, ground: Ground, settings: Settings
) -> None:
    first = msgspec.structs.replace(settings, hmac_secret="a" * 32)
    then = msgspec.structs.replace(settings, hmac_secret="b" * 32, hmac_secret_previous="a" * 32)
    async with Shop.open(first) as shop:
        begun = await Mover(shop, first, ann.user, ann.membership).begun()
    base = msgspec.structs.replace(ground, settings=then)
    assert await postman(base).deliver()

    [letter] = (settings.data_dir / "mail").glob("*.eml")
    found = re.search(rb"token=3D(vrf_\w+)", letter.read_bytes().replace(b"=\n", b""))
    found = found or TOKEN.search(letter.read_bytes())
    assert found is not None, letter.read_bytes()
    assert found[1].decode() == await ann.token(begun, first)
    async with Shop.open(then) as shop:
        mover = Mover(shop, then, ann.user, ann.membership)
        assert (await mover.confirm(found[1].decode())).status == 200


async def test_who_tries_tokens_is_counted_as_who_tries_credentials(settings: Settings) -> None:
    strict = msgspec.structs.replace(settings, rate_failed_auth_per_address="1/h burst 3")
    async with Shop.open(strict) as shop:
        mover = Mover(shop, strict, "", "")
        tried = []
        for n in range(5):
            body = {"token": f"vrf_{n:032x}_{n:064x}"}
            path = "/api/v1/devices/reforge/confirm"
            tried.append((await shop.visit("POST", path, body, client="192.0.2.7")).status)
        missing = await mover.confirm("")

    assert tried == [404, 404, 404, 429, 429]
    assert (missing.status, missing.json["message"]) == (422, "Missing reforge token")


@pytest.mark.parametrize("change", ["e-mail", "suspended", "deleted", "erased"])
async def test_a_link_opens_nothing_after_its_account_changed(
    ann: Mover, ground: Ground, change: str
) -> None:
    begun = await ann.begun()
    token = await ann.token(begun)
    path = f"/users/{ann.user}"
    if change in ("e-mail", "suspended"):
        what = {"email": "new@example.com"} if change == "e-mail" else {"status": change}
        done = await ann.shop.send("PUT", path, {"version": 0, **what})
    else:
        done = await ann.shop.send("DELETE", path + ("?erase=true" if change == "erased" else ""))
    assert done.status == 200, done.body

    post = postman(ground)
    while await post.deliver():
        pass
    assert not (ground.settings.data_dir / "mail").exists()
    assert (await ann.confirm(token)).status == 404
    assert await ann.states() == ["superseded" if change in ("e-mail", "erased") else "pending"]
    shown = await ann.shop.send("GET", f"/memberships/{ann.membership}/devices")
    [device] = shown.json["data"]
    assert device["deviceId"] == ("erased" if change == "erased" else "phone")


async def test_who_is_erased_leaves_no_device_by_its_name(ann: Mover) -> None:
    """Neither in what is remembered of requests: a repetition is told how it is now."""
    begun = await ann.begin("k", new_device_id="anns-own-tablet")
    token = await ann.token(begun.json["reforgeId"])
    done = await ann.confirm(token, "k")
    assert (done.status, done.json["newDeviceId"]) == (200, "anns-own-tablet")

    await ann.shop.send("DELETE", f"/users/{ann.user}?erase=true")

    again = await ann.confirm(token, "k")
    assert (again.status, again.json["newDeviceId"]) == (200, "erased")
    assert again.headers["idempotent-replayed"] == "true"
    for (table,) in await ann.ask("SELECT tablename FROM pg_tables WHERE schemaname = 'public'"):
        for (row,) in await ann.ask(f'SELECT t::text FROM "{table}" AS t'):
            for word in ("anns-own-tablet", b"anns-own-tablet".hex()):
                assert word not in row, table


async def test_an_account_that_is_being_erased_moves_nothing(ann: Mover, ground: Ground) -> None:
    """Whoever erases it has its row; who begins waits, and then sees it."""
    url = ground.settings.database_url
    async with ground.postgres.transaction() as session:
        await users.erase(session, ann.user)
        moving = asyncio.create_task(ann.begin(), name="moving")
        await wait_until(lambda: somebody_waits(url), "it stands before the lock")
    reply = await moving

    assert reply.status == 422, reply.body
    assert (await ann.states(), await ann.ask("SELECT FROM mails")) == ([], [])


async def test_a_user_moves_only_what_is_his(settings: Settings) -> None:
    guarded = msgspec.structs.replace(
        settings, auth="required", jwt_secret=SECRET, hmac_secret=SECRET
    )
    async with Shop.open(guarded) as shop:
        ann = await Mover.of(shop, guarded)
        body = {
            "membershipId": ann.membership,
            "oldDeviceId": "phone",
            "newDeviceId": "tablet",
            "newPublicKey": NEW.pem,
        }
        told = []
        for user, more in (("ben", {}), ("ben", {"userId": ann.user}), (ann.user, {})):
            headers = {"authorization": f"Bearer {tokens.create(SECRET, user, 60)}"}
            path = "/devices/reforge/init"
            told.append((await shop.send("POST", path, body | more, headers)).status)

    assert told == [401, 401, 202]


async def test_the_link_is_in_no_answer_no_log_and_no_row(
    settings: Settings, tmp_path: Path
) -> None:
    """Of real processes that say all they can say."""
    async with (
        MailServer.open() as mails,
        Service.open(
            settings, tmp_path, workers=1, LOG_LEVEL="debug", SMTP_URL=mails.url
        ) as service,
    ):
        ann = await Mover.of(service, settings)
        replies = [await ann.begin("k"), await ann.begin("k")]

        async def came() -> list[Message]:
            return mails.taken

        [mail] = await wait_until(came, "the mail comes")
        token = token_in(mail)
        replies += [
            await service.send("GET", f"/reforge/confirm?token={token}"),
            await service.send("GET", f"/memberships/{ann.membership}/devices"),
            *[await ann.confirm(token, "c") for _ in range(2)],
            await ann.confirm(token),
            await service.send("GET", "/activity-logs"),
            await service.send("GET", "/admin/audit-log"),
        ]
        log = service.log()
    log += service.log()
    assert [reply.status for reply in replies] == [202, 202, 404, 200, 200, 200, 404, 200, 200]

    secret = token.rpartition("_")[2]
    assert "worker.ready" in log
    assert secret not in log
    for reply in replies:
        assert secret.encode() not in reply.body
        assert secret not in str(reply.headers)
    tables = await ann.ask("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    assert ("mails",) in tables
    assert ("reforges",) in tables
    for (table,) in tables:
        for (row,) in await ann.ask(f'SELECT t::text FROM "{table}" AS t'):
            assert secret not in row, table
            assert secret.encode().hex() not in row, table
