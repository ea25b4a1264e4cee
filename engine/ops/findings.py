"""Findings of the preflight: pure judgements of what was found, each with its mend.

ok     as it should be
warn   the sale goes on, less well: slower, or blind to something
fail   the sale would be hurt; `refuses` marks what a worker or keeper does not start with
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from itertools import pairwise
from typing import Literal

import msgspec

from engine.infra.settings import SECRET_BYTES_MIN, Settings, too_short
from engine.ops.binaries import POSTGRES_MIN, REDIS_MIN

Verdict = Literal["ok", "warn", "fail"]

VALKEY_MIN = (8, 0)
SPARE_CONNECTIONS = 5  # for migrate, the terminal and a look by hand
TIMEOUT_MIN_MS = 2_000  # what the engine allows its own statements
# Behind PgBouncer the role says it, and within these: a claim takes a while when all want the same
# row, and who is told "unknown" after five seconds waits for nothing.
TIMEOUTS_MS = {"statement": (500, 5_000), "lock": (200, 2_500), "idle": (500, 10_000)}
SKEW_WARN_SECONDS = 0.5
SKEW_FAIL_SECONDS = 2.0
FILES_MIN = 4_096
FULL_WARN = 0.8
LISTPACK_MAX = 128  # entries of a hash that is still a list; Redis's default is 512
FULL_FAIL = 0.95
BIG_BYTES = 1 << 30  # a fork of less is over before anybody notices
PLACEHOLDERS = (
    "secret|password|passwd|changeme|change|please|replace|default|example|sample|insecure|"
    "your|super|very|long|key|token|jwt|hmac|admin|test|dev|local|production|here|this|with|random"
)
LETTERS_MIN = 16  # that must be left of a secret when the placeholders are taken out


class Finding(msgspec.Struct, frozen=True):
    """One line of the preflight."""

    check: str
    verdict: Verdict
    found: str
    mend: str = ""
    refuses: bool = False

    @property
    def line(self) -> str:
        """The finding as one line: what is wrong, and the mend."""
        return f"{self.check}: {self.found}{f': {self.mend}' if self.mend else ''}"


class Server(msgspec.Struct, frozen=True, kw_only=True):
    """What Postgres says of itself."""

    version: str
    major: int
    in_recovery: bool
    fsync: str
    full_page_writes: str
    synchronous_commit: str
    autovacuum: str
    timeout_ms: int
    lock_timeout_ms: int
    idle_timeout_ms: int
    connections_max: int
    connections_of_others: int
    role: str
    may_know_history: bool


class Schema(msgspec.Struct, frozen=True, kw_only=True):
    """What stands in our schema, beside what should."""

    schema: str
    missing_tables: list[str]
    closed_tables: list[str]
    missing_indexes: list[str]
    stale_functions: list[str]  # missing, or of another version
    pending: list[str]
    ahead: list[str]
    keepers: int  # that gave a sign of life of late


def server(found: Server, settings: Settings) -> list[Finding]:
    """Judge the Postgres server."""
    return [
        _of(
            "postgres version",
            found.major >= POSTGRES_MIN,
            found.version,
            f"upgrade to {POSTGRES_MIN} or newer",
            refuses=True,
        ),
        _of(
            "postgres role",
            not found.in_recovery,
            "standby (in recovery)" if found.in_recovery else "primary",
            "point DATABASE_URL at the primary",
            refuses=True,
        ),
        _durable("fsync", found.fsync),
        _durable("full_page_writes", found.full_page_writes),
        _of(
            "synchronous_commit",
            found.synchronous_commit != "off",
            found.synchronous_commit,
            "turn it on: the engine asks for `on` itself, a pooler may lose that",
            "warn",
        ),
        _of(
            "autovacuum",
            found.autovacuum == "on",
            found.autovacuum,
            "turn it on: the hot tables bloat within a sale",
            "fail",
        ),
        _timeout(found, settings),
        _connections(found, settings),
        _of(
            "role's rights",
            found.may_know_history,
            found.role,
            "GRANT EXECUTE ON FUNCTION pg_control_system(), pg_walfile_name(pg_lsn), "
            f"pg_current_wal_lsn() TO {found.role}",
            refuses=True,
        ),
    ]


def _timeout(found: Server, settings: Settings) -> Finding:
    seen = f"{found.timeout_ms} ms" if found.timeout_ms else "none"
    if not settings.pgbouncer:
        mend = f"the engine sets its own: ALTER ROLE {found.role} RESET statement_timeout"
        holds = not 0 < found.timeout_ms < TIMEOUT_MIN_MS
        return _of("statement_timeout", holds, seen, mend, "warn")
    mend = (
        f"PgBouncer does not pass ours on: ALTER ROLE {found.role} SET statement_timeout = '2s', "
        "and likewise lock_timeout = '1s', idle_in_transaction_session_timeout = '2s'"
    )
    said = zip(
        (found.timeout_ms, found.lock_timeout_ms, found.idle_timeout_ms),
        TIMEOUTS_MS.items(),
        strict=True,
    )
    unfit = [f"{name} {ms} ms" for ms, (name, (least, most)) in said if not least <= ms <= most]
    return _of("statement_timeout", not unfit, ", ".join(unfit) or seen, mend, "warn")


def schema(found: Schema) -> list[Finding]:
    """Judge what the migrations have made."""
    if found.pending:
        names = _listed(found.pending)
        return [Finding("migrations", "fail", f"not run: {names}", "velvetrope migrate", True)]
    gone, closed = found.missing_tables, found.closed_tables
    return [
        _of(
            "migrations",
            not found.ahead,
            f"ahead of this program: {_listed(found.ahead)}" if found.ahead else "up to date",
            "update this program too",
            "warn",
        ),
        _of(
            "tables",
            not gone and not closed,
            f"missing: {_listed(gone)}" if gone else f"no rights: {_listed(closed)}",
            "restore a backup" if gone else "GRANT SELECT, INSERT, UPDATE, DELETE ON them",
            good="all there",
            refuses=True,
        ),
        _of(
            "indexes",
            not found.missing_indexes,
            f"missing or invalid: {_listed(found.missing_indexes)}",
            "create them as sql/schema.sql has them",
            good="all there",
        ),
        _of(
            "functions",
            not found.stale_functions or bool(found.ahead),
            f"missing or of another version: {_listed(found.stale_functions)}",
            "velvetrope migrate",
            good="those of this version" if not found.ahead else "of a newer version",
            refuses=True,
        ),
        _of(
            "keepers",
            found.keepers > 0,
            f"{found.keepers} alive",
            "velvetrope keep: without one, what runs out does not come back",
            "warn",
        ),
    ]


def redis(info: Mapping[str, object], config: Mapping[str, str]) -> list[Finding]:
    """Judge Redis or Valkey by what INFO and CONFIG say; either may be hidden from us."""
    if not info:
        hides = "it hides INFO from this user"
        mend = "see for yourself: maxmemory-policy noeviction, Redis 7.2 or Valkey 8, a primary"
        return [Finding("redis settings", "warn", hides, mend)]
    return [
        _redis_version(info),
        _redis_role(info),
        _eviction(str(info.get("maxmemory_policy", ""))),
        _headroom(int(str(info.get("used_memory", 0))), int(str(info.get("maxmemory", 0)))),
        _persistence(info, config),
        _events(config.get("notify-keyspace-events")),
        _lists(config.get("hash-max-listpack-entries", "")),
    ]


def clock(name: str, skew_seconds: float, round_trip_seconds: float) -> Finding:
    """Judge how far a server's clock is from this machine's, within half a round trip."""
    doubt = round_trip_seconds / 2
    off = max(abs(skew_seconds) - doubt, 0.0)
    verdict: Verdict = (
        "fail" if off > SKEW_FAIL_SECONDS else "warn" if off > SKEW_WARN_SECONDS else "ok"
    )
    found = f"{skew_seconds:+.3f} s (± {doubt:.3f})"
    mend = "" if verdict == "ok" else "let NTP (chrony) run on both machines"
    return Finding(f"clock of {name}", verdict, found, mend)


def secrets(settings: Settings) -> list[Finding]:
    """Judge the secrets: there, long, and not to be guessed."""
    if settings.auth == "open":
        return [Finding("secrets", "ok", "AUTH=open needs none")]
    found = [_secret(name, getattr(settings, name)) for name in ("jwt_secret", "hmac_secret")]
    if settings.jwt_secret and settings.jwt_secret == settings.hmac_secret:
        mend = "use two: whoever leaks one must not have leaked both"
        found.append(Finding("secrets", "warn", "JWT_SECRET and HMAC_SECRET are the same", mend))
    return found


def machine(files_max: int, cpus: int, settings: Settings) -> list[Finding]:
    """Judge this machine: open files and processors."""
    return [
        _of(
            "open files",
            files_max >= FILES_MIN,
            f"{files_max:,} a process (each buyer's connection is one)",
            "ulimit -n 65536, or LimitNOFILE=65536 in its unit",
            "warn",
        ),
        _of(
            "processors",
            settings.workers <= cpus * 2,
            f"{cpus} for WORKERS={settings.workers}",
            f"WORKERS={cpus}: more only take turns",
            "warn",
        ),
    ]


def _of(
    check: str,
    fine: bool,
    found: str,
    mend: str,
    otherwise: Verdict = "fail",
    *,
    good: str = "",
    refuses: bool = False,
) -> Finding:
    if fine:
        return Finding(check, "ok", good or found)
    return Finding(check, otherwise, found, mend, refuses)


def _durable(name: str, value: str) -> Finding:
    mend = "turn it on: a power cut would lose purchases or tear pages"
    return _of(name, value != "off", value, mend)


def _connections(found: Server, settings: Settings) -> Finding:
    processes = settings.workers + settings.listeners + 1
    needed = processes * settings.pool_size + SPARE_CONNECTIONS
    left = found.connections_max - found.connections_of_others
    said = (
        f"{needed} wanted (WORKERS and a keeper x POOL_SIZE, and {SPARE_CONNECTIONS}), "
        f"{left} of {found.connections_max} left by others"
    )
    return Finding(
        "connections",
        "fail" if needed > found.connections_max else "warn" if needed > left else "ok",
        said,
        "" if needed <= left else "raise max_connections, or lower POOL_SIZE",
    )


def _redis_version(info: Mapping[str, object]) -> Finding:
    # Valkey calls itself Redis 7.2.4 for the sake of old clients: its own version comes first.
    name, least = ("valkey", VALKEY_MIN) if "valkey_version" in info else ("redis", REDIS_MIN)
    text = str(info.get(f"{name}_version", ""))
    version = tuple(int(number) for number in re.findall(r"\d+", text)[:2])
    said = f"{name.capitalize()} {text}" if version else "hidden"
    mend = "Redis 7.2 or Valkey 8 is needed: upgrade it"
    return _of("redis version", not version or version >= least, said, mend, refuses=True)


def _redis_role(info: Mapping[str, object]) -> Finding:
    clustered = str(info.get("cluster_enabled", "0")) == "1"
    if clustered:
        mend = "give the engine a Redis of its own: it speaks to one node"
        return Finding("redis role", "fail", "a node of a cluster", mend)
    role = str(info.get("role", "master"))
    mend = "point REDIS_URL at the primary: the bouncer writes"
    return _of("redis role", role == "master", "replica", mend, good="primary")


def _eviction(policy: str) -> Finding:
    mend = (
        "CONFIG SET maxmemory-policy noeviction (and in its configuration file): "
        "a full Redis would forget live holds"
    )
    if not policy:
        return Finding("maxmemory-policy", "warn", "hidden", "see that it is noeviction")
    return _of("maxmemory-policy", policy == "noeviction", policy, mend, refuses=True)


def _headroom(used: int, limit: int) -> Finding:
    if limit == 0:
        return Finding("maxmemory", "ok", f"{_mib(used)} used, no limit but the machine's")
    full = used / limit
    verdict: Verdict = "fail" if full > FULL_FAIL else "warn" if full > FULL_WARN else "ok"
    mend = "" if verdict == "ok" else "raise maxmemory: a full one refuses the bouncer's writes"
    return Finding("maxmemory", verdict, f"{_mib(used)} of {_mib(limit)} used", mend)


def _persistence(info: Mapping[str, object], config: Mapping[str, str]) -> Finding:
    aof, saves = str(info.get("aof_enabled", "0")) == "1", bool(config.get("save"))
    kept = " and ".join(word for word, there in (("AOF", aof), ("RDB", saves)) if there) or "none"
    said = f"{kept} (needs none: it is rebuilt from Postgres)"
    if aof and config.get("appendfsync") == "always":
        mend = "CONFIG SET appendfsync everysec: `always` waits for the disk in every script"
        return Finding("persistence", "warn", said, mend)
    if saves and int(str(info.get("used_memory", 0))) > BIG_BYTES:
        mend = 'CONFIG SET save "": each save forks a large process, and everybody waits'
        return Finding("persistence", "warn", said, mend)
    return Finding("persistence", "ok", said)


def _events(flags: str | None) -> Finding:
    if flags is None:
        return Finding("keyspace events", "ok", "hidden; polling alone suffices")
    mend = "CONFIG SET notify-keyspace-events Ex (a keeper does it where it may)"
    fine = "E" in flags and ("x" in flags or "A" in flags)
    return _of("keyspace events", fine, flags or "none", mend, "warn")


def _lists(entries: str) -> Finding:
    check = "hash-max-listpack-entries"
    if not entries:
        return Finding(check, "ok", "hidden; only a matter of speed")
    mend = f"CONFIG SET {check} 32: hundreds of intents are searched one by one, each time"
    return _of(check, int(entries) <= LISTPACK_MAX, entries, mend, "warn")


def _secret(name: str, value: str) -> Finding:
    check = name.upper()
    if len(value.encode()) < SECRET_BYTES_MIN:
        said = f"{len(value.encode())} bytes" if value else "not set"
        mend = too_short(name).partition(": ")[2]
        return Finding(check, "fail", f"{said}, {SECRET_BYTES_MIN} are needed", mend, True)
    if weakness := _weakness(value):
        return Finding(check, "fail", weakness, too_short(name).partition(": ")[2], True)
    return Finding(check, "ok", f"set, {len(value.encode())} bytes")


def _weakness(secret: str) -> str:
    """Why a long secret can be guessed all the same; empty if it seems random enough."""
    if (secret + secret).find(secret, 1) <= len(secret) // 2:
        return "the same again and again"
    steps = sum(ord(b) - ord(a) in (1, -1) for a, b in pairwise(secret))
    if steps > len(secret) // 2 or len(set(secret)) < 6:
        return "a sequence, or few different characters"
    rest = re.sub(PLACEHOLDERS, "", secret.lower())
    if sum(letter.isalnum() for letter in rest) < LETTERS_MIN:
        return "words that everybody would try"
    return ""


def _listed(names: Iterable[str], most: int = 5) -> str:
    every = list(names)
    more = f" and {len(every) - most} more" if len(every) > most else ""
    return ", ".join(every[:most]) + more


def _mib(count: int) -> str:
    return f"{count / (1 << 20):,.0f} MiB"
