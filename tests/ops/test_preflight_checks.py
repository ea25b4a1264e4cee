"""Every judgement of the preflight by itself: what is fine, what is not, and the mend."""

from __future__ import annotations

import msgspec
import pytest

from engine.infra.settings import Settings
from engine.ops import doorstep, findings
from engine.ops.findings import Finding, Schema, Server

GIB = 1 << 30
FINE = Server(
    version="18.1",
    major=18,
    in_recovery=False,
    fsync="on",
    full_page_writes="on",
    synchronous_commit="on",
    autovacuum="on",
    timeout_ms=0,
    lock_timeout_ms=0,
    idle_timeout_ms=0,
    connections_max=97,
    connections_of_others=3,
    role="velvetrope",
    may_know_history=True,
)
THERE = Schema(
    schema="public",
    missing_tables=[],
    closed_tables=[],
    missing_indexes=[],
    stale_functions=[],
    pending=[],
    ahead=[],
    keepers=1,
)
INFO: dict[str, object] = {
    "redis_version": "7.2.4",
    "valkey_version": "9.1.2",
    "role": "master",
    "maxmemory_policy": "noeviction",
    "used_memory": 1 << 20,
    "maxmemory": 512 << 20,
    "aof_enabled": 0,
}
CONFIG = {"notify-keyspace-events": "xE", "save": "", "appendfsync": "everysec"}


def worst(found: list[Finding]) -> Finding:
    """The one finding that is not ok."""
    (only,) = [each for each in found if each.verdict != "ok"]
    return only


def test_what_is_fine_is_fine() -> None:
    found = [
        *findings.server(FINE, Settings()),
        *findings.schema(THERE),
        *findings.redis(INFO, CONFIG),
        *findings.machine(65_536, 4, Settings()),
    ]

    assert [each for each in found if each.verdict != "ok" or each.mend] == []


@pytest.mark.parametrize(
    ("change", "check", "verdict", "refuses", "mend"),
    [
        ({"major": 14}, "postgres version", "fail", True, "upgrade to 15"),
        ({"in_recovery": True}, "postgres role", "fail", True, "the primary"),
        ({"fsync": "off"}, "fsync", "fail", False, "a power cut"),
        ({"full_page_writes": "off"}, "full_page_writes", "fail", False, "a power cut"),
        ({"synchronous_commit": "off"}, "synchronous_commit", "warn", False, "turn it on"),
        ({"autovacuum": "off"}, "autovacuum", "fail", False, "bloat"),
        ({"timeout_ms": 1_000}, "statement_timeout", "warn", False, "ALTER ROLE velvetrope"),
        ({"connections_max": 28}, "connections", "fail", False, "raise max_connections"),
        ({"connections_of_others": 90}, "connections", "warn", False, "lower POOL_SIZE"),
        ({"may_know_history": False}, "role's rights", "fail", True, "GRANT EXECUTE"),
    ],
)
def test_a_server_that_would_hurt_is_named_with_its_mend(
    change: dict[str, object], check: str, verdict: str, refuses: bool, mend: str
) -> None:
    server = msgspec.structs.replace(FINE, **change)

    found = worst(findings.server(server, Settings(workers=2, pool_size=8)))

    assert (found.check, found.verdict, found.refuses) == (check, verdict, refuses)
    assert mend in found.mend
    assert mend in found.line


@pytest.mark.parametrize("timeout_ms", [0, 2_000, 60_000])
def test_a_patient_statement_timeout_is_fine(timeout_ms: int) -> None:
    server = msgspec.structs.replace(FINE, timeout_ms=timeout_ms)

    assert all(each.verdict == "ok" for each in findings.server(server, Settings()))


def test_behind_pgbouncer_the_role_has_to_set_the_limits() -> None:
    through = Settings(pgbouncer=True)
    limits = {"timeout_ms": 2_000, "lock_timeout_ms": 1_000, "idle_timeout_ms": 2_000}
    limited = msgspec.structs.replace(FINE, **limits)

    found = worst(findings.server(FINE, through))

    assert (found.check, found.verdict) == ("statement_timeout", "warn")
    assert "ALTER ROLE velvetrope SET statement_timeout" in found.mend
    assert all(each.verdict == "ok" for each in findings.server(limited, through))
    for change in ({"timeout_ms": 50}, {"timeout_ms": 600_000}, {"lock_timeout_ms": 0}):
        none = msgspec.structs.replace(limited, **change)
        assert any(each.verdict == "warn" for each in findings.server(none, through)), change


