"""The arrivals sensor of a shard: the runs that landed data needs, and what Dagster knows of them."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Literal

import dagster as dg

from airflow_bridge.graph import LEAVES_TAG
from monitoring_assets.arrivals.agenda import Attempt, Capacity, Task
from monitoring_assets.arrivals.airflow_runs import AirflowRuns
from monitoring_assets.arrivals.watch import Name, Watch
from monitoring_assets.assets.events import asset_key
from monitoring_assets.assets.factory import OUTCOME_TAG, PARTITIONS_TAG, TRIGGER_TAG, WORK_TAG, quiet
from monitoring_assets.assets.pipeline import ORDER
from monitoring_assets.exporting import scheduler
from monitoring_assets.fleet import Member
from monitoring_assets.heartbeats import EXTERNAL_TAG, MODEL_TAG, VERSION_TAG
from monitoring_assets.onboarding import utc_now
from monitoring_assets.version import Clock
from resources.airflow import Airflow
from resources.settings import Settings

UNFINISHED = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]


def arrivals_sensor(settings: Settings, members: Sequence[Member], clock: Clock = utc_now) -> dg.SensorDefinition:
    """The sensor over some versions. With another orchestrator it detects all the same, and asks for no run."""
    watch: list[Watch] = []
    store = settings.open_store()
    api = settings.airflow_url and Airflow(settings.airflow_url, settings.airflow_user, settings.airflow_password)
    airflow = AirflowRuns(api, store, members) if api else None

    @dg.sensor(
        name="arrivals",
        asset_selection=dg.AssetSelection.all(),
        minimum_interval_seconds=3,
        tags={LEAVES_TAG: "true"},
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Materialises partitions when their data has landed, was corrected, or is missing from the past.",
    )
    def arrivals(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        if not watch:
            watch.append(Watch(members, settings, clock))
        # Whatever this process was told: what Airflow's DAGs materialise, Dagster does not.
        if (scheduler(store) or settings.orchestrator) == "airflow":
            return dg.SensorResult(skip_reason=_left_to_airflow(watch[0], airflow, context.instance))
        tasks = watch[0].tick(DagsterRuns(context.instance))
        if not tasks:
            return dg.SensorResult(skip_reason="nothing has landed that is not done")
        return dg.SensorResult(run_requests=[run_request(task) for task in tasks])

    return arrivals


def _left_to_airflow(watch: Watch, airflow: AirflowRuns | None, instance: dg.DagsterInstance) -> str:
    if airflow is None:
        tasks = watch.tick(DagsterRuns(instance))
        return f"{len(tasks)} runs are for airflow to start: set SCOREWATCH_AIRFLOW_URL"
    tasks = watch.tick(airflow)
    try:
        done = airflow.request(tasks)
    finally:
        airflow.let_go(watch.done)
    return f"in airflow {done.asked_for} runs were asked for, and {done.let_go} that waited were let go"


def run_request(task: Task) -> dg.RunRequest:
    """The run of a task. Dagster starts one with the same key once, however often it is asked for."""
    assets = (*(("reference",) if task.trigger == "onboarding" else ()), *ORDER)
    return dg.RunRequest(
        run_key=f"{task.key}#{task.attempt}",
        asset_selection=[asset_key(task.model, task.version, asset) for asset in assets],
        # The assets report evaluations themselves; planned ones would stay planned.
        asset_check_keys=[],
        run_config=quiet(),
        tags={
            TRIGGER_TAG: task.trigger,
            WORK_TAG: task.key,
            PARTITIONS_TAG: ",".join(task.partitions),
            MODEL_TAG: task.model,
            VERSION_TAG: task.version,
            "dagster/priority": str(task.priority),
        },
    )


class DagsterRuns:
    """Runs in Dagster's instance, as attempts at tasks."""

    def __init__(self, instance: dg.DagsterInstance) -> None:
        self._instance = instance

    def busy(self) -> Mapping[Name, set[str]]:
        """Versions with runs in the queue or at work, and what triggered these."""
        found: dict[Name, set[str]] = defaultdict(set)
        for run in self._instance.get_runs(dg.RunsFilter(statuses=UNFINISHED)):
            for name in _versions(run):
                found[name].add(run.tags.get(TRIGGER_TAG, "backfill"))
        return found

    def of(self, keys: Sequence[str]) -> Mapping[str, Attempt]:
        """What became of tasks; those that nobody asked for yet are left out."""
        found: dict[str, list[dg.RunRecord]] = defaultdict(list)
        for record in self._instance.get_run_records(dg.RunsFilter(tags={WORK_TAG: list(keys)})):
            found[record.dagster_run.tags[WORK_TAG]].append(record)
        return {key: _attempt(records) for key, records in found.items()}

    def capacity(self) -> Capacity:
        """As much of the past as there is: a task is one run, and runs of the past come last in the queue."""
        return Capacity()


def _versions(run: dg.DagsterRun) -> set[Name]:
    """By its assets; a run of the command's, hence one in Airflow's pods, says it in its tags alone."""
    tagged = {(run.tags[MODEL_TAG], run.tags[VERSION_TAG])} if EXTERNAL_TAG in run.tags else set()
    return tagged | {(key.path[0], key.path[1]) for key in run.asset_selection or () if len(key.path) == 3}


def _attempt(records: Sequence[dg.RunRecord]) -> Attempt:
    runs = [record.dagster_run for record in records]
    if any(not run.is_finished for run in runs):
        return Attempt("running", len(runs))
    ended = max(record.end_time or record.update_timestamp.timestamp() for record in records)
    last = max(records, key=lambda record: record.storage_id).dagster_run.status
    done = any(run.status == dg.DagsterRunStatus.SUCCESS or OUTCOME_TAG in run.tags for run in runs)
    undone: Literal["failed", "canceled"] = "canceled" if last == dg.DagsterRunStatus.CANCELED else "failed"
    return Attempt("done" if done else undone, len(runs), datetime.fromtimestamp(ended, UTC))
