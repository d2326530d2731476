"""The Dagster instance on this machine: where it lives, and a configuration that phones nobody."""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from monitoring_assets.version import ModelVersion
from resources.settings import Settings

if TYPE_CHECKING:
    from dagster import DagsterInstance, DagsterRun

DAGSTER_YAML = """\
# Written by scorewatch when there was none; it is yours to change.
telemetry:
  enabled: false
nux:
  enabled: false
run_launcher:
  module: monitoring_assets.launcher
  class: ProcessRunLauncher
run_coordinator:
  module: dagster.core.run_coordinator
  class: QueuedRunCoordinator
  config:
    dequeue_interval_seconds: 1
concurrency:
  runs:
    max_concurrent_runs: {runs}
run_monitoring:
  enabled: true
  start_timeout_seconds: 120
  poll_interval_seconds: 15
  max_resume_run_attempts: 0
sensors:
  use_threads: true
  num_workers: 4
retention:
  sensor:
    purge_after_days:
      skipped: 1
      success: 90
"""
# Dagit does not show tags of this prefix.
HOST_TAG, PROCESS_TAG = ".dagster/scorewatch-host", ".dagster/scorewatch-process"


def prepare_instance(settings: Settings) -> None:
    """Create the instance's folder and configuration if there are none, and let Dagster know where they are."""
    settings.dagster_home.mkdir(parents=True, exist_ok=True)
    try:
        with (settings.dagster_home / "dagster.yaml").open("x") as file:
            file.write(DAGSTER_YAML.format(runs=max(2, os.cpu_count() or 2)))
    except FileExistsError:
        pass
    os.environ["DAGSTER_HOME"] = str(settings.dagster_home)


@contextmanager
def open_instance(settings: Settings) -> Iterator[DagsterInstance]:
    """The instance that every process of this deployment shares; whoever opens it first creates its storage.

    One at a time: several processes that open an empty instance at once corrupt its storage (Dagster 1.13).
    """
    from dagster import DagsterInstance  # noqa: PLC0415

    prepare_instance(settings)
    with (settings.dagster_home / ".opening").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        opened = DagsterInstance.from_config(str(settings.dagster_home))
    with opened as instance:
        yield instance


def unrecorded(instance: DagsterInstance, version: ModelVersion, partitions: Sequence[str]) -> set[str]:
    """Partitions whose data is in the store, while Dagster lacks a materialisation or its check (a run was killed)."""
    from monitoring_assets.assets.events import asset_key, evaluated_partitions  # noqa: PLC0415
    from monitoring_assets.version import CHECKS  # noqa: PLC0415

    wanted, found = set(partitions), set[str]()
    for asset, check in CHECKS.items():
        key = asset_key(version.manifest.model, version.manifest.version, asset)
        known = evaluated_partitions(instance, key, check)
        found |= {each for each in wanted - known if version.current(asset, each) is not None}
    return found


def process_tags(process: int | None = None) -> dict[str, str]:
    """Tags of a run that say which process of this machine runs it: this one, or another by its id."""
    return {HOST_TAG: socket.gethostname(), PROCESS_TAG: str(process or os.getpid())}


def runs_here(run: DagsterRun) -> int | None:
    """Id of the process that runs a run; None when it is not on this machine, or nobody said."""
    if run.tags.get(HOST_TAG) != socket.gethostname() or PROCESS_TAG not in run.tags:
        return None
    return int(run.tags[PROCESS_TAG])


def alive(process: int) -> bool:
    """Whether a process of this machine exists."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def end_killed_runs(instance: DagsterInstance, version: ModelVersion) -> None:
    """Record the version's runs whose process on this machine is gone as failed; they would be running for ever."""
    from dagster import DagsterRunStatus, RunsFilter  # noqa: PLC0415

    tags = {
        "scorewatch/model": version.manifest.model,
        "scorewatch/version": version.manifest.version,
        HOST_TAG: socket.gethostname(),
    }
    for run in instance.get_runs(RunsFilter(statuses=[DagsterRunStatus.STARTED], tags=tags)):
        if not alive(int(run.tags[PROCESS_TAG])):
            instance.report_run_failed(run, "Its process ended without a word: it was killed.")
