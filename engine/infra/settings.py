"""Every knob of the engine: name, default, unit and reason, read once from the environment.

A setting is a field of `Settings`; its environment variable is the field's name in capitals.
Other systems' names for the same thing are understood (aliases.py), so an existing `.env` works.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from engine.infra.addresses import networks
from engine.infra.aliases import from_prisma, origin, ours
from engine.infra.errors import Misconfigured
from engine.infra.rates import rate_of

SECRET_BYTES_MIN = 32


def why(reason: str, unit: str = "") -> msgspec.Meta:
    """What a setting is for, and what it is counted in: `velvetrope settings` prints both."""
    return msgspec.Meta(description=reason, extra={"unit": unit})


Port = Annotated[int, msgspec.Meta(ge=0, le=65_535)]
Count = Annotated[int, msgspec.Meta(ge=1, le=1_024)]
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
Length = Annotated[int, msgspec.Meta(ge=0)]
Span = Annotated[int, msgspec.Meta(ge=1)]


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """All settings. Times end in their unit; secrets say so (`is_secret`)."""

    host: Annotated[str, why("loopback unless told: AUTH=open must never face a network")] = (
        "127.0.0.1"
    )
    port: Annotated[Port, why("0 takes a free one")] = 8000
    workers: Annotated[Count, why("one a core is the right number", "API processes")] = 2
    auth: Annotated[Literal["required", "open"], why("open: trusts `userId`, on loopback only")] = (
        "required"
    )
    database_url: Annotated[str, why("empty: `make run` starts its own Postgres")] = ""
    database_read_url: Annotated[
        str, why("a replica for lists and history; empty: DATABASE_URL")
    ] = ""
    redis_url: Annotated[str, why("empty: `make run` starts its own Valkey")] = ""
    data_dir: Annotated[Path, why("the embedded servers' data; survives restarts")] = Path(
        ".velvetrope"
    )
    jwt_secret: Annotated[str, why("signs and checks tokens (HS256)", "32 bytes or more")] = ""
    jwt_secret_previous: Annotated[
        str, why("older ones, a space between: tokens signed with them hold until they expire")
    ] = ""
    jwt_expires_in: Annotated[str, why("life of a token: a number and s, m, h or d")] = "7d"
    hmac_secret: Annotated[
        str, why("salts names shown in public, seals the ledger", "32 bytes or more")
    ] = ""
    hmac_secret_previous: Annotated[
        str, why("older ones, a space between: what they sealed can be verified")
    ] = ""
    ledger_signing_key: Annotated[
        str, why("Ed25519 key of the ledger's head; empty: HMAC_SECRET's", "64 hex digits")
    ] = ""
    ledger_signing_key_previous: Annotated[
        str, why("older ones, a space between: the last vouches for the new one")
    ] = ""
    session_days: Annotated[Span, why("life of a session that nobody extends", "days")] = 30
    private_beta: Annotated[
        bool, why("1: who registers needs a key, see `velvetrope beta --help`")
    ] = False
    demo_accounts: Annotated[
        bool, why("1: the demo brings accounts, with well-known passwords if AUTH=open")
    ] = False
    public_url: Annotated[
        str, why("where people reach us, for links in mails; empty: this address")
    ] = ""
    smtp_url: Annotated[
        str, why("smtp(s)://user:password@host:port; empty: mails are files in DATA_DIR/mail")
    ] = ""
    mail_from: Annotated[str, why("whom our mails are from")] = "velvetrope@localhost"
    # Membership.
    drop_tier: Annotated[str, why("whose numbers POST /mint gives, unless it names a drop")] = (
        "genesis"
    )
    drop_year: Annotated[str, why("likewise")] = "2025"
    drop_capacity: Annotated[
        Length, why("a keeper opens that drop with so many, once; 0: it does not", "numbers")
    ] = 0
    receipt_verifier: Annotated[
        Literal["none", "hmac", "jws"],
        why("none: receipts are believed, so only a shop's key may mint (AUTH=open: anybody)"),
    ] = "none"
    receipt_secret: Annotated[
        str, why("RECEIPT_VERIFIER=hmac: signs receipts; two: rotation", "32 bytes or more")
    ] = ""
    receipt_roots: Annotated[
        str, why("RECEIPT_VERIFIER=jws: a PEM file of the roots that receipts stand on")
    ] = ""
    receipt_bundle_id: Annotated[
        str, why("whose receipts count; empty: whose does not matter (hmac)")
    ] = ""
    receipt_environment: Annotated[str, why("and from where: Production, Sandbox, or any")] = (
        "Production"
    )
    wallet_certificate: Annotated[
        str, why("PEM, or its file: signs passes; empty: one of our own, for development")
    ] = ""
    wallet_key: Annotated[str, why("its key: PEM, or its file")] = ""
    wallet_key_passphrase: Annotated[str, why("of that key, if it has one")] = ""
    wallet_intermediate: Annotated[str, why("PEM, or its file: who issued the certificate")] = ""
    wallet_type_id: Annotated[str, why("what the certificate is for")] = "pass.local.velvetrope"
    wallet_team_id: Annotated[str, why("whose it is")] = "VELVETROPE"
    wallet_organization: Annotated[str, why("who gives the pass, as people read it")] = "Velvetrope"
    encounter_jwt_public_key: Annotated[
        str, why("PEM, or its file: checks encounters of members without a device; empty: none do")
    ] = ""
    payment_secret: Annotated[
        str,
        why(
            "checks the provider's signature; two, one space between: rotation", "32 bytes or more"
        ),
    ] = ""
    payment_url: Annotated[
        str, why("where buyers pay; told as `payUrl`, with the hold in its query")
    ] = ""
    provider_port: Annotated[Port, why("of the mock provider; 0: the next free one after PORT")] = 0
    buyers_confirm: Annotated[
        bool, why("0: only a shop's server or a verified payment makes a purchase")
    ] = True
    compat_mounts: Annotated[bool, why("also answer under /api and /, not only /api/v1")] = True
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], why("what is worth a line")
    ] = "info"
    log_format: Annotated[
        Literal["auto", "json", "console"], why("auto: console on a terminal, else JSON")
    ] = "auto"
    pool_size: Annotated[
        Count, why("Postgres connections; batches need few", "connections a process")
    ] = 8
    pgbouncer: Annotated[
        bool, why("1, or `?pgbouncer=true`: DATABASE_URL leads there, and its role sets the limits")
    ] = False
    schema: Annotated[str, why("Prisma's `?schema=`; becomes the search_path")] = ""
    # The keepers, each of which may be turned off to prove that the others suffice.
    sweeper_poll_ms: Annotated[
        Length, why("how often the due index is read; 0: events alone", "ms")
    ] = 250
    bell: Annotated[Literal["on", "off"], why("hear keys expire; off: polling alone")] = "on"
    reconciler_ms: Annotated[
        Length, why("how often the bouncer is told the truth; 0: never", "ms")
    ] = 1_000
    reaper_ms: Annotated[Length, why("how often stale intents are looked for; 0: never", "ms")] = (
        500
    )
    intent_ttl_ms: Annotated[
        Length, why("age at which an intent's worker is taken for dead", "ms")
    ] = 5_000
    ledger_verify_seconds: Annotated[
        Length,
        why("age of a look at the whole ledger at which a keeper looks again; 0: never", "seconds"),
    ] = 3_600
    auditor_ms: Annotated[
        Length, why("rest between two recounts of all warm drops; 0: never", "ms")
    ] = 5_000
    retention_hours: Annotated[
        int, why("how long finished requests are remembered; never under 24", "hours")
    ] = 72
    readings_days: Annotated[
        Span, why("how long what sensors measured is kept, in whole weeks", "days")
    ] = 30
    activity_days: Annotated[
        Span, why("how long what users did is kept, and sessions that ended", "days")
    ] = 90
    recount_seconds: Annotated[
        float, why("how old the counted rows behind an audit may be", "seconds")
    ] = 5.0
    metrics_dir: Annotated[
        str, why("counts of all processes of this machine; empty: DATA_DIR/metrics")
    ] = ""
    otel_exporter_otlp_endpoint: Annotated[
        str, why("a collector for spans, as in http://127.0.0.1:4318; empty: none are made")
    ] = ""
    otel_traces_sampler_arg: Annotated[
        Share, why("of requests whose caller did not decide; batches follow them", "0 to 1")
    ] = 0.01
    # Who may ask how much: a number a second (s), minute (m) or hour (h), and how many at once.
    rate_reads_per_address: Annotated[
        str, why("generous: a university or a phone network shares one", "a rate, or off")
    ] = "1000/s burst 5000"
    rate_writes_per_address: Annotated[
        str, why("reserve, buy, release; likewise", "a rate, or off")
    ] = "200/s burst 1000"
    rate_admin_per_address: Annotated[str, why("what operators do", "a rate, or off")] = (
        "50/s burst 500"
    )
    rate_callbacks_per_address: Annotated[
        str, why("payment providers send all of a rush at once", "a rate, or off")
    ] = "1000/s burst 10000"
    rate_failed_auth_per_address: Annotated[
        str, why("credentials that are none: somebody guesses", "a rate, or off")
    ] = "1/s burst 20"
    rate_logins_per_account: Annotated[
        str, why("wrong passwords for one e-mail, from wherever", "a rate, or off")
    ] = "10/m burst 10"
    rate_reads_per_buyer: Annotated[
        str, why("a page that polls, in several windows", "a rate, or off")
    ] = "30/s burst 100"
    rate_writes_per_buyer: Annotated[
        str, why("reserving; apart from it, and as much, what becomes of holds", "a rate, or off")
    ] = "10/s burst 30"
    rate_reads_per_key: Annotated[
        str, why("a shop's server, for all its buyers", "a rate, or off")
    ] = "5000/s burst 10000"
    rate_writes_per_key: Annotated[str, why("likewise", "a rate, or off")] = "5000/s burst 10000"
    rate_admin_per_caller: Annotated[str, why("an operator's token or key", "a rate, or off")] = (
        "20/s burst 200"
    )
    trusted_proxies: Annotated[
        str, why("whose X-Forwarded-For is believed", "addresses and networks, comma list")
    ] = ""
    admin_networks: Annotated[
        str, why("from where operators may call, this machine too; empty: anywhere", "a comma list")
    ] = ""
    https_only: Annotated[bool, why("1: what a trusted proxy did not take over TLS is refused")] = (
        False
    )
    request_deadline_ms: Annotated[Length, why("nothing holds a request longer", "ms")] = 5_000
    # The door.
    header_timeout_ms: Annotated[Span, why("for a request's line and headers, in all", "ms")] = (
        5_000
    )
    body_timeout_ms: Annotated[Span, why("for a request's body, in all", "ms")] = 10_000
    keep_alive_ms: Annotated[
        Span, why("rest between two requests; more than a proxy's in front of us", "ms")
    ] = 30_000
    slow_reader_ms: Annotated[Span, why("for an answer that nobody reads", "ms")] = 30_000
    max_connections: Annotated[
        Length, why("the longest idle gives way to the next; 0: what files allow", "a worker")
    ] = 0
    listeners: Annotated[
        int,
        msgspec.Meta(ge=0, le=1),
        why("1: a process of its own for those who listen, beside the workers", "processes"),
    ] = 0
    listener_port: Annotated[
        Port, why("of that process, for a proxy that leads /ws to it; 0: workers hand over")
    ] = 0
    max_listeners: Annotated[
        Length, why("connections that hear a sale live, at /ws and /events", "a process")
    ] = 20_000
    max_listeners_per_address: Annotated[
        Span, why("generous: a university or a phone network shares one", "of those, a process")
    ] = 1_000
    cors_origins: Annotated[
        str, why("web pages elsewhere that may call: https://a.example,https://b.example")
    ] = ""
    hsts_seconds: Annotated[
        Length, why("Strict-Transport-Security; 0: none, with HTTPS_ONLY a day", "seconds")
    ] = 0

    @property
    def jwt_expires_seconds(self) -> int:
        """`JWT_EXPIRES_IN` in seconds."""
        seconds = seconds_of(self.jwt_expires_in)
        if seconds is None:
            raise Misconfigured(f"JWT_EXPIRES_IN={self.jwt_expires_in}: want 3600, 15m, 12h or 7d")
        return seconds

    @property
    def replica(self) -> Settings:
        """The same for `DATABASE_READ_URL`, whose parameters are its own."""
        ours = from_prisma(self.database_read_url)
        size = ours.get("pool_size", str(self.pool_size))
        if not size.isdigit() or not 1 <= int(size) <= 1_024:
            raise Misconfigured(f"DATABASE_READ_URL: connection_limit={size}: want 1 to 1024")
        return msgspec.structs.replace(
            self,
            database_url=ours["database_url"],
            pool_size=int(size),
            pgbouncer=ours.get("pgbouncer") == "1",
            schema=ours.get("schema", self.schema),
        )

    @property
    def origins(self) -> frozenset[bytes]:
        """`CORS_ORIGINS` as browsers send them."""
        given = [one.strip() for one in self.cors_origins.split(",") if one.strip()]
        return frozenset(origin(one) for one in given)


def seconds_of(text: str) -> int | None:
    """Seconds of a number and s, m, h or d, or of a number alone; None for anything else."""
    units = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
    number, unit = text[:-1], text[-1:]
    if unit.isdigit():
        number, unit = text, "s"
    return int(number) * units[unit] if number.isdigit() and unit in units else None


def read(environ: Mapping[str, str] | None = None) -> Settings:
    """The settings of this process, or `Misconfigured` with the variable and the mend."""
    env = ours(os.environ if environ is None else environ)
    given = {
        name: env[name.upper()] for name in Settings.__struct_fields__ if env.get(name.upper())
    }
    if "database_url" in given:
        given |= from_prisma(given["database_url"])
    try:
        settings = msgspec.convert(
            given, Settings, strict=False, dec_hook=lambda kind, text: kind(text)
        )
    except msgspec.ValidationError as wrong:
        field = str(wrong).rpartition("$.")[2].strip("`")
        raise Misconfigured(
            f"{field.upper()}={given.get(field, '')}: want {_wanted(field)}"
        ) from None
    if settings.retention_hours < 24:
        raise Misconfigured("RETENTION_HOURS: idempotency keys are promised for 24 hours or more")
    _ = settings.jwt_expires_seconds
    if settings.payment_url and not settings.payment_url.startswith(("http://", "https://")):
        raise Misconfigured(f"PAYMENT_URL={settings.payment_url}: want an http(s) address")
    _ = settings.origins, settings.replica
    networks(settings.trusted_proxies)
    networks(settings.admin_networks, "ADMIN_NETWORKS")
    if settings.https_only and not settings.trusted_proxies.strip():
        raise Misconfigured("HTTPS_ONLY=1 serves nobody: name who ends TLS in TRUSTED_PROXIES")
    for name in Settings.__struct_fields__:
        if name.startswith("rate_"):
            try:
                rate_of(getattr(settings, name))
            except Misconfigured as wrong:
                raise Misconfigured(f"{name.upper()}: {wrong}") from None
    return settings


def _wanted(field: str) -> str:
    """What a setting may be, in words."""
    kinds = {each.name: each.type for each in msgspec.inspect.type_info(Settings).fields}  # type: ignore[attr-defined]
    kind = kinds[field]
    if isinstance(kind, msgspec.inspect.Metadata):
        kind = kind.type
    match kind:
        case msgspec.inspect.IntType(ge=low, le=high):
            least = "" if low is None else f" of {low} or more"
            return f"a whole number{least if high is None else f' from {low} to {high}'}"
        case msgspec.inspect.FloatType():
            return "a number"
        case msgspec.inspect.BoolType():
            return "1 or 0"
        case msgspec.inspect.LiteralType(values=values):
            return " or ".join(str(value) for value in values)
        case _:
            return "text"


def require_secrets(settings: Settings) -> None:
    """Refuse to serve with secrets anybody could guess."""
    if any(len(each.encode()) < SECRET_BYTES_MIN for each in settings.payment_secret.split()):
        raise Misconfigured(too_short("payment_secret"))
    for name in ("jwt_secret_previous", "hmac_secret_previous"):
        if 0 < len(getattr(settings, name).encode()) < SECRET_BYTES_MIN:
            raise Misconfigured(too_short(name))
    if settings.auth == "open":
        return
    for name in ("jwt_secret", "hmac_secret"):
        if len(getattr(settings, name).encode()) < SECRET_BYTES_MIN:
            raise Misconfigured(f"{too_short(name)}, or use AUTH=open on loopback")


def is_secret(name: str) -> bool:
    """Whether a setting is nobody's to read."""
    return (
        "_secret" in name
        or "signing_key" in name
        or name in ("smtp_url", "wallet_key", "wallet_key_passphrase")
    )


def too_short(secret: str) -> str:
    """The sentence about a secret that is missing or too short, with its mend."""
    name = secret.upper()
    return (
        f"{name} is missing or shorter than {SECRET_BYTES_MIN} bytes: "
        f'export {name}="$(openssl rand -hex 32)"'
    )
