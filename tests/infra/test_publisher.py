"""Once a second: counts become visible, and a rush of refusals is one line a drop."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from engine.infra.meter import SAMPLE_ONE_IN, Meter
from engine.infra.publisher import Publisher
from engine.infra.settings import Settings
from engine.runtime import Ground
from tests.support.keeping import Keeping
from tests.support.shop import Shop
from tests.support.wait import wait_until


def _publisher(ground: Ground, folder: str, meter: Meter | None = None) -> Publisher:
    return Publisher("worker", meter or Meter(), folder, ground.postgres, ground.redis)


async def test_ten_thousand_refusals_of_a_second_are_one_line_a_drop(ground: Ground) -> None:
    meter = Meter()
    publisher = _publisher(ground, "", meter)
    for turn in range(10_000):
        meter.refused(20 + turn % 2, "SOLD_OUT")

    with capture_logs() as lines:
        publisher.publish()
        publisher.publish()

    assert [(each["event"], each["drop_id"], each["SOLD_OUT"]) for each in lines] == [
        ("sale.refused", 20, 5_000),
        ("sale.refused", 21, 5_000),
    ]


async def test_a_sold_out_rush_writes_a_line_a_second_and_a_sample(shop: Shop) -> None:
    drop_id = await shop.open_drop(1)
    await shop.reserve(drop_id, "ann")
    requests = 2 * SAMPLE_ONE_IN

    with capture_logs() as lines:
        for number in range(requests):
            reply = await shop.reserve(drop_id, f"b{number}")
            assert reply.error == "SOLD_OUT"

        async def all_told() -> bool:
            told = [each for each in lines if each["event"] == "sale.refused"]
            assert {each["drop_id"] for each in told} <= {drop_id}
            return sum(int(each["SOLD_OUT"]) for each in told) == requests

        await wait_until(all_told, "every refusal is in a summary")

    samples = [each for each in lines if each["event"] == "http.request"]
    assert len(samples) == 2
    assert set(samples[0]) == {
        *("event", "log_level", "operation", "status", "code", "ms", "request_id", "drop_id"),
        "credential",
    }
    assert samples[0]["operation"] == "reserve"
    assert len(lines) < 100, "in a rush the log grows with time, not with requests"


async def test_an_error_has_a_line_of_its_own_that_says_nothing_personal(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def crash(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("engine.sale.drops.one", crash)
    with capture_logs() as lines:
        reply = await shop.send("GET", "/drops/1?userId=ann", None, {"x-request-id": "find-me"})

    assert reply.status == 500
    [line] = [each for each in lines if each["event"] == "http.request"]
    assert (line["log_level"], line["status"], line["code"]) == ("warning", 500, "INTERNAL_ERROR")
    assert (line["operation"], line["request_id"]) == ("show_drop", "find-me")
    assert "ann" not in str(lines[-1])


async def test_processes_of_one_folder_know_of_each_other(ground: Ground, tmp_path: Path) -> None:
    one, two = _publisher(ground, str(tmp_path)), _publisher(ground, str(tmp_path))
    two.publish()

    assert len([each for each in await one.processes() if each.kind == "worker"]) == 2
    await two.stop()
    assert len([each for each in await one.processes() if each.kind == "worker"]) == 1
    await one.stop()


async def test_a_process_without_a_folder_tells_of_itself(ground: Ground, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with capture_logs() as lines:
        publisher = _publisher(ground, str(tmp_path / "file" / "metrics"))
        publisher.publish()

    assert [each["event"] for each in lines] == ["metrics.alone"]
    assert "METRICS_DIR" in lines[0]["mend"]
    assert len(await publisher.processes()) == 1


async def test_a_folder_that_vanishes_is_made_again(ground: Ground, tmp_path: Path) -> None:
    publisher = _publisher(ground, str(tmp_path / "metrics"))
    shutil.rmtree(tmp_path / "metrics")

    with capture_logs() as lines:
        publisher.publish()

    assert lines == []
    assert len(await _publisher(ground, str(tmp_path / "metrics")).processes()) == 3
    await publisher.stop()


async def test_a_folder_that_cannot_be_had_is_complained_of_once(
    ground: Ground, tmp_path: Path
) -> None:
    publisher = _publisher(ground, str(tmp_path / "metrics"))
    shutil.rmtree(tmp_path / "metrics")
    (tmp_path / "metrics").write_text("")

    with capture_logs() as lines:
        publisher.publish()
        publisher.publish()
        assert len(await publisher.processes()) == 1

    assert [each["event"] for each in lines] == ["metrics.unpublished"]


async def test_a_keeper_publishes_its_rounds(
    settings: Settings, ground: Ground, tmp_path: Path
) -> None:
    watcher = _publisher(ground, str(tmp_path))

    async def rounds() -> bool:
        keepers = [each for each in await watcher.processes() if each.kind == "keeper"]
        return any({"sweeper", "beater", "reconciler"} <= set(each.rounds) for each in keepers)

    async with Keeping(settings, metrics_dir=str(tmp_path)):
        await wait_until(rounds, "a keeper's rounds are seen")
    await watcher.stop()
