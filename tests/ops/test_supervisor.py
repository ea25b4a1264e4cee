"""`make run`, with real servers and children of our own that do as they are told."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import pty
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from typing import ClassVar

import psutil
import pytest
import redis

from engine.infra import settings
from engine.infra.errors import Misconfigured
from engine.ops import doorstep, preflight, stack
from engine.ops.children import ECHO_SECONDS
from engine.ops.devstack import Server, start_postgres, start_valkey
from engine.ops.launch import free_port

ROOT = Path(__file__).parents[2]

# A child: writes what it is and what it was given to $TRACE/<role>-<pid>, then plays its role.
CHILD = """
import json, os, signal, socket, sys, time
role, trace = sys.argv[1], os.environ["TRACE"]
how = os.environ.get(role.upper() + "_HOW", "")
path = f"{trace}/{role}-{os.getpid()}"
with open(path + ".new", "w") as out:
    json.dump(dict(os.environ, born=time.monotonic()), out)
os.rename(path + ".new", path)
if how == "refuse":
    sys.exit(print("velvetrope: no, because", file=sys.stderr) or 3)
if how == "fail":
    sys.exit(1)
if role in ("migrate", "seed"):
    sys.exit()
leave = lambda *_: (how == "slow" and time.sleep(2)) or sys.exit()
signal.signal(signal.SIGTERM, signal.SIG_IGN if how == "stubborn" else leave)
if role == "serve":
    door = socket.socket()
    door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    door.bind((os.environ["HOST"], int(os.environ["PORT"])))
    door.listen()
os.write(int(os.environ["VELVETROPE_READY_FD"]), b"ready\\n")
while True:
    signal.pause()
"""

SUPERVISOR = """
import sys
from engine.infra import settings
from engine.infra.errors import Misconfigured
from engine.ops.supervisor import Commands, run_dev
roles = {role: (sys.executable, "-S", sys.argv[1], role) for role in Commands.__dataclass_fields__}
sys.exit(run_dev(settings.read(), Commands(**roles)))
"""


UNDURABLE = {"fsync", "full_page_writes", "synchronous_commit"}


class Run:
    """A supervisor under test."""

    started: ClassVar[list[subprocess.Popen[bytes]]] = []

    def __init__(
        self,
        folder: Path,
        servers: Mapping[str, str] | None = None,
        *,
        terminal: int | None = None,
        **environment: str,
    ) -> None:
        self.folder = folder
        (folder / "child.py").write_text(CHILD)
        self.trace = folder / "trace"
        self.trace.mkdir(exist_ok=True)
        self.out, self.err = folder / "out", folder / "err"
        given = {"HOST": "127.0.0.1", "PORT": str(free_port()), "AUTH": "open", "WORKERS": "2"}
        given |= {"DATA_DIR": str(folder / "data"), "TRACE": str(self.trace)}
        given |= {**(servers or {}), **environment}
        self.port = int(given["PORT"])
        kept = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
        with self.out.open("w") as out, self.err.open("w") as err:
            self.process = subprocess.Popen(
                [sys.executable, "-c", SUPERVISOR, str(folder / "child.py")],
                env={name: value for name, value in (kept | given).items() if value},
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                preexec_fn=partial(sit_at, terminal) if terminal else None,  # noqa: PLW1509
            )
        Run.started.append(self.process)

    def await_ready(self) -> None:
        line = f"velvetrope ready on http://127.0.0.1:{self.port}\n"
        wait_until(lambda: line in self.out.read_text() or self.process.poll() is not None, line)
        assert line in self.out.read_text(), self.err.read_text()

    def children(self, role: str) -> dict[int, dict[str, str]]:
        """What each live child of this role was given, by process id."""
        traced = {int(path.name.split("-")[1]): path for path in self.trace.glob(f"{role}-*[0-9]")}
        return {pid: json.loads(path.read_text()) for pid, path in traced.items() if alive(pid)}

    def order(self) -> list[str]:
        """The roles that ran, in the order of their birth."""
        paths = self.trace.glob("*[0-9]")
        born = {path.name: json.loads(path.read_text())["born"] for path in paths}
        return [name.split("-")[0] for name in sorted(born, key=lambda name: float(born[name]))]

    def end(self, number: signal.Signals = signal.SIGINT) -> int:
        self.process.send_signal(number)
        return self.process.wait(30)


def sit_at(terminal: int) -> None:
    """In a new process: make this the terminal whose closing ends us."""
    os.setsid()
    fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that the account which runs Postgres for root can reach; pytest's own is shut."""
    place = Path(tempfile.mkdtemp(prefix="velvetrope-test-", dir="/tmp"))
    place.chmod(0o755)
    yield place
    for process in running_on(place):
        process.kill()
    while Run.started:  # else the next test is told of a child that nobody waited for
        Run.started.pop().wait(10)
    shutil.rmtree(place)


