"""Tasks as pods, on a cluster that is one process: an API server that keeps what it is told. Called by test_pod.py."""

from __future__ import annotations

import asyncio
import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

from airflow.sdk import DAG
from airflow.sdk.exceptions import AirflowException, TaskDeferred

from airflow_bridge import pod
from airflow_bridge.config import Config
from airflow_bridge.schema import DagPlan
from resources.errors import BadInput


class Cluster(ThreadingHTTPServer):
    """Of a pod it tells ``status`` as soon as there is one, and ``RUNNER'S LINE`` as its log."""

    def __init__(self, status: dict[str, Any]) -> None:
        super().__init__(("127.0.0.1", 0), _Api)
        self.status = status
        self.pods: dict[str, dict[str, Any]] = {}
        self.asked: list[str] = []


class _Api(BaseHTTPRequestHandler):
    server: Cluster

    def do_GET(self) -> None:
        *_, name = parts = urlsplit(self.path).path.split("/")
        if name == "log":
            self._answer(b"RUNNER'S LINE\n", "text/plain")
        elif name == "pods":
            self._answer({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": []})
        elif name in self.server.pods:
            self._answer({**self.server.pods[name], "status": self.server.status})
        else:
            self._answer({"kind": "Status", "message": f"no {'/'.join(parts)}"}, status=404)

    def do_POST(self) -> None:
        made = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.pods[made["metadata"]["name"]] = made
        self._answer(made, status=201)

    def do_PATCH(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self._answer(self.server.pods[urlsplit(self.path).path.split("/")[-1]])

    def do_DELETE(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self._answer(self.server.pods[urlsplit(self.path).path.split("/")[-1]])

    def _answer(self, body: Any, kind: str = "application/json", status: int = 200) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.server.asked.append(f"{self.command} {urlsplit(self.path).path.split('/')[-1]}")
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        """Nothing."""


@contextmanager
def _cluster(status: dict[str, Any]) -> Iterator[Cluster]:
    """Where KUBECONFIG points to, which this process was started with."""
    with Cluster(status) as server:
        address = f"http://127.0.0.1:{server.server_port}"
        Path(os.environ["KUBECONFIG"]).write_text(
            json.dumps(
                {
                    "apiVersion": "v1",
                    "kind": "Config",
                    "current-context": "test",
                    "clusters": [{"name": "test", "cluster": {"server": address}}],
                    "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
                    "users": [{"name": "test", "user": {"token": "a-token"}}],
                }
            ),
            encoding="utf-8",
        )
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def _operator(plan: dict[str, Any], options: dict[str, str]) -> pod.PodTask:
    found = DagPlan.model_validate_json(json.dumps(plan))
    with DAG(found.dag_id, schedule=None):
        task = found.tasks[0]
        limit = timedelta(hours=1)
        made = pod.task(found, task, Config.parse(options, {}), task_id=task.id, execution_timeout=limit, retries=3)
    assert isinstance(made, pod.PodTask)
    return made


def _context(operator: pod.PodTask, partition: str | None, run_type: str, conf: dict[str, Any]) -> dict[str, Any]:
    ti = SimpleNamespace(
        dag_id=operator.dag_id,
        task_id=operator.task_id,
        map_index=-1,
        try_number=1,
        start_date=datetime.now(UTC),
        xcom_push=lambda **_: None,
    )
    dag_run = SimpleNamespace(run_type=run_type, conf=conf)
    return {"ti": ti, "dag": operator.dag, "run_id": "manual__1", "dag_run": dag_run, "partition_key": partition}


def specification(
    plan: dict[str, Any], options: dict[str, str], run_type: str = "manual", conf: dict[str, Any] | None = None
) -> dict[str, Any]:
    """The pod that Kubernetes is told to make; ``refused`` instead when the plan asks for too much."""
    try:
        operator = _operator(plan, options)
    except BadInput as error:
        return {"refused": str(error)}
    with _cluster({"phase": "Pending"}) as cluster:
        context = _context(operator, "2026-01-31", run_type, conf or {})
        operator.render_template_fields(context)
        with suppress(TaskDeferred):
            operator.execute(context)
        (made,) = cluster.pods.values()
    return made


def options_of_the_operator(plan: dict[str, Any], options: dict[str, str], names: list[str]) -> dict[str, Any]:
    """What is set on the operator, beside the pod's specification."""
    operator = _operator(plan, options)
    return {name: getattr(operator, name) for name in names}


def run(
    plan: dict[str, Any], options: dict[str, str], status: dict[str, Any], partition: str | None = "2026-01-31"
) -> dict[str, Any]:
    """What comes of a task whose pod ends with the status: by way of the triggerer, and of another process after it."""
    outcome = {"raised": None, "message": ""}
    with _cluster(status) as cluster:
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
            outcome = {"raised": type(error).__name__, "message": str(error)}
    return {**outcome, "asked": cluster.asked}


async def _first_event(trigger: Any) -> Any:
    # As it is after a way through the database.
    _, kwargs = trigger.serialize()
    async for event in type(trigger)(**kwargs).run():
        return event.payload
    raise AssertionError("no event")
