"""A policy replayed over results: which of them count, which episodes they make, and what would have paged."""

from __future__ import annotations

import math
import random
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monitoring_assets.alerting.about import About
from monitoring_assets.alerting.backtest import DAYS_A_MONTH, Replay, merged, replay
from monitoring_assets.alerting.policy import Limits, Policy
from monitoring_assets.past.rows import to_frame, to_line
from monitoring_assets.results import Metric, Result, write_result
from resources.object_store import LocalStore
from tests.alerting.conftest import MODEL, NETS, VERSION, Scene, shift

USUAL = Policy(tier=2)
NAME = (MODEL, VERSION)


def result(partition: str, status: str = "ok", *metrics: Metric, **more: Any) -> Result:
    usual = {"model": MODEL, "version": VERSION, "kind": "csi", "asset": "csi", "attempt": 1, "reason": ""}
    made = {"recorded_at": datetime(2026, 3, 1, tzinfo=UTC), "trigger": "backfill", "live": False}
    return Result(partition=partition, status=status, metrics=metrics, **usual | made | more)


def drift(day: int, state: str, **more: Any) -> Result:
    return result(key(day), "ok" if state == "hold" else state, shift("car_value", NETS[state]), **more)


def mean(day: int, net: float) -> Result:
    """The psi result of a score whose mean has moved."""
    metric = Metric(metric="mean_log_odds", column="score", window=1, value=0.1, net_value=net, n=900)
    psi = Metric(metric="psi", column="score", window=1, net_value=0.01, significant=False)
    return result(key(day), "ok", metric, psi, kind="psi", asset="psi")


def key(day: int) -> str:
    return f"{date(2025, 12, 31) + timedelta(days=day)}"


def course(*states: str, **more: Any) -> list[Result]:
    return [drift(day, state, **more) for day, state in enumerate(states, start=1)]


def replayed(results: list[Result], policy: Policy = USUAL, **others: Policy) -> Replay:
    policies = {NAME: policy} | {(model, VERSION): each for model, each in others.items()}
    return replay(to_frame([to_line(each) for each in results]), policies)


def pages(found: Replay) -> list[tuple[str, str, str | None]]:
    return [(str(each.paged), each.kind, each.closed) for each in found.pages]


def test_of_no_results_there_are_no_pages_and_no_rate() -> None:
    found = replayed([])
    assert (found.episodes, found.pages, found.model_months) == ((), (), 0.0)
    assert math.isnan(found.pages_per_model_month)


def test_an_episode_says_when_it_opened_paged_and_closed_and_why() -> None:
    found = replayed(course("ok", "warn", "ok", "warn", "breach", "hold", "ok", "ok", "ok"))
    [episode] = found.episodes
    assert (episode.model, episode.version, episode.kind) == (MODEL, VERSION, "drift")
    assert (episode.opened, episode.paged, episode.closed) == (key(4), key(4), key(8))
    assert (episode.severity, episode.page) == ("critical", "critical"), "the gravest of its time"
    assert episode.why == (
        "1 of 1 columns at or above 0.1, worst car_value 0.15; second breach of the last three partitions"
    ), "why it paged"


def test_what_is_open_at_the_end_is_not_closed() -> None:
    found = replayed(course("ok", "breach", "ok"))
    assert pages(found) == [(key(2), "drift", None)]


def test_an_episode_that_grows_into_a_page_pages_then() -> None:
    found = replayed(course("warn", "warn", "breach", "ok", "ok"), Policy(tier=3))
    [episode] = found.episodes
    assert (episode.opened, episode.paged, episode.severity) == (key(2), key(3), "critical")
    assert episode.why.endswith("worst car_value 1.82; critical at once")


@pytest.mark.parametrize(
    ("policy", "states"),
    [(Policy(tier=3), ("warn", "warn", "ok")), (Policy(role="challenger"), ("breach", "breach", "ok"))],
)
def test_what_nobody_is_woken_for_is_an_episode_and_no_page(policy: Policy, states: tuple[str, ...]) -> None:
    [episode] = replayed(course(*states), policy).episodes
    assert (episode.paged, episode.page) == (None, None)


def test_results_count_whether_they_were_live_or_not() -> None:
    states = ("ok", "breach", "ok", "ok", "ok", "ok", "warn", "warn")
    late, live = course(*states), course(*states, live=True, trigger="arrival")
    assert replayed(late) == replayed(live)
    assert len(replayed(late).pages) == 2


@pytest.mark.parametrize(
    ("first", "then", "paged"), [("breach", "ok", []), ("ok", "breach", [(key(1), "drift", None)])]
)
def test_only_the_newest_attempt_counts(first: str, then: str, paged: list[Any]) -> None:
    found = replayed([drift(1, then, attempt=10), drift(1, first, attempt=9)])
    assert pages(found) == paged


def test_of_several_assets_the_newest_attempt_of_each_counts() -> None:
    quality = {"kind": "quality", "partition": key(1)}
    results = [
        result(**quality, asset="features", attempt=1, status="breach", reason="12 duplicate keys"),
        result(**quality, asset="scores", attempt=2, status="ok"),
        result(**quality, asset="distribution", attempt=3, status="insufficient_data"),
    ]
    [page] = replayed(results).pages
    assert (page.kind, page.why) == ("quality", "12 duplicate keys; critical at once")