@pytest.fixture(scope="module")
def given() -> Iterator[dict[str, str]]:
    """Servers that are not the supervisor's own."""
    place = Path(tempfile.mkdtemp(prefix="velvetrope-test-", dir="/tmp"))
    place.chmod(0o755)
    postgres = start_postgres(place / "postgres", durable=False)
    valkey = start_valkey(place / "valkey", durable=False)
    yield {"DATABASE_URL": postgres.url, "REDIS_URL": valkey.url}
    valkey.stop()
    postgres.stop()
    shutil.rmtree(place)


def wait_until(true: Callable[[], bool], description: str, seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"waited {seconds} s in vain until {description}"
        time.sleep(0.01)


def alive(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def running_on(place: Path) -> list[psutil.Process]:
    """Every live process that names this folder in its command line."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        if any(str(place) in word for word in process.info["cmdline"] or ()):
            found += [process] if alive(process.pid) else []
    return found


def they_answer(urls: Mapping[str, str]) -> None:
    """Without a warning but that they are not durable."""
    given = settings.read({name: urls[name] for name in ("DATABASE_URL", "REDIS_URL")})
    warnings = asyncio.run(preflight.given_servers(given))
    assert {line.partition(":")[0] for line in warnings} <= UNDURABLE


def refused(run: Run) -> str:
    """The one line a supervisor that would not start left behind."""
    assert run.process.wait(30) == 3
    assert run.out.read_text() == ""
    # These servers are not durable, as a preflight warns.
    lines = [each for each in run.err.read_text().splitlines() if ": warning: " not in each]
    assert len(lines) == 1, lines
    assert running_on(run.folder) == []
    return lines[0]


def test_everything_starts_in_order_and_ctrl_c_leaves_nothing_running(folder: Path) -> None:
    run = Run(folder)

    run.await_ready()

    assert run.order()[:2] == ["migrate", "seed"]
    assert sorted(run.order()[2:]) == ["keep", "provider", "serve", "serve"]
    assert len(running_on(folder)) >= 6  # the supervisor, two servers, three children
    assert run.end() == 0
    assert running_on(folder) == []
    assert "was killed" not in run.err.read_text()
    doorstep.door("127.0.0.1", run.port).close()


def test_children_are_given_the_addresses_and_the_settings(
    folder: Path, given: dict[str, str]
) -> None:
    run = Run(folder, given, POOL_SIZE="5", COMPAT_MOUNTS="false", WORKERS="1")
    run.await_ready()

    for child in (*run.children("serve").values(), *run.children("keep").values()):
        assert {name: child[name] for name in given} == given
        assert (child["HOST"], child["PORT"], child["AUTH"]) == ("127.0.0.1", str(run.port), "open")
        assert (child["POOL_SIZE"], child["COMPAT_MOUNTS"]) == ("5", "false")
    assert run.end(signal.SIGTERM) == 0


def test_an_open_shop_has_a_mock_provider_that_knows_its_secret(
    folder: Path, given: dict[str, str]
) -> None:
    run = Run(folder, given)
    run.await_ready()
    (shop, _), (provider,) = run.children("serve").values(), run.children("provider").values()
    (keeper,) = run.children("keep").values()

    assert len(shop["PAYMENT_SECRET"]) >= 32
    assert shop["PAYMENT_SECRET"] == provider["PAYMENT_SECRET"] == keeper["PAYMENT_SECRET"]
    url = f"http://127.0.0.1:{provider['PROVIDER_PORT']}/checkout"
    assert shop["PAYMENT_URL"] == provider["PAYMENT_URL"] == url
    assert f"{url}  (a mock provider: no money moves)" in run.out.read_text()
    assert shop["PAYMENT_SECRET"] not in run.out.read_text() + run.err.read_text()
    found = stack.find(folder / "data")
    assert found["PAYMENT_URL"] == url
    assert "PAYMENT_SECRET" not in found
    (killed,) = run.children("provider")
    os.kill(killed, signal.SIGKILL)
    wait_until(lambda: new(run, "provider", {killed}) == 1, "another provider")
    assert run.end() == 0
    assert running_on(folder) == []


def door_behind_a_free_port() -> socket.socket:
    """A port of ours, with nobody at the one before it: tests beside this one take ports too."""
    while True:
        taken = doorstep.door("127.0.0.1", 0)
        try:
            doorstep.door("127.0.0.1", taken.getsockname()[1] - 1).close()
        except Misconfigured:
            taken.close()
        else:
            return taken


def test_its_port_is_the_one_that_was_asked_for_or_one_that_is_free(
    folder: Path, given: dict[str, str]
) -> None:
    with closing(door_behind_a_free_port()) as taken:
        taken.listen()
        port = taken.getsockname()[1]
        run = Run(folder, given, PORT=str(port - 1))
        wait_until(lambda: "ready on" in run.out.read_text(), "ready")
        (provider,) = run.children("provider").values()
        assert int(provider["PROVIDER_PORT"]) not in (0, port - 1, port)
        assert run.end() == 0

        asked = Run(folder, given, PROVIDER_PORT=str(port))
        line = refused(asked)
    assert f"127.0.0.1:{port} is taken" in line
    assert f"PROVIDER_PORT={port + 1}" in line


@pytest.mark.parametrize(
    "other",
    [
        {"PAYMENT_URL": "https://pay.example/checkout"},
        {"AUTH": "required", "JWT_SECRET": "j" * 32, "HMAC_SECRET": "h" * 32},
    ],
    ids=lambda other: next(iter(other)),
)
def test_who_has_a_provider_or_faces_strangers_gets_no_mock(
    folder: Path, given: dict[str, str], other: dict[str, str]
) -> None:
    run = Run(folder, given | other)
    run.await_ready()

    assert run.children("provider") == {}
    assert all(child["PAYMENT_SECRET"] == "" for child in run.children("serve").values())
    assert run.end() == 0


def test_given_servers_are_neither_seeded_nor_stopped(folder: Path, given: dict[str, str]) -> None:
    run = Run(folder, given)
    run.await_ready()

    assert "seed" not in run.order()
    assert run.end() == 0
    they_answer(given)
    assert not (folder / "data").exists()


def test_a_given_database_is_seeded_when_asked(folder: Path, given: dict[str, str]) -> None:
    run = Run(folder, given, SEED="1")
    run.await_ready()

    assert run.order()[:2] == ["migrate", "seed"]
    assert run.end() == 0


def test_port_0_is_a_free_port_for_all_workers(folder: Path, given: dict[str, str]) -> None:
    run = Run(folder, given, PORT="0")
    wait_until(lambda: "ready on" in run.out.read_text(), "ready")

    ports = {child["PORT"] for child in run.children("serve").values()}

    assert len(ports) == 1
    assert f"ready on http://127.0.0.1:{ports.pop()}\n" in run.out.read_text()
    assert run.end() == 0


def test_a_process_for_listeners_runs_if_it_is_asked_for(
    folder: Path, given: dict[str, str]
) -> None:
    run = Run(folder, given | {"LISTENERS": "1"})
    run.await_ready()
    (listener,) = run.children("listen")

    os.kill(listener, signal.SIGKILL)

    wait_until(lambda: new(run, "listen", {listener}) == 1, "another one")
    assert run.end() == 0


def new(run: Run, role: str, old: set[int]) -> int:
    """How many children of this role live, those aside."""
    return len(run.children(role).keys() - old)


def test_a_killed_child_is_replaced_and_the_others_stay(
    folder: Path, given: dict[str, str]
) -> None:
    run = Run(folder, given)
    run.await_ready()
    (killed, spared), (keeper,) = run.children("serve"), run.children("keep")

    os.kill(killed, signal.SIGKILL)
    os.kill(keeper, signal.SIGKILL)

    wait_until(lambda: new(run, "serve", {killed}) == 2, "another worker")
    wait_until(lambda: new(run, "keep", {keeper}) == 1, "another keeper")
    assert spared in run.children("serve")
    assert run.err.read_text().count("was ended by SIGKILL; starting it again in 0.2 s") == 2
    assert run.end() == 0
    assert running_on(folder) == []


def kill_server(run: Run, name: str) -> None:
    """kill -9 the server, not its children, and wait until it is back."""
    found = running_on(run.folder / "data" / name)
    (server,) = (process for process in found if process.ppid() == run.process.pid)
    server.kill()
    back = f"{name} was ended by SIGKILL; started again"
    wait_until(lambda: back in run.err.read_text(), back)


def test_a_killed_server_of_ours_comes_back_on_its_port_and_its_socket(folder: Path) -> None:
    run = Run(folder, WORKERS="1")
    run.await_ready()
    (child,) = run.children("serve").values()
    assert "host=" in child["DATABASE_URL"]
    assert child["REDIS_URL"].startswith("unix:///")

    kill_server(run, "valkey")
    kill_server(run, "postgres")

    they_answer(child)
    assert run.end() == 0
    assert running_on(folder) == []


def test_sighup_replaces_each_child_and_the_door_stays_open(
    folder: Path, given: dict[str, str]
) -> None:
    run = Run(folder, given)
    run.await_ready()
    before = {
        **run.children("serve"),
        **run.children("keep"),
        **run.children("provider"),
    }

    run.process.send_signal(signal.SIGHUP)

    while "every child was replaced" not in run.err.read_text():
        # Our children leave without taking what waits for them; a refusal is what must not be.
        with suppress(ConnectionResetError):
            socket.create_connection(("127.0.0.1", run.port), 5).close()
        assert run.process.poll() is None
    after = {**run.children("serve"), **run.children("keep"), **run.children("provider")}
    assert len(after) == 4
    assert set(before).isdisjoint(after)
    assert run.end() == 0
    assert running_on(folder) == []


def test_a_second_ctrl_c_does_not_wait_for_a_child_that_will_not_go(
    folder: Path, given: dict[str, str]
) -> None:
    run = Run(folder, given, KEEP_HOW="stubborn")
    run.await_ready()
    began = time.monotonic()

    run.process.send_signal(signal.SIGINT)
    wait_until(lambda: not run.children("serve"), "the willing have gone")
    wait_until(lambda: time.monotonic() > began + ECHO_SECONDS, "a wish of its own")
    assert run.end() == 0

    assert time.monotonic() - began < 10
    assert "keeper did not finish in time and was killed" in run.err.read_text()
    assert running_on(folder) == []


def test_a_signal_to_the_group_that_is_passed_on_as_well_is_one_wish(
    folder: Path, given: dict[str, str]
) -> None:
    run = Run(folder, given, KEEP_HOW="slow")
    run.await_ready()
    began = time.monotonic()

    run.process.send_signal(signal.SIGTERM)
    for pid in run.children("keep"):  # who ends all of a service reaches its children, too
        os.kill(pid, signal.SIGTERM)
    wait_until(lambda: not run.children("serve"), "it has begun to drain")
    assert run.end(signal.SIGTERM) == 0

    assert time.monotonic() - began >= 2, "the slow one had its time"
    assert "was killed" not in run.err.read_text()
    assert running_on(folder) == []


def test_a_closed_terminal_leaves_nothing_running(folder: Path, given: dict[str, str]) -> None:
    ours, theirs = pty.openpty()
    run = Run(folder, given, terminal=theirs)
    run.await_ready()

    os.close(theirs)
    os.close(ours)

    assert run.process.wait(30) == 0
    assert running_on(folder) == []


def test_ctrl_c_before_all_are_ready_leaves_nothing_running(folder: Path) -> None:
    run = Run(folder)
    wait_until(lambda: "postgres" in str(list((folder / "data").glob("*"))), "it has begun")

    assert run.end() == 0

    assert running_on(folder) == []
    assert "ready" not in run.out.read_text()


@pytest.mark.skipif(sys.platform != "linux", reason="no other kernel tells a child")
def test_children_do_not_outlive_a_killed_supervisor_and_the_next_one_starts(folder: Path) -> None:
    killed = Run(folder, WORKERS="1")
    killed.await_ready()
    killed.process.kill()
    killed.process.wait()
    wait_until(
        lambda: not killed.children("serve") and not killed.children("keep"), "no child is left"
    )

    run = Run(folder, WORKERS="1")

    run.await_ready()
    assert run.end() == 0
    assert running_on(folder) == []


def test_a_second_run_on_the_same_data_is_refused_and_the_first_goes_on(folder: Path) -> None:
    first = Run(folder, WORKERS="1")
    first.await_ready()
    second_folder = folder / "second"
    second_folder.mkdir()

    second = Run(second_folder, DATA_DIR=str(folder / "data"))

    assert f"is in use by process {first.process.pid}: stop" in refused(second)
    assert len(first.children("serve")) == 1
    assert first.end() == 0
    assert first.err.read_text() == ""


def test_a_taken_port_is_refused(folder: Path) -> None:
    with closing(socket.create_server(("127.0.0.1", 0), reuse_port=True)) as taken:
        run = Run(folder, PORT=str(taken.getsockname()[1]))

        assert f":{run.port} is taken: stop what listens there" in refused(run)


def test_a_redis_that_forgets_keys_is_refused(folder: Path) -> None:
    valkey: Server = start_valkey(folder / "valkey", durable=False)
    with redis.Redis.from_url(valkey.url) as client:
        client.config_set("maxmemory-policy", "allkeys-lru")
    nested = folder / "nested"
    nested.mkdir()

    line = refused(Run(nested, REDIS_URL=valkey.url))

    assert "maxmemory-policy: allkeys-lru" in line
    assert "CONFIG SET maxmemory-policy noeviction" in line
    valkey.stop()


def test_missing_secrets_are_refused(folder: Path) -> None:
    assert "JWT_SECRET is missing" in refused(Run(folder, AUTH="required"))


def test_open_access_on_a_network_is_refused(folder: Path) -> None:
    line = refused(Run(folder, HOST="0.0.0.0"))

    assert "AUTH=open trusts everybody and HOST=0.0.0.0 is not loopback" in line


@pytest.mark.parametrize("variable", ["DATABASE_URL", "REDIS_URL"])
def test_a_server_that_does_not_answer_is_named_without_its_password(
    folder: Path, variable: str
) -> None:
    port = free_port()
    scheme = "postgresql" if variable == "DATABASE_URL" else "redis"

    line = refused(Run(folder, {variable: f"{scheme}://me:s3cret@127.0.0.1:{port}/0"}))

    assert f"{variable}: no " in line
    assert f"{scheme}://me:***@127.0.0.1:{port}/0" in line
    assert "s3cret" not in line


def test_another_terminal_finds_the_servers_of_a_live_run_and_of_no_dead_one(
    folder: Path, given: dict[str, str]
) -> None:
    run = Run(folder, given)
    run.await_ready()
    env = folder / "data" / "env"

    told = stack.find(folder / "data")
    assert told.items() >= (given | {"AUTH": "open", "PORT": str(run.port)}).items()
    assert not [name for name in told if "SECRET" in name]
    assert env.stat().st_mode & 0o777 == 0o600
    run.process.kill()
    run.process.wait(30)
    assert env.exists()
    assert stack.find(folder / "data") == {}
    wait_until(lambda: not running_on(folder), "its children are gone")
    again = Run(folder, given)
    again.await_ready()
    assert stack.find(folder / "data")["PORT"] == str(again.port)
    again.end()
    assert not env.exists()


def test_cleaning_stops_what_a_killed_run_left_and_touches_no_live_one(folder: Path) -> None:
    run = Run(folder)
    run.await_ready()

    def clean() -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-S", "-m", "engine.ops.leftovers", str(folder / "data")]
        return subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)

    assert "is in use by process" in clean().stderr
    assert (folder / "data" / "postgres").is_dir()
    run.process.kill()
    run.process.wait(30)
    cleaned = clean()

    assert (cleaned.returncode, cleaned.stderr) == (0, "")
    assert not (folder / "data").exists()
    wait_until(lambda: not running_on(folder), "its servers are gone")


def test_a_child_that_refuses_to_start_ends_everything(folder: Path, given: dict[str, str]) -> None:
    line = refused(Run(folder, given, KEEP_HOW="refuse"))

    assert line == "velvetrope: no, because"


def test_a_migration_that_fails_ends_everything(folder: Path, given: dict[str, str]) -> None:
    line = refused(Run(folder, given, MIGRATE_HOW="fail"))

    assert "migrate ended with code 1" in line
