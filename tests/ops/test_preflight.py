"""What is refused at the start; `test_supervisor.py` has what a person then sees."""

from __future__ import annotations

import socket
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import redis

from engine.infra.errors import Misconfigured
from engine.infra.settings import Settings
from engine.ops import preflight
from engine.ops.devstack import start_valkey


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="velvetrope-test-") as place:
        yield Path(place)


def test_a_redis_that_hides_its_settings_is_only_a_warning(folder: Path) -> None:
    valkey = start_valkey(folder, durable=False)
    with redis.Redis.from_url(valkey.url) as client:
        client.execute_command("ACL", "SETUSER", "app", "on", ">pw", "~*", "+@all", "-info")

    (warning,) = preflight.bouncer(valkey.url.replace("//", "//app:pw@"))

    assert "hides its settings" in warning
    assert "pw" not in warning
    valkey.stop()


def test_an_old_redis_is_refused_and_valkey_is_not_taken_for_one() -> None:
    for said in (
        {"redis_version": "7.0.15"},
        {"redis_version": "7.2.4", "valkey_version": "7.2.5"},
    ):
        with pytest.raises(Misconfigured, match="too old"):
            preflight._refuse_old("redis://somewhere", dict(said))

    preflight._refuse_old("redis://somewhere", {"redis_version": "7.2.0"})
    preflight._refuse_old("redis://somewhere", {"redis_version": "7.2.4", "valkey_version": "9.1"})


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://:s3cret@host:6379/0", "redis://host:6379/0"),
        ("postgres://u:p@s3/cret?@host/db?password=s3cret", "postgres://host/db"),
        ("host=h password=s3cret", "the given address"),
    ],
)
def test_an_address_is_shown_without_its_password(url: str, shown: str) -> None:
    assert preflight.address(url) == shown


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
def test_open_access_on_loopback_is_fine(host: str) -> None:
    preflight.access(Settings(auth="open", host=host))


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "", "not a name"])
def test_open_access_elsewhere_is_refused(host: str) -> None:
    with pytest.raises(Misconfigured, match=r"not loopback: set HOST=127\.0\.0\.1"):
        preflight.access(Settings(auth="open", host=host))


def test_a_held_door_keeps_a_second_run_out_and_lets_our_workers_in() -> None:
    with closing(preflight.door("127.0.0.1", 0)) as door, socket.socket() as worker:
        port = door.getsockname()[1]

        with pytest.raises(Misconfigured, match="is taken"):
            preflight.door("127.0.0.1", port)

        worker.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        worker.bind(("127.0.0.1", port))
        worker.listen()
        for _ in range(20):  # the held socket takes no connection away from the workers
            socket.create_connection(("127.0.0.1", port), 1).close()


def test_connections_that_just_closed_do_not_keep_the_door_shut() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as client:
            accepted, _ = server.accept()
            accepted.close()  # ours first, so that TIME_WAIT is on our side
            client.recv(1)

    preflight.door("127.0.0.1", port).close()


@pytest.mark.parametrize("host", ["192.0.2.1", "no such host"])
def test_an_address_of_another_machine_is_refused_with_the_mend(host: str) -> None:
    with pytest.raises(Misconfigured, match=f"HOST={host}"):
        preflight.door(host, 0)
