"""What is shown while it runs: a live board on a terminal, else a line every few seconds."""

from __future__ import annotations

import time
from collections import Counter, deque
from types import TracebackType
from typing import Any, Self

import msgspec
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from loadtest.chaos.diary import Tally
from loadtest.chaos.mischief import Mischief

LINE_SECONDS = 5.0
RATE_SECONDS = 3.0  # over which rates are taken


class Scene(msgspec.Struct):
    """How it stands, brought up to date by the run."""

    seed: int
    seconds: float  # planned
    phase: str = "starting"
    began: float = msgspec.field(default_factory=time.monotonic)
    tally: Tally = msgspec.field(default_factory=Tally)
    held: int = 0
    sold: int = 0
    convergence: str = "-"
    health: str = "?"
    starts: int = 0


class View:
    """Shows a scene until its end."""

    def __init__(self, scene: Scene) -> None:
        self._scene, self._mischief = scene, None  # type: tuple[Scene, Mischief | None]
        self._console = Console()
        self._live = Live(console=self._console, auto_refresh=False, transient=True)
        self._line_at = 0.0
        self._past: deque[tuple[float, int, int, int]] = deque()

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None
    ) -> None:
        self._live.stop()

    def watch(self, mischief: Mischief) -> None:
        """Show these faults, too."""
        self._mischief = mischief

    def say(self, text: str) -> None:
        """A line that stays."""
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    def show(self) -> None:
        """The newest state, if it is time."""
        rates = self._rates()
        if self._console.is_terminal:
            self._live.update(self._board(rates), refresh=True)
        elif time.monotonic() >= self._line_at:
            self._line_at = time.monotonic() + LINE_SECONDS
            self.say(self._line(rates))

    def _rates(self) -> tuple[float, float, float]:
        now, tally = time.monotonic(), self._scene.tally
        self._past.append((now, tally.ok, tally.fail, tally.info))
        while len(self._past) > 2 and now - self._past[0][0] > RATE_SECONDS:
            self._past.popleft()
        first, last = self._past[0], self._past[-1]
        seconds = max(last[0] - first[0], 0.1)
        ok, fail, info = ((last[at] - first[at]) / seconds for at in (1, 2, 3))
        return ok, fail, info

    @property
    def _at(self) -> str:
        return f"{time.monotonic() - self._scene.began:.0f}/{self._scene.seconds:.0f} s"

    def _faults(self) -> tuple[Counter[str], int, list[str]]:
        if self._mischief is None:
            return Counter(), 0, []
        under_way = [f"{what} ({whom})" for whom, what in self._mischief.under_way.items()]
        return self._mischief.done, self._mischief.skipped.total(), under_way

    def _line(self, rates: tuple[float, float, float]) -> str:
        scene, (done, skipped, under_way) = self._scene, self._faults()
        now = "; ".join(under_way) or "none"
        return (
            f"{self._at:>10}  {scene.phase:<9} {done.total():>4} faults ({skipped} skipped)  "
            f"ok {rates[0]:4.0f}/s  fail {rates[1]:4.0f}/s  info {rates[2]:3.0f}/s  "
            f"held {scene.held:>4}  at rest after {scene.convergence}  {scene.health:<9} now: {now}"
        )

    def _board(self, rates: tuple[float, float, float]) -> Any:
        scene, (done, skipped, under_way) = self._scene, self._faults()
        rows = Table.grid(padding=(0, 2))
        for name, value in (
            ("seed", str(scene.seed)),
            ("time", f"{self._at}   {scene.phase}"),
            ("requests", "ok {:.0f}/s   fail {:.0f}/s   info {:.0f}/s".format(*rates)),
            ("so far", f"ok {scene.tally.ok}   fail {scene.tally.fail}   info {scene.tally.info}"),
            ("in doubt", f"{scene.tally.ambiguous}, resolved {scene.tally.resolved}"),
            ("units", f"held {scene.held}   sold {scene.sold}"),
            ("at rest after", scene.convergence),
            ("health", scene.health),
            ("starts", f"{scene.starts} of workers and keepers"),
            ("faults", f"{done.total()}, {skipped} skipped"),
            ("now", "; ".join(under_way) or "none"),
        ):
            rows.add_row(Text(name, style="dim"), Text(value))
        kinds = Table.grid(padding=(0, 2))
        common = [f"{count:>3} {name}" for name, count in done.most_common(24)]
        for at in range(0, len(common), 3):
            kinds.add_row(*common[at : at + 3])
        return Group(rows, Text(""), kinds)
