"""Preflight: look at everything a sale stands on, before it hurts.

    velvetrope preflight    everything, as a table
    serve, keep, dev        what would hurt the sale refuses the start; the rest is logged once

Redis that does not answer refuses nothing: the engine sells from Postgres alone meanwhile.
"""

from __future__ import annotations

import asyncio

import structlog

from engine.infra.errors import Misconfigured
from engine.infra.settings import Settings
from engine.ops import doorstep, findings, pass_findings, probes, replica
from engine.ops.findings import Finding
from engine.ops.probes import Unseen

log = structlog.get_logger()


async def everything(settings: Settings) -> list[Finding]:
    """All findings, the two servers looked at side by side."""
    postgres, reads, bouncer = await asyncio.gather(
        _postgres(settings), replica.look(settings), _bouncer(settings)
    )
    return [
        *postgres,
        *reads,
        *bouncer,
        *findings.secrets(settings),
        pass_findings.passes(settings),
        doorstep.reach(settings),
        doorstep.proxies(settings),
        doorstep.receipts(settings),
        *findings.machine(probes.files_max(), probes.cpus(), settings),
    ]


async def at_start(settings: Settings, *, secrets: bool) -> None:
    """The short form: raise `Misconfigured` with the first finding that refuses, log the others.

    A keeper needs no secrets, and signs no passes.
    """
    postgres, reads, bouncer = await asyncio.gather(
        _postgres(settings), replica.look(settings), _bouncer(settings)
    )
    own = [*findings.secrets(settings), pass_findings.passes(settings)] if secrets else []
    found = [*own, *postgres, *reads, *bouncer]
    if refusing := [each for each in found if each.refuses]:
        raise Misconfigured(refusing[0].line)
    for each in found:
        if each.verdict != "ok" and each.check != "keepers":  # they may well start after us
            log.warning("preflight.warning", check=each.check, found=each.found, mend=each.mend)


async def given_servers(settings: Settings) -> list[str]:
    """For `make run` beside servers of somebody's own: raise what refuses, return the warnings.

    Here a server that does not answer is a URL that was just mistyped. Migrations come next.
    """
    looks = [
        *([_postgres(settings, migrated=False)] if settings.database_url else []),
        *([_bouncer(settings)] if settings.redis_url else []),
    ]
    found = [each for seen in await asyncio.gather(*looks) for each in seen]
    for each in found:
        if each.refuses or (each.check in ("DATABASE_URL", "REDIS_URL") and each.verdict == "fail"):
            raise Misconfigured(each.line)
    return [each.line for each in found if each.verdict != "ok"]


async def _postgres(settings: Settings, *, migrated: bool = True) -> list[Finding]:
    if not settings.database_url:
        return [_nowhere("DATABASE_URL")]
    where = doorstep.masked(settings.database_url)
    try:
        seen = await probes.postgres(settings)
    except Unseen as why:
        mend = "start it, or mend DATABASE_URL"
        return [Finding("DATABASE_URL", "fail", f"no Postgres at {where} ({why})", mend, True)]
    return [
        Finding("DATABASE_URL", "ok", where),
        *findings.server(seen.server, settings),
        *(findings.schema(seen.schema) if migrated else []),
        findings.clock("postgres", seen.clock.skew_seconds, seen.clock.round_trip_seconds),
    ]


async def _bouncer(settings: Settings) -> list[Finding]:
    if not settings.redis_url:
        return [_nowhere("REDIS_URL")]
    where = doorstep.masked(settings.redis_url)
    try:
        seen = await probes.bouncer(settings)
    except Unseen as why:
        mend = "start it, or mend REDIS_URL; until then Postgres decides alone"
        return [Finding("REDIS_URL", "fail", f"no Redis or Valkey at {where} ({why})", mend)]
    found = [Finding("REDIS_URL", "ok", where), *findings.redis(seen.info, seen.config)]
    if seen.clock is not None:
        skew, took = seen.clock.skew_seconds, seen.clock.round_trip_seconds
        found.append(findings.clock("redis", skew, took))
    return found


def _nowhere(variable: str) -> Finding:
    return Finding(variable, "fail", "not set", f"export {variable}=…", refuses=True)
