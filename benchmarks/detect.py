"""From drifted data to the page, on the real stack: S3 server, `scorewatch up`, a recorder with PagerDuty's semantics.

Small models with 30 days in the lake are deployed and judged first. Then yesterday lands for one after the other, with
one feature twice as large as ever, each when the work for the one before is done. First at random moments of the
sensors' rhythm, while everything is up, so that the run that judges tells. Then while PagerDuty is out of reach until
the run is over, so that the publisher's sensor tells: it comes back at moments that divide the sensor's rhythm evenly,
the first of them right after a round that could not tell, which is the longest that anybody has to wait.
"""

from __future__ import annotations

import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from functools import partial
from io import BytesIO
from pathlib import Path
from statistics import median

import numpy as np
import polars as pl

from benchmarks.backfill import applications
from benchmarks.measure import measured
from benchmarks.onboarding import POLL_S, RHYTHM_S, VERSION, Stack, up
from benchmarks.s3 import LAKE, Put, serve, serving
from monitoring_assets import layout
from monitoring_assets.demo.model import LABEL, export_onnx, train
from monitoring_assets.results import newest_of_asset
from monitoring_assets.sensors.publisher import EVERY_S
from resources.object_store import ObjectStore, open_store
from resources.settings import Settings
from tests.recorders import Incident, Recorder, unreachable

DAYS = 30
ROWS_A_DAY = 150
TOLD_BY_RUN = tuple(f"told-by-run-{number}" for number in range(5))
TOLD_BY_SENSOR = tuple(f"told-by-sensor-{number}" for number in range(5))
MODELS = TOLD_BY_RUN + TOLD_BY_SENSOR
"""No more than ten: if all models of a larger fleet breach on one day, some of their pages are held back."""
LIMIT_S = 180.0
LIMIT_HISTORY_S = 900.0
"""For the history of all models."""
MANIFEST = """\
apiVersion: scorewatch/v1
model: {model}
version: "{version}"
owner: credit-risk@lender.example
tier: 1
role: champion
partitions: {{every: day, start: {start}}}
source: {{uri: "s3://{lake}/{model}/{{partition}}/*.parquet", key: id, ready: _SUCCESS}}
score: {{kind: onnx, artefact: model.onnx, scale: pd, higher_is: safety}}
reference: {{uri: reference.parquet, sample: holdout, label: repaid, timestamp: timestamp}}
"""


def run() -> dict[str, float]:
    """Seconds from data, result and PagerDuty's return to the page: medians and maxima."""
    yesterday = str(datetime.now(UTC).date() - timedelta(days=1))
    with (
        tempfile.TemporaryDirectory(prefix="scorewatch-benchmark-") as home,
        serving("benchmarks.detect", "lake", yesterday) as s3,
    ):
        measuring = [sys.executable, "-m", "benchmarks.detect", "measure", yesterday]
        figures: dict[str, float] = json.loads(measured(measuring, s3 | {"SCOREWATCH_HOME": home}).output)
    return figures


class Bed:
    """A running stack, the recorder that it tells, and the lake in which a day is to land."""

    def __init__(self, settings: Settings, stack: Stack, recorder: Recorder, day: date) -> None:
        self._stack, self._recorder, self._pagerduty, self._day = stack, recorder, recorder.pagerduty, day
        self._store = settings.open_store()
        self._lake = open_store(f"s3://{LAKE}", s3_endpoint=settings.s3_endpoint)
        rows = _rows(np.random.default_rng(20260103), day)
        self._drifted = _parquet(rows.with_columns(pl.col("driver_tenure") * 2))

    def told_by_run(self, model: str) -> tuple[float, float]:
        """Seconds from the data, and from the csi result, until PagerDuty has accepted the page."""
        landed = self._land(model)
        self._wait_for_page(model)
        accepted = datetime.now(UTC)
        written = self._judged_at(model)
        if written is None or written < landed:
            raise RuntimeError(f"{model} paged without a csi result of {self._day}")
        _until(self._stack.idle)
        return (accepted - landed).total_seconds(), (accepted - written).total_seconds()

    def told_by_sensor(self, model: str, later_s: float) -> float:
        """Seconds until PagerDuty has accepted the page, from when it came back: so much ``later_s`` than a round."""
        self._pagerduty.faults.lasting = unreachable()
        self._land(model)
        _until(lambda: self._judged_at(model) is not None)
        _until(self._stack.idle)
        tried = self._pagerduty.requests
        self._recorder.wait_until(lambda: self._pagerduty.requests > tried, LIMIT_S)
        time.sleep(later_s)
        self._pagerduty.faults.lasting = None
        back = time.monotonic()
        self._wait_for_page(model)
        return time.monotonic() - back

    def _land(self, model: str) -> datetime:
        """Put the day into the lake; when its marker, which is last, was put."""
        self._lake.put(f"{model}/{self._day}/part-00000.parquet", self._drifted)
        at = datetime.now(UTC)
        self._lake.put(f"{model}/{self._day}/_SUCCESS", b"")
        return at

    def _judged_at(self, model: str) -> datetime | None:
        result = newest_of_asset(self._store, layout.results(model, VERSION, str(self._day), "csi"), "csi")
        return result.recorded_at if result is not None else None

    def _wait_for_page(self, model: str) -> None:
        self._recorder.wait_until(lambda: _page(self._recorder, model), LIMIT_S)


