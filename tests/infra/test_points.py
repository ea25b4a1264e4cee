"""Crash points: off unless meant, and passed by every message because the funnels pass them."""

from __future__ import annotations

import ast
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from engine.infra import points
from engine.infra.errors import Misconfigured
from engine.infra.settings import Settings
from tests.support.shop import Shop
from tests.support.wait import wait_until

ENGINE = Path(__file__).parents[2] / "engine"


@pytest.fixture(autouse=True)
def _disarmed() -> Iterator[None]:
    yield
    points.armed = None


def test_without_the_variable_nothing_is_armed() -> None:
    points.arm("open", "request", {})

    assert points.armed is None


@pytest.mark.parametrize("said", ["kill:reserve/admit.before", "note:/dev/null"])
def test_where_callers_are_checked_nothing_can_be_armed(said: str) -> None:
    with pytest.raises(Misconfigured, match="unset it"):
        points.arm("required", "request", {"CRASH_POINT": said})
    assert points.armed is None


@pytest.mark.parametrize(
    "said",
    [
        "kill",
        "note:",
        "kill:reserve/admit",
        "kill:admit.before",
        "kill:reserve/admit.later",
        "stop:reserve/admit.before:x",
        "hang:reserve/admit.before",
    ],
)
def test_what_is_no_point_is_refused_with_a_word_of_what_is(said: str) -> None:
    with pytest.raises(Misconfigured, match="<who>/<message>"):
        points.arm("open", "request", {"CRASH_POINT": said})


@pytest.fixture
async def noted(settings: Settings, tmp_path: Path) -> AsyncIterator[tuple[Shop, Path]]:
    """A worker in this process that writes down where it comes by."""
    book = tmp_path / "points"
    points.arm("open", "request", {"CRASH_POINT": f"note:{book}"})
    async with Shop.open(settings) as shop:
        yield shop, book


async def test_a_message_is_passed_before_it_left_before_its_reply_is_heard_and_after(
    noted: tuple[Shop, Path],
) -> None:
    shop, book = noted
    drop_id = await shop.open_drop(5, maxPerBuyer=2)

    async def settled() -> bool:
        return "reserve/settle.after" in book.read_text()

    for _ in range(2):  # the first one sends the scripts themselves
        book.write_text("")
        assert (await shop.reserve(drop_id, "ann")).status == 201
        await wait_until(settled, "the batch is over")
    sale = [line for line in book.read_text().splitlines() if line.startswith("reserve/")]
    assert sale == [
        f"reserve/{message}.{phase}"
        for message in ("admit", "claim_units", "settle")
        for phase in points.PHASES
    ]


def test_no_verb_calls_a_point_by_hand() -> None:
    """Else a point could be forgotten; what goes through the funnels cannot."""
    callers = {
        path.relative_to(ENGINE).as_posix()
        for path in ENGINE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom)
        and node.module == "engine.infra"
        and any(name.name == "points" for name in node.names)
    }

    assert callers == {"infra/postgres.py", "infra/redis.py", "ops/serve.py"}


def test_nothing_is_sent_to_a_server_past_the_funnels() -> None:
    """Postgres is spoken to by `_pointed`, Redis by `_send`; the exceptions carry no truth."""
    allowed = {
        "infra/postgres.py": {"fetch", "fetchrow"},  # taken by name, and given to `_pointed`
        "infra/redis.py": {"execute_command"},  # likewise, by `_send`
        "infra/primary.py": {"fetchrow"},  # which host is the primary: before there is a session
    }
    sends = {"fetch", "fetchrow", "fetchval", "execute_command", "executemany"}
    for folder in ("infra", "sale", "record", "identity", "keepers"):
        for path in (ENGINE / folder).rglob("*.py"):
            used = {
                node.attr
                for node in ast.walk(ast.parse(path.read_text()))
                if isinstance(node, ast.Attribute)
            }
            name = path.relative_to(ENGINE).as_posix()
            assert used & sends <= allowed.get(name, set()), name
