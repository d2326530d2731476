from __future__ import annotations

import itertools
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import dagster as dg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monitoring_assets.partitions import (
    FIRST_DAY,
    LAST_DAY,
    Frequency,
    PartitionCalendar,
    calendar_problems,
    cycle_length,
    period_start,
    windows_for,
)
from resources.errors import BadInput

ZONES = [
    "UTC",
    "Africa/Nairobi",
    "America/New_York",
    "Europe/Berlin",
    "Australia/Lord_Howe",  # half an hour of daylight saving
    "Asia/Kathmandu",  # UTC+5:45
    "America/Sao_Paulo",  # until 2018 clocks went forward at midnight: that midnight does not exist
    "America/Havana",  # clocks go back from 1:00 to 0:00: midnight occurs twice
    "Asia/Beirut",  # clocks go back from 0:00 to 23:00 of the day before
    "Pacific/Kiritimati",  # UTC+14
]
EVERY: list[Frequency] = ["hour", "day", "week", "month"]
DAYS = st.dates(date(2012, 1, 1), date(2030, 12, 31))


def dagster_definition(calendar: PartitionCalendar) -> dg.TimeWindowPartitionsDefinition:
    start = str(calendar.start)
    if calendar.every == "hour":
        return dg.HourlyPartitionsDefinition(start_date=f"{start}-00:00", timezone=calendar.timezone)
    if calendar.every == "day":
        return dg.DailyPartitionsDefinition(start_date=start, timezone=calendar.timezone)
    if calendar.every == "week":
        return dg.WeeklyPartitionsDefinition(start_date=start, timezone=calendar.timezone, day_offset=1)
    return dg.MonthlyPartitionsDefinition(start_date=start, timezone=calendar.timezone)


def in_utc(window: dg.TimeWindow) -> tuple[datetime, datetime]:
    return window.start.astimezone(UTC), window.end.astimezone(UTC)


@st.composite
def calendars(draw: st.DrawFn) -> PartitionCalendar:
    every = draw(st.sampled_from(EVERY))
    zone = "UTC" if every == "hour" else draw(st.sampled_from(ZONES))
    return PartitionCalendar(every, zone, period_start(every, draw(DAYS)))


@settings(max_examples=150, deadline=None)
@given(calendar=calendars(), partitions=st.integers(0, 60), minutes=st.integers(0, 60 * 24))
def test_keys_and_windows_are_those_of_dagster(calendar: PartitionCalendar, partitions: int, minutes: int) -> None:
    length = {"hour": timedelta(hours=1), "day": timedelta(days=1), "week": timedelta(7), "month": timedelta(30)}
    begin = datetime(calendar.start.year, calendar.start.month, calendar.start.day, tzinfo=UTC)
    now = begin + partitions * length[calendar.every] + timedelta(minutes=minutes)
    definition = dagster_definition(calendar)
    theirs = list(definition.get_partition_keys(current_time=now))

    latest = calendar.latest_complete(now)
    ours = [] if latest is None else calendar.keys(calendar.first_key, latest)

    assert ours == theirs
    for key in ours:
        assert calendar.window(key) == in_utc(definition.time_window_for_partition_key(key))
        local = calendar.start_local(key)
        assert local.strftime(definition.fmt) == key
        assert local.astimezone(UTC) == calendar.window(key)[0]


@settings(max_examples=300, deadline=None)
@given(calendar=calendars(), after=st.timedeltas(timedelta(0), timedelta(days=400)))
def test_a_moment_is_in_the_window_of_its_key_and_dagster_says_the_same_key(
    calendar: PartitionCalendar, after: timedelta
) -> None:
    moment = calendar.window(calendar.first_key)[0] + after
    key = calendar.key_of(moment)
    begin, end = calendar.window(key)
    assert begin <= moment < end
    assert key == dagster_definition(calendar).get_partition_key_for_timestamp(moment.timestamp())


