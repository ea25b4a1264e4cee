"""The demo shop's page has words for everything that the engine may tell it."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import get_args

import pytest

from engine.pages.routes import ASSETS
from engine.record.models import Reason

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "engine" / "pages" / "assets"
# A page's scripts without a page: names fall into rows, records into links.
STAGE = """globalThis.matchMedia = () => ({ matches: true });
globalThis.sessionStorage = {};
globalThis.addEventListener = () => {};
globalThis.document = { addEventListener() {} };"""
TRIAL = """
import "./stage.js";
import { strict as assert } from "node:assert";
const { bestRun, rowsOf, split } = await import("./seatmap.js");
const { linksOf } = await import("./chain.js");
const { alarm } = await import("./slot.js");

const parts = { A12: ["A", "12"], "F1-A": ["F1", "A"], "12C": ["12", "C"], Box: ["", "Box"],
  "Row 3 Seat 7": ["Row 3 Seat", "7"], "B-2": ["B", "2"], 17: ["", "17"] };
for (const [name, wanted] of Object.entries(parts)) assert.deepEqual(split(name), wanted, name);
const rows = (...names) => [...rowsOf(names.map((name, index) => ({ name, number: index + 1 })))]
  .map(([row, seats]) => [row, seats.map((seat) => seat.label)]);
assert.deepEqual(rows("A1", "A2", "B1", "B2"), [["A", ["1", "2"]], ["B", ["1", "2"]]]);
assert.deepEqual(rows("1", "2", "3"), [["", ["1", "2", "3"]]]);
assert.deepEqual(rows("A1", "B1", "C1"), [["", ["A1", "B1", "C1"]]]); // no row has two

const hall = rowsOf([..."ABC"].flatMap((row, back) => [1, 2, 3, 4, 5, 6]
  .map((seat) => ({ name: `${row}${seat}`, number: 6 * back + seat }))));
const best = (count, ...taken) => bestRun(hall, count, (number) => !taken.includes(number));
assert.deepEqual(best(2), [3, 4]); // the middle of the first row
assert.deepEqual(best(2, 2, 3, 4, 5), [9, 10]); // no two are left in it: 6 and 7 are of two rows
assert.deepEqual(best(2, 3, 4), [9, 10]); // its ends are further off than the next row's middle
assert.equal(best(7), null);
assert.equal(best(2, ...Array.from({ length: 10 }, (_, n) => 2 * n)), null);
const loose = rowsOf(["1", "2", "3"].map((name) => ({ name, number: Number(name) })));
assert.deepEqual(bestRun(loose, 1, () => true), [1]);
for (const tempStatus of ["WARNING", "CRITICAL"]) {
  const warm = { name: "F1-A", tempStatus, temperature: -58.2, targetTemp: -70 };
  assert.match(alarm(warm), /F1-A is .*−58.2/);
}
assert.equal(alarm({ tempStatus: "NORMAL" }), "");

const links = linksOf([["2", "b"], ["3", "c"], ["4", "c"], ["1", "a"]]
  .map(([sequence, dataHash]) => ({ sequence: Number(sequence), dataHash })));
const told = links.map((link) => link.entries.map((entry) => entry.sequence));
assert.deepEqual(told, [[4, 3], [2], [1]]);
"""
WORDS = (FOLDER / "words.js").read_text()


def test_every_reason_for_a_refund_is_put_in_words() -> None:
    settling = (ROOT / "sql" / "functions" / "settle_payments.sql").read_text()
    reasons = set(re.findall(r"(?:THEN|ELSE|reason =) '([a-z_]+)'", settling))
    reasons -= {"adopted", "purchased", "refund_due"}  # no reasons: outcomes
    words = set(re.findall(r"^  (\w+): \"", WORDS, re.MULTILINE))

    assert reasons >= {"sold_out", "already_paid", "wrong_amount", "limit", "paused"}
    assert reasons <= words


def test_every_state_of_a_hold_has_a_story() -> None:
    states = (ROOT / "sql" / "schema.sql").read_text()
    enum = re.search(r"CREATE TYPE (?:public\.)?reservation_state AS ENUM \((.*?)\);", states, re.S)
    assert enum is not None
    told = set(re.findall(r"case \"(\w+)\":", WORDS))

    # An active hold has its countdown; one that was given back needs no story; an aborted one
    # was never told of.
    assert set(re.findall(r"'(\w+)'", enum[1])) - told == {"active", "released", "aborted"}


def test_names_fall_into_rows_and_records_into_links(tmp_path: Path) -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed: rows and links were not tried")

    for script in FOLDER.glob("*.js"):
        shutil.copy(script, tmp_path)
    (tmp_path / "package.json").write_text('{"type": "module"}')
    (tmp_path / "stage.js").write_text(STAGE)
    (tmp_path / "trial.js").write_text(TRIAL)
    done = subprocess.run(
        [node, "trial.js"], cwd=tmp_path, capture_output=True, text=True, timeout=20, check=False
    )

    assert done.returncode == 0, done.stderr


def test_every_reason_for_a_broken_ledger_is_put_in_words() -> None:
    page = (FOLDER / "ledger.js").read_text()
    told = set(re.findall(r"^  (\w+): \"", page, re.MULTILINE))

    assert set(get_args(Reason)) <= told


def test_pages_are_written_and_styled_by_their_files_alone() -> None:
    for name in ASSETS:
        text = (FOLDER / name).read_text()
        assert not re.search(r"<style|\sstyle=|\son\w+=\"|<script>|innerHTML|eval\(", text), name
