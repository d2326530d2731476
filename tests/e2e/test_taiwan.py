"""The Taiwan credit cards through `register` and `backfill`: a recording error that a monitor must catch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

REPO = Path(__file__).parents[2]
CARDS = REPO.parent / "shared" / "data" / "taiwan" / "UCI_Credit_Card.csv"
# UCI's file counts months backwards from September 2005, and calls the first payment status PAY_0.
MONTHS = {
    "2005-04-01": "6",
    "2005-05-01": "5",
    "2005-06-01": "4",
    "2005-07-01": "3",
    "2005-08-01": "2",
    "2005-09-01": "1",
}
MANIFEST = """\
apiVersion: scorewatch/v1
model: taiwan-cards
version: "1.0.0"
owner: credit-risk@lender.example
partitions: {{every: month, timezone: Asia/Taipei, start: 2005-04-01}}
source: {{uri: "file://{lake}/{{partition:%Y-%m}}.parquet", key: ID}}
features:
  - {{name: LIMIT_BAL, kind: numeric}}
  - {{name: SEX, kind: categorical}}
  - {{name: EDUCATION, kind: categorical}}
  - {{name: MARRIAGE, kind: categorical}}
  - {{name: AGE, kind: numeric}}
  - {{name: PAY, kind: numeric}}
  - {{name: BILL_AMT, kind: numeric}}
  - {{name: PAY_AMT, kind: numeric}}
score: {{kind: precomputed, column: score, scale: pd}}
reference: {{uri: reference.parquet, sample: production, population: booked, label: "default.payment.next.month"}}
"""


def month_of(cards: pl.DataFrame, number: str) -> pl.DataFrame:
    """One month's rows; the score is a fixed scorecard of the month's own columns, so that it moves as they do."""
    status = pl.col("PAY_0" if number == "1" else f"PAY_{number}").alias("PAY")
    return cards.select(
        "ID", "LIMIT_BAL", "SEX", "EDUCATION", "MARRIAGE", "AGE", "default.payment.next.month", status,
        pl.col(f"BILL_AMT{number}").alias("BILL_AMT"), pl.col(f"PAY_AMT{number}").alias("PAY_AMT"),
    ).with_columns(score=1 / (1 + (1.6 - 0.55 * pl.col("PAY") + pl.col("LIMIT_BAL") / 4e5).exp()))  # fmt: skip


def scorewatch(home: Path, *arguments: str) -> str:
    environment = {**os.environ, "SCOREWATCH_HOME": str(home), "PYTHONPATH": str(REPO)}
    command = [sys.executable, "-m", "monitoring_assets", *arguments]
    return subprocess.run(command, env=environment, check=True, capture_output=True, text=True, timeout=300).stdout


@pytest.mark.skipif(not CARDS.exists(), reason=f"{CARDS} is not there")
def test_the_change_of_coding_of_pay_is_a_breach_in_september_and_the_payments_drift_by_the_published_figures(
    tmp_path: Path,
) -> None:
    cards = pl.read_csv(CARDS, infer_schema_length=None)
    lake, folder, home = tmp_path / "lake", tmp_path / "model", tmp_path / "home"
    lake.mkdir()
    folder.mkdir()
    for key, number in MONTHS.items():
        month_of(cards, number).write_parquet(lake / f"{key[:7]}.parquet")
    month_of(cards, "6").write_parquet(folder / "reference.parquet")
    (folder / "model.yaml").write_text(MANIFEST.format(lake=lake))

    scorewatch(home, "register", str(folder))
    scorewatch(home, "backfill", "taiwan-cards", "1.0.0", "--to", "2005-09-01")

    values: dict[str, dict[str, float]] = {}
    statuses: dict[str, dict[str, str]] = {}
    for key in MONTHS:
        [result] = (home / "store/results/taiwan-cards/1.0.0" / key / "csi").glob("*.json")
        for metric in json.loads(result.read_text())["metrics"]:
            if metric["window"] == 1:
                values.setdefault(metric["column"], {})[key] = metric["value"]
                statuses.setdefault(metric["column"], {})[key] = metric["status"]
    assert values["PAY"]["2005-09-01"] == pytest.approx(0.926, abs=0.001)
    assert statuses["PAY"]["2005-09-01"] == "breach"
    assert statuses["PAY"]["2005-04-01"] == "ok"
    assert max(values["AGE"].values()) == pytest.approx(0, abs=1e-9)