@pytest.mark.parametrize(
    ("zone", "key", "begin", "hours"),
    [
        ("America/New_York", "2026-03-08", "2026-03-08T05:00", 23),
        ("America/New_York", "2026-11-01", "2026-11-01T04:00", 25),
        ("Europe/Berlin", "2026-03-29", "2026-03-28T23:00", 23),
        ("Europe/Berlin", "2026-10-25", "2026-10-24T22:00", 25),
        ("Australia/Lord_Howe", "2026-04-05", "2026-04-04T13:00", 24.5),
        ("Australia/Lord_Howe", "2026-10-04", "2026-10-03T13:30", 23.5),
        ("America/Sao_Paulo", "2018-11-04", "2018-11-04T03:00", 23),
        ("America/Sao_Paulo", "2018-02-17", "2018-02-17T02:00", 25),
        ("America/Havana", "2018-11-04", "2018-11-04T04:00", 25),
        ("Asia/Beirut", "2022-10-29", "2022-10-28T21:00", 25),
        ("Africa/Nairobi", "2026-03-29", "2026-03-28T21:00", 24),
        ("Asia/Kathmandu", "2026-03-29", "2026-03-28T18:15", 24),
    ],
)
def test_a_day_on_which_clocks_change_is_as_long_as_it_was_and_agrees_with_dagster(
    zone: str, key: str, begin: str, hours: float
) -> None:
    calendar = PartitionCalendar("day", zone, date(2005, 1, 1))
    start = datetime.fromisoformat(begin).replace(tzinfo=UTC)
    assert calendar.window(key) == (start, start + timedelta(hours=hours))
    definition = dagster_definition(calendar)
    assert calendar.window(key) == in_utc(definition.time_window_for_partition_key(key))
    moment = start - timedelta(hours=2)
    while moment < start + timedelta(hours=28):
        assert calendar.key_of(moment) == definition.get_partition_key_for_timestamp(moment.timestamp())
        moment += timedelta(minutes=7.5)


def test_clocks_that_went_back_over_midnight_leave_the_repeated_hour_in_the_day_that_had_begun() -> None:
    # Until 2011 clocks in Newfoundland went from 0:01 to 23:01. Dagster has the same windows but, within that hour,
    # no key for a timestamp: its cron iterator fails an assertion of its own.
    calendar = PartitionCalendar("day", "America/St_Johns", date(2010, 11, 1))
    definition = dagster_definition(calendar)
    begin, end = calendar.window("2010-11-07")
    assert end - begin == timedelta(hours=25)
    assert (begin, end) == in_utc(definition.time_window_for_partition_key("2010-11-07"))
    again = begin + timedelta(minutes=30)
    assert again.astimezone(ZoneInfo("America/St_Johns")).date() == date(2010, 11, 6)
    assert calendar.key_of(again) == "2010-11-07"
    assert calendar.key_of(begin - timedelta(minutes=30)) == "2010-11-06"
    assert calendar.latest_complete(again) == "2010-11-06"
    for moment in (begin, begin + timedelta(minutes=75)):
        assert calendar.key_of(moment) == definition.get_partition_key_for_timestamp(moment.timestamp())


@pytest.mark.parametrize("zone", ["Pacific/Apia", "Pacific/Fakaofo"])
def test_a_day_that_a_zone_skipped_is_an_empty_window_where_dagster_repeats_the_next_day(zone: str) -> None:
    calendar = PartitionCalendar("day", zone, date(2011, 12, 1))
    definition = dagster_definition(calendar)
    skipped, following = "2011-12-30", "2011-12-31"
    begin, end = calendar.window(skipped)
    assert begin == end == calendar.window(following)[0]
    assert calendar.window(following) == in_utc(definition.time_window_for_partition_key(following))
    assert in_utc(definition.time_window_for_partition_key(skipped)) == calendar.window(following)
    assert calendar.key_of(begin) == following
    now = begin + timedelta(days=3)
    latest = calendar.latest_complete(now)
    assert latest is not None
    assert calendar.keys("2011-12-01", latest) == list(definition.get_partition_keys(current_time=now))


@settings(max_examples=200, deadline=None)
@given(calendar=calendars(), n=st.integers(1, 40), back=st.integers(0, 50))
def test_previous_keys_end_at_the_key_and_their_windows_touch(calendar: PartitionCalendar, n: int, back: int) -> None:
    moment = calendar.window(calendar.first_key)[0] + timedelta(days=back, hours=back)
    key = calendar.key_of(moment)
    keys = calendar.previous(key, n)
    assert keys[-1] == key
    assert keys == sorted(keys)
    assert keys == calendar.keys(calendar.first_key, key)[-n:]
    windows = [calendar.window(each) for each in keys]
    assert all(left[1] == right[0] for left, right in itertools.pairwise(windows))


def test_previous_keys_do_not_reach_before_the_start() -> None:
    calendar = PartitionCalendar("day", "Africa/Nairobi", date(2026, 1, 1))
    assert calendar.previous("2026-01-03", 7) == ["2026-01-01", "2026-01-02", "2026-01-03"]
    assert calendar.previous("2026-01-03", 1) == ["2026-01-03"]
    assert calendar.previous("2026-01-03", 0) == []


