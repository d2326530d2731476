"""The exported DAGs in a real Airflow, while Dagster schedules: they run by hand and in backfills."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from monitoring_assets.leases import Leases
from monitoring_assets.results import Result
from monitoring_assets.version import CHECKS
from resources.object_store import open_store
from tests.e2e.airflow_stack import until

# A busy machine of two cores may need it; the tests wait for conditions with limits of their own.
pytestmark = pytest.mark.timeout(900)

DAYS = [f"2025-03-{day:02d}" for day in range(1, 6)]
DUPLICATED, ABSENT = "2025-03-06", "2025-03-07"
STAGES = ("features", "scores", "monitoring")
SMALL, OTHER, REMOTE = "small__1_0_0", "other__1_0_0", "remote__1_0_0"
KINDS = {("quality", "features"), ("quality", "scores"), ("quality", "distribution"), ("psi", "psi"), ("csi", "csi")}
GREEN = dict.fromkeys(STAGES, ("success", 1))


@pytest.fixture(scope="module")
def exported(airflow: Any) -> Any:
    """Airflow with the DAGs of all models that were registered at the beginning."""
    airflow.export()
    return airflow


@pytest.fixture(scope="module")
def first_run(exported: Any) -> str:
    """That of the first day, which stands in the windows of all others."""
    assert exported.runs(SMALL) == [], "Dagster schedules"
    run: str = exported.run(SMALL, DAYS[0])
    assert exported.finished(SMALL, run) == "success"
    return run


def test_a_run_of_a_partition_stands_in_dagster(exported: Any, first_run: str) -> None:
    assert set(exported.dags()) == {SMALL, OTHER, REMOTE}
    assert exported.ask("GET", "/importErrors")["import_errors"] == []
    assert exported.tasks(SMALL, first_run) == GREEN
    assert exported.machine.recorded("small") == {asset: {DAYS[0]} for asset in CHECKS}
    assert set(exported.machine.run_statuses()) == {"SUCCESS"}
    assert_sound(exported.machine, "small")


def test_what_cannot_succeed_is_not_tried_again(exported: Any) -> None:
    run = exported.run(SMALL, DUPLICATED)
    before = len(exported.runs(SMALL))
    for no_key, said in {
        None: "Every run is of one partition. Give its key",
        "2026-02-30": "'2026-02-30' is no key of a day",
        "2025-3-1": "'2025-3-1' is no key of a day",
        "2025-02-28": "'2025-02-28' is before the first partition",
    }.items():
        body = {"logical_date": None, "partition_key": no_key}
        status, answer = exported.answer("POST", f"/dags/{SMALL}/dagRuns", body)
        assert status == 400
        assert said in answer["detail"]
    assert len(exported.runs(SMALL)) == before
    assert exported.finished(SMALL, run) == "failed"
    states = exported.tasks(SMALL, run)
    assert states["features"] == ("failed", 1)
    assert [states[stage][0] for stage in STAGES[1:]] == ["upstream_failed"] * 2
    log = exported.log(SMALL, run, "features")
    assert "exit code 3: a blocking check failed" in log
    assert "application_id" in log


@pytest.mark.usefixtures("first_run")
def test_a_backfill_leaves_what_scorewatch_backfill_leaves(
    exported: Any, new_machine: Callable[[], Any], tmp_path: Path
) -> None:
    """Of days that are good, bad and missing, beside a manual run of one, and while a version comes and goes."""
    span = {"from_date": f"{DAYS[0]}T00:00:00Z", "to_date": f"{ABSENT}T00:00:00Z"}
    again = {"reprocess_behavior": "completed"}
    exported.ask("POST", "/backfills", {"dag_id": SMALL, **span, **again})
    manual = exported.run(SMALL, DAYS[1])
    alone = new_machine()
    code, _, err = alone.backfill("small", ABSENT).finish(120)
    assert code == 3, err

    newer = folder_of(exported.machine, "small", tmp_path, version="2.0.0")
    code, _, err = exported.machine.run("register", str(newer.parent))
    assert code == 0, err
    exported.export()
    assert "small__2_0_0" in exported.dags()
    update(exported, newer, status="retired")
    with at_it(exported.machine, "small", "features", DAYS[0], version="2.0.0"):
        under_way = exported.run("small__2_0_0", DAYS[0])
        until(lambda: exported.tasks("small__2_0_0", under_way)["features"][0] == "running", lambda: "its first task")
        code, _, err = exported.machine.run("export-dags")
        assert code == 0, err
        retired = json.loads((exported.machine.store / "airflow" / "current.json").read_bytes())["set"]
        until(lambda: exported.dags()["small__2_0_0"]["bundle_version"] == retired, lambda: f"{exported.dags()}")

    made = {run["partition_key"]: run["dag_run_id"] for run in exported.runs(SMALL) if run["run_type"] == "backfill"}
    assert set(made) == {*DAYS, DUPLICATED, ABSENT}
    ends = {day: exported.finished(SMALL, run) for day, run in made.items()}
    assert {day for day, end in ends.items() if end == "failed"} == {DUPLICATED, ABSENT}
    assert exported.finished(SMALL, manual) == "success"
    assert exported.finished("small__2_0_0", under_way) == "success", "it is retired, and its run ends all the same"
    exported.export()
    assert "small__2_0_0" not in exported.dags()
    assert exported.ask("GET", "/dags/small__2_0_0")["is_stale"]
    assert findings(exported.machine, "small") == findings(alone, "small")
    assert len(findings(alone, "small")) == len(made) * len(KINDS)
    found = [each for attempts in results(exported.machine, "small").values() for each in attempts]
    assert {(each.trigger, each.live) for each in found} == {("backfill", False)}
    assert pointers(exported.machine, "small") == pointers(alone, "small")
    assert exported.machine.recorded("small") == {asset: set(DAYS) for asset in CHECKS}
    assert attempts(exported.machine, "small", DAYS[1]) == dict.fromkeys(KINDS, 1)
    assert_sound(exported.machine, "small")


def test_a_run_ends_on_the_plan_that_it_began_with(exported: Any, tmp_path: Path) -> None:
    before = json.loads((exported.machine.store / "airflow" / "current.json").read_bytes())["set"]
    with at_it(exported.machine, "other", "features", DAYS[0]):
        run = exported.run(OTHER, DAYS[0])
        exported.runner("features", DAYS[0])
        changed = folder_of(exported.machine, "other", tmp_path)
        update(exported, changed, owner="somebody-else@lender.example")
        after = exported.export()
    assert after != before
    later = exported.run(OTHER, DAYS[1])
    assert exported.finished(OTHER, run) == exported.finished(OTHER, later) == "success"
    assert exported.tasks(OTHER, run) == exported.tasks(OTHER, later) == GREEN
    pinned = {each["dag_run_id"]: each["bundle_version"] for each in exported.runs(OTHER)}
    assert (pinned[run], pinned[later]) == (before, after)
    [old], [new] = ({exported.ran_with(OTHER, each, stage) for stage in STAGES} for each in (run, later))
    manifests = exported.machine.store / "manifests"
    owners = [yaml.safe_load((manifests / f"{digest}.yaml").read_bytes())["owner"] for digest in (old, new)]
    assert owners == ["risk@lender.example", "somebody-else@lender.example"]


def test_two_attempts_at_once_leave_one_result_of_everything(exported: Any) -> None:
    machine, day = exported.machine, DAYS[3]
    with at_it(machine, "other", "features", day):
        runs = [exported.run(OTHER, day) for _ in range(2)]
        exported.runners("features", day, len(runs))
    assert {exported.finished(OTHER, run) for run in runs} == {"success"}
    assert attempts(machine, "other", day) == dict.fromkeys(KINDS, 1)
    assert_sound(machine, "other")


def test_a_run_goes_on_whatever_is_killed_meanwhile(exported: Any) -> None:
    """In its first stage the task's process, in the second one the scheduler, in the third one the runner itself."""
    machine, day = exported.machine, DAYS[2]
    run = exported.run(OTHER, day)
    worker = exported.runner("features", day).parent()
    assert worker in exported.alive()
    worker.kill()
    with at_it(machine, "other", "scores", day):
        exported.runner("scores", day)
        exported.component("scheduler").kill()
        until(lambda: "scheduler ended with exit code -9 and is started again" in exported.output(), exported.output)
    runner = exported.runner("monitoring", day)
    counted = machine.store / "data" / "distribution" / "other" / "1.0.0" / day / "current.json"
    until(counted.exists, lambda: str(counted))
    runner.kill()
    assert exported.finished(OTHER, run) == "success"
    assert exported.tasks(OTHER, run) == dict.fromkeys(STAGES, ("success", 2))
    assert "exit code 137" in exported.log(OTHER, run, "monitoring", 1)
    until(lambda: not [each for each in exported.alive() if "scorewatch" in each.name()], lambda: "no runner is left")
    assert day in set.intersection(*machine.recorded("other").values())
    assert "STARTED" not in machine.run_statuses()
    assert attempts(machine, "other", day) == dict.fromkeys(KINDS, 1)
    assert_sound(machine, "other")


