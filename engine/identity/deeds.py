"""Deeds: a full line for whatever an operator does or looks up: who, what, and how it ended.

    admin.action  who=admin:ops operation=pause drop_id=20 outcome=done status=200 request_id=…

`who` is the kind of caller with a token's subject or a key's id, never a secret. What was to be
changed stands in `change`, as it was sent, unless they might not. Buyers are never named: the
request id finds them.
"""

from __future__ import annotations

import msgspec
import structlog

from engine.identity.access import Door
from engine.identity.models import Caller
from engine.infra.errors import Forbidden, Problem, Unauthorized
from engine.infra.http import Answer, Call
from engine.infra.ids import parse_id
from engine.infra.routing import Route

log = structlog.get_logger()

CHANGE_LENGTH_MAX = 2_000
# What is whose, and nobody's to keep: who is erased cannot be erased from a log.
PERSONAL = frozenset(
    {
        *("email", "phone", "username", "displayName", "display_name", "password"),
        *("privyId", "privy_id", "walletAddress", "wallet_address", "userEmail", "user_email"),
    }
)
HIDDEN = "…"


class _Made(msgspec.Struct):
    id: int | None = None


def told(door: Door, route: Route) -> Route:
    """The route of an operator, with a line for each use of it. Put it inside of a turn: then the
    line tells what became of it, also when the caller was told that it took too long."""
    handler, operation = route.handler, route.operation

    async def deed(call: Call) -> Answer:
        who = who_is(await door.caller(call))
        try:
            answer = await handler(call)
        except Problem as problem:
            tell(who, operation, call, problem.code, problem.status)
            raise
        except Exception:
            tell(who, operation, call, Problem.code, Problem.status)
            raise
        tell(who, operation, call, "done", answer.status, answer)
        return answer

    return msgspec.structs.replace(route, handler=deed)


def who_is(caller: Caller) -> str:
    """A caller in one word: `admin:ops`, `shop:key:…`, `open`; a buyer who tries it has no name."""
    return f"{caller.kind}:{caller.subject}" if caller.kind in ("admin", "shop") else caller.kind


def _change(body: bytes) -> object:
    """What was sent, as the terminal's lines have it too, but for what is personal; cut short if
    it is long, or no JSON."""
    try:
        if len(body) <= CHANGE_LENGTH_MAX:
            sent = msgspec.json.decode(body)
            if not isinstance(sent, dict):
                return sent
            return {name: HIDDEN if name in PERSONAL else it for name, it in sent.items()}
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        pass
    return body[:CHANGE_LENGTH_MAX].decode(errors="replace")


def tell(
    who: str, operation: str, call: Call, outcome: str, status: int, answer: Answer | None = None
) -> None:
    """The line itself."""
    drop_id = call.drop_id
    if operation == "create_drop" and answer is not None:
        drop_id = msgspec.json.decode(answer.body, type=_Made).id
    is_operator = status not in (Unauthorized.status, Forbidden.status)
    change = _change(call.body) if is_operator and call.body else None
    thing = parse_id(call.params.get("id", ""))  # a purchase; what is none may be a buyer's name
    log.info(
        "admin.action",
        who=who,
        operation=operation,
        drop_id=drop_id,
        **({} if thing is None else {"id": thing}),
        **({} if change is None else {"change": change}),
        outcome=outcome,
        status=status,
        request_id=call.request_id,
    )
