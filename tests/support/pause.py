"""Stop a server in its tracks: it keeps every connection and lock, and answers nobody."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psutil

from engine.ops.devstack import Server


@contextmanager
def paused(server: Server) -> Iterator[None]:
    """SIGSTOP the server and every process of it; SIGCONT them at the end."""
    parent = psutil.Process(server.pid)
    everybody = [parent]
    parent.send_signal(signal.SIGSTOP)  # first, so that it makes no more children
    for child in parent.children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            child.send_signal(signal.SIGSTOP)
            everybody.append(child)
    try:
        yield
    finally:
        for process in reversed(everybody):
            with suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGCONT)
