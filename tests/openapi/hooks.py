"""What schemathesis must know to make valid requests; loaded by it, from schemathesis.toml."""

from __future__ import annotations

import itertools
import re
from datetime import datetime
from typing import Any

import requests
import schemathesis
from hypothesis import strategies as st
from schemathesis.core.parameters import ParameterLocation
from schemathesis.generation.meta import TestPhase

from tests.support.provider import signed

# Unicode's categories of what is printed.
letters = st.characters(categories=("L", "M", "N", "P", "S"), include_characters=" ")
printed = st.text(letters, min_size=1, max_size=200).filter(
    lambda text: text.isprintable() and text == text.strip()
)
moments = st.datetimes(datetime(2000, 1, 2), datetime(2199, 12, 30)).map(
    lambda moment: moment.strftime("%Y-%m-%dT%H:%M:%SZ")
)

keys = itertools.count()

schemathesis.openapi.format("printable", printed)
schemathesis.openapi.format("date-time", moments)


# What a valid request is refused for with a 400: two of its fields, or one and the drop, do not go
# together. JSON Schema cannot say that, so schemathesis.toml lets a 400 pass, and this does not
# unless it says one of these.
RELATIONS = re.compile(
    "endsAt: a drop cannot end before it starts"
    "|maxHoldSeconds: (want|less than holdSeconds)"
    "|(quantity|units): .* more than one order of this drop may hold"
    "|addStock: a drop has at most"
    "|withdrawStock: .* units are free"
    "|body: names nothing that can be changed"
    # Names that the document does not offer and the engine knows; schemathesis tries names it met.
    "|recordedAt: (older|more) than"
    "|[a-z]+_[a-z_]+: |drop(StartsAt|StartTime): |[a-zA-Z]+: given twice, under two names"
    "|idempotencyKey: the header Idempotency-Key says another one"
    "|version: (required, in the body or|If-Match says another one)"
    "|page: past [0-9]+ rows only a cursor leads on"
    "|Quiet hours start and end times are required"
    "|A user with this email already|This username is already|User with this Privy ID already"
    "|Wallet address already registered|currentPassword: "
    "|units: |pick: units have names|(addStock|totalStock): [0-9]+ units are named"
    "|totalStock: cannot be set|currency: cannot change|(totalStock|currency|units): Expected"
)


@schemathesis.hook
def map_case(context: Any, case: Any) -> Any:
    """In a story, drops that are on sale, orders they can fill, and owners: else none goes far."""
    meta = case.meta
    headers = meta.components.get(ParameterLocation.HEADER)
    if "Idempotency-Key" in case.headers and headers is not None and headers.mode.is_positive:
        case.headers["Idempotency-Key"] = f"key {next(keys)}"  # or most answers are 422
    if meta.phase.name != TestPhase.STATEFUL or not meta.generation.mode.is_positive:
        return case
    unwanted = {"startsAt", "endsAt", "quantity"}
    if case.operation.path not in {"/reservations", "/reserve/{id}", "/hold"}:
        unwanted.add("userId")  # who does not say a name is the owner
        case.query.pop("userId", None)
    if case.method == "POST" and isinstance(case.body, dict):
        case.body = {name: value for name, value in case.body.items() if name not in unwanted}
    return case


@schemathesis.check
def a_valid_request_is_refused_for_a_relation_alone(ctx: Any, response: Any, case: Any) -> None:
    """400 for a request that the document allows says what does not go together."""
    if case.meta is None or not case.meta.generation.mode.is_positive:
        return
    if response.status_code == 400:
        said = response.json()["message"]
        assert RELATIONS.match(said), said


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: Any) -> None:
    """The provider's word is signed as it is sent, unless it is the signature that is tried."""
    headers = case.meta.components.get(ParameterLocation.HEADER) if case.meta else None
    if case.operation.path != "/payments/callback" or headers is None or headers.mode.is_negative:
        return
    sent = requests.Request(**case.as_transport_kwargs(base_url="http://127.0.0.1")).prepare()
    body: Any = sent.body or b""
    case.headers.update(signed(body.encode() if isinstance(body, str) else body))
