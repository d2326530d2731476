"""Airflow schedules: nobody touches anything, Dagster detects, and every run is a run of Airflow."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from monitoring_assets.arrivals.airflow_runs import AirflowRuns
from monitoring_assets.arrivals.watch import Watch
from monitoring_assets.fleet import Fleet, scan
from monitoring_assets.layout import history_done
from monitoring_assets.leases import Leases
from monitoring_assets.results import Result
from resources.airflow import Airflow as Client
from resources.settings import Settings
from tests.e2e.airflow_stack import Airflow, until
from tests.e2e.conftest import _a_free_port
from tests.e2e.world import NOON, World, day, land

pytestmark = pytest.mark.timeout(900)

DAG = "ke_loan__1_0_0"
YESTERDAY, BEFORE = str(day(1)), str(day(2))
LIMIT_S = 180.0


class Placed:
    """A machine on which every process is told where a world's store, registry and lake are, and who schedules."""

    def __init__(self, world: World, **environ: str) -> None:
        self._machine, self._environ = world.machine, world.environ | environ
        self.home, self.store = world.machine.home, Path(world.environ["SCOREWATCH_STORE"].removeprefix("file://"))

    def environ(self) -> dict[str, str]:
        found: dict[str, str] = self._machine.environ(**self._environ)
        return found

    def settings(self) -> Settings:
        return Settings.from_environment(self.environ(), self.home)


@pytest.fixture
def airflow(local_world: World, airflow_python: Path, tmp_path: Path) -> Iterator[Airflow]:
    """An Airflow that schedules what is put into the registry of the world. It must stop cleanly."""
    port = _a_free_port()
    local_world.environ |= {
        "SCOREWATCH_ORCHESTRATOR": "airflow",
        "SCOREWATCH_AIRFLOW_URL": f"http://127.0.0.1:{port}",
    }
    stack = Airflow(Placed(local_world), airflow_python, tmp_path / "airflow", port)
    try:
        yield stack
    finally:
        stack.stop()


def test_a_version_is_monitored_by_runs_of_airflow_with_nobody_touching_anything(
    local_world: World, airflow: Airflow, running: Callable[[World], Any]
) -> None:
    world = local_world
    world.put("ke-loan", partitions={"every": "day", "timezone": NOON, "start": day(2)})
    stack = running(world)
    airflow.await_up()
    until(lambda: DAG in airflow.dags(), lambda: f"the DAG, which the exporter's sensor makes: {airflow.dags()}")

    # Onboarding, and the run that the timetable made of the day that ended last, whose data is not there.
    until(lambda: world.judged("ke-loan"), lambda: f"the first psi partition: {shown(airflow)}", LIMIT_S)
    assert [(each.trigger, each.live) for each in of(world, BEFORE)] == [("onboarding", False)]
    assert runs(airflow, "scheduled") == {YESTERDAY: {"running"}}
    [waiting] = [run["dag_run_id"] for run in airflow.runs(DAG) if run["run_type"] == "scheduled"]
    states = {task: state for task, (state, _) in airflow.tasks(DAG, waiting).items()}
    assert states == {"wait_for_data": "deferred", "features": None, "scores": None, "monitoring": None}

    # Until its history is done, what lands of the time before the version belongs to that.
    until(lambda: world.store.head(history_done("ke-loan", "1.0.0")), lambda: f"its history: {shown(airflow)}")

    # It lands: that run is let go, and none is asked for. People backfill the day beside it, in Airflow and with the
    # command: whoever comes later finds the work done.
    with Leases(world.store, "ke-loan", "1.0.0", lambda: datetime.now(UTC)).hold("features", YESTERDAY):
        land(world.lake, day(1))
        until(lambda: airflow.tasks(DAG, waiting)["features"][0] == "running", lambda: shown(airflow), LIMIT_S)
        backfill(airflow, YESTERDAY, YESTERDAY)
        span = ("--from", YESTERDAY, "--to", YESTERDAY)
        beside = world.machine.start("backfill", "ke-loan", "1.0.0", *span, **world.environ)
    code, _, err = beside.finish(LIMIT_S)
    assert code == 0, err
    until(lambda: ended(airflow), lambda: shown(airflow), LIMIT_S)
    assert airflow.finished(DAG, waiting) == "success"
    assert runs(airflow, "backfill") == {YESTERDAY: {"success"}}
    arrived = of(world, YESTERDAY)
    assert [(each.trigger, each.live) for each in arrived if each.live] == [("arrival", True)]
    assert {each.trigger for each in arrived} <= {"arrival", "backfill"}
    assert len({each.digest for each in arrived}) == 1
    assert reasons(airflow) == [("onboarding", YESTERDAY)]

    # The data is corrected. That is seen within the hour, for which this does not wait: its clock runs ahead.
    land(world.lake, day(1), income_level=7.5)
    look_for_an_hour(airflow)
    corrected = until(
        lambda: len(found := of(world, YESTERDAY)) > len(arrived) and ended(airflow) and found,
        lambda: f"the corrected day: {shown(airflow)}",
        LIMIT_S,
    )
    assert [each.inputs == arrived[0].inputs for each in corrected] == [*(True for _ in arrived), False]
    assert reasons(airflow) == [("arrival", YESTERDAY), ("onboarding", YESTERDAY)]

    # A backfill of all of it finds nothing left to do.
    before = pointers(world)
    backfill(airflow, BEFORE, YESTERDAY)
    until(
        lambda: runs(airflow, "backfill") == {BEFORE: {"success"}, YESTERDAY: {"success"}},
        lambda: f"the backfill: {shown(airflow)}",
        LIMIT_S,
    )
    assert pointers(world) == before
    assert len(of(world, YESTERDAY)) == len(corrected)

    tags = stack.ask("{ runsOrError(limit: 1000) { ... on Runs { results { status tags { key value } } } } }")
    started = [{tag["key"]: tag["value"] for tag in run["tags"]} for run in tags["runsOrError"]["results"]]
    assert started
    assert [each for each in started if "dagster/sensor_name" in each or "scorewatch/work" in each] == []
    assert set(world.machine.run_statuses()) == {"SUCCESS"}


