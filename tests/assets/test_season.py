from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Any

import polars as pl
import pytest

from monitoring_assets.assets.freshness import Freshness
from monitoring_assets.assets.history import Distributions

START = date(2026, 1, 1)  # a Thursday
SATURDAY = "2026-02-14"
DRIFT = ("psi", "csi")


@pytest.fixture
def weekends(lender: Any) -> Any:
    """``weekends(last, usual=8.0)``: a version with data up to a day, and incomes that are usually higher on weekends.

    ``moved`` are further incomes by day, ``none`` the days without data.
    """
    lender.now = datetime(2026, 3, 20, tzinfo=UTC)

    def weekends(
        last: str,
        *,
        usual: float = 8.0,
        version: str = "1.0.0",
        moved: dict[str, float] | None = None,
        none: tuple[str, ...] = (),
    ) -> tuple[Any, list[str]]:
        partitions = {"every": "day", "timezone": "UTC", "start": START}
        found = lender.onboard(precomputed=True, partitions=partitions, version=version, segments=["product"])
        days = found.calendar.keys("2026-01-01", last)
        for day in days:
            income = usual if date.fromisoformat(day).weekday() >= 5 else 0.0
            frame = lender.rows(day, 400)
            income += (moved or {}).get(day, 0.0)
            if day not in none:
                lender.land(day, frame.with_columns(income=pl.col("income") + income))
        return found, days

    return weekends


def income(result: Any, window: int = 1) -> Any:
    [found] = [
        metric
        for metric in result.metrics
        if (metric.column, metric.segment, metric.window) == ("income", None, window)
    ]
    return found


def test_a_weekend_like_every_weekend_breaches_against_the_reference_alone(weekends: Any, run: Any) -> None:
    version, days = weekends(SATURDAY)
    found = income(run(version, days)["csi", SATURDAY].result)
    assert (found.status, found.significant) == ("breach", True)
    assert found.net_value > 0.25
    assert found.season_net_value < 0.1
    assert found.season_significant is False


def test_a_weekend_unlike_other_weekends_breaches_in_both(weekends: Any, run: Any) -> None:
    version, days = weekends(SATURDAY, moved={SATURDAY: 12.0})
    found = income(run(version, days)["csi", SATURDAY].result)
    assert found.status == "breach"
    assert found.season_net_value > 0.25
    assert found.season_significant is True


def test_a_week_that_moved_has_no_season_nor_has_a_window_that_did_not_move(weekends: Any, run: Any) -> None:
    moved = {f"2026-02-{day:02d}": 10.0 for day in range(7, 15)}
    version, days = weekends(SATURDAY, moved=moved)
    result = run(version, days)["csi", SATURDAY].result
    assert income(result, 7).status == "breach"
    assert income(result, 7).season_net_value is None
    assert income(result, 5).season_net_value > 0.25
    ages = [metric for metric in result.metrics if metric.column == "age"]
    assert ages
    assert {metric.season_net_value for metric in ages} == {None}
    assert {metric.significant for metric in ages} == {False}
    segments = [metric for metric in result.metrics if metric.segment is not None]
    assert segments
    assert {metric.season_net_value for metric in segments} == {None}


def test_the_first_weekend_has_no_season(weekends: Any, run: Any) -> None:
    version, days = weekends("2026-01-03")
    found = income(run(version, days)["csi", "2026-01-03"].result)
    assert found.status == "breach"
    assert (found.season_net_value, found.season_significant) == (None, None)


def test_what_a_moved_window_is_without_its_worst_day_is_recorded(weekends: Any, run: Any) -> None:
    version, days = weekends("2026-02-11", moved={"2026-02-11": 25.0})
    result = run(version, days)["csi", "2026-02-11"].result
    assert income(result).net_without_worst is None
    assert income(result, 2).net_without_worst < 0.05
    assert income(result, 2).note == f"net PSI without the worst partition {income(result, 2).net_without_worst:.4f}"


