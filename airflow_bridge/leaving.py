"""DAGs that are in no plan set any more and stay until their runs have ended: of others Airflow goes on with no run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from sqlalchemy.exc import SQLAlchemyError

from airflow_bridge.schema import decode, digest, encode

UNFINISHED = ("queued", "running")


def unfinished(bundle: str) -> dict[str, str]:
    """By the DAGs of a bundle that have runs under way, the version that one of these began with.

    None where there is no database, as on a worker.
    """
    # A worker does without.
    from airflow.models.dag import DagModel  # noqa: PLC0415
    from airflow.models.dagrun import DagRun  # noqa: PLC0415
    from airflow.utils.session import create_session  # noqa: PLC0415
    from sqlalchemy import func, select  # noqa: PLC0415

    query = (
        select(DagRun.dag_id, func.max(DagRun.bundle_version))
        .join(DagModel, DagModel.dag_id == DagRun.dag_id)
        .where(DagModel.bundle_name == bundle, DagRun.state.in_(UNFINISHED), DagRun.bundle_version.is_not(None))
        .group_by(DagRun.dag_id)
    )
    try:
        with create_session() as session:
            return {row[0]: row[1] for row in session.execute(query)}
    except (SQLAlchemyError, RuntimeError):
        return {}


def place(
    plans: Path, before: Iterable[str], wanted: Mapping[str, str], plan_of: Callable[[str, str], bytes | None]
) -> list[str]:
    """Have the plans of DAGs that leave in a version's folder, beside those of its set; the ids that are there now.

    ``before`` are those that are there from the last time, ``wanted`` the versions whose plans (``plan_of``) are to be.
    """
    for dag_id in set(before) - set(wanted):
        (plans / f"{dag_id}.json").unlink(missing_ok=True)
    placed = []
    for dag_id, version in sorted(wanted.items()):
        file = plans / f"{dag_id}.json"
        if not file.exists() and (plan := plan_of(dag_id, version)) is not None:
            making = file.with_suffix(".making")
            making.write_bytes(_unscheduled(plan))
            making.replace(file)
        if file.exists():
            placed.append(dag_id)
    return placed


def _unscheduled(plan: bytes) -> bytes:
    """A DAG that leaves begins no run any more."""
    return encode(decode(plan, digest(plan)).model_copy(update={"scheduled": False}))
