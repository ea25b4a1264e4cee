"""What a running engine answers is what the document says: every operation, at least once well."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

import pytest

from engine.identity import user_store
from engine.identity.resets import Links
from engine.infra.ids import new_id
from engine.membership import reforge
from engine.membership.passes import Tokens
from engine.record import keys
from engine.record.activity_store import Row, insert_activity
from engine.record.seal import seal
from engine.runtime import Ground
from tests.coldchain.conftest import freezer_of
from tests.membership.people import Phone, make_member, packed
from tests.openapi.conftest import Document
from tests.support.http import Reply
from tests.support.people import add_user
from tests.support.provider import Provider
from tests.support.shop import Shop

NOBODY = "0199a3f2-7c1e-7d43-9b5a-2f6c8e1d4a90"


class Told(Shop):
    """A shop whose every answer is compared with the document."""

    def __init__(self, shop: Shop, document: Document) -> None:
        self._shop, self._document = shop, document
        self.seen: dict[tuple[str, str], set[int]] = {}

    async def send(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> Reply:
        """One request, and a look into the document."""
        reply = await self._shop.send(method, path, body, headers)
        where = self._place(method, urlsplit(path).path)
        self.seen.setdefault(where, set()).add(reply.status)
        answer = self._document.answer(*where, reply.status)
        self._check(reply, answer, f"{method} {path}")
        return reply

    def _place(self, method: str, path: str) -> tuple[str, str]:
        """The operation of a path: a literal segment beats a name."""
        parts = path.split("/")
        fits = [
            (method, each)
            for way, each in self._document.operations
            if way == method
            and len(parts) == len(each.split("/"))
            and all(b == a or b[:1] == "{" for a, b in zip(parts, each.split("/"), strict=True))
        ]
        return min(fits, key=lambda place: place[1].count("{"))

    def _check(self, reply: Reply, answer: dict[str, Any], what: str) -> None:
        for name, told in answer.get("headers", {}).items():
            if self._document.follow(told).get("required"):
                assert name.lower() in reply.headers, (what, name)
        for name in reply.headers:
            if name not in {"content-type", "content-length", "content-disposition"}:
                assert name in {told.lower() for told in answer["headers"]}, (what, name)
        forms = answer.get("content", {})
        if not reply.body:
            assert not forms, what
            return
        kind = reply.headers["content-type"].partition(";")[0]
        if kind == "application/json":
            wrong = self._document.problems(forms[kind]["schema"], reply.json)
            assert wrong == [], (what, reply.json)
        else:
            assert kind in forms, what

    @asynccontextmanager
    async def nothing_left_out(self) -> AsyncIterator[None]:
        """Every operation was answered well in here."""
        yield
        lacking = [
            place
            for place in self._document.operations
            if not any(status < 400 for status in self.seen.get(place, set()))
        ]
        assert lacking == []


@pytest.fixture
def told(shop: Shop, document: Document) -> Told:
    """The shop of the test, compared with its document."""
    return Told(shop, document)


async def _sells(told: Told, drop: int) -> None:
    """Holds and purchases by either way in, a release, and what is to be seen of them."""
    first, second, third = [
        await told.reserve(drop, "ann", "a"),
        await told.send("POST", f"/reserve/{drop}", {"userId": "ann"}),
        await told.reserve(drop, "ann", "c", quantity=2),
    ]
    again = await told.reserve(drop, "ann", "a")
    assert again.headers["idempotent-replayed"] == "true"
    bought = await told.confirm(first.json["id"], "ann", "p", paymentReference="pay_1")
    assert (await told.confirm(first.json["id"], "ann")).status == 200
    await told.send("POST", f"/purchase/{second.json['id']}", {"userId": "ann"})
    assert (await told.release(third.json["id"], "ann")).status == 204
    await told.reserve(drop, "bob")
    for path in (
        *(f"/reservations/{first.json['id']}", "/reservations?userId=bob&page=1"),
        *(f"/purchases/{bought.json['id']}?userId=ann", "/purchases/mine?userId=ann&limit=1"),
        "/buyers/ann/timeline",
    ):
        assert (await told.send("GET", path)).status == 200, path


async def _pays(told: Told, drop: int) -> None:
    """A hold that is extended and paid for, what a provider says, a refund, and what is owed."""
    hold = (await told.reserve(drop, "eve")).json
    for verb in ("extend", "pay"):
        path = f"/reservations/{hold['id']}/{verb}"
        assert (await told.send("POST", path, {"userId": "eve"})).status == 200, verb
    provider = Provider(told)
    said = [await provider.says(word, hold) for word in ("pending", "failed", "succeeded")]
    odd = await provider.says("succeeded", hold, "pay_2")
    assert [reply.status for reply in (*said, odd)] == [200] * 4
    assert (await told.send("GET", f"/reservations/{hold['id']}")).json["payments"]
    purchase = f"/purchases/{said[-1].json['purchaseId']}"
    assert (await told.send("POST", f"{purchase}/refund", {"restock": True})).status == 200
    for path in (purchase, "/refunds", "/refunds?status=due&page=1"):
        assert (await told.send("GET", path)).status == 200, path


async def _keeps_cold(told: Told, slots: list[int]) -> None:
    """Slots held, booked, measured, shown and emptied, by people and by a simulation."""
    held = await told.send("POST", "/hold", {"slotId": slots[0], "userId": "ann"})
    body = {"reservationId": held.json["reservation"]["id"], "userId": "ann", "manifestId": "M"}
    booked = await told.send("POST", "/book", body)
    assert (held.status, booked.status) == (201, 201), booked.body
    assert (await told.send("POST", "/book", body)).status == 200
    assert (await told.send("POST", "/hold", {"slotId": slots[0], "userId": "b"})).status == 409
    reading = f"/slots/{slots[0]}/readings"
    assert (await told.send("POST", reading, {"temperature": -60.5})).status == 201
    assert (await told.send("POST", reading, {"temperature": 200})).status == 400
    booking = f"/bookings/{booked.json['booking']['id']}"
    units = f"/drops/{slots[0] >> 20}/units"
    slot = f"/slots/{slots[0]}?userId=ann"
    for path in ("/slots?limit=1000", "/slots?page=1", slot, booking, units):
        assert (await told.send("GET", path)).status == 200, path
    assert (await told.send("DELETE", booking)).status == 200
    for kind in ("traffic", "failure"):
        assert (await told.send("POST", f"/simulate/{kind}")).status == 200, kind


async def _mints(told: Told, ground: Ground) -> None:
    """A tier that is opened, receipts that become its numbers, and one that is revoked."""
    tier = {"tier": "genesis", "year": "2025", "capacity": 1}
    assert (await told.send("POST", "/memberships/drops", tier)).status == 201
    assert (await told.send("POST", "/memberships/drops", tier)).status == 409
    receipt = {"receiptData": "receipt-1", "userId": "ann"}
    minted, again, other, late, none = [
        await told.send("POST", "/mint", body)
        for body in (
            receipt,
            receipt,
            receipt | {"userId": "bob"},
            receipt | {"receiptData": "r"},
            {},
        )
    ]
    assert [r.status for r in (minted, again, other, late, none)] == [201, 200, 409, 410, 422]
    member = f"/memberships/{minted.json['membership']['id']}"
    for path in (
        *(f"{member}?userId=ann", "/memberships/tiers", "/memberships/mine?userId=ann"),
        "/memberships?page=1&revoked=false",
    ):
        assert (await told.send("GET", path)).status == 200, path
    assert (await told.send("GET", f"{member}?userId=bob")).status == 401
    await _carries(told, ground, minted.json["membership"])
    assert (await told.send("POST", f"{member}/revoke", {"reason": "refunded"})).status == 200


async def _carries(told: Told, ground: Ground, member: dict[str, Any]) -> None:
    """A pass, and a wallet that looks after it."""
    wish = {"membershipId": member["id"], "userId": "ann"}
    for user, status in (("ann", 200), ("bob", 401)):
        assert (await told.send("POST", "/issue-pass", wish | {"userId": user})).status == status
    assert (await told.send("GET", "/wallet/keys")).status == 200
    shown = {"authorization": f"ApplePass {Tokens(ground.settings).token(member['id'])}"}
    mine = "/wallet/v1/devices/phone/registrations/pass.local.velvetrope"
    its = f"{mine}/{member['passSerial']}"
    push = {"pushToken": "f" * 64}
    assert [(await told.send("POST", its, push, shown)).status for _ in range(2)] == [201, 200]
    tag = (await told.send("GET", mine)).json["lastUpdated"]
    assert (await told.send("GET", f"{mine}?passesUpdatedSince={tag}")).status == 204
    latest = f"/wallet/v1/passes/pass.local.velvetrope/{member['passSerial']}"
    known = {"if-none-match": (await told.send("GET", latest, None, shown)).headers["etag"]}
    assert (await told.send("GET", latest, None, shown | known)).status == 304
    assert (await told.send("GET", latest)).status == 401
    assert (await told.send("DELETE", its, None, shown)).status == 200
    assert (await told.send("POST", "/wallet/v1/log", {"logs": ["no"]})).status == 200


async def _meets(told: Told, ground: Ground, user: str) -> None:
    """A device that is registered, meets somebody, and hands its membership on to another."""
    url, phone, tablet = ground.settings.database_url, Phone(), Phone()
    ann, ben = await make_member(url, user), await make_member(url, "ben")
    at = f"/memberships/{ann}/devices"
    challenge = (await told.send("POST", f"{at}/challenge")).json["challenge"]
    proof = phone.sign(f"velvetrope device v1\n{ann}\nphone\n{challenge}".encode())
    body = {"deviceId": "phone", "publicKey": phone.pem, "challenge": challenge}
    made = [await told.send("POST", at, body | {"signature": packed(proof)}) for _ in range(2)]
    other = await told.send("POST", at, body | {"signature": "AA"})
    assert [reply.status for reply in (*made, other)] == [201, 200, 401]
    token = phone.token({"jti": "j", "sub": ann, "aud": ben, "iat": int(time.time())})
    met = [await told.send("POST", "/encounters/verify", {"token": token}) for _ in range(2)]
    assert [reply.status for reply in met] == [201, 409]
    for path in (
        at,
        f"{at}?page=1",
        f"/encounters/mine?userId={user}",
        "/encounters/mine?userId=b",
    ):
        assert (await told.send("GET", path)).status == 200, path
    assert (await told.send("GET", "/encounters/mine")).status == 400
    move = {"membershipId": ann, "userId": user, "oldDeviceId": "phone", "newDeviceId": "tablet"}
    key = {"newPublicKey": tablet.pem}
    begun = await told.send("POST", "/devices/reforge/init", move | key)
    assert (await told.send("POST", "/devices/reforge/init", move)).status == 422
    assert begun.status == 202, begun.body
    links, id = reforge.Links(ground.settings), begun.json["reforgeId"]
    link = links.link(id, links.digest(id)) or ""
    used = {"token": link.rpartition("=")[2]}
    replies = [await told.send("POST", "/devices/reforge/confirm", used) for _ in range(2)]
    assert [reply.status for reply in replies] == [200, 404]


async def _records(told: Told, ground: Ground) -> None:
    """The ledger, as a keeper leaves it."""
    assert await seal(ground.postgres, keys.ring(ground.settings))
    for path in ("", "?limit=1", "/verify", "/1/proof", "/key", "/head", "/export"):
        assert (await told.send("GET", f"/ledger{path}")).status == 200, path


async def _logs(told: Told, ground: Ground) -> None:
    """What users and operators did, with something in every field."""
    user, session = new_id(), new_id()
    acts = [Row(new_id(), user, session, "session_created", '{"a": 1}', "10.0.0.1", "curl", 5.0)]
    await insert_activity(ground.postgres, acts)
    for path in (
        *("/activity-logs", f"/activity-logs?userId={user}&page=1", "/activity-logs/stats"),
        *(f"/activity-logs/user/{user}/recent", "/admin/audit-log", "/admin/audit-log?page=1"),
    ):
        reply = await told.send("GET", path)
        assert (reply.status, bool(reply.json)) == (200, True), path


async def _guards(told: Told) -> None:
    """Locks; keys that are made, listed, exchanged and ended."""
    for path in ("/locks?limit=1", "/locks?page=1", "/api-keys?page=1"):
        assert (await told.send("GET", path)).status == 200, path
    made = await told.send(
        "POST", "/api-keys", {"name": "till", "scopes": ["sale:read"], "expiresInDays": 1}
    )
    assert made.status == 201
    assert (await told.send("POST", "/api-keys", {"name": "", "scopes": ["x"]})).status == 400
    path = f"/api-keys/{made.json['id']}"
    assert (await told.send("POST", f"{path}/rotate", {"graceSeconds": 60})).status == 201
    assert (await told.send("DELETE", path)).status == 200


async def _comes_in(told: Told, ground: Ground) -> None:
    """An account that is made, lost, found again and left."""
    ann = {"username": "ann", "email": "ann@example.org", "password": "correct horse"}
    entered = await told.send("POST", "/users/register", ann)
    assert entered.status == 201, entered.body
    taken = await told.send("POST", "/users/register", ann)
    assert (taken.status, taken.error) == (409, "USER_EXISTS")
    at = {"authorization": f"Bearer {entered.json['token']}"}
    wish = {"currentPassword": ann["password"], "newPassword": "better horse"}
    changed = await told.send("POST", "/users/password", wish, at)
    fresh = {"refreshToken": changed.json["refreshToken"]}
    for path, body in (("refresh", fresh), ("login", ann | {"password": "better horse"})):
        reply = await told.send("POST", f"/users/{path}", body)
        assert reply.status == 200, path
    at = {"authorization": f"Bearer {reply.json['token']}"}
    assert (await told.send("GET", "/users/me", headers=at)).status == 200
    assert (await told.send("POST", "/users/logout", headers=at)).status == 200
    asked = await told.send("POST", "/users/password/reset", {"email": ann["email"]})
    assert asked.status == 202
    id, soon = new_id(), datetime(2190, 1, 1, tzinfo=UTC)
    assert await user_store.open_reset(ground.postgres, id, ann["email"], soon)
    link = {"token": Links(ground.settings).token(id), "password": "best of horses"}
    replies = [await told.send("POST", "/users/password/reset/confirm", link) for _ in range(2)]
    assert [reply.status for reply in replies] == [200, 410]
    assert (await told.send("POST", "/users/login", ann)).status == 401


async def _administers(told: Told) -> None:
    """An account that somebody vouches for, shown, changed, deleted and erased."""
    made = await told.send("POST", "/users", {"privyId": "did:privy:zoe"})
    assert (made.status, made.headers["etag"]) == (201, '"0"')
    again = await told.send("POST", "/users", {"privyId": "did:privy:zoe"})
    assert (again.status, again.error) == (400, "USER_EXISTS")
    user = f"/users/{made.json['id']}"
    wallet = "0x" + "aB" * 20
    given = await told.send("POST", f"{user}/wallet", {"walletAddress": wallet})
    assert (given.status, given.json["version"]) == (200, 1)
    changed = await told.send("PUT", user, {"phone": "+1 555 0100"}, {"if-match": '"1"'})
    late = await told.send("PUT", user, {"phone": None, "version": 1})
    assert (changed.status, late.status, late.error) == (200, 409, "VERSION_CONFLICT")
    assert (await told.send("POST", f"{user}/activity")).status == 200
    places = ("/users/privy/did:privy:zoe", f"/users/wallet/{wallet.lower()}", "/users?page=1")
    for path in (*places, "/users?limit=1", "/users/first", user):
        assert (await told.send("GET", path)).status == 200, path
    for path in (user, f"{user}?erase=true"):
        assert (await told.send("DELETE", path)).status == 200, path


async def _prefers(told: Told, user: str) -> None:
    """What a user wants to be told, by either path."""
    night = {"quietHoursEnabled": True, "quietHoursStart": "22:00", "quietHoursEnd": "07:00"}
    for path in (f"/notifications/preferences/{user}", f"/notifications/user/{user}"):
        assert (await told.send("PUT", path, night)).status == 200, path
        assert (await told.send("GET", path)).status == 200, path
    question = "may-send?channel=push&category=product&at=2030-01-31T23:00:00Z"
    asked = await told.send("GET", f"/notifications/preferences/{user}/{question}")
    assert asked.json["until"] == "2030-02-01T07:00:00.000Z"
    for path in (f"/notifications/preferences/{user}", f"/notifications/user/{user}"):
        assert (await told.send("POST", f"{path}/reset")).status == 200, path


async def _enters(told: Told, user: str) -> None:
    """A session from its beginning to its end, and another that ends with all of them."""
    phone = {"userId": user, "deviceId": "phone", "platform": "ios", "pushToken": "p"}
    one = f"/sessions/{(await told.send('POST', '/sessions', phone)).json['id']}"
    of_user = f"/sessions/user/{user}"
    assert (await told.send("POST", "/sessions/get-or-create", phone)).status == 200
    for path in (one, of_user, f"{of_user}/active", f"{of_user}/stats"):
        assert (await told.send("GET", path)).status == 200, path
    listed = f"/sessions?userId={user}&includeInactive=true&page=1"
    assert (await told.send("GET", listed)).json["meta"]["totalItems"] == 1
    for method, path, body in (
        ("PUT", one, {"deviceName": "blue"}),
        ("POST", f"{one}/activity", None),
        ("PUT", f"{one}/push-token", {"pushToken": "q"}),
        ("POST", f"{one}/extend", {"additionalDays": 1}),
        ("DELETE", one, {"reason": "lost"}),
        ("DELETE", f"{of_user}/all", None),
    ):
        assert (await told.send(method, path, body)).status == 200, path
    assert (await told.send("POST", f"{one}/extend")).error == "EXPIRED"


async def _invites(told: Told) -> None:
    """Invitations that are made, used and seen."""
    at = "/private-beta"
    for path in ("/referral", "/referrals"):
        made = await told.send("POST", at + path)
        assert made.status == 201, path
    assert (await told.send("POST", f"{at}/referrals/bulk", {"count": 2})).status == 201
    pair = {"referralKey": made.json["referralKey"], "userEmail": "ann@example.com"}
    for path in ("/check-validity", "/verify", "/status", "/check-validity"):
        assert (await told.send("POST", at + path, pair)).status == 200, path
    for path in ("/users", "/debug?page=1", "/referrals/unused"):
        assert (await told.send("GET", at + path)).status == 200, path
    strange = {"referralKey": "K7QD-M2XH-9TBR", "userEmail": "bob@example.com"}
    other = pair | {"userEmail": "bob@example.com"}
    refused = [(await told.send("POST", f"{at}/verify", each)).error for each in (strange, other)]
    assert refused == ["NOT_FOUND", "KEY_USED"]


async def test_every_operation_answers_as_the_document_says(told: Told, ground: Ground) -> None:
    async with told.nothing_left_out():
        await _keeps_cold(told, await freezer_of(ground, 6))
        await _mints(told, ground)
        await _meets(told, ground, await add_user(ground.settings.database_url, "m@example.org"))
        await _prefers(told, await add_user(ground.settings.database_url))
        await _enters(told, await add_user(ground.settings.database_url))
        await _invites(told)
        await _comes_in(told, ground)
        await _administers(told)
        drop = await told.open_drop(20, maxPerBuyer=9, imageUrl="/pictures/0-a.svg")
        await _sells(told, drop)
        await _pays(told, drop)
        await _records(told, ground)
        await told.change(drop, addStock=5, endsAt="2190-01-01T00:00:00Z", maxPerBuyer=None)
        for verb in ("pause", "reconcile?dryRun=true", "reconcile", "resume"):
            assert (await told.send("POST", f"/drops/{drop}/{verb}")).status == 200
        stock = await told.send("GET", f"/drops/{drop}/stock")
        tag = {"if-none-match": stock.headers["etag"]}
        assert (await told.send("GET", f"/drops/{drop}/stock", headers=tag)).status == 304
        for path in ("", "/audit", "/reservations", "/purchases", "/purchases?format=csv"):
            assert (await told.send("GET", f"/drops/{drop}{path}")).status == 200, path
        for path in ("/drops?status=live,paused&limit=1", "/health", "/health/live"):
            assert (await told.send("GET", path)).status == 200
        assert (await told.send("GET", "/health/ready")).status == 200
        await _logs(told, ground)
        await _guards(told)
        assert (await told.send("POST", f"/drops/{drop}/close")).status == 200


async def test_every_refusal_is_the_one_the_document_names(told: Told) -> None:
    drop, upcoming = await told.open_drop(2), await told.open_drop(1, startsAt="2190-01-01T00:00Z")
    hold = (await told.reserve(drop, "ann", "k")).json["id"]
    refused = [
        await told.reserve(drop, "ann"),
        await told.reserve(drop, "bob", "k", quantity=200),
        await told.reserve(10**12, "bob"),
        await told.reserve(upcoming, "bob"),
        await told.reserve(drop, "ann", key="\x7f"),
        await told.send("POST", "/reservations", b"x" * 70_000),
        await told.confirm(hold, "bob"),
        await told.confirm(NOBODY, "ann"),
        await told.send("GET", "/purchases/nothing"),
        await told.send("GET", "/drops", headers={"authorization": "Bearer nonsense"}),
        await told.send("GET", "/drops", headers={"origin": "https://elsewhere.example"}),
    ]  # fmt: skip
    await told.reserve(drop, "bob")
    refused.append(await told.reserve(drop, "cyd"))
    await told.send("POST", f"/drops/{drop}/pause")
    refused.append(await told.reserve(drop, "dan"))
    await told.release(hold, "ann")
    refused.append(await told.confirm(hold, "ann"))
    refused.append(
        await told.send("POST", f"/drops/{drop}/pause", headers={"idempotency-key": "k"})
    )
    refused.append(
        await told.send("POST", f"/drops/{upcoming}/pause", headers={"idempotency-key": "k"})
    )

    assert [reply.error for reply in refused if reply.status >= 400] == [
        *("LIMIT_REACHED", "VALIDATION_ERROR", "NOT_FOUND", "NOT_STARTED", "VALIDATION_ERROR"),
        *("PAYLOAD_TOO_LARGE", "NOT_YOUR_RESERVATION", "NOT_FOUND", "NOT_FOUND", "UNAUTHORIZED"),
        *("FORBIDDEN", "SOLD_OUT", "PAUSED", "ALREADY_RESOLVED", "IDEMPOTENCY_MISMATCH"),
    ]


async def test_a_whole_number_may_be_written_with_a_point(told: Told) -> None:
    body = (
        b'{"name": "Aurora", "price": 0.30000000000000004, "totalStock": 5.0, "maxPerBuyer": 2.0}'
    )
    drop = await told.send("POST", "/drops", body)
    hold = await told.send(
        "POST", f"/reserve/{drop.json['id']}", b'{"userId": 7.0, "quantity": 2.0}'
    )
    broken = await told.send(
        "POST", f"/reserve/{drop.json['id']}", b'{"userId": 7, "quantity": 1.5}'
    )

    assert (drop.json["price"], drop.json["totalStock"]) == ("0.30", 5)
    assert (hold.json["userId"], hold.json["quantity"]) == ("7", 2)
    assert broken.json["details"]["fields"][0]["field"] == "quantity"


async def test_an_empty_currency_is_none(told: Told) -> None:
    body = {"name": "Aurora", "price": 1, "totalStock": 5}
    refused = await told.send("POST", "/drops", body | {"currency": ""})
    unsaid = await told.send("POST", "/drops", body)

    assert (refused.status, refused.json["details"]["fields"][0]["field"]) == (400, "currency")
    assert unsaid.json["currency"] == "USD"


@pytest.mark.parametrize("query", ["page=0", "cursor=nonsense", "limit=101"])
@pytest.mark.parametrize("form", ["json", "csv"])
@pytest.mark.parametrize("rows", ["reservations", "purchases"])
async def test_a_page_that_cannot_be_is_refused_in_every_form(
    told: Told, rows: str, form: str, query: str
) -> None:
    drop = await told.open_drop(1)

    reply = await told.send("GET", f"/drops/{drop}/{rows}?format={form}&{query}")

    assert reply.error == "VALIDATION_ERROR"