def test_a_range_finds_the_seasons_that_daily_runs_find(weekends: Any, run: Any) -> None:
    moved = dict.fromkeys(("2026-02-12", "2026-02-13", SATURDAY), 7.0)
    daily, days = weekends(SATURDAY, moved=moved, none=("2026-01-24", "2026-02-06"))
    together, _ = weekends(SATURDAY, version="2", moved=moved, none=("2026-01-24", "2026-02-06"))
    at_once = run(together, days)
    for day in days:
        alone = run(daily, [day])
        for kind in DRIFT:
            assert alone[kind, day].result.metrics == at_once[kind, day].result.metrics, (kind, day)
    seasons = [metric for day in days for metric in at_once["csi", day].result.metrics if metric.season_significant]
    assert {metric.window for metric in seasons} == {1, 2, 3, 5}


def test_the_same_again_writes_nothing(weekends: Any, run: Any, lender: Any) -> None:
    version, days = weekends(SATURDAY)
    run(version, days)
    before = lender.listed()
    again = run(version, days, DRIFT)
    assert {each.outcome.state for each in again.values()} == {"reused"}
    assert lender.listed() == before


def test_earlier_cycles_are_no_inputs_and_one_that_comes_late_makes_nothing_stale(
    weekends: Any, run: Any, attempts: Any
) -> None:
    late = "2026-01-14"  # a month before, and older than the longest window
    version, days = weekends(SATURDAY)
    run(version, [day for day in days if day != late])
    [first] = attempts(version, SATURDAY, "csi")
    used = [each.partition for each in first.inputs if each.asset == "distribution"]
    assert used == [day for day in days[-28:] if day != late]
    published = version.current("csi", SATURDAY)
    run(version, [late])
    assert SATURDAY not in Freshness(version).stale_behind([late])
    again = run(version, [SATURDAY], DRIFT)["csi", SATURDAY]
    assert again.outcome.state == "reused"
    assert version.current("csi", SATURDAY) == published
    assert again.result.attempt == 2
    assert again.result.inputs == first.inputs
    assert income(again.result).season_net_value != income(first).season_net_value
    assert income(again.result).model_copy(update={"season_net_value": None}) == income(first).model_copy(
        update={"season_net_value": None}
    )


def test_older_partitions_are_read_only_when_something_has_moved(
    weekends: Any, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    version, days = weekends("2026-02-12", usual=0.0, moved={"2026-02-12": 15.0})
    run(version, days)
    asked: set[str] = set()
    read = Distributions.current
    monkeypatch.setattr(Distributions, "current", lambda self, day: asked.add(day) or read(self, day))
    run(version, ["2026-02-11"], DRIFT)
    assert sorted(asked) == version.calendar.keys("2026-01-15", "2026-02-11")
    asked.clear()
    result = run(version, ["2026-02-12"], ("csi",))["csi", "2026-02-12"].result
    assert income(result, 5).season_net_value > 0.02
    # The weekdays of the 8th to the 12th since the start of the year, and the 8th to the 12th of the month before.
    assert sorted(asked - {"2026-01-01"}) == version.calendar.keys("2026-01-04", "2026-02-12")
    assert "2026-01-01" in asked


def test_an_hour_is_compared_with_the_same_hours(lender: Any) -> None:
    from monitoring_assets.assets import drift
    from monitoring_assets.assets.history import SCHEMA
    from monitoring_assets.datasets import Current

    version = lender.onboard(
        precomputed=True,
        partitions={"every": "hour", "timezone": "UTC", "start": START},
        source={"uri": f"{lender.lake_uri}/{{partition:%Y-%m-%d-%H}}/*.parquet", "key": "application_id"},
    )
    profile = next(column for column in version.profile.columns if column.name == "income")
    usual, distributions = profile.reference_counts(), Distributions(version)
    hours = version.calendar.keys("2026-01-01-00:00", "2026-01-09-03:00")
    for hour in hours:
        night = "01:00" <= hour[-5:] < "04:00"
        counts = usual[::-1] if night else usual
        rows = [("bins", "income", "", "", index, int(count), 0) for index, count in enumerate(counts)]
        measured = {"rows": int(counts.sum())}
        current = Current(asset="distribution", partition=hour, input_digest="", inputs=(), files=(), measured=measured)
        distributions.remember(hour, current, pl.DataFrame(rows, schema=SCHEMA, orient="row"))
    [outcome] = drift.materialise(version, "csi", hours[-1:], {}, distributions)
    found = income(outcome)
    assert (found.status, found.season_net_value, found.season_significant) == ("breach", 0.0, False)
    assert income(outcome, 24).season_net_value < 0.01
    assert income(outcome, 168).season_net_value is None