def test_same_weekday_steps_by_weeks_for_days_and_by_one_for_the_others() -> None:
    days = PartitionCalendar("day", "Europe/Berlin", date(2026, 3, 1))
    assert days.same_weekday("2026-03-31", 8) == ["2026-03-03", "2026-03-10", "2026-03-17", "2026-03-24"]
    assert days.same_weekday("2026-03-31", 2) == ["2026-03-17", "2026-03-24"]
    assert days.same_weekday("2026-03-07", 8) == []
    hours = PartitionCalendar("hour", "UTC", date(2026, 3, 1))
    assert hours.same_weekday("2026-03-02-00:00", 2) == ["2026-03-01-22:00", "2026-03-01-23:00"]
    months = PartitionCalendar("month", "UTC", date(2025, 12, 1))
    assert months.same_weekday("2026-03-01", 9) == ["2025-12-01", "2026-01-01", "2026-02-01"]


def test_earlier_cycles_of_a_day_are_its_weekday_of_eight_weeks_and_its_day_of_three_months() -> None:
    days = PartitionCalendar("day", "Africa/Nairobi", date(2025, 6, 1))
    weeks = ["2026-01-20", "2026-01-27", "2026-02-03", "2026-02-10", "2026-02-17", "2026-02-24", "2026-03-03"]
    # The 17th of February is both.
    assert days.earlier_cycles("2026-03-17") == ["2025-12-17", "2026-01-17", *weeks, "2026-03-10"]
    assert days.earlier_cycles("2025-06-01") == []
    assert days.earlier_cycles("2025-07-03") == ["2025-06-03", "2025-06-05", "2025-06-12", "2025-06-19", "2025-06-26"]


@pytest.mark.parametrize(
    ("key", "months"),
    [
        ("2026-05-31", ["2026-02-28", "2026-03-31", "2026-04-30"]),
        ("2024-03-30", ["2023-12-30", "2024-01-30", "2024-02-29"]),
        ("2026-01-15", ["2025-10-15", "2025-11-15", "2025-12-15"]),
    ],
)
def test_a_shorter_month_is_compared_by_its_last_day(key: str, months: list[str]) -> None:
    calendar = PartitionCalendar("day", "UTC", date(2020, 1, 1))
    weeks = {(date.fromisoformat(key) - timedelta(weeks=back)).isoformat() for back in range(1, 9)}
    assert sorted({*calendar.earlier_cycles(key)} - weeks) == sorted({*months} - weeks)
    assert {*months} <= {*calendar.earlier_cycles(key)}


def test_earlier_cycles_of_an_hour_are_the_same_hour_of_these_days() -> None:
    hours, days = (PartitionCalendar(every, "UTC", date(2025, 6, 1)) for every in EVERY[:2])
    wanted = [f"{day}-23:00" for day in days.earlier_cycles("2026-03-31")]
    assert hours.earlier_cycles("2026-03-31-23:00") == wanted


@pytest.mark.parametrize("every", ["week", "month"])
def test_weeks_and_months_have_no_cycle(every: Frequency) -> None:
    calendar = PartitionCalendar(every, "UTC", date(2024, 1, 1))
    assert cycle_length(every) == 0
    assert calendar.earlier_cycles("2024-04-01") == []


def test_earlier_cycles_begin_with_the_calendar_and_ask_for_a_key() -> None:
    calendar = PartitionCalendar("day", "UTC", date(2000, 1, 1))
    assert calendar.earlier_cycles("2000-01-08") == ["2000-01-01"]
    with pytest.raises(BadInput, match="is not a partition key"):
        calendar.earlier_cycles("2000-1-8")


def test_the_latest_complete_partition_has_ended_and_the_next_has_not() -> None:
    calendar = PartitionCalendar("day", "Africa/Nairobi", date(2026, 1, 1))
    end = datetime(2026, 1, 1, 21, tzinfo=UTC)
    assert calendar.latest_complete(end - timedelta(microseconds=1)) is None
    assert calendar.latest_complete(end) == "2026-01-01"
    assert calendar.latest_complete(end + timedelta(hours=23)) == "2026-01-01"
    assert calendar.latest_complete(end.astimezone(ZoneInfo("Asia/Tokyo")) + timedelta(days=1)) == "2026-01-02"


def test_a_moment_outside_the_calendar_has_no_key() -> None:
    calendar = PartitionCalendar("day", "Africa/Nairobi", date(2026, 1, 1))
    with pytest.raises(BadInput, match="before the first partition, 2026-01-01"):
        calendar.key_of(datetime(2025, 12, 31, 20, 59, tzinfo=UTC))
    with pytest.raises(BadInput, match="after 2099-12-31"):
        calendar.key_of(datetime.max.replace(tzinfo=UTC))
    with pytest.raises(BadInput, match="before the first partition"):
        calendar.key_of(datetime.min.replace(tzinfo=UTC))
    with pytest.raises(ValueError, match="no time zone"):
        calendar.key_of(datetime(2026, 1, 2))  # noqa: DTZ001


