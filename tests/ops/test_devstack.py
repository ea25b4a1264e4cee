"""The embedded servers: real ones, started, killed and left behind in every way we know of."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import psutil
import pytest
import redis

from engine.infra.errors import Misconfigured
from engine.ops import binaries
from engine.ops.devstack import Server, start_postgres, start_valkey

ROOT = Path(__file__).parents[2]

OWNER = """
import sys
from pathlib import Path
from engine.ops.devstack import start_postgres, start_valkey
base = Path(sys.argv[1])
servers = start_postgres(base / "postgres"), start_valkey(base / "valkey")
print(*(f"{server.pid} {server.url}" for server in servers), flush=True)
sys.stdin.read()
for server in reversed(servers):
    server.stop()
"""


@pytest.fixture
def base() -> Iterator[Path]:
    """A folder that the account which runs Postgres for root can reach; pytest's own is shut."""
    folder = Path(tempfile.mkdtemp(prefix="velvetrope-test-", dir="/tmp"))
    folder.chmod(0o755)
    yield folder
    for process in running_on(folder):
        process.kill()
    shutil.rmtree(folder)


def wait_until(true: Callable[[], bool], description: str, seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"waited {seconds} s in vain until {description}"
        time.sleep(0.01)


def running_on(folder: Path) -> list[psutil.Process]:
    """Every live process that names this folder in its command line."""
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        named = any(str(folder) in word for word in process.info["cmdline"] or ())
        if named and process.info["status"] != psutil.STATUS_ZOMBIE:
            found.append(process)
    return found


def query(url: str, *statements: str) -> object:
    async def run() -> object:
        connection = await asyncpg.connect(url)
        try:
            return [await connection.fetchval(statement) for statement in statements][-1]
        finally:
            await connection.close()

    return asyncio.run(run())


def client(server: Server) -> redis.Redis:
    return redis.Redis.from_url(server.url)


def test_postgres_answers_and_leaves_nothing_running(base: Path) -> None:
    server = start_postgres(base)

    assert server.url.startswith("postgresql://postgres@127.0.0.1:")
    assert query(server.url, "SHOW synchronous_commit") == "on"
    assert query(server.url, "SHOW fsync") == "on"
    assert query(server.url, "SHOW max_connections") == "200"
    server.stop()
    server.stop()

    assert server.process.returncode == 0
    assert running_on(base) == []


def test_a_postgres_for_tests_does_not_wait_for_the_disk(base: Path) -> None:
    server = start_postgres(base, durable=False)

    assert query(server.url, "SHOW fsync") == "off"
    server.stop()


def test_valkey_answers_and_leaves_nothing_running(base: Path) -> None:
    server = start_valkey(base)

    with client(server) as valkey:
        assert valkey.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
        assert set(valkey.config_get("notify-keyspace-events").values()) <= {"xE", "Ex"}
        assert valkey.config_get("appendonly") == {"appendonly": "yes"}
        assert valkey.config_get("bind") == {"bind": "127.0.0.1"}
    server.stop()
    server.stop()

    assert server.process.returncode == 0
    assert running_on(base) == []


def test_postgres_listens_on_loopback_alone(base: Path) -> None:
    server = start_postgres(base, durable=False)

    sockets = psutil.Process(server.pid).net_connections("all")

    assert {found.laddr[0] for found in sockets if found.status == psutil.CONN_LISTEN} == {
        "127.0.0.1"
    }
    server.stop()


def test_both_listen_on_a_socket_behind_a_door_that_is_shut_to_others(base: Path) -> None:
    postgres, valkey = start_postgres(base, durable=False), start_valkey(base / "valkey")

    assert query(postgres.local, "SELECT inet_client_addr() IS NULL") is True
    with redis.Redis.from_url(valkey.local) as line:
        assert line.ping()
        assert ":0" in line.client_list()[0]["addr"]
    for nook, owner in (
        (postgres.data.parent / "postgres.socket", postgres.data.stat().st_uid),
        (base / "valkey/valkey.socket", os.geteuid()),
    ):
        assert (stat.S_IMODE(nook.stat().st_mode), nook.stat().st_uid) == (0o700, owner)
        assert [stat.S_ISSOCK(found.stat().st_mode) for found in nook.iterdir()].count(True) == 1
    valkey.stop()
    postgres.stop()


@pytest.mark.parametrize("folder", ["long" * 20, "a,b"])
def test_where_no_socket_can_be_there_is_none(base: Path, folder: str) -> None:
    place = base / folder
    for start in (start_postgres, start_valkey):
        server = start(place, durable=False)

        assert server.local == server.url
        assert not list(place.glob("*.socket"))
        server.stop()


def test_a_file_system_without_sockets_does_without(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Dry(socket.socket):
        def bind(self, address: object) -> None:
            if isinstance(address, str):
                raise PermissionError
            super().bind(address)  # type: ignore[arg-type]

    monkeypatch.setattr(socket, "socket", Dry)
    server = start_valkey(base)

    assert server.local == server.url
    server.stop()


def test_what_a_killed_postgres_left_of_its_socket_is_no_obstacle(base: Path) -> None:
    """Its lock holds a number that may be a stranger's by now: ours, as it happens."""
    killed = start_postgres(base, durable=False)
    (lock,) = killed.data.parent.glob("postgres.socket/.s.*.lock")
    killed.process.kill()
    killed.process.wait()
    lock.write_text(lock.read_text().replace(str(killed.pid), str(os.getpid())))

    server = start_postgres(base, port=urlsplit(killed.url).port or 0, durable=False)

    assert server.local == killed.local != server.url
    assert query(server.local, "SELECT 1") == 1
    server.stop()


def test_data_survives_a_restart(base: Path) -> None:
    postgres, valkey = start_postgres(base / "postgres"), start_valkey(base / "valkey")
    query(postgres.url, "CREATE TABLE kept AS SELECT 42 AS answer")
    with client(valkey) as line:
        line.set("kept", "42")
    valkey.stop()
    postgres.stop()

    postgres, valkey = start_postgres(base / "postgres"), start_valkey(base / "valkey")

    assert query(postgres.url, "SELECT answer FROM kept") == 42
    with client(valkey) as line:
        assert line.get("kept") == b"42"
    valkey.stop()
    postgres.stop()


def test_a_killed_postgres_starts_again_on_its_port_with_every_commit(base: Path) -> None:
    killed = start_postgres(base)
    port = int(killed.url.rsplit(":", 1)[1].split("/")[0])
    query(killed.url, "CREATE TABLE kept AS SELECT 42 AS answer")
    killed.process.kill()

    server = start_postgres(base, port=port)

    assert server.url == killed.url
    assert query(server.url, "SELECT answer FROM kept") == 42
    killed.stop()
    assert server.process.poll() is None
    server.stop()
    assert running_on(base) == []


def test_a_killed_valkey_starts_again_on_its_port(base: Path) -> None:
    killed = start_valkey(base, durable=False)
    port = int(killed.url.rsplit(":", 1)[1].split("/")[0])
    killed.process.kill()

    server = start_valkey(base, port=port, durable=False)

    with client(server) as valkey:
        assert valkey.ping()
    server.stop()
    assert running_on(base) == []


def owner(base: Path) -> tuple[subprocess.Popen[str], list[str]]:
    """Another process that owns servers on this folder: it, and `pid url` twice."""
    process = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(base)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    return process, process.stdout.readline().split()


def test_servers_of_a_killed_owner_are_stopped_cleanly_and_started_afresh(base: Path) -> None:
    process, (postgres_pid, postgres_url, valkey_pid, _) = owner(base)
    query(postgres_url, "CREATE TABLE kept AS SELECT 42 AS answer")
    process.kill()
    process.communicate()
    assert psutil.pid_exists(int(postgres_pid))

    postgres, valkey = start_postgres(base / "postgres"), start_valkey(base / "valkey")

    assert {postgres.pid, valkey.pid}.isdisjoint({int(postgres_pid), int(valkey_pid)})
    assert query(postgres.url, "SELECT answer FROM kept") == 42
    assert "not properly shut down" not in (base / "postgres/postgres.log").read_text()
    valkey.stop()
    postgres.stop()
    assert running_on(base) == []


def test_a_second_owner_is_refused_and_the_first_goes_on(base: Path) -> None:
    process, (_, postgres_url, _, _) = owner(base)

    for start, folder in ((start_postgres, "postgres"), (start_valkey, "valkey")):
        with pytest.raises(Misconfigured, match=f"in use by process {process.pid}: stop"):
            start(base / folder)

    assert query(postgres_url, "SELECT 1") == 1
    process.communicate("")
    assert process.returncode == 0
    assert running_on(base) == []


def test_one_process_cannot_start_two_on_one_folder(base: Path) -> None:
    server = start_valkey(base)

    with pytest.raises(Misconfigured, match="in use"):
        start_valkey(base)

    assert server.process.poll() is None
    server.stop()


def test_a_pid_file_that_names_a_stranger_is_no_obstacle(base: Path) -> None:
    server = start_postgres(base)
    server.process.kill()
    server.process.wait()
    pid_file = server.data / "postmaster.pid"
    status = server.data.stat()
    account = {"user": status.st_uid, "group": status.st_gid} if os.geteuid() == 0 else {}
    stranger = subprocess.Popen(["sleep", "60"], **account)  # type: ignore[call-overload]
    lines = pid_file.read_text().splitlines()
    pid_file.write_text("\n".join([str(stranger.pid), *lines[1:]]) + "\n")

    server = start_postgres(base)

    assert query(server.url, "SELECT 1") == 1
    assert stranger.poll() is None
    server.stop()
    stranger.kill()
    stranger.wait()


def test_half_of_an_initdb_is_begun_again(base: Path) -> None:
    half = base / "data.unfinished"
    half.mkdir()
    (half / "PG_VERSION").write_text("18\n")

    server = start_postgres(base, durable=False)

    assert query(server.url, "SELECT 1") == 1
    assert not half.exists()
    server.stop()


def test_a_cluster_of_another_version_is_refused_with_the_mend(base: Path) -> None:
    (base / "data").mkdir()
    (base / "data/PG_VERSION").write_text("9\n")

    with pytest.raises(Misconfigured, match=r"made by Postgres 9, .*PG_BINDIR"):
        start_postgres(base)

    assert running_on(base) == []


def test_a_start_that_is_interrupted_leaves_nothing_running(base: Path) -> None:
    def interrupt(_seconds: float) -> None:
        raise KeyboardInterrupt

    for start in (start_postgres, start_valkey):
        with pytest.raises(KeyboardInterrupt):
            start(base, pause=interrupt)

    wait_until(lambda: running_on(base) == [], "nothing runs")
    start_valkey(base).stop()
    start_postgres(base).stop()


def test_a_given_port_that_is_taken_is_refused_with_the_servers_own_reason(base: Path) -> None:
    first = start_valkey(base / "first")
    port = int(first.url.rsplit(":", 1)[1].split("/")[0])

    for start in (start_postgres, start_valkey):
        with pytest.raises(Misconfigured, match="in use"):
            start(base / "second", port=port)

    first.stop()


def test_programs_can_be_given(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VALKEY_SERVER", str(binaries.valkey()))
    start_valkey(base).stop()

    monkeypatch.setenv("VALKEY_SERVER", str(base / "absent"))
    monkeypatch.setenv("PG_BINDIR", str(base))

    with pytest.raises(Misconfigured, match=r"VALKEY_SERVER=.*no program"):
        start_valkey(base)
    with pytest.raises(Misconfigured, match=r"PG_BINDIR=.*no postgres"):
        start_postgres(base)


def test_servers_do_not_inherit_our_secrets(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JWT_SECRET", "for nobody else")

    server = start_postgres(base, durable=False)

    assert "JWT_SECRET" not in psutil.Process(server.pid).environ()
    server.stop()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has to lend Postgres to somebody else")
def test_root_may_keep_all_of_it_under_a_folder_shut_to_others(base: Path) -> None:
    shut = base / "shut"
    shut.mkdir(mode=0o700)
    packages = shut / "packages"
    bindir = binaries.postgres()
    package = bindir.parents[1]
    shutil.copytree(package, packages / package.name, symlinks=True)
    shutil.copytree(package.with_name(f"{package.name}.libs"), packages / f"{package.name}.libs")
    search = os.pathsep.join([str(packages), str(ROOT)])
    process = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(shut / "data")],
        cwd="/",
        env={**os.environ, "PYTHONPATH": search},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    pid, url, _, _ = process.stdout.readline().split()
    program = Path(psutil.Process(int(pid)).exe())
    data = (shut / "data/postgres/elsewhere").resolve()

    try:
        assert query(url, "SELECT 1") == 1
        assert program.is_relative_to("/var/tmp")
        assert stat.S_IMODE(shut.stat().st_mode) == 0o700
        assert psutil.Process(int(pid)).uids().real != 0
        process.communicate("")
        assert process.returncode == 0
        assert not psutil.pid_exists(int(pid))
    finally:
        process.kill()
        shutil.rmtree(program.parents[3])
        shutil.rmtree(data)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has to lend Postgres to somebody else")
def test_a_throw_away_cluster_moved_elsewhere_is_swept_when_its_folder_is_gone(base: Path) -> None:
    shut = base / "shut"
    shut.mkdir(mode=0o700)
    gone = start_postgres(shut / "gone", durable=False)
    gone.stop()
    shutil.rmtree(shut / "gone")

    other = start_postgres(shut / "other", durable=False)

    assert not gone.data.exists()
    assert query(other.url, "SELECT 1") == 1
    other.stop()
    shutil.rmtree(other.data.parent)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_an_ordinary_user_needs_nothing_special(base: Path) -> None:
    place = base / "theirs"
    place.mkdir()
    os.chown(place, 65534, 65534)
    code = OWNER.replace("import sys", "import os, sys; os.setgid(65534); os.setuid(65534)", 1)

    # Modules are read as root: the interpreter of this checkout may be out of their reach.
    code = "import encodings.idna, engine.ops.devstack\n" + code
    done = subprocess.run(
        [sys.executable, "-c", code, str(place)],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert (place / "postgres/data").stat().st_uid == 65534
    assert running_on(base) == []


def test_sigterm_to_postgres_from_elsewhere_is_no_trouble_for_stop(base: Path) -> None:
    server = start_postgres(base, durable=False)

    server.process.send_signal(signal.SIGTERM)
    server.stop()

    assert running_on(base) == []
