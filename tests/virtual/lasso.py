"""What is patched in the engine while a run lasts, so that its seed is all that decides.

The engine's modules get a clock, ids and dice of the run, a log that is listened to, and sets that
keep the order of insertion: in a set of objects their addresses decide who comes first.
"""

from __future__ import annotations

import importlib
import pkgutil
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from random import Random
from types import ModuleType, SimpleNamespace
from typing import Any

import engine
from engine.infra import combiner, ids, postgres, primary
from engine.keepers import keeper

from .loop import PROCESS

Hear = Callable[[str, str, dict[str, Any]], None]  # level, event, fields
PARTS = ("infra", "record", "sale", "keepers")


class OrderedSet(dict[Any, None]):
    """A set whose order is that of insertion."""

    def __init__(self, items: Iterable[Any] = ()) -> None:
        super().__init__(dict.fromkeys(items))

    def add(self, item: Any) -> None:
        self[item] = None

    def discard(self, item: Any) -> None:
        self.pop(item, None)


class Log:
    """Stands in for structlog's logger."""

    def __init__(self, hear: Hear) -> None:
        self._hear = hear

    def __getattr__(self, level: str) -> Callable[..., None]:
        return lambda event, **fields: self._hear(level, event, fields)


async def _connect(url: str, **words: Any) -> Any:
    """A connection of the process that asks, past its pool."""
    staff: Any = PROCESS.get()
    return await staff.pool.connected()


def _modules() -> list[ModuleType]:
    for part in PARTS:
        package = importlib.import_module(f"engine.{part}")
        for each in pkgutil.iter_modules(package.__path__):
            importlib.import_module(f"engine.{part}.{each.name}")
    import sys

    prefix = engine.__name__ + "."
    return [module for name, module in sorted(sys.modules.items()) if name.startswith(prefix)]


@contextmanager
def lasso(now: Callable[[], float], random: Random, hear: Hear) -> Iterator[None]:
    """Patch, and put everything back."""
    clock = SimpleNamespace(monotonic=now, perf_counter=now, time=now)
    changes: list[tuple[Any, str, Any]] = []
    for module in _modules():
        if getattr(getattr(module, "time", None), "__name__", "") == "time":
            changes.append((module, "time", clock))
        if hasattr(module, "log") and hasattr(module.log, "bind"):
            changes.append((module, "log", Log(hear)))
    changes.append((ids, "uuid_utils", SimpleNamespace(uuid7=lambda: seeded_uuid(random))))
    changes.append((keeper, "random", random))
    changes.append((combiner, "set", OrderedSet))
    changes.append((postgres, "WeakSet", OrderedSet))
    changes.append((postgres, "primary", SimpleNamespace(connect=_connect, words=primary.words)))
    missing = object()
    before = [(owner, name, owner.__dict__.get(name, missing)) for owner, name, _ in changes]
    for owner, name, value in changes:
        setattr(owner, name, value)
    try:
        yield
    finally:
        for owner, name, value in before:
            if value is missing:
                delattr(owner, name)
            else:
                setattr(owner, name, value)


def seeded_uuid(random: Random) -> str:
    """An id of the run."""
    return str(uuid.UUID(int=random.getrandbits(128), version=4))
