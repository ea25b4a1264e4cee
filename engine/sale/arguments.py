"""What a call asks for: ids, buyers and keys from path, query and body, each checked once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

from msgspec import UNSET

from engine.identity import arguments as asking
from engine.identity.access import as_buyer, buyer_named
from engine.identity.models import Caller, is_buyer
from engine.infra.errors import NotFound
from engine.infra.http import Call, either, invalid
from engine.infra.ids import parse_id
from engine.infra.lists import Page
from engine.sale import bodies
from engine.sale.errors import NotYourReservation
from engine.sale.models import DropStatus

HoldStatus = Literal["active", "paying", "purchased", "expired", "released", "refunded"]
PurchaseStatus = Literal["purchased", "refunded"]
RefundStatus = Literal["due", "done"]
HOLD_STATUSES, PURCHASE_STATUSES = get_args(HoldStatus), get_args(PurchaseStatus)
REFUND_STATUSES, STATUSES = get_args(RefundStatus), get_args(DropStatus)
# As every slice knows them.
OWNER, OPERATOR = asking.OWNER, asking.OPERATOR
request, is_keyed, before = asking.request, asking.is_keyed, asking.before


def named_in_query(call: Call) -> str | None:
    """The buyer a query names, under either name."""
    query = call.query
    named: str | None = either("userId", query.get("userId", UNSET), query.get("user_id", UNSET))
    return named


def must_be_named(buyer: str | None) -> str:
    """The buyer, or 400: somebody must be named."""
    if buyer is None:
        raise invalid("userId", "required: whose reservation is it?")
    return buyer


def buyer_of_list(caller: Caller, call: Call) -> str:
    """Whose list it is: a token's own buyer, or the one named in the query."""
    named = named_in_query(call)
    buyer = must_be_named(buyer_named(caller, named))
    asking.charge(call, caller, buyer)
    return buyer


def check_owner(caller: Caller, call: Call, owner: str) -> None:
    """403 unless the caller may see what is this owner's."""
    named = named_in_query(call)
    if caller.kind == "admin":
        return
    buyer = buyer_named(caller, named)
    if buyer is not None and buyer != owner:
        raise NotYourReservation


def drop_number(text: str) -> int | None:
    """A drop id from text, or None: a malformed id names nothing."""
    if not text.isascii() or not text.isdigit() or len(text) > 13:
        return None
    return int(text) if 1 <= int(text) <= bodies.DROP_ID_MAX else None


def drop_in_path(call: Call) -> int:
    """The drop in the path; a malformed id is a 404."""
    drop_id = drop_number(call.params["id"])
    if drop_id is None:
        raise NotFound("There is no such drop")
    return drop_id


def drop_id(call: Call, body: bodies.ReserveBody) -> int:
    """The drop of a reservation: from the path, or from the body under either name."""
    if "id" in call.params:
        return drop_in_path(call)
    given = either("dropId", body.drop_id, body.drop_id_snake)
    if given is None:
        raise invalid("dropId", "required")
    if type(given) is int and 1 <= given <= bodies.DROP_ID_MAX:
        return given
    drop_id = drop_number(str(given))
    if drop_id is None:
        raise invalid("dropId", "not a drop's id")
    return drop_id


def id_in_path(call: Call, thing: str) -> str:
    """The id in the path; a malformed one is a 404."""
    found = parse_id(call.params["id"])
    if found is None:
        raise NotFound(f"There is no such {thing}")
    return found


def reservation_id(call: Call, body: bodies.ConfirmBody) -> str:
    """The reservation of a purchase: from the path, or from the body under either name."""
    if "id" in call.params:
        return id_in_path(call, "reservation")
    given = either("reservationId", body.reservation_id, body.reservation_id_snake)
    if given is None:
        raise invalid("reservationId", "required")
    found = parse_id(given)
    if found is None:
        raise NotFound("There is no such reservation")
    return found


def number_before(page: Page) -> int | None:
    """The cursor of a list by number; 400 for one that is none."""
    before = drop_number(page.cursor) if page.cursor is not None else None
    if page.cursor is not None and before is None:
        raise invalid("cursor", "not a cursor of this list")
    return before


def statuses(call: Call) -> list[str] | None:
    """The statuses a list of drops is filtered by; 400 for one that is none."""
    return _some_of(call, STATUSES)


def hold_statuses(call: Call) -> list[str] | None:
    """The same of holds."""
    return _some_of(call, HOLD_STATUSES)


def purchase_statuses(call: Call) -> list[str] | None:
    """The same of purchases."""
    return _some_of(call, PURCHASE_STATUSES)


def _some_of(call: Call, possible: Sequence[str]) -> list[str] | None:
    given = call.query.get("status")
    if not given:
        return None
    statuses = given.split(",")
    if unknown := [status for status in statuses if status not in possible]:
        raise invalid("status", f"{unknown[0]!r} is none of {', '.join(possible)}")
    return statuses


def refund_status(call: Call) -> bool | None:
    """Whether refunds that are done (True), due (False) or either are asked for."""
    given = _some_of(call, REFUND_STATUSES)
    return None if given is None or len(set(given)) > 1 else given[0] == "done"


def buyer_filter(call: Call) -> str | None:
    """The buyer an operator's list is about, if one is named."""
    return as_buyer(named_in_query(call))


def buyer_in_path(call: Call) -> str:
    """The buyer in the path; what can be no buyer's id is a 404."""
    buyer = call.params["id"]
    if not is_buyer(buyer):
        raise NotFound("There is no such buyer")
    return buyer


def wants_csv(call: Call) -> bool:
    """Whether a list is wanted as CSV; 400 for a form there is not."""
    given = call.query.get("format", "json")
    if given not in ("json", "csv"):
        raise invalid("format", "want json or csv")
    return given == "csv"


def flag(call: Call, *names: str) -> bool:
    """A switch in the query, under any of its names; 400 for what is neither true nor false."""
    query = call.query
    given = either(names[0], *(query.get(name, UNSET) for name in names))
    if given is None:
        return False
    if given.lower() not in ("true", "false", "1", "0"):
        raise invalid(names[0], "want true or false")
    return given.lower() in ("true", "1")


def has_already(call: Call, tag: bytes) -> bool:
    """Whether the caller has what this tag stands for (RFC 9110, 13.1.2): it may name several, or
    any by `*`, and weakly: a proxy that compresses makes tags weak."""
    given = call.headers.get(b"if-none-match")
    if given is None or given == tag:
        return given is not None
    named = [one.strip().removeprefix(b"W/") for one in given.split(b",")]
    return tag in named or named == [b"*"]


def freshness(call: Call) -> bytes:
    """How long caches may keep an answer that is the same for everybody: a second. Shared ones must
    be told so where a credential was sent (RFC 9111, 3.5); what one caller's budget has left is for
    nobody else."""
    if call.notes is not None:
        return b"private, max-age=1"
    return b"public, max-age=1" if b"authorization" in call.headers else b"max-age=1"
