"""Metrics, alarms, pictures and docs speak of the same things."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from typing import Any

from engine.infra.metrics import METRICS

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docs" / "monitoring"
OPERATIONS = (ROOT / "docs" / "OPERATIONS.md").read_text()
ALERTS = (FOLDER / "alerts.yml").read_text()
DASHBOARD: dict[str, Any] = json.loads((FOLDER / "dashboard.json").read_text())
SAMPLES = {
    name
    for named in METRICS
    for name in (
        [f"{named.full}_bucket", f"{named.full}_sum", f"{named.full}_count"]
        if named.kind == "histogram"
        else [named.full]
    )
}


def _alerts() -> list[str]:
    return re.findall(r"^ *- alert: (\w+)$", ALERTS, re.MULTILINE)


def _expressions() -> list[str]:
    return re.findall(r"expr: >-\n +(.+)$", ALERTS, re.MULTILINE)


def _panels() -> list[dict[str, Any]]:
    return [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


def _named(expression: str) -> set[str]:
    return set(re.findall(r"velvetrope_\w+", expression))


def test_every_metric_is_told_of_in_the_docs() -> None:
    rows = [
        f"| `{named.full}` | {' '.join(named.labels) or '–'} | {named.help} |" for named in METRICS
    ]
    table = re.findall(r"^\| `velvetrope_.+$", OPERATIONS, re.MULTILINE)

    assert table == rows


def test_names_are_prometheus_habits() -> None:
    assert len({named.name for named in METRICS}) == len(METRICS)
    for named in METRICS:
        assert re.fullmatch(r"[a-z][a-z_]+", named.name)
        assert not named.name.endswith("_total"), "the suffix is put on by its kind"
        assert not re.search(r"_(ms|millis|percent)\b", named.name), "base units"
        assert len(named.help) > 10


def test_what_is_counted_is_in_the_list() -> None:
    counted = set()
    for path in (ROOT / "engine").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("meter.count"):
                assert isinstance(node.args[0], ast.Constant), f"{path}:{node.lineno}"
                labels = len(node.args) - 1
                counted.add((node.args[0].value, labels))
    listed = {(named.name, len(named.labels)) for named in METRICS if named.kind == "counter"}

    assert len(counted) > 10
    assert counted <= listed


def test_an_alarm_looks_at_what_there_is() -> None:
    expressions = _expressions()

    assert len(expressions) == len(_alerts()) > 15
    for expression in expressions:
        assert _named(expression) <= SAMPLES, expression
        assert _named(expression) or expression.startswith("up{")


def test_every_alarm_is_explained() -> None:
    for alert in _alerts():
        text = re.search(rf"^### {alert}\n(.+?)^#", OPERATIONS, re.MULTILINE | re.DOTALL)
        assert text, alert
        assert all(word in text[1] for word in ("*Means*", "*Look*", "*Do*")), alert
        assert f"docs/OPERATIONS.md#{alert.lower()}" in ALERTS


def test_no_alarm_is_explained_that_never_rings() -> None:
    assert re.findall(r"^### (Velvetrope\w+)$", OPERATIONS, re.MULTILINE) == sorted(
        _alerts(), key=OPERATIONS.index
    )


def test_the_picture_shows_what_there_is() -> None:
    targets = [target for panel in _panels() for target in panel["targets"]]

    assert len(targets) > 30
    for target in targets:
        assert _named(target["expr"])
        assert _named(target["expr"]) <= SAMPLES, target["expr"]
        assert 'instance=~"$instance"' in target["expr"]


def test_the_picture_shows_all_there_is() -> None:
    shown = {name for panel in _panels() for t in panel["targets"] for name in _named(t["expr"])}
    shown = {re.sub(r"_(bucket|sum|count)$", "", name) for name in shown}

    assert {named.full for named in METRICS} - shown == set()


def test_the_picture_can_be_loaded_into_any_grafana() -> None:
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    variables = {each["name"]: each["type"] for each in DASHBOARD["templating"]["list"]}

    assert len(ids) == len(set(ids))
    assert variables == {"datasource": "datasource", "instance": "query"}
    for panel in _panels():
        places = [panel["datasource"], *(target["datasource"] for target in panel["targets"])]
        assert all(each["uid"] == "${datasource}" for each in places)
        refs = [target["refId"] for target in panel["targets"]]
        assert len(refs) == len(set(refs))


def test_no_two_panels_lie_on_each_other() -> None:
    taken: dict[tuple[int, int], str] = {}
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert x < 24
                assert (x, y) not in taken, (panel["title"], taken[x, y])
                taken[x, y] = panel["title"]
