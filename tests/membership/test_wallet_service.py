"""What Apple's wallets ask of a web service, step by step."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
import structlog

from engine.infra.settings import Settings
from engine.membership import pass_store, store, wallet
from engine.membership.passes import Tokens
from engine.membership.wallet import Wallets
from engine.runtime import Ground
from tests.membership.chains import content, wallet_of
from tests.membership.conftest import Club, Register
from tests.membership.test_passes import issued
from tests.support.http import Reply
from tests.support.shop import Shop

PUSH = {"pushToken": "f" * 64}
SECRET = "a secret of the wallets, long enough"


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Reached over https, so that passes name their web service."""
    return msgspec.structs.replace(settings, public_url="https://club.example", hmac_secret=SECRET)


class Phone:
    """A wallet with one pass in it, which knows nothing but what that says."""

    def __init__(self, shop: Shop, told: dict[str, Any], device: str = "phone-1") -> None:
        self.shop, self.told = shop, told
        self.latest, self.headers = wallet_of(told)
        kind, serial = told["passTypeIdentifier"], told["serialNumber"]
        self.list = f"/wallet/v1/devices/{device}/registrations/{kind}"
        self.mine = f"{self.list}/{serial}"

    async def asks(self, method: str, path: str, body: Any = None, **headers: str) -> Reply:
        """One request, with the token of the pass."""
        return await self.shop.visit(method, path, body, self.headers | headers)


@pytest.fixture
async def phone(club: Club) -> AsyncIterator[Phone]:
    """Ann's phone, and her pass."""
    await club.open(9)
    made = await club.minted("receipt-1", "ann")
    yield Phone(club.shop, content(await issued(club.shop, made["id"], "ann")))


async def revoke(shop: Shop, phone: Phone) -> None:
    """End the membership of a phone's pass."""
    id = phone.told["serialNumber"][-36:]
    assert (await shop.send("POST", f"/memberships/{id}/revoke", {"reason": "x"})).status == 200


async def test_a_wallet_registers_asks_hears_of_a_change_and_leaves(
    phone: Phone, register: Register
) -> None:
    assert (await phone.asks("GET", phone.list)).status == 204
    for status in (201, 200):
        reply = await phone.asks("POST", phone.mine, PUSH)
        assert (reply.status, reply.body) == (status, b"")
    assert await register.count("pass_registrations") == 1
    all_of_it = await phone.asks("GET", phone.list)
    assert all_of_it.json["serialNumbers"] == [phone.told["serialNumber"]]
    since = f"{phone.list}?passesUpdatedSince={all_of_it.json['lastUpdated']}"
    assert (await phone.asks("GET", since)).status == 204

    fresh = await phone.asks("GET", phone.latest)
    assert (fresh.status, content(fresh.body)) == (200, phone.told)
    known = {"if-modified-since": fresh.headers["last-modified"]}
    for same in (known, {"if-none-match": fresh.headers["etag"]}):
        reply = await phone.asks("GET", phone.latest, **same)
        assert (reply.status, reply.body) == (304, b"")
    other = {"if-none-match": 'W/"other"', **known}
    assert (await phone.asks("GET", phone.latest, **other)).status == 200
    long_ago = {"if-modified-since": "Tue, 01 Jan 2019 00:00:00 GMT"}
    assert (await phone.asks("GET", phone.latest, **long_ago)).status == 200

    await revoke(phone.shop, phone)
    changed = await phone.asks("GET", since)
    assert (changed.status, len(changed.json["serialNumbers"])) == (200, 1)
    refused = await phone.asks("GET", phone.latest, **known)
    assert (refused.status, refused.json["message"]) == (401, "Membership has been revoked")
    assert (await phone.asks("POST", phone.mine, PUSH)).status == 401

    for _ in range(2):
        assert (await phone.asks("DELETE", phone.mine)).status == 200
    assert await register.count("pass_registrations") == 0


async def test_it_answers_under_every_mount(phone: Phone) -> None:
    for mount in ("", "/api", "/api/v1"):
        assert (await phone.asks("GET", mount + phone.latest)).status == 200


async def test_without_the_token_of_this_very_pass_nothing_is_told_or_changed(
    phone: Phone, club: Club, register: Register
) -> None:
    other = await club.minted("receipt-2", "ann")
    others = Phone(club.shop, content(await issued(club.shop, other["id"], "ann")))
    for headers in (
        {},
        {"authorization": "ApplePass"},
        {"authorization": "ApplePass x"},
        {"authorization": "ApplePass é"},
        {"authorization": phone.headers["authorization"].replace("ApplePass", "Bearer")},
        others.headers,
    ):
        for method, path, body in (
            ("POST", phone.mine, PUSH),
            ("DELETE", phone.mine, None),
            ("GET", phone.latest, None),
            ("GET", phone.latest[:-1] + "g", None),
        ):
            reply = await phone.shop.visit(method, path, body, headers)
            assert (reply.status, reply.error) == (401, "UNAUTHORIZED")
    assert await register.count("pass_registrations") == 0


