"""What is refused at the start; `test_supervisor.py` has what a person then sees."""

from __future__ import annotations

import socket
from contextlib import closing

import pytest

from engine.infra.errors import Misconfigured
from engine.infra.settings import Settings
from engine.ops import doorstep


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://:s3cret@host:6379/0", "redis://:***@host:6379/0"),
        ("redis://host:6379/0", "redis://host:6379/0"),
        ("postgresql://ann@127.0.0.1:5432/shop", "postgresql://ann@127.0.0.1:5432/shop"),
        (
            "postgres://u:p@s3/cret?@host/db?password=s3cret",
            "postgres://u:***@host/db?password=***",
        ),
        ("postgres://h/db?sslpassword=s3cret&a=b", "postgres://h/db?sslpassword=***&a=b"),
        ("host=h password=s3cret", "the given address"),
    ],
)
def test_an_address_is_shown_without_its_password(url: str, shown: str) -> None:
    assert doorstep.masked(url) == shown


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
def test_open_access_on_loopback_is_fine(host: str) -> None:
    doorstep.access(Settings(auth="open", host=host))


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "", "not a name"])
def test_open_access_elsewhere_is_refused(host: str) -> None:
    with pytest.raises(Misconfigured, match=r"not loopback: set HOST=127\.0\.0\.1"):
        doorstep.access(Settings(auth="open", host=host))


def test_a_held_door_keeps_a_second_run_out_and_lets_our_workers_in() -> None:
    with closing(doorstep.door("127.0.0.1", 0)) as door, socket.socket() as worker:
        port = door.getsockname()[1]

        with pytest.raises(Misconfigured, match="is taken"):
            doorstep.door("127.0.0.1", port)

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

    doorstep.door("127.0.0.1", port).close()


@pytest.mark.parametrize("host", ["192.0.2.1", "no such host"])
def test_an_address_of_another_machine_is_refused_with_the_mend(host: str) -> None:
    with pytest.raises(Misconfigured, match=f"HOST={host}"):
        doorstep.door(host, 0)


def test_an_error_is_told_without_the_password_of_the_url() -> None:
    wrong = ValueError("cannot read  postgresql://me:s3cret@db/x\n")

    assert doorstep.reason(wrong, "postgresql://me:s3cret@db/x") == (
        "cannot read postgresql://me:***@db/x"
    )
    assert doorstep.reason(wrong, "postgresql://[me:s3cret@db/x") == "ValueError"
