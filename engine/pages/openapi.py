"""The API's document: OpenAPI 3.1, made of the table of routes and of the types that decode its
requests and encode its answers. Nothing is written here that one of them says.

How a route is described: engine/infra/describe.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from http import HTTPStatus
from typing import Annotated, Any

import msgspec

import engine
from engine.infra import errors
from engine.infra.describe import About, Body, Query, Reply, shown
from engine.infra.errors import Problem
from engine.infra.http import Error
from engine.infra.routing import Route
from engine.pages.schemas import Schemas, sample

PREFACE = """\
Velvetrope holds units of a drop for buyers, for a short time, and turns holds into purchases.

**JSON** in and out, UTF-8. Names are camelCase; requests may write them in snake_case as well
(`dropId` is `drop_id`), one of both. Unknown names are ignored. Times are ISO 8601 in UTC. Money is
a string with two decimals. GET also answers HEAD. `X-Request-ID` is taken or made, and sent back.

**Send an `Idempotency-Key`** with every POST, PATCH and DELETE. After a time-out or a 503 repeat
with the same key: what was done is answered again, with `Idempotent-Replayed: true`.

**Who may call.** {auth}

**How much.** Addresses, buyers and keys have budgets. A 429 says which, and when to come again;
`RateLimit` tells what is left once it is less than half. At the root, beside the API, stands
`/metrics`.

**Errors** have one shape whatever their status. Programs go by `error`:

| error | status | meaning | again? |
|---|---|---|---|
{errors}
"""
REQUIRED = (
    "Buyers send a token (`Authorization: Bearer`), shops a key (`X-API-Key`) with scopes, "
    "and name the buyer they act for in `userId`. Public reads need neither."
)
OPEN = (
    "This server runs with `AUTH=open`: on loopback only, everybody is trusted, and `userId` names "
    "the buyer. A credential that is sent must be good all the same."
)
TAGS = {
    "Drops": "What is on sale, for everybody.",
    "Reservations": "Units that are a buyer's until a deadline.",
    "Purchases": "Holds that were bought.",
    "Payments": "What providers of payments say.",
    "Slots": "The cold chain: named units with a temperature, held, booked and watched.",
    "Accounts": "People: registration, login, profile, wallet, and the end of an account.",
    "Sessions": "Devices that are logged in. A user has one live session.",
    "Preferences": "What a user wants to be told of, how, and when not.",
    "Private beta": "Invitations: keys that are used once.",
    "Membership": "Scarce numbers, minted once per receipt: passes, devices, encounters.",
    "Operators": "Running a sale. An admin's token, or a key with the scope `admin`.",
    "Ledger": "What was sold, refunded and booked: chained, signed, for anybody to check.",
    "Health": "For people, and for machines that watch. Asks for no credential.",
}
SHORT = " (short form)"  # another way in to the same operation
KEY_OF_REFUSALS = "Idempotency-Key-if-known"
HEADERS: dict[str, tuple[str, bool]] = {  # name: sentence, and whether it is always there
    "X-Request-ID": ("The request's own, or a new one. It is in every line of the log.", True),
    "Cache-Control": ("`no-store`, where nothing else is said.", True),
    "Content-Security-Policy": ("For who renders an answer all the same: nothing may run.", True),
    "Idempotency-Key": ("The key in force: the request's own, or a new one.", True),
    KEY_OF_REFUSALS: (
        "The key in force, if the request came so far and is one that has one.",
        False,
    ),
    "Idempotent-Replayed": ("`true`: it was done before, and this is the first answer.", False),
    "Retry-After": ("Seconds after which it is worth asking again.", False),
    "RateLimit": (
        'What is left of a budget, `"name";r=requests;t=seconds until it is whole`; told once less'
        " than half is left.",
        False,
    ),
    "RateLimit-Policy": ('That budget: `"name";q=requests;w=seconds`.', False),
}
# Headers of every answer.
EVERYWHERE = (
    *("X-Request-ID", "Cache-Control", "Content-Security-Policy"),
    *("RateLimit", "RateLimit-Policy"),
)
# Quotes around a key are taken off, so one that begins with a quote is not empty between two.
KEY = Query(
    "Idempotency-Key",
    Annotated[
        str,
        shown(
            pattern='^([!#-~]([ -~]{0,126}[!-~])?|"[ -~]{1,128}"|"([!#-~]|[ -~]{1,126}[!-~])?)$',
            examples=["order-1734"],
        ),
    ],
    "Names this request, so that repeating it does nothing twice.",
    place="header",
)


def document(routes: Sequence[Route], prefix: str, *, is_open: bool) -> dict[str, Any]:
    """The whole document. `is_open`: the server runs with AUTH=open."""
    described = [route for route in routes if route.about is not None]
    writer = _Writer(described, is_open)
    paths: dict[str, dict[str, Any]] = {}
    for route in described:
        paths.setdefault(shape_of(route), {})[route.method.lower()] = writer.operation(route)
    used = {route.about.tag for route in described if route.about}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Velvetrope",
            "version": engine.__version__,
            "summary": "A reservation engine for flash sales.",
            "description": PREFACE.format(auth=OPEN if is_open else REQUIRED, errors=_table()),
        },
        "servers": [{"url": prefix}],
        "tags": [{"name": tag, "description": text} for tag, text in TAGS.items() if tag in used],
        "paths": paths,
        "components": writer.components(),
    }


def shape_of(route: Route) -> str:
    """A route's path as the document writes it."""
    return route.path.replace(":path}", "}")


