"""Both services down for three days and then back: the publisher's rounds with the real clients, a fleet of stories."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from monitoring_assets import layout
from monitoring_assets.alerting.publisher import Round, publish, resolve_again
from monitoring_assets.refresh import Refresher
from monitoring_assets.results import Result, write_result
from resources.settings import Settings
from tests.alerting.conftest import NETS, shift
from tests.alerting.told import daily, points, score
from tests.conftest import Lender
from tests.recorders import Fault, Recorder, answer_lost, failing, unreachable
from tests.recorders.datadog import Tags

FIRST = date(2026, 1, 3)
STORIES: dict[str, tuple[str | None, ...]] = {
    "calm": ("ok", "ok", "ok", "ok", "ok"),
    "cleared": ("ok", "ok", "breach", "ok", "ok"),
    "corrected": ("ok", "ok", "breach", "ok", "ok"),
    "firing": ("ok", "ok", "ok", "breach", "breach"),
    "graver": ("ok", "ok", "warn", "warn", "breach"),
    "escalated": ("warn", "warn", "ok", "breach", "warn"),
    "resolved": ("ok", "breach", "ok", "ok", "ok"),
    "again": ("ok", "breach", "ok", "ok", "breach"),
    "late": ("ok", "ok", "warn", None, "breach"),
    "retired": ("ok", "breach", "breach", "breach"),
}
"""What is found in the partitions from `FIRST` on; nobody can be told of the last three before they are all there.

No more than ten models: of a larger fleet that breaches on one day some pages may be held back.
"""
BESIDES = {
    "corrected": (date(2026, 1, 5), date(2026, 1, 6), "ok"),
    "late": (date(2026, 1, 6), date(2026, 1, 7), "warn"),
}
"""A partition of a model that is judged together with a later one, for the first time or once more; what is found."""
RETIREMENT = date(2026, 1, 7)
"""The partition that is judged when the one whose story ends is retired."""

EVERY = timedelta(hours=6)
DOWN, BACK = (datetime(2026, 1, day, 6, tzinfo=UTC) for day in (5, 8))
"""The last round before the outage, in which the partition of 4 January is told, and the last one in it."""

TOLD_BEFORE = {
    "escalated": [("2026-01-04", ["warning"], False)],
    "resolved": [("2026-01-04", ["critical"], False)],
    "again": [("2026-01-04", ["critical"], False)],
    "retired": [("2026-01-04", ["critical"], False)],
}
TOLD_AFTERWARDS = {
    "firing": [("2026-01-06", ["critical"], False)],
    "graver": [("2026-01-06", ["critical"], False)],
    "escalated": [("2026-01-04", ["warning", "critical"], False)],
    "resolved": [("2026-01-04", ["critical"], True)],
    "again": [("2026-01-04", ["critical"], True), ("2026-01-07", ["critical"], False)],
    "late": [("2026-01-06", ["critical"], False)],
    "retired": [("2026-01-04", ["critical"], True)],
}


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client of Datadog tries as often as ever, without a break."""
    monkeypatch.setattr("resources.datadog.WAITS_S", (0.0, 0.0, 0.0))


