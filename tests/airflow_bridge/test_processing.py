"""What a real dag-processor puts into Airflow's database, and what Airflow then says of runs."""

from __future__ import annotations

import json
import shlex
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from airflow_bridge.schema import Before, DagPlan, Resources
from resources.object_store import ObjectStore, open_store
from tests.airflow_bridge.conftest import Inside
from tests.airflow_bridge.plans import plan, publish

A, B = plan("a_1.0.0"), plan("b_1.0.0")


@dataclass(frozen=True)
class Deployment:
    """A database with a bundle, both empty at first."""

    inside: Inside
    store: ObjectStore

    def process(self) -> None:
        """Lets a dag-processor read the bundle, and every file of it once."""
        self.inside.airflow("dag-processor", "--num-runs", "1")

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(self.inside.home / "airflow.db")) as connection:
            return connection.execute(query).fetchall()

    def versions(self) -> dict[str, int]:
        """How many versions Airflow has of each DAG."""
        return dict(self.rows("select dag_id, count(*) from dag_version group by dag_id"))


KUBERNETES = {
    "AIRFLOW__SCOREWATCH__EXECUTION": "kubernetes",
    "AIRFLOW__SCOREWATCH__IMAGE": f"registry.lender.example/scorewatch@sha256:{'0' * 64}",
    "AIRFLOW__SCOREWATCH__NAMESPACE": "scorewatch",
    "AIRFLOW__SCOREWATCH__SERVICE_ACCOUNT": "scorewatch",
}


@pytest.fixture
def deployment(start_inside: Callable[..., Inside], tmp_path: Path) -> Deployment:
    return deployed(start_inside, tmp_path)


def deployed(start_inside: Callable[..., Inside], tmp_path: Path, **options: str) -> Deployment:
    store = open_store(f"file://{tmp_path}/store")
    bundle = {
        "name": "scorewatch",
        "classpath": "airflow_bridge.bundle.ScorewatchBundle",
        "kwargs": {"store_uri": store.uri},
    }
    inside = start_inside(
        AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST=json.dumps([bundle]),
        # By default a DAG is not written twice within 30 seconds.
        AIRFLOW__CORE__MIN_SERIALIZED_DAG_UPDATE_INTERVAL="0",
        **options,
    )
    # Tables take as long as all else in a test: they are made once.
    database, made = inside.home / "airflow.db", inside.home.parent / "migrated.db"
    if not made.exists():
        inside.airflow("db", "migrate")
        shutil.copy2(database, made)
    shutil.copy2(made, database)
    return Deployment(inside, store)


def test_only_what_changed_gets_a_new_version_and_a_run_keeps_its_own(deployment: Deployment) -> None:
    first = publish(deployment.store, A, B)
    deployment.process()
    assert deployment.rows("select * from import_error") == []
    assert deployment.versions() == {"a_1.0.0": 1, "b_1.0.0": 1}
    for dag_id in ("a_1.0.0", "b_1.0.0"):
        assert deployment.inside("runs.trigger", dag_id=dag_id, key="2026-01-05")["version"] == first

    second = publish(deployment.store, plan("a_1.0.0", description="Another text."), B)
    deployment.process()

    assert deployment.versions() == {"a_1.0.0": 2, "b_1.0.0": 1}
    assert set(deployment.rows("select dag_id, bundle_version from dag")) == {("a_1.0.0", second), ("b_1.0.0", second)}
    assert set(deployment.rows("select bundle_version from dag_run")) == {(first,)}


def test_a_bad_plan_is_an_import_error_of_its_own_and_every_dag_is_there(deployment: Deployment) -> None:
    publish(deployment.store, A, B)
    deployment.process()
    publish(deployment.store, A, plan("c_1.0.0"), raw={B.dag_id: b'{"schema_version": 2}'})

    deployment.process()

    ((file, message),) = deployment.rows("select filename, stacktrace from import_error")
    assert file == "refused.py"
    assert "The DAG b_1.0.0 is not as its newest plan says." in message
    dags = deployment.rows("select dag_id, is_stale, has_import_errors from dag order by dag_id")
    assert dags == [("a_1.0.0", 0, 0), ("b_1.0.0", 0, 0), ("c_1.0.0", 0, 0)]


