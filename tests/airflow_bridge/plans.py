"""Plans as the exporter would write them, and a store that holds them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from airflow_bridge.export import CURRENT, plan_key, set_key
from airflow_bridge.schema import Asset, DagPlan, Partitions, PlanSet, Resources, Task, canonical, digest, encode
from resources.object_store import ObjectStore


def plan(dag_id: str = "ke-nano-loan_1.0.0", **changes: Any) -> DagPlan:
    """Three stages of a model, daily and scheduled by others; ``changes`` replace fields of the plan."""
    model = dag_id.replace("_", "/")
    group = {"group": dag_id, "description": "Nano loans in Kenya.", "owner": "credit-risk@lender.example"}
    partitions = Partitions.model_validate({"every": "day", "timezone": "Africa/Nairobi", "start": "2026-01-01"})
    tasks = (
        _task(model, "features", ("features",)),
        _task(model, "scores", ("scores", "features"), upstream="features"),
        _task(model, "monitoring", ("counts", "scores"), ("psi", "counts"), ("csi", "counts"), upstream="scores"),
    )
    return DagPlan(
        **{"dag_id": dag_id, **group, "partitions": partitions, "scheduled": False, "tasks": tasks, **changes}
    )


def _task(model: str, stage: str, *assets: tuple[str, ...], upstream: str | None = None) -> Task:
    return Task(
        id=stage,
        assets=tuple(
            Asset(
                key=f"{model}/{name}",
                description=f"The {name}.",
                upstream=tuple(f"{model}/{each}" for each in read),
                checks=(f"{name}_quality",),
            )
            for name, *read in assets
        ),
        arguments=("run", model, "--stage", stage),
        upstream=(upstream,) if upstream else (),
        resources=Resources(cpu=1.0, memory_mib=1024),
    )


def publish(store: ObjectStore, *plans: DagPlan, raw: Mapping[str, bytes] | None = None) -> str:
    """Puts these DAGs into force, and what ``raw`` gives as plans by their ids, good or not; the set's digest."""
    found = {each.dag_id: encode(each) for each in plans} | dict(raw or {})
    for data in found.values():
        store.put(plan_key(digest(data)), data)
    return point_to(store, canonical(PlanSet(plans={name: digest(data) for name, data in found.items()}).model_dump()))


def point_to(store: ObjectStore, plan_set: bytes) -> str:
    """Puts a set into force, good or not; its digest."""
    store.put(set_key(digest(plan_set)), plan_set)
    store.put(CURRENT, canonical({"set": digest(plan_set)}))
    return digest(plan_set)
