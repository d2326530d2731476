"""Runs as processes of this machine: which one builds what, how it is ended, and how its death is noticed."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.launcher import LaunchRunContext, WorkerStatus

from monitoring_assets import launcher as module
from monitoring_assets.instance import BORN_TAG, HOST_TAG, PROCESS_TAG, open_instance, process_tags
from monitoring_assets.launcher import ProcessRunLauncher, only
from resources.settings import Settings

WAITS = "import signal, sys; print('up', flush=True); signal.pause()"


@pytest.fixture
def instance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dg.DagsterInstance]:
    monkeypatch.setenv("DAGSTER_HOME", "")
    with open_instance(Settings.from_environment({"SCOREWATCH_HOME": str(tmp_path)}, tmp_path)) as found:
        yield found


linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux says when a process was started")


@pytest.fixture
def process() -> Iterator[subprocess.Popen[str]]:
    """A process that waits for a signal."""
    with subprocess.Popen([sys.executable, "-c", WAITS], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout.readline() == "up\n"
        yield child
        child.kill()


def a_run(instance: dg.DagsterInstance, *keys: str, **tags: str) -> dg.DagsterRun:
    @dg.job
    def nothing() -> None: ...

    run = instance.create_run_for_job(nothing, tags=tags)
    return run._replace(asset_selection=frozenset(dg.AssetKey(key.split("/")) for key in keys))


def test_an_instance_of_ours_launches_runs_as_processes_and_watches_them(instance: dg.DagsterInstance) -> None:
    assert isinstance(instance.run_launcher, ProcessRunLauncher)
    assert instance.run_monitoring_enabled
    assert not instance.telemetry_enabled


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        (["ke/1/psi", "ke/1/csi", "ke/1/reference"], "ke/1"),
        (["ke/1/psi", "ke/2/psi"], ""),
        (["registry"], ""),
        ([], ""),
    ],
)
def test_a_run_about_one_version_builds_its_group_only(
    instance: dg.DagsterInstance, keys: list[str], expected: str
) -> None:
    assert only(a_run(instance, *keys)) == expected


@pytest.fixture
def launched(instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Any]]:
    """Launches a run about some assets; the processes only print what they are given, and are ended afterwards."""
    monkeypatch.setattr(module, "WORKER", ["-c", PRINTS])
    monkeypatch.setattr(module, "ExecuteRunArgs", _Arguments)
    launcher = instance.run_launcher

    def launch(*keys: str) -> dg.DagsterRun:
        run = a_run(instance, *keys)
        launcher.launch_run(LaunchRunContext(run, None))
        return instance.get_run_by_id(run.run_id)

    yield launch
    for each in [*launcher._children.values(), launcher._ahead]:
        if each is not None:
            each.kill()
            each.wait()


PRINTS = "import sys; print(sys.stdin.readline(), end='')"


class _Arguments:
    def __init__(self, *, run_id: str, **_: Any) -> None:
        self._run_id = run_id

    def get_command_args(self) -> list[str]:
        return ["dagster", "api", "execute_run", self._run_id]


def test_a_run_is_given_to_a_process_with_its_version_and_tagged_with_it(
    instance: dg.DagsterInstance, launched: Callable[..., Any], capfd: pytest.CaptureFixture[str]
) -> None:
    run = launched("ke/1/psi")
    process = instance.run_launcher._children[int(run.tags[PROCESS_TAG])]
    # Before it is waited for: until then it is there to be looked at, even if it has ended.
    assert run.tags.items() >= process_tags(process.pid).items()
    assert process.wait(timeout=30) == 0
    order = json.loads(capfd.readouterr().out)
    assert order == {"arguments": ["api", "execute_run", run.run_id], "only": "ke/1"}


def test_the_next_run_is_given_to_the_process_that_was_started_ahead(
    instance: dg.DagsterInstance, launched: Callable[..., Any]
) -> None:
    launched("ke/1/psi")
    ahead = instance.run_launcher._ahead
    assert launched("ke/1/psi").tags[PROCESS_TAG] == str(ahead.pid)
    assert instance.run_launcher._ahead.pid != ahead.pid
    assert ahead.wait(timeout=30) == 0


def test_a_process_ahead_that_was_killed_costs_no_run(
    instance: dg.DagsterInstance, launched: Callable[..., Any]
) -> None:
    launched("ke/1/psi")
    ahead = instance.run_launcher._ahead
    ahead.kill()
    run = launched("ke/1/psi")
    assert run.tags[PROCESS_TAG] != str(ahead.pid)
    assert instance.run_launcher._children[int(run.tags[PROCESS_TAG])].wait(timeout=30) == 0


def test_a_process_ahead_ends_with_the_launcher_that_it_waits_for() -> None:
    worker = subprocess.run(
        [sys.executable, "-m", "monitoring_assets.worker"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert (worker.returncode, worker.stdout) == (0, ""), worker.stderr


def test_a_run_whose_process_lives_is_well_and_one_that_was_killed_has_failed(
    instance: dg.DagsterInstance, process: Any
) -> None:
    run = a_run(instance, **process_tags(process.pid))
    launcher = instance.run_launcher
    assert launcher.check_run_worker_health(run).status == WorkerStatus.RUNNING
    process.kill()
    process.wait()
    found = launcher.check_run_worker_health(run)
    assert (found.status, found.msg) == (WorkerStatus.FAILED, "Its process ended without a word: it was killed.")


@pytest.fixture
def another(process: Any) -> dict[str, str]:
    """The tags of a run whose process ended long ago, and whose id another process has."""
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        return process_tags(ended.pid) | {PROCESS_TAG: str(process.pid)}


@linux
def test_a_run_whose_process_ended_has_failed_although_another_process_has_its_id(
    instance: dg.DagsterInstance, another: dict[str, str]
) -> None:
    run = a_run(instance, **another)
    assert instance.run_launcher.check_run_worker_health(run).status == WorkerStatus.FAILED


@linux
def test_whoever_has_the_id_of_a_run_s_process_is_not_terminated(
    instance: dg.DagsterInstance, process: Any, another: dict[str, str]
) -> None:
    run = a_run(instance, **another)
    assert not instance.run_launcher.terminate(run.run_id)
    assert process.poll() is None


def test_of_a_run_that_does_not_say_when_its_process_was_started_the_id_counts(
    instance: dg.DagsterInstance, process: Any
) -> None:
    before = {key: value for key, value in process_tags(process.pid).items() if key != BORN_TAG}
    run = a_run(instance, **before)
    assert instance.run_launcher.check_run_worker_health(run).status == WorkerStatus.RUNNING
    process.kill()
    process.wait()
    assert instance.run_launcher.check_run_worker_health(run).status == WorkerStatus.FAILED


@pytest.mark.parametrize("tags", [{}, {HOST_TAG: "another machine", PROCESS_TAG: "1"}])
def test_a_run_of_another_machine_is_not_for_this_one_to_judge(
    instance: dg.DagsterInstance, tags: dict[str, str]
) -> None:
    run = a_run(instance, **tags)
    assert instance.run_launcher.check_run_worker_health(run).status == WorkerStatus.RUNNING
    assert not instance.run_launcher.terminate(run.run_id)


def test_a_run_that_is_terminated_gets_a_signal_and_is_canceling(instance: dg.DagsterInstance, process: Any) -> None:
    run = a_run(instance, **process_tags(process.pid))
    instance.report_dagster_event(dg.DagsterEvent(dg.DagsterEventType.RUN_START.value, run.job_name), run_id=run.run_id)
    assert instance.run_launcher.terminate(run.run_id)
    assert process.wait(timeout=30) == -15
    assert instance.get_run_by_id(run.run_id).status == dg.DagsterRunStatus.CANCELING


def test_a_run_that_has_ended_is_not_terminated(instance: dg.DagsterInstance, process: Any) -> None:
    run = a_run(instance, **process_tags(process.pid))
    instance.report_run_failed(run)
    assert not instance.run_launcher.terminate(run.run_id)
    assert not instance.run_launcher.terminate("no such run")
    assert process.poll() is None
