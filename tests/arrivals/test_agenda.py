from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitoring_assets.arrivals.agenda import (
    Attempt,
    Task,
    wait_for_correction,
    wait_for_data,
    wait_for_newest,
)

NOW = datetime(2026, 1, 20, tzinfo=UTC)
SECOND, MINUTE, HOUR = timedelta(seconds=1), timedelta(minutes=1), timedelta(hours=1)

ages = st.timedeltas(min_value=timedelta(0), max_value=timedelta(days=1000))


@given(ages, ages)
def test_the_older_a_partition_the_longer_until_the_next_look(one: timedelta, other: timedelta) -> None:
    younger, older = sorted((one, other))
    assert wait_for_data(younger) <= wait_for_data(older)
    assert wait_for_correction(younger) <= wait_for_correction(older)


@given(ages)
def test_data_is_noticed_late_by_a_hundredth_of_its_age_at_most_and_by_a_quarter_of_an_hour(age: timedelta) -> None:
    assert timedelta(0) <= wait_for_data(age) <= min(age / 100, 15 * MINUTE)


@given(ages)
def test_corrections_are_looked_for_every_five_minutes_at_most_and_twice_a_day_at_least(age: timedelta) -> None:
    assert 5 * MINUTE <= wait_for_correction(age) <= 12 * HOUR


@pytest.mark.parametrize(("versions", "seconds"), [(1, 5), (50, 5), (300, 30), (3000, 300)])
def test_the_newest_are_looked_for_every_few_seconds_ten_of_them_a_second(versions: int, seconds: float) -> None:
    assert wait_for_newest(versions) == timedelta(seconds=seconds)


@pytest.mark.parametrize(
    ("runs", "wait"),
    [
        *((1, MINUTE / 2), (2, MINUTE), (3, 2 * MINUTE), (7, 32 * MINUTE), (8, HOUR), (12, HOUR)),
        *((13, 2 * HOUR), (14, 4 * HOUR), (16, 12 * HOUR), (5000, 12 * HOUR)),
    ],
)
@pytest.mark.parametrize("state", ["failed", "done"])
def test_the_wait_before_another_attempt_doubles_up_to_an_hour_and_after_a_dozen_up_to_half_a_day(
    state: Any, runs: int, wait: timedelta
) -> None:
    attempt = Attempt(state, runs, NOW)
    assert attempt.due_at == NOW + wait
    assert [attempt.due(NOW + wait - SECOND), attempt.due(NOW + wait)] == [False, True]


def test_what_somebody_stopped_is_due_after_a_day() -> None:
    assert Attempt("canceled", 1, NOW).due_at == NOW + 24 * HOUR


def test_what_runs_is_never_due() -> None:
    attempt = Attempt("running", 3, NOW - 100 * HOUR)
    assert (attempt.due_at, attempt.due(NOW)) == (None, False)


def test_what_is_on_time_comes_before_what_is_new_and_history_is_last() -> None:
    triggers: list[Any] = ["catch-up", "onboarding", "arrival"]
    tasks = [Task("ke-nano-loan", "1", "digest", trigger, (), "key") for trigger in triggers]
    by_priority = sorted(tasks, key=lambda task: -task.priority)
    assert [task.trigger for task in by_priority] == ["arrival", "onboarding", "catch-up"]
    assert tasks[0].priority < 0, "behind what a person starts"
