"""Runs as processes of their own on this machine, each of which builds the group of its model version only.

Dagster's default launcher runs them inside the code server's process tree, where each loads the whole location, and
where a reload or a crash of the server takes them along.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

from dagster import DagsterRun
from dagster._core.launcher.base import CheckRunHealthResult, LaunchRunContext, RunLauncher, WorkerStatus
from dagster._grpc.types import ExecuteRunArgs
from dagster._serdes import ConfigurableClass, ConfigurableClassData

from monitoring_assets.instance import alive, process_tags, runs_here


class ProcessRunLauncher(RunLauncher[Any], ConfigurableClass):
    """Set as ``run_launcher`` in dagster.yaml; it has no configuration."""

    def __init__(self, inst_data: ConfigurableClassData | None = None) -> None:
        self._inst_data = inst_data
        self._children: dict[int, subprocess.Popen[bytes]] = {}
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
        """Start `dagster api execute_run` with what this process prints to."""
        run = context.dagster_run
        arguments = ExecuteRunArgs(
            job_origin=run.job_code_origin,  # type: ignore[arg-type]
            run_id=run.run_id,
            instance_ref=self._instance.get_ref(),
            set_exit_code_on_failure=True,
        )
        # Its first word is `dagster`, which need not be on the path.
        command = [sys.executable, "-m", "dagster", *arguments.get_command_args()[1:]]
        environ = {**os.environ, "SCOREWATCH_ONLY": only(run)}
        child = subprocess.Popen(command, env=environ, stdin=subprocess.DEVNULL)  # noqa: S603
        # poll() takes leave of those that ended; they would stay as zombies.
        self._children = {pid: each for pid, each in self._children.items() if each.poll() is None}
        self._children[child.pid] = child
        self._instance.add_run_tags(run.run_id, process_tags(child.pid))

    def terminate(self, run_id: str) -> bool:
        """Interrupt a run, which then records that it was cancelled; False when there is nothing to interrupt."""
        run = self._instance.get_run_by_id(run_id)
        if run is None or run.is_finished:
            return False
        self._instance.report_run_canceling(run)
        process = runs_here(run)
        if process is None or not self._alive(process):
            return False
        os.kill(process, signal.SIGTERM)
        return True

    @property
    def supports_check_run_worker_health(self) -> bool:
        """So that a killed run does not stay running for ever."""
        return True

    def check_run_worker_health(self, run: DagsterRun) -> CheckRunHealthResult:
        """Whether the run's process lives. Runs of other machines are not for this one to judge."""
        process = runs_here(run)
        if process is None or self._alive(process):
            return CheckRunHealthResult(WorkerStatus.RUNNING)
        return CheckRunHealthResult(WorkerStatus.FAILED, "Its process ended without a word: it was killed.")

    def _alive(self, process: int) -> bool:
        child = self._children.get(process)
        if child is not None:
            return child.poll() is None  # os.kill() takes a zombie for alive
        return alive(process)


def only(run: DagsterRun) -> str:
    """The one model version that a run is about, as SCOREWATCH_ONLY says it; empty when there are several."""
    found = {"/".join(key.path[:2]) for key in run.asset_selection or () if len(key.path) == 3}
    return found.pop() if len(found) == 1 else ""
