"""Storms: one incident of the fleet for what is upstream of many models, and theirs only when it is over."""

from __future__ import annotations

from datetime import timedelta

import pytest

from monitoring_assets import layout
from monitoring_assets.alerting.dead_letters import dead_letters
from monitoring_assets.alerting.fast_path import alerting
from monitoring_assets.alerting.state import StateFile
from monitoring_assets.alerting.storms import ALONE, HOLD, limit, registered, storms
from tests.alerting.company import Company
from tests.alerting.conftest import VERSION
from tests.conftest import Lender
from tests.recorders import Incident, Recorder
from tests.recorders.faults import failing, unreachable

DAY = "2026-01-01"
LATER = timedelta(seconds=30)
FEW = 2 * ALONE
"""Who registers at the same instant may be among the first for a moment."""


@pytest.fixture
def company(lender: Lender, recorder: Recorder) -> Company:
    """Twenty models that were monitored before; no gauges."""
    own = Company(lender, {name: value for name, value in recorder.environ.items() if name != "DD_API_KEY"})
    for number in range(20):
        own.register(model=f"model-{number:02d}")
        own.write(f"model-{number:02d}", "2025-12-31", "ok")
    own.publish()
    return own


def breach(company: Company, first: int, end: int, status: str = "breach", partition: str = DAY) -> None:
    for number in range(first, end):
        company.write(f"model-{number:02d}", partition, status)


def of_fleet(recorder: Recorder) -> list[Incident]:
    return [page for page in recorder.pagerduty.pages if "/fleet/" in page.dedup_key]


def of_models(recorder: Recorder) -> list[str]:
    return [page.dedup_key.split("/")[2] for page in recorder.pagerduty.pages if "/fleet/" not in page.dedup_key]


def test_more_than_ten_models_and_more_than_a_twentieth_of_them_are_a_storm() -> None:
    assert [limit(models) for models in (0, 10, 200, 219, 220, 1_000)] == [10, 10, 10, 10, 11, 50]


def test_a_storm_pages_once_for_the_fleet_and_holds_back_what_its_models_have_to_say(
    company: Company, recorder: Recorder
) -> None:
    breach(company, 0, 15)
    company.publish(LATER)
    [page] = of_fleet(recorder)
    assert page.dedup_key == f"scorewatch/test/fleet/{DAY}"
    assert "15 of 20 models breach on 2026-01-01 (15 drift)" in page.payload["summary"]
    assert page.payload["custom_details"]["models"][0] == "model-00"
    alone = of_models(recorder)
    assert ALONE <= len(alone) <= FEW
    for _ in range(3):
        assert company.publish(HOLD).waiting == {}
    assert of_models(recorder) == alone
    assert [page.resolved for page in recorder.pagerduty.pages] == [False] * (len(alone) + 1)


def test_once_a_storm_is_over_what_still_fires_pages_for_itself_and_what_cleared_never_does(
    company: Company, recorder: Recorder
) -> None:
    breach(company, 0, 15)
    company.publish(LATER)
    alone = of_models(recorder)
    held = {f"model-{number:02d}" for number in range(15)} - set(alone)
    # Two of those that were held back did not recover.
    broken = sorted(held)[:2]
    for number in range(15):
        model = f"model-{number:02d}"
        for partition in ("2026-01-02", "2026-01-03"):
            company.write(model, partition, "breach" if model in broken else "ok")
    company.publish(LATER)
    [page] = of_fleet(recorder)
    assert page.resolved
    assert company.publish(LATER).waiting == {}
    assert sorted(of_models(recorder)[len(alone) :]) == broken
    assert {key.split("/")[2] for key in recorder.pagerduty.open} == set(broken)
    company.publish(LATER)
    assert storms(company.lender.store) == []
    assert {each.model for each in registered(company.lender.store)} == set(broken)