def folder_of(machine: Any, model: str, into: Path, **changes: Any) -> Path:
    """A copy of a registered version's folder, with changes to its manifest: the manifest's path."""
    folder = into / model
    shutil.copytree(machine.store / "registry" / model / "1.0.0", folder)
    return changed(folder / "model.yaml", **changes)


def changed(manifest: Path, **changes: Any) -> Path:
    manifest.write_text(yaml.safe_dump(yaml.safe_load(manifest.read_text()) | changes))
    return manifest


def update(airflow: Any, manifest: Path, **changes: Any) -> None:
    code, _, err = airflow.machine.run("update", str(changed(manifest, **changes)))
    assert code == 0, err


@contextmanager
def at_it(machine: Any, model: str, asset: str, partition: str, version: str = "1.0.0") -> Iterator[None]:
    """Keeps runners of a partition waiting, as another process does that is at it."""
    store = open_store(f"file://{machine.store}")
    with Leases(store, model, version, lambda: datetime.now(UTC)).hold(asset, partition):
        yield


def results(machine: Any, model: str) -> dict[tuple[str, ...], list[Result]]:
    """Of each partition, kind and asset the attempts, the oldest first."""
    found: dict[tuple[str, ...], list[Result]] = {}
    for path in sorted((machine.store / "results" / model / "1.0.0").rglob("*.json")):
        result = Result.model_validate_json(path.read_bytes())
        found.setdefault((result.partition, result.kind, result.asset), []).append(result)
    return found


def attempts(machine: Any, model: str, partition: str) -> dict[tuple[str, str], int]:
    """How many there are of each kind and asset."""
    return {key[1:]: len(found) for key, found in results(machine, model).items() if key[0] == partition}


def findings(machine: Any, model: str) -> dict[tuple[str, ...], str]:
    """What stands in the end about every day."""
    return {key: found[-1].digest for key, found in results(machine, model).items()}


def pointers(machine: Any, model: str) -> dict[str, bytes]:
    """The pointer of every partition of every asset."""
    data = machine.store / "data"
    return {str(path.relative_to(data)): path.read_bytes() for path in data.glob(f"*/{model}/1.0.0/*/current.json")}


def assert_sound(machine: Any, model: str) -> None:
    """Nothing was found twice, and every pointer names files that are there, whole."""
    for key, found in results(machine, model).items():
        digests = [attempt.digest for attempt in found]
        assert len(digests) == len(set(digests)), (key, found)
    named = pointers(machine, model)
    assert named
    for path, pointer in named.items():
        current = json.loads(pointer)
        folder = (machine.store / "data" / path).parent / current["input_digest"]
        for file in current["files"]:
            assert hashlib.sha256((folder / file["name"]).read_bytes()).hexdigest() == file["sha256"], path
