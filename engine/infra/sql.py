"""SQL as source code: every statement of the engine stands in sql/queries, named and described.

    -- name: find_hold :maybe
    -- What it promises, what it locks, which index it needs.
    SELECT … WHERE id = @id;

`@names` become `$1 …`; a call must give exactly these words. The cardinality is part of the
name: `:one` returns a row, `:maybe` a row or None, `:many` a list.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Literal, cast

import msgspec

Cardinality = Literal["one", "maybe", "many"]


class Query(msgspec.Struct, frozen=True):
    """One statement, its declared words in `$n` order, and what it promises."""

    name: str
    cardinality: Cardinality
    promise: str
    text: str
    words: tuple[str, ...]


def folder() -> Path:
    """sql/ of the checkout, or the copy inside the wheel."""
    checkout = Path(__file__).parents[2] / "sql"
    return checkout if checkout.is_dir() else Path(__file__).parents[1] / "_sql"


@cache
def load(slice_name: str) -> dict[str, Query]:
    """Every query of sql/queries/<slice>.sql, by name."""
    return parse((folder() / "queries" / f"{slice_name}.sql").read_text())


def parse(text: str) -> dict[str, Query]:
    """Queries from a file's text; a piece that breaks the grammar is a ValueError."""
    queries: dict[str, Query] = {}
    pieces = re.split(r"^-- name: ", text, flags=re.MULTILINE)
    if pieces[0].strip():
        raise ValueError(f"text before the first query: {pieces[0].strip()[:40]!r}")
    for piece in pieces[1:]:
        head, _, rest = piece.partition("\n")
        named = re.fullmatch(r"(\w+) :(one|maybe|many)", head)
        if named is None:
            raise ValueError(f"-- name: {head}: want 'verb_noun :one|maybe|many'")
        lines = rest.splitlines()
        count = next((i for i, line in enumerate(lines) if not line.startswith("--")), len(lines))
        promise, body = (
            "\n".join(line[3:] for line in lines[:count]),
            "\n".join(lines[count:]).strip(),
        )
        if not promise or not body.endswith(";") or body.count(";") != 1:
            raise ValueError(f"{named[1]}: want a promise, then one statement that ends in ;")
        if named[1] in queries:
            raise ValueError(f"{named[1]}: named twice")
        words = tuple(dict.fromkeys(re.findall(r"@(\w+)", body)))
        for i, word in enumerate(words, 1):
            body = re.sub(rf"@{word}\b", f"${i}", body)
        cardinality = cast(Cardinality, named[2])
        queries[named[1]] = Query(named[1], cardinality, promise, body.rstrip(";"), words)
    return queries


def quoted(name: str) -> str:
    """A name as SQL writes it, whatever is in it."""
    return '"' + name.replace('"', '""') + '"'
