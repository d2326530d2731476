"""What a plan needs of Dagster's asset graph, and what of it Airflow cannot do: that is refused, asset by asset."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from functools import cached_property
from typing import get_args

import dagster as dg
from pydantic import ValidationError

from airflow_bridge.schema import Every, Partitions, Resources
from resources.errors import BadInput

CPU_TAG = "bridge/cpu"
"""Tag of an asset: the cores that its stage asks for, such as 0.5. The largest in a stage counts."""
MEMORY_TAG = "bridge/memory-mib"
"""Tag of an asset: the memory that its stage asks for, in MiB. The largest in a stage counts."""

IMAGE_METADATA = "bridge/image"
"""Metadata of an asset: an image, by its digest, that runs in the pod of its stage before the asset is made."""

LEAVES_TAG = "bridge/leaves-to-airflow"
"""Tag of a sensor that starts no run in Dagster where Airflow schedules."""

Defined = dg.Definitions | Iterable[dg.AssetsDefinition | dg.AssetSpec]

_EVERY = {Partitions(every=every, timezone="UTC", start=date.min).cron: every for every in get_args(Every)}
_LONGEST = {
    "hour": timedelta(hours=1),
    "day": timedelta(days=1),
    "week": timedelta(days=7),
    "month": timedelta(days=31),
}
_POSSIBLE = "Airflow runs hourly (UTC), daily, weekly (from Monday) and monthly partitions, without an end."


@dataclass(frozen=True, eq=False)
class Node:
    """An asset, and what makes it. ``stage`` is None when Airflow is not to make it."""

    spec: dg.AssetSpec
    made_by: dg.AssetsDefinition
    stage: str | None
    checks: tuple[dg.AssetCheckSpec, ...]

    @property
    def group(self) -> str:
        """Its group, in which dots stand for the slashes that no DAG's name may hold."""
        return (self.spec.group_name or "default").replace("/", ".")

    @property
    def key(self) -> str:
        """Its key as a plan writes it; one that would be read differently is refused there for its backslash."""
        return shown(self.spec.key)

    @property
    def name(self) -> str:
        """What messages call it."""
        return f"The asset {self.key!r} of the group {self.group!r}"

    @property
    def parents(self) -> set[dg.AssetKey]:
        """What it is made of, or judged by: its checks run where it is made."""
        deps = {dep.asset_key for each in (self.spec.deps, *(c.additional_deps for c in self.checks)) for dep in each}
        return deps - {self.spec.key}

    @cached_property
    def partitions(self) -> Partitions:
        """Its partitions. Raises BadInput for those that Airflow cannot run with the same keys."""
        found = self.spec.partitions_def
        if found is None:
            raise BadInput(
                f"{self.name} has a stage and no partitions. {_POSSIBLE} Give it some, or take out its stage."
            )
        if not isinstance(found, dg.TimeWindowPartitionsDefinition):
            raise BadInput(f"{self.name} has a {type(found).__name__}. {_POSSIBLE}")
        if found.end or found.end_offset or found.exclusions:
            raise BadInput(f"{self.name} has partitions with an end, an end offset or exclusions. {_POSSIBLE}")
        every = _EVERY.get(found.cron_schedule)
        if every is None:
            raise BadInput(f"{self.name} has partitions that begin at {found.cron_schedule!r}. {_POSSIBLE}")
        with named(self.name):
            partitions = Partitions(every=every, timezone=found.timezone, start=_first(every, found.start))
        if found.fmt != partitions.key_format:
            raise BadInput(f"{self.name} has keys like {found.fmt!r}; those of Airflow are {partitions.key_format!r}.")
        if every == "hour" and found.start.time() != time.min:
            raise BadInput(f"{self.name} has hours from {found.start.isoformat()} on. Begin at midnight.")
        return partitions

    @property
    def pools(self) -> set[str]:
        """The pools of Dagster that it is made in."""
        return {op.pool for op in self.made_by.node_def.iterate_op_defs() if op.pool}

    @property
    def resources(self) -> Resources | None:
        """What its tags say that it asks for. Raises BadInput unless that is an amount of both."""
        cpu, memory = self.spec.tags.get(CPU_TAG), self.spec.tags.get(MEMORY_TAG)
        if cpu is None and memory is None:
            return None
        try:
            amounts = float(cpu or ""), int(memory or "")
        except ValueError:
            raise BadInput(
                f"{self.name} has the tags {CPU_TAG}={cpu!r} and {MEMORY_TAG}={memory!r}. "
                "Write cores such as 0.5 and MiB such as 2048, both or neither."
            ) from None
        with named(self.name):
            return Resources(cpu=amounts[0], memory_mib=amounts[1])

    @property
    def image(self) -> str | None:
        """The image that runs before it is made."""
        value = self.spec.metadata.get(IMAGE_METADATA)
        return None if value is None else str(getattr(value, "value", value))

    @property
    def sla(self) -> timedelta | None:
        """How long after its end a partition may be made, for its freshness policy to hold.

        Partitions made at most that late are never further apart than one partition and that. Raises BadInput for a
        policy that is no time window, or one that even a partition made in no time would break.
        """
        policy = self.spec.freshness_policy
        if policy is None and self.spec.legacy_freshness_policy is None:
            return None
        window = getattr(policy, "fail_window", None)
        if window is None:
            raise BadInput(f"{self.name} has a freshness policy that is not FreshnessPolicy.time_window.")
        left: timedelta = window.to_timedelta() - _LONGEST[self.partitions.every]
        if left <= timedelta():
            raise BadInput(
                f"{self.name} is to be made every {window.to_timedelta()}, and has a new partition every "
                f"{self.partitions.every}. Make the window longer: a partition's length, and the time to make it."
            )
        return left


