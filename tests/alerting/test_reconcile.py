"""The reconciler: one page an episode and every resolve, through faults, corrections, kills and rivals."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest

from monitoring_assets import layout
from monitoring_assets.alerting.policy import Policy
from monitoring_assets.alerting.reconcile import LOOK
from monitoring_assets.alerting.state import StateFile
from resources.delivery import Later, Refused
from resources.errors import InfrastructureError
from resources.object_store import LocalStore
from tests.alerting.conftest import MODEL, VERSION, Killed, MortalStore, Pager, Scene, Steps, shift


def course(scene: Scene, *states: str, first: int = 1) -> None:
    for number, state in enumerate(states):
        scene.day(first + number, state)
        scene.look()


def test_a_breach_pages_once_with_what_a_person_needs_and_is_resolved_when_it_cleared(scene: Scene) -> None:
    course(scene, "ok", "ok", "breach", "breach", "breach")
    [page] = scene.pager.pages
    assert page.severity == "critical"
    assert page.dedup_key == f"scorewatch/test/{MODEL}/{VERSION}/drift/2026-01-03"
    assert page.summary == (
        "ke-nano-loan 3.2.0: drift critical on 2026-01-03: 2 of 2 columns at or above 0.25, worst car_value 1.82; "
        "critical at once"
    )
    assert list(page.details["worst columns"]) == ["car_value", "salary_range"]
    assert page.details["worst columns"]["car_value"]["net psi"] == 1.82
    assert page.details["owner"] == "credit-risk@lender.example"
    assert [text for _, text in page.links] == ["checks in Dagit", "runbook"]
    assert scene.pager.events == [page]
    course(scene, "ok", first=6)
    assert scene.pager.open
    course(scene, "ok", first=7)
    assert not scene.pager.open
    assert [each.action for each in scene.pager.events] == ["trigger", "resolve"]


def test_a_warning_that_turns_critical_escalates_the_same_incident(scene: Scene) -> None:
    course(scene, "warn", "ok", "warn")
    [page] = scene.pager.pages
    assert page.severity == "warning"
    assert "second breach of the last three partitions" in page.summary
    course(scene, "breach", "warn", "warn", first=4)
    assert scene.pager.pages == [page]
    assert [(each.severity, each.dedup_key) for each in scene.pager.events] == [
        ("warning", page.dedup_key),
        ("critical", page.dedup_key),
    ]


def test_results_that_are_published_are_handed_over_to_compaction(scene: Scene) -> None:
    course(scene, "ok", "breach")
    assert list(scene.store.list(layout.PENDING)) == []
    assert [info.key for info in scene.store.list(layout.UNCOMPACTED)] == [
        layout.uncompacted(MODEL, VERSION, f"2026-01-0{day}", "csi", 1) for day in (1, 2)
    ]
    before = len(scene.pager.events)
    assert scene.look().results == 0
    assert len(scene.pager.events) == before


@pytest.mark.parametrize("trigger", ["backfill", "catch-up", "onboarding"])
def test_what_is_not_live_never_pages(scene: Scene, trigger: str) -> None:
    for day in range(1, 9):
        scene.day(day, "breach", trigger=trigger, live=False)
        scene.look()
    assert scene.pager.events == []


def test_a_correction_that_is_not_live_clears_and_never_raises(scene: Scene) -> None:
    course(scene, "ok", "breach")
    scene.day(2, "ok", trigger="catch-up", live=False)
    scene.look()
    assert not scene.pager.open, "the only breach is gone"
    course(scene, "warn", first=3)
    scene.day(3, "breach", trigger="catch-up", live=False)
    course(scene, "ok", "ok", first=4)
    assert len(scene.pager.pages) == 1


def test_what_a_correction_cleared_is_not_raised_by_the_next_one(scene: Scene) -> None:
    course(scene, "ok", "breach")
    for state in ("ok", "breach", "insufficient_data", "warn"):
        scene.day(2, state, trigger="catch-up", live=False)
        scene.look()
        assert not scene.pager.open
    assert len(scene.pager.pages) == 1
    scene.day(2, "breach", reason="the data came again")
    scene.look()
    assert len(scene.pager.pages) == 2, "a live one does"


def test_corrections_of_days_between_two_breaches_leave_the_incident_that_is_open(scene: Scene) -> None:
    course(scene, "breach", "ok", "hold", "breach")
    scene.day(3, "ok", trigger="backfill", live=False)
    scene.look()
    course(scene, "breach", first=5)
    assert [each.dedup_key[-10:] for each in scene.pager.events] == ["2026-01-01"]
    course(scene, "ok", "ok", first=6)
    assert not scene.pager.open


def test_what_only_a_correction_of_the_past_would_open_waits_for_a_live_result_that_raises_it(scene: Scene) -> None:
    course(scene, "warn", "warn", "ok", "ok", "warn", "warn")
    assert not scene.pager.open, "a warning that soon after opens nothing"
    scene.day(1, "ok", trigger="backfill", live=False)
    course(scene, "hold", first=7)
    assert not scene.pager.open, "now nothing came before it, and yet nobody is woken for it"
    course(scene, "warn", first=8)
    assert len(scene.pager.open) == 1


@pytest.mark.parametrize(
    ("kind", "raising", "others"),
    [("csi", "csi", ("psi", "psi")), ("quality", "distribution", ("quality", "features"))],
)
def test_a_partition_that_is_judged_in_part_clears_nothing(
    scene: Scene, kind: str, raising: str, others: tuple[str, str]
) -> None:
    other = {"kind": others[0], "asset": others[1]}
    for day, state in ((1, "breach"), (2, "ok")):
        scene.day(day, "ok", **other)
        scene.day(day, state, kind=kind, asset=raising)
        scene.look()
    for day in (3, 4):
        scene.day(day, "ok", **other)
        scene.look()
        assert scene.pager.open, "what raised it has not said that it is over"
    scene.day(3, "breach", kind=kind, asset=raising)
    scene.look()
    assert [each.action for each in scene.pager.events] == ["trigger"]
    for day in (4, 5):
        scene.day(day, "ok", **other)
        scene.day(day, "ok", kind=kind, asset=raising)
        scene.look()
    assert not scene.pager.open
    assert len(scene.pager.pages) == 1


def test_once_an_episode_is_over_other_assets_alone_are_clear_again(scene: Scene) -> None:
    score = {"kind": "psi", "asset": "psi"}
    course(scene, "breach", "ok", "ok")
    for day, state in enumerate(("breach", "ok", "ok"), start=4):
        scene.day(day, state, **score)
        scene.look()
    assert [each.action for each in scene.pager.events] == ["trigger", "resolve"] * 2


def test_a_clear_partition_that_turns_out_to_say_nothing_clears_nothing(scene: Scene) -> None:
    course(scene, "breach", "ok")
    scene.day(3, "ok", trigger="catch-up", live=False)
    scene.day(3, "insufficient_data", trigger="catch-up", live=False)
    scene.look()
    assert scene.pager.open


def test_an_incident_stays_the_same_when_the_partition_that_opened_it_is_corrected(scene: Scene) -> None:
    course(scene, "ok", "breach", "breach", "breach")
    scene.day(2, "ok", trigger="catch-up", live=False)
    scene.look()
    course(scene, "breach", first=5)
    assert len(scene.pager.pages) == 1
    course(scene, "ok", "ok", first=6)
    assert not scene.pager.open


def test_an_episode_after_another_is_an_incident_of_its_own(scene: Scene) -> None:
    course(scene, "breach", "ok", "ok", "ok", "breach")
    assert [each.dedup_key[-10:] for each in scene.pager.pages] == ["2026-01-01", "2026-01-05"]
    assert list(scene.pager.open) == [scene.pager.pages[1].dedup_key]


def test_a_look_after_a_long_pause_closes_the_old_incident_and_opens_the_new_one(scene: Scene) -> None:
    course(scene, "breach")
    for day, state in enumerate(["ok", "ok", "ok", "breach"], start=2):
        scene.day(day, state)
    scene.look()
    assert [(each.action, each.dedup_key[-10:]) for each in scene.pager.events] == [
        ("trigger", "2026-01-01"),
        ("resolve", "2026-01-01"),
        ("trigger", "2026-01-05"),
    ]


@pytest.mark.parametrize(
    ("policy", "state", "expected"),
    [
        (Policy(role="challenger"), "breach", None),
        (Policy(role="shadow"), "breach", None),
        (Policy(tier=3), "breach", "critical"),
        (Policy(tier=3), "warn", None),
        (Policy(tier=2), "warn", "warning"),
    ],
)
def test_only_champions_page_and_of_tier_3_only_what_is_critical(
    scene: Scene, policy: Policy, state: str, expected: str | None
) -> None:
    scene.about = scene.about.__class__(MODEL, VERSION, policy)
    course(scene, state, state, state)
    assert [each.severity for each in scene.pager.pages] == ([expected] if expected else [])
    assert StateFile(scene.store, MODEL, VERSION).read().open, "but it is an episode all the same"


def test_quality_and_the_pipeline_have_incidents_of_their_own(scene: Scene) -> None:
    scene.day(1, "breach")
    scene.day(1, "breach", kind="quality", asset="features", reason="duplicate keys")
    scene.day(2, "stale", kind="pipeline", asset="source", reason="no data 6 h after the partition's end")
    scene.write(
        "registry",
        "quarantined",
        kind="pipeline",
        asset="reference",
        reason="no column x",
        trigger="arrival",
        live=True,
    )
    scene.look()
    assert {each.dedup_key.split("/", 4)[4]: each.severity for each in scene.pager.pages} == {
        "drift/2026-01-01": "critical",
        "quality/2026-01-01": "critical",
        "pipeline/2026-01-02": "warning",
        "pipeline/registry": "critical",
    }
    scene.write("registry", "ok", kind="pipeline", asset="reference", trigger="arrival", live=True)
    scene.day(3, "ok", kind="quality", asset="features")
    scene.look()
    assert sorted(key.split("/", 4)[4] for key in scene.pager.open) == ["drift/2026-01-01", "quality/2026-01-01"]


@pytest.mark.parametrize(
    ("asset", "severity"), [("manifest", "warning"), ("reference", "critical"), ("definitions", "critical")]
)
def test_what_keeps_a_whole_version_back_is_critical_and_what_keeps_a_change_back_is_not(
    scene: Scene, asset: str, severity: str
) -> None:
    scene.write("registry", "quarantined", kind="pipeline", asset=asset, reason="bad", trigger="arrival", live=True)
    scene.look()
    assert [each.severity for each in scene.pager.pages] == [severity]


def test_a_silence_holds_triggers_and_no_resolves(scene: Scene) -> None:
    course(scene, "breach")
    for day in (2, 3):
        scene.day(day, "ok")
        scene.look(silenced=True)
    assert not scene.pager.open
    scene.day(4, "breach")
    scene.look(silenced=True)
    assert len(scene.pager.pages) == 1
    scene.look()
    assert len(scene.pager.pages) == 2, "what still fires when the silence ends is told"


def test_a_service_that_is_down_loses_nothing_and_hears_nothing_of_what_cleared_meanwhile(scene: Scene) -> None:
    course(scene, "breach")
    scene.pager.answer = lambda _: Later("down", 30.0)
    scene.day(2, "breach", kind="quality", asset="features")
    assert scene.look().waiting == "down"
    assert list(scene.store.list(layout.PENDING)), "whoever looks for work finds it"
    for day, state in enumerate(["ok", "ok", "ok", "breach"], start=3):
        scene.day(day, state)
        scene.day(day, "ok", kind="quality", asset="features")
        assert scene.look().waiting == "down"
    scene.pager.answer = lambda _: None
    assert scene.look().waiting == ""
    assert [each.dedup_key[-16:] for each in scene.pager.pages] == ["drift/2026-01-01", "drift/2026-01-06"]
    assert list(scene.pager.open) == [scene.pager.pages[1].dedup_key]
    assert list(scene.store.list(layout.PENDING)) == []


def test_what_the_service_refuses_is_a_dead_letter_and_keeps_nothing_else_back(scene: Scene) -> None:
    scene.pager.answer = lambda event: Refused("400: no") if "/drift/" in event.dedup_key else None
    scene.day(1, "breach")
    scene.day(1, "breach", kind="quality", asset="features")
    done = scene.look()
    assert (done.waiting, done.sent) == ("", 1)
    [letter] = scene.store.list(layout.DEAD_LETTERS)
    blob = scene.store.get(letter.key)
    assert blob is not None
    assert b"400: no" in blob.data
    scene.pager.answer = lambda _: None
    scene.look()
    assert len(scene.pager.pages) == 1, "it is not tried again"
    scene.day(2, "breach")
    scene.look()
    assert len(scene.pager.pages) == 2, "before there is news of it"
    assert list(scene.store.list(layout.DEAD_LETTERS)) == []


def test_a_marker_without_a_result_waits_and_is_forgotten_after_a_week(scene: Scene) -> None:
    course(scene, "ok")
    marker = layout.pending(MODEL, VERSION, "2026-01-02", "csi", 1)
    scene.store.put(marker, b"")
    scene.look()
    assert [info.key for info in scene.store.list(layout.PENDING)] == [marker]
    info = scene.store.head(marker)
    assert info is not None
    scene.now = info.last_modified + timedelta(days=8)
    scene.look()
    assert list(scene.store.list(layout.PENDING)) == []


def test_a_damaged_result_alerts_nobody_and_keeps_no_other_back(scene: Scene) -> None:
    scene.day(1, "ok")
    scene.store.put(layout.result(MODEL, VERSION, "2026-01-01", "csi", 1), b"{")
    course(scene, "breach", first=2)
    assert len(scene.pager.pages) == 1


def test_a_damaged_state_is_an_error_and_no_second_page(scene: Scene) -> None:
    course(scene, "breach")
    scene.store.put(layout.alerts(MODEL, VERSION), b"{}x")
    scene.day(2, "breach")
    with pytest.raises(InfrastructureError, match=r"alerts/ke-nano-loan/3\.2\.0\.json"):
        scene.look()
    assert len(scene.pager.pages) == 1


def test_months_of_partitions_keep_the_state_small_and_the_episode_open(scene: Scene) -> None:
    scene.day(1, "breach")
    for day in range(2, 31):
        scene.day(day, "hold")
    scene.look()
    for month in range(2, 6):
        for day in range(1, 29):
            partition = f"2026-{month:02d}-{day:02d}"
            scene.write(
                partition, "ok", kind="csi", asset="csi", trigger="arrival", live=True, metrics=[shift("a", 0.09)]
            )
        scene.look()
    state = StateFile(scene.store, MODEL, VERSION).read()
    assert len(state.rows) <= 35
    assert len(scene.pager.pages) == 1
    assert scene.pager.open
    for day in (29, 30):
        done = {"kind": "csi", "asset": "csi", "trigger": "arrival", "live": True, "metrics": [shift("a", 0.01)]}
        scene.write(f"2026-05-{day}", "ok", **done)
    scene.look()
    assert not scene.pager.open


def test_a_past_of_thousands_is_taken_in_by_parts_the_newest_first(scene: Scene) -> None:
    last = date(2026, 1, 31)
    done = {"kind": "csi", "asset": "csi", "metrics": [shift("a", 1.82)]}
    for days in range(1, 2 * LOOK + 50):
        scene.write(str(last - timedelta(days=days)), "breach", trigger="backfill", live=False, **done)
    scene.write(str(last), "breach", trigger="arrival", live=True, **done)

    def waiting() -> list[str]:
        return [info.key.split("/")[-3] for info in scene.store.list(layout.PENDING)]

    assert scene.look().results == LOOK
    assert len(scene.pager.pages) == 1
    assert len(waiting()) == LOOK + 50
    assert max(waiting()) == str(last - timedelta(days=LOOK))
    assert [scene.look().results for _ in range(3)] == [LOOK, 50, 0]
    assert waiting() == []
    assert scene.pager.events == scene.pager.pages


def test_live_results_that_waited_for_long_say_what_is_so_now_and_not_what_was(scene: Scene) -> None:
    first, broken = date(2026, 1, 1), range(LOOK - 40, LOOK + 5)
    for days in range(LOOK + 50):
        status, net = ("breach", 1.82) if days in broken else ("ok", 0.01)
        done = {"kind": "csi", "asset": "csi", "trigger": "arrival", "live": True, "metrics": [shift("a", net)]}
        scene.write(str(first + timedelta(days=days)), status, **done)
    assert [scene.look().results for _ in range(2)] == [LOOK, 50]
    assert scene.pager.events == []


STORY: list[Callable[[Scene], Any]] = [
    lambda scene: scene.day(1, "ok"),
    lambda scene: (scene.day(2, "warn"), scene.day(2, "breach", kind="quality", asset="features")),
    lambda scene: scene.day(3, "warn"),
    lambda scene: scene.day(4, "breach"),
    lambda scene: scene.day(5, "ok"),
    lambda scene: scene.day(6, "ok"),
]


def killed_at(number: int, folder: Path) -> tuple[Scene, int]:
    """The story, in which the publisher is killed before its step of a number; and how many steps there were."""
    plain, steps = LocalStore(folder), Steps(kill_at=number)
    scene = Scene(MortalStore(plain, steps), Pager(steps))  # type: ignore[arg-type]
    for chapter in STORY:
        scene.store = plain
        chapter(scene)
        scene.store = MortalStore(plain, steps)  # type: ignore[assignment]
        try:
            scene.look()
        except Killed:
            steps.kill_at = None
            scene.look()
    return scene, steps.taken


def test_a_publisher_that_is_killed_at_any_step_leaves_one_page_an_episode_and_all_resolved(tmp_path: Path) -> None:
    scene, steps = killed_at(10_000, tmp_path / "undisturbed")
    expected = [each.dedup_key for each in scene.pager.pages]
    assert len(expected) == 2
    assert steps > 30
    for number in range(steps):
        scene, _ = killed_at(number, tmp_path / str(number))
        assert [each.dedup_key for each in scene.pager.pages] == expected
        assert [each.dedup_key.split("/")[4] for each in scene.pager.open.values()] == ["quality"]
        assert "critical" in [each.severity for each in scene.pager.events if "drift" in each.dedup_key]
        assert list(scene.store.list(layout.PENDING)) == []
        assert len(list(scene.store.list(layout.UNCOMPACTED))) == 7
