"""Lua scripts as source code: each file of lua/ is one transition of the bouncer.

A script opens with a header that is its whole contract: what it promises, its KEYS, its ARGV and
their types. The loader binds those names, so a body never says `ARGV[3]`; a call must give
exactly these words.

    ARGV types   text · int · packed (MessagePack, unpacked by the script)
    word...      the only key there is: a list of as many as a call gives
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import msgspec

_TYPES = {"text", "int", "packed"}
_pack = msgspec.msgpack.Encoder().encode


class Script(msgspec.Struct, frozen=True):
    """One script, its declared words, and the source Redis gets."""

    name: str
    promise: str
    keys: tuple[str, ...]
    arguments: tuple[tuple[str, str], ...]
    source: str
    sha: str
    many: bool = False  # its one key is a list

    def bind(self, keys: Mapping[str, Any], arguments: dict[str, Any]) -> list[Any]:
        """The arguments of EVALSHA after the sha: number of keys, keys, values."""
        assert tuple(keys) == self.keys, f"{self.name}: keys {tuple(keys)}, declared {self.keys}"
        given = keys[self.keys[0]] if self.many else keys.values()
        declared = tuple(name for name, _ in self.arguments)
        assert tuple(arguments) == declared, f"{self.name}: {tuple(arguments)}, declared {declared}"
        values = [
            _pack(arguments[name]) if kind == "packed" else arguments[name]
            for name, kind in self.arguments
        ]
        return [len(given), *given, *values]


def folder() -> Path:
    """lua/ of the checkout, or the copy inside the wheel."""
    checkout = Path(__file__).parents[2] / "lua"
    return checkout if checkout.is_dir() else Path(__file__).parents[1] / "_lua"


@cache
def load(name: str) -> Script:
    """The script lua/<name>.lua."""
    return parse(name, (folder() / f"{name}.lua").read_text())


def parse(name: str, text: str) -> Script:
    """A script from its text; a header that breaks the grammar is a ValueError."""
    match = re.match(r"--\[\[\n(.*?)\n\]\]\n", text, re.DOTALL)
    if match is None:
        raise ValueError(f"{name}: no header")
    header = match[1]
    promise = header.strip().splitlines()[0].strip()
    if not promise.startswith(f"{name}: "):
        raise ValueError(f"{name}: the first line must read '{name}: what it promises'")
    keys = tuple(word for word, _ in _words(header, "KEYS"))
    many = len(keys) == 1 and keys[0].endswith("...")
    keys = (keys[0][:-3],) if many else keys
    arguments = tuple(_typed(name, word, rest) for word, rest in _words(header, "ARGV"))
    if "RETURNS" not in header:
        raise ValueError(f"{name}: the header does not say what it RETURNS")
    binding = [f"local {key} = KEYS" + ("" if many else f"[{i}]") for i, key in enumerate(keys, 1)]
    for i, (word, kind) in enumerate(arguments, 1):
        binding.append(
            f"local {word} = " + (f"tonumber(ARGV[{i}])" if kind == "int" else f"ARGV[{i}]")
        )
    # Bound on the header's last line, so that Redis reports this file's own line numbers.
    lines = "\n" * header.count("\n")
    # The first line makes the server refuse the whole script where it may not write: when it is
    # full, a replica, or lacks its quorum. Without it a script that only refuses would run on.
    flags = " flags=no-writes" if "Changes nothing." in header else ""
    source = f"#!lua{flags}{lines}\n\n{'; '.join(binding)}\n" + text[match.end() :]
    sha = hashlib.sha1(source.encode()).hexdigest()
    return Script(name, promise, keys, arguments, source, sha, many)


def _words(header: str, section: str) -> list[tuple[str, str]]:
    """The names listed below a section's title, with what is said of them."""
    match = re.search(rf"^  {section}\n((?:    .*\n?)+)", header + "\n", re.MULTILINE)
    if match is None:
        return []
    return re.findall(r"^    (\w+(?:\.{3})?)\s+(.*)$", match[1], re.MULTILINE)


def _typed(name: str, word: str, rest: str) -> tuple[str, str]:
    kind = re.match(r": (\w+)\s", rest)
    if kind is None or kind[1] not in _TYPES:
        raise ValueError(f"{name}: {word} needs a type: {', '.join(sorted(_TYPES))}")
    return word, kind[1]
