"""The door: from a request's headers to a `Caller`, and which buyer it may act for."""

from __future__ import annotations

import re
from collections.abc import Collection

import msgspec

from engine.identity.apikeys import ApiKeys
from engine.identity.errors import TokenExpired
from engine.identity.models import Caller, is_buyer
from engine.identity.signing import Signing
from engine.identity.tokens import Tokens
from engine.identity.trail import Trail
from engine.identity.watch import Watch
from engine.infra.addresses import Addresses
from engine.infra.combiner import Crew
from engine.infra.errors import Fault, Forbidden, OutcomeUnknown, Unauthorized
from engine.infra.gate import Gate
from engine.infra.http import Call, invalid
from engine.infra.postgres import Postgres
from engine.infra.settings import Settings

OPEN = Caller("open")
ANYBODY = Caller("anybody")
_LOOPBACK = re.compile(rb"(https?://)?(localhost|127(\.\d{1,3}){3}|\[::1\])(:\d{1,5})?")

_LOCAL = re.compile(r"(::ffff:)?127(\.\d{1,3}){3}|::1")
FORWARDED = frozenset(
    {b"forwarded", b"x-forwarded-for", b"x-forwarded-host", b"x-real-ip", b"via", b"origin"}
)


class Door:
    """Knows both credentials and the `AUTH` mode, and keeps the trail of those let in."""

    def __init__(self, settings: Settings, postgres: Postgres, crew: Crew, watch: Watch) -> None:
        self._open = settings.auth == "open"
        self._loopback = {f"{host}:{settings.port}".encode() for host in ("127.0.0.1", "localhost")}
        self._tokens = Tokens.of(settings)
        self._keys = ApiKeys(postgres, crew)
        self.trail = Trail(postgres, crew, Addresses(settings.trusted_proxies))
        self.signing = Signing(settings, postgres, crew)
        self._gate = Gate(settings)
        self._watch = watch
        watch.tell_of_keys(self._keys.forget)

    async def caller(self, call: Call) -> Caller:
        """Who calls. A credential that is sent must be good, also with AUTH=open."""
        headers = call.headers
        if self._open:
            self._check_origin(call)
        if (given := headers.get(b"authorization")) is not None:
            scheme, _, token = given.decode("latin-1").partition(" ")
            if scheme.lower() != "bearer":
                raise Unauthorized("Authorization must be 'Bearer <token>'")
            caller = self._bearer(call, token.strip())
            if caller.session:
                caller = await self._watch.caller(caller, b"idempotency-key" in call.headers)
            if call.budgets is not None:
                call.budgets.charge(call, caller.kind, caller.subject)
            return self._seen(call, caller)
        if (key := headers.get(b"x-api-key")) is not None:
            return self._seen(call, await self._shop(call, key.decode("latin-1")))
        return OPEN if self._open else ANYBODY

    def _seen(self, call: Call, caller: Caller) -> Caller:
        """What a credential is worth from there: nobody operates from outside of ADMIN_NETWORKS."""
        if not caller.may("admin") or self._gate.is_inside(call):
            return caller
        if caller.kind == "admin":
            return msgspec.structs.replace(caller, kind="buyer")
        return msgspec.structs.replace(caller, scopes=caller.scopes - {"admin"})

    async def is_operator(self, call: Call) -> bool:
        """Whether an operator calls. A bad credential is refused."""
        return (await self.caller(call)).may("admin")

    async def admit_operator(self, call: Call) -> None:
        """Refuse whoever is none."""
        require_admin(await self.caller(call))

    # ── who listens ──────────────────────────────────────────────────────────────────────────

    def listener(self, token: str | None, named: object) -> Caller:
        """Who wants to hear what is his, as far as can be said at once: a session's standing may
        have to be asked for (`still`). Raises `Unauthorized`, `Invalid`."""
        if token is not None:
            return self._watch.not_ended(self._tokens.caller(token))
        buyer = as_buyer(named) if self._open else None
        if buyer is None:
            raise Unauthorized("auth: want userId" if self._open else "auth: want a token")
        return Caller("open", buyer)

    async def still(self, listener: Caller) -> None:
        """Whether he may hear it. Raises `Unauthorized`, `Fault`."""
        if listener.session:
            await self._watch.caller(listener)

    async def over(self, sessions: Collection[str]) -> set[str]:
        """Which of these sessions have ended, as far as it is known. Raises `Fault`."""
        return await self._watch.over(sessions)

    # ── credentials ──────────────────────────────────────────────────────────────────────────

    def _bearer(self, call: Call, token: str) -> Caller:
        """A token's caller. Good ones are let in whatever their neighbours try: no number of
        attempts finds a key of 32 bytes, and none costs a query."""
        try:
            return self._tokens.caller(token)
        except TokenExpired:  # it was good: nobody guesses
            raise
        except Unauthorized:
            if call.budgets is not None:
                call.budgets.check_guesser(call)
                call.budgets.failed(call)
            raise

    async def _shop(self, call: Call, key: str) -> Caller:
        """A key's shop, which pays for the request. One that is not remembered costs a query."""
        known = self._keys.remembered(key) if self._watch.is_fresh else None
        if known is None or known.must_sign:
            if known is None and call.budgets is not None:
                call.budgets.check_guesser(call)
            try:
                known = known or await self._keys.caller(key)
                if known.must_sign:  # before its budget pays: who has but the key may not use it up
                    await self.signing.check(call, known.id)
            except Unauthorized:
                if call.budgets is not None:
                    call.budgets.failed(call)
                raise
            except Fault:  # an earlier copy of a keyed request may have been done
                if b"idempotency-key" in call.headers:
                    raise OutcomeUnknown from None
                raise
        caller = known.caller
        if call.budgets is not None:
            call.budgets.charge(call, caller.kind, caller.subject)
        return caller

    def _check_origin(self, call: Call) -> None:
        """With AUTH=open a web page elsewhere must not reach us through a rebound name."""
        headers = call.headers
        if (
            headers.get(b"host") in self._loopback
            and b"origin" not in headers
            and len(headers) == len(call.scope["headers"])
        ):
            return  # as nearly always: our own address, and no header twice
        for name, given in call.scope["headers"]:
            if name in {b"host", b"origin"} and _LOOPBACK.fullmatch(given) is None:
                raise Forbidden(f"AUTH=open answers loopback only: {name.decode()} is not loopback")


