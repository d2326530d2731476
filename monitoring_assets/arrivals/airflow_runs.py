"""Tasks as runs of Airflow's DAGs: asked for over REST, a run a partition, or let go where one waits for its data."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

from airflow_bridge.ready import ready_key
from monitoring_assets import layout
from monitoring_assets.arrivals.agenda import Attempt, Task
from monitoring_assets.datasets import content_digest
from monitoring_assets.fleet import Member, Name
from resources.airflow import UNFINISHED, Airflow, DagRun
from resources.object_store import ObjectStore

PREFIX = "scorewatch__"
"""Of the runs that are asked for here."""
THREADS = 8


class AirflowRuns:
    """Runs in Airflow, as attempts at tasks."""

    def __init__(self, airflow: Airflow, store: ObjectStore, members: Iterable[Member]) -> None:
        self._airflow, self._store = airflow, store
        self._dags = {each.name: each.manifest.slug for each in members}
        self._names = {slug: name for name, slug in self._dags.items()}

    def busy(self) -> Mapping[Name, set[str]]:
        """Versions with runs in the queue or at work, and what triggered these; not those that wait for data."""
        found: dict[Name, set[str]] = defaultdict(set)
        for run in self._airflow.runs(state=UNFINISHED):
            name = self._names.get(run.dag_id)
            if name is not None and not _scheduled(run):
                found[name].add(str((run.conf or {}).get("reason", "backfill")))
        return found

    def of(self, keys: Sequence[str]) -> Mapping[str, Attempt]:
        """What became of tasks; those that nobody asked for yet are left out."""
        with ThreadPoolExecutor(THREADS) as threads:
            found = threads.map(self._of, keys)
            return {key: attempt for key, attempt in zip(keys, found, strict=True) if attempt is not None}

    def _of(self, key: str) -> Attempt | None:
        runs = list(self._airflow.runs(run_id_prefix_pattern=f"{PREFIX}{_short(key)}"))
        if not runs:
            return self._let_go(key) if key.startswith("arrival/") else None
        attempts = {run.dag_run_id.split("__")[2] for run in runs}
        if not all(run.finished for run in runs):
            return Attempt("running", len(attempts))
        newest = [run for run in runs if run.dag_run_id.split("__")[2] == max(attempts, key=int)]
        complete = len(newest) == (newest[0].conf or {}).get("partitions")
        # What a failed arrival found is in the results; whoever asked looks there.
        done = complete and (key.startswith("arrival/") or all(run.state == "success" for run in newest))
        return Attempt("done" if done else "failed", len(attempts), _ended(newest))

    def _let_go(self, key: str) -> Attempt | None:
        """The scheduled run that waited for this very data."""
        _, model, version, partition, _ = key.split("/")
        dag_id = self._dags.get((model, version))
        blob = self._store.get(ready_key(str(dag_id), partition))
        if dag_id is None or blob is None or blob.data.decode(errors="replace") != key:
            return None
        found = self._airflow.runs(dag_id, partition_key_prefix_pattern=partition)
        runs = [run for run in found if _scheduled(run) and run.partition_key == partition]
        if any(not run.finished for run in runs):
            return Attempt("running", 1)
        put_at = self._store.head(ready_key(dag_id, partition))
        since = [run for run in runs if put_at and run.end_date and run.end_date >= put_at.last_modified]
        return Attempt("done", 1, _ended(since)) if since else None

    def request(self, tasks: Iterable[Task]) -> int:
        """Have tasks done; how many runs were asked for. Raises InfrastructureError when Airflow cannot be reached."""
        wanted = [
            (task, partition, len(partitions))
            for task in tasks
            for partitions in [self._to_ask_for(task)]
            for partition in partitions
        ]
        with ThreadPoolExecutor(THREADS) as threads:
            return sum(threads.map(lambda each: self._ask(*each), wanted))

    def _to_ask_for(self, task: Task) -> Sequence[str]:
        """The partitions that need a run of their own. Where a scheduled run waits for its data, that is let go."""
        if task.trigger == "onboarding":
            # It looks back by itself, over as many as its windows hold.
            return task.partitions[-1:]
        if task.trigger != "arrival" or task.attempt > 1:
            return task.partitions
        dag_id = self._dags[task.model, task.version]
        for partition in task.partitions:
            self._store.put(ready_key(dag_id, partition), task.key.encode())
        waiting = {run.partition_key for run in self._airflow.runs(dag_id, state=UNFINISHED) if _scheduled(run)}
        return [each for each in task.partitions if each not in waiting]

    def _ask(self, task: Task, partition: str, partitions: int) -> bool:
        dag_id = self._dags[task.model, task.version]
        run_id = f"{PREFIX}{_short(task.key)}__{task.attempt}__{layout.encoded(partition)}"
        return self._airflow.run(dag_id, run_id, partition, {"reason": task.trigger, "partitions": partitions})

    def let_go(self, done: Mapping[Name, Collection[str]]) -> None:
        """Let scheduled runs go whose partitions are done, as after a backfill: they find nothing left to do."""
        for run in self._airflow.runs(state=UNFINISHED):
            name, partition = self._names.get(run.dag_id), run.partition_key
            if _scheduled(run) and name is not None and partition is not None and partition in done.get(name, ()):
                self._store.put_if_absent(ready_key(run.dag_id, partition), b"done")


def _short(key: str) -> str:
    return content_digest(key)[:24]


def _scheduled(run: DagRun) -> bool:
    return run.run_type == "scheduled"


def _ended(runs: Iterable[DagRun]) -> datetime:
    return max((run.end_date for run in runs if run.end_date is not None), default=datetime.now(UTC))
