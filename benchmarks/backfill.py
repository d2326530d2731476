"""A year of daily partitions of a small model, all stages: what a new version's history costs.

150 applications a day, seven features, an ONNX model; one `scorewatch backfill` process on a fresh home, SQLite as it
ships, imports included. Beside it, what one stage process costs beyond its data work.
"""

from __future__ import annotations

import os
import sys
import tempfile
from datetime import date, timedelta
from pathlib import Path
from statistics import median

import numpy as np
import polars as pl

from benchmarks.measure import Usage, measured
from monitoring_assets.demo.model import FEATURES, LABEL, export_onnx, train

ROWS_A_DAY = 150
DAYS = 365
START = date(2025, 1, 1)
REPEATS = 3
MANIFEST = """\
apiVersion: scorewatch/v1
model: small-model
version: "1.0.0"
owner: credit-risk@lender.example
partitions: {{every: day, start: {start}}}
source: {{uri: "file://{lake}/{{partition}}.parquet", key: id}}
score: {{kind: onnx, artefact: model.onnx, scale: pd, higher_is: safety}}
reference: {{uri: reference.parquet, sample: holdout, label: repaid, timestamp: timestamp}}
"""


def run() -> dict[str, float]:
    """Wall seconds of the year, and CPU seconds of single stage processes without and with Great Expectations."""
    with tempfile.TemporaryDirectory(prefix="scorewatch-benchmark-") as folder:
        home = Path(folder) / "home"
        _prepare(Path(folder))
        environment = {**os.environ, "SCOREWATCH_HOME": str(home)}
        _scorewatch(environment, "register", str(Path(folder) / "model"))
        last = (START + timedelta(days=DAYS - 1)).isoformat()
        year = _scorewatch(environment, "backfill", "small-model", "1.0.0", "--to", last)
        again = _scorewatch(environment, "backfill", "small-model", "1.0.0", "--to", last)
        stage = {
            name: median(_stage(environment, name, last).cpu_s for _ in range(REPEATS))
            for name in ("features", "monitoring")
        }
    return {
        "backfill.year_small_model_s": year.wall_s,
        "backfill.year_small_model_cpu_s": year.cpu_s,
        "backfill.year_again_s": again.wall_s,
        "backfill.peak_gib": year.peak_gib,
        "stage.overhead_cpu_s": stage["features"],
        "stage.overhead_gx_cpu_s": stage["monitoring"],
    }


def _stage(environment: dict[str, str], stage: str, partition: str) -> Usage:
    return _scorewatch(
        environment, "run", "small-model", "1.0.0", "--stage", stage, "--partition", partition, "--force"
    )


def _scorewatch(environment: dict[str, str], *arguments: str) -> Usage:
    return measured([sys.executable, "-m", "monitoring_assets", *arguments], environment)


def _prepare(folder: Path) -> None:
    generator = np.random.default_rng(20250101)
    lake, model = folder / "lake", folder / "model"
    lake.mkdir()
    model.mkdir()
    reference = applications(generator, 20_000, START - timedelta(days=100))
    export_onnx(train(reference), model / "model.onnx")
    reference.write_parquet(model / "reference.parquet")
    (model / "model.yaml").write_text(MANIFEST.format(start=START, lake=lake))
    for day in range(DAYS):
        when = START + timedelta(days=day)
        applications(generator, ROWS_A_DAY, when).drop(LABEL, "timestamp").write_parquet(lake / f"{when}.parquet")


def applications(generator: np.random.Generator, rows: int, day: date) -> pl.DataFrame:
    """Applications of a day like the demo's, and whether the loan was repaid."""
    income = generator.lognormal(10, 0.6, rows)
    columns = {
        "car_value": income.round(),
        "salary_range": generator.choice(["0 - 20K", "20K - 40K", "40K - 60K", "60K+"], rows),
        "debt_to_income_ratio": generator.beta(2, 3, rows),
        "loan_length": generator.integers(6, 24, rows).astype(float),
        "repaid_loan_on_prev_car": generator.random(rows) < 0.5,
        "size_of_downpayment": generator.choice(["0%", "10%", "20%", "40%"], rows),
        "driver_tenure": generator.gamma(2, 2, rows),
    }
    good = generator.random(rows) < 1 / (1 + np.exp(2 * columns["debt_to_income_ratio"] - np.log(income / 2e4)))
    frame = pl.DataFrame(columns).select(FEATURES)
    return frame.with_columns(
        pl.Series(LABEL, good.astype(float)),
        pl.lit(day).cast(pl.Datetime("us", "UTC")).alias("timestamp"),
        pl.Series("id", generator.integers(0, 2**60, rows)),
    )
