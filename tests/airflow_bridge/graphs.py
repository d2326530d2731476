"""Small asset graphs, and what became of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import dagster as dg
import pytest

from airflow_bridge.plan import plans
from airflow_bridge.schema import DagPlan
from resources.errors import BadInput

DAILY = dg.DailyPartitionsDefinition("2026-01-01", timezone="Africa/Nairobi")
HOURLY = dg.HourlyPartitionsDefinition("2026-01-01-00:00")
WEEKLY = dg.WeeklyPartitionsDefinition("2026-01-05", day_offset=1)


def command(group: str, stage: str, keys: Sequence[dg.AssetKey]) -> list[str]:
    return ["run", group, stage, *(each.path[-1] for each in keys)]


def planned(source: Any, *, scheduled: bool = False, **more: Any) -> list[DagPlan]:
    return plans(source, stage_tag="demo/stage", runner=command, scheduled=scheduled, **more)


def refusal(source: Any, *, scheduled: bool = False) -> str:
    with pytest.raises(BadInput) as refused:
        planned(source, scheduled=scheduled)
    return str(refused.value)


def spec(name: str, stage: str | None = "all", **more: Any) -> dg.AssetSpec:
    arguments: dict[str, Any] = {"group_name": "loans", "partitions_def": DAILY, **more}
    tags = {**arguments.pop("tags", {}), **({} if stage is None else {"demo/stage": stage})}
    deps = [key(dep) if isinstance(dep, str) else dep for dep in arguments.pop("deps", ())]
    return dg.AssetSpec(key(name), tags=tags, deps=deps, **arguments)


def key(text: str) -> dg.AssetKey:
    return dg.AssetKey(text.split("/"))


def made(*specs: dg.AssetSpec, name: str = "made", can_subset: bool = True, **more: Any) -> dg.AssetsDefinition:
    @dg.multi_asset(name=name, specs=specs, can_subset=can_subset, **more)
    def make(): ...

    return make


def checked(asset: str, name: str, **more: Any) -> dg.AssetCheckSpec:
    return dg.AssetCheckSpec(name, asset=key(asset), **more)


def only(source: Any, **more: Any) -> DagPlan:
    (plan,) = planned(source, **more)
    return plan
