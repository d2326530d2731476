"""Runs as processes of their own on this machine, each of which builds the group of its model version only.

One process is always started ahead (`monitoring_assets.worker`), so that a run need not wait for imports. Dagster's
default launcher runs them inside the code server's process tree, where each loads the whole location, and where a
reload or a crash of the server takes them along.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from functools import cached_property
from typing import Any

from dagster import DagsterInstance, DagsterRun
from dagster._core.launcher.base import CheckRunHealthResult, LaunchRunContext, RunLauncher, WorkerStatus
from dagster._grpc.types import ExecuteRunArgs
from dagster._serdes import ConfigurableClass, ConfigurableClassData

from monitoring_assets.heartbeats import EXTERNAL_TAG, KILLED, Heartbeats
from monitoring_assets.instance import lives, process_tags, runs_here

WORKER = ["-m", "monitoring_assets.worker"]


class ProcessRunLauncher(RunLauncher[Any], ConfigurableClass):
    """Set as ``run_launcher`` in dagster.yaml; it has no configuration."""

    def __init__(self, inst_data: ConfigurableClassData | None = None) -> None:
        self._inst_data = inst_data
        self._children: dict[int, subprocess.Popen[str]] = {}
        self._ahead: subprocess.Popen[str] | None = None
        super().__init__()  # type: ignore[no-untyped-call]

    @property
    def inst_data(self) -> ConfigurableClassData | None:
        """What Dagster makes another one of it from."""
        return self._inst_data

    @classmethod
    def config_type(cls) -> dict[str, Any]:
        """Nothing to configure."""
        return {}

    @classmethod
    def from_config_value(
        cls,
        inst_data: ConfigurableClassData,
        config_value: Mapping[str, Any],  # noqa: ARG003 - Dagster's signature
    ) -> ProcessRunLauncher:
        """As Dagster makes it."""
        return cls(inst_data)

    def launch_run(self, context: LaunchRunContext) -> None:
        """Hand the run to the process that was started ahead, and start the next one."""
        run = context.dagster_run
        arguments = ExecuteRunArgs(
            job_origin=run.job_code_origin,  # type: ignore[arg-type]
            run_id=run.run_id,
            instance_ref=self._instance.get_ref(),
            set_exit_code_on_failure=True,
        )
        # Its first word is `dagster`.
        order = json.dumps({"arguments": arguments.get_command_args()[1:], "only": only(run)})
        child = self._hand_over(order)
        # poll() takes leave of those that ended; they would stay as zombies.
        self._children = {pid: each for pid, each in self._children.items() if each.poll() is None}
        self._children[child.pid] = child
        self._instance.add_run_tags(run.run_id, process_tags(child.pid))
        self._ahead = _start()

    def _hand_over(self, order: str) -> subprocess.Popen[str]:
        """Give a run to the process that waits for one; to a new one, if that has died."""
        waiting, self._ahead = self._ahead, None
        if waiting is not None and waiting.poll() is None:
            try:
                return _give(waiting, order)
            except BrokenPipeError:
                waiting.wait()
        return _give(_start(), order)

    def terminate(self, run_id: str) -> bool:
        """Interrupt a run, which then records that it was cancelled; False when there is nothing to interrupt."""
        run = self._instance.get_run_by_id(run_id)
        if run is None or run.is_finished:
            return False
        self._instance.report_run_canceling(run)
        process = runs_here(run)
        if process is None or not self._lives(run):
            return False
        os.kill(process, signal.SIGTERM)
        return True

    @property
    def supports_check_run_worker_health(self) -> bool:
        """So that a killed run does not stay running for ever."""
        return True

    def check_run_worker_health(self, run: DagsterRun) -> CheckRunHealthResult:
        """Whether the run's process lives. Runs that other machines launched are not for this one to judge."""
        if EXTERNAL_TAG in run.tags:
            return external_health(self._heartbeats, self._instance, run)
        if self._lives(run) is False:
            return CheckRunHealthResult(WorkerStatus.FAILED, KILLED)
        return CheckRunHealthResult(WorkerStatus.RUNNING)

    @cached_property
    def _heartbeats(self) -> Heartbeats:
        return Heartbeats.configured()

    def _lives(self, run: DagsterRun) -> bool | None:
        child = self._children.get(runs_here(run) or 0)
        if child is not None:
            child.poll()  # until it is asked, one that ended is there as a zombie
        return lives(run)


def external_health(heartbeats: Heartbeats, instance: DagsterInstance, run: DagsterRun) -> CheckRunHealthResult:
    """How a run is that no launcher launched."""
    why = heartbeats.why_dead(instance, run)
    return CheckRunHealthResult(WorkerStatus.RUNNING if why is None else WorkerStatus.FAILED, why)


def _start() -> subprocess.Popen[str]:
    # It prints to where this process prints to.
    return subprocess.Popen([sys.executable, *WORKER], stdin=subprocess.PIPE, text=True)  # noqa: S603


def _give(process: subprocess.Popen[str], order: str) -> subprocess.Popen[str]:
    assert process.stdin is not None  # noqa: S101 - it was started with a pipe
    with process.stdin as pipe:
        pipe.write(f"{order}\n")
    return process


def only(run: DagsterRun) -> str:
    """The one model version that a run is about, as SCOREWATCH_ONLY says it; empty when there are several."""
    found = {"/".join(key.path[:2]) for key in run.asset_selection or () if len(key.path) == 3}
    return found.pop() if len(found) == 1 else ""
