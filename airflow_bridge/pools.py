"""Airflow's pools, by which a deployment says how many tasks run at once. Airflow waits for one that is not there."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from sqlalchemy.exc import SQLAlchemyError

from airflow_bridge.schema import DagPlan

NOT_THERE = (
    "There is no pool {0}, so no task in it ever starts. Make it: "
    'airflow pools set {0} 32 "tasks of Scorewatch" --include-deferred'
)


def named(plans: Iterable[DagPlan], default: str) -> set[str]:
    """Those that the tasks of plans are in."""
    return {task.pool or default for plan in plans for task in plan.tasks}


def missing(names: Collection[str]) -> list[str]:
    """Those that Airflow's database does not have; none where there is no database, as on a worker."""
    from airflow.models.pool import Pool  # noqa: PLC0415 - a worker does without

    try:
        there = {each.pool for each in Pool.get_pools()}
    except (SQLAlchemyError, RuntimeError):
        return []
    return sorted(set(names) - there)
