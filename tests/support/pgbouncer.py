"""A real PgBouncer before a Postgres, which can be led to another one."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from engine.ops.launch import free_port
from loadtest.fleet import await_true

PROGRAM = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")
needed = pytest.mark.skipif(PROGRAM is None, reason="no pgbouncer: apt-get install pgbouncer")

# What docs/OPERATIONS.md says of it.
SETTINGS = """
[databases]
postgres = host={host} port={port} user=postgres

[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {listen}
unix_socket_dir =
auth_type = any
pool_mode = {mode}
default_pool_size = 32
server_login_retry = 1
"""


class PgBouncer:
    """One PgBouncer, started by `started`."""

    def __init__(self, folder: Path, mode: str) -> None:
        self._path, self._mode, self._listen = folder / "pgbouncer.ini", mode, free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @classmethod
    @contextmanager
    def started(cls, mode: str, url: str) -> Iterator[PgBouncer]:
        """In this pool mode before that server, until the end."""
        assert PROGRAM is not None
        with tempfile.TemporaryDirectory() as folder:
            Path(folder).chmod(0o755)  # it refuses root, and somebody else has to read it
            bouncer = cls(Path(folder), mode)
            bouncer._write(url)
            who = "nobody" if os.geteuid() == 0 else None
            with (Path(folder) / "log").open("wb") as log:
                bouncer._process = subprocess.Popen(
                    [PROGRAM, str(bouncer._path)], stdout=log, stderr=log, user=who
                )
            try:
                await_true(bouncer._answers, "PgBouncer")
                yield bouncer
            finally:
                bouncer._process.kill()
                bouncer._process.wait()

    @property
    def url(self) -> str:
        """The way through it, as DATABASE_URL says it."""
        return f"postgresql://postgres@127.0.0.1:{self._listen}/postgres?pgbouncer=true"

    def lead_to(self, url: str) -> None:
        """From now on it leads to this server."""
        assert self._process is not None
        self._write(url)
        self._process.send_signal(signal.SIGHUP)

    def _write(self, url: str) -> None:
        parts = urlsplit(url)
        words = {"host": parts.hostname, "port": parts.port, "mode": self._mode}
        self._path.write_text(SETTINGS.format(listen=self._listen, **words))
        self._path.chmod(0o644)

    def _answers(self) -> bool:
        with socket.socket() as line:
            return line.connect_ex(("127.0.0.1", self._listen)) == 0
