"""What the document says of the cold chain's routes: what each wants, answers and refuses."""

from __future__ import annotations

from typing import Annotated

from msgspec.structs import replace

from engine.coldchain.bodies import SLOT_ID, BookBody, HoldBody, ReadingBody
from engine.coldchain.models import SlotId
from engine.coldchain.views import (
    BookedView,
    BookingView,
    FailureView,
    HeldView,
    ReadingView,
    SlotView,
    TrafficView,
)
from engine.infra.describe import About, Body, BuyerId, Query, paged, shown
from engine.infra.errors import Forbidden, NotFound
from engine.infra.lists import Listing
from engine.sale.errors import (
    AlreadyResolved,
    Ended,
    HoldExpired,
    NotStarted,
    NotYourReservation,
    Paused,
    SlotNotAvailable,
)

SLOTS_MAX = 1_000  # in one list
WHO = Query("userId", BuyerId, "Who asks; sees his reservations and bookings. A token says it.")
LIMIT, *REST = paged(SLOT_ID)
MANY = replace(LIMIT, type=Annotated[int, shown(minimum=1, maximum=SLOTS_MAX, default=20)])
LIST_SLOTS = About("Slots", "anybody", query=(WHO, MANY, *REST), answers={200: Listing[SlotView]})
SHOW_SLOT = About("Slots", "anybody", id=SlotId, query=(WHO,), answers={200: SlotView})
HOLD = About(
    "Slots",
    "sale:write",
    counted="write",
    keyed=True,
    body=Body(HoldBody, ("slotId", "userId")),
    answers={201: HeldView},
    refusals=(SlotNotAvailable, NotStarted, Ended, Paused, NotFound),
)
BOOK = About(
    "Slots",
    "sale:write",
    counted="confirm",
    keyed=True,
    body=Body(BookBody, ("reservationId", "manifestId")),
    answers={201: BookedView, 200: BookedView},
    refusals=(NotYourReservation, HoldExpired, AlreadyResolved, Forbidden, NotFound),
)
SHOW_BOOKING = About(
    "Slots",
    "sale:read",
    query=(Query("userId", BuyerId, "Who asks, and must be its owner; a token says it."),),
    answers={200: BookingView},
    refusals=(NotYourReservation,),
)
RELEASE_BOOKING = About("Slots", "admin", counted="admin", keyed=True, answers={200: BookedView})
READING = About(
    "Slots",
    "sale:write",
    counted="write",
    keyed=True,
    id=SlotId,
    body=Body(ReadingBody, ("temperature",)),
    answers={201: ReadingView},
    refusals=(Forbidden,),
)
TRAFFIC = About("Slots", "admin", counted="admin", keyed=True, answers={200: TrafficView})
FAILURE = replace(TRAFFIC, answers={200: FailureView}, refusals=(NotFound,))
