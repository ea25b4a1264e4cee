"""Counts of many processes: nothing the dead counted is lost, nobody is counted twice."""

from __future__ import annotations

import asyncio
import fcntl
import signal
import sys
from pathlib import Path

import msgspec
import pytest

from engine.infra import tally
from engine.infra.meter import Meter
from engine.infra.tally import DEPARTED, FORMAT, Gauges, Snapshot, Tally, taken

CHILD = """
import sys, time
from pathlib import Path
from engine.infra.meter import Meter
from engine.infra.tally import Gauges, Tally, taken
meter = Meter()
meter.count("holds", by=int(sys.argv[2]))
Tally(Path(sys.argv[1])).write(taken(meter, "worker", Gauges()))
print("written", flush=True)
time.sleep(60)
"""


def _counted(holds: int) -> Snapshot:
    meter = Meter()
    meter.count("holds", by=holds)
    meter.answered("reserve", 201, "", 0.001)
    meter.batch("reserve", 3)
    return taken(meter, "worker", Gauges(pool_size=8))


def _holds(tally: Tally) -> float:
    live, gone = tally.others()
    return sum(each.counts.get("holds", {}).get((), 0) for each in (*live, gone))


def _files(folder: Path) -> set[str]:
    return {path.name for path in folder.glob("*.msgpack")}


async def _process(folder: Path, holds: int) -> asyncio.subprocess.Process:
    """A process that has published, and lives."""
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", CHILD, str(folder), str(holds), stdout=asyncio.subprocess.PIPE
    )
    assert child.stdout is not None
    assert await child.stdout.readline() == b"written\n"
    return child


async def _kill(child: asyncio.subprocess.Process) -> None:
    child.send_signal(signal.SIGKILL)
    await child.wait()
    child._transport.close()  # type: ignore[attr-defined]


def test_everybody_sees_what_the_others_wrote_last(tmp_path: Path) -> None:
    ours, theirs = Tally(tmp_path), Tally(tmp_path)
    theirs.write(_counted(1))
    theirs.write(_counted(2))

    live, gone = ours.others()

    assert [each.counts["holds"] for each in live] == [{(): 2}]
    assert gone.counts == {}
    assert theirs.others()[0] == [], "nobody is among his own others"


async def test_what_a_killed_process_counted_stays(tmp_path: Path) -> None:
    ours = Tally(tmp_path)
    child = await _process(tmp_path, 5)
    assert len(ours.others()[0]) == 1

    await _kill(child)

    live, gone = ours.others()
    assert live == []
    assert gone.counts["holds"] == {(): 5}


async def test_the_dead_are_added_to_one_file_by_the_next_who_starts(tmp_path: Path) -> None:
    for holds in (5, 7):
        await _kill(await _process(tmp_path, holds))
    living = await _process(tmp_path, 1)

    newcomer = Tally(tmp_path)

    assert _holds(newcomer) == 13
    live, _ = newcomer.others()
    assert len(live) == 1
    assert len(_files(tmp_path)) == 2, "one that lives, and the sum"
    await _kill(living)


def test_a_sum_cut_short_counts_nobody_twice(tmp_path: Path) -> None:
    dead = Tally(tmp_path)
    dead.write(_counted(5))
    [left] = _files(tmp_path) - {DEPARTED}
    file = (tmp_path / left).read_bytes()
    dead.close()
    Tally(tmp_path)  # adds it up
    sum = msgspec.msgpack.decode((tmp_path / DEPARTED).read_bytes(), type=Snapshot)
    (tmp_path / left).write_bytes(file)  # killed just before it deleted the file

    assert sum.folded == [Path(left).stem]
    late = Tally.__new__(Tally)  # one who was there before
    late._folder, late._id, late._file = tmp_path, "late", -1
    assert _holds(late) == 5
    assert _holds(Tally(tmp_path)) == 5
    assert _files(tmp_path) == {DEPARTED}


def test_a_file_that_is_replaced_while_we_look_is_nobodys_death(tmp_path: Path) -> None:
    writer = Tally(tmp_path)
    writer.write(_counted(1))
    for holds in range(2, 200):
        reader = Tally(tmp_path)  # adds up the dead: there are none
        writer.write(_counted(holds))
        assert _holds(reader) == holds
        assert len(_files(tmp_path)) == 2


@pytest.mark.parametrize("rubbish", [b"", b"\xc1", b"\x80", msgspec.msgpack.encode({"kind": 1})])
def test_a_file_that_cannot_be_read_is_forgotten(tmp_path: Path, rubbish: bytes) -> None:
    (tmp_path / "old.msgpack").write_bytes(rubbish)
    (tmp_path / DEPARTED).write_bytes(rubbish)

    assert _holds(Tally(tmp_path)) == 0
    assert _files(tmp_path) == {DEPARTED}


def test_a_file_of_another_format_is_forgotten(tmp_path: Path) -> None:
    old = _counted(5)
    old.format = FORMAT + 1
    (tmp_path / "old.msgpack").write_bytes(msgspec.msgpack.encode(old))

    assert _holds(Tally(tmp_path)) == 0


def test_one_who_was_stopped_with_the_lock_in_hand_stops_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tally, "LOCK_SECONDS", 0.02)
    ours = Tally(tmp_path)
    with (tmp_path / "lock").open("r+") as stopped:
        fcntl.flock(stopped, fcntl.LOCK_EX)

        newcomer = Tally(tmp_path)
        newcomer.write(_counted(3))
        with pytest.raises(TimeoutError, match="keeps the lock"):
            ours.others()

    assert _holds(ours) == 3


def test_histograms_add_up_bucket_by_bucket(tmp_path: Path) -> None:
    sum = Snapshot("departed", 0.0)
    parts = [_counted(1), _counted(2)]

    for each in parts:
        sum.add(each)

    assert sum.batches["reserve"].buckets[2] == 2
    assert sum.batches["reserve"].sum == 6
    assert sum.answers == {("reserve", 201, ""): 2}
    assert parts[0].batches["reserve"].buckets[2] == 1, "a part stays what it is"


def test_a_folder_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(OSError, match="file"):
        Tally(tmp_path / "file" / "metrics")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
