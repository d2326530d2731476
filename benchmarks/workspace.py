"""What the pods of a cluster hold of a fleet: webserver and daemon keep the graph of every code location in memory.

A code server for each shard, as on a cluster, over a registry on disk and a lake without data; Airflow counts as the
one who schedules, so nothing runs. The webserver is asked for the whole graph as its pages do, the daemon ticks every
sensor for a while, and then all locations are loaded once more while the old graph is in use. Sizes: FLEETS=300,3000.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from math import ceil
from pathlib import Path
from typing import Any

import yaml

from benchmarks.fleet import SHARD
from benchmarks.fleet_store import deployed, model_name, partitions
from benchmarks.measure import measured
from benchmarks.s3 import LAKE

FLEETS = "50,300,1000,3000"
LIMIT_S = 1_800
TICKING_S = 60
VIEWS = 3
LOCATIONS = """{ workspaceOrError { ... on Workspace { locationEntries {
    name loadStatus locationOrLoadError { __typename } } } } }"""
GRAPH = """{ assetNodes { id assetKey { path } groupName isPartitioned kinds description opNames computeKind
    dependencyKeys { path } dependedByKeys { path } tags { key value } hasAssetChecks partitionDefinition { name type }
    repository { id name location { id name } } } }"""
RELOAD = "mutation($name: String!) { reloadRepositoryLocation(repositoryLocationName: $name) { __typename } }"

Figures = dict[str, float]


def run() -> Figures:
    """GiB by size of the fleet: at the peak, and before everything is loaded again."""
    sizes = map(int, os.environ.get("FLEETS", FLEETS).split(","))
    return {f"{name}_{size}": figure for size in sizes for name, figure in _fleet(size).items()}


def _fleet(versions: int) -> Figures:
    from monitoring_assets.sensors.reloading import location

    shards = ceil(versions / SHARD)
    with (
        tempfile.TemporaryDirectory(prefix="scorewatch-benchmark-") as home,
        contextlib.ExitStack() as stack,
    ):
        workspace = Path(home, "workspace.yaml")
        _fill(Path(home), versions)
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith(("SCORE", "DAGSTER"))
        } | {
            "SCOREWATCH_HOME": home,
            "DAGSTER_HOME": f"{home}/dagster",
            "SCOREWATCH_SHARDS": str(shards),
            "SCOREWATCH_ORCHESTRATOR": "airflow",
            "SCOREWATCH_WORKSPACE": str(workspace),
        }
        measured([sys.executable, "-m", "benchmarks.workspace"], environment)
        servers = {"control": "control", **{location(number, shards): "models" for number in range(shards)}}
        entries = [{"grpc_server": {"location_name": name, "socket": f"{home}/{name}.sock"}} for name in servers]
        workspace.write_text(yaml.safe_dump({"load_from": entries}))

        def start(*command: str, shard: int = 0) -> int:
            return stack.enter_context(_process(command, environment | {"SCOREWATCH_SHARD": str(shard)}, home))

        pods = {}
        for number, (name, module) in enumerate(servers.items()):
            where = ("--socket", f"{home}/{name}.sock", "--module-name", f"monitoring_assets.definitions.{module}")
            pods[module] = start("dagster", "code-server", "start", *where, shard=max(number - 1, 0))
        _wait(lambda: all(Path(home, f"{name}.sock").exists() for name in servers))
        webserver = Webserver(start, str(workspace))
        pods |= {"webserver": webserver.pid, "daemon": start("dagster._daemon", "run", "--workspace", str(workspace))}
        with _sampled(pods) as peaks:
            _wait(lambda: webserver.loaded() == len(servers))
            for _ in range(VIEWS):
                webserver.expect_assets(versions * 7 + 1)
            time.sleep(TICKING_S)
            before = {name: _gib(pid) for name, pid in pods.items()}
            for name in servers:
                webserver.ask(RELOAD, name=name)
            _wait(lambda: webserver.loaded() == len(servers))
            webserver.expect_assets(versions * 7 + 1)
            time.sleep(TICKING_S)
    return {
        **{f"workspace.{name}_gib": figure for name, figure in peaks.items()},
        **{f"workspace.{name}_before_gib": figure for name, figure in before.items()},
    }


class Webserver:
    """A running webserver of Dagster."""

    def __init__(self, start: Callable[..., int], workspace: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self._port = free.getsockname()[1]
        where = ("--host", "127.0.0.1", "--port", str(self._port), "--workspace", workspace)
        self.pid = start("dagster_webserver", *where)

    def ask(self, query: str, **variables: Any) -> Any:
        body = json.dumps({"query": query, "variables": variables}).encode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{self._port}/graphql", body, {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=LIMIT_S) as answer:  # noqa: S310
            found = json.load(answer)
        if "errors" in found:
            raise RuntimeError(f"the webserver says: {found['errors'][0]['message']}")
        return found["data"]

    def loaded(self) -> int:
        """How many locations it has; none before it listens."""
        try:
            entries = self.ask(LOCATIONS)["workspaceOrError"].get("locationEntries", [])
        except OSError:
            return 0
        loaded = [each for each in entries if each["loadStatus"] == "LOADED"]
        if any((each["locationOrLoadError"] or {}).get("__typename") == "PythonError" for each in loaded):
            raise RuntimeError("a location cannot be loaded")
        return len(loaded)

    def expect_assets(self, number: int) -> None:
        """Show the whole graph."""
        found = len(self.ask(GRAPH)["assetNodes"])
        if found != number:
            raise RuntimeError(f"not the fleet that was to be measured: {found} assets and not {number}")


def _gib(pod: int) -> float:
    """Of a process and of all that it started: its session."""
    kib = 0
    for status in Path("/proc").glob("[0-9]*/status"):
        with contextlib.suppress(OSError):
            if os.getsid(int(status.parent.name)) == pod:
                lines = status.read_text().splitlines()
                kib += sum(int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))
    return kib / 2**20


@contextlib.contextmanager
def _sampled(pods: Mapping[str, int]) -> Iterator[dict[str, float]]:
    """The most that each held, looked at five times a second; complete at the end."""
    peaks, done = dict.fromkeys(pods, 0.0), threading.Event()

    def look() -> None:
        while not done.wait(0.2):
            for name, pid in pods.items():
                peaks[name] = max(peaks[name], _gib(pid))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield peaks
    finally:
        done.set()
        thread.join()


@contextlib.contextmanager
def _process(command: tuple[str, ...], environment: Mapping[str, str], home: str) -> Iterator[int]:
    """``python -m COMMAND`` with all that it starts."""
    with (
        Path(home, "log").open("ab") as log,
        subprocess.Popen(  # noqa: S603
            [sys.executable, "-m", *command], env=environment, stdout=log, stderr=log, start_new_session=True
        ) as process,
    ):
        try:
            yield process.pid
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def _wait(ready: Callable[[], bool]) -> None:
    end = time.monotonic() + LIMIT_S
    while not ready():
        if time.monotonic() > end:
            raise RuntimeError(f"not up after {LIMIT_S} seconds")
        time.sleep(1)


def _fill(home: Path, versions: int) -> None:
    """Versions of today, so that there is no day yet of which data could be looked for."""
    changes = [
        (f"s3://{LAKE}".encode(), f"file://{home}/lake".encode()),
        (f"start: {partitions()[0]}".encode(), f"start: {datetime.now(UTC):%Y-%m-%d}".encode()),
    ]
    for model in map(model_name, range(versions)):
        for key, data in deployed(model).items():
            content = functools.reduce(lambda text, change: text.replace(*change), changes, data)
            path = home / "store" / "registry" / key
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)


def _publish() -> None:
    """What the registry sensor does until it has read every manifest."""
    from monitoring_assets.instance import open_instance
    from monitoring_assets.onboarding import utc_now
    from monitoring_assets.refresh import Refresher
    from monitoring_assets.sensors.reloading import publish_states
    from resources.settings import Settings

    settings = Settings.from_environment(os.environ, Path.cwd())
    refresher = Refresher(settings, utc_now)
    while not (found := refresher.look()).complete:
        pass
    with open_instance(settings) as instance:
        publish_states(instance, found.fleet, settings.shards)


if __name__ == "__main__":
    _publish()
