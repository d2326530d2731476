"""Runs that die again and again, or that somebody stops: what the others have of it, and who hears of it."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest

from monitoring_assets.fleet_file import FleetFile
from monitoring_assets.refresh import Refresher
from monitoring_assets.status import statuses
from resources.errors import InfrastructureError

HOUR, DAY, MINUTE = timedelta(hours=1), timedelta(days=1), timedelta(minutes=1)
YESTERDAY, TODAY = "2026-01-19", "2026-01-20"
MIDNIGHT = datetime(2026, 1, 20, tzinfo=UTC)


def days(first: str, count: int) -> list[str]:
    begin = date.fromisoformat(first)
    return [str(begin + timedelta(days=each)) for each in range(count)]


def live_on(story: Any, *, until: datetime, step: timedelta = MINUTE, reload: bool = False) -> list[Any]:
    """Tick and work until then; the tasks that were asked for, each with the time."""
    found = []
    while story.lender.now < until:
        if reload:
            story.reload()
        found += [(story.lender.now, task) for task in story.tick()]
        story.runs.finish()
        story.lender.now += step
    return found


def errors(story: Any, partition: str) -> list[tuple[str, bool]]:
    return [(each.status, each.live) for each in story.results(partition, "pipeline") if each.asset == "run"]


@pytest.fixture
def dying(watched: Any) -> Any:
    """Yesterday's data kills every run that reads it. It is 1 o'clock."""
    watched.lender.now = MIDNIGHT + HOUR
    watched.runs.deadly.add(YESTERDAY)
    watched.land(YESTERDAY)
    return watched


def test_a_run_that_always_dies_is_an_error_within_minutes_and_tried_less_and_less(dying: Any) -> None:
    found = live_on(dying, until=MIDNIGHT + HOUR + 10 * MINUTE, step=timedelta(seconds=30))
    assert [task.attempt for _, task in found] == [1, 2, 3, 4, 5]
    assert errors(dying, YESTERDAY) == [("error", True)]
    [result] = [each for each in dying.results(YESTERDAY, "pipeline") if each.asset == "run"]
    assert "5 runs in a row ended without a result" in result.reason
    found += live_on(dying, until=MIDNIGHT + 68 * HOUR, step=10 * MINUTE)
    assert 15 < len(found) < 25
    waits = [later - at for (at, _), (later, _) in pairwise(found)]
    assert waits == sorted(waits)
    assert errors(dying, YESTERDAY) == [("error", True)], "said once"


def test_status_shows_it(dying: Any) -> None:
    Refresher(dying.lender.settings, dying.lender.clock).look()
    live_on(dying, until=MIDNIGHT + HOUR + 12 * MINUTE)
    registered = FleetFile(dying.lender.store).read().registered
    [found] = statuses(dying.lender.settings, registered, dying.lender.clock)
    assert (found.state, found.partition, found.kind, found.live) == ("error", YESTERDAY, "pipeline", True)


@pytest.mark.parametrize("reload", [False, True])
def test_the_days_around_one_that_kills_its_runs_are_done_as_they_come(dying: Any, *, reload: bool) -> None:
    live_on(dying, until=MIDNIGHT + DAY, step=10 * MINUTE, reload=reload)
    dying.land(TODAY)
    found = live_on(dying, until=MIDNIGHT + DAY + HOUR, step=10 * MINUTE, reload=reload)
    assert found[0][1].partitions == (TODAY,)
    assert dying.live(TODAY) == [True]
    dying.land("2026-01-10", rows=dying.lender.rows("corrected", 30))
    live_on(dying, until=MIDNIGHT + DAY + 6 * HOUR, step=10 * MINUTE, reload=reload)
    assert dying.stale(["2026-01-10", TODAY]) == []


def test_history_is_made_beside_a_day_that_kills_its_runs(story: Any) -> None:
    every_day = days("2026-01-01", 18)
    story.lender.now = MIDNIGHT - HOUR
    story.land(*every_day, at=MIDNIGHT - DAY)
    story.deploy()
    story.runs.start(story.watch.tick(story.runs))
    story.runs.finish()
    story.runs.deadly.add(YESTERDAY)
    story.lender.now = MIDNIGHT + HOUR
    story.land(YESTERDAY)
    live_on(story, until=MIDNIGHT + 2 * HOUR)
    assert sorted(set(every_day) - set(story.version().materialised("psi"))) == []


def test_a_day_of_history_that_kills_its_runs_is_found_and_the_rest_is_made(story: Any) -> None:
    every_day, bad = days("2026-01-01", 19), "2026-01-07"
    story.lender.now = MIDNIGHT + HOUR
    story.land(*every_day, at=MIDNIGHT)
    story.deploy()
    story.runs.start(story.watch.tick(story.runs))
    story.runs.finish()
    story.runs.deadly.add(bad)
    live_on(story, until=MIDNIGHT + 3 * HOUR)
    assert sorted(set(every_day) - set(story.version().materialised("psi"))) == [bad]
    assert errors(story, bad) == [("error", False)], "nobody is woken for the past"
    assert len(story.runs.all) < 30
    story.reload()
    before = len(story.runs.all)
    live_on(story, until=MIDNIGHT + 8 * HOUR, step=10 * MINUTE)
    assert len(story.runs.all) - before < 6
    story.runs.deadly.clear()
    live_on(story, until=MIDNIGHT + 24 * HOUR, step=10 * MINUTE)
    assert story.stale(every_day) == []
    assert errors(story, bad)[-1] == ("ok", False)


def test_of_many_days_that_came_together_the_one_that_kills_its_runs_is_found(watched: Any) -> None:
    absent = days(YESTERDAY, 9)
    watched.lender.now = MIDNIGHT + 8 * DAY + HOUR
    watched.land(*absent, at=MIDNIGHT + 8 * DAY)
    watched.runs.deadly.add(absent[2])
    live_on(watched, until=MIDNIGHT + 8 * DAY + 2 * HOUR)
    assert sorted(set(absent) - set(watched.version().materialised("psi"))) == [absent[2]]
    assert errors(watched, absent[2]) == [("error", False)]


def test_when_a_run_comes_through_after_all_the_error_is_cleared_also_by_another_server(dying: Any) -> None:
    live_on(dying, until=MIDNIGHT + HOUR + 10 * MINUTE)
    dying.runs.deadly.clear()
    dying.reload()
    live_on(dying, until=MIDNIGHT + 3 * HOUR)
    assert errors(dying, YESTERDAY) == [("error", True), ("ok", True)]
    assert dying.stale([YESTERDAY]) == []


def test_other_data_is_tried_at_once(dying: Any) -> None:
    live_on(dying, until=MIDNIGHT + 5 * HOUR)
    dying.runs.deadly.clear()
    dying.land(YESTERDAY, rows=dying.lender.rows("other", 20))
    [(_, task)] = live_on(dying, until=MIDNIGHT + 5 * HOUR + 5 * MINUTE)
    assert task.attempt == 1
    assert errors(dying, YESTERDAY)[-1] == ("ok", True)


def test_a_run_that_somebody_stopped_is_not_started_again_until_its_data_changes(watched: Any) -> None:
    watched.lender.now = MIDNIGHT + HOUR
    watched.land(YESTERDAY)
    watched.tick()
    watched.runs.cancel()
    assert live_on(watched, until=MIDNIGHT + 3 * HOUR, step=10 * MINUTE) == []
    watched.land("2026-01-10")
    [(_, task)] = live_on(watched, until=MIDNIGHT + 4 * HOUR)
    assert task.partitions == ("2026-01-10",), "the others go on"
    watched.land(YESTERDAY, rows=watched.lender.rows("corrected", 30))
    [(_, task)] = live_on(watched, until=MIDNIGHT + 5 * HOUR)
    assert task.partitions == (YESTERDAY,)
    assert errors(watched, YESTERDAY) == []


def test_a_run_that_somebody_stopped_is_asked_for_again_after_a_day(watched: Any) -> None:
    watched.lender.now = MIDNIGHT + HOUR
    watched.land(YESTERDAY)
    watched.tick()
    watched.runs.cancel()
    [(at, task)] = live_on(watched, until=MIDNIGHT + 30 * HOUR, step=10 * MINUTE)
    assert (at, task.attempt) == (MIDNIGHT + 25 * HOUR, 2)


def test_a_day_that_kills_every_run_does_not_keep_a_new_version_from_its_reference_and_its_other_days(
    story: Any,
) -> None:
    every_day, bad = days("2026-01-14", 6), "2026-01-17"
    story.lender.now = MIDNIGHT + HOUR
    story.land(*every_day, at=MIDNIGHT)
    story.runs.deadly.add(bad)
    story.deploy(partitions={"every": "day", "timezone": "UTC", "start": date(2026, 1, 14)})
    live_on(story, until=MIDNIGHT + 3 * HOUR)
    assert sorted(set(every_day) - set(story.version().materialised("psi"))) == [bad]
    assert errors(story, "registry") == []


def test_a_version_whose_onboarding_always_dies_is_an_error_until_it_does_not(
    story: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dies(*_: Any) -> None:
        raise InfrastructureError("Out of memory.")

    story.lender.now = MIDNIGHT + HOUR
    story.deploy()
    with monkeypatch.context() as patch:
        patch.setattr(type(story.runs), "_work", dies)
        live_on(story, until=MIDNIGHT + 2 * HOUR)
    assert errors(story, "registry") == [("error", True)]
    live_on(story, until=MIDNIGHT + 5 * HOUR, step=5 * MINUTE)
    assert errors(story, "registry") == [("error", True), ("ok", True)]
