"""What became of runs, and what a watch makes of it: those that fail, are killed, or never end; servers too."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest

from monitoring_assets.arrivals import agenda
from monitoring_assets.layout import history_done
from monitoring_assets.version import DeployedVersion
from resources.errors import InfrastructureError

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
YESTERDAY, TODAY = "2026-01-19", "2026-01-20"
MIDNIGHT = datetime(2026, 1, 20, tzinfo=UTC)


def days(first: str, count: int) -> list[str]:
    begin = date.fromisoformat(first)
    return [str(begin + timedelta(days=each)) for each in range(count)]


def test_what_is_running_is_not_asked_for_again(watched: Any) -> None:
    watched.lender.now = MIDNIGHT + HOUR
    watched.land(YESTERDAY)
    watched.tick()
    for _ in range(5):
        watched.lender.now += timedelta(minutes=1)
        watched.reload()
        assert watched.tick() == []


def test_what_died_of_infrastructure_is_tried_again_later_and_later_and_said_to_die_after_five_times(
    watched: Any,
) -> None:
    watched.lender.now = MIDNIGHT + HOUR
    watched.land(YESTERDAY)
    asked_at = []
    for _ in range(300):
        asked_at += [(watched.lender.now, task.attempt) for task in watched.tick()]
        watched.runs.fail()
        watched.lender.now += timedelta(seconds=30)
    assert [attempt for _, attempt in asked_at] == list(range(1, len(asked_at) + 1))
    waits = [later - at for (at, _), (later, _) in pairwise(asked_at)]
    assert waits[:4] == [timedelta(seconds=30 * 2**power) for power in range(4)]
    assert waits == sorted(waits)
    assert HOUR <= waits[-1] < 2 * HOUR, "nobody watches it every half minute any more"
    errors = [each for each in watched.results(YESTERDAY, "pipeline") if each.status == "error"]
    assert [(each.asset, each.live) for each in errors] == [("run", True)]


def test_other_data_is_a_new_start(watched: Any) -> None:
    watched.lender.now = MIDNIGHT + HOUR
    watched.land(YESTERDAY)
    for _ in range(20):
        watched.tick()
        watched.runs.fail()
        watched.lender.now += timedelta(seconds=30)
    watched.land(YESTERDAY, rows=watched.lender.rows("other", 20))
    tasks = [*watched.tick()]
    while not tasks:
        watched.lender.now += timedelta(seconds=5)
        tasks = watched.tick()
    assert tasks[0].attempt == 1
    watched.runs.finish()
    assert watched.stale([YESTERDAY]) == []


def test_a_history_run_does_not_hold_up_an_arrival_and_an_arrival_holds_up_the_next(story: Any, asked: Any) -> None:
    story.lender.now = MIDNIGHT - HOUR
    story.land(*days("2026-01-01", 18), at=MIDNIGHT - DAY / 2)
    story.deploy()
    assert asked(story.tick())[0][0] == "onboarding"
    story.lender.now = MIDNIGHT + HOUR
    story.land(YESTERDAY)
    story.reload()
    assert story.tick() == [], "an onboarding run is at work"
    story.runs.finish()
    story.lender.now = MIDNIGHT - HOUR / 2
    assert asked(story.tick())[0][0] == "catch-up"
    story.lender.now = MIDNIGHT + HOUR
    assert asked(story.tick()) == [("arrival", (YESTERDAY,))]
    story.lender.now = MIDNIGHT + DAY
    story.land(TODAY)
    for _ in range(5):
        story.lender.now += timedelta(minutes=1)
        assert story.tick() == [], "an arrival run is at work"
    story.runs.finish()
    assert asked(story.go_on()) == [("arrival", (TODAY,))]


def test_a_server_that_is_reloaded_while_history_is_made_looks_for_arrivals(story: Any, asked: Any) -> None:
    story.lender.now = MIDNIGHT - HOUR
    story.land(*days("2026-01-01", 18), at=MIDNIGHT - DAY / 2)
    story.deploy()
    story.tick()
    story.runs.finish()
    assert asked(story.tick())[0][0] == "catch-up"
    story.reload()
    story.lender.now = MIDNIGHT + HOUR
    story.land(YESTERDAY)
    assert asked(story.tick()) == [("arrival", (YESTERDAY,))]


def test_after_ten_days_of_absence_the_newest_come_first_and_the_rest_in_one_run(watched: Any, asked: Any) -> None:
    absent = days(YESTERDAY, 10)
    watched.lender.now = MIDNIGHT + 9 * DAY + HOUR
    for number, each in enumerate(absent):
        watched.land(each, at=MIDNIGHT + number * DAY + HOUR / 2)
    watched.reload()
    newest_first = [(each,) for each in reversed(absent[-4:])]
    assert asked(watched.go_on()) == [("arrival", each) for each in [*newest_first, tuple(absent[:-4])]]
    assert watched.live(absent[-1])[0]
    assert not any(live for each in absent[:-1] for live in watched.live(each)), "nobody is woken for the past"
    assert watched.stale(absent) == []


def test_a_run_that_was_killed_between_two_days_of_a_correction_is_finished(story: Any, asked: Any) -> None:
    every_day = story.with_history("2026-01-08")
    story.land(every_day[3], rows=story.lender.rows("corrected", 30))
    story.lender.now += DAY / 2
    assert asked(story.tick()) == [("arrival", (every_day[3],))]
    story.runs.finish(writes=30)
    [run] = [each for each in story.runs.all if each.task.trigger == "arrival"]
    assert run.state == "failed"
    assert len(story.results(every_day[3])) == 2, "it came as far as the day itself"
    assert every_day[10] in story.stale(every_day)
    story.reload()
    assert asked(story.go_on(minutes=2)) == [("catch-up", (every_day[3],))]
    assert story.stale(every_day) == []
    assert story.lender.listed("rejudge/") == []
    assert story.go_on(hours=12) == []


@pytest.mark.parametrize("writes", [10, 100, 140])
def test_a_killed_run_of_history_is_done_again_also_where_nobody_looks_at_the_source_any_more(
    story: Any, monkeypatch: pytest.MonkeyPatch, writes: int
) -> None:
    monkeypatch.setitem(agenda.HORIZON, "week", 2)
    begin = date(2025, 11, 10)
    weeks = [str(begin + 7 * number * DAY) for number in range(10)]
    story.land(*weeks, at=MIDNIGHT - HOUR)
    story.lender.now = MIDNIGHT + HOUR
    story.deploy(partitions={"every": "week", "timezone": "UTC", "start": begin})
    story.tick()
    story.runs.finish()
    story.tick()
    story.runs.finish(writes=writes)
    assert story.runs.all[-1].state == "failed"
    story.reload()
    story.go_on(minutes=2)
    assert story.stale(weeks) == []
    assert [len(story.results(each)) for each in weeks] == [1] * 10


@pytest.mark.parametrize("reloaded", [True, False])
def test_a_run_of_history_that_ended_without_any_result_is_not_the_end_of_history(
    story: Any, asked: Any, reloaded: bool
) -> None:
    every_day = days("2026-01-01", 19)
    story.land(*every_day, at=MIDNIGHT - HOUR)
    story.lender.now = MIDNIGHT + HOUR
    story.deploy()
    story.tick()
    story.runs.finish()
    asked_at = []
    for _ in range(100):
        tasks = story.tick()
        assert all(asked([task]) == [("catch-up", tuple(every_day[:-1]))] for task in tasks)
        asked_at += [story.lender.now for _ in tasks]
        if reloaded:
            story.reload()
        story.runs.do_nothing()
        story.lender.now += timedelta(seconds=15)
    waits = [later - at for at, later in pairwise(asked_at)]
    assert waits == [timedelta(seconds=30 * 2**power) for power in range(len(waits))]
    assert story.lender.store.head(history_done("ke-nano-loan", "1.0.0")) is None
    story.go_on(hours=1)
    assert story.stale(every_day) == []
    assert story.lender.store.head(history_done("ke-nano-loan", "1.0.0"))


def test_a_reload_at_every_tick_changes_nothing_of_what_is_asked_for(story: Any, asked: Any) -> None:
    every_day = days("2026-01-01", 19)
    story.land(*every_day, at=MIDNIGHT - HOUR)
    story.lender.now = MIDNIGHT + HOUR
    story.deploy()
    found = []
    for step in range(12):
        story.reload()
        found += asked(story.tick())
        if step % 3 == 2:
            story.runs.finish()
        if step == 6:
            story.land("2026-01-20")
            story.lender.now = MIDNIGHT + DAY
        story.lender.now += timedelta(seconds=6)
    assert [trigger for trigger, _ in found] == ["onboarding", "catch-up", "arrival"]
    assert story.stale([*every_day, "2026-01-20"]) == []


def test_one_version_in_trouble_costs_the_others_nothing(
    story: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from monitoring_assets.arrivals import watch

    real, errors = watch.landing, {"b": InfrastructureError("Could not list it."), "c": KeyError("a bug")}

    def landing(version: Any, partition: str) -> Any:
        if version.manifest.model in errors:
            raise errors[version.manifest.model]
        return real(version, partition)

    story.lender.now = MIDNIGHT - HOUR
    for model in ("a", "b", "c"):
        story.deploy(model=model)
    story.go_on()
    monkeypatch.setattr(watch, "landing", landing)
    story.lender.now = MIDNIGHT + HOUR
    story.land(YESTERDAY)
    assert {task.model for task in story.go_on()} == {"a"}
    assert "b 1.0.0: Could not list it." in caplog.text
    assert "a bug" in caplog.text
    errors.clear()
    assert {task.model for task in story.go_on(minutes=1)} == {"b", "c"}


def test_a_survey_that_failed_is_made_again_and_nothing_is_asked_for_meanwhile(
    watched: Any, asked: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, failures = DeployedVersion.materialised, [InfrastructureError("Slow down.")] * 2

    def materialised(self: DeployedVersion, asset: str) -> list[str]:
        if failures:
            raise failures.pop()
        return real(self, asset)

    monkeypatch.setattr(DeployedVersion, "materialised", materialised)
    watched.lender.now = MIDNIGHT + HOUR
    watched.land(YESTERDAY)
    watched.reload()
    assert watched.tick() == []
    assert len(failures) == 1
    assert watched.tick() == []
    assert len(failures) == 1, "not at every tick"
    assert asked(watched.go_on(minutes=3)) == [("arrival", (YESTERDAY,))]
