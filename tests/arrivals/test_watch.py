"""What a watch asks for when data lands and is corrected: whole stories, in which the work is done."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
START, YESTERDAY, TODAY = date(2026, 1, 1), "2026-01-19", "2026-01-20"
MIDNIGHT = datetime(2026, 1, 20, tzinfo=UTC)
NIGHTLY = {"every": "day", "timezone": "UTC", "start": START}


def days(first: str, count: int) -> list[str]:
    begin = date.fromisoformat(first)
    return [str(begin + timedelta(days=each)) for each in range(count)]


class TestArrivals:
    def test_a_partition_is_asked_for_when_its_data_has_landed_and_has_ended(self, watched: Any, asked: Any) -> None:
        watched.lender.now = MIDNIGHT - timedelta(seconds=1)
        watched.land(YESTERDAY)
        assert watched.tick() == []
        watched.lender.now = MIDNIGHT
        assert asked(watched.tick()) == [("arrival", (YESTERDAY,))]
        watched.runs.finish()
        assert watched.go_on(hours=1) == []
        assert (watched.live(YESTERDAY, "psi"), watched.live(YESTERDAY, "csi")) == ([True], [True])

    def test_the_clock_alone_asks_for_nothing(self, watched: Any, asked: Any) -> None:
        watched.lender.now = MIDNIGHT
        assert watched.go_on(hours=5) == []
        watched.land(YESTERDAY)
        tasks = []
        begun = watched.lender.now
        while not tasks:
            watched.lender.now += timedelta(seconds=3)
            tasks = watched.tick()
        assert asked(tasks) == [("arrival", (YESTERDAY,))]
        assert watched.lender.now - begun < timedelta(seconds=10)

    def test_files_of_a_wildcard_are_waited_for_until_nothing_changed_for_a_while(self, watched: Any) -> None:
        watched.lender.now = MIDNIGHT + HOUR
        for number in range(5):
            watched.lender.land(
                YESTERDAY, watched.lender.rows(f"{number}", 10), name=f"{number}", at=watched.lender.now
            )
            watched.lender.land(YESTERDAY, watched.lender.rows(f"{number}", 10), name=f"{number}.parquet")
        for name in ("a", "b"):
            watched.lender.land(YESTERDAY, watched.lender.rows(name, 10), name=f"{name}.parquet", at=watched.lender.now)
            assert watched.tick() == []
            watched.lender.now += timedelta(seconds=29)
            assert watched.tick() == []
        watched.lender.now += timedelta(seconds=1)
        assert watched.tick() == [], "the next look is in five seconds"
        watched.lender.now += timedelta(seconds=4)
        [task] = watched.tick()
        watched.runs.finish()
        assert watched.version().current("features", YESTERDAY).rows == 70
        assert task.partitions == (YESTERDAY,)

    def test_with_a_marker_it_is_the_marker_that_counts(self, story: Any, asked: Any) -> None:
        story.lender.now = MIDNIGHT - DAY / 2
        source = {"uri": f"{story.lender.lake_uri}/{{partition:%Y-%m-%d}}/*.parquet", "key": "application_id"}
        story.deploy(source=source | {"ready": "_SUCCESS"})
        story.go_on()
        story.lender.now = MIDNIGHT + HOUR
        story.land(YESTERDAY, at=MIDNIGHT)
        assert story.go_on(hours=1) == []
        story.lender.land(YESTERDAY, story.lender.rows("more", 10), name="1.parquet", at=story.lender.now)
        story.lender.land(YESTERDAY, b"", name="_SUCCESS", at=story.lender.now)
        story.lender.now += timedelta(seconds=10)
        assert asked(story.tick()) == [("arrival", (YESTERDAY,))]

    def test_two_that_landed_are_two_runs_the_newest_first(self, watched: Any, asked: Any) -> None:
        watched.lender.now = MIDNIGHT + DAY
        watched.land(YESTERDAY, TODAY)
        assert asked(watched.go_on()) == [("arrival", (TODAY,)), ("arrival", (YESTERDAY,))]
        assert watched.live(TODAY)[0]
        assert watched.live(YESTERDAY) == [True], "it has only just arrived"
        assert watched.stale([YESTERDAY, TODAY]) == []

    def test_data_that_came_before_the_partition_ended_and_before_the_version_is_an_arrival_at_its_end(
        self, story: Any, asked: Any
    ) -> None:
        story.land(YESTERDAY, at=MIDNIGHT - DAY / 2 - HOUR)
        story.lender.now = MIDNIGHT - DAY / 2
        story.deploy()
        story.go_on()
        story.lender.now = MIDNIGHT
        assert asked(story.tick()) == [("arrival", (YESTERDAY,))]
        story.runs.finish()
        assert story.live(YESTERDAY) == [True]

    def test_an_arrival_that_somebody_else_worked_on_before_gets_its_live_results(
        self, watched: Any, asked: Any
    ) -> None:
        from monitoring_assets.assets.pipeline import ORDER, run

        watched.lender.now = MIDNIGHT + HOUR
        watched.land(YESTERDAY)
        list(run(watched.version(), ORDER, [YESTERDAY], trigger="backfill"))
        assert watched.live(YESTERDAY) == [False]
        assert asked(watched.go_on()) == [("arrival", (YESTERDAY,))]
        assert watched.live(YESTERDAY) == [False, True]
        watched.reload()
        assert watched.go_on(hours=30) == []

    def test_a_version_on_s3_is_watched_like_one_on_the_disk(self, s3_story: Any, asked: Any) -> None:
        story = s3_story
        story.lender.now = datetime.now(UTC) + timedelta(minutes=1)
        day = str(story.lender.now.date() - DAY)
        story.deploy(at=story.lender.now - 2 * DAY, partitions=NIGHTLY | {"start": date.fromisoformat(day)})
        story.go_on()
        for data in (None, story.lender.rows("corrected", 30)):
            story.land(day, rows=data)
            assert asked(story.go_on(hours=2)) == [("arrival", (day,))]
            assert story.stale([day]) == []


class TestCorrections:
    def test_a_correction_is_gone_through_and_the_27_days_whose_windows_hold_it_are_judged_again(
        self, story: Any, asked: Any
    ) -> None:
        every_day = story.with_history("2025-12-16")
        corrected, behind, fresh = every_day[3], every_day[4:31], "2026-01-20"
        story.lender.now = MIDNIGHT + DAY
        story.land(corrected, rows=story.lender.rows("corrected", 30))
        story.land(fresh)
        found = asked(story.go_on(hours=12))
        assert sorted(found) == [("arrival", (corrected,)), ("arrival", (fresh,))]
        assert found[0][1] == (fresh,)
        again = [each for each in every_day if len(story.results(each)) == 2]
        assert again == [corrected, *behind]
        assert len(behind) == 27
        assert not any(live for each in again for live in story.live(each))
        assert story.live(fresh)[0]
        assert story.stale([*every_day, fresh]) == []

    def test_two_days_that_are_corrected_at_once_reach_the_days_between_them_too(self, story: Any, asked: Any) -> None:
        every_day = story.with_history("2026-01-08")
        for each in (every_day[3], every_day[6]):
            story.land(each, rows=story.lender.rows(f"corrected {each}", 30))
        story.reload()
        story.watch.tick(story.runs)
        story.lender.now += DAY / 2
        assert asked(story.go_on()) == [("arrival", (every_day[3], every_day[6]))]
        assert story.stale(every_day) == []

    def test_late_data_is_gone_through_and_so_are_the_days_behind_it(self, watched: Any, asked: Any) -> None:
        watched.lender.now = MIDNIGHT + 3 * DAY
        watched.land(TODAY, "2026-01-21", "2026-01-22")
        watched.go_on()
        watched.lender.now += 5 * HOUR
        watched.land(YESTERDAY)
        assert asked(watched.go_on(hours=1)) == [("arrival", (YESTERDAY,))]
        assert watched.live(YESTERDAY) == [True]
        for each in (TODAY, "2026-01-21", "2026-01-22"):
            assert watched.live(each)[-1] is False
        assert watched.stale([YESTERDAY, TODAY, "2026-01-21", "2026-01-22"]) == []

    def test_bad_data_is_gone_through_once_and_again_when_it_changed(self, watched: Any, asked: Any) -> None:
        watched.lender.now = MIDNIGHT + HOUR
        watched.land(YESTERDAY, rows=b"no Parquet")
        assert asked(watched.go_on()) == [("arrival", (YESTERDAY,))]
        assert [each.status for each in watched.results(YESTERDAY)] == ["insufficient_data"]
        watched.lender.now += HOUR
        watched.reload()
        assert watched.go_on(hours=3) == []
        watched.land(YESTERDAY, rows=watched.lender.rows(YESTERDAY))
        assert asked(watched.go_on(hours=3)) == [("arrival", (YESTERDAY,))]
        assert [(each.status, each.live) for each in watched.results(YESTERDAY)] == [
            ("insufficient_data", True),
            ("ok", True),
        ]

    def test_good_data_that_is_there_again_after_bad_data_is_gone_through_again(self, watched: Any) -> None:
        watched.lender.now = MIDNIGHT + HOUR
        watched.land(YESTERDAY, rows=watched.lender.rows(YESTERDAY))
        watched.go_on()
        watched.lender.land(YESTERDAY, name="again.parquet")
        watched.go_on(minutes=10)
        assert [each.status for each in watched.results(YESTERDAY)] == ["ok", "insufficient_data"]
        watched.lender.lake.delete(f"{YESTERDAY}/again.parquet")
        watched.reload()
        [task] = watched.go_on(minutes=30)
        assert (task.partitions, task.attempt) == ((YESTERDAY,), 2)
        assert [each.status for each in watched.results(YESTERDAY)] == ["ok", "insufficient_data", "ok"]
        assert watched.go_on(hours=6) == []

    def test_a_source_that_is_tidied_up_after_use_is_missed_by_nobody(self, watched: Any) -> None:
        watched.lender.now = MIDNIGHT + HOUR
        watched.land(YESTERDAY)
        watched.go_on()
        watched.lender.lake.delete(f"{YESTERDAY}/0.parquet")
        for each in days(TODAY, 2):
            watched.lender.now += DAY
            watched.land(each)
            watched.go_on()
        watched.reload()
        watched.go_on(hours=12)
        assert watched.results(YESTERDAY, "pipeline") == []
