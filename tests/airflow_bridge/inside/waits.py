"""Waits for data, as a triggerer has them. Called by test_waiting.py."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

from airflow._shared.module_loading import import_string
from airflow.executors.workloads.task import TaskInstanceDTO
from airflow.jobs.triggerer_job_runner import TriggerRunner
from airflow.models.trigger import Trigger
from airflow.sdk import DAG
from airflow.sdk.api.datamodels._generated import DagRunType
from airflow.sdk.exceptions import AirflowException, AirflowSkipException
from airflow.serialization.serialized_objects import DagSerialization

from airflow_bridge import render, waiting
from airflow_bridge.config import Config
from airflow_bridge.schema import DagPlan
from resources.errors import InfrastructureError
from resources.object_store import Blob, ObjectStore, open_store


class Watched:
    """A store that counts what it is asked, fails each of the ``failing`` times, and gets the object after others."""

    def __init__(self, store: ObjectStore, failing: list[int], lands_after: int) -> None:
        self._store, self._failing, self._lands_after = store, failing, lands_after
        self.uri = store.uri
        self.asked = 0
        self.threads: set[str] = set()

    def get(self, key: str) -> Blob | None:
        self.asked += 1
        self.threads.add(threading.current_thread().name)
        if self.asked in self._failing:
            raise InfrastructureError("the store has a bad day")
        if self.asked > self._lands_after:
            self._store.put(key, b"a digest")
        return self._store.get(key)


class _Log(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(f"{record.levelname} {record.getMessage()}")


def run(
    store_uri: str | None,
    partition: str,
    run_type: str = waiting.SCHEDULED,
    failing: list[int] | None = None,
    lands_after: int = 0,
) -> dict[str, Any]:
    """How the trigger ends, and what it says. The polls are not apart here."""
    watched = Watched(open_store(store_uri), failing or [], lands_after) if store_uri else None
    waiting._store.cache_clear()
    found, pause = waiting._store, waiting.POLL_S
    trigger = waiting.DataTrigger(**waiting.DataTrigger("ke", partition, run_type).serialize()[1])
    trigger._log, log = logging.Logger("trigger", logging.INFO), _Log()
    trigger._log.addHandler(log)
    waiting.POLL_S = 0
    if watched:
        waiting._store = lambda: watched
    try:
        events = asyncio.run(_all(trigger))
    finally:
        waiting._store, waiting.POLL_S = found, pause
    threads = sorted(watched.threads) if watched else []
    return {"events": events, "log": log.lines, "asked": watched.asked if watched else 0, "threads": threads}


async def _all(trigger: waiting.DataTrigger) -> list[str]:
    return [type(event).__name__ async for event in trigger.run()]


def asked_for(partition: str) -> list[str]:
    """How the trigger of a run ends that somebody asked for, in a process that knows no store."""
    return asyncio.run(_all(waiting.DataTrigger("ke", partition, "manual")))


def from_the_configuration(partition: str) -> dict[str, Any]:
    """How a trigger ends whose store is the one that this process was started with."""
    return {"events": asyncio.run(_all(waiting.DataTrigger("ke", partition))), "uri": waiting._store().uri}


def _dag(plan: dict[str, Any]) -> Any:
    return render.dag(DagPlan.model_validate_json(json.dumps(plan)), Config(wait_days=3))


def as_airflow_starts_it(plan: dict[str, Any], partition: str | None) -> dict[str, Any]:
    """The trigger that Airflow makes without a worker, from what its database has of the DAG and of the run."""
    encoded = DagSerialization.to_dict(_dag(plan))
    task = DagSerialization.from_dict(encoded).get_task(waiting.TASK_ID)
    args = task.start_trigger_args
    kwargs = Trigger._decrypt_kwargs(Trigger.encrypt_kwargs(args.trigger_kwargs))
    ti = TaskInstanceDTO.model_construct(
        id=uuid4(), task_id=waiting.TASK_ID, dag_id=plan["dag_id"], run_id="r", try_number=1, map_index=-1
    )
    now = datetime.now(UTC)
    run = {
        "dag_id": plan["dag_id"],
        "run_id": "r",
        "logical_date": None,
        "data_interval_start": None,
        "data_interval_end": None,
        "run_after": now,
        "start_date": now,
        "end_date": None,
        "run_type": "manual",
        "state": "running",
        "conf": {},
        "consumed_asset_events": [],
        "partition_key": partition,
        "partition_date": None,
    }
    trigger = import_string(args.trigger_cls)(**kwargs)
    trigger.task_instance = TriggerRunner.create_runtime_ti(ti, encoded, run)
    trigger.render_template_fields(trigger.task_instance.get_template_context())
    return {
        "starts_there": task.start_from_trigger,
        "days": args.timeout.total_seconds() / 86_400,
        "dag_id": trigger.dag_id,
        "partition": trigger.partition,
        "run_type": trigger.run_type,
        "downstream": sorted(task.downstream_task_ids),
    }


def retries(plan: dict[str, Any], of_the_dag: int) -> int:
    """Of the wait, in a DAG whose tasks have others."""
    with DAG("any", schedule=None, default_args={"retries": of_the_dag}):
        found: int = waiting.task(DagPlan.model_validate_json(json.dumps(plan)), Config()).retries
    return found


def failed(plan: dict[str, Any], reason: str) -> dict[str, str]:
    """What the task says when Airflow ends it, because the trigger took too long or for another reason."""
    task = _dag(plan).get_task(waiting.TASK_ID)
    try:
        task.resume_execution("__fail__", {"error": reason}, {"partition_key": "2026-01-31"})
    except AirflowException as error:
        return {"raised": type(error).__name__, "message": str(error)}
    raise AssertionError("it did not fail")


def poked(plan: dict[str, Any], store_uri: str, partition: str, run_type: str = "scheduled") -> bool | str:
    """What the sensor says where there is no triggerer: whether the data is there, or why there is nothing to do."""
    task = _dag(plan).get_task(waiting.TASK_ID)
    context = {"partition_key": partition, "dag_run": SimpleNamespace(run_type=DagRunType(run_type))}
    task.render_template_fields(context)
    found = waiting._store
    waiting._store = lambda: open_store(store_uri)
    try:
        return bool(task.poke(context))
    except AirflowSkipException as skipped:
        return str(skipped)
    finally:
        waiting._store = found
