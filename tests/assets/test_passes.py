"""What a run does, in which order, and what a killed one leaves for others to finish."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import date, timedelta
from typing import Any

import pytest

from monitoring_assets.assets.passes import Pass, passes

ALL = {"features", "scores", "distribution", "psi", "csi"}
COUNTED, DRIFT = ALL - {"psi", "csi"}, {"psi", "csi"}
SMALL: dict[str, Any] = {"precomputed": True, "features": [{"name": "income", "kind": "numeric"}]}
DAYS = [f"2026-01-{day:02d}" for day in range(1, 8)]


@pytest.fixture
def do(run: Callable[..., Any]) -> Callable[..., list[Pass]]:
    """``do(version, partitions, trigger="backfill", assets=ALL, stop=None)``: the passes, each of them worked on.

    With ``stop``, the run is killed before its pass of that number.
    """

    def do(
        version: Any, partitions: Sequence[str], trigger: Any = "backfill", assets: set[str] = ALL, stop: int = 9
    ) -> list[Pass]:
        done = []
        for each in passes(version, assets, partitions, trigger):
            if len(done) == stop:
                break
            run(version, each.partitions, each.assets, trigger=each.trigger)
            done.append(each)
        return done

    return do


def land(lender: Any, *days: str, corrected: bool = False) -> None:
    for day in days:
        if corrected:
            lender.land(day, lender.rows(f"{day[-2:]} +", 30), at=lender.now - timedelta(minutes=1))
        else:
            lender.land(day, lender.rows(day, 30))


def marked(lender: Any) -> list[str]:
    return [key.removeprefix("rejudge/ke-nano-loan/1.0.0/") for key in lender.listed("rejudge/")]


@pytest.fixture
def version(lender: Any, do: Any) -> Any:
    """A version whose first seven days are done."""
    version = lender.onboard(**SMALL)
    land(lender, *DAYS)
    do(version, DAYS)
    return version


def test_an_arrival_is_one_pass_over_everything_and_leaves_no_marker(lender: Any, do: Any, version: Any) -> None:
    land(lender, "2026-01-08")
    assert do(version, ["2026-01-08"], "arrival") == [Pass(ALL, ["2026-01-08"], "arrival")]
    assert marked(lender) == []


@pytest.mark.parametrize("trigger", ["arrival", "catch-up", "backfill"])
def test_a_correction_is_followed_by_the_days_whose_windows_hold_it_and_they_are_no_arrival(
    lender: Any, do: Any, version: Any, trigger: Any
) -> None:
    land(lender, DAYS[2], corrected=True)
    behind = "catch-up" if trigger == "arrival" else trigger
    assert do(version, DAYS[2:3], trigger) == [Pass(ALL, DAYS[2:3], trigger), Pass(DRIFT, DAYS[3:], behind)]
    assert do(version, DAYS[2:3], trigger) == [Pass(ALL, DAYS[2:3], trigger)], "nothing is left to do"


def test_days_between_two_that_are_corrected_are_judged_again_as_well(lender: Any, do: Any, version: Any) -> None:
    land(lender, DAYS[1], DAYS[4], corrected=True)
    both = [DAYS[1], DAYS[4]]
    assert do(version, both) == [
        Pass(ALL, both, "backfill"),
        Pass(DRIFT, [DAYS[2], DAYS[3], *DAYS[5:]], "backfill"),
    ]


def test_a_correction_that_is_refused_changes_nothing_behind_it(lender: Any, do: Any, version: Any) -> None:
    lender.land(DAYS[2], b"no Parquet")
    assert do(version, DAYS[2:3], "arrival") == [Pass(ALL, DAYS[2:3], "arrival")]


def test_a_day_that_another_run_made_from_old_counts_meanwhile_is_judged_again(
    lender: Any, run: Any, version: Any
) -> None:
    land(lender, DAYS[2], DAYS[4], corrected=True)
    going_on = passes(version, ALL, [DAYS[4]], "arrival")
    first = next(going_on)
    run(version, first.partitions, first.assets, trigger="arrival")
    # The other run corrects an earlier day, and is not yet at what lies behind it.
    run(version, [DAYS[2]])
    assert next(going_on) == Pass(DRIFT, DAYS[4:], "catch-up")


def test_runs_without_drift_leave_what_lies_behind_to_others(lender: Any, do: Any, version: Any) -> None:
    land(lender, DAYS[2], corrected=True)
    stages = {"features", "scores"}
    assert do(version, DAYS[2:3], assets=stages) == [Pass(stages, DAYS[2:3], "backfill")]
    assert marked(lender) == []


def test_a_killed_run_leaves_a_marker_for_each_day_that_others_lie_behind(lender: Any, do: Any, version: Any) -> None:
    land(lender, *DAYS[2:4], corrected=True)
    do(version, DAYS[2:4], "arrival", stop=1)
    assert marked(lender) == DAYS[2:4]
    found = do(version, DAYS[2:3], "catch-up")
    assert found == [Pass(ALL, DAYS[2:3], "catch-up"), Pass(DRIFT, DAYS[4:], "catch-up")]
    assert marked(lender) == DAYS[3:4], "that of the other day is another run's business"
    assert do(version, DAYS[3:4], "catch-up") == [Pass(ALL, DAYS[3:4], "catch-up")]
    assert marked(lender) == []


def test_a_run_that_fails_at_once_leaves_its_markers_too(lender: Any, do: Any, version: Any) -> None:
    land(lender, DAYS[2], corrected=True)
    assert do(version, DAYS[2:3], stop=0) == []
    assert marked(lender) == DAYS[2:3]


def test_of_a_long_stretch_only_the_end_reaches_what_lies_behind(lender: Any, do: Any) -> None:
    start = {"every": "day", "timezone": "UTC", "start": date(2025, 11, 1)}
    version = lender.onboard(**SMALL, partitions=start)
    days = version.calendar.keys("2025-11-01", "2025-12-20")
    land(lender, days[45])
    do(version, [days[45]])
    assert do(version, days[:45], stop=0) == []
    assert marked(lender) == days[18:45], "27 days: the longest window has 28"


def test_partitions_of_hours_are_marked_by_names_that_a_store_can_have(lender: Any, do: Any) -> None:
    hours = {"every": "hour", "timezone": "UTC", "start": date(2026, 1, 1)}
    source = {"uri": f"{lender.lake_uri}/{{partition:%Y-%m-%d-%H}}/*.parquet", "key": "application_id"}
    version = lender.onboard(**SMALL, partitions=hours, source=source)
    land(lender, "2026-01-01-00", "2026-01-01-01")
    both = ["2026-01-01-00:00", "2026-01-01-01:00"]
    do(version, both)
    land(lender, "2026-01-01-00", corrected=True)
    do(version, both[:1], stop=1)
    assert marked(lender) == ["2026-01-01-00-00"]
    assert do(version, both[:1]) == [Pass(ALL, both[:1], "backfill"), Pass(DRIFT, both[1:], "backfill")]
    assert marked(lender) == []


class TestOnboarding:
    def test_the_newest_day_with_data_is_judged_over_its_whole_window(self, lender: Any, do: Any) -> None:
        start = {"every": "day", "timezone": "UTC", "start": date(2025, 12, 1)}
        version = lender.onboard(**SMALL, partitions=start)
        days = version.calendar.keys("2025-12-01", "2026-01-19")
        there = [day for day in days[:-2] if day != days[40]]
        land(lender, *there)
        window = [day for day in days[-30:-2] if day != days[40]]
        assert do(version, days, "onboarding") == [
            Pass(COUNTED, window, "onboarding"),
            Pass(DRIFT, [days[-3]], "onboarding"),
        ]
        assert (len(window), window[-1]) == (27, days[-3])
        assert version.materialised("psi") == version.materialised("csi") == [days[-3]]
        assert version.materialised("distribution") == window

    def test_files_that_are_still_being_written_are_left_to_their_arrival(self, lender: Any, do: Any) -> None:
        version = lender.onboard(**SMALL)
        land(lender, *DAYS[:2])
        lender.land(DAYS[2], at=lender.now - timedelta(seconds=29))
        counted, judged = do(version, DAYS, "onboarding")
        assert (counted.partitions, judged.partitions) == (DAYS[:2], DAYS[1:2])

    def test_without_any_data_there_is_nothing_to_do(self, lender: Any, do: Any) -> None:
        version = lender.onboard(**SMALL)
        assert do(version, DAYS, "onboarding") == []
        assert do(version, [], "onboarding") == []

    def test_of_a_model_with_a_container_of_its_own_it_takes_no_scores(self, lender: Any, do: Any) -> None:
        image = f"registry.example/models/score@sha256:{'ab' * 32}"
        version = lender.onboard(score={"kind": "container", "image": image, "column": "vendor_score"})
        land(lender, *DAYS)
        assert do(version, DAYS, "onboarding") == []
        assert do(version, DAYS[:1], assets={"features"}) == [Pass({"features"}, DAYS[:1], "backfill")]
