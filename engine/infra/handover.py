"""Handing over: an accepted connection goes to another process of this machine, with what was read.

    giver ── head and descriptor, one message ──▶ reception      SCM_RIGHTS over SOCK_SEQPACKET
          ◀── one byte: taken, or not ──────────                 in the order of the messages

The giver keeps a second descriptor until the byte is there, and the reception says it before it
answers anything: so whatever was not taken when the line breaks is the giver's again, and nobody is
answered twice. Nothing here waits: a process that is slow, full or gone is as good as none. Where
the kernel cannot do this (it takes Linux) there is never anybody.
"""

from __future__ import annotations

import array
import asyncio
import os
import re
import secrets
import socket
import struct
import sys
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import cast

import structlog

log = structlog.get_logger()

Factory = Callable[[], asyncio.Protocol]  # of the protocol that an accepted connection gets

POSSIBLE = sys.platform == "linux"
HEAD_BYTES_MAX = 131_072  # less than what a socket takes in one message (wmem_default)
UNTAKEN_MAX = 256
SLOW_SECONDS = 1.0  # who has not taken a connection for so long gets no other
REST_SECONDS = 1.0  # for who did not want one: he has no files left, or is of another release
AT_ONCE = 64  # taken in one go; others wait meanwhile
BACKLOG = 64
PATH_BYTES_MAX = 107  # of a socket's address
NAME = re.compile(r"[a-z0-9-]{1,32}")  # names come from outside too, as parts of sessions' ids
VERSION = b"1"
TAKEN, NOT_TAKEN = b"+", b"-"
_CREDENTIALS = struct.Struct("3i")  # pid, uid, gid
_DESCRIPTOR = socket.CMSG_SPACE(struct.calcsize("i")) if POSSIBLE else 0


def name_of_ours() -> str:
    """A name for this process that no other has, on this machine or beside it, or will have."""
    return f"p-{secrets.token_hex(6)}"


def adopt(factory: Factory, sock: socket.socket, head: bytes) -> None:
    """Go on with a connection as if it had just been accepted, and this head been read of it."""
    task = asyncio.get_running_loop().create_task(_adopt(factory, sock, head), name="adopt")
    _adopting.add(task)
    task.add_done_callback(_adopting.discard)


_adopting: set[asyncio.Task[None]] = set()


async def _adopt(factory: Factory, sock: socket.socket, head: bytes) -> None:
    loop = asyncio.get_running_loop()
    try:
        await loop.connect_accepted_socket(lambda: _Arrival(factory, head), sock)
    except OSError:  # the client is gone
        sock.close()


class _Arrival(asyncio.Protocol):
    """Until the connection is made: what is read next must not come before the head."""

    def __init__(self, factory: Factory, head: bytes) -> None:
        self._factory, self._head = factory, head

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        protocol = self._factory()
        cast(asyncio.Transport, transport).set_protocol(protocol)
        protocol.connection_made(transport)
        protocol.data_received(self._head)


