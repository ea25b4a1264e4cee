"""Deeds: whatever an operator does or looks up is told: who, what, and how it ended.

    admin.action  who=admin:ops operation=pause drop_id=20 outcome=done status=200 request_id=…

A line for each, and for what changes something two rows of the audit log as well (trail.py): one
before it, without which nothing is done, and one after it.

`who` is the kind of caller with a token's subject or a key's id, never a secret. What was to be
changed stands in `change`, without secrets, unless they might not. Buyers are never named: the
request id finds them; an account that tries what it may not is known in the audit log by its id.
"""

from __future__ import annotations

import msgspec
import structlog

from engine.identity.access import Door
from engine.identity.models import Caller
from engine.identity.trail import change_of
from engine.identity.trail_store import Act, Ended
from engine.infra.errors import Fault, Forbidden, OutcomeUnknown, Problem, Retryable, Unauthorized
from engine.infra.http import Answer, Call
from engine.infra.ids import parse_id
from engine.infra.routing import Route

log = structlog.get_logger()

CHANGE_LENGTH_MAX = 2_000
REFUSED = (Unauthorized.status, Forbidden.status)


class _Made(msgspec.Struct):
    id: int | str | None = None


def told(door: Door, route: Route, scope: str | None = None) -> Route:
    """The route of an operator, with a line for each use of it and, if it changes something, its
    rows in the audit log. Put it inside of a turn: then they tell what became of it, also when the
    caller was told that it took too long. `scope` is what an operator needs for it, if that is
    more than what everybody does who may use it."""
    handler, operation = route.handler, route.operation
    if scope is None and route.about is not None:
        scope = route.about.who
    scope = "admin" if scope in (None, "anybody") else str(scope)

    async def deed(call: Call) -> Answer:
        changes = call.scope["method"] not in ("GET", "HEAD")
        try:
            caller = await door.caller(call)
        except (Unauthorized, Forbidden) as no:
            if changes:
                act = door.trail.act(call, "nobody", operation)
                door.trail.refused(act, Ended(no.code, no.status), known=False)
            raise
        who, began = who_is(caller), None
        act = door.trail.act(call, named(caller), operation)
        if changes and caller.may(scope):
            act = door.trail.act(call, who, operation, change_of(call.body))
            began = await _begin(door, act, call)
        try:
            answer = await handler(call)
        except Exception as wrong:
            problem = wrong if isinstance(wrong, Problem) else Problem()
            tell(who, operation, call, problem.code, problem.status)
            if changes and began is None and problem.status in REFUSED:
                known = caller.kind != "anybody"
                door.trail.refused(act, Ended(problem.code, problem.status), known)
            await door.trail.end(began, act, Ended(problem.code, problem.status))
            raise
        tell(who, operation, call, "done", answer.status, answer)
        await door.trail.end(began, act, Ended("done", answer.status, _made(answer)))
        return answer

    return msgspec.structs.replace(route, handler=deed)


def told_of_others(door: Door, route: Route) -> Route:
    """The same for what is done to the account in the path: who changes his own acts for
    himself."""
    deed = told(door, route)

    async def handler(call: Call) -> Answer:
        caller = await door.caller(call)
        return await (route if is_own(caller, call) else deed).handler(call)

    return msgspec.structs.replace(route, handler=handler)


def is_own(caller: Caller, call: Call) -> bool:
    """Whether the account in the path is the caller's own."""
    id = parse_id(call.params.get("id", ""))
    return id is not None and caller.kind in ("buyer", "admin") and caller.subject == id


async def _begin(door: Door, act: Act, call: Call) -> int | None:
    try:
        return await door.trail.begin(act)
    except Fault as fault:  # an earlier copy of a keyed request may have been done
        late = OutcomeUnknown if call.idempotency_key() is not None else Retryable
        raise late from fault


def who_is(caller: Caller) -> str:
    """A caller in one word: `admin:ops`, `shop:key:…`, `open`; a buyer who tries it has no name."""
    return f"{caller.kind}:{caller.subject}" if caller.kind in ("admin", "shop") else caller.kind


def named(caller: Caller) -> str:
    """The same with the id of an account, which is nobody's name."""
    is_account = caller.kind == "buyer" and parse_id(caller.subject) is not None
    return f"buyer:{caller.subject}" if is_account else who_is(caller)


def _made(answer: Answer) -> str | None:
    """The id of what was made, if the answer says so."""
    if answer.status != 201:
        return None
    try:
        id = msgspec.json.decode(answer.body, type=_Made).id
    except msgspec.MsgspecError:
        return None
    return None if id is None else str(id)


def _change(body: bytes) -> object:
    """What was sent, without secrets, as the terminal's lines have it too; cut short if it is
    long."""
    change = change_of(body)
    told = msgspec.json.encode(change)
    return (
        change
        if len(told) <= CHANGE_LENGTH_MAX
        else told[:CHANGE_LENGTH_MAX].decode("utf-8", "replace")
    )


def tell(
    who: str, operation: str, call: Call, outcome: str, status: int, answer: Answer | None = None
) -> None:
    """The line itself."""
    drop_id = call.drop_id
    if operation == "create_drop" and answer is not None:
        drop_id = int(_made(answer) or 0) or None
    change = _change(call.body) if status not in REFUSED and call.body else None
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
