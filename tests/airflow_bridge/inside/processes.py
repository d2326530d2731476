"""Tasks as processes, run the way that Airflow runs them. Called by test_local.py."""

from __future__ import annotations

import logging
import os
import pickle
import signal
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from airflow.sdk import DAG
from airflow.sdk.api.datamodels._generated import DagRunType
from airflow.sdk.exceptions import AirflowException, AirflowTaskTimeout

from airflow_bridge import local
from airflow_bridge.config import Config
from airflow_bridge.runner import failure
from airflow_bridge.schema import Asset, DagPlan, Partitions, Task


class Log(logging.Handler):
    """Keeps the lines of a task's log. When one of them is ``at``, it does what is asked for."""

    def __init__(self, at: str, then: str) -> None:
        super().__init__()
        self.lines: list[str] = []
        self._at, self._then = at, then

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())
        if self._at and self.lines[-1] == self._at:
            if self._then == "terminate":
                os.kill(os.getpid(), signal.SIGTERM)
            elif self._then == "time out":
                raise AirflowTaskTimeout
            else:
                Path(self._then).touch()


def run(
    command: str,
    arguments: list[str],
    partition: str | None = "2026-01-31",
    environ: dict[str, str] | None = None,
    conf: dict[str, Any] | None = None,
    run_type: str = "asset_materialization",
    at: str = "",
    then: str = "",
    grace_s: float = local.GRACE_S,
) -> dict[str, Any]:
    """What came of the task, and its log. ``terminate`` is what Airflow's supervisor does to a task."""
    plan = _plan(arguments)
    with DAG(plan.dag_id, schedule=None):
        task = local.task(plan, plan.tasks[0], Config(command=command), task_id="stage")
    context = {"partition_key": partition, "dag_run": SimpleNamespace(run_type=DagRunType(run_type), conf=conf)}
    task.render_template_fields(context)
    log = Log(at, then)
    task._cached_logger = logging.Logger("stage", logging.INFO)
    task._cached_logger.addHandler(log)
    before, handler = dict(os.environ), signal.signal(signal.SIGTERM, lambda *_: task.on_kill())
    os.environ.update(environ or {})
    local.GRACE_S = grace_s
    began = time.monotonic()
    try:
        task.execute(context)
    except (AirflowException, AirflowTaskTimeout) as error:
        outcome = {"raised": type(error).__name__, "message": str(error)}
    else:
        outcome = {"raised": None, "message": ""}
    finally:
        os.environ.clear()
        os.environ.update(before)
        signal.signal(signal.SIGTERM, handler)
    process = task._process
    reaped = process is None or process.returncode is not None
    return {**outcome, "lines": log.lines, "seconds": time.monotonic() - began, "reaped": reaped}


def through_a_pipe(exit_code: int) -> dict[str, Any]:
    """The failure as another process gets it."""
    error = pickle.loads(pickle.dumps(failure(exit_code)))  # noqa: S301 - just made
    return {"raised": type(error).__name__, "message": str(error)}


def _plan(arguments: list[str]) -> DagPlan:
    partitions = Partitions.model_validate({"every": "day", "timezone": "UTC", "start": "2026-01-01"})
    stage = Task(id="stage", assets=(Asset(key="a"),), arguments=tuple(arguments))
    return DagPlan(
        dag_id="model",
        group="model",
        partitions=partitions,
        scheduled=False,
        reasons={"catch-up": ("--trigger", "catch-up"), "manual": ("--trigger", "backfill")},
        tasks=(stage,),
    )
