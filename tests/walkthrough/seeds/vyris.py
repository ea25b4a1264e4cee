"""VYRIS's rows, and how each is walked."""

from __future__ import annotations

from tests.membership.people import Phone
from tests.support.wait import wait_until
from tests.walkthrough.members import join, link_to
from tests.walkthrough.rows import NOBODY, System, Visit

SYSTEM = System(
    "VYRIS",
    """
| Method | Path | Description | Success | Error Codes |
|--------|------|-------------|---------|-------------|
| POST | `/mint` | Idempotent mint from receipt | 201 | 410, 409, 422, 500 |
| POST | `/issue-pass` | Get pkpass binary for membership | 200 | 401, 404 |
| POST | `/encounters/verify` | Verify encounter JWT | 201 | 401, 409 |
| POST | `/devices/reforge/init` | Start device transfer | 202 | 401, 404, 422 |
| POST | `/devices/reforge/confirm` | Confirm device transfer | 200 | 404, 410 |
| GET | `/health` | Health check | 200 | 503 |
""",
)


@SYSTEM.row("POST /mint", 200)
async def _(here: Visit) -> None:
    wanted = {"receipt_data": "receipt-1", "user_id": NOBODY}
    minted, again = await here(body=wanted), await here(body=wanted)
    assert (minted.status, minted.json["status"], again.status) == (201, "FULFILLED", 200)
    assert again.json == minted.json
    for words in ("`sequenceNum`", "a replay is 200", "`vr-<tier>-<year>-<uuid>`"):
        here.differs(words)
    used = await here(body=wanted | {"user_id": "another"})
    assert (used.status, used.error) == (409, "RECEIPT_USED")
    here.differs("the first user's membership")
    bad = await here(body={"user_id": NOBODY})
    assert (bad.status, bad.error, bad.json["message"][:17]) == (422, "INVALID_RECEIPT", INVALID)
    await _failing(here, wanted | {"receipt_data": "receipt-2", "user_id": "unlucky"})
    await _sold_out(here)


INVALID = "Invalid receipt: "


async def _failing(here: Visit, wanted: dict[str, str]) -> None:
    """A transaction that fails, and after it the same receipt."""
    broken = "ALTER TABLE memberships ADD CONSTRAINT broken CHECK (buyer <> 'unlucky') NOT VALID"
    await here.database(broken)
    failed = await here(body=wanted)
    await here.database("ALTER TABLE memberships DROP CONSTRAINT broken")
    assert (failed.status, failed.error, failed.json["retryable"]) == (500, "RETRYABLE", True)
    assert failed.json["message"] == "Mint transaction failed, slot returned — please retry"
    assert (await here(body=wanted)).status == 201


async def _sold_out(here: Visit) -> None:
    tier = {"tier": "founders", "year": "2025", "capacity": 1}
    drop = (await here.ask("POST", "/memberships/drops", tier))["dropId"]
    wanted = {"receipt_data": "receipt-3", "user_id": NOBODY, "dropId": drop}
    assert (await here(body=wanted)).status == 201
    late = await here(body=wanted | {"receipt_data": "receipt-4"})
    printed = {
        "error": "SOLD_OUT",
        "message": "No allocations remaining for this drop",
        "retryable": False,
    }
    assert (late.status, late.error) == (410, "SOLD_OUT")
    assert {name: late.json[name] for name in printed} == printed
    here.differs("`success`, `details` and `requestId`")


@SYSTEM.row("POST /issue-pass", 422)
async def _(here: Visit) -> None:
    member = await join(here.ask)
    wanted = {"membership_id": member.membership, "user_id": member.user}
    issued = await here(body=wanted)
    assert issued.headers["content-type"] == "application/vnd.apple.pkpass"
    assert issued.body.startswith(b"PK")
    here.differs("a stub")
    assert (await here(body=wanted | {"user_id": "another"})).error == "UNAUTHORIZED"
    assert (await here(body=wanted | {"membership_id": NOBODY})).error == "NOT_FOUND"
    assert (await here(body={"user_id": NOBODY})).error == "VALIDATION_ERROR"
    await here.ask("POST", f"/memberships/{member.membership}/revoke", {"reason": "refunded"})
    revoked = await here(body=wanted)
    assert (revoked.status, revoked.json["message"]) == (401, "Membership has been revoked")


