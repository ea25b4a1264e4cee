"""How a route is described, so that the API's document can be built from the table of routes.

    Route("pause", "POST", "/drops/{id}/pause", self.pause, About(
        "Operators", "admin", keyed=True, id=DropId, answers={200: DropView}, refusals=(NotOpen,)))

The handler's docstring is the operation's text, its first line the title. The rest follows and is
not said again: 400, 500 and 503 of every route; 401 and 403 of one that asks who calls; 404 of a
path with an {id}; 413 of one with a body; the key in and out, 409 and 422 of a keyed one. A
refusal's class gives status, code, sentence and Retry-After; `example` on the class, its details.
Types are the Structs that decode the request and encode the answer, never a copy of them. What a
decoder does not check by itself is shown beside the field: `Annotated[int, shown(minimum=1)]`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from engine.infra.errors import Problem

Tag = Literal[
    "Drops",
    "Reservations",
    "Purchases",
    "Payments",
    "Slots",
    "Accounts",
    "Sessions",
    "Preferences",
    "Private beta",
    "Membership",
    "Operators",
    "Ledger",
    "Health",
]


def shown(sentence: str = "", /, **schema: Any) -> Meta:
    """What the document says of a type beyond the type: JSON Schema keywords, none of which the
    decoder checks (the handler does). `hidden=True`: another name of a field, not shown."""
    if schema.pop("hidden", False):
        schema["x-hidden"] = True
    return Meta(description=sentence or None, extra_json_schema=schema or None)


HIDDEN = shown(hidden=True)

Id = Annotated[str, shown(format="uuid")]
Moment = Annotated[str, shown(format="date-time")]
Money = Annotated[str, shown(pattern=r"^[0-9]+\.[0-9]{2}$", examples=["139.00"])]
Currency = Annotated[str, shown(pattern="^[A-Z]{3}$", examples=["USD"])]
# The format `printable` is str.isprintable(): no pattern that every language reads says it.
BuyerId = Annotated[str, shown(minLength=1, maxLength=128, format="printable", examples=["ann"])]


class Query(msgspec.Struct, frozen=True):
    """A parameter in the query (or, by `place`, a header): its name, type and sentence."""

    name: str
    type: Any
    sentence: str
    required: bool = False
    place: Literal["query", "header"] = "query"


class Body(msgspec.Struct, frozen=True):
    """A request's body: the Struct that decodes it, and what this route wants of it.

    needs   names that must be there. `userId` only where no credential names the buyer
    omits   names that this route does not read
    extra   JSON Schema that is added; of `properties`, those that differ
    """

    type: Any
    needs: tuple[str, ...] = ()
    omits: tuple[str, ...] = ()
    extra: Mapping[str, Any] = {}


class Reply(msgspec.Struct, frozen=True):
    """An answer that is more than a JSON body: other forms by media type, headers by name, with a
    `?` behind one that is not always there."""

    type: Any = None
    forms: Mapping[str, Any] = {}
    headers: Mapping[str, str] = {}


# confirm: what a buyer does with a hold; a budget of its own, so that who hammered for a unit can
# still buy it. free: never limited, for who asks whether we live.
Counted = Literal["read", "write", "confirm", "admin", "callback", "free"]


class About(msgspec.Struct, frozen=True):
    """What an operation wants and answers.

    who       None: does not ask. "anybody": a credential is not needed, but a bad one is refused.
              Else the scope that the caller's credential must cover
    counted   as what its requests are limited; None: by its method
    keyed     it honours Idempotency-Key
    id        the type of {id} in the path
    places    the types of other names in the path
    query     what it reads of query and headers
    body      what it reads of the body; None: nothing
    answers   by status: a Struct, a Reply, or None for no body
    refusals  what it may raise beyond what every route of its kind may
    leads_to  operations that make sense with the `id` of its answer
    """

    tag: Tag
    who: str | None = None
    counted: Counted | None = None
    keyed: bool = False
    id: Any = Id
    places: Mapping[str, Any] = {}
    query: tuple[Query, ...] = ()
    body: Body | None = None
    answers: Mapping[int, Any] = {}
    refusals: tuple[type[Problem], ...] = ()
    leads_to: tuple[str, ...] = ()


UUID = "[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"


def paged(cursor: str = UUID, limit_max: int = 100) -> tuple[Query, ...]:
    """The parameters of a list."""
    return (
        Query(
            "limit",
            Annotated[int, shown(minimum=1, maximum=limit_max, default=20)],
            "How many; `pageSize` is understood as well.",
        ),
        Query(
            "cursor",
            Annotated[str, shown(pattern=f"^({cursor})?$")],
            "`nextCursor` of the page before; nothing for the first page.",
        ),
        Query(
            "page",
            Annotated[int, shown(minimum=1, maximum=1_000_000)],
            "Instead of a cursor: which page. The answer then has `meta`.",
        ),
    )


PAGED = paged()