def test_a_few_models_that_breach_together_page_each_though_the_later_ones_wait_a_little(
    company: Company, recorder: Recorder
) -> None:
    breach(company, 0, 6)
    waiting = company.publish(LATER).waiting
    assert ALONE <= len(of_models(recorder)) == 6 - len(waiting)
    assert company.publish(HOLD).waiting == {}
    assert sorted(of_models(recorder)) == [f"model-{number:02d}" for number in range(6)]
    assert of_fleet(recorder) == []


def test_those_who_tell_at_once_wait_for_the_storm_that_the_publisher_sees(
    company: Company, recorder: Recorder
) -> None:
    breach(company, 0, 12)
    for manifest in company.manifests:
        alerting(company.settings, lambda: company.now)(manifest)
    assert len(of_models(recorder)) == ALONE
    company.publish(LATER)
    assert len(of_fleet(recorder)) == 1
    assert company.publish(2 * HOLD).waiting == {}
    assert len(of_models(recorder)) == ALONE


def test_breaches_on_different_partitions_are_no_storm(company: Company, recorder: Recorder) -> None:
    for number in range(15):
        breach(company, number, number + 1, partition=f"2026-01-{number + 1:02d}")
    assert company.publish(LATER).waiting == {}
    assert len(of_models(recorder)) == 15
    assert of_fleet(recorder) == []


def test_what_opened_on_different_days_and_pages_since_one_is_a_storm(lender: Lender, recorder: Recorder) -> None:
    """Of tier 3 a warning is a ticket; a critical breach makes an incident of it."""
    company = Company(lender, {name: value for name, value in recorder.environ.items() if name != "DD_API_KEY"})
    for number in range(20):
        company.register(model=f"model-{number:02d}", tier=3)
        company.write(f"model-{number:02d}", "2025-12-31", "ok")
    for number in range(15):
        for day in (number + 1, number + 2):
            breach(company, number, number + 1, "warn", f"2026-01-{day:02d}")
        company.publish(LATER)
    assert recorder.pagerduty.pages == []
    company.publish(timedelta(days=1))
    breach(company, 0, 15, partition="2026-01-20")
    company.publish(LATER)
    assert [page.dedup_key for page in of_fleet(recorder)] == ["scorewatch/test/fleet/2026-01-20"]
    assert company.publish(2 * HOLD).waiting == {}
    assert len(of_models(recorder)) <= FEW
    for day in ("2026-01-21", "2026-01-22"):
        breach(company, 0, 15, "ok", day)
    company.publish(LATER)
    assert registered(company.lender.store) == []
    assert recorder.pagerduty.open == {}


def test_what_is_held_back_and_grows_graver_stays_in_its_storm(company: Company, recorder: Recorder) -> None:
    for day in (DAY, "2026-01-02"):
        breach(company, 0, 15, "warn", day)
    company.publish(LATER)
    assert [page.dedup_key for page in of_fleet(recorder)] == ["scorewatch/test/fleet/2026-01-02"]
    held = int(max(each.model for each in registered(company.lender.store)).removeprefix("model-"))
    assert f"model-{held:02d}" not in of_models(recorder)
    breach(company, held, held + 1, partition="2026-01-03")
    assert company.publish(2 * HOLD).waiting == {}
    assert len(of_models(recorder)) <= FEW
    for day in ("2026-01-04", "2026-01-05"):
        breach(company, 0, 15, "ok", day)
    company.publish(LATER)
    assert registered(company.lender.store) == []
    assert recorder.pagerduty.open == {}


def test_versions_that_nobody_monitors_any_more_since_one_day_are_a_storm(company: Company, recorder: Recorder) -> None:
    for number in range(20):
        company.write(f"model-{number:02d}", "registry", "quarantined", kind="pipeline", asset="reference")
    company.publish(LATER)
    [page] = of_fleet(recorder)
    assert page.dedup_key == "scorewatch/test/fleet/registry-2026-01-01"
    assert "20 of 20 models are kept back as a whole since 2026-01-01 (20 registry)" in page.payload["summary"]
    assert company.publish(2 * HOLD).waiting == {}
    assert len(of_models(recorder)) <= FEW
    for number in range(20):
        company.write(f"model-{number:02d}", "registry", "ok", kind="pipeline", asset="reference")
    company.publish(LATER)
    assert registered(company.lender.store) == []
    assert recorder.pagerduty.open == {}


