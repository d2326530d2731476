"""From the put of a manifest to the first psi result, on the real stack: S3 server, `scorewatch up`, nobody's hand.

A small model with 30 days in the lake, deployed again and again under other names, at random moments of the sensors'
rhythm, each when the work for the one before is done. The clock starts with the put of the manifest.
"""

from __future__ import annotations

import http.client
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from functools import partial
from io import BytesIO
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import polars as pl
import psutil

from benchmarks.backfill import applications
from benchmarks.measure import measured
from benchmarks.s3 import LAKE, Put, serve, serving
from monitoring_assets import layout
from monitoring_assets.demo.model import LABEL, export_onnx, train
from resources.settings import Settings

MODELS = 7
DAYS = 30
ROWS_A_DAY = 150
RHYTHM_S = 5.0
"""Between two ticks of a sensor."""
LIMIT_S = 180.0
POLL_S = 0.1
VERSION = "1.0.0"
MANIFEST = """\
apiVersion: scorewatch/v1
model: {model}
version: "{version}"
owner: credit-risk@lender.example
partitions: {{every: day, start: {start}}}
source: {{uri: "s3://{lake}/{{partition}}/*.parquet", key: id}}
score: {{kind: onnx, artefact: model.onnx, scale: pd, higher_is: safety}}
reference: {{uri: reference.parquet, sample: holdout, label: repaid, timestamp: timestamp}}
"""
_NODE = "query($k: AssetKeyInput!) { assetNodeOrError(assetKey: $k) { __typename } }"
_RUNS = """{ runsOrError(filter: {statuses: [QUEUED, NOT_STARTED, STARTING, STARTED, CANCELING]}) {
    ... on Runs { results { runId } } } }"""


def run() -> dict[str, float]:
    """Seconds until the first psi result and until Dagit knows the group: medians and maxima."""
    start = str(datetime.now(UTC).date() - timedelta(days=DAYS))
    with (
        tempfile.TemporaryDirectory(prefix="scorewatch-benchmark-") as home,
        serving("benchmarks.onboarding", "lake", start) as s3,
    ):
        measuring = [sys.executable, "-m", "benchmarks.onboarding", "measure", start]
        figures: dict[str, float] = json.loads(measured(measuring, s3 | {"SCOREWATCH_HOME": home}).output)
    return figures


class Stack:
    """A running `scorewatch up`: its store, and its webserver."""

    def __init__(self, settings: Settings, port: int) -> None:
        self.registry, self._store, self._port = settings.open_registry(), settings.open_store(), port

    def judged(self, model: str, partitions: int) -> bool:
        """Whether so many partitions have a psi result."""
        keys = (info.key for info in self._store.list(layout.results_of(model, VERSION)))
        return sum(key.endswith("/psi/0001.json") for key in keys) >= partitions

    def shown(self, model: str) -> bool:
        """Whether Dagit knows the version's psi."""
        answer = self._ask(_NODE, k={"path": [model, VERSION, "psi"]})
        return bool(answer["assetNodeOrError"]["__typename"] == "AssetNode")

    def idle(self) -> bool:
        """Whether no run is at work or in the queue."""
        return not self._ask(_RUNS)["runsOrError"]["results"]

    def _ask(self, query: str, **variables: Any) -> Any:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=30)
        body = json.dumps({"query": query, "variables": variables})
        connection.request("POST", "/graphql", body, {"Content-Type": "application/json"})
        answer = json.loads(connection.getresponse().read())
        connection.close()
        return answer["data"]


@contextmanager
def up(settings: Settings) -> Iterator[Stack]:
    """Run `scorewatch up`, and end it with everything that it started."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    command = [sys.executable, "-m", "monitoring_assets", "up", "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603
        try:
            if not any("is up" in line for line in process.stdout or ()):
                raise RuntimeError("`scorewatch up` ended before it was up")
            yield Stack(settings, port)
        finally:
            family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
            process.send_signal(signal.SIGTERM)
            for each in psutil.wait_procs(family, timeout=60)[1]:
                each.kill()


def _measure(settings: Settings, start: date) -> dict[str, float]:
    files, phases = _model(start), random.Random(20260101)  # noqa: S311
    group, psi = [], []
    with up(settings) as stack:
        for model in (f"small-model-{number}" for number in range(MODELS)):
            folder = layout.registry_folder(model, VERSION)
            for name, data in files.items():
                stack.registry.put(f"{folder}/{name}", data)
            manifest = MANIFEST.format(model=model, version=VERSION, start=start, lake=LAKE).encode()
            time.sleep(phases.uniform(0, RHYTHM_S))
            begun = time.monotonic()
            stack.registry.put(f"{folder}/{layout.MANIFEST_FILE}", manifest)
            group.append(_seconds(begun, partial(stack.shown, model)))
            psi.append(_seconds(begun, partial(stack.judged, model, 1)))
            _seconds(begun, partial(stack.judged, model, DAYS))
            _seconds(begun, stack.idle)
    return {
        "onboarding.put_to_first_psi_s": median(psi),
        "onboarding.put_to_first_psi_max_s": max(psi),
        "onboarding.put_to_group_s": median(group),
        "onboarding.put_to_group_max_s": max(group),
    }


def _land(put: Put, start: date) -> None:
    """Put the days into the lake, each as it had ended."""
    generator = np.random.default_rng(20260101)
    for number in range(DAYS):
        day = datetime.combine(start, datetime.min.time(), UTC) + timedelta(days=number)
        rows = applications(generator, ROWS_A_DAY, day.date()).drop(LABEL, "timestamp")
        put(LAKE, f"{day:%Y-%m-%d}/part-00000.parquet", _parquet(rows), day + timedelta(days=1))


def _model(start: date) -> dict[str, bytes]:
    """The files of the model, without its manifest."""
    reference = applications(np.random.default_rng(20260102), 20_000, start - timedelta(days=100))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        export_onnx(train(reference), path)
        return {path.name: path.read_bytes(), "reference.parquet": _parquet(reference)}


def _parquet(frame: pl.DataFrame) -> bytes:
    buffer = BytesIO()
    frame.write_parquet(buffer)
    return buffer.getvalue()


def _seconds(begun: float, condition: Callable[[], bool]) -> float:
    """Seconds from ``begun`` until the condition holds. Raises RuntimeError after a limit."""
    while not condition():
        if time.monotonic() - begun > LIMIT_S:
            raise RuntimeError(f"not within {LIMIT_S:.0f} seconds: {condition}")
        time.sleep(POLL_S)
    return time.monotonic() - begun


def _main(work: str, start: date) -> None:
    if work == "lake":
        serve(lambda put: _land(put, start))
    else:
        print(json.dumps(_measure(Settings.from_environment(os.environ, Path.cwd()), start)))


if __name__ == "__main__":
    _main(sys.argv[1], date.fromisoformat(sys.argv[2]))