class Company:
    """A lender whose models have their stories, and its publisher. Its clock begins where the first story does."""

    def __init__(self, folder: Path, recorder: Recorder) -> None:
        lake = f"file://{folder}/lake"
        own = {
            "SCOREWATCH_STORE": f"file://{folder}/store",
            "SCOREWATCH_REGISTRY": f"file://{folder}/registry",
            "SCOREWATCH_ALLOWED_SOURCES": lake,
            "SCOREWATCH_ENV": "test",
        }
        self.settings = Settings.from_environment(own | recorder.environ, folder)
        self.lender = Lender(self.settings, lake, folder)
        self.lender.now = midnight(FIRST) + timedelta(days=1)
        recorder.datadog.now = self.lender.clock
        self._deploy(*STORIES)

    def live(self, until: datetime) -> list[Round]:
        """Live until then: at six the partition of the day before is judged, every six hours is a round."""
        rounds = []
        while self.lender.now < until:
            self.lender.now += EVERY
            if self.lender.now.hour == 6:
                self._judge(self.lender.now.date() - timedelta(days=1))
            rounds.append(publish(self.settings, self.lender.clock))
        return rounds

    def _judge(self, day: date) -> None:
        number = (day - FIRST).days
        for model, story in STORIES.items():
            if number < len(story) and (state := story[number]):
                self._write(model, day, state)
        for model, (partition, beside, state) in BESIDES.items():
            if day == beside:
                self._write(model, partition, state)
        if day == RETIREMENT:
            self._deploy("retired", status="retired")

    def _write(self, model: str, day: date, state: str) -> None:
        net = net_of(day, state)
        found: dict[str, Any] = {
            "csi": (state, (shift("car_value", net), shift("salary_range", net / 2))),
            "psi": ("ok", (score(net / 100), score(net / 50, window=1))),
        }
        for kind, (status, metrics) in found.items():
            named = {"model": model, "version": "1", "partition": f"{day}", "kind": kind, "asset": kind}
            how = {"recorded_at": self.lender.now, "trigger": "arrival", "live": True}
            write_result(self.lender.store, Result(**named, **how, status=status, metrics=metrics), f"{day}")

    def _deploy(self, *models: str, **stated: Any) -> None:
        for model in models:
            document = self.lender.manifest(precomputed=True, model=model, version="1", tier=1, **stated)
            self.lender.deploy_manifest(yaml.safe_dump(document).encode(), model, "1")
        Refresher(self.settings, self.lender.clock).look()


def midnight(day: date) -> datetime:
    return datetime.combine(day, datetime.min.time(), UTC)


def net_of(day: date, state: str) -> float:
    """The net PSI of the worst column: another one every day."""
    return NETS[state] + day.day / 1_000


def incidents(recorder: Recorder) -> dict[str, list[tuple[str, list[str], bool]]]:
    """Of every model its incidents: the partition in the key, the severities that were told, whether it is resolved.

    A severity that was told several times in a row, because nobody knew whether it arrived, counts once.
    """
    found: dict[str, list[tuple[str, list[str], bool]]] = {}
    for page in recorder.pagerduty.pages:
        _, _, model, _, _, partition = page.dedup_key.split("/")
        told = list(dict.fromkeys(trigger["payload"]["severity"] for trigger in page.triggers))
        found.setdefault(model, []).append((partition, told, page.resolved))
    return found


def undisturbed(folder: Path, recorder: Recorder) -> tuple[Any, Any]:
    """Incidents and points of partitions where both services are up all the time; the recorder forgets them."""
    company = Company(folder, recorder)
    assert [each.waiting for each in company.live(BACK + EVERY) if each.waiting] == []
    found = incidents(recorder), daily(recorder)
    recorder.pagerduty.pages.clear()
    recorder.pagerduty.resolves.clear()
    recorder.datadog.points.clear()
    return found


def go_down(recorder: Recorder, fault: Fault | None) -> None:
    recorder.pagerduty.faults.lasting = recorder.datadog.faults.lasting = fault


def model_of(tags: Tags) -> str:
    return next(tag.removeprefix("model:") for tag in tags if tag.startswith("model:"))


def events(recorder: Recorder) -> tuple[int, int]:
    """How many triggers and resolves PagerDuty has taken."""
    return sum(len(page.triggers) for page in recorder.pagerduty.pages), len(recorder.pagerduty.resolves)


def assert_all_is_told(company: Company, recorder: Recorder) -> None:
    """Every partition's points are there as its last result has it; nothing waits, and nothing was given up."""
    found = {
        model_of(tags): {datetime.fromtimestamp(second, UTC): value for second, value in series.items()}
        for tags, series in recorder.datadog.series("scorewatch.daily.csi").items()
        if "feature:car_value" in tags
    }
    last = {
        model: {FIRST + timedelta(days=number): state for number, state in enumerate(story)}
        for model, story in STORIES.items()
    }
    for model, (partition, _, state) in BESIDES.items():
        last[model][partition] = state
    assert found == {
        model: {midnight(day) + timedelta(days=1): net_of(day, state) for day, state in states.items() if state}
        for model, states in last.items()
    }
    assert recorder.datadog.dropped == []
    assert company.lender.listed(layout.PENDING) == []
    assert company.lender.listed(layout.DEAD_LETTERS) == []
    assert len(company.lender.listed(layout.UNCOMPACTED)) == len(company.lender.listed("results/"))


