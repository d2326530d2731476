"""The three containers of a pod that scores with a model's own image, one after the other, as processes over S3."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from airflow_bridge.stage_pod import MAIN, MODEL, PREPARE, ModelContainer, Platform, spec
from monitoring_assets.datasets import locations
from monitoring_assets.version import ModelVersion
from tests.launched_pods import DAY, IMAGE, MODEL_IMAGE

IMAGES = {PREPARE: IMAGE, MODEL: MODEL_IMAGE, MAIN: IMAGE}
MODEL_PROGRAM = """\
import os
import polars as pl

def path(name):
    return os.environ[name].removeprefix("file://")

assert not any(name.startswith(("SCOREWATCH_STORE", "AWS_")) for name in os.environ), "a secret"
features = pl.read_parquet(path("SCOREWATCH_FEATURES_URI"))
assert features.columns == ["application_id", "income", "age", "region"], features.columns
scores = features.select("application_id", vendor_score=1 / (1 + pl.col("income").fill_null(0) / 1000))
WHAT
"""
WRITES = 'scores.write_parquet(path("SCOREWATCH_SCORES_URI"))'


@dataclass
class Pod:
    """The containers of the pod of a run; what they share is a folder."""

    version: ModelVersion
    folder: Path
    environ: dict[str, str]

    def prepare(self) -> subprocess.CompletedProcess[str]:
        """The first init container."""
        return self._ours(PREPARE)

    def model(self, what: str = WRITES) -> None:
        """The second one, whose image does ``what`` with the scores."""
        program = self.folder / "model.py"
        program.write_text(MODEL_PROGRAM.replace("WHAT", what), encoding="utf-8")
        found = self._process([sys.executable, str(program)], self._environ(MODEL))
        assert found.returncode == 0, found.stderr

    def main(self, stage: str = "all") -> subprocess.CompletedProcess[str]:
        """The container that takes the scores: in Dagster's pods with all stages, in Airflow's of that one."""
        return self._ours(MAIN, "--stage", stage)

    @property
    def scores(self) -> pl.DataFrame | None:
        """What the store has then."""
        store, path = self.version.store, self.version.path("scores", DAY)
        current = self.version.current("scores", DAY)
        if current is None:
            return None
        return pl.read_parquet(locations(store, path, current), storage_options=store.storage_options() or None)

    def _ours(self, name: str, *more: str) -> subprocess.CompletedProcess[str]:
        container = self._container(name)
        assert container["command"] == ["scorewatch"]
        line = [sys.executable, "-m", "monitoring_assets", *container["args"], *more]
        return self._process(line, {**self._environ(name), **self.environ})

    def _container(self, name: str) -> dict[str, Any]:
        what = ["ke-nano-loan", "1.0.0", "--partition", DAY]
        model = ModelContainer(MODEL_IMAGE, "scorewatch", ["features", *what])
        found = spec(Platform(IMAGE, "a"), ["scorewatch"], ["run", *what], {}, deadline_s=60, model=model)
        [container] = [each for each in [*found["initContainers"], *found["containers"]] if each["name"] == name]
        assert container["image"] == IMAGES[name]
        return container

    def _environ(self, name: str) -> dict[str, str]:
        """The variables of a container, with this machine's folder where the pod's would be."""
        found = {each["name"]: each["value"] for each in self._container(name)["env"]}
        places = {"file:///scoring": f"file://{self.folder}", "/home/scorewatch": f"{self.folder}/home"}
        for inside, outside in places.items():
            found = {key: value.replace(inside, outside) for key, value in found.items()}
        return {"PATH": os.environ["PATH"], **found}

    def _process(self, line: list[str], environ: dict[str, str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(line, env=environ, cwd=self.folder, capture_output=True, text=True, check=False)


@pytest.fixture
def pod(s3_lender: Any, s3_server: Any, tmp_path: Path) -> Pod:
    score = {"kind": "container", "image": MODEL_IMAGE, "column": "vendor_score"}
    version = s3_lender.onboard(score=score)
    environ = {
        "SCOREWATCH_STORE": s3_lender.settings.store_uri,
        "SCOREWATCH_REGISTRY": s3_lender.settings.registry_uri,
        "SCOREWATCH_ALLOWED_SOURCES": s3_lender.lake_uri,
        "SCOREWATCH_S3_ENDPOINT": s3_lender.settings.s3_endpoint,
        "COLUMNS": "300",
        "PYTHONPATH": str(Path(__file__).parents[2]),
        **{name: value for name, value in os.environ.items() if name.startswith("AWS_")},
    }
    folder = tmp_path / "pod"
    folder.mkdir()
    return Pod(version, folder, environ)


def test_the_scores_of_the_models_image_come_out(pod: Pod, s3_lender: Any) -> None:
    s3_lender.land(DAY)
    prepared = pod.prepare()
    assert prepared.returncode == 0, prepared.stderr
    assert "400 rows" in prepared.stdout
    pod.model()
    done = pod.main()

    assert done.returncode == 0, done.stderr + done.stdout
    rows = s3_lender.rows(DAY)
    wanted = rows.select("application_id", vendor_score=1 / (1 + pl.col("income").fill_null(0) / 1000))
    assert pod.scores is not None
    assert pod.scores.equals(wanted)


@pytest.mark.parametrize(
    ("what", "why"),
    [
        ('scores.head(399).write_parquet(path("SCOREWATCH_SCORES_URI"))', "wrote 399 scores for 400 rows"),
        (
            'scores.with_columns(vendor_score=float("nan")).write_parquet(path("SCOREWATCH_SCORES_URI"))',
            "400 missing, of 400 rows",
        ),
        ("pass", "scores.parquet cannot be read"),
    ],
)
def test_a_model_that_does_not_score_every_row_blocks(pod: Pod, s3_lender: Any, what: str, why: str) -> None:
    s3_lender.land(DAY)
    assert pod.prepare().returncode == 0
    pod.model(what)
    done = pod.main("scores")

    assert done.returncode == 3
    assert why in " ".join(done.stdout.split())
    assert pod.scores is None


@pytest.mark.parametrize("bad", [True, False])
def test_features_that_are_bad_or_missing_leave_insufficient_data(pod: Pod, s3_lender: Any, bad: bool) -> None:
    if bad:
        s3_lender.land(DAY, s3_lender.rows(DAY).drop("income"))
    prepared = pod.prepare()
    assert (prepared.returncode, prepared.stderr) == (0, "")
    assert "0 rows" in prepared.stdout
    pod.model()
    done = pod.main()

    assert done.returncode == (3 if bad else 2)
    for kind in ("psi", "csi"):
        [line] = [line for line in done.stdout.splitlines() if line.strip("│ ").startswith(f"{kind} ")]
        assert "insufficient_data" in line


def test_features_that_changed_while_they_were_scored_are_to_be_scored_again(pod: Pod, s3_lender: Any) -> None:
    s3_lender.land(DAY)
    assert pod.prepare().returncode == 0
    pod.model()
    s3_lender.land(DAY, s3_lender.rows("corrected"))
    done = pod.main()

    assert done.returncode == 75
    assert "are not those that its container was given" in " ".join(done.stderr.split())
    assert pod.scores is None