@pytest.mark.parametrize(
    ("change", "check", "verdict", "refuses", "said"),
    [
        ({"pending": ["0005_operating"]}, "migrations", "fail", True, "0005_operating"),
        ({"ahead": ["0099_later"]}, "migrations", "warn", False, "0099_later"),
        ({"missing_tables": ["units"]}, "tables", "fail", True, "missing: units"),
        ({"closed_tables": ["units"]}, "tables", "fail", True, "no rights: units"),
        ({"missing_indexes": ["units_pkey"]}, "indexes", "fail", False, "units_pkey"),
        ({"stale_functions": ["claim_units"]}, "functions", "fail", True, "claim_units"),
        ({"keepers": 0}, "keepers", "warn", False, "0 alive"),
    ],
)
def test_a_schema_that_is_not_ours_is_named(
    change: dict[str, object], check: str, verdict: str, refuses: bool, said: str
) -> None:
    found = worst(findings.schema(msgspec.structs.replace(THERE, **change)))

    assert (found.check, found.verdict, found.refuses) == (check, verdict, refuses)
    assert said in found.found


def test_a_newer_database_refuses_no_old_worker_in_mid_update() -> None:
    newer = msgspec.structs.replace(THERE, ahead=["0099_later"], stale_functions=["claim_units"])

    assert not any(each.refuses for each in findings.schema(newer))


def test_many_names_are_cut_short() -> None:
    many = msgspec.structs.replace(THERE, missing_indexes=[f"i{n}" for n in range(9)])

    assert worst(findings.schema(many)).found == "missing or invalid: i0, i1, i2, i3, i4 and 4 more"


@pytest.mark.parametrize(
    ("info", "config", "check", "verdict", "refuses"),
    [
        ({"valkey_version": "7.2.5"}, {}, "redis version", "fail", True),
        ({"maxmemory_policy": "allkeys-lru"}, {}, "maxmemory-policy", "fail", True),
        ({"maxmemory_policy": ""}, {}, "maxmemory-policy", "warn", False),
        ({"role": "slave"}, {}, "redis role", "fail", False),
        ({"cluster_enabled": 1}, {}, "redis role", "fail", False),
        ({"used_memory": 450 << 20}, {}, "maxmemory", "warn", False),
        ({"used_memory": 510 << 20}, {}, "maxmemory", "fail", False),
        ({"aof_enabled": 1}, {"appendfsync": "always"}, "persistence", "warn", False),
        (
            {"used_memory": 2 * GIB, "maxmemory": 8 * GIB},
            {"save": "3600 1"},
            "persistence",
            "warn",
            False,
        ),
        ({}, {"notify-keyspace-events": "K"}, "keyspace events", "warn", False),
        ({}, {"notify-keyspace-events": ""}, "keyspace events", "warn", False),
        (
            {},
            {"hash-max-listpack-entries": "512"},
            "hash-max-listpack-entries",
            "warn",
            False,
        ),
    ],
)
def test_a_redis_that_would_hurt_is_named_with_its_mend(
    info: dict[str, object], config: dict[str, str], check: str, verdict: str, refuses: bool
) -> None:
    found = worst(findings.redis(INFO | info, CONFIG | config))

    assert (found.check, found.verdict, found.refuses) == (check, verdict, refuses)
    assert found.mend


@pytest.mark.parametrize(
    ("info", "config"),
    [
        ({"maxmemory": 0}, {}),
        ({"aof_enabled": 1}, {}),
        ({}, {"save": "3600 1"}),
        ({}, {"notify-keyspace-events": "AKE"}),
    ],
)
def test_a_redis_with_other_habits_is_fine(info: dict[str, object], config: dict[str, str]) -> None:
    assert all(each.verdict == "ok" for each in findings.redis(INFO | info, CONFIG | config))


