"""What Datadog was told, in the words of the tests."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime
from typing import Any

from monitoring_assets.alerting.about import About
from monitoring_assets.alerting.policy import Policy
from monitoring_assets.partitions import PartitionCalendar
from monitoring_assets.results import Metric
from tests.alerting.conftest import MODEL, USUAL, VERSION
from tests.recorders import Recorder
from tests.recorders.datadog import Tags

NAIROBI = replace(USUAL, calendar=PartitionCalendar("day", "Africa/Nairobi", date(2026, 1, 1)))
TIER_1 = replace(NAIROBI, policy=Policy(tier=1))
END = datetime(2026, 1, 1, 21, tzinfo=UTC)
"""Of the partition 2026-01-01 in Nairobi."""


def tags(about: About = NAIROBI, **more: str) -> Tags:
    named = {"model": MODEL, "model_version": VERSION, "team": about.owner, "tier": about.policy.tier, "env": "test"}
    return tuple(sorted(f"{name}:{value}" for name, value in (named | more).items()))


def points(recorder: Recorder, family: str) -> dict[tuple[str, Tags, datetime], float]:
    return {
        (metric.removeprefix(family), found, datetime.fromtimestamp(second, UTC)): value
        for (metric, found, second), value in recorder.datadog.points.items()
        if metric.startswith(family)
    }


def daily(recorder: Recorder) -> dict[tuple[str, Tags, datetime], float]:
    return points(recorder, "scorewatch.daily.")


def days(recorder: Recorder) -> list[int]:
    """The days of January of which there is a PSI of car_value."""
    found = recorder.datadog.series("scorewatch.daily.csi")[tags(TIER_1, feature="car_value")]
    return sorted(datetime.fromtimestamp(second, UTC).day for second in found)


def score(net: float, **more: Any) -> Metric:
    return Metric(metric="psi", column="score", **{"window": 7, "value": net + 0.01, "net_value": net} | more)