class Reception:
    """Where a process gets connections that others accepted. The newest of a name has it."""

    def __init__(self, folder: Path, name: str, factory: Factory) -> None:
        self._folder, self._name, self._factory = folder, name, factory
        self._door: socket.socket | None = None
        self._number = 0  # of its file
        self._lines: set[socket.socket] = set()
        self._loop = asyncio.get_running_loop()

    def open(self) -> None:
        """Be there from now on. Raises OSError if the folder cannot be written to."""
        if not POSSIBLE:
            return
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _sweep(self._folder)
        self._door = _socket()
        # Bound beside it and renamed: who looks finds the one before or us, never nobody.
        new = self._folder / f"{self._name}.{os.getpid()}.new"
        new.unlink(missing_ok=True)
        with _Address(new) as address:
            self._door.bind(address)
        new.chmod(0o600)
        self._door.listen(BACKLOG)
        self._number = new.stat().st_ino
        new.replace(_place(self._folder, self._name))
        self._loop.add_reader(self._door, self._meet)

    def close(self) -> None:
        """Take nothing more: what waits goes back to who gave it."""
        if self._door is None:
            return
        self._loop.remove_reader(self._door)
        self._meet()  # or who has just connected would not get his back
        self._door.close()
        self._door = None
        place = _place(self._folder, self._name)
        with suppress(OSError):
            if place.stat().st_ino == self._number:  # else a younger one has the name
                place.unlink()
        for line in list(self._lines):
            line.shutdown(socket.SHUT_RD)  # from here on nothing is sent: what is there is all
            while self._take(line, NOT_TAKEN):
                pass
            self._hang_up(line)

    def _meet(self) -> None:
        """Let in all who knock; where no files are left, ask again later, not all the time."""
        if self._door is None:
            return
        while True:
            try:
                line, _ = self._door.accept()
            except BlockingIOError:
                return
            except OSError:
                self._loop.remove_reader(self._door)
                self._loop.call_later(SLOW_SECONDS, self._knock)
                return
            line.setblocking(False)
            if not _is_ours(line):
                line.close()
                continue
            self._lines.add(line)
            self._loop.add_reader(line, self._hear, line)

    def _knock(self) -> None:
        if self._door is not None:
            self._loop.add_reader(self._door, self._meet)

    def _hear(self, line: socket.socket) -> None:
        for _ in range(AT_ONCE):
            if not self._take(line, TAKEN):
                return

    def _take(self, line: socket.socket, word: bytes) -> bool:
        """The next message of a line; whether there was one."""
        try:
            message, extra, flags, _ = line.recvmsg(
                HEAD_BYTES_MAX + len(VERSION), _DESCRIPTOR, socket.MSG_CMSG_CLOEXEC
            )
        except BlockingIOError:
            return False
        except ConnectionResetError:  # the giver left words unread: what he gave comes behind this
            return True
        except OSError:
            message, extra, flags = b"", [], 0
        if not message:
            self._hang_up(line)
            return False
        given = _descriptor(extra)
        is_whole = given is not None and not flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC)
        if not is_whole or message[:1] != VERSION:  # no files left, or another release
            word = NOT_TAKEN
        try:
            line.send(word)  # before any answer
        except BlockingIOError:  # it will have back what it did not hear of
            word = NOT_TAKEN
            self._hang_up(line)
        except OSError:  # it is gone: nobody else has this connection
            pass
        if given is not None:
            if word is TAKEN:
                adopt(self._factory, given, message[1:])
            else:
                given.close()
        return line in self._lines

    def _hang_up(self, line: socket.socket) -> None:
        if line in self._lines:
            self._lines.discard(line)
            self._loop.remove_reader(line)
            line.close()


