"""The arrivals sensor over a real instance: what it asks Dagster for, and what it makes of what became of it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import dagster as dg
import pytest
from dagster._core.remote_origin import RegisteredCodeLocationOrigin, RemoteJobOrigin, RemoteRepositoryOrigin

from airflow_bridge.ready import DONE, ready_key
from monitoring_assets import layout
from monitoring_assets.arrivals.agenda import Task
from monitoring_assets.assets import pipeline
from monitoring_assets.assets.events import asset_key
from monitoring_assets.assets.factory import OUTCOME_TAG, RESOURCE, TRIGGER_TAG, WORK_TAG, Work, group
from monitoring_assets.assets.pipeline import ORDER
from monitoring_assets.exporting import REASONS
from monitoring_assets.fleet import Fleet, scan
from monitoring_assets.heartbeats import EXTERNAL_TAG, MODEL_TAG, VERSION_TAG
from monitoring_assets.instance import open_instance
from monitoring_assets.onboarding import pinned
from monitoring_assets.results import Result
from monitoring_assets.sensors.arrivals import DagsterRuns, arrivals_sensor, run_request
from resources.airflow import UNFINISHED as UNFINISHED_IN_AIRFLOW
from resources.errors import InfrastructureError
from tests.recorders.airflow import AirflowRecorder

MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
NAME = ("ke-nano-loan", "1.0.0")
DAG = "ke_nano_loan__1_0_0"
NOTHING = "0 runs were asked for, and 0 that waited were let go"
STATUS = dg.DagsterRunStatus
ORIGIN = RemoteJobOrigin(RemoteRepositoryOrigin(RegisteredCodeLocationOrigin("models"), "repository"), "job")
UNFINISHED = (STATUS.QUEUED, STATUS.NOT_STARTED, STATUS.STARTING, STATUS.STARTED, STATUS.CANCELING)


@pytest.fixture
def instance(lender: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[dg.DagsterInstance]:
    monkeypatch.setenv("DAGSTER_HOME", "")  # opening an instance sets it, and this puts it back
    with open_instance(lender.settings) as instance:
        yield instance


@pytest.fixture
def empty() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


def add_run(
    instance: dg.DagsterInstance,
    status: dg.DagsterRunStatus,
    *keys: Sequence[str],
    **tags: str,
) -> dg.DagsterRun:
    """Record a run of some assets, with the tags `work`, `trigger` and `outcome`."""
    names = {"work": WORK_TAG, "trigger": TRIGGER_TAG, "outcome": OUTCOME_TAG}
    run = dg.DagsterRun(
        job_name="__ASSET_JOB",
        status=status,
        tags={names[name]: value for name, value in tags.items()},
        asset_selection=frozenset(map(dg.AssetKey, keys)),
        remote_job_origin=ORIGIN,
    )
    return instance.add_run(run)


class TestAttempts:
    def test_nothing_is_known_of_what_nobody_asked_for(self, empty: dg.DagsterInstance) -> None:
        add_run(empty, STATUS.SUCCESS, work="another")
        assert DagsterRuns(empty).of(["arrival/1"]) == {}
        assert DagsterRuns(empty).busy() == {}

    @pytest.mark.parametrize("status", UNFINISHED)
    def test_a_run_that_has_not_ended_is_running_whatever_came_before(
        self, empty: dg.DagsterInstance, status: dg.DagsterRunStatus
    ) -> None:
        add_run(empty, STATUS.FAILURE, work="arrival/1")
        add_run(empty, status, work="arrival/1")
        assert DagsterRuns(empty).of(["arrival/1"])["arrival/1"].state == "running"

    def test_what_was_stopped_by_somebody_is_canceled_whatever_came_before(self, empty: dg.DagsterInstance) -> None:
        for _ in range(2):
            empty.report_run_failed(add_run(empty, STATUS.STARTED, work="arrival/1"))
        empty.report_run_canceled(add_run(empty, STATUS.CANCELING, work="arrival/1"))
        found = DagsterRuns(empty).of(["arrival/1"])["arrival/1"]
        assert (found.state, found.runs) == ("canceled", 3)

    @pytest.mark.parametrize("status", [STATUS.FAILURE, STATUS.CANCELED])
    def test_what_failed_of_infrastructure_failed_and_its_runs_are_counted(
        self, empty: dg.DagsterInstance, status: dg.DagsterRunStatus
    ) -> None:
        for _ in range(3):
            add_run(empty, status, work="arrival/1")
        begun = add_run(empty, STATUS.STARTED, work="arrival/1")
        empty.report_run_failed(begun)
        found = DagsterRuns(empty).of(["arrival/1"])["arrival/1"]
        assert (found.state, found.runs) == ("failed", 4)
        assert found.ended_at is not None
        assert abs(found.ended_at - datetime.now(UTC)) < MINUTE

    def test_what_found_bad_data_is_done_though_its_run_failed(self, empty: dg.DagsterInstance) -> None:
        add_run(empty, STATUS.FAILURE, work="arrival/1", outcome="blocked")
        add_run(empty, STATUS.FAILURE, work="arrival/2")
        add_run(empty, STATUS.SUCCESS, work="arrival/2")
        found = DagsterRuns(empty).of(["arrival/1", "arrival/2", "arrival/3"])
        assert {key: (each.state, each.runs) for key, each in found.items()} == {
            "arrival/1": ("done", 1),
            "arrival/2": ("done", 2),
        }

    def test_a_version_is_busy_with_every_run_that_has_not_ended(self, empty: dg.DagsterInstance) -> None:
        other = ("zm-payroll", "2")
        for status in UNFINISHED:
            add_run(empty, status, (*NAME, "psi"), (*NAME, "csi"), trigger="arrival")
        add_run(empty, STATUS.QUEUED, (*NAME, "psi"), trigger="catch-up")
        add_run(empty, STATUS.STARTED, (*NAME, "psi"), (*other, "psi"))
        add_run(empty, STATUS.SUCCESS, ("done", "1", "psi"), trigger="arrival")
        add_run(empty, STATUS.STARTED, ("registry",))
        assert DagsterRuns(empty).busy() == {NAME: {"arrival", "catch-up", "backfill"}, other: {"backfill"}}

    def test_a_version_is_busy_with_a_run_of_the_command_too_which_names_no_assets(
        self, empty: dg.DagsterInstance
    ) -> None:
        tags = {EXTERNAL_TAG: "command", MODEL_TAG: NAME[0], VERSION_TAG: NAME[1], TRIGGER_TAG: "backfill"}
        empty.add_run(dg.DagsterRun("__ephemeral", status=STATUS.STARTED, tags=tags))
        assert DagsterRuns(empty).busy() == {NAME: {"backfill"}}


def test_a_run_request_says_what_to_work_on_and_is_one_run_however_often_it_is_made() -> None:
    task = Task(*NAME, "digest", "arrival", ("2026-01-18", "2026-01-19"), "arrival/1", attempt=3)
    request = run_request(task)
    assert request.run_key == "arrival/1#3"
    assert request.asset_selection == [asset_key(*NAME, asset) for asset in ORDER]
    assert request.asset_check_keys == []
    assert request.partition_key is None
    assert request.tags == {
        "scorewatch/trigger": "arrival",
        "scorewatch/work": "arrival/1",
        "scorewatch/partitions": "2026-01-18,2026-01-19",
        MODEL_TAG: NAME[0],
        VERSION_TAG: NAME[1],
        "dagster/priority": "10",
    }
    onboarding = run_request(Task(*NAME, "digest", "onboarding", (), "onboarding/1"))
    assert onboarding.asset_selection == [asset_key(*NAME, asset) for asset in ("reference", *ORDER)]
    assert onboarding.tags["scorewatch/partitions"] == ""


class World:
    """A version that was deployed yesterday, a code location that serves it, and Dagster's daemon in this process.

    Dagster's clock is the machine's, so that the lender's is the machine's too when it begins. The version's days are
    those of a place where it is noon: a day that ends in the middle of a story would be the newest one.
    """

    def __init__(self, lender: Any, instance: dg.DagsterInstance, **settings: Any) -> None:
        self.lender, self.instance = lender, instance
        lender.now = datetime.now(UTC)
        where = f"Etc/GMT{lender.now.hour - 12:+d}"
        today = lender.now.astimezone(ZoneInfo(where)).date()
        self.newest = str(today - DAY)
        days = {"every": "day", "timezone": where, "start": today - 3 * DAY}
        lender.onboard(precomputed=True, partitions=days)
        deployed = lender.now - 3 * DAY
        os.utime(lender.registry.location("ke-nano-loan/1.0.0/model.yaml"), (deployed.timestamp(),) * 2)
        self.settings = lender.settings.model_copy(update=settings)
        self.members = list(scan(self.settings, Fleet()).fleet.members)
        [member] = self.members
        self.assets = group(member.manifest, member.digest, member.files)
        self.work = {RESOURCE: Work(self.settings, lender.clock)}
        self.sensor = arrivals_sensor(self.settings, self.members, lender.clock)

    def evaluate(self) -> Any:
        definitions = dg.Definitions(assets=self.assets, sensors=[self.sensor], resources=self.work)
        with dg.build_sensor_context(instance=self.instance, definitions=definitions) as context:
            return self.sensor.evaluate_tick(context)

    def tick(self) -> list[str]:
        """One tick, and all of the runs that it asks for; their keys."""
        requests = self.evaluate().run_requests
        for each in requests:
            dg.materialize(
                self.assets,
                selection=dg.AssetSelection.assets(*each.asset_selection).without_checks(),
                instance=self.instance,
                resources=self.work,
                tags=each.tags,
                run_config=each.run_config,
                raise_on_error=False,
            )
        self.lender.now += timedelta(seconds=6)
        return [each.run_key for each in requests]

    def results(self, partition: str, kind: str) -> list[Result]:
        store = self.lender.store
        keys = [info.key for info in store.list(f"results/ke-nano-loan/1.0.0/{partition}/{kind}/")]
        return [Result.model_validate_json(store.get(key).data) for key in keys]


def test_data_that_landed_becomes_a_run_and_what_is_done_is_asked_for_no_more(
    lender: Any, instance: dg.DagsterInstance
) -> None:
    world = World(lender, instance)
    assert world.evaluate().skip_message == "nothing has landed that is not done"
    lender.land(world.newest, at=lender.now - MINUTE)
    lender.now += 6 * timedelta(seconds=1)
    [key] = world.tick()
    assert key.startswith(f"arrival/ke-nano-loan/1.0.0/{world.newest}/")
    assert key.endswith("#1")
    [run] = instance.get_runs()
    assert run.status == STATUS.SUCCESS
    assert instance.get_materialized_partitions(asset_key(*NAME, "psi")) == {world.newest}
    assert [(each.live, each.trigger) for each in world.results(world.newest, "psi")] == [(True, "arrival")]
    assert [world.tick() for _ in range(3)] == [[], [], []]


def test_bad_data_is_a_run_that_fails_for_good(lender: Any, instance: dg.DagsterInstance) -> None:
    world = World(lender, instance)
    lender.land(world.newest, b"no Parquet", at=lender.now - MINUTE)
    assert len(world.tick()) == 1
    assert [run.status for run in instance.get_runs()] == [STATUS.FAILURE]
    lender.now += HOUR
    assert [world.tick() for _ in range(3)] == [[], [], []]
    lender.land(world.newest)
    lender.now += HOUR
    assert len(world.tick()) == 1
    assert [each.status for each in world.results(world.newest, "psi")] == ["insufficient_data", "ok"]


def test_a_run_that_died_of_infrastructure_is_tried_again_as_another_one(
    lender: Any, instance: dg.DagsterInstance
) -> None:
    world = World(lender, instance)
    in_the_way = "reference/ke-nano-loan/1.0.0/second.json"
    lender.store.put(in_the_way, b"{}")
    lender.land(world.newest, at=lender.now - MINUTE)
    [first] = world.tick()
    assert world.tick() == []
    lender.store.delete(in_the_way)
    lender.now += MINUTE
    assert world.tick() == [first.replace("#1", "#2")]
    assert world.tick() == []
    assert [run.status for run in reversed(instance.get_runs())] == [STATUS.FAILURE, STATUS.SUCCESS]
    assert [each.status for each in world.results(world.newest, "psi")] == ["ok"]


@pytest.fixture
def service() -> Iterator[AirflowRecorder]:
    recorder = AirflowRecorder()
    recorder.dags.add(DAG)
    recorder.start()
    yield recorder
    recorder.stop()
    assert recorder.problems == []


class AirflowWorld(World):
    """The same where Airflow schedules."""

    def __init__(self, lender: Any, instance: dg.DagsterInstance, service: AirflowRecorder, **settings: Any) -> None:
        super().__init__(lender, instance, orchestrator="airflow", airflow_url=service.url, **settings)
        self.service = service

    def tick(self) -> list[str]:
        """One tick, which starts no run in Dagster; what it says."""
        found = self.evaluate()
        assert found.run_requests == []
        assert self.instance.get_runs() == []
        self.lender.now += timedelta(seconds=6)
        return [found.skip_message.removeprefix("in airflow ")]

    def work_off(self) -> list[tuple[str, str]]:
        """Do the work of Airflow's runs that do not wait for data; their triggers and partitions."""
        done = []
        for run in self.service.runs:
            partition, reason = run["partition_key"], run["conf"].get("reason", run["run_type"])
            waits = run["run_type"] == "scheduled" and self.lender.store.get(ready_key(DAG, partition)) is None
            if run["state"] in UNFINISHED_IN_AIRFLOW and not waits:
                version = pinned(self.settings, self.members[0].digest, self.lender.clock)
                blocked = [
                    each.outcome
                    for recorded in pipeline.run(version, ORDER, [partition], trigger=REASONS[reason])
                    for each in recorded
                    if each.outcome.state == "blocked"
                ]
                self.service.end(run, "failed" if blocked else "success", self.lender.now, tries_left=3)
                done.append((reason, partition))
        return done