Graph = Mapping[dg.AssetKey, Node]


def read(source: Defined, stage_tag: str, *, scheduled: bool) -> dict[dg.AssetKey, Node]:
    """The assets in the order of their keys, of which those with a stage can be run by Airflow.

    The dependencies of a list are taken as they are; Definitions are resolved as Dagster does it. Raises BadInput that
    names the asset when one cannot be run, or, if Airflow is to schedule, when Dagster does so too.
    """
    assets, automated = _assets(source), _automated(source) if scheduled else {}
    checks = [check for each in assets for check in each.check_specs]
    by_asset: dict[dg.AssetKey, list[dg.AssetCheckSpec]] = {}
    for check in sorted(checks, key=lambda check: check.name):
        by_asset.setdefault(check.asset_key, []).append(check)
    found = [
        Node(each.specs_by_key[key], each, each.specs_by_key[key].tags.get(stage_tag), tuple(by_asset.get(key, ())))
        for each in assets
        for key in each.keys
    ]
    graph: dict[dg.AssetKey, Node] = {}
    for node in sorted(found, key=lambda node: tuple(node.spec.key.path)):
        if graph.setdefault(node.spec.key, node) is not node:
            raise BadInput(f"{node.name} is defined twice.")
    for node in graph.values():
        if node.stage is not None:
            _refuse_unless_possible(node, graph)
            automation = automated.get(node.spec.key) or (node.spec.automation_condition and "its automation condition")
            if scheduled and automation:
                raise BadInput(
                    f"{node.name} would be made by Airflow's schedule and by {automation} of Dagster. "
                    "Exactly one may: take that out of the definitions, or let Airflow not schedule."
                )
    return graph


def shown(key: dg.AssetKey) -> str:
    """An asset's key, its parts joined by slashes; those in a part are escaped."""
    return key.to_escaped_user_string()


@contextmanager
def named(what: str) -> Iterator[None]:
    """Turns what the schema refuses into BadInput that says what it is about, and in which field."""
    try:
        yield
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        parts = [".".join(map(str, first["loc"])), first["msg"].removeprefix("Value error, ")]
        raise BadInput(f"{what} cannot be shown by Airflow: {': '.join(filter(None, parts))}.") from None