@SYSTEM.row("POST /encounters/verify", 422)
async def _(here: Visit) -> None:
    ann, bob = await join(here.ask), await join(here.ask)
    token = ann.meets(bob, lat=47.4, lng=8.5)
    met = (await here(body={"token": token})).json
    encounter = met["encounter"]
    assert (met["status"], encounter["initiatorId"]) == ("VERIFIED", ann.membership)
    assert encounter["receiverId"] == bob.membership
    replay = await here(body={"token": token})
    assert (replay.error, replay.json["message"]) == (
        "REPLAYED",
        "Encounter already recorded (replay)",
    )
    here.differs("`REPLAYED`")
    for wrong in ("nonsense", ann.meets(bob, iat=1), bob.phone.token({"sub": ann.membership})):
        refused = await here(body={"token": wrong})
        assert refused.json["message"].startswith("Encounter verification failed: ")
    here.differs("the key of the initiator's device")
    assert (await here(body={})).json["message"] == "Missing encounter token"
    here.differs("`INVALID_RECEIPT` for a body that is none of a receipt's")


@SYSTEM.row("POST /devices/reforge/init")
async def _(here: Visit) -> None:
    ann, tablet = await join(here.ask), Phone()
    begun = await here(body=ann.moves(tablet))
    _, token = await link_to(ann, here.data_dir)
    assert (begun.status, begun.json["status"], token in begun.body.decode()) == (
        202,
        "PENDING",
        False,
    )
    here.differs("`confirm_url`")
    wrong = ann.moves(tablet)
    assert (await here(body=wrong | {"user_id": "another"})).error == "UNAUTHORIZED"
    missing = await here(body=wrong | {"old_device_id": "another"})
    assert missing.json["message"] == "Active device not found for this membership"
    assert (await here(body=wrong | {"new_public_key": "nonsense"})).error == "VALIDATION_ERROR"
    here.differs("nothing registers the first device")


@SYSTEM.row("POST /devices/reforge/confirm", 422)
async def _(here: Visit) -> None:
    ann, bob, tablet = await join(here.ask), await join(here.ask), Phone()
    for member in (ann, bob):
        await here.ask("POST", "/devices/reforge/init", member.moves(tablet))
    (_, hers), (_, his) = await link_to(ann, here.data_dir), await link_to(bob, here.data_dir)
    confirmed = (await here(body={"token": hers})).json
    assert (confirmed["status"], confirmed["newDeviceId"]) == ("CONFIRMED", "tablet")
    assert confirmed["membershipId"] == ann.membership
    sentence = "Reforge request not found or already processed"
    for token in (hers, "nonsense"):
        assert (await here(body={"token": token})).json["message"] == sentence
    over = "UPDATE reforges SET expires_at = clock_timestamp() WHERE state = 'pending'"
    await here.database(over)
    late = await here(body={"token": his})
    assert (late.error, late.json["message"]) == ("EXPIRED", "Reforge request has expired")
    assert (await here(body={})).json["message"] == "Missing reforge token"


@SYSTEM.row("GET /health")
async def _(here: Visit) -> None:
    assert (await here()).json["status"] == "ok"
    await here.database("ALTER DATABASE postgres ALLOW_CONNECTIONS false", by="template1")
    gone = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'postgres'"
    await here.database(gone, by="template1")
    try:

        async def unhealthy() -> bool:
            return (await here(everywhere=False)).status == 503

        await wait_until(unhealthy, "the service says that it cannot serve", pause=0.1)
        assert (await here()).json["status"] == "unhealthy"
    finally:
        await here.database("ALTER DATABASE postgres ALLOW_CONNECTIONS true", by="template1")
    here.differs("`{status, timestamp, message, database, redis, keepers}`")
