"""The Dagster instance on this machine: where it lives, and a configuration that phones nobody."""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from monitoring_assets import postgres
from monitoring_assets.leases import alive
from monitoring_assets.version import ModelVersion
from resources.at_once import at_once
from resources.errors import BadInput, InfrastructureError
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
IN_POSTGRES = """\
storage:
  postgres:
    postgres_url:
      env: SCOREWATCH_POSTGRES_URL
    # `scorewatch storage migrate` creates them: several processes at once would get into each other's way.
    should_autocreate_tables: false
defs_state_storage:
  module: monitoring_assets.shared_state
  class: StoreState
"""
# Dagit does not show tags of this prefix.
HOST_TAG, PROCESS_TAG = ".dagster/scorewatch-host", ".dagster/scorewatch-process"
BORN_TAG = ".dagster/scorewatch-process-born"


def prepare_instance(settings: Settings) -> None:
    """Create the instance's folder and configuration if there are none, and let Dagster know where they are.

    Raises BadInput for a configuration that does not use the database that the settings name.
    """
    settings.dagster_home.mkdir(parents=True, exist_ok=True)
    place, content = settings.dagster_home / "dagster.yaml", DAGSTER_YAML.format(runs=max(2, os.cpu_count() or 2))
    if settings.postgres_url is not None:
        content += IN_POSTGRES
        # Dagster reads the variable itself, and so do the processes that it starts.
        os.environ["SCOREWATCH_POSTGRES_URL"] = settings.postgres_url.reveal()
        os.environ.pop("SCOREWATCH_POSTGRES_URL_FILE", None)
    try:
        with place.open("x") as file:
            file.write(content)
    except FileExistsError:
        # Another process may be at writing it: one that is empty is not judged.
        found = place.read_text()
        if settings.postgres_url is not None and found and "SCOREWATCH_POSTGRES_URL" not in found:
            raise BadInput(
                f"SCOREWATCH_POSTGRES_URL is set, and {place} keeps Dagster's storage elsewhere. Unset the variable, "
                "or remove the file: it is then written anew, and what stands in the old storage stays there."
            ) from None
    os.environ["DAGSTER_HOME"] = str(settings.dagster_home)


@contextmanager
def open_instance(settings: Settings) -> Iterator[DagsterInstance]:
    """The instance that every process of this deployment shares.

    In SQLite whoever opens it first creates its storage; in Postgres `migrate_instance` must have done so, and
    InfrastructureError is raised as long as it has not.
    """
    from dagster import DagsterInstance  # noqa: PLC0415

    prepare_instance(settings)
    if settings.postgres_url is None:
        with _opening(settings):
            opened = DagsterInstance.from_config(str(settings.dagster_home))
    else:
        if why := postgres.missing(settings.postgres_url):
            raise InfrastructureError(
                f"Dagster's database is not ready: {why}. Run scorewatch storage migrate once, then try again."
            )
        opened = DagsterInstance.from_config(str(settings.dagster_home))
    with opened as instance:
        yield instance


def migrate_instance(settings: Settings) -> None:
    """Create the instance's storage, or bring it to the installed release of Dagster; several at once do it once.

    Raises InfrastructureError when the database cannot be reached.
    """
    from dagster import DagsterInstance  # noqa: PLC0415

    prepare_instance(settings)
    alone = postgres.migrating(settings.postgres_url) if settings.postgres_url else _opening(settings)
    with alone, DagsterInstance.from_config(str(settings.dagster_home)) as instance:
        instance.upgrade()


@contextmanager
def _opening(settings: Settings) -> Iterator[None]:
    """One at a time: several processes that open an empty instance at once corrupt its storage (Dagster 1.13)."""
    with (settings.dagster_home / ".opening").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def unrecorded(instance: DagsterInstance, version: ModelVersion, partitions: Sequence[str]) -> set[str]:
    """Partitions whose data is in the store, while Dagster lacks a materialisation or its check (a run was killed)."""
    from monitoring_assets.assets.events import asset_key, evaluated_partitions  # noqa: PLC0415
    from monitoring_assets.version import CHECKS  # noqa: PLC0415

    wanted, found = set(partitions), set[str]()
    for asset, check in CHECKS.items():
        key = asset_key(version.manifest.model, version.manifest.version, asset)
        known = evaluated_partitions(instance, key, check)
        unknown = sorted(wanted - known)
        stored = at_once(partial(version.current, asset), unknown)
        found |= {each for each, current in zip(unknown, stored, strict=True) if current is not None}
    return found


def process_tags(process: int | None = None) -> dict[str, str]:
    """Tags of a run that say which process of this machine runs it: this one, or another by its id."""
    process = process or os.getpid()
    return {HOST_TAG: socket.gethostname(), PROCESS_TAG: str(process), BORN_TAG: _born(process)}


def runs_here(run: DagsterRun) -> int | None:
    """Id of the process that runs a run; None when it is not on this machine, or nobody said."""
    if run.tags.get(HOST_TAG) != socket.gethostname() or PROCESS_TAG not in run.tags:
        return None
    return int(run.tags[PROCESS_TAG])


def lives(run: DagsterRun) -> bool | None:
    """Whether the process that runs a run is there; None when that is not for this machine to say.

    After a while, or a restart of the machine, another process may have its id.
    """
    process = runs_here(run)
    if process is None:
        return None
    said, found = run.tags.get(BORN_TAG), _born(process)
    return alive(process) and (said == found or not said or not found)


def _born(process: int) -> str:
    """Which start of the machine a process is of, and when in it it was started (in ticks; proc_pid_stat(5)); empty
    where the system does not say, or there is no such process.
    """
    try:
        start = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        stat = Path(f"/proc/{process}/stat").read_text(errors="replace")
    except OSError:
        return ""
    # Its name comes before, in parentheses, and may hold anything.
    return f"{start} {stat.rpartition(')')[2].split()[19]}"