async def test_who_guesses_tokens_is_soon_refused_and_the_owner_is_not(settings: Settings) -> None:
    limited = msgspec.structs.replace(
        settings, trusted_proxies="127.0.0.1", rate_failed_auth_per_address="1/h burst 3"
    )
    async with Shop.open(limited) as shop:
        club = Club(shop)
        await club.open(9)
        made = await club.minted("receipt-1", "ann")
        phone = Phone(shop, content(await issued(shop, made["id"], "ann")))
        thief = {"x-forwarded-for": "203.0.113.9", "authorization": "ApplePass guess"}
        told = [(await phone.asks("GET", phone.latest, **thief)).status for _ in range(5)]
        here = {"x-forwarded-for": "203.0.113.9"}

        assert told == [401, 401, 401, 429, 429]
        assert (await phone.asks("GET", phone.latest, **here)).status == 200


def test_a_token_of_the_secret_before_still_opens() -> None:
    newer = "another secret of the wallets, newer"
    old = Tokens(Settings(hmac_secret=SECRET))
    new = Tokens(Settings(hmac_secret=newer, hmac_secret_previous=SECRET))

    assert new.opens(old.token("a"), "a")
    assert new.opens(new.token("a"), "a")
    assert not old.opens(new.token("a"), "a")
    assert not new.opens(old.token("a"), "b")


async def test_what_a_wallet_sends_is_read_strictly(phone: Phone) -> None:
    for path, body, status in (
        (phone.mine, {}, 400),
        (phone.mine, {"pushToken": ""}, 400),
        (phone.mine, {"pushToken": "x" * 201}, 400),
        (phone.mine, {"pushToken": "a\0"}, 400),
        (phone.mine, {"push_token": "f" * 64}, 201),
        (phone.mine.replace("pass.local", "pass.other"), PUSH, 404),
        (phone.mine.replace("phone-1", "%00"), PUSH, 404),
        (phone.mine.replace("genesis", "founder"), PUSH, 404),
    ):
        assert (await phone.asks("POST", path, body)).status == status, (path, body)


async def test_a_list_is_asked_for_in_words_that_we_gave(phone: Phone) -> None:
    reply = await phone.asks("GET", f"{phone.list}?passesUpdatedSince=yesterday")
    assert (reply.status, reply.error) == (400, "VALIDATION_ERROR")
    for path, status in (
        (phone.list.replace("phone-1", "%7B"), 404),
        (phone.list.replace("pass.local", "%7B"), 404),
        (phone.list.replace("pass.local", "pass.other"), 204),
        (phone.list.replace("phone-1", "phone-2"), 204),
    ):
        assert (await phone.asks("GET", path)).status == status, path


async def test_a_change_that_was_committed_late_is_told(
    settings: Settings, phone: Phone, club: Club, ground: Ground, register: Register
) -> None:
    """The first to begin is the last to end: between them the device asked."""
    late, early = (phone.told["serialNumber"], await club.minted("receipt-2", "ann"))
    wallets = Wallets(settings, ground.postgres)
    for id in (late[-36:], early["id"]):
        await pass_store.register_pass(ground.postgres, "tablet", id, "x")
    change = "UPDATE memberships SET changed_at = clock_timestamp() WHERE id = $1"
    under_way = register.connection.transaction()
    await under_way.start()
    await register.connection.execute(change, late[-36:])
    async with ground.postgres.transaction() as session:
        await store.revoke_membership(session, early["id"], "x")
    tag, _ = await wallets.changed("tablet", settings.wallet_type_id, "")
    await under_way.commit()

    _, serials = await wallets.changed("tablet", settings.wallet_type_id, tag)

    assert late in serials


async def test_a_pass_has_only_so_many_devices(
    phone: Phone, ground: Ground, register: Register, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pass_store, "WALLETS_MAX", 3)
    id = phone.told["serialNumber"][-36:]
    for n in range(5):
        assert await pass_store.register_pass(ground.postgres, f"device-{n}", id, "x")
    rows = await register.connection.fetch(
        "SELECT device_library_id FROM pass_registrations ORDER BY registered_at"
    )

    assert [row[0] for row in rows] == ["device-2", "device-3", "device-4"]
    assert not await pass_store.register_pass(ground.postgres, "device-2", id, "y")


async def test_complaints_are_logged_cut_short_and_without_secrets(phone: Phone) -> None:
    token = phone.headers["authorization"].removeprefix("ApplePass ")
    lines = [
        f"[2026] {phone.told['serialNumber']}: Authorization: ApplePass {token}",
        f"a\n{token}",
        f"{'x y ' * 70}{token}",
    ]
    with structlog.testing.capture_logs() as seen:
        wallet.complain([*lines, *("x y " * 1_000 for _ in range(100))])
        reply = await phone.shop.visit("POST", "/wallet/v1/log", {"logs": lines})

    assert (reply.status, reply.body) == (200, b"")
    told = seen[0]
    assert token[:16] not in str(seen), "nor what is left of one that is cut"
    assert phone.told["serialNumber"] in told["lines"][0], "it says which pass it is about"
    assert told["lines"][1] == "a …"
    assert (len(told["lines"]), told["left_out"]) == (20, 83)
    assert max(len(line) for line in told["lines"]) <= 300
    for wrong in ({}, {"logs": "x"}, {"logs": [1]}):
        assert (await phone.shop.visit("POST", "/wallet/v1/log", wrong)).status == 400
