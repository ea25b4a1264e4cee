"""Whatever is sent, the answer is a 4xx in the one error shape, and no unit has moved.

All of it goes over a real socket to a real worker: what uvicorn refuses by itself must look alike.
"""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator, Iterable
from itertools import chain
from typing import Any

import asyncpg
import jwt
import msgspec
import pytest
import redis.asyncio

from engine.identity import tokens
from engine.infra.settings import Settings
from engine.ops import devstack
from tests.app.attack import (
    FORBIDDEN,
    HEADERS,
    NOT_ALLOWED,
    NOT_FOUND,
    TOO_LARGE,
    TOO_LONG,
    UNAUTHORIZED,
    VALIDATION,
    Attack,
    chunked,
    exchange,
)
from tests.support.clones import TEMPLATE
from tests.support.http import Reply
from tests.support.service import Service

JWT_SECRET = "a secret of the hostile, for their tokens"
HMAC_SECRET = "another of the hostile, for their names"
NOBODYS = "01890000-0000-7000-8000-000000000000"
LEAKS = (b"Traceback", b"asyncpg", b"redis", b"SELECT", b"File ", b"psycopg", b"msgspec")

Json = dict[str, Any]


class Stage(msgspec.Struct, frozen=True):
    """A running service with one drop, a hold and a purchase of it."""

    service: Service
    drop: int
    known: dict[str, str]

    async def figures(self) -> dict[str, int]:
        """What must not move."""
        return await self.service.stock(self.drop)


@pytest.fixture(scope="module")
async def world(template: str, valkey_server: devstack.Server) -> AsyncIterator[Settings]:
    """One database for all of this file: nothing here changes anything."""
    admin = await asyncpg.connect(template)
    await admin.execute(f"CREATE DATABASE hostile TEMPLATE {TEMPLATE}")
    client = redis.asyncio.Redis.from_url(valkey_server.url)
    await client.flushall()
    await client.aclose()
    yield Settings(
        database_url=template.rpartition("/")[0] + "/hostile",
        redis_url=valkey_server.url,
        auth="open",
    )
    await admin.execute("DROP DATABASE hostile WITH (FORCE)")
    await admin.close()


@pytest.fixture(scope="module")
async def stage(world: Settings, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stage]:
    """AUTH=open: whoever calls is believed, so every check of the content is reached."""
    folder = tmp_path_factory.mktemp("open")
    async with Service.open(world, folder, workers=1, keepers=0) as service:
        drop = await service.open_drop(10, holdSeconds=3_600, maxPerBuyer=5)
        hold = (await service.reserve(drop, "ann")).json["id"]
        other = (await service.reserve(drop, "ann")).json["id"]
        bought = (await service.confirm(other, "ann")).json["id"]
        yield Stage(service, drop, {"$drop": str(drop), "$hold": hold, "$bought": bought})


@pytest.fixture(scope="module")
async def guarded(
    world: Settings, stage: Stage, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Stage]:
    """AUTH=required, in front of the same drop."""
    settings = msgspec.structs.replace(world, auth="required")
    folder = tmp_path_factory.mktemp("required")
    secrets = {"JWT_SECRET": JWT_SECRET, "HMAC_SECRET": HMAC_SECRET}
    async with Service.open(settings, folder, 1, 0, **secrets) as service:
        yield Stage(service, stage.drop, stage.known)


async def _is_refused(stage: Stage, attack: Attack) -> Reply:
    before = await stage.figures()

    reply = await exchange(stage.service.port, attack.raw(stage.known))

    assert (reply.status, reply.error) == attack.refusal, reply.body[:500]
    assert reply.headers["content-type"] == "application/json"
    assert reply.json["requestId"] == reply.headers["x-request-id"]
    assert not [leak for leak in LEAKS if leak in reply.body]
    assert await stage.figures() == before
    assert await stage.service.settled(stage.drop)
    return reply


