"""Asset graphs become DAGs: groups, stages, their order, and what is shown of them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from datetime import date, timedelta
from typing import Any

import dagster as dg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_bridge import schema
from airflow_bridge.plan import About
from airflow_bridge.schema import Asset, Before, DagPlan, Partitions, Resources, Task
from resources.errors import BadInput
from tests.airflow_bridge.graphs import DAILY, HOURLY, WEEKLY, checked, key, made, only, planned, refusal, spec

IMAGE = f"registry.example/models/score@sha256:{'ab' * 32}"


def preparing(group: str, stage: str, keys: Sequence[dg.AssetKey]) -> list[str]:
    return ["features", group, stage, *(each.path[-1] for each in keys)]


def test_an_image_that_an_asset_names_runs_before_its_stage_on_what_is_prepared() -> None:
    features = spec("ke/features", "features")
    scores = spec("ke/scores", "scores", deps=["ke/features"], metadata={"bridge/image": IMAGE})
    plan = only([made(features, scores)], preparing=preparing)

    before = Before(image=IMAGE, arguments=("features", "loans", "scores", "scores"))
    assert [task.before for task in plan.tasks] == [None, before]


@pytest.mark.parametrize(
    ("images", "more", "why"),
    [
        ((IMAGE,), {}, "to run before it: one image can, if anybody prepares for it"),
        ((IMAGE, IMAGE.replace("ab", "cd")), {"preparing": preparing}, "to run before it: one image can"),
        (("registry.example/score:latest",), {"preparing": preparing}, "cannot be shown by Airflow: image"),
    ],
)
def test_what_cannot_run_before_a_stage_is_refused(images: tuple[str, ...], more: dict[str, Any], why: str) -> None:
    assets = [spec(f"ke/{number}", "scores", metadata={"bridge/image": image}) for number, image in enumerate(images)]

    with pytest.raises(BadInput, match=f"The stage 'scores' of the DAG 'loans'.*{why}"):
        planned([made(*assets)], **more)


def test_a_small_graph_gives_exactly_this_plan() -> None:
    raw = dg.AssetSpec(key("lake/raw"), group_name="loans", partitions_def=DAILY)
    features = spec(
        "ke/features",
        "features",
        deps=["lake/raw"],
        description="Rows.",
        kinds={"parquet"},
        owners=["risk@lender.example"],
        tags={"demo/tier": "1", "bridge/cpu": "0.5", "bridge/memory-mib": "2048"},
        metadata={"link runbook": dg.MetadataValue.url("https://wiki.example/runbook")},
    )
    scores = spec("ke/scores", "scores", deps=["ke/features"], kinds={"onnx"}, tags={"demo/tier": "1"})
    psi = spec("ke/psi", "monitoring", deps=["ke/scores"], tags={"demo/tier": "1"})
    csi = spec("ke/csi", "monitoring", deps=["ke/features", "ke/scores"], tags={"demo/tier": "1"})
    checks = [checked("ke/features", "quality", blocking=True), checked("ke/csi", "csi")]

    found = planned([raw, made(features, scores, psi, csi, check_specs=checks, pool="loans")])

    assert found == [
        DagPlan(
            dag_id="loans",
            group="loans",
            owner="risk@lender.example",
            tags=("onnx", "parquet", "tier:1"),
            links={"runbook": "https://wiki.example/runbook"},
            partitions=Partitions(every="day", timezone="Africa/Nairobi", start=date(2026, 1, 1)),
            scheduled=False,
            tasks=(
                Task(
                    id="features",
                    assets=(
                        Asset(key="ke/features", description="Rows.", upstream=("lake/raw",), checks=("quality",)),
                    ),
                    arguments=("run", "loans", "features", "features"),
                    resources=Resources(cpu=0.5, memory_mib=2048),
                    pool="loans",
                ),
                Task(
                    id="scores",
                    assets=(Asset(key="ke/scores", upstream=("ke/features",)),),
                    arguments=("run", "loans", "scores", "scores"),
                    upstream=("features",),
                    pool="loans",
                ),
                Task(
                    id="monitoring",
                    assets=(
                        Asset(key="ke/csi", upstream=("ke/features", "ke/scores"), checks=("csi",)),
                        Asset(key="ke/psi", upstream=("ke/scores",)),
                    ),
                    arguments=("run", "loans", "monitoring", "csi", "psi"),
                    upstream=("features", "scores"),
                    pool="loans",
                ),
            ),
        )
    ]


def test_a_list_of_assets_and_definitions_of_them_give_the_same_bytes_in_any_order() -> None:
    first = made(spec("b", "two", deps=["a"]), spec("c", "two", deps=["b"]), name="first")
    second = made(spec("a", "one", kinds={"x", "y"}), name="second", check_specs=[checked("a", "q"), checked("a", "p")])
    sources = [[first, second], [second, first], dg.Definitions(assets=[first, second])]

    assert len({schema.encode(only(source)) for source in sources}) == 1
    assert only(sources[0]).tasks[0].assets[0].checks == ("p", "q")


def test_an_asset_without_a_stage_may_have_any_partitions() -> None:
    static = spec("regions", None, partitions_def=dg.StaticPartitionsDefinition(["ke"]))
    reference = spec("reference", None, partitions_def=None)

    plan = only([made(static, reference, name="others"), made(spec("a", deps=["regions", "reference"]))])

    assert [asset.key for asset in plan.assets] == ["a"]
    assert plan.tasks[0].assets[0].upstream == ("reference", "regions")


def test_groups_are_dags_and_a_slash_in_a_name_becomes_a_dot() -> None:
    found = planned([made(spec("a"), spec("b", group_name="lending/ke"), spec("c", group_name=None))])

    assert [(plan.dag_id, plan.group) for plan in found] == [
        ("default", "default"),
        ("lending.ke", "lending.ke"),
        ("loans", "loans"),
    ]


def test_a_group_with_several_partitions_is_several_dags_and_the_finest_keeps_the_name() -> None:
    later = dg.WeeklyPartitionsDefinition("2026-02-02", day_offset=1, timezone="Asia/Manila")
    found = {
        plan.dag_id: plan.partitions.every
        for plan in planned([made(spec("h", partitions_def=HOURLY), spec("d", deps=["h"]), spec("m", **monthly()))])
    }
    twice = [made(spec("d"), spec("w", partitions_def=WEEKLY), spec("v", partitions_def=later))]

    assert found == {"loans": "hour", "loans__day": "day", "loans__month": "month"}
    assert [plan.dag_id for plan in planned(twice)] == [
        "loans",
        "loans__week_2026-01-05_UTC",
        "loans__week_2026-02-02_Asia-Manila",
    ]


def monthly() -> dict[str, Any]:
    return {"partitions_def": dg.MonthlyPartitionsDefinition("2026-01-01")}


def test_tasks_of_different_dags_do_not_wait_for_each_other() -> None:
    hours, days = planned([made(spec("h", "hours", partitions_def=HOURLY), spec("d", "days", deps=["h"]))])

    assert [task.upstream for task in (*hours.tasks, *days.tasks)] == [(), ()]
    assert days.tasks[0].assets[0].upstream == ("h",)


def test_two_groups_that_would_give_a_dag_the_same_name_are_refused() -> None:
    message = refusal([made(spec("h", partitions_def=HOURLY), spec("d"), spec("x", group_name="loans__day"))])

    assert "'loans__day'" in message


def test_stages_that_wait_for_each_other_are_refused_with_the_assets_that_make_them() -> None:
    circle = [made(spec("a", "one"), spec("b", "two", deps=["a"]), spec("c", "one", deps=["b"]))]

    message = refusal(circle)

    assert "'b' of the stage 'two' needs 'a' of 'one'" in message
    assert "'c' of the stage 'one' needs 'b' of 'two'" in message


def test_an_order_holds_through_an_external_asset_in_between() -> None:
    view = dg.AssetSpec("view", deps=["a"])

    plan = only([made(spec("a", "z"), name="first"), view, made(spec("b", "a", deps=["view"]), name="second")])

    assert [(task.id, task.upstream) for task in plan.tasks] == [("z", ()), ("a", ("z",))]


def test_an_asset_in_between_that_only_dagster_makes_is_refused() -> None:
    between = made(spec("between", None, deps=["a"]), name="between")

    message = refusal([made(spec("a", "one"), name="first"), between, made(spec("b", "two", deps=["between"]))])

    assert "'between' of the group 'loans' is made of 'a', and 'b' of it" in message


def test_an_asset_made_of_its_own_past_waits_for_no_task() -> None:
    past = dg.AssetDep("a", partition_mapping=dg.TimeWindowPartitionMapping(start_offset=-1, end_offset=-1))

    (task,) = only([made(spec("a", deps=[past]))]).tasks

    assert (task.upstream, task.assets[0].upstream) == ((), ())


def test_an_input_without_a_prefix_is_found_in_its_group_as_dagster_does() -> None:
    common: dict[str, Any] = {"partitions_def": DAILY, "group_name": "loans", "key_prefix": "ke"}

    @dg.asset(**common, tags={"demo/stage": "z"})
    def a() -> None: ...

    @dg.asset(**common, tags={"demo/stage": "b"})
    def b(a: None) -> None: ...

    plan = only(dg.Definitions(assets=[a, b]))

    assert [(task.id, task.upstream) for task in plan.tasks] == [("z", ()), ("b", ("z",))]


def test_checks_are_listed_wherever_they_are_defined_and_what_they_need_comes_first() -> None:
    @dg.asset_check(asset="a", name="z_alone", blocking=True, additional_deps=["b"])
    def alone() -> dg.AssetCheckResult:
        return dg.AssetCheckResult(passed=True)

    assets = [made(spec("a", "one"), name="first", check_specs=[checked("a", "q")]), made(spec("b", "two"))]

    plan = only(dg.Definitions(assets=assets, asset_checks=[alone]))

    assert [(task.id, task.upstream) for task in plan.tasks] == [("two", ()), ("one", ("two",))]
    assert plan.tasks[1].assets[0].checks == ("q", "z_alone")
    assert plan.tasks[1].assets[0].upstream == ()


def test_the_pools_of_a_stage_have_to_be_one() -> None:
    pooled = [
        made(spec("a", "one"), name="first", pool="x"),
        made(spec("b", "one"), name="second"),
        made(spec("c", "two"), name="third", pool="y"),
    ]
    clash = [*pooled, made(spec("d", "one"), name="fourth", pool="y")]

    assert [(task.id, task.pool) for task in only(pooled).tasks] == [("one", "x"), ("two", "y")]
    message = refusal(clash)
    assert "The stage 'one' of the DAG 'loans', with the asset 'a', is in the pools 'x', 'y'" in message


def test_a_stage_asks_for_the_most_that_an_asset_in_it_asks_for() -> None:
    small, large = ({"bridge/cpu": c, "bridge/memory-mib": m} for c, m in (("0.5", "4096"), ("2", "512")))

    plan = only([made(spec("a", tags=small), spec("b", tags=large), spec("c"), spec("d", "other"))])

    assert [task.resources for task in plan.tasks] == [Resources(cpu=2, memory_mib=4096), None]
    assert plan.tags == ()


def test_the_deadline_is_the_shortest_freshness_window_without_the_partition_itself() -> None:
    windows = [dg.FreshnessPolicy.time_window(timedelta(hours=hours)) for hours in (30, 36)]

    plan = only([made(*(spec(f"a{i}", freshness_policy=window) for i, window in enumerate(windows)), spec("b"))])

    assert plan.sla_s == 6 * 3600
    assert only([made(spec("b"))]).sla_s is None


def test_an_owner_is_cleaned_for_it_is_only_shown() -> None:
    owners = ["Crédit, O'Brien {{ x }}", " "]

    plan = only([made(*(spec(f"a{i}", metadata={"owner": owner}) for i, owner in enumerate(owners)))])

    assert plan.owner == "Cr-dit- O-Brien -- x --"


def test_tags_of_a_dag_are_those_that_all_its_assets_share_and_every_kind() -> None:
    tags = {"demo/model": "m", "plain": ""}

    plan = only([made(spec("a", tags={**tags, "demo/tier": "1"}, kinds={"onnx"}), spec("b", tags=tags, kinds={"gx"}))])

    assert plan.tags == ("gx", "model:m", "onnx", "plain")


def test_owners_of_dagster_win_over_metadata_and_several_are_all_named() -> None:
    both = [spec("a", owners=["team:risk"], metadata={"owner": "x"}), spec("b", owners=["a@b.example"])]

    assert only([made(*both)]).owner == "a@b.example / team:risk"
    assert only([made(spec("a"))]).owner == DagPlan.model_fields["owner"].default


def test_links_that_differ_by_asset_say_whose_they_are() -> None:
    def linked(name: str, page: str) -> dg.AssetSpec:
        url = dg.MetadataValue.url
        return spec(name, metadata={"link docs": url(f"https://x.example/{page}"), "home": url("https://x.example")})

    assert only([made(linked("a", "1"), linked("b", "2"))]).links == {
        "docs: a": "https://x.example/1",
        "docs: b": "https://x.example/2",
        "home": "https://x.example",
    }


def test_what_the_caller_knows_of_a_group_is_in_its_plan() -> None:
    def about(group: str) -> About:
        return About(description=f"All of {group}.", links={"Dagit": "http://localhost:3000"}, waits=True)

    plan = only([made(spec("a"))], about=about)

    assert (plan.description, plan.waits) == ("All of loans.", True)
    assert plan.links == {"Dagit": "http://localhost:3000"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"description": "{{ macros }}"},
            "'ke/a' of the group 'loans' cannot be shown by Airflow: description: holds {{",
        ),
        ({"description": "x" * 4_001}, "'ke/a' of the group 'loans' cannot be shown by Airflow: description"),
        ({"description": "a\x00b"}, "'ke/a' of the group 'loans' cannot be shown by Airflow: description"),
        (
            {"metadata": {"x": dg.MetadataValue.url("javascript:alert(1)")}},
            "DAG 'loans' cannot be shown by Airflow: links",
        ),
    ],
)
def test_what_the_schema_refuses_is_told_with_the_asset_and_the_field(change: dict[str, Any], said: str) -> None:
    assert said in refusal([made(spec("ke/a", **change))])


@pytest.mark.parametrize("parts", [["a/b"], ["a", "b\nc"], ["ü"], ["x" * 101], ["a b"], [".."] * 9])
def test_keys_that_cannot_be_written_are_refused_in_one_line(parts: list[str]) -> None:
    @dg.asset(
        partitions_def=DAILY,
        group_name="loans",
        tags={"demo/stage": "all"},
        ins={"hostile": dg.AssetIn(key=dg.AssetKey(parts))},
    )
    def b(hostile: None) -> None: ...

    message = refusal([b])

    assert "\n" not in message
    assert "'b' of the group 'loans' cannot be shown by Airflow: upstream.0" in message


@pytest.mark.parametrize("stage", ["", "-x", "é" * 3])
def test_a_stage_that_is_no_name_of_a_task_is_refused_with_its_asset(stage: str) -> None:
    plain = made(spec("ke/a", None))
    # Dagster itself takes no such tag; a graph may come from elsewhere.
    hostile = plain.map_asset_specs(lambda each: each._replace(tags={"demo/stage": stage}))

    assert "with the asset 'ke/a', cannot be shown by Airflow: id" in refusal([hostile])


def test_a_graph_too_large_for_a_dag_is_refused() -> None:
    message = refusal([made(*(spec(f"a{number}", f"s{number}") for number in range(51)))])

    assert "The DAG 'loans' cannot be shown by Airflow: tasks" in message


@st.composite
def graphs(draw: st.DrawFn) -> list[tuple[set[int], str | None, bool]]:
    """Of each asset: those before it that it is made of, its stage, and whether Dagster makes it."""
    found = []
    for number in range(draw(st.integers(1, 8))):
        parents = draw(st.sets(st.integers(0, number - 1), max_size=3)) if number else set()
        stage = draw(st.sampled_from(["a", "b", "c", "d", None]))
        found.append((parents, stage, stage is not None or draw(st.booleans())))
    return found


@settings(max_examples=150, deadline=None)
@given(graphs())
def test_any_graph_gives_an_order_in_which_nothing_comes_before_what_it_is_made_of_or_is_refused(
    graph: list[tuple[set[int], str | None, bool]],
) -> None:
    assets: list[dg.AssetsDefinition | dg.AssetSpec] = []
    for number, (parents, stage, executable) in enumerate(graph):
        each = spec(f"n{number}", stage, deps=[f"n{parent}" for parent in sorted(parents)])
        assets.append(made(each, name=f"make_{number}") if executable else each)
    before = ancestors(parents for parents, _, _ in graph)
    if impossible(graph, before):
        assert re.search("wait for each other|has no stage", refusal(assets))
        return
    found = planned(assets)
    at = {asset.key: place for plan in found for place, task in enumerate(plan.tasks) for asset in task.assets}
    assert set(at) == {f"n{number}" for number, (_, stage, _) in enumerate(graph) if stage}
    for number, earlier in enumerate(before):
        for parent in earlier:
            if f"n{number}" in at and f"n{parent}" in at:
                assert at[f"n{parent}"] <= at[f"n{number}"]
    for plan in found:
        assert DagPlan.model_validate_json(schema.encode(plan)) == plan


def ancestors(parents: Iterable[set[int]]) -> list[set[int]]:
    found: list[set[int]] = []
    for each in parents:
        found.append(each.union(*(found[parent] for parent in each)))
    return found


def impossible(graph: list[tuple[set[int], str | None, bool]], before: list[set[int]]) -> bool:
    """Whether Dagster alone makes something between two stages, or the stages are in a circle."""
    stages = [stage for _, stage, _ in graph]
    for number, (_, stage, executable) in enumerate(graph):
        after = [other for other, earlier in enumerate(before) if number in earlier]
        if stage is None and executable and any(stages[i] for i in before[number]) and any(stages[i] for i in after):
            return True
    waits = {(stages[i], stages[j]) for i, earlier in enumerate(before) for j in earlier}
    edges = {(a, b) for a, b in waits if a and b and a != b}
    while len(edges) < len(edges := edges | {(a, d) for a, b in edges for c, d in edges if b == c}):
        pass
    return any(a == b for a, b in edges)
