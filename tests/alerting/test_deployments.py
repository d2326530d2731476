"""Deployments: told once to PagerDuty and once to Datadog, and no page for anybody."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from monitoring_assets import layout
from monitoring_assets.alerting.dead_letters import dead_letters
from monitoring_assets.fleet import shard_of
from monitoring_assets.fleet_file import PARTS
from tests.alerting.company import Company
from tests.alerting.conftest import MODEL, VERSION
from tests.alerting.told import TIER_1, points, tags
from tests.conftest import Lender
from tests.deploy.test_datadog_boards import NEWS
from tests.recorders import Recorder
from tests.recorders.faults import failing, unreachable

LATER = timedelta(seconds=30)


@pytest.fixture
def company(lender: Lender, recorder: Recorder) -> Company:
    """One model, whose deployment was told."""
    own = Company(lender, recorder.environ)
    recorder.datadog.now = lambda: own.now
    own.register(model="other")
    own.publish()
    assert (len(recorder.pagerduty.changes), len(recorder.datadog.events)) == (1, 1)
    return own


def test_a_deployment_is_told_once_to_each_and_pages_nobody(company: Company, recorder: Recorder) -> None:
    begun = company.now
    company.register(links={"runbook": "https://wiki.lender.example/new"})
    for _ in range(3):
        assert company.publish(LATER).waiting == {}
    assert (len(recorder.pagerduty.changes), len(recorder.datadog.events)) == (2, 2)
    change, event = recorder.pagerduty.changes[1], recorder.datadog.events[1]
    details = change["payload"]["custom_details"]
    sentence = f"{MODEL} {VERSION} was deployed: champion, tier 1, of {details['owner']}"
    assert change["payload"]["summary"] == sentence
    assert {link["href"] for link in change["links"]} >= {"https://wiki.lender.example/new"}
    assert event["title"] == f"{MODEL} {VERSION} was deployed"
    assert event["date_happened"] == int(begun.timestamp())
    first, *lines = event["text"].splitlines()
    assert first == sentence
    assert {f"{name}: {value}" for name, value in details.items()} <= set(lines)
    assert "runbook: https://wiki.lender.example/new" in lines
    assert recorder.pagerduty.pages == []


def test_an_event_has_the_tags_by_which_dashboards_find_it(company: Company, recorder: Recorder) -> None:
    company.register()
    company.publish(LATER)
    found = recorder.datadog.events[1]["tags"]
    about = replace(TIER_1, owner=company.manifests[1].owner)
    assert sorted(found) == sorted([*tags(about), "scorewatch:deployment"])
    assert {tag.partition(":")[0] for tag in found} == NEWS["deployment"] | {"scorewatch"}


def test_who_cannot_be_told_is_told_later_and_the_other_one_is_told_once_all_the_same(
    company: Company, recorder: Recorder
) -> None:
    company.register()
    recorder.pagerduty.faults.add(failing(503))
    assert "503" in company.publish(LATER).waiting["deployments"]
    assert (len(recorder.pagerduty.changes), len(recorder.datadog.events)) == (1, 2)
    assert company.publish(LATER).waiting == {}
    company.register(model="new")
    recorder.datadog.faults.lasting = unreachable()
    assert company.publish(LATER).waiting.keys() == {"Datadog"}
    recorder.datadog.faults.lasting = None
    assert company.publish(LATER).waiting == {}
    assert company.publish(LATER).waiting == {}
    assert (len(recorder.pagerduty.changes), len(recorder.datadog.events)) == (3, 3)


def test_that_the_publisher_lives_is_told_before_any_deployment(company: Company, recorder: Recorder) -> None:
    company.register()
    recorder.datadog.faults.add(failing(202, {"errors": []}), failing(400))
    assert company.publish(LATER).waiting == {}
    assert len(recorder.datadog.events) == 1
    [letter] = dead_letters(company.lender.store)
    assert (letter.model, letter.version) == (MODEL, VERSION)
    assert "400" in letter.refused
    requests = recorder.datadog.requests
    company.publish(LATER)
    assert recorder.datadog.requests == requests + 1, "what was refused is not told again"


@pytest.mark.parametrize(("hours", "told"), [(16.5, (2, 2)), (17.5, (2, 1)), (24.5, (1, 1))])
def test_what_was_deployed_long_ago_is_no_news_and_datadog_takes_nothing_of_the_day_before(
    company: Company, recorder: Recorder, hours: float, told: tuple[int, int]
) -> None:
    company.register()
    assert company.publish(timedelta(hours=hours)).waiting == {}
    assert (len(recorder.pagerduty.changes), len(recorder.datadog.events)) == told


def test_a_snapshot_that_cannot_be_read_for_a_while_makes_no_news(company: Company, recorder: Recorder) -> None:
    store, key = company.lender.store, layout.fleet_part(shard_of("other", VERSION, PARTS))
    company.register()
    company.publish(LATER)
    part = store.get(key)
    assert part is not None
    store.put(key, b"{")
    company.publish(LATER)
    store.put(key, part.data)
    company.publish(LATER)
    assert (len(recorder.pagerduty.changes), len(recorder.datadog.events)) == (2, 2)


def test_without_datadogs_key_only_pagerduty_is_told(lender: Lender, recorder: Recorder) -> None:
    company = Company(lender, {name: value for name, value in recorder.environ.items() if name != "DD_API_KEY"})
    company.register()
    assert company.publish().waiting == {}
    assert (len(recorder.pagerduty.changes), recorder.datadog.requests) == (1, 0)
    assert points(recorder, "") == {}
