"""The timetable against the partition calendar, whose keys and windows are Dagster's, by Airflow's own clockwork."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest

from monitoring_assets.partitions import PartitionCalendar
from tests.airflow_bridge.conftest import Inside

DAILY_UTC = {"every": "day", "timezone": "UTC", "start": "2026-01-01"}
# In Cairo, Beirut and Santiago clocks skip a midnight, in Havana and the Azores it comes twice.
ZONES = (
    "UTC",
    "Africa/Cairo",
    "Africa/Nairobi",
    "America/Havana",
    "America/New_York",
    "America/Santiago",
    "Asia/Beirut",
    "Asia/Kathmandu",
    "Atlantic/Azores",
    "Australia/Lord_Howe",
    "Europe/Berlin",
    "Pacific/Auckland",
)
CALENDARS = [("hour", "UTC"), *((every, zone) for every in ("day", "week", "month") for zone in ZONES)]
STARTS = {"hour": date(2026, 3, 1), "day": date(2026, 1, 1), "week": date(2026, 1, 5), "month": date(2026, 1, 1)}
LENGTHS = {"hour": 200, "day": 400, "week": 60, "month": 20}


def partitions(every: str, timezone: str) -> dict[str, Any]:
    return {"every": every, "timezone": timezone, "start": STARTS[every].isoformat()}


def expected(calendar: PartitionCalendar, keys: list[str], delay: timedelta = timedelta(0)) -> list[dict[str, str]]:
    windows = {key: calendar.window(key) for key in keys}
    return [
        {"key": key, "begin": begin.isoformat(), "run_after": (end + delay).isoformat()}
        for key, (begin, end) in windows.items()
    ]


def years_of(every: Any, timezone: str) -> tuple[PartitionCalendar, list[str]]:
    """A calendar, and so many of its keys that every change of the clocks is among them."""
    calendar = PartitionCalendar(every, timezone, STARTS[every])
    last = calendar.key_of(datetime.combine(STARTS[every], datetime.min.time(), UTC) + LENGTHS[every] * STEPS[every])
    return calendar, calendar.keys(calendar.first_key, last)


STEPS = {"hour": timedelta(hours=1), "day": timedelta(days=1), "week": timedelta(weeks=1), "month": timedelta(days=30)}


@pytest.mark.parametrize(("every", "timezone"), CALENDARS)
def test_a_schedule_has_every_partition_once_and_just_after_its_end(inside: Inside, every: str, timezone: str) -> None:
    calendar, keys = years_of(every, timezone)
    since, until = calendar.window(keys[0])[1], calendar.window(keys[-1])[1]

    runs = inside(
        "timetables.schedule",
        partitions=partitions(every, timezone),
        since=since.isoformat(),
        until=until.isoformat(),
        delay_minutes=7,
    )

    assert runs[: len(keys)] == expected(calendar, keys, timedelta(minutes=7))
    assert len(keys) > LENGTHS[every] - 2


@pytest.mark.parametrize(("every", "timezone"), CALENDARS)
def test_a_backfill_has_every_partition_that_begins_from_the_first_to_the_last_bound(
    inside: Inside, every: str, timezone: str
) -> None:
    calendar, keys = years_of(every, timezone)
    last = calendar.start_local(keys[-1]).replace(tzinfo=None)

    runs = inside(
        "timetables.backfill",
        partitions=partitions(every, timezone),
        earliest=f"{STARTS[every]}T00:00:00",
        latest=last.isoformat(),
        now="2030-01-01T00:00:00+00:00",
    )

    assert runs == expected(calendar, keys)


def test_a_backfill_leaves_out_what_is_before_the_start_and_what_has_not_ended(inside: Inside) -> None:
    runs = inside(
        "timetables.backfill",
        partitions=DAILY_UTC,
        earliest="2025-06-01T00:00:00",
        latest="2026-12-31T00:00:00",
        now="2026-01-04T15:00:00+00:00",
    )

    assert [run["key"] for run in runs] == ["2026-01-01", "2026-01-02", "2026-01-03"]


def test_a_backfill_begins_with_the_first_partition_that_begins_after_its_bound(inside: Inside) -> None:
    runs = inside(
        "timetables.backfill",
        partitions={**DAILY_UTC, "every": "week"},
        earliest="2026-01-06T00:00:00",
        latest="2026-01-19T00:00:00",
        now="2026-06-01T00:00:00+00:00",
    )

    assert [run["key"] for run in runs] == ["2026-01-12", "2026-01-19"]


def test_weeks_and_months_that_start_in_the_middle_begin_with_the_first_whole_one(inside: Inside) -> None:
    bounds = {"earliest": "2026-01-01T00:00:00", "latest": "2026-03-10T00:00:00", "now": "2026-06-01T00:00:00+00:00"}
    start = {"timezone": "UTC", "start": "2026-01-15"}

    weeks = inside("timetables.backfill", partitions={"every": "week", **start}, **bounds)
    months = inside("timetables.backfill", partitions={"every": "month", **start}, **bounds)

    assert weeks[0]["key"] == "2026-01-19"
    assert [run["key"] for run in months] == ["2026-02-01", "2026-03-01"]


def test_after_an_outage_the_newest_partition_runs_and_no_other(inside: Inside) -> None:
    times = {"since": "2026-01-10T06:00:00+00:00", "until": "2026-01-11T12:00:00+00:00"}

    runs = inside("timetables.schedule", partitions=DAILY_UTC, last="2026-01-04", **times)

    assert [run["key"] for run in runs] == ["2026-01-09", "2026-01-10", "2026-01-11"]


def test_a_partition_that_a_backfill_had_already_does_not_run_again(inside: Inside) -> None:
    times = {"since": "2026-01-10T00:00:01+00:00", "until": "2026-01-10T12:00:00+00:00"}

    runs = inside("timetables.schedule", partitions=DAILY_UTC, last="2026-01-09", **times)

    assert [run["key"] for run in runs] == ["2026-01-10"]


def test_a_model_that_starts_later_has_its_first_run_after_its_first_partition(inside: Inside) -> None:
    times = {"since": "2025-12-01T00:00:00+00:00", "until": "2026-01-02T00:00:00+00:00"}

    runs = inside("timetables.schedule", partitions=DAILY_UTC, **times)

    assert runs == [
        {"key": "2026-01-01", "begin": "2026-01-01T00:00:00+00:00", "run_after": "2026-01-02T00:00:00+00:00"}
    ]


def test_where_others_schedule_nothing_is_scheduled_and_backfills_are_possible(inside: Inside) -> None:
    found = inside("timetables.unscheduled", partitions=DAILY_UTC)

    assert found["following"] is None
    assert found["can_be_scheduled"] is False
    assert found["periodic"] is True, "Airflow refuses backfills of what is not"
    assert found["partitioned"] is True
    assert "by hand and in backfills" in found["description"]


@pytest.mark.parametrize(("every", "timezone"), CALENDARS)
def test_a_key_given_by_hand_is_the_partition_of_a_schedule(inside: Inside, every: str, timezone: str) -> None:
    calendar, keys = years_of(every, timezone)

    found = inside("timetables.resolve", partitions=partitions(every, timezone), keys=keys)

    assert found == [{"begin": calendar.window(key)[0].isoformat()} for key in keys]


@pytest.mark.parametrize(
    ("every", "key", "message"),
    [
        ("day", None, "Give its key, such as 2026-01-01"),
        ("day", "", "'' is no key of a day"),
        ("day", "None", "'None' is no key of a day. Give one such as 2026-01-01"),
        ("day", "2026-1-5", "is no key of a day"),
        ("day", "2026-02-30", "is no key of a day"),
        ("day", "2026-01-05T00:00:00", "is no key of a day"),
        ("day", "2026-01-05 ", "is no key of a day"),
        ("day", "٢٠٢٦-٠١-٠٥", "is no key of a day"),
        ("day", "2025-12-31", "is before the first partition"),
        ("week", "2026-01-06", "is no key of a week. Give one such as 2026-01-05"),
        ("month", "2026-01-02", "is no key of a month"),
        ("hour", "2026-01-05", "is no key of an hour"),
        ("hour", "2026-03-05-07:30", "is no key of an hour. Give one such as 2026-03-01-00:00"),
    ],
)
def test_what_is_no_key_is_refused_with_an_example(inside: Inside, every: str, key: str | None, message: str) -> None:
    (found,) = inside("timetables.resolve", partitions=partitions(every, "UTC"), keys=[key])

    assert message in found["refused"]
