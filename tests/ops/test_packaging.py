"""What ships beside the code names only what exists: commands, settings, files, versions."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

from engine import __version__
from engine.infra.aliases import DATABASE
from engine.infra.settings import Settings
from engine.ops.binaries import POSTGRES_MIN
from engine.ops.cli import app
from engine.ops.findings import VALKEY_MIN

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
COMPOSE = (ROOT / "docker-compose.yml").read_text()
EXAMPLE = (ROOT / ".env.example").read_text()
MAKEFILE = (ROOT / "Makefile").read_text()
SETTINGS = {name.upper() for name in Settings.__struct_fields__} | set(DATABASE)
MUST = ("DB_PASSWORD", "JWT_SECRET", "HMAC_SECRET")


def service(name: str) -> str:
    """The lines of one service of the compose file."""
    found = re.search(rf"^  {name}:\n(?:    .*\n|\n)+", COMPOSE, re.MULTILINE)
    assert found, name
    return found[0]


def locked(name: str) -> dict[str, str]:
    """Versions by package of a lock file."""
    return dict(re.findall(r"^([\w-]+)==([^\s;]+)", (ROOT / name).read_text(), re.MULTILINE))


def test_every_command_that_is_started_exists() -> None:
    started = re.findall(r'\["velvetrope", "([\w-]+)"', DOCKERFILE + COMPOSE)
    started += re.findall(r"(?:run --rm \w+|exec \w+) velvetrope ([\w-]+)", COMPOSE)
    started += re.findall(r"\$\(PY\) -m engine ([\w-]+)", MAKEFILE)

    assert {"serve", "keep", "migrate", "preflight", "dev", "audit"} <= set(started)
    assert [name for name in started if name not in app] == []


def test_every_variable_of_the_engine_is_a_setting() -> None:
    engine = COMPOSE[COMPOSE.index("x-engine:") : COMPOSE.index("\nservices:")]
    given = set(re.findall(r"^    ([A-Z_]+):", engine, re.MULTILINE))
    image = set(re.findall(r"^    ([A-Z_]+)=|^ENV ([A-Z_]+)=", DOCKERFILE, re.MULTILINE).__iter__())
    baked = {first or second for first, second in image} - {
        "PATH",
        "PYTHONPATH",
        "PYTHONUNBUFFERED",
    }

    assert given >= {"JWT_SECRET", "HMAC_SECRET", "REDIS_URL", "DB_HOST"}
    assert given - SETTINGS == set()
    assert baked == {"HOST", "PORT", "LOG_FORMAT"}


def test_compose_refuses_without_its_secrets_and_the_example_lists_what_it_reads() -> None:
    read = set(re.findall(r"\$\{(\w+)", COMPOSE))
    listed = set(re.findall(r"^(\w+)=", EXAMPLE, re.MULTILINE))

    for name in MUST:
        assert re.search(rf"\${{{name}:\?set {name} in \.env", COMPOSE), name
        assert f"\n{name}=\n" in EXAMPLE
    assert listed == read
    assert f"${{{MUST[0]}}}" not in COMPOSE


def test_no_database_has_a_port_outside() -> None:
    for name in ("postgres", "valkey", "migrate", "keeper"):
        assert "ports:" not in service(name)
    assert "127.0.0.1:8000" in service("api")


def test_the_servers_of_compose_pass_the_preflight() -> None:
    assert int(re.search(r"image: postgres:(\d+)", COMPOSE)[1]) >= POSTGRES_MIN  # type: ignore[index]
    assert int(re.search(r"image: valkey/valkey:(\d+)", COMPOSE)[1]) >= VALKEY_MIN[0]  # type: ignore[index]
    assert "- --maxmemory-policy\n      - noeviction\n" in service("valkey")
    assert "- --notify-keyspace-events\n      - Ex\n" in service("valkey")


def test_workers_wait_for_the_migration_and_each_server_for_its_health() -> None:
    assert service("api").count("condition:") == 3
    assert "migrate:\n        condition: service_completed_successfully" in service("api")
    assert "depends_on: *prepared" in service("keeper")
    for name in ("postgres", "valkey"):
        assert "healthcheck:" in service(name)
    for name in ("migrate", "keeper"):  # they listen on no port
        assert "disable: true" in service(name)


def test_the_image_copies_what_exists_and_the_context_holds_no_more() -> None:
    copied = re.findall(r"^COPY (?!--from)(\S+)", DOCKERFILE, re.MULTILINE)
    allowed = re.findall(r"^!(\S+)", (ROOT / ".dockerignore").read_text(), re.MULTILINE)

    assert all((ROOT / source).exists() for source in copied)
    assert sorted(copied) == sorted(allowed)


def test_the_image_runs_as_nobody_in_particular_and_stops_as_a_worker_does() -> None:
    assert re.search(r"^USER velvetrope$", DOCKERFILE, re.MULTILINE)
    assert "STOPSIGNAL SIGTERM" in DOCKERFILE
    assert 'CMD ["velvetrope", "serve"]' in DOCKERFILE
    commands = [
        json.loads(found) for found in re.findall(r"CMD (\[.*\])$", DOCKERFILE, re.MULTILINE)
    ]
    (look,) = [command for command in commands if command[0] == "python"]
    compile(look[2], "the health check", "exec")
    assert "/health/ready" in look[2]
    assert "--require-hashes" in DOCKERFILE


def test_the_image_holds_the_tested_versions_and_nothing_that_only_tests_need() -> None:
    everything, shipped = locked("requirements.lock"), locked("requirements.prod.lock")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = {re.split(r"[\[>=]", line)[0] for line in project["dependencies"]}
    extras = {
        re.split(r"[\[>=]", line)[0]
        for lines in project["optional-dependencies"].values()
        for line in lines
    }

    assert shipped.items() <= everything.items()
    assert needed <= shipped.keys()
    assert extras.isdisjoint(shipped)
    for name in ("requirements.lock", "requirements.prod.lock"):
        assert "://" not in (ROOT / name).read_text(), "a lock names no server"


def test_the_version_is_the_same_wherever_it_stands() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

    assert project["version"] == __version__


def test_every_target_of_make_says_what_it_does() -> None:
    targets = set(re.findall(r"^\.PHONY: (\S+)", MAKEFILE, re.MULTILINE))
    told = set(re.findall(r"^([a-z-]+):.*## \S", MAKEFILE, re.MULTILINE))

    assert targets == told
    assert told >= {"run", "serve", "keep", "migrate", "seed", "audit", "reconcile", "preflight"}


@pytest.mark.parametrize("client", [("docker", "compose"), ("docker-compose",)], ids=" ".join)
def test_a_compose_client_understands_the_file(client: tuple[str, ...], tmp_path: Path) -> None:
    if shutil.which(client[0]) is None:
        pytest.skip(f"{client[0]} is not installed here")
    if subprocess.run([*client, "version"], check=False, capture_output=True).returncode:
        pytest.skip(f"{' '.join(client)} does not run here")
    nothing = tmp_path / "env"  # not the .env of whoever runs this
    nothing.touch()
    command = [
        *client,
        "--env-file",
        str(nothing),
        "--project-directory",
        str(ROOT),
        "-f",
        str(ROOT / "docker-compose.yml"),
    ]

    def config(**given: str) -> subprocess.CompletedProcess[str]:
        path = {"PATH": "/usr/local/bin:/usr/bin:/bin"}
        return subprocess.run(
            [*command, "config", "-q"],
            env=path | given,
            check=False,
            capture_output=True,
            text=True,
        )

    filled = config(**dict.fromkeys(MUST, "x"))
    missing = config(**dict.fromkeys(MUST[1:], "x"))

    assert filled.returncode == 0, filled.stderr
    assert missing.returncode != 0
    assert "set DB_PASSWORD in .env" in missing.stderr
