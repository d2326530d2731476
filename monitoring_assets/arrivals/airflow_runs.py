"""Tasks as runs of Airflow's DAGs: asked for over REST, a run a partition, or let go where one waits for its data."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

from airflow_bridge.ready import DONE, ready_key
from airflow_bridge.schema import ACTIVE_RUNS
from monitoring_assets import layout
from monitoring_assets.arrivals.agenda import Attempt, Capacity, Task
from monitoring_assets.datasets import content_digest
from monitoring_assets.fleet import Member, Name
from resources.airflow import UNFINISHED, Airflow, DagRun
from resources.at_once import at_once
from resources.errors import InfrastructureError
from resources.object_store import ObjectStore

PREFIX = "scorewatch__"
"""Of the runs that are asked for here."""
SCHEDULED = "scheduled"
OTHERS = ("asset_materialization", "backfill", "manual")
"""Types of the runs that the timetable does not make; they do not wait for data."""
PAST = 16
"""Runs of the past under way in all of Airflow: half of the tasks that it works on at once as it ships (`[core]
parallelism`), so that what arrives finds room, however many versions are new."""
PAST_AT_ONCE = ACTIVE_RUNS // 2
"""Of one task: what arrives would come after those of its DAG that are not active yet."""


class Requested(NamedTuple):
    """How many runs were asked for, and how many that waited for data were let go."""

    asked_for: int
    let_go: int


class _Ask(NamedTuple):
    """A run to ask for: one of the ``runs`` of an attempt at a task."""

    task: Task
    partition: str
    runs: int


class AirflowRuns:
    """Runs in Airflow, as attempts at tasks. Losing it loses nothing: Airflow and the store know it all."""

    def __init__(self, airflow: Airflow, store: ObjectStore, members: Iterable[Member]) -> None:
        self._airflow, self._store = airflow, store
        self._dags = {each.name: each.manifest.slug for each in members}
        self._names = {slug: name for name, slug in self._dags.items()}
        self._told: dict[Name, set[str]] = {}
        self._past = 0

    def busy(self) -> Mapping[Name, set[str]]:
        """Versions with runs in the queue or at work, and what triggered these; not those that the timetable made."""
        found: dict[Name, set[str]] = defaultdict(set)
        past = 0
        for run in self._airflow.runs(state=UNFINISHED, run_type=OTHERS):
            name, reason = self._names.get(run.dag_id), str((run.conf or {}).get("reason", "backfill"))
            # Also those of versions that others watch.
            past += reason == "catch-up"
            if name is not None:
                found[name].add(reason)
        self._past = past
        return found

    def capacity(self) -> Capacity:
        """How much of the past Airflow takes, as of the last time that it was asked what is busy."""
        return Capacity(PAST_AT_ONCE, PAST - self._past)

    def of(self, keys: Sequence[str]) -> Mapping[str, Attempt]:
        """What became of tasks; those that nobody asked for yet are left out."""
        found = at_once(self._of, keys)
        return {key: attempt for key, attempt in zip(keys, found, strict=True) if attempt is not None}

    def _of(self, key: str) -> Attempt | None:
        kind, model, version, *rest = key.split("/")
        dag_id = self._dags[model, version]
        attempts = self._attempts(dag_id, _run_id(key))
        last = max(attempts, default=1)
        runs = attempts[last]
        expected = int((runs[0].conf or {}).get("runs", 0)) if runs else 0
        if last == 1 and kind == "arrival":
            let_go = self._let_go(key, dag_id, rest[0])
            expected += len(let_go)
            runs += [run for partition in let_go for run in self._of_timetable(dag_id, partition)]
        if not runs:
            return None
        if not all(run.finished for each in attempts.values() for run in each):
            return Attempt("running", last)
        # Fewer are there when whoever asked for them was interrupted.
        done = len(runs) >= expected and all(map(self._ended_for_good, runs))
        return Attempt("done" if done else "failed", last, max(run.end_date or run.run_after for run in runs))

    def _attempts(self, dag_id: str, run_id: str) -> dict[int, list[DagRun]]:
        """The runs that were asked for, by the number of their attempt."""
        found: dict[int, list[DagRun]] = defaultdict(list)
        for run in self._airflow.runs(dag_id, run_id_prefix_pattern=run_id):
            own = re.fullmatch(rf"{run_id}__([0-9]+)__.+", run.dag_run_id)
            if own:
                found[int(own[1])].append(run)
        return found

    def _let_go(self, key: str, dag_id: str, partition: str) -> Sequence[str]:
        """The partitions whose runs waited for a task's data and were let go; ``partition`` is the task's newest."""
        blob = self._store.get(ready_key(dag_id, partition))
        owner, *partitions = blob.data.decode(errors="replace").split("\n") if blob else ("",)
        return partitions if owner == key else []

    def _of_timetable(self, dag_id: str, partition: str) -> list[DagRun]:
        found = self._airflow.runs(dag_id, run_type=SCHEDULED, partition_key_prefix_pattern=partition)
        return [run for run in found if run.partition_key == partition]

    def _ended_for_good(self, run: DagRun) -> bool:
        """Whether trying again would find the same: it is through, or its data is bad."""
        if run.state == "success":
            return True
        failed = self._airflow.failed_tasks(run)
        return bool(failed) and all(task.failed_for_good for task in failed)

    def request(self, tasks: Iterable[Task]) -> Requested:
        """Have tasks done: runs that wait for their data are let go, others are asked for.

        What a DAG that is not there yet was to do is asked for again at the next look. Raises InfrastructureError when
        Airflow does not take all of it, after it was asked for the rest.
        """
        asks, let_go = list[_Ask](), 0
        for task in tasks:
            waiting = self._waiting(task)
            partitions = [each for each in _partitions(task) if each not in waiting]
            asks += [_Ask(task, each, len(partitions)) for each in partitions]
            if task.trigger == "arrival":
                self._tell(task, waiting)
            let_go += len(waiting)
        taken = at_once(self._ask, asks)
        refused = [each for each in taken if isinstance(each, InfrastructureError)]
        if refused:
            raise InfrastructureError(f"{len(refused)} of {len(asks)} runs were not taken. {refused[0]}")
        return Requested(sum(each is True for each in taken), let_go)

    def _waiting(self, task: Task) -> Sequence[str]:
        """The partitions of an arrival whose runs wait for their data, and have not been told of any yet."""
        if task.trigger != "arrival" or task.attempt > 1:
            return []
        dag_id = self._dags[task.model, task.version]
        unfinished = {run.partition_key for run in self._airflow.runs(dag_id, state=UNFINISHED, run_type=SCHEDULED)}
        waiting = [each for each in task.partitions if each in unfinished]
        return [each for each in waiting if self._store.head(ready_key(dag_id, each)) is None]

    def _tell(self, task: Task, waiting: Sequence[str]) -> None:
        """Say that data is there, also to runs that the timetable has yet to make. The task's newest comes last."""
        dag_id = self._dags[task.model, task.version]
        for partition in task.partitions:
            self._store.put(ready_key(dag_id, partition), "\n".join([task.key, *waiting]).encode())

    def _ask(self, ask: _Ask) -> bool | InfrastructureError:
        task = ask.task
        run_id = f"{_run_id(task.key)}__{task.attempt}__{layout.encoded(ask.partition)}"
        conf = {"reason": task.trigger, "runs": ask.runs}
        try:
            return self._airflow.run(self._dags[task.model, task.version], run_id, ask.partition, conf)
        except InfrastructureError as error:
            # One DAG that Airflow cannot read is not to keep others from theirs.
            return error

    def let_go(self, done: Mapping[Name, Collection[str]]) -> None:
        """Let runs end that wait for partitions that are done, as after a backfill or onboarding."""
        fresh = [
            (name, partition)
            for name, partitions in done.items()
            if name in self._dags
            for partition in set(partitions) - self._told.get(name, set())
        ]
        at_once(lambda each: self._store.put_if_absent(ready_key(self._dags[each[0]], each[1]), DONE), fresh)
        self._told = {name: set(partitions) for name, partitions in done.items()}


def _partitions(task: Task) -> Sequence[str]:
    """Those that need a run. That of onboarding looks back by itself, over as many as its windows hold."""
    return task.partitions[-1:] if task.trigger == "onboarding" else task.partitions


def _run_id(key: str) -> str:
    return f"{PREFIX}{content_digest(key)[:24]}"
