"""Repair: make one drop right now, step by step, and say what was found. What the keepers do by
themselves within seconds, on demand; and the proof that lets a drop go on which the auditor paused.

Rows that do not add up are never changed by us: that needs a person who knows what happened.
"""

from __future__ import annotations

import msgspec

from engine.infra.errors import NotFound
from engine.infra.postgres import Postgres, Undone
from engine.infra.redis import Away
from engine.sale import seatmap, shelf, store
from engine.sale.audit import LARGE
from engine.sale.bouncer import Bouncer
from engine.sale.expire import expire_drop
from engine.sale.models import Offer, Proof
from engine.sale.prove import prove
from engine.sale.reconcile import REAP_BATCH, agree, close_intents, news, tell

RECONCILE = "velvetrope reconcile"


class Finding(msgspec.Struct, frozen=True):
    """One thing that was not as it should be; `done`: it was mended."""

    action: str  # expire, reap, recount, tell, seat, pause or resume; wait: for Redis
    count: int
    detail: str
    done: bool


class Repair(msgspec.Struct, frozen=True, rename="camel"):
    """What was found of a drop. `clean`: its rows add up."""

    drop_id: int
    dry_run: bool
    clean: bool
    problems: list[str]
    offenders: list[str]
    found: list[Finding]


async def repair(
    postgres: Postgres, bouncer: Bouncer, drop_id: int, *, dry_run: bool, thorough: bool = False
) -> Repair:
    """Look at one drop and mend what may be mended. `thorough`: count a large drop too, which takes
    seconds; otherwise the auditor's last count stands for it. Raises `NotFound`."""
    offers = await shelf.offers(postgres, [drop_id])
    if not offers:
        raise NotFound(f"There is no drop {drop_id}")
    found = [await _expire(postgres, bouncer, drop_id, dry_run)]
    try:
        found += [
            await _reap(postgres, bouncer, drop_id, dry_run),
            await _recount(bouncer, drop_id, dry_run),
            await _tell(postgres, bouncer, drop_id, dry_run),
            await _seat(postgres, bouncer, drop_id, dry_run),
        ]
    except Away:
        found.append(Finding("wait", 0, "the bouncer is away: Postgres sells alone", done=False))
    if thorough or offers[0].figures.total <= LARGE:
        proof = await prove(postgres, drop_id)
        if proof is not None:
            found.append(await _switch(postgres, bouncer, offers[0], proof, dry_run))
    else:
        # Too large to be counted within a request; on an older count nothing is switched.
        proof = await shelf.find_proof(postgres, drop_id)
        if offers[0].shut == "audit":
            found.append(Finding("resume", 0, f"to count it: {RECONCILE} {drop_id}", done=False))
    problems = [] if proof is None else proof.problems
    offenders = [] if proof is None else proof.offenders
    steps = [f for f in found if f is not None]
    return Repair(drop_id, dry_run, not problems, problems, offenders, steps)


async def _expire(
    postgres: Postgres, bouncer: Bouncer, drop_id: int, dry_run: bool
) -> Finding | None:
    due, _ = await store.count_due(postgres, drop_id)
    if due == 0:
        return None
    detail = "holds ran out and were not swept"
    try:
        ended = 0 if dry_run else await expire_drop(postgres, bouncer, drop_id)
    except Undone as undone:  # a drop whose figures do not add up cannot be swept
        return Finding("expire", due, f"{detail}: Postgres refuses ({undone.sqlstate})", done=False)
    return Finding("expire", due, detail, done=ended > 0)


async def _reap(
    postgres: Postgres, bouncer: Bouncer, drop_id: int, dry_run: bool
) -> Finding | None:
    stale = await bouncer.stale_intents(drop_id, REAP_BATCH)
    if not stale:
        return None
    if not dry_run:
        await close_intents(postgres, bouncer, drop_id, stale)
    return Finding("reap", len(stale), "intents were left behind by dead workers", not dry_run)


async def _recount(bouncer: Bouncer, drop_id: int, dry_run: bool) -> Finding | None:
    belief = await bouncer.inspect(drop_id, deep=True)
    if belief is None or (belief.open == belief.summed and belief.strays == 0):
        return None
    off = belief.open - belief.summed if dry_run else await bouncer.recount(drop_id)
    detail = "units were counted as on their way, more (or, negative, fewer) than there are intents"
    if not off and belief.strays:
        off, detail = (
            belief.strays,
            "named units were on nobody's way (or, negative, not on theirs)",
        )
    return Finding("recount", off, detail, not dry_run) if off else None


async def _tell(
    postgres: Postgres, bouncer: Bouncer, drop_id: int, dry_run: bool
) -> Finding | None:
    # The belief first, the truth second: then the belief can only be the older one.
    belief = await bouncer.inspect(drop_id)
    offer = (await shelf.offers(postgres, [drop_id]))[0]
    word = news(offer, belief)
    if word == "known":
        return None
    told = 0 if dry_run else await agree(postgres, bouncer, offer, belief)
    if belief is None:
        detail = "the bouncer knew nothing of this drop"
    elif word == "lost":
        detail = f"the bouncer knew of version {belief.version}: Postgres has lost history"
    else:
        detail = (
            f"the bouncer was at version {belief.version}, Postgres is at {offer.figures.version}"
        )
    return Finding("tell", 1, detail, told > 0)


async def _seat(
    postgres: Postgres, bouncer: Bouncer, drop_id: int, dry_run: bool
) -> Finding | None:
    """The bitmap of a named drop: loaded if it is missing, and if versions before it are."""
    belief = await bouncer.inspect(drop_id)
    if belief is None or not belief.missed:
        return None
    at = belief.seats_version
    detail = (
        "the bouncer did not know which units are free"
        if at < 0
        else f"the bouncer knew which units were free at version {at}, not at {belief.version}"
    )
    done = False if dry_run else await seatmap.load(postgres, bouncer, drop_id)
    return Finding("seat", 1, detail, done)


async def _switch(
    postgres: Postgres, bouncer: Bouncer, offer: Offer, proof: Proof, dry_run: bool
) -> Finding | None:
    """Pause what does not add up; let go on what the auditor had paused and adds up again."""
    broken, paused = bool(proof.problems), offer.shut == "audit"
    if broken == paused or (broken and offer.shut == "admin"):
        return None
    if not dry_run:
        if broken:
            await shelf.begin_pause(postgres, offer.drop_id, "audit")
        else:
            await shelf.end_pause(postgres, offer.drop_id, "audit")
        await tell(postgres, bouncer, [offer.drop_id])
    if broken:
        return Finding("pause", 1, "the rows do not add up: nobody may reserve", not dry_run)
    return Finding("resume", 1, "the rows add up again: the audit's pause ends", not dry_run)
