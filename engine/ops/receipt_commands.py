"""`velvetrope receipt …`: receipts of a membership, from the terminal."""

from __future__ import annotations

import sys
from typing import Annotated

import cyclopts
from cyclopts import Parameter

from engine.infra.settings import Settings, seconds_of
from engine.ops import terminal

receipt = cyclopts.App(
    name="receipt",
    help="""Receipts, for which `POST /mint` gives memberships: create, check.

RECEIPT_VERIFIER says who vouches for one: `none`, nobody; `hmac`, a shop's server that knows
RECEIPT_SECRET; `jws`, Apple, by the roots in RECEIPT_ROOTS.""",
)


@receipt.command
def create(
    *,
    transaction: Annotated[str, Parameter(help="what it is for, 1 to 128 visible characters")],
    bundle: Annotated[str, Parameter(help="the app (RECEIPT_BUNDLE_ID)")] = "",
    environment: Annotated[str, Parameter(help="where it is from (RECEIPT_ENVIRONMENT)")] = "",
    expires_in: Annotated[str, Parameter(help="it ends after 90s, 15m, 12h or 7d")] = "",
) -> None:
    """Print a receipt signed with RECEIPT_SECRET, for RECEIPT_VERIFIER=hmac.

    To try a mint, and to see what your own server must make. Needs no server.

    **Examples**

        velvetrope receipt create --transaction order-1000
        velvetrope receipt create --transaction order-1001 --bundle com.example.app --expires-in 15m
    """
    from engine.membership.receipts import create as make

    life_seconds = seconds_of(expires_in) if expires_in else None
    if expires_in and life_seconds is None:
        terminal.refuse(f"--expires-in {expires_in}: want 90s, 15m, 12h or 7d", terminal.MISUSED)

    async def work(given: Settings) -> None:
        made = make(
            given, transaction, bundle=bundle, environment=environment, life_seconds=life_seconds
        )
        print(made)

    terminal.run(work)


@receipt.command
def check(
    text: Annotated[str, Parameter(help="the receipt; without one it is read from stdin")] = "",
    /,
) -> None:
    """Say whether a receipt holds here and now, by this RECEIPT_VERIFIER, and what it is of.

    Nothing is minted, and whether it was used before is not looked at. Needs no server.

    **Examples**

        velvetrope receipt check "$RECEIPT"
        velvetrope receipt create --transaction order-1000 | velvetrope receipt check
    """
    from engine.membership.receipts import Verifier

    async def work(given: Settings) -> None:
        verifier = Verifier.of(given)
        found = await verifier.verify(text or sys.stdin.read().strip())
        terminal.say(f"hash         {found.hash.hex()}")
        terminal.say(f"transaction  {found.transaction_id or '– (it does not say)'}")
        if verifier.is_trusting:
            terminal.note("nobody vouches for it: RECEIPT_VERIFIER=none")

    terminal.run(work)