def test_with_airflow_a_run_that_waits_is_let_go_and_a_correction_is_asked_for(
    lender: Any, instance: dg.DagsterInstance, service: AirflowRecorder
) -> None:
    world = AirflowWorld(lender, instance, service)
    service.add(DAG, world.newest)
    assert world.tick() == [NOTHING]
    assert world.work_off() == []
    lender.land(world.newest, at=lender.now - MINUTE)
    lender.now += timedelta(seconds=6)
    assert world.tick() == ["0 runs were asked for, and 1 that waited were let go"]
    assert world.tick() == [NOTHING], "it is at work"
    assert world.work_off() == [("scheduled", world.newest)]
    lender.now += HOUR
    assert [world.tick() for _ in range(2)] == [[NOTHING]] * 2
    lender.land(world.newest, lender.rows("another", 60), at=lender.now)
    lender.now += HOUR
    assert world.tick() == ["1 runs were asked for, and 0 that waited were let go"]
    assert world.work_off() == [("arrival", world.newest)]
    assert [world.tick() for _ in range(2)] == [[NOTHING]] * 2
    assert [(each.live, each.trigger) for each in world.results(world.newest, "psi")] == [(True, "arrival")] * 2


def test_with_airflow_bad_data_is_not_asked_for_again_until_it_is_corrected(
    lender: Any, instance: dg.DagsterInstance, service: AirflowRecorder
) -> None:
    world = AirflowWorld(lender, instance, service)
    lender.land(world.newest, b"no Parquet", at=lender.now - MINUTE)
    world.tick()
    assert world.work_off() == [("arrival", world.newest)]
    lender.now += HOUR
    assert [world.tick() for _ in range(3)] == [[NOTHING]] * 3
    lender.land(world.newest)
    lender.now += HOUR
    world.tick()
    assert world.work_off() == [("arrival", world.newest)]
    assert [each.status for each in world.results(world.newest, "psi")] == ["insufficient_data", "ok"]