def test_what_the_limits_of_pods_do_not_allow_is_an_import_error_and_no_dag_that_lacks_tasks(
    start_inside: Callable[..., Inside], tmp_path: Path
) -> None:
    deployment = deployed(start_inside, tmp_path, **KUBERNETES)
    publish(deployment.store, A, B)
    deployment.process()
    greedy = with_task(B, 0, resources=Resources(cpu=8, memory_mib=1024))
    image = f"evil.example/model@sha256:{'0' * 64}"
    own_image = with_task(plan("c_1.0.0"), 1, before=Before(image=image, arguments=("features", "c", "1.0.0")))
    publish(deployment.store, plan("a_1.0.0", description="Another text."), greedy, own_image)

    deployment.process()

    ((file, message),) = deployment.rows("select filename, stacktrace from import_error")
    assert file == "refused.py"
    assert "The task features of b_1.0.0 asks for 8 cores, and at most 4 are allowed." in message
    assert f"The task scores of c_1.0.0 has the image {image}, and none is allowed." in message
    dags = deployment.rows("select dag_id, is_stale, description from dag order by dag_id")
    assert dags == [("a_1.0.0", 0, "Another text."), ("b_1.0.0", 0, "Nano loans in Kenya.")]
    documents = deployment.rows("select dag_id, data from serialized_dag")
    tasks = {
        dag_id: {each["__var"]["task_id"] for each in json.loads(data)["dag"]["tasks"]} for dag_id, data in documents
    }
    assert tasks == {name: {"features", "scores", "monitoring"} for name in ("a_1.0.0", "b_1.0.0")}


def with_task(found: DagPlan, number: int, **changes: Any) -> DagPlan:
    """The plan with one of its tasks changed."""
    tasks = list(found.tasks)
    tasks[number] = tasks[number].model_copy(update=changes)
    return found.model_copy(update={"tasks": tuple(tasks)})


def test_a_new_version_runs_in_an_airflow_that_pauses_new_dags_by_default(deployment: Deployment) -> None:
    publish(deployment.store, A, plan("b_1.0.0", scheduled=True))

    deployment.process()

    assert deployment.rows("select dag_id, is_paused from dag order by dag_id") == [("a_1.0.0", 0), ("b_1.0.0", 0)]


def test_a_pool_that_is_not_there_is_an_import_error_until_it_is(
    start_inside: Callable[..., Inside], tmp_path: Path
) -> None:
    deployment = deployed(start_inside, tmp_path, AIRFLOW__SCOREWATCH__POOL="stages")
    publish(deployment.store, A)
    deployment.process()
    ((_, message),) = deployment.rows("select filename, stacktrace from import_error")
    command = message.rpartition("airflow pools set")[2].strip()
    assert deployment.rows("select dag_id, is_stale from dag") == [("a_1.0.0", 0)]

    deployment.inside.airflow("pools", "set", *shlex.split(command))
    deployment.process()

    assert deployment.rows("select * from import_error") == []
    assert deployment.rows("select include_deferred from slot_pool where pool = 'stages'") == [(1,)]
    assert deployment.rows("select dag_id, is_stale from dag") == [("a_1.0.0", 0)]


def test_a_dag_that_goes_stays_unscheduled_until_its_runs_have_ended(deployment: Deployment) -> None:
    """Of a DAG that is not there Airflow goes on with no run."""
    leaving = plan("b_1.0.0", scheduled=True)
    publish(deployment.store, A, leaving, plan("c_1.0.0"))
    deployment.process()
    deployment.inside("runs.trigger", dag_id="b_1.0.0", key="2026-01-05")
    newest = publish(deployment.store, A)
    # Another machine's: it has no files of the time before.
    shutil.rmtree(deployment.inside.home / "bundles" / "scorewatch")

    deployment.process()

    plans = deployment.inside.home / "bundles" / "scorewatch" / "versions" / newest / "plans"
    assert {file.name for file in plans.iterdir()} == {"a_1.0.0.json", "b_1.0.0.json"}
    shown = dict(deployment.rows("select dag_id, bundle_version from dag"))
    assert (shown["a_1.0.0"], shown["b_1.0.0"]) == (newest, newest)
    assert deployment.rows("select next_dagrun_create_after from dag where dag_id = 'b_1.0.0'") == [(None,)]
    ((began,),) = deployment.rows("select bundle_version from dag_run")
    assert began != newest

    deployment.inside("runs.end", dag_id="b_1.0.0")
    deployment.process()

    assert {file.name for file in plans.iterdir()} == {"a_1.0.0.json"}


