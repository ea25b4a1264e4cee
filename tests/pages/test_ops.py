"""The dashboard: a page that anybody may have, whose scripts know the metrics and the alerts there
are."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from engine.infra.metrics import METRICS
from engine.pages.routes import ASSETS, POLICY
from tests.support.shop import Shop

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "engine" / "pages" / "assets"
PAGE = (FOLDER / "ops.html").read_text()
SIGNS = (FOLDER / "signs.js").read_text()
SCRIPTS = [FOLDER / name for name in ASSETS if name.startswith("ops") and name.endswith(".js")]
SCRIPTS += [FOLDER / name for name in ("chart.js", "signs.js", "vitals.js")]
ALERT = re.compile(r'^  (Velvetrope\w+): \["(page|ticket)", (\d+), ([\d.]+)\],$', re.MULTILINE)
RULE = re.compile(
    r"- alert: (\w+)\n +expr: >-\n +(.+)\n +for: (\d+)([sm])\n +labels:\n +severity: (\w+)"
)
SECONDS = {"s": 1, "m": 60}
DOWN = "VelvetropeDown"  # nobody answers: the page says so without a figure
# What each page of Prometheus's looks like, and what comes of two of them.
TRIAL = """
import { Reading, Span, time } from "./vitals.js";
import { Judge, SIGNS } from "./signs.js";
import { strict as assert } from "node:assert";

const page = (holds, fast, slow, lag) => new Reading(`# HELP velvetrope_holds_total Holds
velvetrope_holds_total ${holds}.0
velvetrope_refusals_total{code="SOLD_OUT",operation="reserve"} ${holds * 2}.0
velvetrope_request_seconds_bucket{le="0.1",operation="reserve"} ${fast}.0
velvetrope_request_seconds_bucket{le="0.2",operation="reserve"} ${fast + slow}.0
velvetrope_request_seconds_bucket{le="+Inf",operation="reserve"} ${fast + slow}.0
velvetrope_batch_requests_sum{combiner="reserve"} ${holds}.0
velvetrope_batch_requests_count{combiner="reserve"} ${holds / 10}.0
velvetrope_expiry_lag_seconds ${lag}
`, holds * 10);
const span = new Span(page(100, 10, 10, 0), page(600, 100, 20, 3)); // five seconds
assert.equal(span.seconds, 5);
assert.equal(span.rate("holds"), 100);
assert.deepEqual([...span.rates("refusals", "code")], [["SOLD_OUT", 200]]);
assert.equal(span.quantile(0.45, "request_seconds", { operation: "reserve" }), 0.05);
const slowest = span.quantile(0.95, "request_seconds", { operation: "reserve" });
assert.ok(Math.abs(slowest - 0.15) < 1e-9, `${slowest}`);
assert.equal(span.quantile(0.5, "request_seconds", { operation: "purchase" }), null);
assert.deepEqual([...span.means("batch_requests", "combiner")], [["reserve", 10]]);
assert.equal(new Span(page(600, 0, 0, 0), page(100, 0, 0, 0)).rise("holds"), 100); // it began anew
assert.equal(span.now.sum("keepers"), null); // not known is not none
assert.deepEqual([0, 0.0123, 5.04, 61, 7300].map(time), ["0 s", "12 ms", "5.0 s", "61 s", "2 h"]);

const judge = new Judge(), lag = SIGNS.find(({ id }) => id === "lag");
const level = (seconds, at) => {
  const now = page(100, 0, 0, seconds);
  now.at = at;
  return judge.of(lag, { now, span: null, opened: null, still: () => 0 });
};
assert.equal(level(1, 0).level, "healthy");
assert.deepEqual(level(3, 1_000), { level: "warning", alerts: ["VelvetropeExpiryLag"] });
assert.equal(level(3, 10_999).level, "warning");
assert.equal(level(3, 11_000).level, "critical"); // a page would go out now
assert.equal(level(1, 12_000).level, "healthy");
assert.equal(level(3, 13_000).level, "warning"); // and begins anew

