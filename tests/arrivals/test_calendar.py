"""Partitions in other zones than UTC, around the days on which their clocks change."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from itertools import groupby
from typing import Any, NamedTuple

import pytest

SECOND, HOUR = timedelta(seconds=1), timedelta(hours=1)
FIELDS = {"day": "%Y-%m-%d", "week": "%G-W%V", "month": "%Y-%m", "hour": "%Y-%m-%d-%H"}


class Expected(NamedTuple):
    """A partition, the folder of its data, and the moment in UTC at which it has ended."""

    model: str
    partition: str
    folder: str
    ends: str


MODELS = {
    "berlin": ("day", "Europe/Berlin"),
    "new-york": ("day", "America/New_York"),
    "nairobi": ("day", "Africa/Nairobi"),
    "lord-howe": ("day", "Australia/Lord_Howe"),
    "beirut": ("day", "Asia/Beirut"),
    "berlin-weeks": ("week", "Europe/Berlin"),
    "new-york-weeks": ("week", "America/New_York"),
    "berlin-months": ("month", "Europe/Berlin"),
    "new-york-months": ("month", "America/New_York"),
    "hours": ("hour", "UTC"),
}


def days(model: str, *partitions: tuple[str, str]) -> list[Expected]:
    return [Expected(model, day, day, ends) for day, ends in partitions]


SPRING = [
    *days("new-york", ("2026-03-07", "2026-03-08T05:00"), ("2026-03-08", "2026-03-09T04:00")),
    *days("berlin", ("2026-03-28", "2026-03-28T23:00"), ("2026-03-29", "2026-03-29T22:00")),
    *days("nairobi", ("2026-03-29", "2026-03-29T21:00")),
    *days("beirut", ("2026-03-28", "2026-03-28T22:00"), ("2026-03-29", "2026-03-29T21:00")),
    *days("lord-howe", ("2026-04-04", "2026-04-04T13:00"), ("2026-04-05", "2026-04-05T13:30")),
    Expected("berlin-weeks", "2026-03-23", "2026-W13", "2026-03-29T22:00"),
    Expected("berlin-months", "2026-03-01", "2026-03", "2026-03-31T22:00"),
    Expected("hours", "2026-03-29-00:00", "2026-03-29-00", "2026-03-29T01:00"),
    Expected("hours", "2026-03-29-01:00", "2026-03-29-01", "2026-03-29T02:00"),
]
AUTUMN = [
    *days("lord-howe", ("2026-10-03", "2026-10-03T13:30"), ("2026-10-04", "2026-10-04T13:00")),
    *days("berlin", ("2026-10-24", "2026-10-24T22:00"), ("2026-10-25", "2026-10-25T23:00")),
    *days("beirut", ("2026-10-24", "2026-10-24T22:00"), ("2026-10-25", "2026-10-25T22:00")),
    *days("new-york", ("2026-10-31", "2026-11-01T04:00"), ("2026-11-01", "2026-11-02T05:00")),
    Expected("new-york-weeks", "2026-10-26", "2026-W44", "2026-11-02T05:00"),
    Expected("new-york-months", "2026-11-01", "2026-11", "2026-12-01T05:00"),
]


@pytest.mark.parametrize("expected", [SPRING, AUTUMN], ids=["spring", "autumn"])
def test_a_partition_is_asked_for_once_at_the_moment_when_it_has_ended(story: Any, expected: list[Expected]) -> None:
    story.lender.now = datetime.fromisoformat(expected[0].ends).replace(day=1, tzinfo=UTC) - HOUR
    for model in sorted({each.model for each in expected}):
        every, timezone = MODELS[model]
        first = min(each.partition for each in expected if each.model == model)
        uri = f"{story.lender.lake_uri}/{model}/{{partition:{FIELDS[every]}}}/*.parquet"
        story.deploy(
            model=model,
            partitions={"every": every, "timezone": timezone, "start": date.fromisoformat(first[:10])},
            source={"uri": uri, "key": "application_id", "sla_hours": 8_000},
        )
    story.go_on()
    for moment, ending in groupby(sorted(expected, key=lambda each: each.ends), key=lambda each: each.ends):
        ends, partitions = datetime.fromisoformat(moment).replace(tzinfo=UTC), list(ending)
        story.lender.now = ends - SECOND
        story.land(*(f"{each.model}/{each.folder}" for each in partitions), at=ends - HOUR)
        assert story.tick() == [], f"{partitions} have not ended"
        story.lender.now = ends
        asked = sorted((task.model, task.partitions) for task in story.tick())
        assert asked == sorted((each.model, (each.partition,)) for each in partitions)
        story.runs.finish()
    story.reload()
    story.go_on(hours=24)
    arrivals = [each.task for each in story.runs.all if each.task.trigger == "arrival"]
    found = sorted((each.model, partition) for each in arrivals for partition in each.partitions)
    assert found == sorted((each.model, each.partition) for each in expected)