def test_an_old_redis_is_refused_and_valkey_is_not_taken_for_one() -> None:
    def version(**info: str) -> str:
        return findings.redis({"maxmemory_policy": "noeviction", **info}, {})[0].verdict

    assert version(redis_version="7.0.15") == "fail"
    assert version(redis_version="7.2.0") == "ok"
    assert version(redis_version="7.2.4", valkey_version="7.2.5") == "fail"
    assert version(redis_version="7.2.4", valkey_version="9.1") == "ok"


def test_a_redis_that_hides_everything_is_one_warning() -> None:
    (found,) = findings.redis({}, {})

    assert found.verdict == "warn"
    assert "noeviction" in found.mend


@pytest.mark.parametrize(
    ("skew", "round_trip", "verdict"),
    [
        (0.4, 0.0, "ok"),
        (-0.4, 0.0, "ok"),
        (0.7, 0.0, "warn"),
        (-0.7, 0.0, "warn"),
        (0.7, 0.6, "ok"),  # it may be no more than the way there
        (2.5, 0.0, "fail"),
        (-2.5, 0.2, "fail"),
    ],
)
def test_a_clock_is_judged_within_half_a_round_trip(
    skew: float, round_trip: float, verdict: str
) -> None:
    found = findings.clock("redis", skew, round_trip)

    assert found.verdict == verdict
    assert bool(found.mend) == (verdict != "ok")
    assert not found.refuses


GOOD = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
OTHER = "60303ae22b998861bce3b28f33eec1be758a213c86c93c076dbe9f558c11c752"


@pytest.mark.parametrize(
    "secret",
    [
        "",
        "short",
        "a" * 64,
        "abcabcabcabcabcabcabcabcabcabcabc",
        "0123456789abcdef0123456789abcdef",
        "abcdefghijklmnopqrstuvwxyz0123456789",
        "0101101001010110100101011010101101",
        "change-me-to-a-very-long-random-secret-key",
        "your-super-secret-jwt-token-please-replace-here",
    ],
)
def test_a_secret_that_can_be_guessed_fails_and_is_not_shown(secret: str) -> None:
    found = worst(findings.secrets(Settings(jwt_secret=secret, hmac_secret=OTHER)))

    assert (found.check, found.verdict, found.refuses) == ("JWT_SECRET", "fail", True)
    assert "openssl rand -hex 32" in found.mend
    assert len(secret) < 8 or secret not in found.line


@pytest.mark.parametrize(
    "secret",
    [GOOD, "kJ8v2/Qm1sXz+R0bYw7LhPq3nTfUeDcA", "a horse that staples batteries in the rain"],
)
def test_a_secret_that_cannot_be_guessed_is_fine(secret: str) -> None:
    given = Settings(jwt_secret=secret, hmac_secret=OTHER)

    assert all(each.verdict == "ok" for each in findings.secrets(given))


def test_one_secret_for_both_is_a_warning_and_open_access_needs_none() -> None:
    same = worst(findings.secrets(Settings(jwt_secret=GOOD, hmac_secret=GOOD)))

    assert (same.verdict, same.refuses) == ("warn", False)
    assert findings.secrets(Settings(auth="open"))[0].verdict == "ok"


@pytest.mark.parametrize(("files", "cpus"), [(1_024, 4), (65_536, 1)])
def test_a_small_machine_is_warned_of(files: int, cpus: int) -> None:
    assert worst(findings.machine(files, cpus, Settings(workers=4))).verdict == "warn"


@pytest.mark.parametrize(
    ("host", "trusted", "verdict"),
    [
        ("127.0.0.1", "", "ok"),
        ("0.0.0.0", "", "warn"),
        ("0.0.0.0", "10.0.0.0/8", "ok"),
        ("::", "", "warn"),
    ],
)
def test_a_service_behind_a_proxy_nobody_named_is_warned_of(
    host: str, trusted: str, verdict: str
) -> None:
    found = doorstep.proxies(Settings(host=host, trusted_proxies=trusted))

    assert found.verdict == verdict
    assert ("TRUSTED_PROXIES" in found.mend) == (verdict == "warn")
