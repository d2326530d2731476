"""Real processes: the `scorewatch` command on a machine of its own, and what it leaves in store and instance."""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import yaml

from monitoring_assets.assets.events import asset_key, evaluated_partitions
from monitoring_assets.deployment import register
from monitoring_assets.version import CHECKS
from resources.settings import Settings
from tests.e2e.airflow_stack import airflow, airflow_python
from tests.e2e.world import local_world, running, s3_world
from tests.processes import Process

__all__ = ["airflow", "airflow_python", "local_world", "running", "s3_world"]

VERSION = "1.0.0"
DAYS = [f"2025-03-{day:02d}" for day in range(1, 6)]
DUPLICATED, ABSENT = "2025-03-06", "2025-03-07"


def applications(seed: int, rows: int, *, income: float = 7.0) -> pl.DataFrame:
    random = np.random.default_rng(seed)
    incomes = np.exp(random.normal(income, 0.5, rows))
    return pl.DataFrame(
        {
            "application_id": [f"{seed}-{row}" for row in range(rows)],
            "income": incomes,
            "region": random.choice(["north", "south", "east"], rows),
            "score": 1 / (1 + incomes / 1000),
        }
    )


class Machine:
    """A home folder with a registry, and the command run on it from a folder that has nothing to do with it."""

    def __init__(self, folder: Path) -> None:
        self.home, self._elsewhere, self.temporary = folder / "home", folder / "elsewhere", folder / "tmp"
        for each in (self.home, self._elsewhere, self.temporary):
            each.mkdir(parents=True, exist_ok=True)
        # A package of this name in the folder that a command is called from must not be taken for ours.
        (self._elsewhere / "resources").mkdir(exist_ok=True)
        (self._elsewhere / "resources" / "__init__.py").write_text("raise SystemExit('the wrong resources')")
        self.store = self.home / "store"
        self.processes: list[Process] = []

    def environ(self, **more: str) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("SCOREWATCH_", "DAGSTER_"))}
        # tempfile has this folder to itself: what is left in it was left by us.
        return {**kept, "SCOREWATCH_HOME": str(self.home), "TMPDIR": str(self.temporary), "COLUMNS": "200"} | more

    def start(self, *arguments: str, **environ: str) -> Process:
        """Start `scorewatch ARGUMENTS`."""
        command = [str(Path(sys.executable).with_name("scorewatch")), *arguments]
        popen = subprocess.Popen(
            command,
            env=self.environ(**environ),
            cwd=self._elsewhere,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.processes.append(Process(popen))
        return self.processes[-1]

    def run(self, *arguments: str, **environ: str) -> tuple[int, str, str]:
        """Run `scorewatch ARGUMENTS`: exit code, standard output and error."""
        return self.start(*arguments, **environ).finish(120)

    def backfill(self, model: str = "small", last: str = DAYS[-1]) -> Process:
        """Start a backfill of the first days."""
        return self.start("backfill", model, VERSION, "--to", last, "--json")

    def settings(self) -> Settings:
        return Settings.from_environment({"SCOREWATCH_HOME": str(self.home)}, self.home)

    def written(self) -> int:
        """How far the work has come: files of data and results in the store."""
        return sum(1 for name in ("data", "results") for path in (self.store / name).rglob("*") if path.is_file())

    def contents(self, model: str = "small") -> dict[str, Any]:
        """Everything that a run leaves in the store: data byte by byte, results without the time they were made at."""
        found: dict[str, Any] = {}
        for name in ("data", "results", "pending"):
            for path in sorted((self.store / name).rglob("*")):
                key = str(path.relative_to(self.store))
                if path.is_file() and f"/{model}/" in f"/{key}":
                    data = path.read_bytes()
                    found[key] = re.sub(rb'"recorded_at":"[^"]*",?', b"", data) if name == "results" else data
        return found

    def recorded(self, model: str = "small") -> dict[str, set[str]]:
        """Per asset, the partitions whose newest materialisation Dagster has with the evaluation of its check."""
        from dagster import DagsterInstance

        with DagsterInstance.from_config(str(self.home / "dagster")) as instance:
            return {
                asset: evaluated_partitions(instance, asset_key(model, VERSION, asset), check)
                for asset, check in CHECKS.items()
            }

    def run_statuses(self) -> list[str]:
        """Status of every run that Dagster knows, the newest first."""
        from dagster import DagsterInstance

        with DagsterInstance.from_config(str(self.home / "dagster")) as instance:
            return [run.status.value for run in instance.get_runs()]


@dataclass
class Stack:
    """A running `scorewatch up` and its GraphQL."""

    machine: Machine
    process: Process
    port: int

    def ask(self, query: str, **variables: Any) -> Any:
        """The data of an answer; fails on an error."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        body = json.dumps({"query": query, "variables": variables})
        connection.request("POST", "/graphql", body, {"Content-Type": "application/json"})
        answer = json.loads(connection.getresponse().read())
        connection.close()
        assert "errors" not in answer, answer["errors"]
        return answer["data"]

    @staticmethod
    def key(model: str, asset: str) -> dict[str, list[str]]:
        """An asset's key as GraphQL wants it."""
        return {"path": [model, VERSION, asset]}

    def groups(self) -> set[str]:
        """The asset groups that Dagit shows."""
        return {each["groupName"] for each in self.ask("{ assetNodes { groupName } }")["assetNodes"]}

    def launch(self, model: str, partitions: list[str]) -> str:
        """Launch a backfill of all assets as Dagit does; its id."""
        found = self.ask(
            """mutation($p: LaunchBackfillParams!) { launchPartitionBackfill(backfillParams: $p) {
                 __typename ... on LaunchBackfillSuccess { backfillId } ... on PythonError { message } } }""",
            p={"partitionNames": partitions, "assetSelection": [self.key(model, asset) for asset in CHECKS]},
        )["launchPartitionBackfill"]
        assert found["__typename"] == "LaunchBackfillSuccess", found
        return str(found["backfillId"])

    def partitions(self, model: str, asset: str) -> list[tuple[str, str, str]]:
        """Ranges of the asset's partitions with their status: first, last, status."""
        node = self.ask(
            """query($k: AssetKeyInput!) { assetNodeOrError(assetKey: $k) { ... on AssetNode { assetPartitionStatuses {
                 ... on TimePartitionStatuses { ranges { startKey endKey status } } } } } }""",
            k=self.key(model, asset),
        )["assetNodeOrError"]
        ranges = node["assetPartitionStatuses"]["ranges"]
        return [(each["startKey"], each["endKey"], each["status"]) for each in ranges]

    def executions(self, model: str, asset: str) -> list[dict[str, Any]]:
        """Every execution of the asset's check."""
        found: list[dict[str, Any]] = self.ask(
            """query($k: AssetKeyInput!, $n: String!) { assetCheckExecutions(assetKey: $k, checkName: $n, limit: 100) {
                 status partition evaluation { severity description targetMaterialization { storageId }
                   metadataEntries { label ... on FloatMetadataEntry { floatValue }
                     ... on TableMetadataEntry { table { records } } } } } }""",
            k=self.key(model, asset),
            n=CHECKS[asset],
        )["assetCheckExecutions"]
        return found


def _start_stack(machine: Machine, **environ: str) -> Stack:
    port = _a_free_port()
    process = machine.start("up", "--port", str(port), **environ)
    lines = []
    while line := process.popen.stdout.readline():
        lines.append(line)
        if "Ctrl-C" in line:
            assert f"http://127.0.0.1:{port}" in "".join(lines)
            assert str(machine.home / "logs") in "".join(lines)
            process.family()
            return Stack(machine, process, port)
    raise AssertionError(f"{''.join(lines)}{process.finish()}")


@pytest.fixture(scope="session")
def start_stack() -> Callable[..., Stack]:
    """``start_stack(machine, **environ)``: start `scorewatch up`, and wait until it says that it is up."""
    return _start_stack


def _a_free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def _eventually(condition: Callable[[], Any], what: str, limit: float = 180.0) -> Any:
    begun = time.monotonic()
    while (waited := time.monotonic() - begun) < limit:
        if found := condition():
            return found
        # What takes minutes needs no look every moment, which would take the time of those who work.
        time.sleep(min(0.02 + waited / 50, 0.5))
    raise AssertionError(f"not within {limit:.0f} seconds: {what}")


@pytest.fixture(scope="session")
def eventually() -> Callable[..., Any]:
    """``eventually(condition, what, limit=180.0)``: its first true value; fails after ``limit`` seconds."""
    return _eventually


@pytest.fixture
def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on."""
    return _a_free_port()


@pytest.fixture(scope="session")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with registered models: `small` and `other` over one lake, and `remote`, whose lake is in S3.

    The population changes on the fourth day; the sixth has a duplicate key, the seventh no file.
    """
    folder = tmp_path_factory.mktemp("deployed")
    for number, day in enumerate([*DAYS, DUPLICATED], start=1):
        (folder / "lake" / day).mkdir(parents=True)
        rows = applications(number, 400, income=7.8 if number > 3 else 7.0)
        if day == DUPLICATED:
            rows = pl.concat([rows, rows.head(1)])
        rows.write_parquet(folder / "lake" / day / "part.parquet")
    settings = Settings.from_environment({"SCOREWATCH_HOME": str(folder)}, folder)
    lakes = {"small": f"file://{folder}/lake", "other": f"file://{folder}/lake", "remote": "s3://lake/applications"}
    for model, lake in lakes.items():
        (folder / model).mkdir()
        applications(0, 2000).write_parquet(folder / model / "reference.parquet")
        (folder / model / "model.yaml").write_text(yaml.safe_dump(manifest(model, lake)))
        register(folder / model, settings)
    return folder


def manifest(model: str, lake: str) -> dict[str, Any]:
    return {
        "apiVersion": "scorewatch/v1",
        "model": model,
        "version": VERSION,
        "owner": "risk@lender.example",
        "partitions": {"every": "day", "timezone": "UTC", "start": date.fromisoformat(DAYS[0])},
        "source": {"uri": f"{lake}/{{partition:%Y-%m-%d}}/*.parquet", "key": "application_id"},
        "score": {"kind": "precomputed", "column": "score"},
        "reference": {"sample": "holdout"},
    }


@pytest.fixture(scope="module")
def new_machine(tmp_path_factory: pytest.TempPathFactory, deployed: Path) -> Iterator[Callable[[], Machine]]:
    """Makes machines on which the models are registered and nothing has run yet."""
    machines: list[Machine] = []

    def make() -> Machine:
        folder = tmp_path_factory.mktemp("machine")
        shutil.copytree(deployed / "store", folder / "home" / "store")
        machines.append(Machine(folder))
        return machines[-1]

    yield make
    for machine in machines:
        for process in machine.processes:
            process.end()


@pytest.fixture
def machine(new_machine: Callable[[], Machine]) -> Machine:
    """A machine on which the models are registered and nothing has run yet."""
    return new_machine()