def test_what_was_registered_by_the_partition_that_opened_it_is_forgotten_all_the_same(company: Company) -> None:
    """As states of before are."""
    breach(company, 0, 1)
    company.publish(LATER)
    store = company.lender.store
    file = StateFile(store, "model-00", VERSION)
    [told] = file.read().open.values()
    file.write(
        file.state.model_copy(update={"open": {"drift": told.model_copy(update={"on": "", "waits_until": None})}})
    )
    for day in ("2026-01-02", "2026-01-03"):
        breach(company, 0, 1, "ok", day)
    company.publish(LATER)
    assert registered(store) == []


def test_models_whose_versions_page_nobody_make_no_storm(lender: Lender, recorder: Recorder) -> None:
    company = Company(lender, recorder.environ)
    for number in range(15):
        company.register(model=f"model-{number:02d}", role="challenger")
    breach(company, 0, 15)
    company.publish()
    company.publish(HOLD)
    assert recorder.pagerduty.pages == []


def test_a_fleet_of_ten_models_waits_for_no_storm(lender: Lender, recorder: Recorder) -> None:
    company = Company(lender, recorder.environ)
    for number in range(10):
        company.register(model=f"model-{number:02d}")
    breach(company, 0, 10)
    assert company.publish().waiting == {}
    assert len(of_models(recorder)) == 10


def test_a_storm_that_could_not_be_told_is_told_later_and_one_that_is_refused_is_a_dead_letter(
    company: Company, recorder: Recorder
) -> None:
    breach(company, 0, 15)
    recorder.pagerduty.faults.lasting = unreachable()
    assert f"the storm of {DAY}" in company.publish(LATER).waiting
    recorder.pagerduty.faults.lasting = None
    recorder.pagerduty.faults.add(failing(500))
    company.publish(2 * HOLD)
    company.publish(LATER)
    assert len(of_fleet(recorder)) == 1
    assert len(of_models(recorder)) <= FEW
    for number in range(15):
        for partition in ("2026-01-02", "2026-01-03"):
            company.write(f"model-{number:02d}", partition, "ok")
    recorder.pagerduty.faults.lasting = failing(400)
    company.publish(LATER)
    assert ("fleet", DAY) in {(each.model, each.version) for each in dead_letters(company.lender.store)}


def test_a_storm_of_which_nobody_can_hear_holds_nobody_back(company: Company, recorder: Recorder) -> None:
    breach(company, 0, 15)
    recorder.pagerduty.faults.lasting = failing(400)
    company.publish(LATER)
    recorder.pagerduty.faults.lasting = None
    company.publish(LATER)
    company.publish(refused=True)
    assert of_fleet(recorder) == []
    assert len(of_models(recorder)) == 15


def test_a_storm_that_is_damaged_holds_nobody_back(company: Company, recorder: Recorder) -> None:
    company.lender.store.put(layout.storm(DAY), b"{")
    breach(company, 0, 2)
    assert company.publish(LATER).waiting == {}
    assert len(of_models(recorder)) == 2


def test_a_version_that_is_retired_in_a_storm_counts_no_longer(company: Company) -> None:
    breach(company, 0, 15)
    company.publish(LATER)
    company.lender.store.put(layout.alerts("gone", VERSION), b"{}")
    for number, manifest in enumerate(company.manifests[:12]):
        company.manifests[number] = manifest.model_copy(update={"status": "retired"})
    company.manifests.pop()
    company.register(model="model-19")
    company.publish(LATER)
    assert {each.model for each in registered(company.lender.store)} == {"model-12", "model-13", "model-14"}
