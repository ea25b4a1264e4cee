"""Seed: the demo on show. Made once; at every start the next drop opens in a minute again."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime, timedelta

from engine.infra.errors import Misconfigured
from engine.infra.postgres import Postgres
from engine.infra.settings import Settings
from engine.ops import demo_accounts
from engine.ops.catalogue import BUYERS, CATALOGUE, DemoDrop
from engine.ops.demo_accounts import Made
from engine.ops.rooms import SEATS, SLOTS, open_club, open_freezer, open_hall
from engine.record import keys
from engine.record.seal import seal
from engine.runtime import ground
from engine.sale import drops, reconcile, shelf
from engine.sale.models import NewDrop

MINUTE = 60


async def seed(settings: Settings) -> tuple[str, list[Made]]:
    """Create what is missing of the demo, arm the next start, and tell the bouncer; what it did,
    and the accounts that it made."""
    async with ground(settings) as base:
        # First, so that they stand last in the list; the hall, last, stands first.
        tier = await open_club(base.postgres, settings)
        freezer = await open_freezer(base.postgres, settings.readings_days)
        known = await shelf.drops_pictured(base.postgres, [_picture(demo) for demo in CATALOGUE])
        if not known:
            made = [await _create(base.postgres, demo) for demo in reversed(CATALOGUE)]
            await _past_purchases(base.postgres, list(reversed(made)))
            did = f"made {len(made)} drops ({made[0]} to {made[-1]}) and {len(BUYERS)} purchases"
        else:
            made = await _rearm(base.postgres, known)
            did = f"the demo was there; drop {made[0]} opens in {MINUTE} s"
        if freezer is not None:
            hall = await open_hall(base.postgres)
            made += [freezer, hall]
            with suppress(Misconfigured):  # without secrets nothing is sealed, and a keeper says so
                await seal(base.postgres, keys.ring(settings))
            did += f", {len(SLOTS)} slots (drop {freezer}) and {len(SEATS)} seats (drop {hall})"
        if tier is not None:
            made.append(tier)
            did += f", a tier of members (drop {tier})"
        accounts: list[Made] = []
        if settings.demo_accounts:
            shown = await _roomy(base.postgres)
            accounts = await demo_accounts.plant(settings, base.postgres, shown)
            did += f", {len(accounts)} accounts" if accounts else "; the accounts were there"
            made += shown
        await reconcile.tell(base.postgres, base.bouncer, made)
        return did, accounts


async def _roomy(postgres: Postgres) -> list[int]:
    """Drops of the demo that are on sale, with room for its people."""
    pictures = [_picture(demo) for demo in CATALOGUE if demo.starts_in_seconds < 0]
    known = await shelf.drops_pictured(postgres, pictures)
    terms = [await drops.one(postgres, id) for id, _, _ in known]
    room = len(demo_accounts.PEOPLE)
    return [each.id for each in terms if each.status == "live" and each.free > room]


def _picture(demo: DemoDrop) -> str:
    return f"/pictures/{demo.picture}.svg"


async def _create(postgres: Postgres, demo: DemoDrop) -> int:
    drop = NewDrop(
        demo.name,
        demo.price_cents,
        demo.currency,
        _picture(demo),
        datetime.now(UTC) + timedelta(seconds=demo.starts_in_seconds),
        None,
        demo.hold_seconds,
        demo.hold_seconds * 2,
        demo.pay_seconds,
        demo.max_per_buyer,
        min(demo.max_per_buyer or 10, 10),
        demo.total_stock,
    )
    async with postgres.transaction() as session:
        return await drops.create(session, drop)


async def _rearm(postgres: Postgres, known: list[tuple[int, str, bool]]) -> list[int]:
    """The drop that opens in a minute does so again; one that was used gets a successor."""
    armed = []
    for demo in CATALOGUE:
        if demo.starts_in_seconds != MINUTE:
            continue
        id, touched = next(
            (id, touched) for id, picture, touched in known if picture == _picture(demo)
        )
        if touched:
            armed.append(await _create(postgres, demo))
        else:
            await shelf.move_start(postgres, id, MINUTE)
            armed.append(id)
    return armed


async def _past_purchases(postgres: Postgres, ids: list[int]) -> None:
    """Ten purchases by the same claim and confirm that a buyer's would take."""
    live = [id for id, demo in zip(ids, CATALOGUE, strict=True) if demo.starts_in_seconds < 0]
    roomy = [id for id in live if (await drops.one(postgres, id)).free > 1]
    async with postgres.session() as session:
        for n, buyer in enumerate(BUYERS):
            await demo_accounts.buy(session, postgres.epoch, roomy[n * 2 // 3], buyer)
