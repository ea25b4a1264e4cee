"""An account has one live session, whoever comes with whatever at the same time."""

from __future__ import annotations

import asyncio

import pytest

from engine.identity.errors import SessionEnded
from engine.identity.models import Device, Entered
from engine.identity.sessions import Sessions
from engine.identity.tokens import Tokens
from engine.infra.errors import Forbidden, IdempotencyMismatch, NotFound, Unauthorized
from engine.infra.ids import new_id
from engine.infra.settings import Settings
from engine.runtime import Ground
from tests.support.people import add_user, ask

PHONE, LAPTOP = Device("phone", "ios"), Device("laptop", "web")


@pytest.fixture
def sessions(settings: Settings) -> Sessions:
    return Sessions(settings)


async def _rounds(ground: Ground, sessions: Sessions, rounds: int) -> None:
    ann = await add_user(ground.settings.database_url)
    for _ in range(rounds):
        entered = await asyncio.gather(
            sessions.enter(ground.postgres, ann, PHONE),
            sessions.enter(ground.postgres, ann, LAPTOP),
        )
        live = await ask(
            ground.postgres, "SELECT id::text FROM sessions WHERE user_id = $1 AND is_active", ann
        )
        assert len(live) == 1
        assert live[0][0] in {each.session.id for each in entered}
    reasons = await ask(
        ground.postgres,
        "SELECT is_active, count(*) FROM sessions WHERE user_id = $1 GROUP BY 1 ORDER BY 1",
        ann,
    )
    assert reasons == [(False, 2 * rounds - 1), (True, 1)]


async def test_of_two_devices_at_once_one_is_in(ground: Ground, sessions: Sessions) -> None:
    await _rounds(ground, sessions, 40)


@pytest.mark.at_length
async def test_of_two_devices_at_once_one_is_in_500_times(
    ground: Ground, sessions: Sessions
) -> None:
    await _rounds(ground, sessions, 500)


async def test_the_same_key_is_the_same_session(ground: Ground, sessions: Sessions) -> None:
    ann, bob = [await add_user(ground.settings.database_url) for _ in range(2)]

    both = await asyncio.gather(
        *(sessions.enter(ground.postgres, ann, PHONE, "key 1") for _ in range(8))
    )
    other = await sessions.enter(ground.postgres, bob, PHONE, "key 1")

    assert len({each.session.id for each in both}) == 1
    assert sorted(each.word for each in both) == ["opened"] + ["repeated"] * 7
    assert {each.refresh_token for each in both} == {both[0].refresh_token}
    assert other.session.id != both[0].session.id
    with pytest.raises(IdempotencyMismatch):
        await sessions.enter(ground.postgres, ann, LAPTOP, "key 1")
    await sessions.enter(ground.postgres, ann, LAPTOP)
    again = await sessions.enter(ground.postgres, ann, PHONE, "key 1")
    assert (again.session.is_active, again.token, again.refresh_token) == (False, "", "")
    assert again.session.termination_reason == "new_session_on_different_device"


async def test_who_is_not_there_or_suspended_has_no_session(
    ground: Ground, sessions: Sessions
) -> None:
    for user, refusal in (
        (new_id(), NotFound),
        (await add_user(ground.settings.database_url, status="deleted"), NotFound),
        (await add_user(ground.settings.database_url, status="suspended"), Forbidden),
    ):
        with pytest.raises(refusal):
            await sessions.enter(ground.postgres, user, PHONE)


async def test_a_token_names_its_session_and_lives_no_longer(
    ground: Ground, sessions: Sessions, settings: Settings
) -> None:
    ann = await add_user(ground.settings.database_url)
    entered = await sessions.enter(ground.postgres, ann, PHONE)
    caller = Tokens.of(settings).caller(entered.token)

    assert (caller.kind, caller.subject, caller.session) == ("buyer", ann, entered.session.id)
    assert entered.expires_at <= entered.session.expires_at


# ── refresh ──────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
async def entered(ground: Ground, sessions: Sessions) -> Entered:
    return await sessions.enter(
        ground.postgres, await add_user(ground.settings.database_url), PHONE
    )


async def test_a_refresh_token_is_taken_once_and_the_answer_may_be_lost(
    ground: Ground, sessions: Sessions, entered: Entered
) -> None:
    first = await sessions.refresh(ground.postgres, entered.refresh_token)
    lost = await sessions.refresh(ground.postgres, entered.refresh_token)
    second = await sessions.refresh(ground.postgres, first.refresh_token)

    assert (first.word, lost.word, second.word) == ("rotated", "again", "rotated")
    assert lost.refresh_token == first.refresh_token != second.refresh_token


async def test_many_tabs_that_refresh_at_once_all_go_on(
    ground: Ground, sessions: Sessions, entered: Entered
) -> None:
    told = await asyncio.gather(
        *(sessions.refresh(ground.postgres, entered.refresh_token) for _ in range(10))
    )

    assert len({each.refresh_token for each in told}) == 1


async def test_an_older_refresh_token_ends_the_session_for_both(
    ground: Ground, sessions: Sessions, entered: Entered
) -> None:
    first = await sessions.refresh(ground.postgres, entered.refresh_token)
    second = await sessions.refresh(ground.postgres, first.refresh_token)

    for token in (entered.refresh_token, second.refresh_token):
        with pytest.raises(SessionEnded):
            await sessions.refresh(ground.postgres, token)

    [(live, reason)] = await ask(
        ground.postgres,
        "SELECT is_active, termination_reason FROM sessions WHERE id = $1",
        entered.session.id,
    )
    assert (live, reason) == (False, "refresh_reused")


async def test_after_the_grace_the_one_before_is_an_older_one(
    ground: Ground, sessions: Sessions, entered: Entered
) -> None:
    await sessions.refresh(ground.postgres, entered.refresh_token)
    await ask(ground.postgres, "UPDATE sessions SET refreshed_at = refreshed_at - interval '10 s'")

    with pytest.raises(SessionEnded):
        await sessions.refresh(ground.postgres, entered.refresh_token)


async def test_no_refresh_token_can_be_made_up(
    ground: Ground, sessions: Sessions, entered: Entered, settings: Settings
) -> None:
    good = entered.refresh_token
    head, id, number, mac = good.split("_")
    forged = [
        "",
        good[:-1],
        good.upper(),
        f"{good}\n",
        f"{head}_{id}_1_{mac}",
        f"{head}_{'0' * 32}_{number}_{mac}",
        f"{head}_{id}_{number}_{'0' * 64}",
        f"{head}_{id}_{'9' * 400}_{mac}",
        f"{head}_{id}_-1_{mac}",
        f"{head}_{id}_00_{mac}",
        entered.token,
    ]
    for token in forged:
        with pytest.raises(Unauthorized):
            await sessions.refresh(ground.postgres, token)
    assert (await sessions.refresh(ground.postgres, good)).word == "rotated"


async def test_a_session_that_is_over_is_not_refreshed(
    ground: Ground, sessions: Sessions, entered: Entered
) -> None:
    await ask(ground.postgres, "UPDATE sessions SET expires_at = clock_timestamp()")
    with pytest.raises(SessionEnded, match="expired"):
        await sessions.refresh(ground.postgres, entered.refresh_token)

    await sessions.enter(ground.postgres, entered.session.user_id, LAPTOP)
    with pytest.raises(SessionEnded):
        await sessions.refresh(ground.postgres, entered.refresh_token)