def _assets(source: Defined) -> Sequence[dg.AssetsDefinition]:
    if isinstance(source, dg.Definitions):
        return source.get_repository_def().asset_graph.assets_defs
    return [each if isinstance(each, dg.AssetsDefinition) else dg.AssetsDefinition(specs=[each]) for each in source]


def _first(every: Every, start: datetime) -> date:
    """The day of the first partition that begins at ``start`` or after it."""
    day = start.date()
    # Where clocks skip midnight, 01:00 is the instant that midnight would have been.
    if every != "hour" and datetime.combine(day, time.min, start.tzinfo).timestamp() != start.timestamp():
        day += timedelta(days=1)
    if every == "week":
        return day + timedelta(days=-day.weekday() % 7)
    if every == "month" and day.day > 1:
        return (day.replace(day=1) + timedelta(days=31)).replace(day=1)
    return day


def _refuse_unless_possible(node: Node, graph: Graph) -> None:
    if not node.made_by.is_materializable:
        raise BadInput(
            f"{node.name} has the stage {node.stage!r}, and nothing in Dagster makes it. Take out its stage."
        )
    if _has_retries(node.made_by.node_def):
        raise BadInput(f"{node.name} has a retry policy. Airflow tries tasks again: take it out.")
    if not node.made_by.can_subset:
        for key in node.made_by.keys:
            other = graph[key]
            if (other.stage, other.group) != (node.stage, node.group) or other.partitions != node.partitions:
                raise BadInput(
                    f"{node.name} is always made together with {other.key!r}, which is in another task or in none. "
                    "Give them the same stage, group and partitions, or let the asset's definition be can_subset."
                )
    for dep in node.spec.deps:
        upstream, mapping = graph.get(dep.asset_key), dep.partition_mapping
        if upstream and upstream.stage is not None and mapping is not None and not _of_now_or_before(mapping):
            raise BadInput(
                f"{node.name} needs partitions of {upstream.key!r} by {mapping}. Possible are the same partition, and "
                "time windows that reach back."
            )


def _of_now_or_before(mapping: dg.PartitionMapping) -> bool:
    if isinstance(mapping, dg.TimeWindowPartitionMapping):
        return max(mapping.start_offset, mapping.end_offset) <= 0
    return isinstance(mapping, dg.IdentityPartitionMapping)


def _has_retries(node: dg.NodeDefinition) -> bool:
    if isinstance(node, dg.GraphDefinition):
        return any(inner.retry_policy is not None or _has_retries(inner.definition) for inner in node.nodes)
    return isinstance(node, dg.OpDefinition) and node.retry_policy is not None


def _automated(source: Defined) -> dict[dg.AssetKey, str]:
    """What of Dagster would materialise an asset without being asked, stopped or not; conditions of assets aside."""
    if not isinstance(source, dg.Definitions):
        return {}
    repository = source.get_repository_def()
    graph = repository.asset_graph

    def of_job(name: str) -> Iterable[dg.AssetKey]:
        return repository.get_job(name).asset_layer.selected_asset_keys

    found: dict[dg.AssetKey, str] = {}
    for schedule in repository.schedule_defs:
        found |= dict.fromkeys(of_job(schedule.job_name), f"the schedule {schedule.name!r}")
    for sensor in repository.sensor_defs:
        if isinstance(sensor, dg.AutomationConditionSensorDefinition) and sensor.default_condition is None:
            continue
        if LEAVES_TAG in sensor.tags:
            continue
        keys = {key for target in sensor.targets for key in of_job(target.job_name)}
        keys |= sensor.asset_selection.resolve(graph) if sensor.asset_selection else set()
        found |= dict.fromkeys(keys, f"the sensor {sensor.name!r}")
    for job in graph.automatable_asset_job_keys:
        found |= dict.fromkeys(graph.asset_keys_for_job(job.job_name), f"the automation of the job {job.job_name!r}")
    return found
