"""What is said at the end: the verdict, what was done, what was answered."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import msgspec

from loadtest.chaos.diary import Tally
from loadtest.chaos.history import Heal
from loadtest.drills import Row, table

CONVERGENCE_MAX_SECONDS = 8.0
DONE_SHARE = 0.7  # of the faults that were planned: some come to nothing, and are said so

# What people ask for, by the check that looks for it.
PROMISES = {
    "C1": "oversold",
    "C6": "done twice for one key",
    "C7": "sold and ended as well",
    "C5": "told no but exists",
    "C3": "told ok but missing",
    "C13": "stranded",
    "INV-13": "paid for nothing",
}


class Outcome(msgspec.Struct, kw_only=True, rename="camel"):
    """All of a run, beside its histories."""

    seed: int
    seconds: float  # asked for
    lasted: float
    interrupted: bool = False
    faults: dict[str, int] = {}  # by nemesis
    skipped: dict[str, int] = {}  # by nemesis and reason
    planned: int = 0
    heals: list[Heal] = []
    tally: Tally = msgspec.field(default_factory=Tally)
    starts: int = 0  # of workers and keepers
    crashes: Counter[str] = msgspec.field(default_factory=Counter)  # by the words of a log
    stuck: list[str] = []  # what had not come to its end when it should have
    checked: list[Row] = []  # by the checker

    @property
    def requests(self) -> int:
        """Every sending counts."""
        return self.tally.ok + self.tally.fail + self.tally.info


def verdict(run: Outcome) -> list[Row]:
    """The rows: the checker's, then what only the run itself knows."""
    rests = [(heal.rest_at - heal.at) / 1e9 for heal in run.heals if heal.rest_at is not None]
    unrest = [heal.unrest for heal in run.heals if heal.rest_at is None]
    slowest = max(rests, default=0.0)
    calm = not unrest and slowest <= CONVERGENCE_MAX_SECONDS and bool(run.heals)
    tally, faults = run.tally, sum(run.faults.values())
    wanted = 1 if run.interrupted else max(int(run.planned * DONE_SHARE), 1)
    return [
        *run.checked,
        Row(
            "slowest to come to rest, s",
            "never: " + unrest[0] if unrest else f"{slowest:.2f}",
            f"<= {CONVERGENCE_MAX_SECONDS:.0f}",
            calm,
        ),
        Row("answers never to be given", _words(tally.strange) or "0", "0", not tally.strange),
        Row("crashes in the logs", _words(run.crashes) or "0", "0", not run.crashes),
        Row("left under way at the end", "; ".join(run.stuck) or "0", "0", not run.stuck),
        Row("requests", f"{run.requests:,}", "> 0", run.requests > 0),
        Row("  ok", f"{tally.ok:,}", "> 0", tally.ok > 0),
        Row("  fail", f"{tally.fail:,}", "> 0", tally.fail > 0),
        Row("  info", f"{tally.info:,}", "> 0", tally.info > 0),
        Row("ambiguous answers", f"{tally.ambiguous:,}"),
        Row(
            "  resolved by the same key",
            f"{tally.resolved:,}",
            f"{tally.ambiguous:,}",
            tally.resolved == tally.ambiguous,
        ),
        Row("faults", f"{faults:,}", f">= {wanted:,}", faults >= wanted),
        Row("  a minute", f"{60 * faults / max(run.lasted, 1.0):.0f}"),
        Row("  skipped", f"{sum(run.skipped.values()):,}"),
        Row("starts of workers and keepers", f"{run.starts:,}"),
    ]


def headline(rows: list[Row]) -> str:
    """The promises in one line, each with its count of breaches."""
    seen = {row.measure.split(" ", 1)[0]: row.seen for row in rows}
    return ", ".join(f"{name} {seen.get(check, '?')}" for check, name in PROMISES.items())


def holds(rows: list[Row]) -> bool:
    """Whether every row does."""
    return all(row.holds is not False for row in rows)


def write(run: Outcome, folder: Path) -> str:
    """report.md and report.json into the folder; the text of the first."""
    rows = verdict(run)
    told = {"holds": holds(rows), "verdict": rows, "run": run}
    (folder / "report.json").write_bytes(msgspec.json.format(msgspec.json.encode(told), indent=2))
    text = _markdown(run, rows, folder)
    (folder / "report.md").write_text(text)
    return text


def _markdown(run: Outcome, rows: list[Row], folder: Path) -> str:
    end = ended(run) if holds(rows) else "NOT all of it holds."
    parts = [
        f"# Chaos, seed {run.seed}: {end}",
        f"{run.lasted:.0f} s of {run.seconds:.0f} s"
        + (", interrupted" if run.interrupted else "")
        + f"; {sum(run.faults.values())} faults of {run.planned} planned. {headline(rows)}.",
        _block(table(rows)),
        "## Faults",
        _block(counts(run.faults)),
    ]
    if run.skipped:
        parts += ["## Skipped, and why", _block(counts(run.skipped))]
    parts += [
        "## What buyers did on top (not counted as faults)",
        _block(counts(run.tally.tricks)),
        "## Answers other than ok, by word",
        _block(counts(run.tally.codes)),
        "## Healing windows",
        _block("\n".join(_healed(heal) for heal in run.heals)),
    ]
    if not holds(rows):
        parts += ["## Where to look", _block(again(run, folder))]
    return "\n\n".join(parts) + "\n"


def ended(run: Outcome) -> str:
    """The last line of a run that held."""
    cut = f", cut short after {run.lasted:.0f} of {run.seconds:.0f} s" if run.interrupted else ""
    return f"All of it holds{cut}."


def repeat(run: Outcome) -> str:
    """The command for the same faults."""
    return f"make chaos SEED={run.seed} DURATION={run.seconds:.0f}s"


def again(run: Outcome, folder: Path) -> str:
    """How to repeat it, and where everything is."""
    return (
        f"{repeat(run)}     the same faults once more\n"
        f".venv/bin/python -m loadtest.chaos.checker {folder}     judge these histories once more\n"
        f"{folder}/client-*.jsonl   what was asked and answered\n"
        f"{folder}/faults.jsonl     what was done, when, to whom\n"
        f"{folder}/logs/            what workers, keepers and servers said"
    )


def _healed(heal: Heal) -> str:
    if heal.rest_at is None:
        return f"not at rest after {(heal.until - heal.at) / 1e9:.1f} s: {heal.unrest}"
    return f"at rest after {(heal.rest_at - heal.at) / 1e9:.2f} s"


def counts(found: dict[str, int]) -> str:
    """The most frequent first, a line each."""
    ordered = sorted(found.items(), key=lambda pair: (-pair[1], pair[0]))
    return "\n".join(f"{count:>6}  {name or '(no word)'}" for name, count in ordered) or "none"


def _words(counts: Counter[str]) -> str:
    return ", ".join(f"{count} × {word}" for word, count in counts.items())


def _block(text: str) -> str:
    return f"```\n{text}\n```"
