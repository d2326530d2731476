"""Runs whose pod ended before they began: who finds that out, and what is left alone."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.events import DagsterEvent, DagsterEventType
from dagster._core.launcher import WorkerStatus
from dagster._core.launcher.base import CheckRunHealthResult

from airflow_bridge.stage_pod import MODEL
from monitoring_assets.sensors.arrivals import DagsterRuns
from monitoring_assets.sensors.starts import LAUNCHED_WITHIN, starts_sensor
from tests.launched_pods import DAY, MODEL_IMAGE, Launched, allowed, launcher
from tests.recorders.kubernetes import KubernetesRecorder

STARTING, STARTED, FAILURE = dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.FAILURE
ENDED = {"failed": 1, "startTime": "2026-01-04T00:00:00Z"}
WORK = "arrival/vendor/1.0.0/2026-01-03/01234567"


@pytest.fixture
def pods(lender: Any, tmp_path: Path) -> Iterator[Launched]:
    """A version that scores with its own image."""
    kubernetes = KubernetesRecorder(tmp_path / "config")
    manifest = lender.manifest(model="vendor", score={"kind": "container", "image": MODEL_IMAGE})
    (tmp_path / "instance").mkdir()
    try:
        with launcher(tmp_path / "instance", kubernetes, manifest, model_images="registry.example/models") as found:
            yield found
    finally:
        kubernetes.stop()
    assert kubernetes.problems == []


def launched(pods: Launched) -> dg.DagsterRun:
    """A run as the queue hands it to the launcher: of its process nothing was heard yet."""
    run = pods.run("vendor", dagster__partition=DAY, scorewatch__work=WORK)
    pods.instance.launch_run(run.run_id, pods.workspace)
    return run


def crash(pods: Launched) -> None:
    """The model's container ends with an error, hence the pod and its job."""
    pods.kubernetes.job_status = ENDED
    container = {"name": MODEL, "ready": False, "restartCount": 0, "image": MODEL_IMAGE, "imageID": MODEL_IMAGE}
    ended = {"state": {"terminated": {"exitCode": 139, "reason": "Error", "message": "applicant 4711"}}}
    pods.kubernetes.pod_status = {"phase": "Failed", "initContainerStatuses": [{**container, **ended}]}


def tick(pods: Launched, after: timedelta = LAUNCHED_WITHIN + timedelta(seconds=5)) -> str:
    """What a tick says that comes so long after the launch."""
    sensor = starts_sensor(lambda: datetime.now(UTC) + after)
    [said] = [sensor(dg.build_sensor_context(instance=pods.instance))]
    return said.skip_message


def status(pods: Launched, run: dg.DagsterRun) -> dg.DagsterRunStatus:
    found = pods.instance.get_run_by_id(run.run_id)
    assert found is not None
    return found.status


def test_one_whose_pod_crashed_before_it_began_has_failed_and_says_how(pods: Launched) -> None:
    run = launched(pods)
    crash(pods)

    assert tick(pods) == f"ended before they began: {run.run_id}"
    assert status(pods, run) is FAILURE
    log = "\n".join(event.message for event in pods.instance.all_logs(run.run_id))
    assert "ended before it began" in log
    assert "Its container model ended: Error, exit code 139." in log
    assert "applicant" not in log, "an image may write anything into the message that it leaves"
    assert tick(pods) == "no run failed to start"


def test_its_version_is_busy_no_more_and_is_asked_for_again(pods: Launched) -> None:
    launched(pods)
    crash(pods)
    runs = DagsterRuns(pods.instance)
    assert (set(runs.busy()), runs.of([WORK])[WORK].state) == ({("vendor", "1.0.0")}, "running")

    tick(pods)
    assert (set(runs.busy()), runs.of([WORK])[WORK].state) == (set(), "failed")


def test_one_whose_job_is_gone_has_failed(pods: Launched) -> None:
    run = launched(pods)
    for kind in ("jobs", "pods"):
        pods.kubernetes.made[kind].clear()

    tick(pods)
    assert status(pods, run) is FAILURE


def test_one_that_is_being_launched_is_given_the_time_to_get_its_job(pods: Launched) -> None:
    run = launched(pods)
    pods.kubernetes.made["jobs"].clear()

    tick(pods, after=timedelta(seconds=1))
    assert status(pods, run) is STARTING


@pytest.mark.parametrize("job", [{}, {"active": 1}])
def test_one_whose_pod_waits_or_prepares_is_let_alone(pods: Launched, job: dict[str, int]) -> None:
    run = launched(pods)
    pods.kubernetes.job_status = job

    assert tick(pods) == "no run failed to start"
    assert status(pods, run) is STARTING


def test_nobody_is_judged_by_an_outage_of_kubernetes(pods: Launched) -> None:
    run = launched(pods)
    pods.kubernetes.outage = 403

    tick(pods)
    assert status(pods, run) is STARTING


def test_one_that_began_while_it_was_looked_at_is_let_alone(pods: Launched, monkeypatch: pytest.MonkeyPatch) -> None:
    run = launched(pods)

    def begins(_: dg.DagsterRun) -> CheckRunHealthResult:
        begun = DagsterEvent(DagsterEventType.RUN_START.value, job_name=run.job_name)
        pods.instance.report_dagster_event(begun, run.run_id)
        return CheckRunHealthResult(WorkerStatus.FAILED, "its job is seen as it was")

    monkeypatch.setattr(pods.instance.run_launcher, "check_run_worker_health", begins)
    tick(pods)
    assert status(pods, run) is STARTED


def test_how_it_ended_need_not_be_found_out_for_it_to_have_failed(
    pods: Launched, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = launched(pods)
    crash(pods)
    monkeypatch.setattr(pods.instance.run_launcher, "get_run_worker_debug_info", _raise)

    tick(pods)
    assert status(pods, run) is FAILURE


def _raise(*_: Any, **__: Any) -> None:
    raise ConnectionError


def test_control_may_ask_for_what_it_asks_for_and_for_nothing_else(pods: Launched) -> None:
    rights = set()
    for pod_is_there in (True, False):
        launched(pods)
        crash(pods)
        if not pod_is_there:
            pods.kubernetes.made["pods"].clear()
        pods.kubernetes.calls.clear()
        tick(pods)
        rights |= pods.kubernetes.rights

    assert rights == allowed("scorewatch-control")
