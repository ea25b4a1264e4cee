"""What CryoVault's client is told of slots and of the ledger, under its README's names and keys.

It expects the reservation or the booking beside a slot's status. Everybody hears when a hold ends;
whose it is, and which, its owner alone.
"""

from __future__ import annotations

from typing import Any

from engine.infra.http import iso
from engine.realtime.models import SlotMoved
from engine.sale.models import unit_id


def slot_events(moved: SlotMoved, buyer: str | None) -> list[tuple[str, dict[str, Any]]]:
    """What this buyer's socket (None: nobody's) is told of a slot, in this order."""
    slot = moved.slot
    slot_id = unit_id(slot.drop_id, slot.number)
    ids = (slot.reservation_id, slot.buyer) if slot.buyer == buyer is not None else (None, None)
    update: dict[str, Any] = {
        "slotId": slot_id,
        "status": slot.status,
        "name": slot.name,
        "tempStatus": slot.temp_status,
        "temperature": slot.temperature,
    }
    if slot.status == "OCCUPIED":
        update["booking"] = {"slotId": slot_id, "userId": ids[1], "reservationId": ids[0]}
    else:
        update["reservation"] = slot.expires_at and {
            "id": ids[0],
            "slotId": slot_id,
            "userId": ids[1],
            "status": "PENDING",
            "expiresAt": iso(slot.expires_at),
        }
    events = [("slot_update", update)]
    if moved.lapsed is not None:
        lapsed, whose = moved.lapsed
        gone = {
            "reservationId": lapsed if whose == buyer else None,
            "dropId": slot.drop_id,
            "slotId": slot_id,
            "slotName": slot.name,
        }
        # As the last word, unless somebody else has the slot by now.
        place = 1 if slot.status == "AVAILABLE" else 0
        events.insert(place, ("reservation_expired", gone))
    return events