def test_psi_and_csi_of_a_partition_are_one_episode_and_quality_is_another() -> None:
    score = Metric(metric="psi", column="score", window=1, net_value=0.5, significant=True, status="breach")
    results = [
        drift(1, "breach"),
        result(key(1), "breach", score, kind="psi", asset="psi"),
        result(key(1), "breach", kind="quality", asset="features", reason="12 duplicate keys"),
    ]
    found = replayed(results)
    assert pages(found) == [(key(1), "drift", None), (key(1), "quality", None)]
    assert found.pages[0].why.startswith("2 of 2 columns at or above 0.25, worst car_value 1.82")


def test_versions_without_a_policy_are_left_out() -> None:
    others = [*course("ok", "breach", model="retired"), *course("breach", version="0.9")]
    found = replayed([*course("ok", "breach"), *others])
    assert [(each.model, each.version) for each in found.episodes] == [NAME]
    assert found.model_months == pytest.approx(2 / DAYS_A_MONTH)
    assert replayed(others).model_months == 0


def test_every_version_is_judged_by_its_own_policy() -> None:
    lenient = Policy(csi=Limits(0.2, 2.0))
    found = replayed([*course("breach"), *course("breach", model="other")], other=lenient)
    assert [each.model for each in found.pages] == [MODEL]
    found = replayed([*course("warn", "breach"), *course("warn", "warn", model="other")], other=USUAL)
    assert [(each.model, each.paged, each.page) for each in found.pages] == [
        (MODEL, key(2), "critical"),
        ("other", key(2), "warning"),
    ]


def test_what_is_said_of_a_version_as_a_whole_stands_apart_from_its_partitions() -> None:
    registry = {"partition": "registry", "kind": "pipeline", "asset": "reference"}
    came = [result(key(day), kind="quality", asset="features") for day in (1, 2, 3)]
    overdue = result(key(2), "stale", kind="pipeline", asset="source", reason="overdue")
    found = replayed([*came, overdue, result(status="quarantined", reason="no artefact", **registry)])
    assert [(each.opened, each.closed, each.why) for each in found.pages] == [
        (key(2), key(3), "overdue; at once"),
        ("registry", None, "no artefact; critical at once"),
    ]
    assert found.model_months == pytest.approx(3 / DAYS_A_MONTH), "it is no day"


def test_data_that_did_not_come_pages_until_a_partition_came() -> None:
    overdue = result(key(2), "stale", kind="pipeline", asset="source", reason="overdue since 06:00")
    came = [result(key(day), kind="quality", asset="features") for day in (1, 3)]
    [page] = replayed([overdue, *came]).pages
    assert (page.kind, page.paged, page.closed, page.page) == ("pipeline", key(2), key(3), "warning")
    assert page.why == "overdue since 06:00; at once"


def test_a_small_sustained_shift_of_a_tier_1_score_is_a_ticket() -> None:
    moved = [mean(day, 1.5) for day in range(1, 21)]
    [episode] = replayed(moved, Policy(tier=1)).episodes
    # CUSUM gains 1.5 - 0.5 a day and must reach 8.
    assert (episode.opened, episode.severity, episode.paged) == (key(8), "ticket", None)
    assert episode.why == "small and sustained"
    assert replayed(moved, Policy(tier=2)).episodes == ()


@pytest.mark.parametrize("role", ["champion", "challenger"])
def test_what_is_left_of_an_incident_is_a_ticket_and_the_next_one_is_another(role: str) -> None:
    moved = [mean(day, 1.5) for day in range(1, 21)]
    columns = [drift(day, "breach" if day in (11, 16) else "ok") for day in range(1, 21)]
    found = replayed([*moved, *columns], Policy(tier=1, role=role))
    assert [(each.opened, each.closed, each.severity) for each in found.episodes] == [
        (key(8), key(13), "critical"),
        (key(13), key(18), "critical"),
        (key(18), None, "ticket"),
    ]
    assert [each.paged for each in found.pages] == ([key(11), key(16)] if role == "champion" else [])
    assert found.episodes[-1].why == "small and sustained"


def test_segments_and_too_few_rows_decide_nothing() -> None:
    segment = shift("car_value", 1.82, segment="product=card")
    few = Metric(metric="csi", column="car_value", status="insufficient_data", net_value=1.82, significant=True)
    assert replayed([result(key(1), "breach", segment), result(key(2), "insufficient_data", few)]).episodes == ()


@pytest.mark.parametrize(
    ("partitions", "days"),
    [
        (["2026-01-01"], 1),
        (["2026-01-01", "2026-01-31"], 31),
        (["2026-01-01T05:00", "2026-01-01T06:00", "2026-01-02T00:00"], 2),
    ],
)
def test_a_version_is_monitored_from_its_first_to_its_last_partition(partitions: list[str], days: int) -> None:
    found = replayed([result(each, "ok", shift("car_value", 0.01)) for each in partitions])
    assert found.model_months == pytest.approx(days / DAYS_A_MONTH)


