"""Alerts on the real stack: daemon, code servers and runs on S3, with the services' clients and their semantics."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.e2e.world import NOON, World, day, land
from tests.recorders import Incident, Recorder, unreachable

pytestmark = pytest.mark.timeout(900)

SENSOR_LIMIT_S = 120
"""The sensor has a look every 30 seconds; a busy machine takes its time."""
MODEL = "ke-nano-loan"


def newest(world: World) -> Any:
    """The newest live csi result, None before the first."""
    live = [each for each in world.results(MODEL, "csi") if each.live]
    return max(live, key=lambda each: each.recorded_at, default=None)


def test_a_live_breach_pages_once_though_the_service_was_down_and_a_correction_resolves_it(
    s3_world: World,
    running: Callable[[World], Any],
    eventually: Callable[..., Any],
    recorder: Recorder,
) -> None:
    pagerduty = recorder.pagerduty
    s3_world.environ |= recorder.environ
    running(s3_world)
    s3_world.put(MODEL, tier=1, role="champion", partitions={"every": "day", "timezone": NOON, "start": day(9)})
    eventually(lambda: len(s3_world.judged(MODEL)) == 8, "the history is judged")
    assert pagerduty.pages == []
    yesterday = day(1)

    pagerduty.faults.lasting = unreachable()
    land(s3_world.lake, yesterday, income_level=9)
    eventually(lambda: newest(s3_world) and newest(s3_world).status == "breach", "the partition is judged")
    pagerduty.faults.lasting = None

    def drift() -> list[Incident]:
        # Incomes seven times as high are outside the reference's range too, which is an incident of quality.
        return [each for each in pagerduty.pages if "/drift/" in each.dedup_key]

    eventually(drift, "the publisher tells what the run could not", limit=SENSOR_LIMIT_S)
    [page] = drift()
    assert page.dedup_key == f"scorewatch/local/{MODEL}/1.0.0/drift/{yesterday}"
    assert page.payload["severity"] == "critical"
    assert "at or above 0.25, worst" in page.payload["summary"]
    assert page.payload["custom_details"]["owner"] == "risk@lender.example"

    land(s3_world.lake, yesterday)
    # Arrivals would find it within the hour; whoever corrected it does not wait.
    code, _, err = s3_world.machine.run("backfill", MODEL, "1.0.0", "--from", str(yesterday), **s3_world.environ)
    assert code == 0, err
    eventually(lambda: page.resolved, "what was corrected is resolved")
    assert drift() == [page]
    eventually(lambda: not pagerduty.open, "of quality too")
    assert _holding_secrets(s3_world, recorder) == []


def _holding_secrets(world: World, recorder: Recorder) -> list[str]:
    """What holds a key of logs, Dagster's storage (run config, metadata, exceptions) and the store."""
    keys = [recorder.environ[name].encode() for name in ("SCOREWATCH_PAGERDUTY_ROUTING_KEY", "DD_API_KEY")]
    files = {str(path): path.read_bytes() for path in world.machine.home.rglob("*") if path.is_file()}
    # Markers come and go meanwhile.
    blobs = {info.key: world.store.get(info.key) for info in world.store.list("")}
    objects = {key: blob.data for key, blob in blobs.items() if blob is not None}
    assert len(files) > 5
    assert len(objects) > 100
    return [name for name, data in (files | objects).items() if any(key in data for key in keys)]
