"""What clients see of memberships: Structs in camelCase."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from engine.infra.describe import BuyerId, Id, Moment, shown
from engine.infra.http import iso
from engine.membership.models import Membership, Tier
from engine.sale.bodies import DropId
from engine.sale.models import DropStatus


class MembershipView(msgspec.Struct, rename="camel"):
    """A number of a tier, and whose it is. Its `id` is also that of its purchase."""

    id: Id
    drop_id: DropId
    tier: str
    year: str
    sequence_num: Annotated[int, shown(minimum=1)]
    pass_serial: str
    user_id: BuyerId
    minted_at: Moment
    revoked_at: Moment | None
    revoke_reason: str | None


class MintedView(msgspec.Struct, rename="camel"):
    """What a receipt became."""

    status: Literal["FULFILLED"]
    membership: MembershipView


class TierView(msgspec.Struct, rename="camel"):
    """A tier of a year, and how many of its numbers are left."""

    drop_id: DropId
    tier: str
    year: str
    name: str
    image_url: str | None
    status: DropStatus
    starts_at: Moment
    ends_at: Moment | None
    max_per_buyer: int | None
    total_stock: int
    available_stock: int
    sold_stock: int
    withdrawn_stock: int
    version: int


class TiersView(msgspec.Struct):
    """All tiers, the newest first."""

    data: list[TierView]


def membership_view(membership: Membership) -> MembershipView:
    """One membership."""
    return MembershipView(
        membership.id,
        membership.drop_id,
        membership.tier,
        membership.year,
        membership.number,
        membership.serial,
        membership.buyer,
        iso(membership.minted_at),
        None if membership.revoked_at is None else iso(membership.revoked_at),
        membership.revoke_reason,
    )


def tier_view(tier: Tier) -> TierView:
    """One tier."""
    return TierView(
        tier.drop_id,
        tier.tier,
        tier.year,
        tier.name,
        tier.image_url,
        tier.status,  # type: ignore[arg-type]
        iso(tier.starts_at),
        None if tier.ends_at is None else iso(tier.ends_at),
        tier.max_per_buyer,
        tier.total,
        tier.free,
        tier.sold,
        tier.withdrawn,
        tier.version,
    )
