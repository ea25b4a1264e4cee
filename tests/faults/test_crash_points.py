"""INV-3, INV-4, INV-7: at every message a process dies before, amid or after it; or it stops there
past every time-out, and then goes on as if nothing had happened.

`make crash-points` sweeps every point of every story, twice where it is passed twice. Here each
place is swept once with `kill`, and with `stop` where something is decided or told.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from engine.infra import lua, sql
from engine.infra.settings import Settings
from tests.support.seat_stories import STORIES
from tests.support.sweep import Deed, Point, Sweep

EVERYTHING = os.environ.get("CRASH_POINTS") == "all"
GROUPS = {
    "reserving": [
        "reserving",
        "too_late",
        "too_much",
        "suspected",
        "once_more",
        "forgotten",
        "without_redis",
        "reply_lost",
        "never_arrived",
        "connections_cut",
    ],
    "minting": ["minting", "minting_too_late"],
    "picking": ["picking", "picked_before", "opening_named"],
    "holding": ["buying", "paying_twice", "giving_back", "provider_speaks"],
    "answering once": ["giving_back_once", "extending", "paying", "refunding"],
    "operating": ["opening", "changing", "pausing", "closing"],
    "keeping": [story.name for story in STORIES.values() if story.command == "keep"],
}
LONG = {"keeping", "picking", "answering once"}
# Where something is decided, or told to the bouncer: admit, claim, settle, purchase, release, pay,
# sweep, reap, reconcile, publish.
DECIDING = {
    "admit",
    "claim_units",
    "claim_seats",
    "present_receipts",
    "mint_units",
    "fail_receipts",
    "abort_requests",
    "settle",
    "purchase_units",
    "release_holds",
    "commit",
    "settle_payments",
    "expire_holds",
    "stale_intents",
    "inspect",
    "seat",
}
# Messages of these three slices and of lua/ that no story comes by, and why none need.
READS = {
    "count_drops",
    "count_holds_of_buyer",
    "count_holds_of_drop",
    "count_keepers",
    "count_memberships",
    "count_purchases",
    "count_purchases_of_drop",
    "count_refunds",
    "count_reservations",
    "drops_pictured",
    "due_drops",
    "find_payments_of_hold",
    "find_holds_of",
    "find_membership_drops",
    "find_memberships",
    "find_proof",
    "is_there",
    "list_holds_of_buyer",
    "list_memberships",
    "list_memberships_of",
    "list_holds_of_drop",
    "list_purchases",
    "list_purchases_of_drop",
    "list_refunds",
    "list_reservations",
    "list_units",
    "recent_purchases",
    "vital_signs",
    "warmest",
}
LEFT = dict.fromkeys(READS, "a read for a page, a list or a log: nothing hangs on it") | {
    "begin_pause": "one statement of the auditor, true or not; then told as `reconciling` tells",
    "find_misnamed": "the auditor's, of drops whose units have names: read as `find_strays` is",
    "end_pause": "the terminal's: one statement, and a person who looks",
    "move_start": "the demo's",
    "timeline": "which of several hosts is the primary; asked before anything else is",
    "find_receipt": "a read for who asks too much: nothing hangs on it",
    "open_membership_drop": "with the drop, in its transaction: as `opening`",
    "revoke_membership": "an operator's, one statement with its request: as `pausing`",
    "lock_membership": "before one that changes it, in its transaction",
    "limit": "what one worker lets through, told to the others: a limit is off by a request",
    "recount": "an operator's repair of a sum that was damaged: it may be repeated",
}


@pytest.fixture
async def sweep(settings: Settings, template: str, tmp_path: Path) -> AsyncIterator[Sweep]:
    """Everything that a sweep needs."""
    async with Sweep.open(settings, template, tmp_path) as opened:
        yield opened


def _chosen(points: list[Point]) -> list[Point]:
    if EVERYTHING:
        return points
    once = list({point.where: point for point in reversed(points)}.values())
    return [point for point in once if point.message in DECIDING]


def test_every_story_is_in_a_group() -> None:
    assert sorted(name for names in GROUPS.values() for name in names) == sorted(STORIES)


@pytest.mark.slow
@pytest.mark.timeout(240)
async def test_every_message_of_the_sale_is_one_that_a_story_comes_by(sweep: Sweep) -> None:
    slices = ("engine", "record", "sale", "payments", "membership")
    there = {name for each in slices for name in sql.load(each)}
    there |= {file.stem for file in lua.folder().glob("*.lua")}

    points = await sweep.census(list(STORIES))

    reached = {point.message for point in points}
    for message in sorted(reached):  # what is sent comes back: each has its three phases
        phases = {point.where.rpartition(".")[2] for point in points if point.message == message}
        assert phases == {"before", "amid", "after"}, message
    assert there - reached == set(LEFT), "mend LEFT, or let a story come by"
    places = {point.where for point in points}
    print(f"Crash points: {len(places)} places, {len(points)} with what led there")


@pytest.mark.slow
@pytest.mark.timeout(3_000 if EVERYTHING else 400)
@pytest.mark.parametrize(
    "group",
    [
        # The longest by far: left to `make test-at-length`.
        pytest.param(g, marks=[pytest.mark.at_length] if g in LONG and not EVERYTHING else [])
        for g in GROUPS
    ],
)
@pytest.mark.parametrize(
    "deed", [pytest.param("stop", marks=[] if EVERYTHING else pytest.mark.at_length), "kill"]
)
async def test_whoever_ends_at_a_message_strands_nothing_and_makes_no_answer_untrue(
    sweep: Sweep, deed: Deed, group: str
) -> None:
    points = _chosen(await sweep.census(GROUPS[group]))

    wrong = await sweep.run(points, deed)

    print(f"Crash points covered {len(points) - len(wrong)}/{len(points)} ({deed}): {group}")
    assert points
    assert not wrong, "\n".join(wrong)