def is_loopback_name(given: bytes) -> bool:
    """Whether a Host or an Origin names this machine."""
    return _LOOPBACK.fullmatch(given) is not None


def is_next_door(call: Call) -> bool:
    """Whether a call comes from this machine itself: past no proxy that says so, and not by a web
    page that reaches us through a rebound name."""
    host, _ = call.scope.get("client") or ("", 0)
    return (
        _LOCAL.fullmatch(host) is not None
        and not FORWARDED & call.headers.keys()
        and _LOOPBACK.fullmatch(call.headers.get(b"host", b"")) is not None
    )


def require(caller: Caller, scope: str) -> None:
    """Refuse a caller whose credential does not cover a scope."""
    if caller.kind == "anybody":
        raise Unauthorized
    if not caller.may(scope):
        if caller.kind == "shop":
            raise Forbidden(f"This key lacks the scope `{scope}`", scope=scope)
        raise Forbidden


def require_admin(caller: Caller) -> None:
    """Refuse all but admins (and shops whose key says so)."""
    require(caller, "admin")


def buyer_named(caller: Caller, named: object) -> str | None:
    """The buyer a call is about: a JWT's own id, or the one a shop or an open caller names.

    None: nobody was named, and the caller may stand for an object's owner.
    """
    buyer = as_buyer(named)
    if caller.kind in ("buyer", "admin"):
        if buyer is not None and buyer != caller.subject:
            raise Forbidden("A token acts for its own buyer id only")
        return caller.subject
    return buyer


def as_buyer(named: object) -> str | None:
    """A buyer's id from what was named, None for None; 400 for what can be none."""
    if named is None:
        return None
    text = str(named)
    if not is_buyer(text):
        raise invalid("userId", "want 1 to 128 printable characters")
    return text
