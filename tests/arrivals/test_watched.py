"""What is known of one version: from its manifest, from the store, and from one tick to the next."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest

from monitoring_assets.arrivals import watched as module
from monitoring_assets.arrivals.agenda import HORIZON
from monitoring_assets.arrivals.watched import Landed, Watched
from monitoring_assets.landing import landing
from monitoring_assets.onboarding import onboard
from monitoring_assets.version import DeployedVersion

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
YESTERDAY = "2026-01-19"
MIDNIGHT = datetime(2026, 1, 20, tzinfo=UTC)
DAYS = [f"2026-01-{day:02d}" for day in range(1, 20)]


def watched_version(story: Any) -> Watched:
    [member] = story.members
    lender = story.lender
    version = DeployedVersion(member.manifest, member.digest, lender.store, lender.settings, lender.clock)
    return Watched(version, member)


@pytest.fixture
def watched(story: Any) -> Watched:
    """A version that was deployed an hour after midnight of the 20th, of which nothing is done yet."""
    story.lender.now = MIDNIGHT + HOUR
    story.deploy()
    return watched_version(story)


@pytest.fixture
def work(story: Any) -> Any:
    """``work(days, assets=all, trigger="backfill")``: as a run does it."""
    from monitoring_assets.assets.pipeline import ORDER, run

    def work(days: list[str], assets: tuple[str, ...] = ORDER, trigger: Any = "backfill") -> None:
        for _ in run(story.version(), assets, days, trigger=trigger):
            pass

    return work


class TestTakingStock:
    def test_a_version_without_a_reference_is_to_be_onboarded_with_its_newest_partitions(
        self, story: Any, watched: Watched
    ) -> None:
        watched.survey(story.lender.now)
        assert (watched.surveyed, watched.onboarded, watched.looks, watched.history) == (True, False, {}, [])
        task = watched.onboarding()
        assert (task.model, task.version, task.trigger) == ("ke-nano-loan", "1.0.0", "onboarding")
        assert (task.digest, list(task.partitions)) == (watched.member.digest, DAYS)

    def test_other_files_are_another_onboarding(self, story: Any, watched: Watched) -> None:
        watched.survey(story.lender.now)
        story.lender.registry.put("ke-nano-loan/1.0.0/reference.parquet", b"another one")
        again = watched_version(story)
        again.survey(story.lender.now)
        assert again.onboarding().key != watched.onboarding().key
        assert again.onboarding().key.startswith("onboarding/ke-nano-loan/1.0.0/")

    def test_of_the_past_is_undone_what_no_run_came_to_the_end_of(
        self, story: Any, watched: Watched, work: Any
    ) -> None:
        story.land(*DAYS[:6], at=MIDNIGHT)
        story.land(DAYS[4], rows=b"no Parquet", at=MIDNIGHT)
        work(DAYS[1:6])
        for number, asset in enumerate(("features", "scores", "distribution", "psi"), start=6):
            story.land(DAYS[number], at=MIDNIGHT)
            for each in ("features", "scores", "distribution", "psi")[: number - 5]:
                work([DAYS[number]], (each,))
            assert story.version().current(asset, DAYS[number]) is not None
        watched.survey(story.lender.now)
        assert watched.onboarded
        assert watched.history == [DAYS[0], *DAYS[6:]]
        assert sorted(watched.looks) == DAYS[1:6], "what is left to history is not looked at"

    def test_what_a_killed_run_had_no_results_of_yet_is_undone_too(
        self, story: Any, watched: Watched, work: Any
    ) -> None:
        story.land(*DAYS, at=MIDNIGHT)
        work(DAYS)
        for key in story.lender.listed(f"results/ke-nano-loan/1.0.0/{DAYS[3]}/csi"):
            story.lender.store.delete(key)
        watched.survey(story.lender.now)
        assert watched.history == [DAYS[3]]

    def test_one_that_fails_leaves_everything_as_it_was(
        self, story: Any, watched: Watched, work: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        story.land(*DAYS, at=MIDNIGHT)
        work(DAYS[:5])

        def ended(_: Any) -> set[str]:
            raise KeyError("a bug")

        with monkeypatch.context() as patch:
            patch.setattr("monitoring_assets.arrivals.watched.ended", ended)
            with pytest.raises(KeyError):
                watched.survey(story.lender.now)
            assert (watched.surveyed, watched.onboarded, watched.looks) == (False, False, {})
        watched.survey(story.lender.now)
        before = (watched.history, dict(watched.looks))
        watched.surveyed = False
        with monkeypatch.context() as patch:
            patch.setattr("monitoring_assets.arrivals.watched.ended", ended)
            with pytest.raises(KeyError):
                watched.survey(story.lender.now)
        assert (watched.surveyed, watched.onboarded, watched.history, watched.looks) == (False, True, *before)

    def test_all_results_are_gone_through_once_in_as_long_as_is_watched(
        self, story: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(HORIZON, "day", 5)
        real, looked = module.ended, []
        monkeypatch.setattr(module, "ended", lambda version: looked.append(story.lender.now) or real(version))
        story.deploy(at=MIDNIGHT - 10 * DAY)
        story.version()
        for number in range(16):
            story.lender.now = MIDNIGHT + number * DAY + HOUR
            watched = watched_version(story)
            watched.survey(story.lender.now)
            while watched.history:
                watched.leave_behind(story.lender.now)
        assert [(each - MIDNIGHT).days for each in looked] == [0, 6, 12]

    def test_what_is_done_is_looked_at_at_some_time_and_what_is_not_done_now(
        self, story: Any, watched: Watched, work: Any
    ) -> None:
        story.land(*DAYS, at=MIDNIGHT)
        work(DAYS)
        now = story.lender.now = MIDNIGHT + 2 * DAY
        watched.survey(now)
        assert watched.due(now) == ["2026-01-21", "2026-01-20"]
        looks = [watched.looks[day] for day in DAYS]
        assert len(set(looks)) == len(looks), "not all at once"
        assert all(now < look <= now + DAY / 2 for look in looks)

    def test_what_was_known_of_looks_is_kept(self, story: Any, watched: Watched, work: Any) -> None:
        work(DAYS)
        watched.survey(story.lender.now)
        later = story.lender.now + HOUR
        watched.looks[DAYS[3]] = later
        watched.survey(story.lender.now)
        assert watched.looks[DAYS[3]] == later


class TestTime:
    def test_partitions_that_ended_since_are_looked_at(self, story: Any, watched: Watched, work: Any) -> None:
        work(DAYS)
        watched.survey(story.lender.now)
        for now, ended in ((MIDNIGHT + DAY - HOUR, []), (MIDNIGHT + DAY, ["2026-01-20"])):
            watched.advance(now)
            assert [each for each in watched.looks if each > YESTERDAY] == ended
        watched.advance(MIDNIGHT + 4 * DAY)
        assert watched.due(MIDNIGHT + 4 * DAY)[:4] == [f"2026-01-{day}" for day in (23, 22, 21, 20)]

    def test_what_is_too_old_is_forgotten(self, story: Any, watched: Watched, work: Any) -> None:
        work(DAYS)
        watched.survey(story.lender.now)
        watched.finish(Landed(DAYS[0], "digest"), story.lender.now)
        watched.finish(Landed(YESTERDAY, "digest"), story.lender.now)
        watched.advance(MIDNIGHT + (HORIZON["day"] - 1) * DAY)
        assert min(watched.looks) == min(watched.done) == YESTERDAY
        watched.advance(MIDNIGHT + 1000 * DAY)
        assert (len(watched.looks), watched.done) == (HORIZON["day"], {})

    def test_a_calendar_that_has_only_begun_has_nothing_to_look_at(self, story: Any) -> None:
        story.lender.now = MIDNIGHT
        story.deploy(partitions={"every": "day", "timezone": "UTC", "start": date(2026, 1, 20)})
        story.version()
        watched = watched_version(story)
        watched.survey(story.lender.now)
        watched.advance(MIDNIGHT + DAY - HOUR)
        assert (watched.onboarded, watched.looks, watched.onboarding().partitions) == (True, {}, ())
        watched.advance(MIDNIGHT + DAY)
        assert watched.looks == {"2026-01-20": MIDNIGHT + DAY}

    def test_a_look_is_never_put_off_beyond_the_deadline(self, watched: Watched, work: Any) -> None:
        work(DAYS)
        now = MIDNIGHT + DAY - timedelta(seconds=1)
        watched.survey(now)
        watched.look_later(YESTERDAY, now)
        assert watched.looks[YESTERDAY] == watched.deadline(YESTERDAY) == MIDNIGHT + DAY

    def test_of_two_looks_that_are_due_the_newer_can_wait_less_and_the_older_not_for_ever(
        self, watched: Watched
    ) -> None:
        now = MIDNIGHT + HOUR
        watched.looks = {YESTERDAY: now, DAYS[0]: now}
        assert watched.patience(YESTERDAY, now) < watched.patience(DAYS[0], now)
        watched.looks = {YESTERDAY: now, DAYS[0]: now - HOUR}
        assert watched.patience(YESTERDAY, now) > watched.patience(DAYS[0], now)


class TestWhatLanded:
    def test_history_is_what_had_landed_and_ended_before_the_version(self, story: Any, watched: Watched) -> None:
        deployed = watched.member.deployed_at
        for day, at, before in (
            (YESTERDAY, deployed, True),
            (YESTERDAY, deployed + timedelta(seconds=1), False),
            ("2026-01-20", deployed - HOUR, False),
        ):
            story.land(day, at=at)
            assert watched.was_there_before(day, landing(watched.version, day)) == before, (day, at)

    def test_data_has_been_through_when_the_last_asset_has_a_result_that_is_made_from_it(
        self, story: Any, watched: Watched, work: Any
    ) -> None:
        def been_through() -> bool:
            return watched.has_been_through(DAYS[3], landing(watched.version, DAYS[3]), story.lender.now)

        watched.survey(story.lender.now)
        story.land(DAYS[3], at=MIDNIGHT)
        for data in (None, story.lender.rows("corrected", 30)):
            story.land(DAYS[3], rows=data, at=MIDNIGHT)
            for asset in ("features", "scores", "distribution", "psi", "csi"):
                assert not been_through(), asset
                work([DAYS[3]], (asset,))
            assert been_through()

    def test_what_arrived_needs_live_results_as_long_as_there_can_be_any(
        self, story: Any, watched: Watched, work: Any
    ) -> None:
        def been_through() -> bool:
            return watched.has_been_through(YESTERDAY, landing(watched.version, YESTERDAY), story.lender.now)

        story.land(YESTERDAY, at=story.lender.now + timedelta(seconds=1))
        work([YESTERDAY])
        story.lender.now = MIDNIGHT + 25 * HOUR
        watched.survey(story.lender.now)
        assert not been_through()
        story.lender.now += HOUR
        assert been_through(), "nobody would be paged by it any more"
        story.lender.now -= HOUR
        work([YESTERDAY], trigger="arrival")
        assert been_through()

    def test_data_was_read_when_the_newest_result_is_about_it_good_or_bad(
        self, story: Any, watched: Watched, work: Any
    ) -> None:
        def landed() -> Landed:
            return Landed(YESTERDAY, landing(watched.version, YESTERDAY).digest)

        story.land(YESTERDAY, at=MIDNIGHT)
        good = landed()
        assert not watched.was_read(good)
        work([YESTERDAY])
        assert watched.was_read(good)
        story.land(YESTERDAY, rows=b"no Parquet", at=MIDNIGHT)
        assert not watched.was_read(landed())
        work([YESTERDAY])
        assert (watched.was_read(landed()), watched.was_read(good)) == (True, False)

    def test_the_newest_goes_by_itself_and_what_is_old_together(self, story: Any, watched: Watched) -> None:
        watched.survey(story.lender.now)

        def groups(*days: str) -> list[list[str]]:
            return [[each.partition for each in group] for group in watched.groups([Landed(day, "") for day in days])]

        assert groups(DAYS[2], YESTERDAY, DAYS[3]) == [[YESTERDAY], [DAYS[3], DAYS[2]]]
        assert groups(DAYS[2], DAYS[-4]) == [[DAYS[-4]], [DAYS[2]]]
        assert groups(DAYS[2], DAYS[-5]) == [[DAYS[-5], DAYS[2]]]

    def test_a_task_is_named_by_its_partitions_and_their_data(self, watched: Watched) -> None:
        one, other = Landed(DAYS[2], "a"), Landed(DAYS[3], "b")
        assert watched.arrival([other, one]) == watched.arrival([one, other])
        assert watched.arrival([one, other]).partitions == (DAYS[2], DAYS[3])
        keys = [watched.arrival(each).key for each in ([one], [other], [one, other], [Landed(DAYS[2], "b")])]
        assert len(set(keys)) == 4


def test_a_model_with_a_container_of_its_own_gets_a_run_a_partition(story: Any) -> None:
    story.lender.now = MIDNIGHT + HOUR
    image = f"registry.example/models/score@sha256:{'ab' * 32}"
    story.deploy(score={"kind": "container", "image": image, "column": "vendor_score"})
    watched = watched_version(story)
    onboard(story.lender.settings, "ke-nano-loan", "1.0.0", story.lender.clock)
    watched.survey(story.lender.now)

    assert watched.history == DAYS[-1:]
    groups = watched.groups([Landed(day, "") for day in (DAYS[2], YESTERDAY, DAYS[3])])
    assert [[each.partition for each in group] for group in groups] == [[YESTERDAY], [DAYS[3]]]
    again = watched.judging_again(DAYS[:2])
    assert again is None
    watched.leave_behind(story.lender.now)
    assert watched.history == DAYS[-2:-1]
    again = watched.judging_again(DAYS[-2:])
    assert again is not None
    assert again.partitions == (DAYS[-1],)