const keepers = SIGNS.find(({ id }) => id === "keepers");
assert.equal(judge.of(keepers, { now: span.now, span }).level, "unknown");
for (const sign of SIGNS) { // with hardly a figure, no sign breaks, and none makes one up
  const nothing = { now: new Reading("", 0), span: null, opened: null, still: () => 0 };
  const [value, note] = sign.show(nothing);
  assert.equal(typeof value, "string");
  assert.doesNotMatch(`${value} ${note}`, /undefined|NaN|null/);
}
"""


async def test_the_page_and_all_it_needs_come_from_here(shop: Shop) -> None:
    wanted = set(re.findall(r'"(?:/assets|\.)/([\w.-]+\.(?:js|css))"', PAGE))
    unread = set(wanted)
    while unread:
        found = set(re.findall(r'"\./([\w-]+\.js)"', (FOLDER / unread.pop()).read_text()))
        unread |= found - wanted
        wanted |= found
    assert wanted >= {"ops.js", "ops.css", "chart.js", "signs.js", "vitals.js", "live.js"}

    for path in ("/ops", *(f"/assets/{name}" for name in sorted(wanted))):
        reply = await shop.visit("GET", path)

        assert reply.status == 200, path
        assert reply.headers["content-security-policy"] == POLICY.decode()


async def test_the_page_needs_no_credential_and_stands_at_the_root_alone(shop: Shop) -> None:
    for path in ("/ops", "/favicon.ico", "/ledger-view/check_proof.py"):
        assert (await shop.visit("GET", path, client="10.0.0.7")).status == 200
    assert (await shop.visit("GET", "/api/v1/ops")).status == 404


def test_nothing_is_styled_or_scripted_within_the_page_nor_brought_from_elsewhere() -> None:
    assert not re.search(r"<style|\sstyle=|\son\w+=|<script>", PAGE)
    for each in (PAGE, (FOLDER / "ops.css").read_text(), *(path.read_text() for path in SCRIPTS)):
        assert not re.search(r"https?://|setAttribute\(\"style\"|innerHTML|eval\(", each)


def test_every_metric_it_shows_is_one_that_there_is() -> None:
    called = re.compile(r"\.(?:sum|max|by|samples|rise|rates?|quantile|means|has)\(\"(\w+)\"")
    quantile = re.compile(r'quantile\([\w.]+, "(\w+)"')
    text = "\n".join(path.read_text() for path in SCRIPTS)
    shown = {name for name in called.findall(text) + quantile.findall(text) if "_" in name}
    shown -= {name for name in shown if re.fullmatch(r"\w+_(?:count|sum|bucket)", name)}
    there_are = {named.name for named in METRICS}

    assert {"drift_units", "undersell_seconds", "audit_age_seconds", "request_seconds"} <= shown
    assert shown <= there_are


def test_its_bounds_are_those_of_the_alerts() -> None:
    rules = (ROOT / "docs" / "monitoring" / "alerts.yml").read_text()
    alerts = {name: told for name, *told in RULE.findall(rules)}
    judged = {name: found for name, *found in ALERT.findall(SIGNS)}

    assert len(alerts) == rules.count("- alert:")
    assert judged.keys() == alerts.keys() - {DOWN}
    for name, (severity, lasting, bound) in judged.items():
        expression, times, unit, calls = alerts[name]
        bounds = {float(each) for each in re.findall(r"[<>!=]=? ([\d.]+)", expression)}

        assert (severity, int(lasting)) == (calls, int(times) * SECONDS[unit]), name
        assert float(bound) in bounds, name


def test_its_arithmetic_is_right(tmp_path: Path) -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed: the arithmetic of the dashboard was not tried")

    for name in ("vitals.js", "signs.js"):
        shutil.copy(FOLDER / name, tmp_path)
    (tmp_path / "package.json").write_text('{"type": "module"}')
    (tmp_path / "trial.js").write_text(TRIAL)
    done = subprocess.run(
        [node, "trial.js"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )

    assert done.returncode == 0, done.stderr
