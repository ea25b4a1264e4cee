"""The judgement after a load test: what buyers were told, the stock row and the audit agree."""

from __future__ import annotations

from typing import Any

import msgspec

from loadtest.promises import Promises
from loadtest.till import Reckoning


class Evidence(msgspec.Struct, kw_only=True):
    """All that is known at the end."""

    stock: dict[str, int]
    audit: dict[str, Any]
    sold_before: int
    promises: Promises
    failures: list[str]  # answers and errors that nobody expects
    purchased: int  # units of all purchases of the drop that stand
    reckoning: Reckoning | None  # None: nobody paid, buyers confirmed their holds
    unsettled: str  # what was still under way when patience ended; "" if all came to rest


def unsettled(audit: dict[str, Any], since: str, *, await_holds: bool) -> str:
    """What is still under way, or ""; `since` is when the last buyer left, by the server's clock.

    With `await_holds` the last hold has to have ended, too.
    """
    bouncer = audit["bouncer"]
    if audit["provenAt"] <= since:
        return "the rows were not counted again yet"
    if bouncer is None:
        return "the bouncer is away"
    if audit["overdueSeconds"] > 0:
        return f"a hold is {audit['overdueSeconds']} s past its deadline"
    if bouncer["openIntents"]:
        return f"the bouncer has {bouncer['openIntents']} open intents"
    if audit["drift"] or bouncer["available"] != audit["free"]:
        return f"the bouncer offers {bouncer['available']} of {audit['free']} free units"
    if await_holds and audit["held"]:
        return f"{audit['held']} units are still held"
    return ""


def judge(evidence: Evidence) -> list[str]:
    """What does not add up, in words; empty: everything does."""
    stock, audit, promises = evidence.stock, evidence.audit, evidence.promises
    parts = [stock[f"{name}Stock"] for name in ("available", "held", "sold", "withdrawn")]
    sold = stock["soldStock"] - evidence.sold_before
    told = promises.units_bought - promises.units_returned
    unknown, undone = promises.unanswered("purchase"), promises.unanswered("refund")
    checks = [
        (promises.holds > 0, "nobody was given anything"),
        (audit["clean"], f"the audit says: {'; '.join(audit['problems'])}"),
        (
            sum(parts) == stock["totalStock"] == audit["totalStock"],
            f"free, held, sold and withdrawn are {parts}, the total is {audit['totalStock']}",
        ),
        (
            sold >= told - undone,
            f"buyers were told of {told} bought units, the stock shows {sold}",
        ),
        (
            sold <= told + unknown,
            f"{sold} units are sold, but buyers were told of {told} "
            f"and lost answers explain {unknown} more",
        ),
        (
            stock["soldStock"] == evidence.purchased,
            f"{stock['soldStock']} units are sold, purchases hold {evidence.purchased}",
        ),
        (not evidence.unsettled, f"it does not come to rest: {evidence.unsettled}"),
        (
            not promises.above_limit,
            f"{len(promises.above_limit)} buyers were given more than the limit",
        ),
    ]
    if (paid := evidence.reckoning) is not None:
        checks += _books(paid)
    broken = [sentence for holds, sentence in checks if not holds]
    return [*broken, *promises.problems, *evidence.failures]


def _books(paid: Reckoning) -> list[tuple[bool, str]]:
    """What must hold of the provider's books beside the shop's."""
    found = paid.differences
    return [
        (not found.without, f"paid without unit or refund: {_some(found.without)}"),
        (not found.twice, f"charged twice without refund: {_some(found.twice)}"),
        (not found.both, f"bought, and owed back as well: {_some(found.both)}"),
        (not paid.still_owed, f"paid back, and still owed: {_some(paid.still_owed)}"),
        (not paid.never_told, f"{paid.never_told} callbacks never reached the shop"),
        (not paid.busy, f"{paid.busy} payments were under way when patience ended"),
    ]


def _some(names: list[str]) -> str:
    return f"{len(names)} ({' '.join(names[:3])}{' …' if len(names) > 3 else ''})"


def told(evidence: Evidence, problems: list[str]) -> str:
    """The verdict for a person."""
    if problems:
        return "\n".join(["verdict: BROKEN", *(f"  - {problem}" for problem in problems)])
    stock, promises = evidence.stock, evidence.promises
    lost = ", ".join(f"{n} of {verb}" for verb, n in promises.unanswered_requests().items())
    return "\n".join(
        [
            "verdict: clean",
            f"  {stock['totalStock']:,} units: {stock['soldStock']:,} sold, "
            f"{stock['heldStock']:,} held, {stock['availableStock']:,} free; "
            f"buyers were told of {promises.units_bought:,} bought and "
            f"{promises.units_returned:,} refunded",
            f"  units sold = purchases: {stock['soldStock']:,} = {evidence.purchased:,}",
            *_paid(evidence.reckoning),
            f"  {promises.holds:,} holds: no unit twice at one time, no buyer above the limit, "
            f"{promises.replays:,} repeats answered as before",
            "  audit clean, nothing overdue, the bouncer agrees; "
            f"requests without a definite answer: {lost or 'none'}",
        ]
    )


def _paid(paid: Reckoning | None) -> list[str]:
    if paid is None:
        return [
            "  nobody paid: no mock provider is known there, or --payments none; buyers confirmed"
        ]
    return [
        f"  {paid.charged:,} payments; paid without unit or refund: 0; "
        "charged twice without refund: 0",
        f"  {paid.owed:,} refunds were due, and were paid back when all had left",
    ]