def test_with_airflow_what_failed_of_infrastructure_is_asked_for_again(
    lender: Any, instance: dg.DagsterInstance, service: AirflowRecorder
) -> None:
    world = AirflowWorld(lender, instance, service)
    service.add(DAG, world.newest)
    lender.land(world.newest, at=lender.now - MINUTE)
    world.tick()
    service.end(service.runs[0], "failed", lender.now, tries_left=0)
    assert world.tick() == [NOTHING]
    lender.now += MINUTE
    assert world.tick() == ["1 runs were asked for, and 0 that waited were let go"]
    assert world.work_off() == [("arrival", world.newest)]
    assert world.tick() == [NOTHING]


def test_with_airflow_a_run_that_waits_for_what_a_backfill_made_ends_without_work(
    lender: Any, instance: dg.DagsterInstance, service: AirflowRecorder
) -> None:
    world = AirflowWorld(lender, instance, service)
    service.add(DAG, world.newest)
    lender.land(world.newest, at=lender.now - MINUTE)
    version = pinned(world.settings, world.members[0].digest, lender.clock)
    for _ in pipeline.run(version, ORDER, [world.newest], trigger="arrival"):
        pass
    world.tick()
    lender.now += HOUR
    world.tick()
    assert lender.store.get(ready_key(DAG, world.newest)).data == DONE
    assert service.asked_for() == []


