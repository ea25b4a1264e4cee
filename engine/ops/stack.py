"""Where the servers of a running `make run` are, for commands in another terminal.

The supervisor writes DATA_DIR/env and holds its lock for as long as it lives. The kernel drops
the lock with the process, so a file whose lock can be had was left by a dead one and is ignored.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from engine.infra.errors import Misconfigured
from engine.infra.settings import Settings, is_secret

# All settings but the secrets, which are nobody's to read, and the folder itself.
TOLD = tuple(
    name.upper()
    for name in Settings.__struct_fields__
    if not is_secret(name) and name != "data_dir"
)


@contextmanager
def announce(data_dir: Path, environment: Mapping[str, str]) -> Iterator[None]:
    """Let others find these servers until the end. The file is its owner's alone: URLs may hold
    passwords."""
    path = data_dir / "env"
    lines = "".join(f"{name}={environment[name]}\n" for name in TOLD)
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        number, unfinished = tempfile.mkstemp(prefix="env-", dir=data_dir)
    except OSError as wrong:
        raise Misconfigured(
            f"{data_dir}: {wrong.strerror}; set DATA_DIR to a writable folder"
        ) from None
    with os.fdopen(number, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # before it has its name: nobody finds it unlocked
        file.write(lines)
        file.flush()
        Path(unfinished).replace(path)
        try:
            yield
        finally:
            with suppress(OSError):
                if path.stat().st_ino == os.fstat(file.fileno()).st_ino:
                    path.unlink()
                data_dir.rmdir()  # where nothing else was ever put


def find(data_dir: Path) -> dict[str, str]:
    """The settings of a live stack on that folder; empty if there is none."""
    try:
        with (data_dir / "env").open() as file:
            with suppress(BlockingIOError):
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                return {}
            if os.fstat(file.fileno()).st_uid != os.geteuid():
                return {}  # in a folder that anybody may write to, it may be anybody's bait
            pairs = (line.rstrip("\n").partition("=") for line in file)
            return {name: value for name, _, value in pairs if name in TOLD}
    except OSError:
        return {}
