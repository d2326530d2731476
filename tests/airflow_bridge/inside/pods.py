"""Tasks as pods, on the cluster that KUBECONFIG names: a recorder of the tests, which call this from outside."""

from __future__ import annotations

import asyncio
import json
import os
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import certifi
from airflow.sdk import DAG
from airflow.sdk.api.datamodels._generated import DagRunType
from airflow.sdk.exceptions import AirflowException, TaskDeferred
from kubernetes.client import V1ObjectMeta, V1Pod
from kubernetes.config import incluster_config
from kubernetes_asyncio.config import incluster_config as asynchronous

from airflow_bridge import pod
from airflow_bridge.config import Config
from airflow_bridge.schema import DagPlan
from resources.errors import BadInput


def _operator(plan: dict[str, Any], options: dict[str, str]) -> pod.PodTask:
    found = DagPlan.model_validate_json(json.dumps(plan))
    with DAG(found.dag_id, schedule=None):
        task = found.tasks[0]
        limit = timedelta(hours=1)
        made = pod.task(found, task, Config.parse(options, {}), task_id=task.id, execution_timeout=limit, retries=3)
    assert isinstance(made, pod.PodTask)
    return made


def _context(
    operator: pod.PodTask, partition: str | None, run_type: str, conf: dict[str, Any], try_number: int = 1
) -> dict[str, Any]:
    ti = SimpleNamespace(
        dag_id=operator.dag_id,
        task_id=operator.task_id,
        map_index=-1,
        try_number=try_number,
        start_date=datetime.now(UTC),
        xcom_push=lambda **_: None,
    )
    dag_run = SimpleNamespace(run_type=DagRunType(run_type), conf=conf)
    return {"ti": ti, "dag": operator.dag, "run_id": "manual__1", "dag_run": dag_run, "partition_key": partition}


def start(
    plan: dict[str, Any],
    options: dict[str, str],
    run_type: str = "manual",
    conf: dict[str, Any] | None = None,
    try_number: int = 1,
) -> str:
    """Have the pod of a task made; why not, when the plan asks for too much."""
    try:
        operator = _operator(plan, options)
    except BadInput as error:
        return str(error)
    context = _context(operator, "2026-01-31", run_type, conf or {}, try_number)
    operator.render_template_fields(context)
    with suppress(TaskDeferred):
        operator.execute(context)
    return ""


def options_of_the_operator(plan: dict[str, Any], options: dict[str, str], names: list[str]) -> dict[str, Any]:
    """What is set on the operator, beside the pod's specification."""
    operator = _operator(plan, options)
    return {name: getattr(operator, name) for name in names}


def run(plan: dict[str, Any], options: dict[str, str], partition: str | None = "2026-01-31") -> dict[str, Any]:
    """What comes of a task whose pod has ended: by way of the triggerer, and of another process after it."""
    operator = _operator(plan, options)
    context = _context(operator, partition, "manual", {})
    operator.render_template_fields(context)
    try:
        try:
            operator.execute(context)
            raise AssertionError("the pod was not left to the triggerer")
        except TaskDeferred as deferred:
            arguments = {**(deferred.kwargs or {}), "event": asyncio.run(_first_event(deferred.trigger))}
            _operator(plan, options).resume_execution(deferred.method_name, arguments, context)
    except AirflowException as error:
        return {"raised": type(error).__name__, "message": str(error)}
    return {"raised": None, "message": ""}


def clusters(plan: dict[str, Any], options: dict[str, str], host: str) -> list[str]:
    """Where a task and its trigger look for Kubernetes in a pod, which is told of its cluster by ``host`` and files."""
    service = {"KUBERNETES_SERVICE_HOST": host, "KUBERNETES_SERVICE_PORT": "443"}
    outside = {name: value for name, value in os.environ.items() if name != "KUBECONFIG"}
    token = Path(os.environ["AIRFLOW_HOME"]) / "token"
    token.write_text("of the pod")
    files = {"SERVICE_TOKEN_FILENAME": str(token), "SERVICE_CERT_FILENAME": certifi.where()}
    with (
        patch.dict(os.environ, {**outside, **service}, clear=True),
        patch.multiple(incluster_config, **files),
        patch.multiple(asynchronous, **files),
    ):
        operator = _operator(plan, options)
        found = [operator.hook.core_v1_client.api_client.configuration.host]
        # Of another process, when the trigger came back to look at the log, and what follows.
        for again in (operator, _operator(plan, options)):
            again.pod = again.hook and V1Pod(metadata=V1ObjectMeta(name="a-pod", namespace="scoring"))
            try:
                again.invoke_defer_method()
            except TaskDeferred as deferred:
                found.append(asyncio.run(_host(deferred.trigger)))
    return found


async def _host(trigger: Any) -> str:
    _, kwargs = trigger.serialize()
    async with type(trigger)(**kwargs).hook.get_conn() as connection:
        host: str = connection.configuration.host
    return host


async def _first_event(trigger: Any) -> Any:
    # As it is after a way through the database.
    _, kwargs = trigger.serialize()
    async for event in type(trigger)(**kwargs).run():
        return event.payload
    raise AssertionError("no event")