def test_with_an_airflow_that_is_down_the_tick_fails_and_the_next_one_asks(
    lender: Any, instance: dg.DagsterInstance, service: AirflowRecorder
) -> None:
    world = AirflowWorld(lender, instance, service)
    lender.land(world.newest, at=lender.now - MINUTE)
    service.stop()
    with pytest.raises(InfrastructureError, match=f"Airflow at {service.url} did not answer"):
        world.evaluate()
    service.start()
    assert world.tick() == ["1 runs were asked for, and 0 that waited were let go"]


def test_whoever_schedules_says_the_store_and_not_this_process(
    lender: Any, instance: dg.DagsterInstance, service: AirflowRecorder
) -> None:
    world = World(lender, instance, airflow_url=service.url)
    lender.store.put(layout.scheduler(), b"airflow")
    lender.land(world.newest, at=lender.now - MINUTE)
    assert world.evaluate().run_requests == []
    assert [run["partition_key"] for run in service.runs] == [world.newest]
    lender.store.put(layout.scheduler(), b"dagster")
    lender.now += MINUTE
    assert len(world.evaluate().run_requests) == 1


def test_with_airflow_and_no_address_of_it_the_tick_says_what_to_set(lender: Any, instance: dg.DagsterInstance) -> None:
    world = World(lender, instance, orchestrator="airflow")
    lender.land(world.newest, at=lender.now - MINUTE)
    found = world.evaluate()
    assert (found.run_requests, found.skip_message) == (
        [],
        "1 runs are for airflow to start: set SCOREWATCH_AIRFLOW_URL",
    )
    overdue = str(datetime.fromisoformat(world.newest).date() - DAY)
    assert [each.status for each in world.results(overdue, "pipeline")] == ["stale"]
    assert instance.get_runs() == []
