"""Gauges: what Datadog is told of partitions, versions and the publisher, through outages and kills."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest

from monitoring_assets import layout
from monitoring_assets.alerting.about import About
from monitoring_assets.alerting.reconcile import Reconciled, Reconciler
from monitoring_assets.partitions import PartitionCalendar
from monitoring_assets.results import Metric, Result, write_result
from resources.datadog import Datadog, Gauge
from resources.delivery import Delivery
from resources.object_store import LocalStore, ObjectStore
from resources.secrets import Secret
from tests.alerting.conftest import MODEL, VERSION, Killed, MortalStore, Pager, Scene, Steps, shift
from tests.alerting.told import END, NAIROBI, TIER_1, daily, days, score, tags
from tests.deploy.test_datadog_boards import CATALOGUE
from tests.recorders import API_KEY, Recorder
from tests.recorders.faults import failing


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request to Datadog is made once."""
    monkeypatch.setattr("resources.datadog.WAITS_S", ())


@dataclass
class MortalDatadog:
    """The real client; there is a step before and after everything that is sent."""

    url: str
    steps: Steps = field(default_factory=Steps)

    def send(self, gauges: Sequence[Gauge]) -> Delivery:
        self.steps.step()
        delivery = Datadog(Secret(API_KEY), site="datadoghq.com", url=self.url).send(gauges)
        self.steps.step()
        return delivery


def look(scene: Scene, recorder: Recorder, steps: Steps | None = None) -> Reconciled:
    datadog = MortalDatadog(recorder.url, steps or Steps())
    publisher = Reconciler(scene.store, scene.pager, lambda: scene.now, "test", "http://dagit", datadog=datadog)
    return publisher.reconcile(scene.about)


def judged(scene: Scene) -> None:
    """One partition with everything that gauges are made of, and much that they are not."""
    segment = {"segment": "region=north"}
    psi = (
        score(0.31),
        score(0.2, window=1, value=0.22, band=0.03),
        score(0.4, **segment),
        Metric(metric="mean_log_odds", value=1),
        Metric(metric="score_bins", column="score", window=1, counts=(6, 0, 2), reference_counts=(50, 25, 25)),
    )
    scene.day(1, "breach", kind="psi", asset="psi", metrics=psi)
    longer = shift("income", 0.19, window=7)
    too_few = Metric(metric="csi", column="age", window=28, value=0.5, status="insufficient_data")
    csi = (shift("income", 0.09), longer, shift("car_value", 1.82), shift("income", 0.5, **segment), too_few)
    scene.day(1, "breach", metrics=csi)
    rows = Metric(metric="rows", value=912, n=912)
    counted = Metric(metric="rows", value=900, n=900)
    null_rate = Metric(metric="null_rate", column="income", value=0.12, n=912, status="warn")
    tail = Metric(metric="tail_low", column="income", value=0.3, n=912, status="warn")
    scene.day(1, "ok", kind="quality", asset="features", metrics=(rows,))
    scene.day(1, "warn", kind="quality", asset="distribution", metrics=(counted, null_rate, tail))
    scene.write("registry", "ok", kind="pipeline", asset="reference", trigger="arrival", live=True)


def bins(about: About = NAIROBI) -> dict[Any, float]:
    """What is told of the bins of `judged`."""
    shares = {"current": (0.75, 0.0, 0.25), "reference": (0.5, 0.25, 0.25)}
    return {
        ("score.bin", tags(about, bin=f"0{number}", population=population), END): share
        for population, found in shares.items()
        for number, share in enumerate(found)
    }


def test_a_partition_is_told_at_its_end_and_its_features_too_where_it_is_of_tier_1(
    scene: Scene, recorder: Recorder
) -> None:
    scene.about = TIER_1
    judged(scene)
    assert look(scene, recorder).waiting == ""
    assert daily(recorder) == {
        ("psi", tags(TIER_1), END): 0.31,
        ("psi.raw", tags(TIER_1), END): 0.22,
        ("psi.band", tags(TIER_1), END): 0.03,
        **bins(TIER_1),
        ("rows", tags(TIER_1), END): 912,
        ("csi", tags(TIER_1, feature="income"), END): 0.09,
        ("csi", tags(TIER_1, feature="car_value"), END): 1.82,
        ("null_rate", tags(TIER_1, feature="income"), END): 0.12,
    }


def test_of_a_partition_of_tier_2_nothing_is_told_by_feature(scene: Scene, recorder: Recorder) -> None:
    scene.about = NAIROBI
    judged(scene)
    look(scene, recorder)
    assert daily(recorder) == {
        ("psi", tags(), END): 0.31,
        ("psi.raw", tags(), END): 0.22,
        ("psi.band", tags(), END): 0.03,
        **bins(),
        ("rows", tags(), END): 912,
    }


def test_all_that_is_told_of_a_partition_has_the_names_and_tags_that_the_dashboards_ask_for(
    scene: Scene, recorder: Recorder
) -> None:
    scene.about = TIER_1
    judged(scene)
    look(scene, recorder)
    told: dict[str, set[frozenset[str]]] = {}
    for metric, found, _ in recorder.datadog.points:
        told.setdefault(metric, set()).add(frozenset(tag.partition(":")[0] for tag in found))
    assert told == {name: {wanted} for name, wanted in CATALOGUE.items() if name.startswith("scorewatch.daily.")}


