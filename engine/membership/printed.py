"""Statuses as the README of VYRIS prints them: on these routes a body that cannot be understood is
422, what is not yours is 401, and a failure of ours that took nothing is 500 RETRYABLE.

A receipt is its own key, so only who gave it up (`MintFailed`) knows that no copy of it was minted:
of any other failure the outcome is unknown."""

from __future__ import annotations

import msgspec

from engine.infra.errors import Forbidden, Invalid, OutcomeUnknown, Retryable
from engine.infra.http import Answer, Call
from engine.infra.routing import Route
from engine.membership.errors import Failed, InvalidReceipt, MintFailed, NotTheirs, Unreadable


def printed(route: Route) -> Route:
    """The route with those statuses."""
    handler, mints = route.handler, route.operation == "mint"

    async def answer(call: Call) -> Answer:
        try:
            return await handler(call)
        except (InvalidReceipt, MintFailed, Failed):
            raise
        except Invalid as wrong:
            if mints:
                raise InvalidReceipt(f"Invalid receipt: {wrong.message}", **wrong.details) from None
            raise Unreadable(wrong.message, **wrong.details) from None
        except Forbidden as no:
            raise NotTheirs(no.message) from None
        except Retryable as fault:
            raise (OutcomeUnknown() if mints else Failed()) from fault

    return msgspec.structs.replace(route, handler=answer)
