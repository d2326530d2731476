"""The publisher's sensor, whose ticks Dagster gives up after a minute, whatever they go on doing."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Event
from typing import Any

import dagster as dg
import pytest

from monitoring_assets.alerting import publisher
from monitoring_assets.alerting.publisher import Round
from monitoring_assets.sensors.publisher import publisher_sensor
from tests.conftest import Lender

LIMIT_S = 60


def tick(sensor: dg.SensorDefinition) -> str:
    [skipped] = [sensor(dg.build_sensor_context())]
    assert isinstance(skipped, dg.SkipReason)
    return skipped.skip_message or ""


def test_a_round_that_takes_longer_than_a_tick_may_is_let_end(lender: Lender, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, go_on, rounds = Event(), Event(), []

    def publish(*_: Any) -> Round:
        rounds.append(1)
        begun.set()
        assert go_on.wait(LIMIT_S)
        return Round(results=7)

    monkeypatch.setattr(publisher, "publish", publish)
    sensor = publisher_sensor(lender.settings)
    with ThreadPoolExecutor(1) as threads:
        first = threads.submit(tick, sensor)
        assert begun.wait(LIMIT_S)
        assert tick(sensor) == "the round before is still under way"
        go_on.set()
        assert first.result(LIMIT_S) == "7 results, 0 events sent"
    assert tick(sensor) == "7 results, 0 events sent"
    assert len(rounds) == 2


def test_a_round_that_fails_is_in_nobodys_way(lender: Lender, monkeypatch: pytest.MonkeyPatch) -> None:
    def publish(*_: Any) -> Round:
        raise ConnectionError

    sensor = publisher_sensor(lender.settings)
    with monkeypatch.context() as broken:
        broken.setattr(publisher, "publish", publish)
        with pytest.raises(ConnectionError):
            tick(sensor)
    assert tick(sensor) == "0 results, 0 events sent"