def problems(kind: type[Problem] = Problem) -> Iterator[type[Problem]]:
    """Every class of problem that has a code of its own."""
    if kind is Problem or "code" in vars(kind):
        yield kind
    for each in kind.__subclasses__():
        yield from problems(each)


def _table() -> str:
    return "\n".join(
        f"| `{each.code}` | {each.status} | {_sentence(each)} | {'yes' if each.retryable else ''} |"
        for each in sorted(problems(), key=lambda each: (each.status, each.code))
    )


def _sentence(kind: type[Problem]) -> str:
    return (kind.__doc__ or "").strip().splitlines()[0]


class _Writer:
    """Writes operations, and collects what they refer to."""

    def __init__(self, routes: Sequence[Route], is_open: bool) -> None:
        self._open, self._schemas = is_open, Schemas()
        self._routes, self._shared = routes, dict[str, Any]()
        self._error = self._schemas.of(Error)

    def operation(self, route: Route) -> dict[str, Any]:
        """One operation of the document."""
        about = route.about
        assert about is not None
        name = self._id(route)
        title, _, text = route.text.partition("\n")
        needs = f"Needs the scope `{about.who}`." if about.who not in {None, "anybody"} else ""
        told: dict[str, Any] = {
            "operationId": name,
            "tags": [about.tag],
            "summary": title.strip().rstrip(".") + ("" if name == route.operation else SHORT),
            "description": "\n\n".join(filter(None, (text.strip(), needs))) or title.strip(),
            "security": self._security(about),
            "parameters": self._parameters(route, about),
            "responses": self._responses(route, about),
        }
        if about.body is not None:
            told["requestBody"] = self._body(about.body, route.method)
        return told

    def components(self) -> dict[str, Any]:
        """What operations refer to."""
        return {
            "schemas": self._schemas.components,
            "responses": self._shared,
            "examples": {each.code: {"value": _example(each)} for each in problems()},
            "headers": {
                name: {"description": text, "required": always, "schema": {"type": "string"}}
                for name, (text, always) in HEADERS.items()
            },
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"},
                "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
            },
        }

    def _id(self, route: Route) -> str:
        first = next(each for each in self._routes if each.operation == route.operation)
        same = (first.method, first.path) == (route.method, route.path)
        return route.operation if same else f"{route.operation}_by_id"

    def _security(self, about: About) -> list[dict[str, list[str]]]:
        if about.who is None:
            return []
        scopes = [] if about.who == "anybody" else [about.who]
        optional: list[dict[str, list[str]]] = [{}] if self._open or not scopes else []
        return [*optional, {"token": []}, {"key": scopes}]

    # ── what is asked ────────────────────────────────────────────────────────────────────────

    def _parameters(self, route: Route, about: About) -> list[dict[str, Any]]:
        told = []
        for name in re.findall(r"{(\w+)}", shape_of(route)):
            schema = self._schemas.of(about.id if name == "id" else about.places[name])
            told.append({"name": name, "in": "path", "required": True, "schema": schema})
        asked = (*about.query, KEY) if about.keyed else about.query
        told += [self._parameter(query) for query in asked]
        return told

    def _parameter(self, query: Query) -> dict[str, Any]:
        schema = self._schemas.of(query.type)
        told = {
            "name": query.name,
            "in": query.place,
            "required": query.required and self._must(query.name),
            "description": query.sentence,
            "schema": schema,
        }
        if schema.get("type") == "array":
            told |= {"style": "form", "explode": False}
        return told

    def _must(self, name: str) -> bool:
        """Whether a name that is needed is needed here: a token may name the buyer instead."""
        return self._open or name != "userId"

    def _body(self, body: Body, method: str) -> dict[str, Any]:
        needs = [name for name in body.needs if self._must(name)]
        schema = self._schemas.of_body(body, needs, defaults=method == "POST")
        content = {"schema": schema, "example": sample(schema, self._schemas.components)}
        must = bool(needs or body.extra.get("minProperties"))
        return {"required": must, "content": {"application/json": content}}

    # ── what is answered ─────────────────────────────────────────────────────────────────────

    def _responses(self, route: Route, about: About) -> dict[str, Any]:
        told: dict[int, Any] = {}
        for status, kind in about.answers.items():
            reply = kind if isinstance(kind, Reply) else Reply(kind)
            told[status] = self._answer(status, reply, about)
            if status < 300 and (links := self._links(about)):
                told[status]["links"] = links
        refusals: dict[int, list[type[Problem]]] = {}
        for each in _refusals(route, about):
            refusals.setdefault(each.status, []).append(each)
        for status, kinds in refusals.items():
            assert status not in told, f"{route.operation} answers and refuses with {status}"
            told[status] = self._refusal(kinds)
        return {str(status): told[status] for status in sorted(told)}

    def _answer(self, status: int, reply: Reply, about: About) -> dict[str, Any]:
        keyed = ("Idempotency-Key", "Idempotent-Replayed") if about.keyed and status < 300 else ()
        told: dict[str, Any] = {
            "description": HTTPStatus(status).phrase,
            "headers": _headers(*EVERYWHERE, *keyed)
            | {
                name.removesuffix("?"): {
                    "description": text,
                    "required": not name.endswith("?"),
                    "schema": {"type": "string"},
                }
                for name, text in reply.headers.items()
            },
        }
        json = {"application/json": reply.type} if reply.type else {}
        forms = {**json, **reply.forms}
        if forms:
            told["content"] = {name: self._form(kind) for name, kind in forms.items()}
        return told

    def _form(self, kind: Any) -> dict[str, Any]:
        schema = self._schemas.of(kind)
        told = {"schema": schema}
        if kind is not str:
            told["example"] = sample(schema, self._schemas.components)
        return told

    def _refusal(self, kinds: list[type[Problem]]) -> dict[str, Any]:
        again = any(each.retry_after_seconds is not None for each in kinds)
        codes = [each.code for each in kinds]
        only = {"properties": {"error": {"enum": codes}}}
        told = {
            "description": "\n".join(f"- `{each.code}` {_sentence(each)}" for each in kinds),
            "headers": _headers(*EVERYWHERE, *(["Retry-After"] if again else []))
            | {"Idempotency-Key": _header(KEY_OF_REFUSALS)},
            "content": {
                "application/json": {
                    "schema": {"allOf": [self._error, only]},
                    "examples": {code: {"$ref": f"#/components/examples/{code}"} for code in codes},
                }
            },
        }
        if len(codes) > 1:
            return told
        self._shared[codes[0]] = told
        return {"$ref": f"#/components/responses/{codes[0]}"}

    def _links(self, about: About) -> dict[str, Any]:
        """To every way in to an operation that takes the answer's id: in the path, or in the body
        under the first name that it needs."""
        links: dict[str, Any] = {}
        for route in self._routes:
            if route.operation not in about.leads_to or route.about is None:
                continue
            told: dict[str, Any] = {"operationId": self._id(route)}
            if "{id" in route.path:
                told["parameters"] = {"id": "$response.body#/id"}
            elif route.about.body is not None:
                told["requestBody"] = {route.about.body.needs[0]: "$response.body#/id"}
            links[self._id(route)] = told
        return links


def _refusals(route: Route, about: About) -> list[type[Problem]]:
    """What a route may answer with, by what it is and by what it says; each once."""
    found: list[type[Problem]] = [errors.Invalid, Problem]
    if about.who is not None:
        found += [errors.Unauthorized, errors.Forbidden, errors.Retryable]
        found += [] if route.method == "GET" else [errors.OutcomeUnknown]
    if route.budget != "free":
        found.append(errors.RateLimited)
    if "{" in route.path:
        found.append(errors.NotFound)
    if route.method != "GET":
        found.append(errors.TooLarge)
    if about.keyed:
        found += [errors.InProgress, errors.IdempotencyMismatch]
    return list(dict.fromkeys((*found, *about.refusals)))


def _headers(*names: str) -> dict[str, Any]:
    return {name: _header(name) for name in names}


def _header(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/headers/{name}"}


def _example(kind: type[Problem]) -> dict[str, Any]:
    shape = Error(False, kind.code, _sentence(kind), kind.retryable, kind.example, "b1946ac92492")
    told: dict[str, Any] = msgspec.to_builtins(shape)
    return told
