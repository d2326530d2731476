"""Fleets of 50 to 1,000 DAGs in Airflow: from the end of an export until a real dag-processor has them all in Airflow's
database (SQLite), what reading a file of them takes, and what a task pays for them when it starts.

Airflow's own environment is the one that `make airflow` makes. What is measured in a process of it is
`benchmarks.airflow_work`. Plans are those of daily versions with three stages; the bundle looks every five seconds.
"""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from airflow_bridge import standalone
from airflow_bridge.export import SOURCES, Exported, Source, export
from airflow_bridge.schema import Asset, DagPlan, Partitions, Resources, Task
from resources.object_store import ObjectStore, open_store

FLEETS = 50, 300, 1_000
STARTS = 7
LIMIT_S = 600.0
POLL_S = 0.1
REPOSITORY = Path(__file__).parents[1]
ENVIRONMENT = Path(".venvs/airflow")
PYTHON = REPOSITORY / ENVIRONMENT / "bin" / "python"
OPTIONS = {
    "SCOREWATCH__SHARDS": "16",
    # Whatever it would hold back for half a minute is to be seen.
    "CORE__MIN_SERIALIZED_DAG_UPDATE_INTERVAL": "0",
}
STAGES = {
    "features": {"features": ("source", "reference")},
    "scores": {"scores": ("features", "reference")},
    "monitoring": {
        "distribution": ("features", "scores", "reference"),
        "psi": ("distribution", "reference"),
        "csi": ("distribution", "reference"),
    },
}

Figures = dict[str, float]


