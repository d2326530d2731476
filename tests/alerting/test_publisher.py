"""The publisher's rounds: everybody paged first, then Datadog told that it lives and how versions stand."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import date, datetime, timedelta

import pytest

from monitoring_assets import layout
from monitoring_assets.alerting.fast_path import alerting
from monitoring_assets.alerting.publisher import EVERY, LASTS, Round
from monitoring_assets.results import Result, write_result
from resources.at_once import THREADS
from resources.object_store import LocalStore
from resources.object_store.base import Blob
from tests.alerting.company import Company
from tests.alerting.conftest import MODEL, VERSION
from tests.alerting.told import END, TIER_1, daily, days, points, score, tags
from tests.conftest import Lender
from tests.recorders import Recorder
from tests.recorders.faults import failing, held, unreachable


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request to Datadog is made once."""
    monkeypatch.setattr("resources.datadog.WAITS_S", ())


@pytest.fixture
def company(lender: Lender, recorder: Recorder) -> Company:
    return Company(lender, recorder.environ)


def now(recorder: Recorder, at: datetime) -> dict[str, float]:
    return {
        name: value
        for (name, found, second), value in points(recorder, "scorewatch.now.").items()
        if second == at and found == tags(TIER_1)
    }


def test_every_round_says_that_the_publisher_lives_and_every_five_minutes_how_versions_stand(
    company: Company, recorder: Recorder
) -> None:
    scene = company.register(source={"uri": "s3://lake/{partition}", "key": "id", "sla_hours": 6.0})
    scene.day(1, "ok", kind="psi", asset="psi", metrics=(score(2.31),))
    scene.day(1, "breach")
    begun = company.now
    assert company.publish().waiting == {}
    for result in company.lender.listed("results/"):
        company.lender.store.delete(result)
    for _ in range(11):
        assert company.publish(timedelta(minutes=1)).waiting == {}
    beats = points(recorder, "scorewatch.publisher.")
    minutes = [begun + timedelta(minutes=number) for number in range(12)]
    vitals = {"heartbeat": 1, "dead_letters": 0, "undelivered": 0}
    assert beats == {(name, ("env:test",), at): value for name, value in vitals.items() for at in minutes}
    assert {at for _, _, at in points(recorder, "scorewatch.now.")} == {minutes[0], minutes[5], minutes[10]}
    stands = {"state": 2.0, "psi.max": 2.31, "features.breached": 2.0, "sla_seconds": 30 * 3_600.0}
    assert now(recorder, minutes[0]) == stands | {"result.age_seconds": 1_800.0}
    assert now(recorder, minutes[10]) == stands | {"result.age_seconds": 2_400.0}


def test_a_version_stands_as_its_newest_live_partition_does(company: Company, recorder: Recorder) -> None:
    scene = company.register()
    scene.day(1, "breach")
    scene.day(3, "warn")
    company.publish()
    scene.day(2, "breach")
    scene.day(4, "breach", trigger="backfill", live=False)
    company.publish(EVERY)
    found = now(recorder, company.now)
    assert (found["psi.max"], found["features.breached"]) == (0.15, 0.0)
    end = END + timedelta(days=2)
    assert found["result.age_seconds"] == (company.now - end).total_seconds()
    assert found["sla_seconds"] == timedelta(days=2).total_seconds(), "24 hours after the end of the next partition"
    scene.day(3, "warn", kind="psi", asset="psi", metrics=(score(0.2),))
    company.publish(EVERY)
    assert now(recorder, company.now)["psi.max"] == 0.2, "of score and features the worst"
    scene.day(5, "insufficient_data")
    company.publish(EVERY)
    assert now(recorder, company.now).keys() == {"state", "result.age_seconds", "sla_seconds"}


def test_the_state_of_a_version_is_that_of_its_gravest_episode(company: Company, recorder: Recorder) -> None:
    scene = company.register()
    states = []
    for day, state in enumerate(["ok", "warn", "warn", "breach", "ok", "ok"], start=1):
        scene.day(day, state)
        company.publish(EVERY)
        states.append(now(recorder, company.now)["state"])
    assert states == [0, 0, 1, 2, 2, 0]


def test_who_could_not_tell_how_versions_stand_tries_again_in_the_next_round(
    company: Company, recorder: Recorder
) -> None:
    company.register().day(1, "breach")
    recorder.datadog.faults.add(failing(503))
    assert "503" in company.publish().waiting["Datadog"]
    for _ in range(2):
        assert company.publish(timedelta(seconds=30)).waiting == {}
    assert len({at for _, _, at in points(recorder, "scorewatch.now.")}) == 1
    assert len({at for _, _, at in points(recorder, "scorewatch.publisher.")}) == 2


