"""Runs as Airflow's API makes them, in its database. Called by test_processing.py."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from airflow.api.common.trigger_dag import trigger_dag
from airflow.models.backfill import ReprocessBehavior, _create_backfill
from airflow.models.dagrun import DagRun
from airflow.utils.session import create_session
from airflow.utils.types import DagRunTriggeredByType
from sqlalchemy import update


def backfill(dag_id: str, earliest: str, latest: str) -> None:
    _create_backfill(
        dag_id=dag_id,
        from_date=datetime.fromisoformat(earliest),
        to_date=datetime.fromisoformat(latest),
        max_active_runs=1,
        reverse=False,
        dag_run_conf=None,
        triggering_user_name="test",
        reprocess_behavior=ReprocessBehavior.NONE,
    )


def trigger(dag_id: str, key: str | None) -> dict[str, Any]:
    try:
        run = trigger_dag(dag_id, triggered_by=DagRunTriggeredByType.REST_API, partition_key=key)
    except ValueError as error:
        return {"refused": str(error)}
    assert run
    assert run.partition_date
    return {"key": run.partition_key, "begin": run.partition_date.isoformat(), "version": run.bundle_version}


def end(dag_id: str) -> None:
    """All runs of a DAG are over, and well."""
    with create_session() as session:
        session.execute(update(DagRun).where(DagRun.dag_id == dag_id).values(state="success"))
