"""A credential that ended is worth nothing on any worker within a second, and nobody asks the
database for each request."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Collection
from contextlib import AsyncExitStack
from typing import Any

import msgspec
import pytest

from engine.identity import apikeys, session_store, watch
from engine.identity.errors import SessionEnded
from engine.identity.models import Caller, Device, Entered
from engine.identity.sessions import Sessions, end_all
from engine.identity.tokens import Tokens, create
from engine.identity.watch import Watch
from engine.infra.combiner import Crew
from engine.infra.postgres import Unreachable
from engine.infra.settings import Settings
from engine.ops.devstack import Server
from engine.runtime import Ground
from tests.identity.conftest import JWT_SECRET
from tests.support.http import Reply
from tests.support.live import Live, lines
from tests.support.pause import paused
from tests.support.people import add_user, ask
from tests.support.shop import Shop
from tests.support.socketio import Client
from tests.support.wait import wait_until

PHONE, LAPTOP = Device("phone", "ios"), Device("laptop")
MINE = "/reservations"  # a list of one's own: it needs a live credential
NOWHERE = "redis://127.0.0.1:1/0"


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """As often as a test likes."""
    often = "100000/s"
    return msgspec.structs.replace(
        settings, rate_reads_per_buyer=often, rate_writes_per_buyer=often
    )


@pytest.fixture
def sessions(settings: Settings) -> Sessions:
    return Sessions(settings)


@pytest.fixture
async def ann(ground: Ground, sessions: Sessions) -> Entered:
    return await sessions.enter(
        ground.postgres, await add_user(ground.settings.database_url), PHONE
    )


async def _asks(
    shop: Shop, token: str, method: str = "GET", path: str = MINE, **more: str
) -> Reply:
    return await shop.send(method, path, None, {"authorization": f"Bearer {token}", **more})


async def _refused(shop: Shop, token: str) -> float:
    """When a token was refused for good."""

    async def is_refused() -> bool:
        reply = await _asks(shop, token)
        assert reply.status in (200, 401), reply.body
        return reply.status == 401

    await wait_until(is_refused, "the token is refused", seconds=5)
    return time.monotonic()


async def test_an_ended_session_is_refused_by_every_worker_within_a_second_without_redis(
    settings: Settings, ground: Ground, sessions: Sessions
) -> None:
    alone = msgspec.structs.replace(settings, redis_url=NOWHERE)
    async with AsyncExitStack() as stack:
        shops = [await stack.enter_async_context(Shop.open(alone)) for _ in range(2)]
        late = []
        user = await add_user(ground.settings.database_url)
        for nth in range(3):
            entered = await sessions.enter(ground.postgres, user, PHONE)
            assert {(await _asks(shop, entered.token)).status for shop in shops} == {200}
            ended_at = time.monotonic()
            if nth == 1:
                await sessions.enter(ground.postgres, user, LAPTOP)
            else:
                async with ground.postgres.transaction() as session:
                    assert await end_all(session, user, "user_logout") == 1
            refused = await asyncio.gather(*(_refused(shop, entered.token) for shop in shops))
            late.append(max(refused) - ended_at)
            reply = await _asks(shops[0], entered.token)
            assert (reply.error, "has ended" in reply.json["message"]) == ("UNAUTHORIZED", True)
        print(f"refused by both workers after {[round(each, 2) for each in late]} s")
        assert sorted(late)[1] < 1.0


async def test_a_session_is_looked_up_once_and_not_for_each_request(
    shop: Shop, ann: Entered, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = _counted(monkeypatch)

    replies = [await _asks(shop, ann.token, path="/drops") for _ in range(200)]

    assert {reply.status for reply in replies} == {200}
    assert len(looks) == 1


async def test_an_ended_session_costs_no_query_either(
    shop: Shop, ground: Ground, ann: Entered, monkeypatch: pytest.MonkeyPatch
) -> None:
    await ask(ground.postgres, "DELETE FROM credential_changes")
    async with ground.postgres.transaction() as session:
        await end_all(session, ann.session.user_id, "user_logout")
    await _refused(shop, ann.token)
    looks = _counted(monkeypatch)

    for _ in range(50):
        assert (await _asks(shop, ann.token)).status == 401

    assert len(looks) <= 1


def _counted(monkeypatch: pytest.MonkeyPatch) -> list[Collection[str]]:
    looks: list[Collection[str]] = []
    find = session_store.find_sessions

    async def counting(caller: Any, ids: Collection[str]) -> Any:
        looks.append(ids)
        return await find(caller, ids)

    monkeypatch.setattr(session_store, "find_sessions", counting)
    return looks


ENDS = {
    "UPDATE users SET status = 'suspended'": "This account is suspended",
    "UPDATE users SET status = 'deleted', deleted_at = now()": "This account was deleted",
    "UPDATE sessions SET expires_at = clock_timestamp()": "This session has expired: log in again",
    "UPDATE sessions SET is_active = false, terminated_at = now(), "
    "termination_reason = 'new_session_on_different_device'": (
        "This session has ended: another device logged in"
    ),
}


async def test_whatever_ended_it_is_said(shop: Shop, ground: Ground, sessions: Sessions) -> None:
    for change, says in ENDS.items():
        user = await add_user(ground.settings.database_url)
        ann = await sessions.enter(ground.postgres, user, PHONE)
        assert (await _asks(shop, ann.token)).status == 200

        await ask(ground.postgres, change)
        await _refused(shop, ann.token)

        assert (await _asks(shop, ann.token)).json["message"] == says


async def test_a_role_is_the_databases_and_not_the_tokens(
    shop: Shop, ground: Ground, ann: Entered
) -> None:
    promoted = create(JWT_SECRET, ann.session.user_id, 60, role="admin", session=ann.session.id)
    assert (await _asks(shop, promoted, "POST", "/drops/1/pause")).status == 403

    await ask(ground.postgres, "UPDATE users SET role = 'admin'")

    async def is_admin() -> bool:
        return (await _asks(shop, ann.token, "POST", "/drops/1/pause")).status == 404

    await wait_until(is_admin, "the account is an admin's", seconds=2)


async def test_a_session_expires_by_postgress_clock_though_nothing_happens(
    shop: Shop, ground: Ground, ann: Entered
) -> None:
    await ask(
        ground.postgres, "UPDATE sessions SET expires_at = clock_timestamp() + interval '1 s'"
    )
    began = time.monotonic()
    assert (await _asks(shop, ann.token)).status == 200

    took = await _refused(shop, ann.token) - began

    assert 0.5 < took < 2.0


async def test_a_revoked_key_is_refused_within_a_second(shop: Shop, ground: Ground) -> None:
    key = await apikeys.create(ground.postgres, "a shop", ["sale:read"])

    async def asks() -> Reply:
        return await shop.send("GET", "/drops", headers={"x-api-key": key})

    assert (await asks()).status == 200
    began = time.monotonic()
    await apikeys.revoke(ground.postgres, key[3:15])

    async def is_refused() -> bool:
        return (await asks()).status == 401

    await wait_until(is_refused, "the key is refused", seconds=3)
    assert time.monotonic() - began < 1.5


# ── when Postgres cannot be asked ────────────────────────────────────────────────────────────────


async def test_while_postgres_says_nothing_no_session_is_valid_and_none_is_refused(
    shop: Shop, ann: Entered, postgres_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (await _asks(shop, ann.token, path="/drops")).status == 200
    monkeypatch.setattr(watch, "FRESH_SECONDS", 0.4)

    with paused(postgres_server):
        await asyncio.sleep(0.5)  # what was known is too old now
        plain, keyed = await asyncio.gather(
            _asks(shop, ann.token, path="/drops"),
            _asks(
                shop,
                ann.token,
                "DELETE",
                f"/reservations/{ann.session.id}",
                **{"idempotency-key": "k"},
            ),
        )

    assert (plain.status, plain.error) == (503, "RETRYABLE")
    assert (keyed.status, keyed.error) == (503, "OUTCOME_UNKNOWN")

    async def is_in() -> bool:
        return (await _asks(shop, ann.token, path="/drops")).status == 200

    await wait_until(is_in, "the session is valid again")


# ── races ────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
async def watching(ground: Ground) -> AsyncIterator[Watch]:
    """A watch that looks when it is told to."""
    crew = Crew()
    one = Watch(ground.postgres, crew)
    await one._look()
    yield one
    await crew.drain(1)


def _claim(settings: Settings, entered: Entered) -> Caller:
    return Tokens.of(settings).caller(entered.token)


async def _end(ground: Ground, entered: Entered) -> None:
    async with ground.postgres.transaction() as session:
        await end_all(session, entered.session.user_id, "user_logout")


async def test_a_change_that_began_early_and_was_committed_late_is_seen(
    ground: Ground, sessions: Sessions, settings: Settings, watching: Watch, ann: Entered
) -> None:
    claim = _claim(settings, ann)
    assert await watching.caller(claim)

    async with ground.postgres.transaction() as session:
        await end_all(session, ann.session.user_id, "user_logout")
        for _ in range(3):  # others come and go, and are seen
            other = await sessions.enter(
                ground.postgres, await add_user(ground.settings.database_url), PHONE
            )
            await _end(ground, other)
            await watching._look()
            assert await watching.caller(claim)
    await watching._look()

    with pytest.raises(SessionEnded):
        await watching.caller(claim)


async def test_a_look_up_that_raced_a_change_is_not_remembered(
    ground: Ground,
    settings: Settings,
    watching: Watch,
    ann: Entered,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    claim, find, has_read = _claim(settings, ann), session_store.find_sessions, asyncio.Event()
    go_on = asyncio.Event()

    async def slowly(caller: Any, ids: Collection[str]) -> Any:
        found = await find(caller, ids)
        has_read.set()
        await go_on.wait()
        return found

    monkeypatch.setattr(session_store, "find_sessions", slowly)
    loading = asyncio.create_task(_of(watching, claim))
    await has_read.wait()
    await _end(ground, ann)
    await watching._look()
    go_on.set()

    assert await loading  # it was asked while it was valid
    with pytest.raises(SessionEnded):
        await watching.caller(claim)


async def _of(watching: Watch, claim: Caller) -> Caller:
    return await watching.caller(claim)


@pytest.mark.parametrize("lost", ["snapshot", "epoch", "time", "count"])
async def test_where_history_was_lost_all_is_forgotten(
    ground: Ground,
    settings: Settings,
    watching: Watch,
    ann: Entered,
    lost: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    claim = _claim(settings, ann)
    assert await watching.caller(claim)
    assert watching.known(claim.session)
    if lost == "snapshot":
        watching._snapshot = "4000000000:4000000000:"
    elif lost == "time":  # this machine slept, and Postgres did not
        watching._saw_at -= watch.LONG_SECONDS
    elif lost == "count":
        monkeypatch.setattr(watch, "CHANGES_MAX", 9)
        told = "INSERT INTO credential_changes (kind, subject_id) SELECT 'key', gen_random_uuid()"
        await ask(ground.postgres, told + " FROM generate_series(1, 10)")
    else:
        ground.postgres.epoch += 1

    await watching._look()

    assert watching.known(claim.session) is None
    assert await watching.caller(claim)


async def test_a_blind_watch_trusts_nothing_that_it_remembers(
    ground: Ground,
    settings: Settings,
    watching: Watch,
    ann: Entered,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    claim = _claim(settings, ann)
    assert await watching.caller(claim)
    watching._looked_at -= watch.FRESH_SECONDS
    looks = _counted(monkeypatch)

    assert await watching.caller(claim)
    assert len(looks) == 1

    async def away(*_: Any) -> Any:
        raise Unreachable

    monkeypatch.setattr(session_store, "find_sessions", away)
    with pytest.raises(Exception, match="again"):
        await watching.caller(claim)


async def test_a_session_is_its_own_accounts_alone(
    ground: Ground, sessions: Sessions, watching: Watch, ann: Entered
) -> None:
    bob = await sessions.enter(ground.postgres, await add_user(ground.settings.database_url), PHONE)

    with pytest.raises(SessionEnded):
        await watching.caller(Caller("buyer", bob.session.user_id, session=ann.session.id))


# ── who listens ──────────────────────────────────────────────────────────────────────────────────


async def test_who_listens_with_a_session_that_ended_is_sent_away(
    settings: Settings, ground: Ground, ann: Entered
) -> None:
    bearer = f"authorization: Bearer {ann.token}\r\n"
    async with (
        Live.behind(settings) as live,
        live.listener() as ear,
        live.listener() as stranger,
        Client.open(
            f"http://127.0.0.1:{live.port}", "websocket", auth={"token": ann.token}
        ) as client,
    ):
        await ear.join("me", token=ann.token)
        await stranger.join("drops")
        line, writer = await lines(live.port, "/events?room=me", bearer)
        while "snapshot" not in await line():
            pass
        await client.hear("connected")
        began = time.monotonic()
        await _end(ground, ann)

        assert await ear.is_dropped() == 1008
        await client.hear("on.disconnect")
        for _ in range(1_000):
            if not await line():
                break
        took = time.monotonic() - began
        print(f"all were sent away after {took:.2f} s")
        assert took < 2.0
        writer.close()
        await stranger.say(action="ping")
        await stranger.hears("pong")
        # Who comes back is told so, before and after anything is known.
        line, writer = await lines(live.port, "/events?room=me", bearer)
        assert "401" in await line()
        writer.close()


async def test_who_joins_with_a_session_of_which_nothing_is_known_yet_is_looked_up(
    settings: Settings, ground: Ground, ann: Entered
) -> None:
    await _end(ground, ann)
    async with Live.behind(settings) as live, live.listener() as ear:
        await ear.say(action="auth", token=ann.token)
        await ear.say(action="join", room="me")

        assert (await ear.hears("error"))["error"] == "UNAUTHORIZED"
        assert await ear.is_dropped() == 1008
