"""`velvetrope tier …`: open members' tiers, look at members, and end a membership."""

from __future__ import annotations

from typing import Annotated

import cyclopts
from cyclopts import Parameter

from engine.infra.errors import Invalid, NotFound
from engine.infra.ids import parse_id
from engine.infra.settings import Settings
from engine.ops import terminal

tier = cyclopts.App(
    name="tier",
    help="""Open members' tiers, and look at their members.

A tier is a drop whose numbers only receipts get (POST /mint): `drop pause`, `add`, `audit` and the
others work on it, too. These commands speak to Postgres; no worker is asked.""",
)

AsJson = Annotated[bool, Parameter(help="for programs")]
MEMBERS_MAX = 1_000


@tier.command(name="open")
def open_(
    tier: Annotated[str, Parameter(help="such as genesis")],
    year: Annotated[str, Parameter(help="such as 2025")],
    numbers: Annotated[int, Parameter(help="how many there are, 1 to 1,000,000")],
    /,
    *,
    name: Annotated[str | None, Parameter(help="what people call it")] = None,
    max_per_buyer: Annotated[int | None, Parameter(help="of one user; without: no limit")] = None,
) -> None:
    """Open a tier of a year, once.

    Its numbers are given in an order that nobody knows. It is open at once.

    **Examples**

        velvetrope tier open genesis 2025 999
        velvetrope tier open black 2026 50 --max-per-buyer 1
    """
    from engine.membership import openings
    from engine.membership.errors import TierTaken
    from engine.runtime import ground
    from engine.sale import reconcile

    async def work(given: Settings) -> None:
        async with ground(given) as base:
            try:
                async with base.postgres.transaction() as session:
                    drop_id = await openings.open_tier(
                        session, tier, year, numbers, name=name, max_per_buyer=max_per_buyer
                    )
            except TierTaken:
                raise Invalid(f"{tier} {year} is there: `velvetrope tier list` shows it") from None
            await reconcile.tell(base.postgres, base.bouncer, [drop_id])
        terminal.say(f"opened {tier} {year}: {numbers} numbers, drop {drop_id}")

    terminal.run(work, deed="open_tier", tier=tier, year=year)


@tier.command(name="list")
def list_(*, json: AsJson = False) -> None:
    """Show all tiers, and how many of their numbers are left.

    **Examples**

        velvetrope tier list
    """
    from engine.membership import member_views, store
    from engine.runtime import database

    async def work(given: Settings) -> None:
        async with database(given) as postgres:
            found = await store.find_tiers(postgres)
        if json:
            terminal.show_json([member_views.tier_view(each) for each in found])
            return
        terminal.show(
            ("drop", "tier", "year", "", "numbers", "left"),
            [(t.drop_id, t.tier, t.year, t.status, t.total, t.free) for t in found],
        )

    terminal.run(work)


@tier.command
def members(
    *,
    user: Annotated[str | None, Parameter(help="only this user's")] = None,
    drop: Annotated[int | None, Parameter(help="only of this drop")] = None,
    number: Annotated[int | None, Parameter(help="only this number")] = None,
    json: AsJson = False,
) -> None:
    """Show members, newest first, 1,000 at most.

    **Examples**

        velvetrope tier members --user ann
        velvetrope tier members --drop 24 --number 7
    """
    from engine.membership import member_views, store
    from engine.runtime import database

    async def work(given: Settings) -> None:
        async with database(given) as postgres:
            found = await store.list_memberships(
                postgres, buyer=user, drop_id=drop, number=number, count=MEMBERS_MAX
            )
        if json:
            terminal.show_json([member_views.membership_view(each) for each in found])
            return
        terminal.show(
            ("membership", "tier", "year", "number", "user", "since (UTC)", "revoked"),
            [(m.id, m.tier, m.year, m.number, m.buyer, m.minted_at, m.revoked_at) for m in found],
        )

    terminal.run(work)


@tier.command
def revoke(
    membership: Annotated[str, Parameter(help="its id, as `tier members` shows it")],
    /,
    *,
    reason: Annotated[str, Parameter(help="the member reads it")],
) -> None:
    """End a membership: its pass, its device and its encounters are worth nothing from now on.

    Its number stays sold.

    **Examples**

        velvetrope tier revoke 0190f3c2-5a1e-7b6e-9d3c-0f4b2c1a9e55 --reason "charged back"
    """
    from engine.membership import store
    from engine.membership.mint_bodies import RevokeBody
    from engine.runtime import database

    async def work(given: Settings) -> None:
        id, why = parse_id(membership), RevokeBody(reason).why
        async with database(given) as postgres, postgres.transaction() as session:
            found = id and await store.lock_membership(session, id)
            if not found:
                raise NotFound(f"there is no membership {membership}")
            was_live = await store.revoke_membership(session, found.id, why)
        what = f"{found.tier} {found.year} #{found.number}"
        terminal.say(f"revoked {what}" if was_live else f"{what} had ended before")

    terminal.run(work, deed="revoke_membership", membership=membership, reason=reason)