@pytest.mark.parametrize("zone", ZONES)
@pytest.mark.parametrize("every", EVERY)
def test_the_last_partition_of_2099_is_a_key_and_nothing_after_it(every: Frequency, zone: str) -> None:
    calendar = PartitionCalendar(every, "UTC" if every == "hour" else zone, period_start(every, LAST_DAY))
    last = {"hour": "2099-12-31-23:00", "day": "2099-12-31", "week": "2099-12-28", "month": "2099-12-01"}[every]
    begin, end = calendar.window(last)
    assert calendar.key_of(end - timedelta(seconds=1)) == last
    assert begin < end
    with pytest.raises(BadInput, match="2099-12-31"):
        calendar.key_of(end)
    beyond = {"hour": "2100-01-01-00:00", "day": "2100-01-01", "week": "2100-01-04", "month": "2100-01-01"}[every]
    with pytest.raises(BadInput, match="last day that partitions may have is 2099-12-31"):
        calendar.validate(beyond)


NO_KEYS: list[tuple[Frequency, str, object, str]] = [
    ("day", "2026-01-01", None, "started without a partition key"),
    ("day", "2026-01-01", "None", "started without a partition key"),
    ("day", "2026-01-01", "", "started without a partition key"),
    ("day", "2026-01-01", 20260101, "a day as YYYY-MM-DD, for example 2026-01-01"),
    ("day", "2026-01-01", date(2026, 1, 2), "a day as YYYY-MM-DD"),
    ("day", "2026-01-01", "2026-1-5", "a day as YYYY-MM-DD"),
    ("day", "2026-01-01", "2026-02-30", "is no date"),
    ("day", "2026-01-01", "0000-01-01", "is no date"),
    ("day", "2026-01-01", "2026-01-05\n", "another format"),
    ("day", "2026-01-01", "２０２６-01-05", "another format"),
    ("day", "2026-01-01", "2026-01-05-00:00", "another format"),
    ("day", "2026-01-01", "2026-01-01...2026-01-05", "another format"),
    ("day", "2026-01-01", "../../etc/passwd", "another format"),
    ("day", "2026-01-01", "2025-12-31", "the first partition is 2026-01-01"),
    ("day", "2026-01-01", "9999-12-31", "2099-12-31"),
    ("hour", "2026-01-01", "2026-01-05", "an hour as YYYY-MM-DD-HH:00 in UTC, for example 2026-01-01-00:00"),
    ("hour", "2026-01-01", "2026-01-05-13:30", "an hour as"),
    ("hour", "2026-01-01", "2026-01-05-24:00", "is no date"),
    ("hour", "2026-01-01", "2026-01-05-13:00+0000", "an hour as"),
    ("hour", "2026-01-01", "2025-12-31-23:00", "the first partition is 2026-01-01-00:00"),
    ("week", "2026-01-05", "2026-01-14", "has the key 2026-01-12; write the Monday of a week"),
    ("week", "2026-01-05", "2026-01-04", "has the key 2026-01-05"),
    ("month", "2026-01-01", "2026-02-14", "has the key 2026-02-01; write the first day of a month"),
    ("month", "2026-01-01", "2026-02", "for example 2026-01-01"),
]


@pytest.mark.parametrize(("every", "start", "key", "said"), NO_KEYS)
def test_what_is_no_key_is_refused_with_the_format_and_an_example(
    every: Frequency, start: str, key: object, said: str
) -> None:
    calendar = PartitionCalendar(every, "UTC", date.fromisoformat(start))
    with pytest.raises(BadInput) as caught:
        calendar.validate(key)
    text = str(caught.value)
    assert said in text
    assert text.endswith(f"for example {calendar.first_key}")
    assert "\n" not in text
    calendar.validate(calendar.first_key)


@given(key=st.one_of(st.text(max_size=20), st.from_regex(r"[0-9]{4}-[0-9]{2}-[0-9]{2}(-[0-9]{2}:00)?", fullmatch=True)))
@settings(max_examples=300)
def test_any_text_is_a_key_with_a_window_or_bad_input(key: str) -> None:
    for every in EVERY:
        calendar = PartitionCalendar(every, "UTC", period_start(every, date(2012, 1, 2)))
        try:
            begin, end = calendar.window(key)
        except BadInput:
            continue
        assert begin < end
        assert calendar.key_of(begin) == key


