"""HTTP in, verb, HTTP out: a receipt becomes a membership."""

from __future__ import annotations

from engine.identity import arguments
from engine.identity.access import buyer_named, require
from engine.identity.parts import Parts
from engine.infra.errors import Forbidden
from engine.infra.http import Answer, Call, invalid
from engine.infra.routing import Route
from engine.membership import mint_bodies as bodies
from engine.membership import mint_described as described
from engine.membership.errors import InvalidReceipt
from engine.membership.member_views import MintedView, membership_view
from engine.membership.mint import Minted, Minting
from engine.membership.models import Mint, Receipt
from engine.membership.printed import printed
from engine.membership.receipts import Verifier, digest
from engine.record.idempotency import REPLAYED
from engine.sale.bouncer import Bouncer


class MintRoutes:
    """The handler, and what it needs."""

    def __init__(self, parts: Parts, bouncer: Bouncer) -> None:
        settings = parts.settings
        self._door, self._turns = parts.door, parts.turns
        self._tier = (settings.drop_tier, settings.drop_year)
        self._verifier = Verifier.of(settings)
        self._minting = Minting(
            parts.postgres, bouncer, parts.crew, settings.request_deadline_ms / 1000
        )

    def routes(self) -> list[Route]:
        """The table: operation, method, path, handler."""
        route = Route("mint", "POST", "/mint", self.mint, described.MINT)
        return [printed(self._turns.urgent(route))]

    async def mint(self, call: Call) -> Answer:
        """Mint a receipt: its number, once.

        201 with a new membership; 200 with the one that this receipt, or another one of the same
        original transaction, has become. The receipt is its own idempotency key. One that failed
        may be presented again. Without `dropId` it is a number of DROP_TIER and DROP_YEAR."""
        caller = await self._door.caller(call)
        require(caller, "membership")
        body = bodies.mint_body(call)
        text, transaction, drop_id = body.receipt, body.transaction, body.drop
        buyer = buyer_named(caller, body.buyer)
        if buyer is None:
            raise invalid("userId", "required: whose receipt is it?")
        if self._verifier.is_trusting and caller.kind == "buyer":
            raise Forbidden("Receipts are not verified here: a shop's server mints")
        arguments.charge(call, caller, buyer)
        try:
            receipt = await self._verifier.verify(text)
        except InvalidReceipt:  # it may have been good, and is too old by now
            # What it is of nobody vouches for: whoever names a transaction learns nothing of it.
            known = await self._minting.known(Mint(Receipt(digest(text)), None, buyer, 0))
            if known is None:
                raise
            return _answer(known)
        if receipt.transaction_id is not None and transaction not in (None, receipt.transaction_id):
            raise InvalidReceipt("Invalid receipt: it is of another transaction")
        wish = Mint(
            receipt,
            receipt.transaction_id or transaction,
            buyer,
            drop_id or await self._minting.drop_of(*self._tier),
        )
        return _answer(await self._minting.mint(wish, call.over))


def _answer(minted: Minted) -> Answer:
    view = MintedView("FULFILLED", membership_view(minted.membership))
    return Answer(view, 201) if minted.is_new else Answer(view, 200, [REPLAYED])
