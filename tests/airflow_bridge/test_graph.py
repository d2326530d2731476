"""What Airflow can run of a Dagster graph; the rest is refused with a message that names the asset."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, timedelta
from typing import Any

import dagster as dg
import pytest

from airflow_bridge.schema import Partitions
from tests.airflow_bridge.graphs import DAILY, HOURLY, WEEKLY, key, made, only, refusal, spec


@pytest.mark.parametrize(
    ("partitions", "every", "timezone", "first"),
    [
        (HOURLY, "hour", "UTC", date(2026, 1, 1)),
        (DAILY, "day", "Africa/Nairobi", date(2026, 1, 1)),
        (WEEKLY, "week", "UTC", date(2026, 1, 5)),
        (dg.WeeklyPartitionsDefinition("2026-01-07", day_offset=1), "week", "UTC", date(2026, 1, 12)),
        (dg.MonthlyPartitionsDefinition("2026-12-02"), "month", "UTC", date(2027, 1, 1)),
        (
            dg.MonthlyPartitionsDefinition("2026-02-01", timezone="Asia/Manila"),
            "month",
            "Asia/Manila",
            date(2026, 2, 1),
        ),
        # That night the clocks of Cairo went from 23:59 to 01:00.
        (dg.DailyPartitionsDefinition("2024-04-26", timezone="Africa/Cairo"), "day", "Africa/Cairo", date(2024, 4, 26)),
        (
            dg.TimeWindowPartitionsDefinition(cron_schedule="0 0 * * *", start="2026-01-01", fmt="%Y-%m-%d"),
            "day",
            "UTC",
            date(2026, 1, 1),
        ),
    ],
)
def test_time_partitions_keep_their_length_zone_first_day_and_keys(
    partitions: dg.TimeWindowPartitionsDefinition, every: Any, timezone: str, first: date
) -> None:
    found = only([made(spec("a", partitions_def=partitions))]).partitions

    assert found == Partitions(every=every, timezone=timezone, start=first)
    first_key = partitions.get_first_partition_key()
    assert first_key is None or first_key == first.strftime(found.key_format)


@pytest.mark.parametrize(
    ("partitions", "said"),
    [
        (None, "no partitions"),
        (dg.StaticPartitionsDefinition(["ke", "tz"]), "StaticPartitionsDefinition"),
        (dg.DynamicPartitionsDefinition(name="countries"), "DynamicPartitionsDefinition"),
        (dg.MultiPartitionsDefinition({"day": DAILY, "c": dg.StaticPartitionsDefinition(["ke"])}), "MultiPartitions"),
        (dg.DailyPartitionsDefinition("2026-01-01", hour_offset=6), "'0 6 * * *'"),
        (dg.DailyPartitionsDefinition("2026-01-01", minute_offset=30), "'30 0 * * *'"),
        (dg.HourlyPartitionsDefinition("2026-01-01-00:00", minute_offset=15), "'15 * * * *'"),
        (dg.HourlyPartitionsDefinition("2026-01-01-05:00"), "Begin at midnight"),
        (dg.HourlyPartitionsDefinition("2026-01-01-00:00", timezone="Africa/Nairobi"), "hours are in UTC"),
        (dg.WeeklyPartitionsDefinition("2026-01-04"), "'0 0 * * 0'"),
        (dg.MonthlyPartitionsDefinition("2026-01-01", day_offset=15), "'0 0 15 * *'"),
        (dg.DailyPartitionsDefinition("2026-01-01", end_date="2026-02-01"), "an end"),
        (dg.DailyPartitionsDefinition("2026-01-01", end_offset=1), "an end offset"),
        (dg.DailyPartitionsDefinition("2026-01-01", exclusions=["0 0 * * 6"]), "exclusions"),
        (dg.DailyPartitionsDefinition("01/01/2026", fmt="%d/%m/%Y"), "'%d/%m/%Y'"),
        (dg.TimeWindowPartitionsDefinition(start="2026-01-01", fmt="%Y-%m-%d", cron_schedule="0 0 * * 1-5"), "1-5"),
    ],
)
def test_partitions_that_airflow_cannot_run_are_refused_by_the_name_of_the_asset(
    partitions: dg.PartitionsDefinition[Any] | None, said: str
) -> None:
    message = refusal([made(spec("ke/a", partitions_def=partitions))])

    assert "'ke/a' of the group 'loans'" in message
    assert said in message


@pytest.mark.parametrize(
    "mapping",
    [
        dg.IdentityPartitionMapping(),
        dg.TimeWindowPartitionMapping(),
        dg.TimeWindowPartitionMapping(start_offset=-27, end_offset=0),
        dg.TimeWindowPartitionMapping(start_offset=-1, end_offset=-1),
    ],
)
def test_partitions_of_now_and_before_may_be_needed(mapping: dg.PartitionMapping) -> None:
    plan = only([made(spec("a", "one"), spec("b", "two", deps=[dg.AssetDep("a", partition_mapping=mapping)]))])

    assert plan.tasks[1].upstream == ("one",)


@pytest.mark.parametrize(
    "mapping",
    [
        dg.TimeWindowPartitionMapping(start_offset=0, end_offset=1),
        dg.LastPartitionMapping(),
        dg.AllPartitionMapping(),
        dg.SpecificPartitionsPartitionMapping(["2026-01-01"]),
        dg.StaticPartitionMapping({"2026-01-01": "2026-01-01"}),
    ],
)
def test_other_mappings_between_tasks_are_refused_by_the_names_of_both_assets(mapping: dg.PartitionMapping) -> None:
    dep = dg.AssetDep(key("ke/a"), partition_mapping=mapping)

    message = refusal([made(spec("ke/a", "one"), spec("ke/b", "two", deps=[dep]))])

    assert "'ke/b' of the group 'loans' needs partitions of 'ke/a'" in message
    assert only([spec("ke/a", None), made(spec("ke/b", deps=[dep]))]).tasks[0].assets[0].upstream == ("ke/a",)


def test_a_mapping_of_an_input_is_looked_at_too() -> None:
    common: dict[str, Any] = {"partitions_def": DAILY, "group_name": "loans", "tags": {"demo/stage": "all"}}

    @dg.asset(**common)
    def a() -> None: ...

    @dg.asset(**common, ins={"a": dg.AssetIn(partition_mapping=dg.LastPartitionMapping())})
    def b(a: None) -> None: ...

    assert "'b' of the group 'loans' needs partitions of 'a'" in refusal(dg.Definitions(assets=[a, b]))


def test_a_stage_that_nothing_makes_is_refused() -> None:
    @dg.observable_source_asset(partitions_def=DAILY, group_name="loans", tags={"demo/stage": "all"})
    def seen() -> None: ...

    assert "'external' of the group 'loans' has the stage 'all'" in refusal([spec("external")])
    assert "'seen' of the group 'loans' has the stage 'all'" in refusal(dg.Definitions(assets=[seen]))


def test_an_asset_that_is_defined_twice_is_refused() -> None:
    assert "'a' of the group 'loans' is defined twice" in refusal([made(spec("a")), made(spec("a"), name="again")])


def test_assets_that_are_always_made_together_have_to_be_one_task() -> None:
    def both(other: dg.AssetSpec) -> list[dg.AssetsDefinition]:
        return [made(spec("a", "one"), other, can_subset=False)]

    assert len(only(both(spec("b", "one"))).tasks) == 1
    assert "'a' of the group 'loans' is always made together with 'b'" in refusal(both(spec("b", "two")))
    assert "'a' of the group 'loans' is always made together with 'b'" in refusal(both(spec("b", None)))
    assert "'a' of the group 'loans' is always made together with 'b'" in refusal(
        both(spec("b", "one", group_name="x"))
    )


def test_retry_policies_of_dagster_are_refused_because_airflow_tries_again() -> None:
    @dg.op(retry_policy=dg.RetryPolicy(max_retries=1))
    def of_op() -> None: ...

    @dg.op
    def plain() -> None: ...

    @dg.graph_asset(partitions_def=DAILY, group_name="loans", tags={"demo/stage": "all"})
    def by_graph() -> None:
        return of_op()

    @dg.graph_asset(partitions_def=DAILY, group_name="loans", tags={"demo/stage": "all"})
    def by_invocation() -> None:
        return plain.with_retry_policy(dg.RetryPolicy(max_retries=1))()

    @dg.asset(partitions_def=DAILY, group_name="loans", tags={"demo/stage": "all"}, retry_policy=dg.RetryPolicy())
    def by_asset() -> None: ...

    for each in (by_graph, by_invocation, by_asset):
        assert f"'{each.key.path[0]}' of the group 'loans' has a retry policy" in refusal([each])


@pytest.mark.parametrize(
    ("cpu", "memory"),
    [("1", None), (None, "512"), ("much", "512"), ("1", "2Gi"), ("nan", "512"), ("1", "63"), ("-1", "9")],
)
def test_resources_that_are_no_amounts_are_refused(cpu: str | None, memory: str | None) -> None:
    tags = {tag: amount for tag, amount in (("bridge/cpu", cpu), ("bridge/memory-mib", memory)) if amount is not None}

    assert "'ke/a' of the group 'loans'" in refusal([made(spec("ke/a", tags=tags))])


@pytest.mark.parametrize(
    ("policy", "said"),
    [
        (dg.FreshnessPolicy.time_window(timedelta(hours=24)), "Make the window longer"),
        (dg.FreshnessPolicy.cron("0 6 * * *", timedelta(hours=6)), "not FreshnessPolicy.time_window"),
    ],
)
def test_other_freshness_policies_are_refused(policy: dg.FreshnessPolicy, said: str) -> None:
    message = refusal([made(spec("ke/a", freshness_policy=policy))])

    assert "'ke/a' of the group 'loans'" in message
    assert said in message


def with_schedule(selection: dg.AssetSelection) -> dict[str, Any]:
    return {"schedules": [dg.ScheduleDefinition("nightly", cron_schedule="0 2 * * *", target=selection)]}


def with_job_schedule(selection: dg.AssetSelection) -> dict[str, Any]:
    job = dg.define_asset_job("made_nightly", selection)
    return {"jobs": [job], "schedules": [dg.build_schedule_from_partitioned_job(job, name="nightly")]}


def with_target_sensor(selection: dg.AssetSelection) -> dict[str, Any]:
    @dg.sensor(name="arrivals", target=selection)
    def arrivals() -> None: ...

    return {"sensors": [arrivals]}


def with_selection_sensor(selection: dg.AssetSelection) -> dict[str, Any]:
    @dg.sensor(name="arrivals", asset_selection=selection)
    def arrivals() -> None: ...

    return {"sensors": [arrivals]}


def with_default_condition(selection: dg.AssetSelection) -> dict[str, Any]:
    eager = dg.AutomationCondition.eager()
    return {
        "sensors": [
            dg.AutomationConditionSensorDefinition(
                "eagerly", target=selection, default_condition=eager, use_user_code_server=True
            )
        ]
    }


def with_automated_job(selection: dg.AssetSelection) -> dict[str, Any]:
    condition = dg.AutomationCondition.any_job_root_assets_match(dg.AutomationCondition.eager())
    return {"jobs": [dg.define_asset_job("by_itself", selection, automation_condition=condition)]}


@pytest.mark.parametrize(
    ("automation", "said"),
    [
        (with_schedule, "the schedule 'nightly'"),
        (with_job_schedule, "the schedule 'nightly'"),
        (with_target_sensor, "the sensor 'arrivals'"),
        (with_selection_sensor, "the sensor 'arrivals'"),
        (with_default_condition, "the sensor 'eagerly'"),
        (with_automated_job, "the automation of the job 'by_itself'"),
    ],
)
def test_an_asset_that_both_sides_would_schedule_is_refused(
    automation: Callable[[dg.AssetSelection], dict[str, Any]], said: str
) -> None:
    assets = [made(spec("ke/a")), made(spec("other", None), name="others")]
    clash = dg.Definitions(assets=assets, **automation(dg.AssetSelection.assets(key("ke/a"))))
    apart = dg.Definitions(assets=assets, **automation(dg.AssetSelection.assets("other")))

    message = refusal(clash, scheduled=True)

    assert "'ke/a' of the group 'loans' would be made by Airflow's schedule" in message
    assert said in message
    assert only(apart, scheduled=True).scheduled
    assert not only(clash, scheduled=False).scheduled


def test_an_automation_condition_counts_as_a_schedule_of_the_asset_that_has_it() -> None:
    eager = [made(spec("ke/a", automation_condition=dg.AutomationCondition.eager()), spec("ke/b"))]

    assert "by its automation condition of Dagster" in refusal(eager, scheduled=True)
    assert not only(eager, scheduled=False).scheduled


def test_a_sensor_of_conditions_schedules_nothing_that_has_no_condition() -> None:
    everything = dg.AutomationConditionSensorDefinition("conditions", target=dg.AssetSelection.all())

    assert only(dg.Definitions(assets=[made(spec("a"))], sensors=[everything]), scheduled=True).scheduled
