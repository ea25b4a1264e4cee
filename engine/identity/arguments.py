"""What a call asks for, whatever it is about: its key, its identity, the account in its path."""

from __future__ import annotations

from engine.identity.models import Caller
from engine.infra.errors import NotFound
from engine.infra.http import Call, invalid
from engine.infra.ids import Request, parse_id, request_identity, trace_id
from engine.infra.lists import Page

# For whoever it may be: no buyer can be called so, and none pays.
OWNER, OPERATOR = "\0owner", "\0operator"


def request(call: Call, caller: Caller, buyer: str, operation: str) -> Request:
    """The request's identity, and whether its key is the client's. The key is echoed.

    Raises `RateLimited` for one without a key; one with a key may be a repetition, see `Request`.
    """
    keyed = is_keyed(call)
    if buyer not in (OWNER, OPERATOR):
        charge(call, caller, buyer)
    subject = caller.subject if caller.kind in ("buyer", "admin", "shop") else f"open:{buyer}"
    assert call.key is not None
    identity = request_identity(f"{caller.kind}:{subject}", operation, call.key)
    return Request(identity, keyed, call.over)


def is_keyed(call: Call) -> bool:
    """Whether the key in force is the client's; else one is made."""
    given = call.idempotency_key()
    if given is not None:
        call.key = given
    elif call.key is None:  # our own name of the request is as unique
        call.key = trace_id() if call.is_named else call.request_id
    return given is not None


def charge(call: Call, caller: Caller, buyer: str) -> None:
    """With AUTH=open whoever is named pays; others paid when their credential was read."""
    if caller.kind == "open" and call.budgets is not None:
        call.budgets.charge(call, caller.kind, buyer)


def id_in_path(call: Call, thing: str, word: str = "id") -> str:
    """The id in the path; a malformed one is that thing's 404."""
    found = parse_id(call.params[word])
    if found is None:
        raise NotFound(f"{thing} not found")
    return found


def before(page: Page) -> str | None:
    """The cursor of a list by id; 400 for one that is none."""
    if page.cursor is None:
        return None
    found = parse_id(page.cursor)
    if found is None:
        raise invalid("cursor", "not a cursor of this list")
    return found