def test_of_a_result_from_before_bands_and_of_no_rows_nothing_is_made_up(scene: Scene, recorder: Recorder) -> None:
    scene.about = NAIROBI
    empty = Metric(metric="score_bins", column="score", window=1, n=0, counts=(0, 0), reference_counts=(3, 1))
    scene.day(1, "ok", kind="psi", asset="psi", metrics=(score(0.2, window=1, value=0.22), empty))
    look(scene, recorder)
    assert daily(recorder) == {
        ("psi", tags(), END): 0.2,
        ("psi.raw", tags(), END): 0.22,
        ("score.bin", tags(bin="00", population="reference"), END): 0.75,
        ("score.bin", tags(bin="01", population="reference"), END): 0.25,
    }


def test_an_hour_is_told_at_its_end(scene: Scene, recorder: Recorder) -> None:
    scene.about = replace(TIER_1, calendar=PartitionCalendar("hour", "UTC", date(2026, 1, 1)))
    named = {"model": MODEL, "version": VERSION, "kind": "csi", "asset": "csi", "recorded_at": scene.now}
    result = Result(
        **named, partition="2026-01-01-05:00", status="ok", trigger="arrival", live=True, metrics=(shift("a", 0.1),)
    )
    write_result(scene.store, result, "2026-01-01-05-00")
    look(scene, recorder)
    assert daily(recorder) == {("csi", tags(TIER_1, feature="a"), datetime(2026, 1, 1, 6, tzinfo=UTC)): 0.1}


def test_of_several_attempts_the_newest_live_one_is_told_and_what_is_not_live_never(
    scene: Scene, recorder: Recorder
) -> None:
    scene.about = TIER_1
    scene.day(1, "warn")
    scene.day(1, "breach")
    scene.day(1, "ok", trigger="catch-up", live=False)
    scene.day(2, "breach", trigger="backfill", live=False)
    look(scene, recorder)
    assert daily(recorder) == {
        ("csi", tags(TIER_1, feature="car_value"), END): 1.82,
        ("csi", tags(TIER_1, feature="salary_range"), END): 0.91,
    }


def test_without_datadog_nothing_waits_and_without_a_calendar_nothing_is_told(scene: Scene, recorder: Recorder) -> None:
    judged(scene)
    assert look(scene, recorder).results == 5
    scene.about = TIER_1
    scene.day(2, "breach")
    assert scene.look().results == 1
    assert recorder.datadog.requests == 0


def test_while_datadog_is_down_pages_are_sent_and_afterwards_every_point(scene: Scene, recorder: Recorder) -> None:
    scene.about = TIER_1
    recorder.datadog.faults.lasting = failing(503)
    for day, state in enumerate(["ok", "breach", "ok", "ok", "breach"], start=1):
        scene.day(day, state)
        done = look(scene, recorder)
        assert "503" in done.waiting
        assert done.results == 0
        assert len(scene.pager.pages) == (day >= 2) + (day == 5), "no page waits for it"
        assert bool(scene.pager.open) == (day in (2, 3, 5)), "and no resolve"
    assert daily(recorder) == {}
    recorder.datadog.faults.lasting = None
    assert look(scene, recorder).results == 5
    assert days(recorder) == [1, 2, 3, 4, 5]
    assert list(scene.store.list(layout.PENDING)) == []
    assert len(scene.pager.pages) == 2


def test_what_datadog_refuses_is_a_dead_letter_and_is_not_sent_again(scene: Scene, recorder: Recorder) -> None:
    scene.about = TIER_1
    recorder.datadog.faults.add(failing(400))
    scene.day(1, "breach")
    assert look(scene, recorder).results == 1
    [letter] = scene.store.list(layout.DEAD_LETTERS)
    blob = scene.store.get(letter.key)
    assert blob is not None
    assert b"400" in blob.data
    assert b"2026-01-01T21:00:00+00:00" in blob.data
    look(scene, recorder)
    assert daily(recorder) == {}


STORY: list[Callable[[Scene], Any]] = [
    lambda scene: scene.day(1, "ok"),
    lambda scene: (scene.day(2, "breach"), scene.day(2, "ok", kind="quality", asset="features")),
    lambda scene: scene.day(3, "ok"),
    lambda scene: (scene.day(4, "ok"), scene.day(5, "warn")),
]


def killed_at(number: int, folder: Path, recorder: Recorder) -> tuple[Scene, int]:
    """The story, in which the publisher is killed before its step of a number; and how many steps there were."""
    recorder.datadog.points.clear()
    plain, steps = LocalStore(folder), Steps(kill_at=number)
    mortal: ObjectStore = MortalStore(plain, steps)  # type: ignore[assignment]
    scene = Scene(plain, Pager(steps), TIER_1)
    for chapter in STORY:
        scene.store = plain
        chapter(scene)
        scene.store = mortal
        try:
            look(scene, recorder, steps)
        except Killed:
            steps.kill_at = None
            look(scene, recorder, steps)
    return scene, steps.taken


def test_a_publisher_that_is_killed_at_any_step_leaves_every_point_and_one_page(
    tmp_path: Path, recorder: Recorder
) -> None:
    _, steps = killed_at(10_000, tmp_path / "undisturbed", recorder)
    expected = daily(recorder)
    assert days(recorder) == [1, 2, 3, 4, 5]
    assert steps > 25
    for number in range(steps):
        scene, _ = killed_at(number, tmp_path / str(number), recorder)
        assert daily(recorder) == expected
        assert len(scene.pager.pages) == 1
        assert not scene.pager.open
        assert list(scene.store.list(layout.PENDING)) == []
