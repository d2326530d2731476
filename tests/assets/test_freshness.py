from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Any

import pytest

DAYS = [f"2026-01-{day:02d}" for day in range(1, 7)]


@pytest.fixture
def freshness() -> Any:
    from monitoring_assets.assets.freshness import Freshness

    return Freshness


@pytest.fixture
def version(lender: Any, run: Any) -> Any:
    """A version whose first six days are done."""
    version = lender.onboard(precomputed=True)
    for day in DAYS:
        lender.land(day)
    run(version, DAYS)
    return version


def test_what_is_done_is_fresh(freshness: Any, version: Any) -> None:
    assert freshness(version).stale(DAYS) == []
    assert freshness(version).stale_behind(DAYS[:1]) == []
    assert freshness(version).stale_behind([]) == []


def test_what_was_never_run_is_stale_and_so_is_what_has_no_data(lender: Any, freshness: Any, version: Any) -> None:
    lender.land("2026-01-07")
    assert freshness(version).stale([*DAYS, "2026-01-07", "2026-01-08"]) == ["2026-01-07", "2026-01-08"]


def test_a_correction_makes_its_day_stale_and_then_the_windows_behind_it(
    lender: Any, run: Any, freshness: Any, version: Any
) -> None:
    lender.land(DAYS[2], lender.rows("corrected"))
    assert freshness(version).stale(DAYS) == [DAYS[2]]
    assert freshness(version).stale_behind([DAYS[2]]) == [], "nothing has changed yet for the later days"
    before = {day: version.current("csi", day).digest for day in DAYS}
    run(version, [DAYS[2]])
    assert freshness(version).stale_behind([DAYS[2]]) == DAYS[3:]
    assert freshness(version).stale(DAYS) == DAYS[3:]
    recorded = run(version, DAYS[3:], ("psi", "csi"))
    assert {each.outcome.state for each in recorded.values()} == {"materialised"}
    assert {each.result.live for each in recorded.values()} == {False}
    after = {day: version.current("csi", day).digest for day in DAYS}
    assert [day for day in DAYS if after[day] != before[day]] == DAYS[2:]
    assert freshness(version).stale(DAYS) == freshness(version).stale_behind([DAYS[2]]) == []


def test_a_correction_with_the_same_counts_leaves_later_days_alone(
    lender: Any, run: Any, freshness: Any, version: Any
) -> None:
    lender.land(DAYS[2], lender.rows(DAYS[2]).reverse())
    run(version, [DAYS[2]])
    assert freshness(version).stale_behind([DAYS[2]]) == []


def test_late_data_makes_the_days_behind_it_stale(lender: Any, run: Any, freshness: Any) -> None:
    version = lender.onboard(precomputed=True)
    for day in (DAYS[0], DAYS[2], DAYS[3]):
        lender.land(day)
    run(version, DAYS[:4])
    assert freshness(version).stale(DAYS[:4]) == [DAYS[1]]
    lender.land(DAYS[1])
    run(version, [DAYS[1]])
    assert freshness(version).stale_behind([DAYS[1]]) == DAYS[2:4]


def test_windows_reach_no_further_than_28_days(lender: Any, run: Any, freshness: Any) -> None:
    start = {"every": "day", "timezone": "UTC", "start": date(2025, 11, 1)}
    version = lender.onboard(precomputed=True, partitions=start)
    days = version.calendar.keys("2025-11-01", "2025-12-01")
    for day in days:
        lender.land(day, lender.rows(day, 10))
    run(version, days)
    lender.land(days[0], lender.rows("corrected", 10))
    run(version, days[:1])
    assert freshness(version).stale_behind(days[:1]) == days[1:28]


def test_half_done_work_is_stale(lender: Any, run: Any, freshness: Any, version: Any) -> None:
    lender.land(DAYS[5], lender.rows("corrected"))
    for stage in (("features",), ("scores",), ("distribution",), ("psi",)):
        run(version, [DAYS[5]], stage)
        assert freshness(version).stale(DAYS) == [DAYS[5]], stage
    run(version, [DAYS[5]], ("csi",))
    assert freshness(version).stale(DAYS) == []


def test_work_that_was_blocked_stays_stale_until_its_data_is_right(
    lender: Any, run: Any, freshness: Any, version: Any
) -> None:
    lender.land(DAYS[4], b"no Parquet")
    run(version, [DAYS[4]])
    assert freshness(version).stale(DAYS) == [DAYS[4]]
    lender.land(DAYS[4], at=datetime(2026, 1, 19, 12, tzinfo=UTC))
    run(version, [DAYS[4]])
    assert freshness(version).stale(DAYS) == []
