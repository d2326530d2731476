"""Runs that no launcher launched: their heartbeat, and what Dagster's run monitoring makes of it."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import EmptyWorkspaceTarget
from dagster._daemon.monitoring import execute_concurrency_slots_iteration, execute_run_monitoring_iteration

from monitoring_assets import layout, leases
from monitoring_assets.heartbeats import EXTERNAL_TAG, Heartbeats, heartbeat, why_dead
from monitoring_assets.instance import open_instance
from monitoring_assets.leases import LASTS, Lease, read_lease
from resources.errors import InfrastructureError
from resources.object_store import LocalStore
from resources.settings import Settings

NOW = datetime(2026, 1, 2, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


class Clock:
    now = NOW

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "store")


def of_a_pod(renewed: datetime) -> Lease:
    """A heartbeat of a process on another machine."""
    return Lease(host="a-pod", process=7, since=NOW - 10 * MINUTE, until=renewed + LASTS, token="x")


@pytest.fixture
def beats(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> Callable[[], bool]:
    """Waits until a heartbeat was written again; they come every hundredth of a second."""
    monkeypatch.setattr(leases, "RENEWED_S", 0.01)
    written, put = threading.Event(), LocalStore.put

    def counted(own: LocalStore, key: str, data: bytes) -> str:
        etag = put(own, key, data)
        written.set()
        return etag

    monkeypatch.setattr(LocalStore, "put", counted)

    def wait() -> bool:
        # The one that may be under way, and one that began after it.
        written.clear()
        first = written.wait(30)
        written.clear()
        return first and written.wait(30)

    return wait


@pytest.mark.parametrize(
    ("beat", "dead"),
    [
        (of_a_pod(NOW), None),
        (of_a_pod(NOW - LASTS + timedelta(seconds=1)), None),
        (of_a_pod(NOW - LASTS), "(7 on a-pod) has not been heard of since 2026-01-02 11:59:00 UTC"),
        (of_a_pod(NOW + timedelta(days=1)), "has not been heard of"),
        (None, "has not been heard of since 2026-01-02 11:30:00 UTC, when it started"),
    ],
    ids=["renewed", "renewed within its time", "not renewed", "of a wrong clock", "not there"],
)
def test_a_run_lives_while_its_heartbeat_is_renewed(beat: Lease | None, dead: str | None) -> None:
    found = why_dead(beat, NOW, NOW - 30 * MINUTE)
    assert (found is None) == (dead is None)
    assert (dead or "") in (found or "")


def test_a_heartbeat_is_renewed_even_when_somebody_removed_it_and_goes_with_its_process(
    store: LocalStore, clock: Clock, beats: Callable[[], bool]
) -> None:
    key = layout.heartbeat("r")
    with heartbeat(store, "r", clock):
        assert store.get(key) is not None
        store.delete(key)
        clock.now += 10 * MINUTE
        assert beats()
        found = read_lease(store, key)[0]
        assert found is not None
        assert found.until == clock.now + LASTS
        assert found.since == NOW
    assert store.get(key) is None


def test_what_becomes_of_a_run_is_not_hidden_by_a_store_that_is_away(
    store: LocalStore, clock: Clock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def away(*_: object) -> None:
        raise InfrastructureError("the store is away")

    monkeypatch.setattr(LocalStore, "delete", away)
    with pytest.raises(ZeroDivisionError), heartbeat(store, "r", clock):
        raise ZeroDivisionError
    assert "a heartbeat could not be removed: the store is away" in caplog.text
    monkeypatch.setattr(LocalStore, "put", away)
    with pytest.raises(InfrastructureError), heartbeat(store, "s", clock):
        pytest.fail("a run began that nobody can judge")


@pytest.fixture
def instance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dg.DagsterInstance]:
    """One of ours, with a pool of one slot; its launcher finds the store as a daemon's does."""
    monkeypatch.setenv("DAGSTER_HOME", "")
    for name in [name for name in os.environ if name.startswith("SCOREWATCH_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("SCOREWATCH_HOME", str(tmp_path))
    with open_instance(Settings.from_environment(os.environ, tmp_path)) as found:
        found.event_log_storage.set_concurrency_slots(POOL, 1)
        yield found


POOL = "lake"


def started(instance: dg.DagsterInstance, **tags: str) -> str:
    """Record a run that is under way; its id."""
    return instance.add_run(dg.DagsterRun("job", status=dg.DagsterRunStatus.STARTED, tags=tags)).run_id


def monitor(instance: dg.DagsterInstance) -> None:
    """What Dagster's daemon does every few seconds."""
    log = logging.getLogger("monitoring")
    with WorkspaceProcessContext(instance, EmptyWorkspaceTarget()) as workspace:
        errors = [
            *execute_run_monitoring_iteration(workspace, log),
            *execute_concurrency_slots_iteration(workspace, log),
        ]
    assert not any(errors), errors


def status(instance: dg.DagsterInstance, run: str) -> str:
    return str(instance.get_run_by_id(run).status.value)


def watch(instance: dg.DagsterInstance, store: LocalStore, clock: Clock) -> None:
    """Let the launcher look at this store with this clock."""
    instance.run_launcher.__dict__["_heartbeats"] = Heartbeats(store, clock)


def test_run_monitoring_lets_a_run_of_more_than_ten_minutes_go_on_while_it_is_heard_of(
    instance: dg.DagsterInstance, store: LocalStore, clock: Clock, beats: Callable[[], bool]
) -> None:
    watch(instance, store, clock)
    run = started(instance, **{EXTERNAL_TAG: "command"})
    with heartbeat(store, run, clock):
        for _ in range(12):
            clock.now += MINUTE
            assert beats()
            monitor(instance)
            assert status(instance, run) == "STARTED"
    monitor(instance)
    assert status(instance, run) == "FAILURE", "the process went without ending the run"


def test_nobody_is_judged_by_an_outage_of_the_store_nor_right_after_it(
    instance: dg.DagsterInstance, store: LocalStore, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch(instance, store, clock)
    run = started(instance, **{EXTERNAL_TAG: "command"})
    store.put(layout.heartbeat(run), of_a_pod(NOW).stored())
    clock.now += 5 * MINUTE
    with monkeypatch.context() as patch:

        def away(*_: object) -> None:
            raise InfrastructureError("the store is away")

        patch.setattr(LocalStore, "get", away)
        monitor(instance)
    clock.now += LASTS - timedelta(seconds=1)
    monitor(instance)
    assert status(instance, run) == "STARTED"
    clock.now += timedelta(seconds=1)
    monitor(instance)
    assert status(instance, run) == "FAILURE"


def test_a_run_that_ended_while_it_was_looked_at_is_not_dead(
    instance: dg.DagsterInstance, store: LocalStore, clock: Clock
) -> None:
    seen = instance.get_run_by_id(started(instance, **{EXTERNAL_TAG: "command"}))
    assert Heartbeats(store, clock).why_dead(instance, seen) is not None
    instance.report_run_canceled(seen)
    assert Heartbeats(store, clock).why_dead(instance, seen) is None


PROCESS = f"""
import os, signal, sys
from datetime import UTC, datetime
from pathlib import Path
import dagster as dg
from dagster._core.utils import make_new_run_id
from monitoring_assets.heartbeats import EXTERNAL_TAG, heartbeat
from monitoring_assets.instance import open_instance
from resources.settings import Settings

@dg.asset(pool="{POOL}")
def slow(context):
    print(context.run_id, flush=True)
    signal.pause()

settings, run = Settings.from_environment(os.environ, Path.cwd()), make_new_run_id()
job = dg.Definitions(assets=[slow], jobs=[dg.define_asset_job("job")]).resolve_job_def("job")
with open_instance(settings) as instance, heartbeat(settings.open_store(), run, lambda: datetime.now(UTC)):
    job.execute_in_process(run_id=run, instance=instance, tags={{EXTERNAL_TAG: "command"}})
"""


def test_a_killed_process_s_run_ends_failed_and_its_slot_of_a_pool_is_free(
    instance: dg.DagsterInstance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(instance._settings["run_monitoring"], "free_slots_after_run_end_seconds", 1)
    process = subprocess.Popen([sys.executable, "-c", PROCESS], stdout=subprocess.PIPE, text=True)
    try:
        run = str(process.stdout.readline()).strip()
        monitor(instance)
        assert status(instance, run) == "STARTED"
        assert slots(instance) == (0, 1)
        process.send_signal(signal.SIGKILL)
        process.wait(timeout=30)
        monitor(instance)
        assert status(instance, run) == "FAILURE"
        assert "has not been heard of" in failure(instance, run)
        end = time.monotonic() + 30
        while slots(instance) != (1, 0) and time.monotonic() < end:
            monitor(instance)
        assert slots(instance) == (1, 0)
    finally:
        process.kill()
        process.communicate(timeout=30)


def slots(instance: dg.DagsterInstance) -> tuple[int, int]:
    """Of the pool: how many slots are free, and how many runs have one."""
    info = instance.event_log_storage.get_concurrency_info(POOL)
    return info.slot_count - info.active_slot_count, len(info.active_run_ids)


def failure(instance: dg.DagsterInstance, run: str) -> str:
    return " ".join(str(each.message) for each in instance.all_logs(run, of_type=dg.DagsterEventType.PIPELINE_FAILURE))


def test_the_launcher_of_a_daemon_finds_the_heartbeats_that_the_environment_names(
    instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    run = started(instance, **{EXTERNAL_TAG: "command"})
    own: Any = LocalStore(tmp_path / "store")
    with heartbeat(own, run, lambda: datetime.now(UTC)):
        monitor(instance)
        assert status(instance, run) == "STARTED"
    monitor(instance)
    assert status(instance, run) == "FAILURE"