def assert_it_stays_so(company: Company, recorder: Recorder) -> None:
    """The rounds of another day tell nothing new, and the day's sweep resolves nothing but what is resolved."""
    before = incidents(recorder), events(recorder), daily(recorder)
    assert [each.results for each in company.live(BACK + EVERY + timedelta(days=1))] == [0] * 4
    assert (incidents(recorder), events(recorder), daily(recorder)) == before
    assert resolve_again(company.settings, company.lender.clock) == len({*recorder.pagerduty.resolves})
    assert incidents(recorder) == before[0]


@pytest.mark.parametrize("down", [unreachable(), failing(429)], ids=["unreachable", "429 without a word of when"])
def test_after_three_days_without_them_people_are_paged_for_what_still_fires_and_for_nothing_else(
    down: Fault, tmp_path: Path, recorder: Recorder
) -> None:
    _, gauges = undisturbed(tmp_path / "undisturbed", recorder)
    company = Company(tmp_path / "down", recorder)
    company.live(DOWN)
    told_before = daily(recorder)
    assert incidents(recorder) == TOLD_BEFORE

    go_down(recorder, down)
    rounds = company.live(BACK)
    assert len(rounds) == 12
    assert all("Datadog" in each.waiting for each in rounds)
    assert incidents(recorder) == TOLD_BEFORE
    assert daily(recorder) == told_before

    go_down(recorder, None)
    [first] = company.live(BACK + EVERY)
    assert first.waiting == {}
    assert incidents(recorder) == TOLD_AFTERWARDS
    # Four are new and one is graver; three are over, and two more that may have been heard, for all we know.
    assert events(recorder) == (len(TOLD_BEFORE) + 4 + 1, 3 + 2)
    assert daily(recorder) == gauges
    assert_all_is_told(company, recorder)
    assert_it_stays_so(company, recorder)


def test_where_only_the_answers_are_lost_for_three_days_every_incident_is_the_same_as_without_an_outage(
    tmp_path: Path, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Or the round ends after some, and which ones these are is left to chance.
    monkeypatch.setattr("monitoring_assets.alerting.publisher.LASTS", len(STORIES))
    pages, gauges = undisturbed(tmp_path / "undisturbed", recorder)
    assert pages.keys() == TOLD_AFTERWARDS.keys() | {"cleared", "corrected"}
    company = Company(tmp_path / "lost", recorder)
    company.live(DOWN)

    go_down(recorder, answer_lost())
    assert all("Datadog" in each.waiting for each in company.live(BACK))
    assert [partition for partition, _, _ in incidents(recorder)["again"]] == ["2026-01-04"], "its resolve comes first"

    go_down(recorder, None)
    [first] = company.live(BACK + EVERY)
    assert first.waiting == {}
    assert incidents(recorder) == pages
    assert daily(recorder) == gauges
    assert_all_is_told(company, recorder)
    assert_it_stays_so(company, recorder)


def test_how_versions_stand_is_told_in_the_first_round_that_datadog_hears(tmp_path: Path, recorder: Recorder) -> None:
    company = Company(tmp_path, recorder)
    company.live(DOWN)
    go_down(recorder, unreachable())
    company.live(BACK)
    go_down(recorder, None)
    company.lender.now += timedelta(minutes=1)
    publish(company.settings, company.lender.clock)
    found = points(recorder, "scorewatch.now.")
    assert {at for _, _, at in found if at > DOWN} == {company.lender.now}, "what was is not made up afterwards"
    states = {
        model_of(tags): value
        for (metric, tags, at), value in found.items()
        if (metric, at) == ("state", company.lender.now)
    }
    firing = {model for model, told in TOLD_AFTERWARDS.items() if not told[-1][-1]}
    assert states == {model: 2.0 if model in firing else 0.0 for model in STORIES if model != "retired"}