def test_two_publishers_at_once_tell_how_versions_stand_once(
    company: Company, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    for model in ("one", "two", "three"):
        company.register(model=model)
        company.lender.store.put(layout.alerts(model, VERSION), b"{}")
    both_know, get = threading.Barrier(2, timeout=30), LocalStore.get

    def read(store: LocalStore, key: str) -> Blob | None:
        found = get(store, key)
        if key == layout.versions_sent():
            both_know.wait()
        return found

    monkeypatch.setattr(LocalStore, "get", read)
    with ThreadPoolExecutor(2) as threads:
        rounds = list(threads.map(lambda _: company.publish(), range(2)))
    assert [each.waiting for each in rounds] == [{}, {}]
    # The three vitals of each, and one state of each version.
    assert sorted(recorder.datadog.batches) == [3, 6]


def test_a_retired_version_and_one_that_is_gone_stand_nowhere(company: Company, recorder: Recorder) -> None:
    company.register(status="retired").day(1, "breach")
    company.lender.store.put(layout.alerts("gone", "1.0.0"), b"{}")
    company.publish()
    assert points(recorder, "scorewatch.now.") == {}
    assert len(daily(recorder)) == 2, "its last results are told all the same"


def test_a_version_whose_state_is_damaged_keeps_no_other_from_being_told(company: Company, recorder: Recorder) -> None:
    company.register(model="broken")
    company.register().day(1, "breach")
    company.lender.store.put(layout.alerts("broken", VERSION), b"{")
    assert list(company.publish().waiting) == [f"broken {VERSION}"]
    assert now(recorder, company.now)["state"] == 2


def test_dead_letters_are_counted(company: Company, recorder: Recorder) -> None:
    company.register().day(1, "breach")
    recorder.pagerduty.faults.add(failing(400))
    company.publish()
    found = points(recorder, "scorewatch.publisher.")
    assert found["dead_letters", ("env:test",), company.now] == 1
    assert found["undelivered", ("env:test",), company.now] == 0


def test_versions_that_could_not_be_told_of_are_counted(company: Company, recorder: Recorder) -> None:
    company.register().day(1, "breach")
    company.register(model="calm", source={"uri": "s3://lake/{partition}", "key": "id"})
    recorder.pagerduty.faults.lasting = failing(403)
    assert "403" in company.publish().waiting[f"{MODEL} {VERSION}"]
    assert points(recorder, "scorewatch.publisher.")["undelivered", ("env:test",), company.now] == 1
    assert points(recorder, "scorewatch.publisher.")["dead_letters", ("env:test",), company.now] == 0
    recorder.pagerduty.faults.lasting = None
    assert company.publish(timedelta(minutes=1)).sent == 1, "another key, and what waited is told"
    assert points(recorder, "scorewatch.publisher.")["undelivered", ("env:test",), company.now] == 0


def test_what_pagerduty_refused_is_told_once_the_reason_is_mended(company: Company, recorder: Recorder) -> None:
    scene = company.register()
    company.publish()
    scene.day(1, "breach")
    recorder.pagerduty.faults.lasting = failing(400)
    company.publish()
    recorder.pagerduty.faults.lasting = None
    assert company.publish(timedelta(hours=1)).sent == 0, "nobody knows that it was mended"
    assert company.publish(refused=True).sent == 1
    assert len(recorder.pagerduty.open) == 1
    assert list(company.lender.store.list(layout.DEAD_LETTERS)) == []


def test_a_role_that_changes_pages_and_resolves_though_nothing_lands(company: Company, recorder: Recorder) -> None:
    company.register(role="challenger").day(1, "breach")
    company.publish()
    assert recorder.pagerduty.pages == []
    for role, expected in (("champion", 1), ("shadow", 0), ("champion", 1)):
        company.manifests.clear()
        company.register(role=role)
        company.publish(timedelta(minutes=1))
        assert len(recorder.pagerduty.open) == expected, role


def test_a_threshold_that_was_raised_ends_what_is_below_it_and_one_that_was_lowered_wakes_nobody_about_the_past(
    company: Company, recorder: Recorder
) -> None:
    scene = company.register()
    scene.day(1, "hold")
    scene.day(2, "breach")
    company.publish()
    assert len(recorder.pagerduty.open) == 1

    def update(warn: float, critical: float) -> None:
        company.manifests.clear()
        company.register(policy={"csi": {"warn": warn, "critical": critical}})
        company.publish(timedelta(minutes=1))

    update(3.0, 4.0)
    assert recorder.pagerduty.open == {}
    update(0.05, 0.08)
    assert recorder.pagerduty.open == {}, "what was judged under another policy was told then"
    scene.day(3, "hold")
    company.publish(timedelta(days=1))
    assert len(recorder.pagerduty.open) == 1


def test_both_services_down_for_three_days_lose_nothing_and_say_nothing_of_what_cleared(
    company: Company, recorder: Recorder
) -> None:
    scene = company.register()
    recorder.datadog.faults.lasting = recorder.pagerduty.faults.lasting = unreachable()
    for day, state in enumerate(["breach", "ok", "ok", "breach"], start=1):
        scene.day(day, state)
        assert company.publish(timedelta(days=1)).waiting.keys() == {f"{MODEL} {VERSION}", "Datadog"}
    recorder.datadog.faults.lasting = None
    company.publish(timedelta(minutes=1))
    assert now(recorder, company.now)["state"] == 2, "how it stands does not wait for PagerDuty"
    recorder.pagerduty.faults.lasting = None
    assert company.publish(timedelta(minutes=1)).waiting == {}
    assert days(recorder) == [1, 2, 3, 4]
    assert [page.dedup_key[-10:] for page in recorder.pagerduty.open.values()] == ["2026-01-04"]


def of_twenty_models(company: Company) -> None:
    """A breach of each, on a day of its own: together they would be a storm."""
    for number in range(20):
        company.register(model=f"model-{number}")
        company.write(f"model-{number}", f"2026-01-{number + 1:02d}", "breach")


def test_everybody_is_paged_before_datadog_is_told_anything(company: Company, recorder: Recorder) -> None:
    of_twenty_models(company)
    paged: list[int] = []

    def clock() -> datetime:
        # The recorder looks at it when a gauge comes.
        paged.append(len(recorder.pagerduty.pages))
        return company.now

    recorder.datadog.now = clock
    assert company.publish().results == 20
    assert set(paged) == {20}


def test_a_round_waits_for_a_datadog_that_is_down_once_and_not_once_a_version(
    company: Company, recorder: Recorder
) -> None:
    of_twenty_models(company)
    recorder.datadog.faults.lasting = unreachable()
    assert len(company.publish().waiting) == 21
    assert len(recorder.pagerduty.pages) == 20
    assert recorder.datadog.requests == 1


def test_a_pagerduty_that_swallows_everything_holds_a_round_up_for_a_moment_and_datadog_hears_that_it_lives(
    company: Company, recorder: Recorder
) -> None:
    of_twenty_models(company)
    until = threading.Event()
    recorder.pagerduty.faults.lasting = held(until, takes_effect=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("resources.pagerduty.TIMEOUT_S", 0.5)
        assert len(company.publish().waiting) == 21, "nor is it told of their deployments"
    assert recorder.pagerduty.requests < THREADS + LASTS
    assert list(points(recorder, "scorewatch.publisher.")) != []
    until.set()
    recorder.pagerduty.faults.lasting = None
    assert company.publish(timedelta(seconds=30)).waiting == {}
    assert len(recorder.pagerduty.pages) == 20


def test_a_pagerduty_that_asks_to_be_left_alone_is_until_the_next_round(company: Company, recorder: Recorder) -> None:
    for number in range(4):
        company.register(model=f"model-{number}")
    company.write("model-0", "2026-01-01", "breach")
    recorder.pagerduty.faults.lasting = failing(429, Retry_After="20")
    assert len(company.publish().waiting) == 2
    assert recorder.pagerduty.requests == 1
    recorder.pagerduty.faults.lasting = None
    assert company.publish(timedelta(seconds=30)).waiting == {}


def test_without_a_key_nothing_is_sent_and_nothing_waits(lender: Lender, recorder: Recorder) -> None:
    environ = {name: value for name, value in recorder.environ.items() if name != "DD_API_KEY"}
    company = Company(lender, environ)
    company.register().day(1, "breach")
    assert company.publish() == Round(results=1, sent=1)
    assert recorder.datadog.requests == 0
    assert lender.store.get(layout.versions_sent()) is None


def test_the_stage_that_wrote_the_results_tells_its_partition(company: Company, recorder: Recorder) -> None:
    company.register().day(1, "breach")
    alerting(company.settings, lambda: company.now)(company.manifests[0])
    assert days(recorder) == [1]
    assert len(recorder.pagerduty.pages) == 1
    assert points(recorder, "scorewatch.publisher.") == {}


def test_an_hour_may_come_two_hours_late_where_nothing_is_stated(company: Company, recorder: Recorder) -> None:
    source = {"uri": "s3://lake/{partition:%Y-%m-%d-%H}", "key": "id"}
    company.register(partitions={"every": "hour", "timezone": "UTC", "start": date(2026, 1, 1)}, source=source)
    named = {"model": MODEL, "version": VERSION, "kind": "csi", "asset": "csi", "recorded_at": company.now}
    found = {"partition": "2026-01-01-20:00", "status": "ok", "trigger": "arrival", "live": True}
    write_result(company.lender.store, Result(**named, **found), "2026-01-01-20-00")
    company.publish()
    assert now(recorder, company.now) == {"state": 0, "result.age_seconds": 1_800, "sla_seconds": 3 * 3_600}