def run() -> Figures:
    """Seconds until all DAGs are there by number of DAGs, and for the largest number the rest."""
    subprocess.run(["make", "--quiet", f"{ENVIRONMENT}/.done"], cwd=REPOSITORY, check=True)  # noqa: S603, S607
    figures: Figures = {}
    starts: dict[int, float] = {}
    for number in (1, *FLEETS):
        with deployed() as (deployment, store):
            if number > 1:
                deployment.until_there(exported(store, 1))
            done = exported(store, number)
            figures[f"airflow.visible_s_{number}"] = deployment.until_there(done)
            own = dag_id(number // 2), done[0].set
            starts[number] = median(deployment.work("start", *own)["start_s"] for _ in range(STARTS))
            if number == FLEETS[-1]:
                figures |= _of_the_largest(deployment, store, number, own)
    del figures["airflow.visible_s_1"]
    figures["airflow.start_s_1"] = starts[1]
    return figures | {
        "airflow.start_overhead_s": starts[FLEETS[-1]] - starts[1],
        f"airflow.start_s_{FLEETS[-1]}": starts[FLEETS[-1]],
    }


def _of_the_largest(deployment: Deployment, store: ObjectStore, number: int, own: tuple[str, str]) -> Figures:
    shards = [deployment.work("parse", f"shard_{shard:02}.py") for shard in range(0, 16, 4)]
    elsewhere = str(deployment.home / "another-worker")
    first = deployment.work("start", *own, AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_STORAGE_PATH=elsewhere)
    versions = deployment.count("dag_version")
    # One more DAG is in another set, for which every file is read again.
    store.delete(SOURCES)
    deployment.until_there(exported(store, number + 1))
    return {
        "airflow.parse_s_shard": median(each["parse_s"] for each in shards),
        "airflow.parse_mib_shard": median(each["parse_mib"] for each in shards),
        "airflow.parse_mib_imports": median(each["imports_mib"] for each in shards),
        "airflow.first_start_s": first["start_s"],
        "airflow.new_versions_unchanged": deployment.count("dag_version") - versions - 1,
    }


class Deployment:
    """A dag-processor at work, and its database."""

    def __init__(self, home: Path, environ: dict[str, str]) -> None:
        self.home, self._environ = home, environ

    def until_there(self, done: tuple[Exported, float]) -> float:
        """Seconds from the end of an export until Airflow has all of its DAGs as they are in it, and no others."""
        there, begun = done
        wanted = len(there.new) + len(there.changed) + there.unchanged
        query = "select count(*) from dag join serialized_dag using (dag_id) where bundle_version = ? and not is_stale"
        _until(lambda: self._one(query, there.set) >= wanted, begun)
        return time.monotonic() - begun

    def count(self, table: str) -> int:
        """Rows of a table."""
        return self._one(f"select count(*) from {table}")  # noqa: S608 - a name of this module's

    def work(self, *arguments: str, **environ: str) -> Figures:
        """What `benchmarks.airflow_work` measures in a process of its own."""
        command = [PYTHON, "-m", "benchmarks.airflow_work", *arguments]
        done = subprocess.run(  # noqa: S603
            command, env=self._environ | environ, cwd=REPOSITORY, stdout=subprocess.PIPE, check=True
        )
        found: Figures = json.loads(done.stdout.splitlines()[-1])
        return found

    def _one(self, query: str, *values: Any) -> int:
        with closing(sqlite3.connect(self.home / "airflow.db", timeout=60)) as connection:
            return int(connection.execute(query, values).fetchone()[0])


@contextmanager
def deployed() -> Iterator[tuple[Deployment, ObjectStore]]:
    """An empty store, and Airflow's database and dag-processor over it."""
    with tempfile.TemporaryDirectory(prefix="scorewatch-benchmark-") as folder:
        home = Path(folder) / "airflow"
        home.mkdir()
        store = open_store(f"file://{folder}/store")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW", "SCOREWATCH"))}
        options = {f"AIRFLOW__{name}": value for name, value in OPTIONS.items()}
        environ = standalone.environment(store.uri, home, "scorewatch", 8080, kept | options)
        airflow = [str(PYTHON), "-m", "airflow"]
        prepare = [PYTHON, "-c", standalone.PREPARE]
        subprocess.run(prepare, env=environ, check=True, stdout=subprocess.DEVNULL)  # noqa: S603
        with (home / "output.log").open("wb") as log, _running([*airflow, "dag-processor"], environ, log):
            yield Deployment(home, environ), store


@contextmanager
def _running(command: Sequence[str], environ: dict[str, str], log: Any) -> Iterator[None]:
    process = subprocess.Popen(  # noqa: S603
        command, env=environ, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
    )
    try:
        yield
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def exported(store: ObjectStore, number: int) -> tuple[Exported, float]:
    """Put so many DAGs into force; what was done, and when that ended."""
    sources = {dag_id(each): Source("1", partial(_plans, dag_id(each))) for each in range(number)}
    return export(store, sources), time.monotonic()


def dag_id(number: int) -> str:
    """Of a version."""
    return f"ke_loan_{number:04}__1_0_0"


def _plans(name: str) -> list[DagPlan]:
    model = f"{name.partition('__')[0].replace('_', '-')}/1.0.0"
    tasks, before = [], ()
    for stage, assets in STAGES.items():
        made = tuple(
            Asset(
                key=f"{model}/{asset}",
                description=f"The {asset} of a partition, as they are for every version of every model.",
                upstream=tuple(f"{model}/{each}" for each in upstream),
                checks=("quality",),
            )
            for asset, upstream in assets.items()
        )
        arguments = ("run", *model.split("/"), "--stage", stage, "--manifest-digest", "0" * 64)
        resources = Resources(cpu=1.0, memory_mib=2_048)
        tasks.append(Task(id=stage, assets=made, arguments=arguments, upstream=before, resources=resources))
        before = (stage,)
    return [
        DagPlan(
            dag_id=name,
            group=name,
            description=f"{model}: champion, tier 1",
            tags=("role:champion", "tier:1"),
            links={"Dagit": f"http://127.0.0.1:3000/assets/{model}"},
            partitions=Partitions.model_validate({"every": "day", "timezone": "Africa/Nairobi", "start": "2026-01-01"}),
            scheduled=True,
            waits=True,
            tasks=tuple(tasks),
        )
    ]


def _until(condition: Callable[[], bool], begun: float) -> None:
    while not condition():
        if time.monotonic() - begun > LIMIT_S:
            raise RuntimeError(f"not all DAGs were there within {LIMIT_S:.0f} seconds")
        time.sleep(POLL_S)