def look_for_an_hour(airflow: Airflow) -> None:
    """What the arrivals sensor does in the next two hours, up to its first request; it may be at it already itself."""
    settings = airflow.machine.settings()
    store, members = settings.open_store(), list(scan(settings, Fleet()).fleet.members)
    assert settings.airflow_url is not None
    in_airflow = AirflowRuns(Client(settings.airflow_url), store, members)
    now = datetime.now(UTC)
    watch = Watch(members, settings, lambda: now)
    for _ in range(20):
        if in_airflow.request(watch.tick(in_airflow)).asked_for:
            return
        now += timedelta(minutes=6)


def backfill(airflow: Airflow, first: str, last: str) -> None:
    """Of all these days, whether they had a run or not."""
    span = {"from_date": f"{first}T00:00:00Z", "to_date": f"{last}T00:00:00Z"}
    airflow.ask("POST", "/backfills", {"dag_id": DAG, **span, "reprocess_behavior": "completed"})


def of(world: World, partition: str) -> list[Result]:
    """Attempts at psi of a partition, the oldest first."""
    found = [each for each in world.results("ke-loan", "psi") if each.partition == partition]
    return sorted(found, key=lambda each: each.attempt)


def pointers(world: World) -> dict[str, bytes]:
    """What is read of each asset and partition."""
    keys = [each.key for each in world.store.list("data/") if each.key.endswith("/current.json")]
    return {key: world.store.get(key).data for key in keys}


def runs(airflow: Airflow, run_type: str) -> dict[str, set[str]]:
    """The states of the runs of a type, by their partitions."""
    found: dict[str, set[str]] = {}
    for run in airflow.runs(DAG):
        if run["run_type"] == run_type:
            found.setdefault(run["partition_key"], set()).add(run["state"])
    return found


def reasons(airflow: Airflow) -> list[tuple[str, str]]:
    """Why runs were asked for, and of which partitions."""
    asked = [run for run in airflow.runs(DAG) if run["run_type"] == "manual"]
    return sorted((run["conf"]["reason"], run["partition_key"]) for run in asked)


def ended(airflow: Airflow) -> bool:
    return all(run["state"] in ("success", "failed") for run in airflow.runs(DAG))


def shown(airflow: Airflow) -> str:
    return "\n".join(
        f"{run['dag_run_id']} {run['state']} {airflow.tasks(DAG, run['dag_run_id'])}" for run in airflow.runs(DAG)
    )