@given(calendar=calendars(), after=st.integers(0, 5000))
@settings(max_examples=150, deadline=None)
def test_encoded_keys_fit_into_paths_and_come_back(calendar: PartitionCalendar, after: int) -> None:
    begin = calendar.window(calendar.first_key)[0]
    keys = [calendar.key_of(begin + timedelta(hours=each)) for each in (after, after + 1, after + 9)]
    encoded = [calendar.encode(key) for key in keys]
    assert [calendar.decode(each) for each in encoded] == keys
    assert sorted(encoded) == encoded
    assert not set("".join(encoded)) - set("0123456789-")


def test_encoding_refuses_what_is_no_key() -> None:
    hours = PartitionCalendar("hour", "UTC", date(2026, 1, 1))
    assert hours.encode("2026-01-01-13:00") == "2026-01-01-13-00"
    for text in ("2026-01-01-13:00", "2026-01-01", "2026-01-01-13-30", "..", "2025-12-31-00-00"):
        with pytest.raises(BadInput, match="not a partition key"):
            hours.decode(text)
    with pytest.raises(BadInput, match="not a partition key"):
        hours.encode("2026-01-01-13-00")


def test_a_range_backwards_is_empty() -> None:
    calendar = PartitionCalendar("week", "UTC", date(2026, 1, 5))
    assert calendar.keys("2026-01-05", "2026-01-19") == ["2026-01-05", "2026-01-12", "2026-01-19"]
    assert calendar.keys("2026-01-19", "2026-01-05") == []


@pytest.mark.parametrize(
    ("every", "timezone", "start", "said"),
    [
        ("hour", "Africa/Nairobi", date(2026, 1, 1), "write timezone: UTC"),
        ("day", "Africa/Niarobi", date(2026, 1, 1), "write timezone: Africa/Nairobi"),
        ("day", "../../etc/passwd", date(2026, 1, 1), "no time zone of the IANA database"),
        ("day", "/etc/localtime", date(2026, 1, 1), "no time zone"),
        ("day", "America", date(2026, 1, 1), "no time zone"),
        ("day", "localtime", date(2026, 1, 1), "no time zone"),
        ("day", "right/UTC", date(2026, 1, 1), "no time zone"),
        ("day", "", date(2026, 1, 1), "no time zone"),
        ("day", "\ud800\0", date(2026, 1, 1), "no time zone"),
        ("day", "A" * 100_000, date(2026, 1, 1), "no time zone"),
        ("week", "UTC", date(2026, 1, 7), "write start: 2026-01-12, or start: 2026-01-05 to include the week"),
        ("month", "UTC", date(2026, 12, 7), "write start: 2027-01-01, or start: 2026-12-01 to include the month"),
        ("day", "UTC", date(1999, 12, 31), "write a date from 2000-01-01 to 2099-12-31"),
        ("day", "UTC", date(2100, 1, 1), "write a date from"),
        ("year", "UTC", date(2026, 1, 1), "write hour, day, week or month"),
    ],
)
def test_a_calendar_that_cannot_be_is_refused_with_what_to_write(
    every: Frequency, timezone: str, start: date, said: str
) -> None:
    with pytest.raises(BadInput) as caught:
        PartitionCalendar(every, timezone, start)
    assert said in str(caught.value)
    assert len(str(caught.value)) < 400


def test_both_problems_of_a_calendar_are_told_together() -> None:
    assert [problem.key for problem in calendar_problems("week", "Nowhere", date(2026, 1, 7))] == ["timezone", "start"]
    assert calendar_problems("month", "Africa/Nairobi", FIRST_DAY) == []


def test_a_period_starts_on_its_monday_or_first() -> None:
    days = [date(2026, 1, 5) + timedelta(days=each) for each in range(7)]
    assert {period_start("week", day) for day in days} == {date(2026, 1, 5)}
    assert period_start("week", date(2026, 1, 4)) == date(2025, 12, 29)
    assert {period_start("month", day) for day in days} == {date(2026, 1, 1)}
    assert [period_start("day", day) for day in days] == days
    assert [period_start("hour", day) for day in days] == days
    assert period_start("month", date(2024, 12, 31)) == date(2024, 12, 1)


def test_windows_have_the_lengths_of_the_method() -> None:
    assert windows_for("hour") == (1, 24, 168)
    assert windows_for("day") == (1, 2, 3, 5, 7, 14, 28)
    assert windows_for("week") == (1, 2, 4)
    assert windows_for("month") == (1, 2, 3)