def _measure(settings: Settings, yesterday: date) -> dict[str, float]:
    recorder = Recorder()
    recorder.start()
    os.environ.update(recorder.environ)
    try:
        with up(settings) as stack:
            _deploy(stack.registry, yesterday - timedelta(days=DAYS))
            for number, model in enumerate(MODELS, start=1):
                _until(partial(stack.judged, model, DAYS), LIMIT_HISTORY_S)
                _say(f"{number} of {len(MODELS)} models are judged")
            _until(stack.idle)
            bed = Bed(settings, stack, recorder, yesterday)
            figures = _by_run(bed) | _by_sensor(bed)
    finally:
        recorder.stop()
    if recorder.problems or len(recorder.pagerduty.pages) != len(MODELS):
        raise RuntimeError(f"one page a model was expected: {[*recorder.problems, *recorder.pagerduty.pages]}")
    return figures


def _by_run(bed: Bed) -> dict[str, float]:
    phases, of_data, of_result = random.Random(20260101), [], []  # noqa: S311
    for model in TOLD_BY_RUN:
        time.sleep(phases.uniform(0, RHYTHM_S))
        landed_s, written_s = bed.told_by_run(model)
        _say(f"{model}: {landed_s:.1f} s after its data, {written_s:.2f} s after its result")
        of_data.append(landed_s)
        of_result.append(written_s)
    return _summary("landed_to_event", of_data) | _summary("written_to_event", of_result)


def _by_sensor(bed: Bed) -> dict[str, float]:
    found = []
    for number, model in enumerate(TOLD_BY_SENSOR):
        found.append(bed.told_by_sensor(model, EVERY_S * number / len(TOLD_BY_SENSOR)))
        _say(f"{model}: {found[-1]:.1f} s after PagerDuty came back")
    return _summary("sensor", found)


def _summary(name: str, seconds: list[float]) -> dict[str, float]:
    return {f"detect.{name}_s": median(seconds), f"detect.{name}_max_s": max(seconds)}


def _page(recorder: Recorder, model: str) -> list[Incident]:
    return [each for each in recorder.pagerduty.pages if f"/{model}/{VERSION}/drift/" in each.dedup_key]


def _deploy(registry: ObjectStore, start: date) -> None:
    """Put every model, its manifest last."""
    reference = applications(np.random.default_rng(20260102), 20_000, start - timedelta(days=100))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        export_onnx(train(reference), path)
        files = {path.name: path.read_bytes(), "reference.parquet": _parquet(reference)}
    for model in MODELS:
        manifest = MANIFEST.format(model=model, version=VERSION, start=start, lake=LAKE).encode()
        for name, data in {**files, layout.MANIFEST_FILE: manifest}.items():
            registry.put(f"{layout.registry_folder(model, VERSION)}/{name}", data)


def _land_history(put: Put, yesterday: date) -> None:
    """Put the days before yesterday into the lake, each as it had ended, the same ones for every model."""
    generator = np.random.default_rng(20260101)
    for back in range(DAYS, 0, -1):
        day = yesterday - timedelta(days=back)
        data, ended = _parquet(_rows(generator, day)), datetime.combine(day, datetime.max.time(), UTC)
        for model in MODELS:
            put(LAKE, f"{model}/{day}/part-00000.parquet", data, ended)
            put(LAKE, f"{model}/{day}/_SUCCESS", b"", ended)


def _rows(generator: np.random.Generator, day: date) -> pl.DataFrame:
    return applications(generator, ROWS_A_DAY, day).drop(LABEL, "timestamp")


def _parquet(frame: pl.DataFrame) -> bytes:
    buffer = BytesIO()
    frame.write_parquet(buffer)
    return buffer.getvalue()


def _until(condition: Callable[[], bool], limit_s: float = LIMIT_S) -> None:
    """Wait until the condition holds. Raises RuntimeError after a limit."""
    end = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > end:
            raise RuntimeError(f"not within {limit_s:.0f} seconds: {condition}")
        time.sleep(POLL_S)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _main(work: str, yesterday: date) -> None:
    if work == "lake":
        serve(lambda put: _land_history(put, yesterday))
    else:
        print(json.dumps(_measure(Settings.from_environment(os.environ, Path.cwd()), yesterday)))


if __name__ == "__main__":
    _main(sys.argv[1], date.fromisoformat(sys.argv[2]))
