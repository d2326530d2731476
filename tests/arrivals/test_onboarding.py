"""What a watch asks for of a version that is new: its first window, and its history."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest

from monitoring_assets import layout
from monitoring_assets.arrivals import agenda
from monitoring_assets.quarantine import Quarantined, keep_back, release

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
START, YESTERDAY = date(2026, 1, 1), "2026-01-19"
MIDNIGHT = datetime(2026, 1, 20, tzinfo=UTC)
NIGHTLY = {"every": "day", "timezone": "UTC", "start": START}


def days(first: str, count: int) -> list[str]:
    begin = date.fromisoformat(first)
    return [str(begin + timedelta(days=each)) for each in range(count)]


def test_the_newest_window_comes_first_and_of_psi_only_the_newest_then_history(story: Any, asked: Any) -> None:
    every_day = days("2025-12-16", 35)
    story.lender.now = MIDNIGHT + HOUR
    story.land(*every_day, at=MIDNIGHT - HOUR)
    story.deploy(partitions=NIGHTLY | {"start": date(2025, 12, 16)})
    [onboarding] = story.tick()
    assert (onboarding.trigger, onboarding.priority > -10) == ("onboarding", True)
    story.runs.finish()
    version = story.version()
    assert version.materialised("distribution") == every_day[-28:]
    assert version.materialised("psi") == version.materialised("csi") == [YESTERDAY]
    [csi] = story.results(YESTERDAY)
    assert len([each for each in csi.inputs if each.asset == "distribution"]) == 28
    assert asked(story.go_on(hours=1)) == [("catch-up", tuple(every_day[:-1]))]
    assert story.stale(every_day) == []
    assert not any(live for each in every_day for live in story.live(each))
    story.reload()
    assert story.go_on(hours=12) == []


def test_the_past_is_no_arrival_whatever_its_age(story: Any, asked: Any) -> None:
    story.lender.now = MIDNIGHT + HOUR
    story.land(YESTERDAY, at=MIDNIGHT + HOUR / 2)
    story.deploy()
    assert [trigger for trigger, _ in asked(story.go_on(hours=30))] == ["onboarding"]
    assert story.live(YESTERDAY) == [False]


def test_history_is_done_in_stretches_the_newest_first(story: Any, asked: Any) -> None:
    story.runs.takes = agenda.Capacity(5)
    every_day = days("2026-01-01", 19)
    story.land(*every_day, at=MIDNIGHT - HOUR)
    story.lender.now = MIDNIGHT + HOUR
    story.deploy()
    found = asked(story.go_on())
    assert [trigger for trigger, _ in found] == ["onboarding"] + ["catch-up"] * 4
    stretches = [tuple(every_day[:4]), *(tuple(every_day[at : at + 5]) for at in (4, 9)), tuple(every_day[14:18])]
    assert [partitions for _, partitions in found[1:]] == stretches[::-1]
    assert story.stale(every_day) == []


def test_history_goes_on_in_other_stretches_when_another_orchestrator_takes_over(story: Any, asked: Any) -> None:
    every_day = days("2026-01-01", 19)
    story.land(*every_day, at=MIDNIGHT - HOUR)
    story.lender.now = MIDNIGHT + HOUR
    story.deploy()
    story.tick()
    story.runs.finish()
    story.runs.takes = agenda.Capacity(90, 0)
    assert asked(story.tick()) == []
    story.runs.takes = agenda.Capacity(5, 5)
    found = asked(story.go_on(minutes=1))
    assert max(len(partitions) for _, partitions in found) <= 5
    assert story.stale(every_day) == []


def test_history_is_bounded(story: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(agenda.HISTORY, "day", 6)
    story.land(*days("2026-01-01", 19), at=MIDNIGHT - HOUR)
    story.lender.now = MIDNIGHT + HOUR
    story.deploy()
    story.go_on()
    assert story.version().materialised("psi") == days("2026-01-14", 6)


def test_a_history_with_holes_and_bad_days_is_done_once(story: Any) -> None:
    every_day = days("2026-01-01", 19)
    story.land(*every_day[::2], at=MIDNIGHT - HOUR)
    story.land(every_day[4], rows=b"no Parquet", at=MIDNIGHT - HOUR)
    story.lender.now = MIDNIGHT + HOUR
    story.deploy()
    story.go_on()
    story.reload()
    assert story.go_on(hours=1) == []
    good = [each for each in every_day[::2] if each != every_day[4]]
    assert story.version().materialised("psi") == good
    assert story.stale(good) == []


def test_data_that_fills_a_hole_after_all_is_late_data(story: Any, asked: Any) -> None:
    every_day = days("2026-01-01", 19)
    hole = every_day[10]
    story.land(*[each for each in every_day if each != hole], at=MIDNIGHT - HOUR)
    story.lender.now = MIDNIGHT + HOUR
    story.deploy()
    story.go_on(minutes=6)
    story.land(hole)
    assert asked(story.go_on(hours=3)) == [("arrival", (hole,))]
    assert story.live(hole) == [False]
    assert story.stale(every_day) == []


def test_without_any_complete_partition_the_reference_is_frozen_and_the_first_one_is_awaited(
    story: Any, asked: Any
) -> None:
    story.lender.now = MIDNIGHT - HOUR
    story.deploy(partitions=NIGHTLY | {"start": date(2026, 1, 19)})
    assert asked(story.go_on()) == [("onboarding", ())]
    assert len(story.lender.listed("reference/ke-nano-loan/1.0.0/")) == 1
    story.lender.now = MIDNIGHT
    story.land(YESTERDAY)
    assert asked(story.go_on()) == [("arrival", (YESTERDAY,))]
    assert story.live(YESTERDAY) == [True]


def test_a_version_that_is_kept_back_gets_no_task_until_it_is_released(watched: Any, asked: Any) -> None:
    bad = Quarantined(model="ke-nano-loan", version="1.0.0", stage="onboarding", of="1", reason="bad")
    keep_back(watched.lender.store, bad, watched.lender.clock)
    watched.lender.now = MIDNIGHT + HOUR
    watched.land(YESTERDAY)
    assert watched.go_on() == []
    release(watched.lender.store, bad, watched.lender.clock)
    assert asked(watched.go_on()) == [("arrival", (YESTERDAY,))]


def test_partitions_between_deployment_and_what_is_watched_are_history_too(
    story: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(agenda.HORIZON, "day", 2)
    every_day = days("2026-01-12", 8)
    story.land(*every_day, at=MIDNIGHT - HOUR)
    story.lender.now = MIDNIGHT + HOUR
    story.deploy(at=MIDNIGHT - 5 * DAY)
    story.go_on(minutes=6)
    assert story.version().materialised("psi") == every_day
    assert not any(live for each in every_day[:-2] for live in story.live(each))
    story.reload()
    assert story.go_on(hours=1) == []


@pytest.mark.parametrize("marker", [None, b""])
def test_what_came_while_nobody_watched_is_history_however_long_that_was(
    watched: Any, monkeypatch: pytest.MonkeyPatch, marker: bytes | None
) -> None:
    monkeypatch.setitem(agenda.HORIZON, "day", 2)
    if marker is not None:
        watched.lender.store.put(layout.history_done("ke-nano-loan", "1.0.0"), marker)  # of an earlier release
    absent = days(YESTERDAY, 6)
    watched.lender.now = MIDNIGHT + 5 * DAY + HOUR
    watched.land(*absent[:2], *absent[3:], at=MIDNIGHT + 5 * DAY)
    watched.reload()
    watched.go_on(minutes=6)
    assert watched.version().materialised("psi") == [*absent[:2], *absent[3:]]
    watched.reload()
    assert watched.go_on(hours=1) == []
