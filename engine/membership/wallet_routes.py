"""HTTP in, verb, HTTP out: the web service that Apple's wallets speak with, as Apple specifies it.

It knows no buyers and no keys: whoever has a pass has the token that stands in it.
"""

from __future__ import annotations

from engine.identity.parts import Parts
from engine.infra.errors import Unauthorized
from engine.infra.http import Answer, Call
from engine.infra.routing import Route
from engine.membership import pass_bodies as bodies
from engine.membership import pass_described as described
from engine.membership import wallet
from engine.membership.models import Membership
from engine.membership.passes import MEDIA_TYPE, Passes, Tokens

REGISTRATIONS = "/wallet/v1/devices/{device}/registrations/{kind}"
# Each look is a new one, at the pass as it is now.
LOOK = (b"cache-control", b"private, no-cache")


class WalletRoutes:
    """The handlers, and what they need."""

    def __init__(self, parts: Parts, passes: Passes) -> None:
        self._turns, self._passes = parts.turns, passes
        self._tokens = Tokens(parts.settings)
        self._wallets = wallet.Wallets(parts.settings, parts.postgres)

    def routes(self) -> list[Route]:
        """The table: operation, method, path, handler. Who waits for a signature has no turn."""
        one = REGISTRATIONS + "/{id}"
        calm = [
            Route("register_pass", "POST", one, self.register, described.REGISTER),
            Route("unregister_pass", "DELETE", one, self.unregister, described.UNREGISTER),
            Route("changed_passes", "GET", REGISTRATIONS, self.changed, described.SERIALS),
        ]
        latest = Route(
            "latest_pass", "GET", "/wallet/v1/passes/{kind}/{id}", self.latest, described.LATEST
        )
        return [
            *(self._turns.calm(route) for route in calm),
            self._turns.urgent(latest),
            Route("wallet_log", "POST", "/wallet/v1/log", self.log, described.LOG),
        ]

    async def register(self, call: Call) -> Answer:
        """A device wants to hear of changes of a pass.

        201 the first time, 200 after that. We cannot push: the device finds out when it asks."""
        id = self._admit(call)
        device, push_token = bodies.word_in_path(call, "device"), bodies.register_body(call).push
        found = _alive(await self._membership(call, id))
        is_new = await self._wallets.register(device, found, push_token)
        return Answer(status=201 if is_new else 200)

    async def unregister(self, call: Call) -> Answer:
        """A device does not want to hear of a pass any more, live or revoked."""
        id = self._admit(call)
        device = bodies.word_in_path(call, "device")
        await self._wallets.unregister(device, await self._membership(call, id))
        return Answer()

    async def changed(self, call: Call) -> Answer:
        """The serials of a device's passes that changed, and a tag to ask with the next time.

        204 if none did. What a device is called is its own secret: it needs no other."""
        device, kind = bodies.word_in_path(call, "device"), bodies.word_in_path(call, "kind")
        tag, serials = await self._wallets.changed(device, kind, bodies.since(call))
        return Answer(described.SerialsView(tag, serials)) if serials else Answer(status=204)

    async def latest(self, call: Call) -> Answer:
        """A pass as it is now.

        304 if it is what the device has; 401 once the membership has been revoked."""
        id = self._admit(call)
        async with self._turns.turn():
            found = await self._membership(call, id)
        made = await self._passes.of(_alive(found))
        headers = [
            (b"last-modified", wallet.http_date(made.changed_at)),
            (b"etag", made.etag),
            LOOK,
        ]
        if wallet.is_unchanged(call.headers, made.etag, made.changed_at):
            return Answer(status=304, headers=headers)
        return Answer(made.data, 200, [made.disposition, *headers], MEDIA_TYPE)

    async def log(self, call: Call) -> Answer:
        """What a wallet complains of. It is written to our log, cut short, without secrets."""
        wallet.complain(bodies.log_body(call).lines)
        return Answer()

    def _admit(self, call: Call) -> str:
        """The membership whose token a call shows. Raises `Unauthorized`, whether or not there is
        such a pass; who shows wrong ones is counted as who guesses."""
        scheme, _, token = call.headers.get(b"authorization", b"").decode("latin-1").partition(" ")
        id = bodies.membership_in_path(call)
        is_token = scheme.lower() == "applepass"
        if is_token and id is not None and self._tokens.opens(token.strip(), id):
            return id
        if is_token and call.budgets is not None:
            call.budgets.check_guesser(call)
            call.budgets.failed(call)
        raise Unauthorized("Authorization must be 'ApplePass <token>', with the token of this pass")

    async def _membership(self, call: Call, id: str) -> Membership:
        return await self._wallets.membership(call.params["kind"], call.params["id"], id)


def _alive(found: Membership) -> Membership:
    if found.revoked_at is not None:
        raise Unauthorized("Membership has been revoked")
    return found
