"""What ruff cannot say: limits of size, owned tasks and notes, one clock, SQL in its own files."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "engine").rglob("*.py"))
LINES_MAX = 400
BODY_LINES_MAX = 50

# Wall clocks are for people and other systems to read; nothing of ours is decided by them.
CLOCKS = {
    "engine/identity/tokens.py": "exp and iat of a JWT are wall time, by its standard",
    "engine/infra/health.py": "a time stamp to be read",
    "engine/identity/signatures.py": "a provider's time stamp is wall time, by its standard",
    "engine/membership/receipts.py": "receipts and certificates end by wall time, by standard",
    "engine/membership/certificates.py": "a certificate's first and last day, by its standard",
    "engine/ops/checkout.py": "how long until a deadline that a page was told",
    "engine/ops/courier.py": "the time stamp of a signed callback is wall time, by its standard",
    "engine/ops/probes.py": "this machine's clock is measured against the servers'",
    "engine/ops/rooms.py": "demo temperatures of the last hour",
    "engine/ops/seed.py": "a demo drop starts so many seconds from now",
}
SQL = {"engine/ops/migrate.py": "it runs before there are queries to load"}


def _name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", FILES, ids=_name)
def test_a_file_is_short_enough_to_be_read_at_once(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= LINES_MAX


@pytest.mark.parametrize("path", FILES, ids=_name)
def test_a_function_fits_on_a_screen(path: Path) -> None:
    long = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            body = node.body[1:] if ast.get_docstring(node) and len(node.body) > 1 else node.body
            lines = (node.end_lineno or 0) - body[0].lineno + 1
            if lines > BODY_LINES_MAX:
                long.append((node.name, lines))
    assert long == []


def test_every_note_of_work_to_do_has_an_owner() -> None:
    places = [*FILES, *(ROOT / "lua").glob("*.lua"), *(ROOT / "sql").rglob("*.sql")]
    lost = [_name(path) for path in places if re.search(r"TODO(?!\(\w+\))", path.read_text())]

    assert lost == []


@pytest.mark.parametrize("path", FILES, ids=_name)
def test_every_task_has_a_name(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("create_task"):
            assert any(word.arg == "name" for word in node.keywords), f"line {node.lineno}"


@pytest.mark.parametrize("path", FILES, ids=_name)
def test_time_is_postgres_or_monotonic(path: Path) -> None:
    called = {
        ast.unparse(n.func)
        for n in ast.walk(ast.parse(path.read_text()))
        if isinstance(n, ast.Call)
    }
    wall = called & {"datetime.now", "datetime.utcnow", "datetime.datetime.now", "time.time"}

    assert not wall or _name(path) in CLOCKS


def test_the_exceptions_are_still_needed() -> None:
    assert all((ROOT / name).exists() for name in (*CLOCKS, *SQL))


@pytest.mark.parametrize("path", FILES, ids=_name)
def test_sql_stands_in_sql(path: Path) -> None:
    if _name(path) in SQL:
        return
    tree = ast.parse(path.read_text())
    prose = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    statement = re.compile(r"^\s*(SELECT|INSERT INTO|UPDATE|DELETE FROM|WITH|CREATE|ALTER|DROP) \w")
    found = [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose
        if statement.match(node.value)
    ]
    assert found == []


def test_imports_point_down() -> None:
    program = Path(sys.executable).with_name("lint-imports")
    said = subprocess.run(
        [program, "--no-cache"], cwd=ROOT, check=False, capture_output=True, text=True
    )

    assert said.returncode == 0, said.stdout