def test_the_rate_is_pages_by_months_of_all_versions() -> None:
    results = [*course(*["ok"] * 29, "breach"), *course(*["ok"] * 10, model="other")]
    found = replayed(results, other=USUAL)
    assert found.pages_per_model_month == pytest.approx(1 / (40 / DAYS_A_MONTH))


def test_lower_thresholds_may_make_one_page_of_two() -> None:
    states = ("breach", "hold", "hold", "hold", "breach")
    high = Policy(tier=2, csi=Limits(0.2, 0.25))
    assert len(replayed(course(*states), high).pages) == 2, "0.09 is clear"
    assert len(replayed(course(*states)).pages) == 1, "0.09 is not"


histories = st.lists(st.sampled_from([*NETS, None]), min_size=1, max_size=25)


@given(histories, st.sampled_from([0.05, 0.12, 0.25, 1.0]))
def test_whatever_is_critical_is_in_an_episode_that_has_paged(states: list[str | None], critical: float) -> None:
    results = [drift(day, state) for day, state in enumerate(states, start=1) if state is not None]
    found = replayed(results, Policy(tier=2, csi=Limits(0.04, critical)))
    for day, state in enumerate(states, start=1):
        if state is not None and NETS[state] >= critical:
            [around] = [each for each in found.episodes if each.opened <= key(day) <= (each.closed or "~")]
            assert around.severity == "critical"
            assert around.paged is not None
            assert around.paged <= key(day)


@given(st.dictionaries(st.sampled_from("abcd"), histories, min_size=1), st.randoms(use_true_random=False))
def test_a_fleet_in_any_order_is_replayed_as_its_versions_one_by_one(
    fleet: dict[str, list[str | None]], chance: random.Random
) -> None:
    policies = {(model, VERSION): Policy(tier=1 + number % 3) for number, model in enumerate(sorted(fleet))}
    by_model = {
        model: [drift(day, state, model=model) for day, state in enumerate(states, start=1) if state is not None]
        for model, states in sorted(fleet.items())
    }
    together = [each for results in by_model.values() for each in results]
    chance.shuffle(together)
    found = replay(to_frame([to_line(each) for each in together]), policies)
    one_by_one = merged(replay(to_frame([to_line(each) for each in own]), policies) for own in by_model.values())
    assert found.episodes == one_by_one.episodes
    assert found.pages == one_by_one.pages
    assert found.model_months == pytest.approx(one_by_one.model_months)


days = st.tuples(st.sampled_from([*NETS, None]), st.sampled_from([0.0, 0.3, 2.0, 5.0]))


@settings(max_examples=40, deadline=None)
@given(st.lists(days, min_size=1, max_size=20), st.sampled_from([1, 2, 3]))
def test_the_publisher_pages_what_the_backtest_says_had_each_day_been_live(
    history: list[tuple[str | None, float]], tier: int
) -> None:
    policy = Policy(tier=tier)
    with TemporaryDirectory() as folder:
        scene = Scene(LocalStore(Path(folder)), about=About(MODEL, VERSION, policy))
        results = []
        for day, (state, net) in enumerate(history, start=1):
            scene.now = datetime(2026, 1, 1, 6, tzinfo=UTC) + timedelta(days=day)
            results += [mean(day, net), *([drift(day, state)] if state else [])]
            for each in results[-2 if state else -1 :]:
                live = each.model_copy(update={"live": True, "trigger": "arrival", "recorded_at": scene.now})
                write_result(scene.store, live, each.partition)
            scene.look()
        found = replayed(results, policy)
    assert [each.details["partition"] for each in scene.pager.pages] == [each.paged for each in found.pages]
    assert [each.details["why"] for each in scene.pager.pages] == [each.why for each in found.pages]
    assert len(scene.pager.open) == sum(each.closed is None for each in found.pages)


def test_many_models_at_once_are_one_page_of_the_fleet() -> None:
    models = [f"model-{number:02d}" for number in range(12)]
    results = [drift(day, "breach" if day == 3 else "ok", model=model) for model in models for day in (1, 2, 3)]
    alone = drift(2, "breach", model="other")
    found = replayed([*results, alone], **dict.fromkeys([*models, "other"], USUAL))
    assert found.storms == {key(3): tuple(models)}
    assert pages(found) == [(key(2), "drift", None)]
    assert found.pages_per_model_month * found.model_months == pytest.approx(2)
    fewer = replayed(results[:30], **dict.fromkeys(models, USUAL))
    assert (fewer.storms, len(fewer.pages)) == ({}, 10)


def test_models_that_page_since_one_partition_are_one_page_whenever_their_episodes_opened() -> None:
    models = [f"model-{number:02d}" for number in range(12)]
    results = [
        drift(day, "breach" if day == 20 else "warn" if number < day <= number + 2 else "hold", model=model)
        for number, model in enumerate(models)
        for day in range(1, 21)
    ]
    found = replayed(results, **dict.fromkeys(models, Policy(tier=3)))
    assert len({each.opened for each in found.episodes}) == len(models)
    assert found.storms == {key(20): tuple(models)}
    assert found.pages == ()