def test_assets_and_their_tasks_are_there_for_the_lineage(deployment: Deployment) -> None:
    publish(deployment.store, A)
    deployment.process()

    assert deployment.rows('select name, uri, "group" from asset order by name') == [
        (f"a/1.0.0/{name}", f"dagster://asset/a/1.0.0/{name}", "a/1.0.0")
        for name in ("counts", "csi", "features", "psi", "scores")
    ]
    written = "select task_id, name from task_outlet_asset_reference join asset on asset.id = asset_id"
    assert ("scores", "a/1.0.0/scores") in deployment.rows(written)
    read = "select task_id, name from task_inlet_asset_reference join asset on asset.id = asset_id"
    assert set(deployment.rows(read)) == {("scores", "a/1.0.0/features"), ("monitoring", "a/1.0.0/scores")}


@pytest.mark.parametrize("scheduled", [True, False])
def test_a_backfill_has_the_days_from_the_first_to_the_last_one_whoever_schedules(
    deployment: Deployment, scheduled: bool
) -> None:
    publish(deployment.store, plan("a_1.0.0", scheduled=scheduled))
    deployment.process()

    deployment.inside("runs.backfill", dag_id="a_1.0.0", earliest="2026-01-05T00:00Z", latest="2026-01-09T00:00Z")

    runs = deployment.rows("select partition_key, partition_date, run_type from dag_run order by partition_key")
    assert runs == [
        # Nairobi's midnight.
        (f"2026-01-{day:02}", f"2026-01-{day - 1:02} 21:00:00.000000", "backfill")
        for day in range(5, 10)
    ]


def test_a_run_by_hand_is_of_the_partition_that_is_named_and_is_refused_without_one(deployment: Deployment) -> None:
    publish(deployment.store, A)
    deployment.process()

    def trigger(key: str | None) -> dict[str, Any]:
        found: dict[str, Any] = deployment.inside("runs.trigger", dag_id="a_1.0.0", key=key)
        return found

    found = trigger("2026-01-05")

    assert (found["key"], found["begin"]) == ("2026-01-05", "2026-01-04T21:00:00+00:00")
    assert "Every run is of one partition. Give its key, such as 2026-01-01" in trigger(None)["refused"]
    assert "'2026-1-5' is no key of a day" in trigger("2026-1-5")["refused"]
    assert deployment.rows("select count(*) from dag_run") == [(1,)]


def test_airflow_schedules_the_day_that_ended_last_and_nothing_where_dagster_does(deployment: Deployment) -> None:
    publish(deployment.store, plan("ours_1.0.0", scheduled=True), plan("theirs_1.0.0", scheduled=False))
    deployment.process()

    found = {
        row[0]: row[1:]
        for row in deployment.rows("select dag_id, next_dagrun_partition_key, next_dagrun_create_after from dag")
    }

    now = datetime.now(UTC)
    nairobi = now + timedelta(hours=3)
    key, due = found["ours_1.0.0"]
    # The test may run over a midnight.
    assert key in {f"{day - timedelta(days=1):%Y-%m-%d}" for day in (nairobi, nairobi - timedelta(minutes=5))}
    assert (
        timedelta(0)
        <= datetime.fromisoformat(due).replace(tzinfo=UTC) - datetime.fromisoformat(f"{key}T21:00:00+00:00")
        <= timedelta(minutes=10)
    )
    assert found["theirs_1.0.0"] == (None, None)
