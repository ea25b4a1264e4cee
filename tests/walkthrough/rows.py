"""Rows of the tables of endpoints that other systems' READMEs print, and what walks them.

A row's walk makes its success happen, and every refusal that is printed or that a client of theirs
knows; it is walked if each status was really answered to that row's own method and path. What is
read is read under every mount; what is written goes to the printed path first, then to the others.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterator
from itertools import cycle
from pathlib import Path
from typing import Any

import asyncpg
import msgspec

from engine.ops import stack
from tests.support.http import Crowd, Reply

NOBODY = "0199a3f2-7c1e-7d43-9b5a-2f6c8e1d4a90"  # an id that is nothing's
ENVELOPE = "in an envelope"
MOUNTS = ("/api/v1", "/api", "")
DEVIATIONS = (Path(__file__).parents[2] / "docs/SEEDS.md").read_text()
HEAD = re.compile(r"^### .*\(`(/.*)`\)$")  # ZeroLight's: what its rows begin with
ROW = re.compile(r"^(?:- `|\| )(GET|POST|PUT|PATCH|DELETE) *(?:\| `)?(/[^` ]*)`(.*)$")


class Row(msgspec.Struct, frozen=True):
    """A line of a table."""

    method: str
    path: str
    prints: frozenset[int]  # statuses that stand in it

    @property
    def name(self) -> str:
        """As a walk names it."""
        return f"{self.method} {self.path}"


def rows_of(text: str) -> Iterator[Row]:
    """The lines of a README that are rows."""
    base = ""
    for line in text.splitlines():
        if head := HEAD.match(line):
            base = head[1]
        elif row := ROW.match(line):
            statuses = frozenset(int(each) for each in re.findall(r"\b[2-5]\d\d\b", row[3]))
            yield Row(row[1], f"{base}{row[2]}".rstrip("/"), statuses)


class Visit:
    """A client of that system, at one row."""

    def __init__(self, crowd: Crowd, row: Row, section: str, data_dir: Path) -> None:
        self.seen: set[int] = set()
        self.data_dir = data_dir
        self._crowd, self._row, self._section = crowd, row, section
        printed = next(mount for mount in MOUNTS if row.path.startswith(mount + "/"))
        self._bare = row.path.removeprefix(printed)
        self._mounts = [printed, *(mount for mount in MOUNTS if mount != printed)]
        self._next = cycle(self._mounts)

    async def __call__(
        self,
        *names: object,
        body: Any = None,
        token: str = "",
        query: str = "",
        everywhere: bool = True,
    ) -> Reply:
        """The row's own request, of these names in its path."""
        given = iter(names)
        path = re.sub(r":\w+", lambda _: str(next(given)), self._bare) + query
        headers = {"authorization": f"Bearer {token}"} if token else None
        reads = self._row.method == "GET" and everywhere
        mounts = self._mounts if reads else [next(self._next)]
        replies = [
            await self._crowd.send(self._row.method, mount + path, body, headers)
            for mount in mounts
        ]
        assert len({reply.status for reply in replies}) == 1, f"{self._row.name}: {replies}"
        self.seen.add(replies[0].status)
        return replies[0]

    async def ask(self, method: str, path: str, body: Any = None, token: str = "") -> Any:
        """What another request answers; it must succeed."""
        headers = {"authorization": f"Bearer {token}"} if token else None
        reply = await self._crowd.send(method, f"/api{path}", body, headers)
        assert reply.status < 300, f"{method} {path}: {reply.status} {reply.body!r}"
        return reply.json if reply.body else None

    async def database(self, statement: str, by: str = "") -> None:
        """A statement that an operator's psql would send, `by` another database of that server."""
        url = stack.find(self.data_dir)["DATABASE_URL"]
        connection = await asyncpg.connect(url, database=by or None)
        try:
            await connection.execute(statement)
        finally:
            await connection.close()

    def differs(self, words: str) -> None:
        """Assert that docs/SEEDS.md tells of it, so that nothing differs silently."""
        assert words in self._section, f"docs/SEEDS.md does not say of {self._row.name}: {words}"


Walk = Callable[[Visit], Awaitable[None]]


class System:
    """One of them: its rows, and who walks each."""

    def __init__(self, name: str, readme: str) -> None:
        self.name = name
        self.rows = list(rows_of(readme))
        self.section = DEVIATIONS.partition(f"\n## {name}\n")[2].partition("\n## ")[0]
        self.walks: dict[str, tuple[Walk, frozenset[int]]] = {}

    def row(self, name: str, *statuses: int) -> Callable[[Walk], Walk]:
        """Marks what walks that row, and which statuses its walk must have met."""

        def mark(walk: Walk) -> Walk:
            assert name not in self.walks, name
            self.walks[name] = walk, frozenset(statuses)
            return walk

        return mark

    async def walked(self, crowd: Crowd, data_dir: Path) -> None:
        """Walk all rows, in their order."""
        for row in self.rows:
            walk, statuses = self.walks[row.name]
            visit = Visit(crowd, row, self.section, data_dir)
            try:
                await walk(visit)
            except Exception as wrong:
                wrong.add_note(f"{self.name}: {row.name}")
                raise
            assert visit.seen >= row.prints | statuses, f"{row.name}: met only {visit.seen}"
