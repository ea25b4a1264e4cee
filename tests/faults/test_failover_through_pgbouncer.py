"""The same through PgBouncer, which is led to the new primary. Debian 12 has 1.18."""

from __future__ import annotations

import time
from pathlib import Path

import msgspec
import pytest

from engine.infra.settings import Settings
from engine.ops.devstack import Server
from loadtest.chaos.standby import Pair, ask
from tests.support import pgbouncer
from tests.support.failover import (
    EPOCHS,
    HELD,
    HOLDS,
    execute,
    lines,
    never_twice,
    one_epoch,
    promised_by,
    sale,
    sells_again,
)
from tests.support.pgbouncer import PgBouncer
from tests.support.rush import Rush
from tests.support.wait import wait_until

pytestmark = [pgbouncer.needed, pytest.mark.slow, pytest.mark.timeout(120)]

LIMITS = """
ALTER ROLE postgres SET statement_timeout = '2s';
ALTER ROLE postgres SET lock_timeout = '1s';
ALTER ROLE postgres SET idle_in_transaction_session_timeout = '2s';
ALTER ROLE postgres SET synchronous_commit = 'on';
"""


@pytest.mark.parametrize("mode", ["transaction", "session"])
async def test_through_pgbouncer_one_epoch_begins_and_the_lost_tail_is_told(
    two: Pair, there: Settings, tmp_path: Path, mode: str
) -> None:
    await execute(two.primary, LIMITS)
    with PgBouncer.started(mode, two.primary.url) as bouncer:
        through = msgspec.structs.replace(there, database_url=bouncer.url)
        async with sale(through, tmp_path) as (service, drop_id):
            await two.catch_up()  # the standby has the whole drop, which is open
            async with Rush.of(service, drop_id, two.primary.url) as rush:
                await rush.sells(300)
                await two.cut()
                await rush.sells(300)
                two.kill()
                await two.promote()
                bouncer.lead_to(two.standby.url)
                resumed = await sells_again(service, drop_id, time.monotonic())
            await wait_until(lambda: service.settled(drop_id), "nothing is stranded", seconds=8)
            surviving = set(await ask(two.standby, HOLDS))

            await one_epoch(service, two.standby)
            never_twice(rush.replies, surviving)
            assert len(promised_by(rush.replies).keys() - surviving) >= 250
            assert len(lines(service, "sale.history_lost")) == 1
            print(f"sold again {resumed:.2f} s after")
            await service.crowd.close()


async def test_a_pgbouncer_that_is_led_elsewhere_in_mid_sale_mixes_no_two_histories(
    two: Pair, there: Settings, tmp_path: Path
) -> None:
    """No connection ends, none is met anew: the claim itself sees that the timeline is another."""
    await execute(two.primary, LIMITS)
    with PgBouncer.started("transaction", two.primary.url) as bouncer:
        through = msgspec.structs.replace(there, database_url=bouncer.url)
        async with sale(through, tmp_path) as (service, drop_id):
            await two.catch_up()  # the standby has the whole drop, which is open
            async with Rush.of(service, drop_id, two.primary.url) as rush:
                await rush.sells(200)
                await two.cut()
                await rush.sells(100)
                await two.promote()
                bouncer.lead_to(two.standby.url)
                await wait_until(lambda: _begun(two.standby), "an epoch begins", seconds=8)
                await sells_again(service, drop_id, time.monotonic())
                left = await ask(two.primary, HELD)
                await sells_again(service, drop_id, time.monotonic())
            await wait_until(lambda: service.settled(drop_id), "nothing is stranded", seconds=8)
            await one_epoch(service, two.standby)
            never_twice(rush.replies, set(await ask(two.standby, HOLDS)))
            assert await ask(two.primary, HELD) == left
            assert await ask(two.primary, EPOCHS) is None
            words = {reply.error for reply in rush.replies if reply.status != 201}
            assert words <= {"RETRYABLE", "OUTCOME_UNKNOWN"}, words


async def _begun(server: Server) -> bool:
    return bool(await ask(server, EPOCHS))
