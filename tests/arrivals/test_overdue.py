"""Data that does not arrive: when that is said, whether it pages, and how it is taken back."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest

SECOND, HOUR, DAY = timedelta(seconds=1), timedelta(hours=1), timedelta(days=1)
YESTERDAY = "2026-01-19"
MIDNIGHT = datetime(2026, 1, 20, tzinfo=UTC)
FROM_YESTERDAY = {"every": "day", "timezone": "UTC", "start": date(2026, 1, 19)}


def source(story: Any, **more: Any) -> dict[str, Any]:
    uri = f"{story.lender.lake_uri}/{{partition:%Y-%m-%d}}/*.parquet"
    return {"uri": uri, "key": "application_id", **more}


@pytest.fixture
def strict(story: Any) -> Any:
    """A version whose data should be there after six hours, deployed at noon of the day before."""
    story.lender.now = MIDNIGHT - DAY / 2
    story.deploy(source=source(story, sla_hours=6), partitions=FROM_YESTERDAY)
    story.go_on()
    return story


def wait_until(story: Any, moment: datetime) -> None:
    """A tick every ten minutes, and one at that moment."""
    while story.lender.now < moment:
        assert story.tick() == []
        story.lender.now = min(moment, story.lender.now + timedelta(minutes=10))
    assert story.tick() == []


def found(story: Any, partition: str = YESTERDAY) -> list[tuple[str, bool]]:
    return [(each.status, each.live) for each in story.results(partition, "pipeline")]


def test_a_partition_that_does_not_arrive_is_stale_at_its_deadline_and_that_is_said_once(strict: Any) -> None:
    wait_until(strict, MIDNIGHT + 6 * HOUR - SECOND)
    assert found(strict) == []
    wait_until(strict, MIDNIGHT + 6 * HOUR)
    [result] = strict.results(YESTERDAY, "pipeline")
    assert (result.status, result.asset, result.live, result.recorded_at) == (
        "stale",
        "source",
        True,
        MIDNIGHT + 6 * HOUR,
    )
    assert result.reason == (
        f"no data 6 h after the partition's end: no file matches {strict.lender.lake_uri}/{YESTERDAY}/*.parquet"
    )
    strict.reload()
    wait_until(strict, MIDNIGHT + 20 * HOUR)
    assert found(strict) == [("stale", True)]


def test_it_is_cleared_when_the_data_comes_after_all(strict: Any) -> None:
    wait_until(strict, MIDNIGHT + 7 * HOUR)
    strict.land(YESTERDAY)
    assert [task.partitions for task in strict.go_on()] == [(YESTERDAY,)]
    assert found(strict) == [("stale", True), ("ok", True)]
    strict.reload()
    strict.go_on(hours=6)
    assert found(strict) == [("stale", True), ("ok", True)]


def test_it_is_cleared_when_somebody_else_worked_on_the_data_before_it_was_seen(strict: Any) -> None:
    from monitoring_assets.assets.pipeline import ORDER, run

    wait_until(strict, MIDNIGHT + 40 * HOUR)
    strict.land(YESTERDAY)
    list(run(strict.version(), ORDER, [YESTERDAY], trigger="backfill"))
    strict.go_on(hours=1)
    assert found(strict) == [("stale", True), ("ok", False)]


def test_it_is_cleared_when_the_deadline_was_put_off_meanwhile(strict: Any) -> None:
    wait_until(strict, MIDNIGHT + 7 * HOUR)
    strict.update(source=source(strict, sla_hours=12), partitions=FROM_YESTERDAY)
    strict.land(YESTERDAY)
    strict.go_on()
    assert found(strict)[-1][0] == "ok"


def test_data_that_comes_in_time_is_nobody_s_business(strict: Any) -> None:
    strict.lender.now = MIDNIGHT + 5 * HOUR
    strict.land(YESTERDAY)
    strict.go_on(hours=12)
    assert found(strict) == []


def test_data_that_goes_before_anybody_used_it_is_overdue_again(strict: Any) -> None:
    wait_until(strict, MIDNIGHT + 7 * HOUR)
    strict.land(YESTERDAY, rows=b"no Parquet")
    strict.go_on()
    strict.lender.lake.delete(f"{YESTERDAY}/0.parquet")
    strict.go_on(hours=3)
    strict.land(YESTERDAY)
    strict.go_on(hours=3)
    assert [status for status, _ in found(strict)] == ["stale", "ok", "stale", "ok"]


@pytest.mark.parametrize(
    ("every", "folder", "start", "partition", "ended", "hours"),
    [
        ("day", "%Y-%m-%d", date(2026, 1, 19), YESTERDAY, MIDNIGHT, 24),
        ("hour", "%Y-%m-%d-%H", date(2026, 1, 20), "2026-01-20-00:00", MIDNIGHT + HOUR, 2),
    ],
)
def test_without_a_deadline_of_its_own_a_version_has_a_day_or_two_hours(
    story: Any, every: str, folder: str, start: date, partition: str, ended: datetime, hours: int
) -> None:
    story.lender.now = ended - HOUR / 2
    uri = f"{story.lender.lake_uri}/{{partition:{folder}}}/*.parquet"
    story.deploy(
        partitions={"every": every, "timezone": "UTC", "start": start}, source={"uri": uri, "key": "application_id"}
    )
    story.go_on()
    wait_until(story, ended + hours * HOUR - SECOND)
    assert found(story, partition) == []
    wait_until(story, ended + hours * HOUR)
    assert found(story, partition) == [("stale", True)]


@pytest.fixture
def lax(story: Any) -> Any:
    """A version of hours whose data may take six of them, deployed before its first partition ended."""
    story.lender.now = MIDNIGHT + HOUR / 2
    uri = f"{story.lender.lake_uri}/{{partition:%Y-%m-%d-%H}}/*.parquet"
    story.deploy(
        partitions={"every": "hour", "timezone": "UTC", "start": date(2026, 1, 20)},
        source={"uri": uri, "key": "application_id", "sla_hours": 6},
    )
    story.go_on()
    return story


def test_an_hour_that_did_not_come_within_a_lax_sla_pages_though_six_have_ended_since(lax: Any) -> None:
    wait_until(lax, MIDNIGHT + 7 * HOUR - SECOND)
    assert found(lax, "2026-01-20-00:00") == []
    wait_until(lax, MIDNIGHT + 7 * HOUR)
    assert found(lax, "2026-01-20-00:00") == [("stale", True)]
    lax.lender.now = MIDNIGHT + 10 * HOUR + SECOND
    lax.reload()
    lax.go_on(minutes=1)
    assert found(lax, "2026-01-20-01:00") == [("stale", False)], "two hours of grace are over"
    assert found(lax, "2026-01-20-02:00") == [("stale", True)]


def test_an_hour_that_comes_late_within_a_lax_sla_is_live_also_when_a_backfill_came_first(lax: Any) -> None:
    from monitoring_assets.assets.pipeline import ORDER, run

    lax.lender.now = MIDNIGHT + 6 * HOUR
    lax.land("2026-01-20-00")
    list(run(lax.version(), ORDER, ["2026-01-20-00:00"], trigger="backfill"))
    lax.go_on(minutes=5)
    assert lax.live("2026-01-20-00:00") == [False, True]
    assert found(lax, "2026-01-20-00:00") == []


def test_the_grace_of_the_fleets_file_holds_from_the_next_tick_on(strict: Any) -> None:
    strict.lender.store.put("fleet.yaml", b"grace_hours: {day: 1}")
    strict.lender.now = MIDNIGHT + 8 * HOUR
    strict.go_on(minutes=1)
    assert found(strict) == [("stale", False)]
    strict.lender.store.put("fleet.yaml", b"grace_hours: {day: 30}")
    strict.lender.now = MIDNIGHT + 54 * HOUR
    strict.go_on(minutes=1)
    assert found(strict, "2026-01-20") == [("stale", True)]


def test_the_past_is_missed_by_nobody_but_for_its_newest_partitions_and_those_page_only_while_it_is_news(
    story: Any,
) -> None:
    story.lender.now = MIDNIGHT + HOUR
    story.deploy(source=source(story, sla_hours=6))
    story.go_on()
    wait_until(story, MIDNIGHT + 6 * HOUR)
    overdue = {f"2026-01-{day:02d}": found(story, f"2026-01-{day:02d}") for day in range(10, 20)}
    assert {day: results for day, results in overdue.items() if results} == {
        "2026-01-16": [("stale", False)],
        "2026-01-17": [("stale", False)],
        "2026-01-18": [("stale", True)],
        "2026-01-19": [("stale", True)],
    }


def test_after_an_absence_what_should_have_come_meanwhile_is_stale_and_only_the_newest_of_it_pages(strict: Any) -> None:
    strict.lender.now = MIDNIGHT + 5 * DAY + HOUR
    strict.reload()
    strict.go_on(minutes=1)
    assert [found(strict, f"2026-01-{day}") for day in (19, 20, 22)] == [[("stale", False)]] * 3
    assert found(strict, "2026-01-23") == [("stale", True)]
    assert found(strict, "2026-01-24") == [], "it has five hours left"


def test_a_marker_that_does_not_come_is_named(story: Any) -> None:
    story.lender.now = MIDNIGHT - HOUR
    story.deploy(source=source(story, sla_hours=6, ready="_SUCCESS"))
    story.go_on()
    story.lender.now = MIDNIGHT + HOUR
    story.land(YESTERDAY)
    wait_until(story, MIDNIGHT + 6 * HOUR)
    [result] = story.results(YESTERDAY, "pipeline")
    assert "the marker _SUCCESS is not there yet" in result.reason


def test_data_that_is_written_for_ever_is_overdue_at_its_deadline_and_cleared_when_it_settles(strict: Any) -> None:
    rows = strict.lender.rows("x", 40)
    strict.lender.now = MIDNIGHT + 5 * HOUR
    while strict.lender.now < MIDNIGHT + 8 * HOUR:
        strict.land(YESTERDAY, rows=rows, at=strict.lender.now - 5 * SECOND)
        assert strict.tick() == []
        strict.lender.now += timedelta(minutes=5)
    [result] = strict.results(YESTERDAY, "pipeline")
    assert (result.status, result.live) == ("stale", True)
    assert "is still being written; a marker (source.ready) would say when it is complete" in result.reason
    assert [task.partitions for task in strict.go_on(minutes=10)] == [(YESTERDAY,)]
    assert found(strict) == [("stale", True), ("ok", True)]


def test_data_that_is_dated_in_the_future_is_overdue_at_its_deadline(strict: Any) -> None:
    strict.lender.now = MIDNIGHT + HOUR
    strict.land(YESTERDAY, at=MIDNIGHT + 365 * DAY)
    wait_until(strict, MIDNIGHT + 7 * HOUR)
    [result] = strict.results(YESTERDAY, "pipeline")
    assert result.status == "stale"
    assert ".parquet is dated in the future; put it there again" in result.reason


def test_a_correction_that_is_being_written_is_not_overdue(strict: Any) -> None:
    strict.lender.now = MIDNIGHT + HOUR
    strict.land(YESTERDAY)
    strict.go_on(minutes=5)
    strict.lender.now = MIDNIGHT + 7 * HOUR
    strict.land(YESTERDAY, rows=strict.lender.rows("corrected", 30), at=strict.lender.now + HOUR)
    wait_until(strict, MIDNIGHT + 7 * HOUR + 30 * timedelta(minutes=1))
    assert found(strict) == []
