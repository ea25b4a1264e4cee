"""The demo shop: twenty drops of sneakers that exist nowhere else, and ten people who buy them.

Seventeen drops are live, one opens a minute after seeding, two in days. Among the live ones is
the grail, of which there is a single pair.
"""

from __future__ import annotations

import msgspec

MINUTE, HOUR, DAY = 60, 3_600, 86_400


class DemoDrop(msgspec.Struct, frozen=True, kw_only=True):
    """One drop to seed. `starts_in_seconds` counts from seeding; negative: live for so long."""

    name: str
    picture: str  # the number in front is the seed of the drawing
    price_cents: int
    total_stock: int
    starts_in_seconds: int
    max_per_buyer: int | None = 1  # None: no limit
    hold_seconds: int = 60
    pay_seconds: int = 60  # short, so that a payment that comes too late is soon seen
    currency: str = "USD"


CATALOGUE = (
    DemoDrop(
        name="Meridian Daybreak",
        picture="0-meridian-daybreak",
        price_cents=139_00,
        total_stock=120,
        starts_in_seconds=-2 * HOUR,
    ),
    DemoDrop(
        name="Campanile Night School",
        picture="1-campanile-night-school",
        price_cents=165_00,
        total_stock=80,
        starts_in_seconds=-45 * MINUTE,
    ),
    DemoDrop(
        name="Driftwell Sage",
        picture="2-driftwell-sage",
        price_cents=89_00,
        total_stock=500,
        starts_in_seconds=-6 * DAY,
        max_per_buyer=4,
    ),
    DemoDrop(
        name="Tectona Ultraviolet",
        picture="3-tectona-ultraviolet",
        price_cents=210_00,
        total_stock=60,
        starts_in_seconds=MINUTE,
        hold_seconds=120,
    ),
    DemoDrop(
        name="Meridian Gum & Pine",
        picture="4-meridian-gum-and-pine",
        price_cents=129_00,
        total_stock=240,
        starts_in_seconds=-1 * DAY,
        max_per_buyer=2,
    ),
    DemoDrop(
        name="Campanile Lagoon",
        picture="5-campanile-lagoon",
        price_cents=158_00,
        total_stock=36,
        starts_in_seconds=-20 * MINUTE,
    ),
    DemoDrop(
        name="Driftwell Arcade",
        picture="6-driftwell-arcade",
        price_cents=95_00,
        total_stock=300,
        starts_in_seconds=-3 * DAY,
        max_per_buyer=3,
    ),
    DemoDrop(
        name="Tectona Graphite Volt",
        picture="7-tectona-graphite-volt",
        price_cents=229_00,
        total_stock=24,
        starts_in_seconds=-10 * MINUTE,
        hold_seconds=90,
    ),
    DemoDrop(
        name="Meridian Last Cab Home",
        picture="8-meridian-last-cab-home",
        price_cents=135_00,
        total_stock=75,
        starts_in_seconds=-5 * HOUR,
    ),
    DemoDrop(
        name="Campanile Morello",
        picture="9-campanile-morello",
        price_cents=172_00,
        total_stock=12,
        starts_in_seconds=-30 * MINUTE,
    ),
    DemoDrop(
        name="Driftwell Garden Court",
        picture="10-driftwell-garden-court",
        price_cents=92_00,
        total_stock=400,
        starts_in_seconds=-4 * DAY,
        max_per_buyer=None,
    ),
    DemoDrop(
        name="Tectona Red Earth",
        picture="11-tectona-red-earth",
        price_cents=219_00,
        total_stock=18,
        starts_in_seconds=1 * DAY,
        hold_seconds=120,
    ),
    DemoDrop(
        name="Meridian Regatta",
        picture="12-meridian-regatta",
        price_cents=142_00,
        total_stock=150,
        starts_in_seconds=-8 * HOUR,
        max_per_buyer=2,
        currency="EUR",
    ),
    DemoDrop(
        name="Campanile Forest Floor",
        picture="13-campanile-forest-floor",
        price_cents=169_00,
        total_stock=48,
        starts_in_seconds=-90 * MINUTE,
        currency="EUR",
    ),
    DemoDrop(
        name="Driftwell Bubble Tea",
        picture="14-driftwell-bubble-tea",
        price_cents=99_00,
        total_stock=6,
        starts_in_seconds=-15 * MINUTE,
    ),
    DemoDrop(
        name="Tectona Oat & Cocoa",
        picture="15-tectona-oat-and-cocoa",
        price_cents=205_00,
        total_stock=90,
        starts_in_seconds=-2 * DAY,
        max_per_buyer=2,
    ),
    DemoDrop(
        name="Meridian Deep End",
        picture="16-meridian-deep-end",
        price_cents=148_00,
        total_stock=3,
        starts_in_seconds=-5 * MINUTE,
        hold_seconds=45,
    ),
    DemoDrop(
        name="Campanile Blackout",
        picture="17-campanile-blackout",
        price_cents=188_00,
        total_stock=30,
        starts_in_seconds=3 * DAY,
    ),
    DemoDrop(
        name="Driftwell Marigold",
        picture="18-driftwell-marigold",
        price_cents=97_00,
        total_stock=200,
        starts_in_seconds=-12 * HOUR,
        max_per_buyer=2,
    ),
    DemoDrop(
        name="Tectona Halcyon, Pair One of One",
        picture="19-tectona-halcyon",
        price_cents=1_250_00,
        total_stock=1,
        starts_in_seconds=-3 * MINUTE,
        hold_seconds=30,
        pay_seconds=30,
    ),
)

# Opaque ids, as shops have them: some names, some handles, some numbers of their own.
BUYERS = (
    "amara.okafor",
    "jonas-lindqvist",
    "mei_tanaka",
    "priya.raman",
    "luca77",
    "shop-customer-40213",
    "sofia.marchetti",
    "deadstock_dan",
    "noor-al-hadid",
    "shop-customer-88170",
)
