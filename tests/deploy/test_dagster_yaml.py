"""The instance of the cluster, opened as its pods open it: on a real PostgreSQL, with the environment of the base."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
import pytest
import yaml
from dagster._core.launcher import WorkerStatus
from dagster._core.storage.noop_compute_log_manager import NoOpComputeLogManager
from dagster_postgres import PostgresEventLogStorage, PostgresRunStorage, PostgresScheduleStorage

from monitoring_assets.heartbeats import EXTERNAL_TAG, heartbeat
from monitoring_assets.instance import migrate_instance, open_instance
from monitoring_assets.pods import PodRunLauncher
from monitoring_assets.shared_state import StoreState
from resources.settings import Settings

FILE = Path(__file__).parents[2] / "deploy" / "kubernetes" / "base" / "dagster.yaml"
STARTED = dg.DagsterRunStatus.STARTED
IMAGE = "scorewatch/monitoring@sha256:" + "0" * 64


@pytest.fixture
def settings(database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Of a pod, where dagster.yaml is mounted."""
    environ = {
        "DAGSTER_HOME": str(tmp_path / "dagster"),
        "SCOREWATCH_HOME": str(tmp_path),
        "SCOREWATCH_STORE": f"file://{tmp_path}/store",
        "SCOREWATCH_POSTGRES_URL": database,
        "SCOREWATCH_IMAGE": IMAGE,
        "SCOREWATCH_MAX_CPU": "4",
        "SCOREWATCH_MAX_MEMORY_MIB": "16384",
        "SCOREWATCH_MODEL_IMAGES": "",
    }
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "dagster").mkdir()
    shutil.copy(FILE, tmp_path / "dagster" / "dagster.yaml")
    return Settings.from_environment(environ, tmp_path)


@pytest.fixture
def instance(settings: Settings) -> Iterator[dg.DagsterInstance]:
    migrate_instance(settings)
    with open_instance(settings) as found:
        yield found


def test_the_file_is_left_as_it_is_mounted(instance: dg.DagsterInstance, settings: Settings) -> None:
    assert (settings.dagster_home / "dagster.yaml").read_bytes() == FILE.read_bytes()


def test_everything_that_pods_share_is_outside_of_them(instance: dg.DagsterInstance) -> None:
    assert isinstance(instance.run_storage, PostgresRunStorage)
    assert isinstance(instance.event_log_storage, PostgresEventLogStorage)
    assert isinstance(instance.schedule_storage, PostgresScheduleStorage)
    assert isinstance(instance.defs_state_storage, StoreState)
    assert isinstance(instance.compute_log_manager, NoOpComputeLogManager)
    assert not instance.telemetry_enabled


def test_runs_are_monitored_and_not_resumed(instance: dg.DagsterInstance) -> None:
    assert instance.run_monitoring_enabled
    assert instance.run_monitoring_max_resume_run_attempts == 0
    assert instance.run_monitoring_settings["free_slots_after_run_end_seconds"] > 0
    assert instance.get_concurrency_config().run_queue_config.max_concurrent_runs == 50


def test_runs_become_pods_and_those_that_others_started_are_judged_by_their_heartbeat(settings: Settings) -> None:
    place = settings.dagster_home / "dagster.yaml"
    document = yaml.safe_load(place.read_text())
    document["run_launcher"]["config"]["kubeconfig_file"] = str(kubeconfig(settings.home))
    place.write_text(yaml.safe_dump(document))
    migrate_instance(settings)
    with open_instance(settings) as instance:
        launcher = instance.run_launcher
        assert isinstance(launcher, PodRunLauncher)
        assert launcher.job_image == IMAGE
        run = instance.add_run(dg.DagsterRun("job", status=STARTED, tags={EXTERNAL_TAG: "command"}))
        with heartbeat(settings.open_store(), run.run_id, lambda: datetime.now(UTC)):
            assert launcher.check_run_worker_health(run).status == WorkerStatus.RUNNING
        assert launcher.check_run_worker_health(run).status == WorkerStatus.FAILED


def kubeconfig(folder: Path) -> Path:
    """Stands for what a pod is given to reach its cluster; nobody listens there."""
    named = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "it",
        "clusters": [{"name": "it", "cluster": {"server": "http://127.0.0.1:9"}}],
        "users": [{"name": "it", "user": {}}],
        "contexts": [{"name": "it", "context": {"cluster": "it", "user": "it"}}],
    }
    path = folder / "kubeconfig"
    path.write_text(yaml.safe_dump(named))
    return path


def test_a_pool_is_limited_as_dagster_s_command_sets_it(instance: dg.DagsterInstance) -> None:
    instance.event_log_storage.set_concurrency_slots("lake", 2)
    assert instance.event_log_storage.get_concurrency_info("lake").slot_count == 2


def test_no_secret_stands_in_it() -> None:
    named = yaml.safe_load(FILE.read_text())
    assert named["storage"]["postgres"]["postgres_url"] == {"env": "SCOREWATCH_POSTGRES_URL"}