class _Line:
    """From us to one reception: what was given, until it is taken."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.untaken: deque[tuple[float, socket.socket, bytes]] = deque()
        self.rests_until = 0.0


class Handover:
    """Gives connections to the receptions of a folder. What they do not take is ours again, and
    goes on at `home`."""

    def __init__(self, folder: Path, home: Factory | None = None) -> None:
        self.folder = folder
        self.home = home
        self._lines: dict[str, _Line] = {}
        self._loop = asyncio.get_running_loop()

    def give(self, transport: asyncio.Transport, head: bytes, name: str) -> bool:
        """Give a connection away, of which `head` has been read and not answered. False: it is
        still ours, with nothing lost. True: nothing of it must be touched any more.
        """
        if len(head) > HEAD_BYTES_MAX or transport.is_closing():
            return False
        if transport.get_write_buffer_size():
            return False  # an answer before it would be lost, or come too late
        line = self._line(name)
        if line is None:
            return False
        was_reading = transport.is_reading()
        transport.pause_reading()
        kept = self._send(line, transport, head)
        if kept is None:
            if was_reading:
                transport.resume_reading()
            return False
        line.untaken.append((self._loop.time(), kept, head))
        transport.set_protocol(asyncio.Protocol())
        transport.close()  # our descriptor: a connection ends with the last one of it
        return True

    def close(self) -> None:
        """Give nothing more. Whoever has not taken yet what was given still can."""
        self.home = None
        for name, line in list(self._lines.items()):
            self._hang_up(name, line)

    def _line(self, name: str) -> _Line | None:
        """One that takes more, a new one if need be."""
        line = self._lines.get(name) or self._connect(name)
        if line is None or self._loop.time() < line.rests_until:
            return None
        if not line.untaken:
            return line
        since, _, _ = line.untaken[0]
        is_slow = self._loop.time() - since > SLOW_SECONDS
        return None if is_slow or len(line.untaken) >= UNTAKEN_MAX else line

    def _connect(self, name: str) -> _Line | None:
        if not POSSIBLE or not NAME.fullmatch(name):
            return None
        sock = _socket()
        try:
            with _Address(_place(self.folder, name)) as address:
                sock.connect(address)
        except OSError:  # nobody, or too busy to say hello
            sock.close()
            return None
        if not _is_ours(sock):
            sock.close()
            return None
        line = self._lines[name] = _Line(sock)
        self._loop.add_reader(sock, self._hear, name, line)
        return line

    def _send(self, line: _Line, transport: asyncio.Transport, head: bytes) -> socket.socket | None:
        """Send it; a second descriptor of it then."""
        number = transport.get_extra_info("socket").fileno()
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [number]))]
        try:
            kept = socket.socket(fileno=os.dup(number))
        except OSError:
            return None
        try:
            line.sock.sendmsg([VERSION, head], rights)
        except OSError:  # full; or gone, then its reader hears of it
            kept.close()
            return None
        return kept

    def _hear(self, name: str, line: _Line) -> None:
        if not self._settle(line):
            self._hang_up(name, line)

    def _settle(self, line: _Line) -> bool:
        """Let go of what is taken, and have back what is not; whether the line still stands."""
        while True:
            try:
                words = line.sock.recv(1)
            except BlockingIOError:
                return True
            except ConnectionResetError:  # it left messages unread: its words come behind this
                continue
            except OSError:
                return False
            if not words:
                return False
            _, kept, head = line.untaken.popleft()
            if words == TAKEN:
                kept.close()
            else:  # what comes back asks for him again at once: without a rest for ever
                line.rests_until = self._loop.time() + REST_SECONDS
                self._have_back(kept, head)

    def _have_back(self, sock: socket.socket, head: bytes) -> None:
        if self.home is None:
            sock.close()
        else:
            adopt(self.home, sock, head)

    def _hang_up(self, name: str, line: _Line) -> None:
        del self._lines[name]
        self._loop.remove_reader(line.sock)
        self._settle(line)
        line.sock.close()
        for _, kept, head in line.untaken:
            self._have_back(kept, head)
        line.untaken.clear()


class _Address:
    """A path as a socket's address, however long: then by a descriptor of its folder."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._folder = -1

    def __enter__(self) -> str:
        if len(os.fsencode(self._path)) <= PATH_BYTES_MAX:
            return str(self._path)
        self._folder = os.open(self._path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        return f"/proc/self/fd/{self._folder}/{self._path.name}"

    def __exit__(self, *_: object) -> None:
        if self._folder >= 0:
            os.close(self._folder)


def _place(folder: Path, name: str) -> Path:
    return folder / f"{name}.sock"


def _socket() -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sock.setblocking(False)
    return sock


def _is_ours(sock: socket.socket) -> bool:
    """Whether the other side is of the same user: a connection is no stranger's."""
    _, user, _ = _CREDENTIALS.unpack(
        sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    )
    return bool(user == os.geteuid())


def _descriptor(extra: list[tuple[int, int, bytes]]) -> socket.socket | None:
    for level, kind, data in extra:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            numbers = array.array("i", data[: len(data) - len(data) % array.array("i").itemsize])
            for number in numbers[1:]:
                os.close(number)
            if numbers:
                return socket.socket(fileno=numbers[0])
    return None


def _sweep(folder: Path) -> None:
    """Take away what dead processes left under names of their own; others have successors."""
    for path in folder.glob("p-*.sock"):
        sock = _socket()
        with suppress(OSError), _Address(path) as address:
            try:
                sock.connect(address)
            except ConnectionRefusedError:
                path.unlink(missing_ok=True)
        sock.close()