def _each(attacks: Iterable[Attack]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("attack", [pytest.param(a, id=a.id) for a in attacks])


# ── bodies ───────────────────────────────────────────────────────────────────────────────────────

BOUNDLESS = [10**30, 2**63, -1, 0, -(2**63) - 1]
TYPELESS: list[Any] = [True, 1.5, [], {}, [1]]
LITERALS = [b"NaN", b"Infinity", b"-Infinity", b"1e400", b"0x10", b"01", b"+1", b"1.", b".5"]
NAMES = [
    "",
    "\0",
    "ann\0",
    "ann\n",
    "\x1b[2J",
    "\x7f",
    "\u202enna",
    "\ufffe",
    "a" * 129,
    "é" * 129,
    "\ud800",
    "ann\udfff",
    "\udc00\ud800",
]
RESERVE: Json = {"dropId": "$drop", "userId": "mallory"}
CONFIRM: Json = {"reservationId": "$hold", "userId": "ann"}
DROP: Json = {"name": "Mallory's", "price": "1.00", "totalStock": 5}


def _with(
    path: str, base: Json, field: str, values: Iterable[Any], method: str = "POST"
) -> list[Attack]:
    return [
        Attack(method, path, base | {field: value}, name=f"{path} {field}={value!r}")
        for value in values
    ]


def _literally(
    path: str, base: Json, field: str, literals: Iterable[bytes], method: str = "POST"
) -> list[Attack]:
    """Literals that no JSON encoder writes."""
    there = json.dumps(base | {field: "$$"}).encode()
    return [
        Attack(method, path, there.replace(b'"$$"', literal), name=f"{path} {field}={literal!r}")
        for literal in literals
    ]


def _change(field: str, values: Iterable[Any]) -> list[Attack]:
    return _with("/drops/$drop", {}, field, values, "PATCH")


FIELDS = [
    *_with("/reservations", RESERVE, "dropId", [*BOUNDLESS, *TYPELESS, None, "", "abc", "1.0"]),
    *_with("/reservations", RESERVE, "dropId", ["-1", "+1", "１", " 1", "1\0", 2**43, "9" * 5_000]),
    *_with("/reservations", RESERVE, "userId", [*NAMES, *TYPELESS, None, 10**200]),
    *_with("/reservations", RESERVE, "quantity", [*BOUNDLESS, *TYPELESS, None, 101, "1", "one"]),
    *_literally("/reservations", RESERVE, "quantity", LITERALS),
    *_literally("/reservations", RESERVE, "dropId", [b"9" * 5_000, b"-0", b"1.5e0"]),
    *_literally("/reservations", RESERVE, "userId", [b"9" * 5_000, b'"\\ud800"', b'"\\u00"']),
    *_with("/reserve/$drop", {}, "userId", ["", "\0", "a" * 129, None]),
    *_with("/reserve/$drop", {"userId": "mallory"}, "quantity", [0, -1, 101, 10**30, 1.5]),
    *_with("/purchases", CONFIRM, "reservationId", [*TYPELESS, None, 5, 10**30]),
    *_with("/purchases", CONFIRM, "userId", [*NAMES, *TYPELESS]),
    *_with("/purchases", CONFIRM, "paymentReference", [*TYPELESS, "", "\0", "a\n", "a" * 201, 5]),
    *_with("/purchase/$hold", {}, "paymentReference", ["", "\ud800", 0]),
    *_with("/drops", DROP, "name", [*TYPELESS, None, "", " \t", "\0", "a\nb", "a" * 201, "\ud800"]),
    *_with("/drops", DROP, "price", [True, [], {}, None, "", "free", -1, -0.01, 0.001, "1,5"]),
    *_with("/drops", DROP, "price", [1e308, "1e308", "NaN", "sNaN", "-Infinity", 100_000_000.01]),
    *_with("/drops", DROP, "price", ["9e999999", "1e-999999", "9" * 60_000, 10**30, 2**63]),
    *_literally("/drops", DROP, "price", LITERALS),
    *_with("/drops", DROP, "totalStock", [*BOUNDLESS, *TYPELESS, None, "5", 1_000_001]),
    *_with("/drops", DROP, "currency", [*TYPELESS, None, "US", "USDX", "12$", "ÜSD", "U\0D"]),
    *_with("/drops", DROP, "imageUrl", [*TYPELESS, "", "javascript:alert(1)", "data:,x", "/\0"]),
    *_with("/drops", DROP, "imageUrl", ["/" + "a" * 2_000, "ftp://x/y", " /a", "/a\nb"]),
    *_with("/drops", DROP, "startsAt", [*TYPELESS, 0, "", "soon", "2030-13-01", "1999-12-31"]),
    *_with("/drops", DROP, "startsAt", ["0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59"]),
    *_with("/drops", DROP, "endsAt", ["\0", "2201-01-01", "２０３０-01-01", "2030-01-01T24:00"]),
    *_with("/drops", DROP | {"startsAt": "2100-01-02"}, "endsAt", ["2100-01-01"]),
    *_with("/drops", DROP, "holdSeconds", [*BOUNDLESS, *TYPELESS, 86_401, "60"]),
    *_with("/drops", DROP, "maxHoldSeconds", [*BOUNDLESS, *TYPELESS, 59, 172_801]),
    *_with("/drops", DROP, "maxPerBuyer", [*BOUNDLESS, *TYPELESS, 10_001, "1"]),
    *_with("/drops", DROP, "maxPerOrder", [*BOUNDLESS, *TYPELESS, 101]),
    *_with("/drops", DROP, "pick", [*TYPELESS, None, "best"]),
    *_change("name", [*TYPELESS, None, "", " \t", "\0", "a\nb", "a" * 201, "\ud800"]),
    *_change("price", [True, [], {}, None, "", "free", -1, 0.001, "NaN", 1e308, "9" * 60_000]),
    *_literally("/drops/$drop", {}, "price", LITERALS, "PATCH"),
    *_change("imageUrl", [*TYPELESS, "", "javascript:alert(1)", "/" + "a" * 2_000]),
    *_change("startsAt", [*TYPELESS, None, 0, "", "soon", "2030-13-01", "1999-12-31"]),
    *_change("endsAt", [*TYPELESS, 0, "\0", "2201-01-01", "2000-01-01"]),
    *_change("holdSeconds", [*BOUNDLESS, *TYPELESS, None, 86_401, "60"]),
    *_change("maxHoldSeconds", [*BOUNDLESS, *TYPELESS, None, 172_801]),
    *_change("maxPerBuyer", [*BOUNDLESS, *TYPELESS, 10_001, "1"]),
    *_change("maxPerOrder", [*BOUNDLESS, *TYPELESS, None, 101]),
    *_change("addStock", [*BOUNDLESS, *TYPELESS, None, "1", 999_991, 1_000_001]),
    *_literally("/drops/$drop", {}, "addStock", [*LITERALS, b"9" * 5_000], "PATCH"),
    *_change("withdrawStock", [*BOUNDLESS, *TYPELESS, None, "1", "ALL", "all ", 50_001]),
    *_change("totalStock", [5, 11]),
    *_change("currency", ["EUR", ""]),
    *_change("status", ["live"]),
]
TWICE = [
    *_with("/reservations", RESERVE, "drop_id", ["$drop", None]),
    *_with("/reservations", RESERVE, "user_id", ["mallory", None]),
    *_with("/purchases", CONFIRM, "reservation_id", ["$hold"]),
    *_with("/purchases", CONFIRM, "user_id", ["ann"]),
    *_with("/purchases", CONFIRM | {"paymentReference": "a"}, "payment_reference", ["a"]),
    *_with("/drops", DROP, "total_stock", [5]),
    *_with("/drops", DROP | {"startsAt": "2100-01-02"}, "dropStartTime", ["2100-01-02"]),
    *_with("/drops", DROP | {"holdSeconds": 60}, "hold_seconds", [60]),
    *_with("/drops", DROP | {"maxPerBuyer": None}, "max_per_buyer", [None]),
]
DEEP = b"[" * 10_000 + b"]" * 10_000
SHAPES = {
    "nothing": b"",
    "an array": b"[]",
    "null": b"null",
    "a number": b"1",
    "a string": b'"x"',
    "an end": b"}",
    "half of it": b'{"dropId":',
    "two of it": b"{}{}",
    "a comma too many": b'{"dropId":1,}',
    "single quotes": b"{'dropId':1}",
    "a form": b"dropId=1&userId=ann",
    "xml": b"<drop/>",
    "broken UTF-8": b'{"userId":"\xff\xfe"}',
    "overlong UTF-8": b'{"userId":"\xc0\x80"}',
    "UTF-16": '{"dropId":1}'.encode("utf-16"),
    "a byte order mark": b"\xef\xbb\xbf{}",
    "a null byte": b"\0",
    "10,000 deep": DEEP,
    "10,000 deep where nobody looks": b'{"ignored":' + DEEP + b"}",
    "the same key twice, the last one bad": b'{"dropId":$drop,"userId":"ann","userId":""}',
    "64 KiB of nothing": b" " * 65_536,
}
BODIES = [
    Attack("POST", path, body, name=f"{path} {name}")
    for name, body in SHAPES.items()
    for path in ("/reservations", "/purchases", "/drops")
] + [
    Attack("PATCH", "/drops/$drop", body, name=f"/drops/$drop {name}")
    for name, body in SHAPES.items()
]
LARGE = [
    Attack("POST", path, body, refusal=TOO_LARGE, name=f"{path} {len(body)} bytes")
    for path in ("/reservations", "/purchase/$hold", "/drops", "/drops/$drop/pause", "/nowhere")
    for body in (b" " * 65_537, b"[" * 1_000_000)
]
LARGE.append(Attack("PATCH", "/drops/$drop", b" " * 65_537, refusal=TOO_LARGE))


@_each([*FIELDS, *TWICE])
async def test_a_bad_field_is_refused_and_named(stage: Stage, attack: Attack) -> None:
    reply = await _is_refused(stage, attack)

    fields = reply.json["details"]["fields"]
    assert fields
    assert {"field", "problem"} == set(fields[0])


@_each([*BODIES, *LARGE])
async def test_a_bad_body_is_refused(stage: Stage, attack: Attack) -> None:
    await _is_refused(stage, attack)


# ── paths and queries ────────────────────────────────────────────────────────────────────────────

NO_NUMBERS = [
    "0",
    "-1",
    "+1",
    "1.0",
    "abc",
    "9" * 30,
    "%D9%A3",
    "%00",
    "1%00",
    "1%20",
    "%FF",
    "%zz",
]
NO_UUIDS = [
    "1",
    "%7B$hold%7D",
    "urn:uuid:$hold",
    "$hold%00",
    "$hold%0A",
    "x" * 36,
    NOBODYS,
    "%C3%A9",
]
PATHS = [
    *(("GET", f"/drops/{id}") for id in (*NO_NUMBERS, "999999", str(2**43 - 1))),
    *(("GET", f"/drops/{id}/stock") for id in (*NO_NUMBERS, "999999")),
    *(("GET", f"/drops/{id}/audit") for id in ("0", "%00", "999999")),
    *(("POST", f"/drops/{id}/{v}") for id in ("0", "999999") for v in ("pause", "resume", "close")),
    *(("POST", f"/drops/{id}/reconcile{q}") for id in NO_NUMBERS for q in ("", "?dryRun=true")),
    *(
        ("GET", f"/drops/{id}/{what}")
        for id in NO_NUMBERS
        for what in ("reservations", "purchases")
    ),
    ("GET", "/drops/999999/reservations?format=csv"),
    ("GET", "/buyers/timeline"),
    ("GET", "/buyers//timeline"),
    *(("GET", f"/buyers/{name}/timeline") for name in ("%00", "%1B", "a" * 129, "%E2%80%AE")),
    *(("POST", f"/reserve/{id}?x") for id in NO_NUMBERS),
    *(("GET", f"/reservations/{id}") for id in NO_UUIDS),
    *(("DELETE", f"/reservations/{id}") for id in NO_UUIDS),
    *(("POST", f"/purchase/{id}") for id in NO_UUIDS),
    *(("GET", f"/purchases/{id}") for id in NO_UUIDS),
    ("GET", "/pictures/../../../../etc/passwd"),
    ("GET", "/pictures/..%2f..%2f..%2fetc%2fpasswd"),
    ("GET", "/pictures/%2e%2e"),
    ("GET", "/pictures/..%5c..%5cpyproject.toml"),
    ("GET", "/pictures/00-a.svg%00.png"),
    ("GET", "/pictures/99-a.svg"),
    ("GET", "/pictures/-1-a.svg"),
    ("GET", "/pictures/00-<script>.svg"),
    *(("GET", f"/assets/{name}") for name in ("..", "..%2froutes.py", "%2e%2e", "shop.js%00")),
    ("GET", "/nowhere"),
    ("GET", "/drops/$drop/nothing"),
    ("GET", "/drops/$drop/stock/more"),
    ("GET", "/api/v2/drops"),
    ("GET", "/api/v1/api/v1/drops"),
    ("GET", "//drops"),
    ("GET", "/DROPS"),
    ("GET", "/drops;x=1"),
    ("GET", "/..;/drops"),
    ("GET", "/.env"),
    ("GET", "/%00"),
    ("GET", "/%FF%FE"),
    ("GET", "/%ED%A0%80"),
    ("GET", "/%"),
    ("GET", "/%zz"),
    ("OPTIONS", "*"),
    ("GET", "/" + "a" * 8_000),
    ("GET", "/drops" + "/a" * 4_000),
    ("PUT", "/nowhere"),
]
UNKNOWN = [
    Attack("POST", "/reservations", RESERVE | {"dropId": 999_999}, refusal=NOT_FOUND),
    Attack("POST", "/reservations", RESERVE | {"dropId": 2**43 - 1}, refusal=NOT_FOUND),
    *(
        Attack("POST", "/purchases", CONFIRM | {"reservationId": id}, refusal=NOT_FOUND)
        for id in ("", "1", "\0", "$hold\n", "{$hold}", NOBODYS, "$bought", "\u0661" * 36)
    ),
    *(
        Attack("PATCH", f"/drops/{id}", body, refusal=NOT_FOUND)
        for id in (*NO_NUMBERS, "999999")
        for body in ({"name": "Mallory's"}, {"addStock": 1}, {"withdrawStock": "all"})
    ),
    *(
        Attack(method, path, {"userId": "mallory"}, refusal=NOT_FOUND, name=path[:60])
        for method, path in PATHS
    ),
]
METHODS = {
    "/drops": "GET, POST",
    "/drops/$drop/stock": "GET",
    "/drops/$drop/audit": "GET",
    "/drops/$drop/pause": "POST",
    "/drops/$drop": "GET, PATCH",
    "/drops/$drop/reconcile": "POST",
    "/drops/$drop/reservations": "GET",
    "/drops/$drop/purchases": "GET",
    "/buyers/ann/timeline": "GET",
    "/reservations": "GET, POST",
    "/reservations/$hold": "DELETE, GET",
    "/reserve/$drop": "POST",
    "/purchase/$hold": "POST",
    "/purchases/mine": "GET",
    "/health": "GET",
    "/pictures/00-a.svg": "GET",
}
COUNTS = ["", "0", "-1", "101", "1.5", "1e1", "abc", "%D9%A3", "%00", "+1", "%201", "0x10", "true"]
COUNTS += ["9" * 5_000, "000000001" + "0" * 5_000, "00000000100000"]
QUERIES = [
    *(f"/drops?limit={count}" for count in COUNTS),
    *(f"/drops?pageSize={count}" for count in COUNTS),
    *(f"/reservations?userId=ann&limit={count}" for count in COUNTS),
    *(f"/purchases/mine?userId=ann&limit={count}" for count in COUNTS),
    *(f"/drops?page={count}" for count in COUNTS if count != "101"),
    f"/drops?page=000000001{'0' * 30}",
    "/drops?page=1000001",
    *(f"/drops?cursor={cursor}" for cursor in ("abc", "-1", "%00", "0", NOBODYS, "9" * 5_000)),
    *(f"/reservations?userId=ann&cursor={c}" for c in ("1", "%00", "$drop", f"{NOBODYS}0")),
    *(f"/purchases/mine?userId=ann&cursor={c}" for c in ("1", "%00", "$drop", f"{NOBODYS}0")),
    *(f"/drops?status={s}" for s in ("bogus", "live,", "LIVE", "live%00", ",", "live;drop")),
    *(f"/reservations{q}" for q in ("", "?userId=", "?userId=%00", f"?userId={'a' * 129}")),
    *(f"/purchases/mine{q}" for q in ("", "?userId=", "?user_id=a%0Ab", f"?userId={'a' * 129}")),
    *(
        f"/drops/$drop/{name}?{bad}"
        for name in ("reservations", "purchases")
        for bad in (
            *("limit=0", "limit=101", "page=0", "pageSize=%D9%A3", "cursor=%00", "cursor=$drop"),
            *("status=aborted", "status=active;", "status=%00", "userId=", "userId=%1B"),
            *("userId=a&user_id=a", "format=", "format=CSV", "format=xml", "format=csv%00"),
        )
    ),
    *(f"/buyers/ann/timeline?{bad}" for bad in ("limit=0", "cursor=1", "page=1e1")),
    "/reservations/$hold?userId=",
    "/purchases/$bought?userId=%1B",
]


@_each(UNKNOWN)
async def test_what_is_not_there_is_a_404(stage: Stage, attack: Attack) -> None:
    await _is_refused(stage, attack)


@_each(
    Attack(method, path, refusal=NOT_ALLOWED)
    for path, allow in METHODS.items()
    for method in ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND")
    if method not in allow
)
async def test_a_wrong_method_is_told_the_right_ones(stage: Stage, attack: Attack) -> None:
    reply = await _is_refused(stage, attack)

    assert reply.headers["allow"] == METHODS[attack.path]


@_each(
    chain(
        (Attack("GET", path) for path in QUERIES),
        [Attack("DELETE", "/reservations/$hold?userId=%00")],
    )
)
async def test_a_bad_query_is_refused(stage: Stage, attack: Attack) -> None:
    await _is_refused(stage, attack)


# ── headers ──────────────────────────────────────────────────────────────────────────────────────

KEYS = ["", '""', "a" * 129, "caf\xe9", "a\tb", '"' + "a" * 129 + '"', "\xff"]
STRANGERS = [
    "evil.example",
    "127.0.0.1.evil.example",
    "evil.example:8000",
    "localhost.evil.example",
    "127.0.0.1@evil.example",
    "127.0.0.1:80:80",
    "127.0.0.1:999999",
    "1270.0.0.1",
    "[::2]",
    "0.0.0.0",
    "",
]


@_each(
    Attack(method, path, body, (f"Idempotency-Key: {key}",))
    for key in KEYS
    for method, path, body in (
        ("POST", "/reservations", RESERVE),
        ("POST", "/purchases", CONFIRM),
        ("DELETE", "/reservations/$hold", None),
        ("POST", "/drops", DROP),
        ("POST", "/drops/$drop/pause", None),
        ("PATCH", "/drops/$drop", {"name": "Mallory's"}),
        ("POST", "/drops/$drop/reconcile", None),
    )
)
async def test_a_bad_idempotency_key_is_refused(stage: Stage, attack: Attack) -> None:
    reply = await _is_refused(stage, attack)

    assert "idempotency-key" not in reply.headers


@_each(
    Attack(method, path, body, (header,), FORBIDDEN)
    for header in (
        *(f"Host: {name}" for name in STRANGERS),
        *(f"Origin: http://{name}" for name in STRANGERS),
        "Origin: null",
        "Origin: file://",
    )
    for method, path, body in (
        ("GET", "/drops", None),
        ("POST", "/reservations", RESERVE),
        ("POST", "/drops/$drop/pause", None),
        ("PATCH", "/drops/$drop", {"withdrawStock": "all"}),
        ("GET", "/drops/$drop/reservations?format=csv", None),
    )
)
async def test_an_open_service_answers_no_page_from_elsewhere(stage: Stage, attack: Attack) -> None:
    await _is_refused(stage, attack)


@_each(
    Attack("GET", "/nowhere", None, (f"X-Request-ID: {name}",), NOT_FOUND)
    for name in ("", "a" * 129, "caf\xe9", "\xff\xfe", "a\tb")
)
async def test_a_bad_request_id_is_replaced(stage: Stage, attack: Attack) -> None:
    reply = await _is_refused(stage, attack)

    assert reply.json["requestId"].isalnum()
    assert reply.json["requestId"] != attack.headers[0].partition(": ")[2]


def _signed(claims: Json, secret: str = JWT_SECRET, **headers: Any) -> str:
    whole = {"sub": "ann", "iss": "velvetrope", "exp": 4_000_000_000} | claims
    given = {name: value for name, value in whole.items() if value is not None}
    return jwt.encode(given, secret, headers={"typ": "at+jwt"} | headers)


def _unsigned(header: Json | bytes, signature: str = "") -> str:
    parts = [
        header if isinstance(header, bytes) else json.dumps(header).encode(),
        json.dumps({"sub": "ann", "iss": "velvetrope", "exp": 4_000_000_000}).encode(),
    ]
    words = [base64.urlsafe_b64encode(part).decode().rstrip("=") for part in parts]
    return ".".join([*words, signature])


DEEP_HEADER = b'{"typ":"at+jwt","alg":"HS256","x":' + b"[" * 5_000 + b"]" * 5_000 + b"}"
CREDENTIALS = [
    "Authorization: ",
    "Authorization: Bearer",
    "Authorization: Bearer  ",
    "Authorization: Basic YW5uOmFubg==",
    "Authorization: Token x",
    "Authorization: Bearer garbage",
    "Authorization: Bearer a.b.c",
    "Authorization: Bearer ..",
    "Authorization: Bearer caf\xe9",
    "Authorization: Bearer " + "a" * 10_000,
    f"Authorization: Bearer {_unsigned({'typ': 'at+jwt', 'alg': 'none'})}",
    f"Authorization: Bearer {_unsigned({'typ': 'at+jwt', 'alg': 'NoNe'})}",
    f"Authorization: Bearer {_unsigned({'typ': 'at+jwt', 'alg': 'HS256'})}",
    f"Authorization: Bearer {_unsigned({'typ': 'at+jwt', 'alg': 'RS256'}, 'AAAA')}",
    f"Authorization: Bearer {_unsigned({'typ': 'at+jwt', 'alg': {}}, 'AAAA')}",
    f"Authorization: Bearer {_unsigned(DEEP_HEADER, 'AAAA')}",
    f"Authorization: Bearer {_unsigned(b'[]', 'AAAA')}",
    f"Authorization: Bearer {_unsigned(bytes([255, 254]), 'AAAA')}",
    f"Authorization: Bearer {tokens.create(JWT_SECRET, 'ann', -60)}",
    f"Authorization: Bearer {tokens.create('b' * 40, 'ann', 60)}",
    f"Authorization: Bearer {_signed({'iss': 'elsewhere'})}",
    f"Authorization: Bearer {_signed({'iss': None})}",
    f"Authorization: Bearer {_signed({'exp': None})}",
    f"Authorization: Bearer {_signed({'sub': None})}",
    f"Authorization: Bearer {_signed({'sub': ''})}",
    f"Authorization: Bearer {_signed({'sub': 'a' * 129})}",
    f"Authorization: Bearer {_signed({}, typ='JWT')}",
    f"Authorization: Bearer {_signed({}, typ='rt+jwt')}",
    f"Authorization: Bearer {_signed({}, crit=['x'], x=1)}",
    "X-API-Key: ",
    "X-API-Key: vr_",
    "X-API-Key: garbage",
    "X-API-Key: caf\xe9",
    f"X-API-Key: vr_{'0' * 12}_{'0' * 64}",
    f"X-API-Key: vr_{'0' * 12}_{'0' * 64}x",
    f"X-API-Key: VR_{'0' * 12}_{'0' * 64}",
    "X-API-Key: " + "a" * 10_000,
]


@_each(
    Attack(method, path, body, (credential,), UNAUTHORIZED)
    for credential in CREDENTIALS
    for method, path, body in (
        ("GET", "/drops", None),
        ("POST", "/reservations", RESERVE),
        ("PATCH", "/drops/$drop", {"name": "Mallory's"}),
        ("GET", "/buyers/ann/timeline", None),
    )
)
async def test_a_bad_credential_is_refused_even_where_none_is_needed(
    guarded: Stage, attack: Attack
) -> None:
    await _is_refused(guarded, attack)


# ── below HTTP ───────────────────────────────────────────────────────────────────────────────────

LIES = {
    "no number": (b"Content-Length: abc\r\n\r\n{}", VALIDATION),
    "a negative number": (b"Content-Length: -5\r\n\r\n{}", VALIDATION),
    "a signed number": (b"Content-Length: +5\r\n\r\n{}", VALIDATION),
    "no length": (b"Content-Length: \r\n\r\n{}", VALIDATION),
    "10**30": (b"Content-Length: 1" + b"0" * 30 + b"\r\n\r\n{}", VALIDATION),
    "10**12": (b"Content-Length: 1" + b"0" * 12 + b"\r\n\r\n{}", TOO_LARGE),
    "65537 without a body": (b"Content-Length: 65537\r\n\r\n", TOO_LARGE),
    "5,000 digits": (b"Content-Length: " + b"0" * 5_000 + b"2\r\n\r\n{}", TOO_LARGE),
    "two lengths": (b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}", VALIDATION),
    "a length and chunks": (
        b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(b"{}"),
        VALIDATION,
    ),
    "too short": (b"Content-Length: 1\r\n\r\n{}", VALIDATION),
    "chunks that are none": (b"Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n", VALIDATION),
    "gzip": (b"Transfer-Encoding: gzip\r\n\r\n{}", VALIDATION),
    "chunks over 64 KiB": (
        b"Transfer-Encoding: chunked\r\n\r\n" + chunked(*[b" " * 4_096] * 17),
        TOO_LARGE,
    ),
    "one chunk over 64 KiB": (
        b"Transfer-Encoding: chunked\r\n\r\n" + chunked(b" " * 70_000),
        TOO_LARGE,
    ),
    "an empty chunked body": (b"Transfer-Encoding: chunked\r\n\r\n" + chunked(), VALIDATION),
    "a null byte": (b"X-Anything: a\0b\r\nContent-Length: 2\r\n\r\n{}", VALIDATION),
    "a control character": (b"X-Anything: a\x01b\r\nContent-Length: 2\r\n\r\n{}", VALIDATION),
    "no colon": (b"nonsense\r\nContent-Length: 2\r\n\r\n{}", VALIDATION),
    "a space before the colon": (b"X-API-Key : x\r\nContent-Length: 2\r\n\r\n{}", VALIDATION),
    "a folded header": (b"X-A: b\r\n c\r\nContent-Length: 2\r\n\r\n{}", VALIDATION),
}
NO_HTTP = {
    "a TLS greeting": bytes.fromhex("16030100c8010000c40303") + b"\0" * 100,
    "an HTTP/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "HTTP/9.9": b"GET /drops HTTP/9.9\r\nHost: 127.0.0.1\r\n\r\n",
    "an unknown method": b"BREW /drops HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    "a small method": b"get /drops HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    "CONNECT": b"CONNECT evil.example:443 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    "a null byte in the path": b"GET /dr\0ps HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    "raw UTF-8 in the path": b"GET /dr\xc3\xb6ps HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    "only noise": b"\x00\xff\xfe\r\n\r\n",
    "bare line feeds": b"GET /drops HTTP/1.1\nHost: 127.0.0.1\n\n",
    "one bare line feed": b"GET /drops HTTP/1.1\r\nHost: 127.0.0.1\nX: y\r\n\r\n",
    "a bare carriage return": b"GET /drops HTTP/1.1\r\nHost: 127.0.0.1\rX: y\r\n\r\n",
    "HTTP/2.0 in words": b"GET /drops HTTP/2.0\r\nHost: 127.0.0.1\r\n\r\n",
    "chunks in HTTP/1.0": (
        b"POST /reservations HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(b"{}")
    ),
    "CONNECT and an upgrade": (
        b"CONNECT evil.example:443 HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"
    ),
}
HOST = b"Host: 127.0.0.1\r\n"
TOO_MUCH = {
    "a path of 70,000": (b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n" + HOST + b"\r\n", TOO_LONG),
    "a path of 8,193": (b"GET /" + b"a" * 8_192 + b" HTTP/1.1\r\n" + HOST + b"\r\n", TOO_LONG),
    "an endless path": (b"GET /" + b"a" * 200_000, TOO_LONG),
    "a long query": (b"GET /drops?" + b"x=1&" * 15_000 + b" HTTP/1.1\r\n\r\n", TOO_LONG),
    "a header of 17,000": (
        b"GET /drops HTTP/1.1\r\n" + HOST + b"X: " + b"a" * 17_000 + b"\r\n\r\n",
        HEADERS,
    ),
    "an endless header": (b"GET /drops HTTP/1.1\r\n" + HOST + b"X: " + b"a" * 200_000, HEADERS),
    "endless headers": (b"GET /drops HTTP/1.1\r\n" + b"X: aaaaaaaaaa\r\n" * 20_000, HEADERS),
    "101 headers": (b"GET /drops HTTP/1.1\r\n" + HOST + b"X: a\r\n" * 100 + b"\r\n", HEADERS),
}


@pytest.mark.parametrize("name", LIES)
async def test_a_body_is_not_what_its_headers_say(stage: Stage, name: str) -> None:
    rest, refusal = LIES[name]

    await _survives(stage, b"POST /reservations HTTP/1.1\r\nHost: 127.0.0.1\r\n" + rest, refusal)


@pytest.mark.parametrize("name", NO_HTTP)
async def test_what_is_not_http_gets_the_one_shape_too(stage: Stage, name: str) -> None:
    await _survives(stage, NO_HTTP[name], VALIDATION)


@pytest.mark.parametrize("name", TOO_MUCH)
async def test_a_head_beyond_all_measure_is_refused_before_its_end(stage: Stage, name: str) -> None:
    raw, refusal = TOO_MUCH[name]

    await _survives(stage, raw, refusal)


async def test_a_head_just_within_the_measure_is_read(stage: Stage) -> None:
    path = "/drops/999999?" + "x=1&" * 2_000
    headers = tuple(f"X-{n}: {'a' * 70}" for n in range(95))

    await _is_refused(stage, Attack("GET", path, None, headers, NOT_FOUND))


@pytest.mark.parametrize(("path", "status"), [("/nowhere", 404), ("/api/v1/drops", 200)])
async def test_an_offer_to_speak_websocket_is_ignored_where_there_is_none(
    stage: Stage, path: str, status: int
) -> None:
    upgrade = (
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Version: 13",
    )

    reply = await exchange(stage.service.port, Attack("GET", path, None, upgrade).raw({}))

    assert reply.status == status, reply.body
    assert status == 200 or reply.error == "NOT_FOUND"


async def _survives(stage: Stage, raw: bytes, refusal: tuple[int, str]) -> None:
    before = await stage.figures()

    reply = await exchange(stage.service.port, raw)

    assert (reply.status, reply.error) == refusal, reply.body[:500]
    assert reply.json["requestId"]
    assert await stage.figures() == before
    assert await stage.service.settled(stage.drop)
