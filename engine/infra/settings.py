"""Every knob of the engine: name, default, unit and reason, read once from the environment.

A setting is a field of `Settings`; its environment variable is the field's name in capitals.
Other systems' names for the same thing are accepted as aliases, so an existing `.env` works.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit

import msgspec

from engine.infra.errors import Misconfigured

SECRET_BYTES_MIN = 32

Port = Annotated[int, msgspec.Meta(ge=0, le=65_535)]
Count = Annotated[int, msgspec.Meta(ge=1, le=1_024)]


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """All settings. Times end in their unit; secrets end in `_secret`."""

    host: str = "127.0.0.1"  # loopback unless told: `AUTH=open` must never face a network
    port: Port = 8000
    workers: Count = 2  # API processes; one a core is the right number
    auth: Literal["required", "open"] = "required"  # open: trusts `userId`, loopback only
    database_url: str = ""  # empty: `make run` starts its own Postgres
    redis_url: str = ""  # empty: `make run` starts its own Valkey
    data_dir: Path = Path(".velvetrope")  # embedded servers' data; survives restarts
    jwt_secret: str = ""  # signs and checks buyers' tokens (HS256), at least 32 bytes
    jwt_expires_in: str = "7d"  # life of a token: a number and s, m, h or d
    hmac_secret: str = ""  # salts names shown in public, at least 32 bytes
    compat_mounts: bool = True  # also answer under /api and /, not only /api/v1
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["auto", "json", "console"] = "auto"  # auto: console on a terminal
    pool_size: Count = 8  # Postgres connections a process; batches need few
    schema: str = ""  # Prisma's `?schema=`; becomes the search_path
    # The keepers, each of which may be turned off to prove that the others suffice.
    sweeper_poll_ms: int = 250  # how often the due index is read; 0: events alone
    bell: Literal["on", "off"] = "on"  # off: polling alone
    reconciler_ms: int = 1_000  # how often the bouncer is told the truth; 0: never
    reaper_ms: int = 500  # how often stale intents are looked for; 0: never
    intent_ttl_ms: int = 5_000  # age at which an intent's worker is taken for dead
    auditor_ms: int = 10_000  # rest between two recounts of all warm drops; 0: never
    retention_hours: int = 72  # finished requests and outbox; never under 24
    recount_seconds: float = 5.0  # how old the counted rows behind an audit may be
    request_deadline_ms: int = 5_000  # nothing holds a request longer

    @property
    def jwt_expires_seconds(self) -> int:
        """`JWT_EXPIRES_IN` in seconds."""
        units = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
        number, unit = self.jwt_expires_in[:-1], self.jwt_expires_in[-1:]
        if unit.isdigit():
            number, unit = self.jwt_expires_in, "s"
        if not number.isdigit() or unit not in units:
            raise Misconfigured(
                f"JWT_EXPIRES_IN={self.jwt_expires_in!r}: write 3600, 15m, 12h or 7d"
            )
        return int(number) * units[unit]


def read(environ: Mapping[str, str] | None = None) -> Settings:
    """The settings of this process, or `Misconfigured` with the variable and the mend."""
    env = dict(os.environ if environ is None else environ)
    if not env.get("DATABASE_URL") and env.get("DB_HOST"):
        env["DATABASE_URL"] = _from_parts(env)
    given = {
        name: env[name.upper()] for name in Settings.__struct_fields__ if env.get(name.upper())
    }
    if "database_url" in given:
        given |= _prisma(given["database_url"])
    try:
        settings = msgspec.convert(
            given, Settings, strict=False, dec_hook=lambda kind, text: kind(text)
        )
    except msgspec.ValidationError as wrong:
        field = str(wrong).rpartition("$.")[2].strip("`")
        raise Misconfigured(
            f"{field.upper()}={given.get(field, '')!r}: {str(wrong).split(' - ')[0]}"
        ) from None
    if settings.retention_hours < 24:
        raise Misconfigured("RETENTION_HOURS: idempotency keys are promised for 24 hours or more")
    _ = settings.jwt_expires_seconds
    return settings


def require_secrets(settings: Settings) -> None:
    """Refuse to serve `AUTH=required` with secrets anybody could guess."""
    if settings.auth == "open":
        return
    for name in ("jwt_secret", "hmac_secret"):
        if len(getattr(settings, name).encode()) < SECRET_BYTES_MIN:
            raise Misconfigured(
                f"{name.upper()} is missing or shorter than {SECRET_BYTES_MIN} bytes: "
                f'export {name.upper()}="$(openssl rand -hex 32)", or use AUTH=open on loopback'
            )


def _from_parts(env: Mapping[str, str]) -> str:
    """`DB_HOST DB_PORT DB_NAME DB_USER DB_PASSWORD DB_SSL` as one URL."""
    user = quote(env.get("DB_USER", "postgres"), safe="")
    password = quote(env.get("DB_PASSWORD", ""), safe="")
    ssl = "?sslmode=require" if env.get("DB_SSL", "").lower() in ("1", "true", "require") else ""
    return (
        f"postgresql://{user}{':' + password if password else ''}@{env['DB_HOST']}"
        f":{env.get('DB_PORT', '5432')}/{env.get('DB_NAME', 'postgres')}{ssl}"
    )


def _prisma(url: str) -> dict[str, str]:
    """Take Prisma's own parameters out of a URL: the driver would refuse them."""
    parts = urlsplit(url)
    ours: dict[str, str] = {}
    theirs = []
    for name, value in parse_qsl(parts.query):
        match name:
            case "schema":
                ours["schema"] = value
            case "connection_limit":
                ours["pool_size"] = value
            case (
                "pgbouncer"
                | "pool_timeout"
                | "socket_timeout"
                | "statement_cache_size"
                | "connect_timeout"
            ):
                pass  # asyncpg settles these itself
            case "sslaccept":
                pass
            case _:
                theirs.append((name, value))
    ours["database_url"] = urlunsplit(parts._replace(query=urlencode(theirs)))
    return ours
