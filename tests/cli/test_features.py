"""`scorewatch features`: what a model's own container is given."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pytest

DAY = "2026-01-03"
IMAGE = f"registry.example/models/score@sha256:{'ab' * 32}"


@pytest.fixture
def place(desk: Any, tmp_path: Path) -> Path:
    """Where the features go, of a version with a container of its own."""
    score = {"kind": "container", "image": IMAGE, "column": "vendor_score"}
    desk.lender.onboard(score=score, segments=["product"])
    return tmp_path / "features.parquet"


def test_they_are_the_key_the_features_and_the_segments_as_stages_see_them(desk: Any, place: Path) -> None:
    desk.lender.land(DAY)
    said = desk.run("features", "ke-nano-loan", "1.0.0", "--partition", DAY, "--to", f"file://{place}")

    assert (said.exit_code, said.stderr) == (0, "")
    found = pl.read_parquet(place)
    rows = desk.lender.rows(DAY)
    assert found["application_id"].equals(rows["application_id"])
    assert found["income"].equals(rows["income"].cast(pl.Float64))
    assert found.schema == {
        "application_id": pl.String,
        "income": pl.Float64,
        "age": pl.Float64,
        "region": pl.String,
        "product": pl.String,
    }


@pytest.mark.parametrize("landed", [True, False])
def test_of_a_bad_partition_and_a_missing_one_there_are_the_columns(desk: Any, place: Path, landed: bool) -> None:
    if landed:
        desk.lender.land(DAY, b"no Parquet")
    said = desk.run("features", "ke-nano-loan", "1.0.0", "--partition", DAY, SCOREWATCH_FEATURES_URI=f"file://{place}")

    assert (said.exit_code, said.stderr) == (0, "")
    found = pl.read_parquet(place)
    assert found.columns == ["application_id", "income", "age", "region", "product"]
    assert found.height == 0


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ((), "give --to file:///folder/name.parquet, or SCOREWATCH_FEATURES_URI"),
        (("--to", "s3://lake/features.parquet"), "is no file of this machine"),
        (("--to", "features.parquet"), "is no file of this machine"),
    ],
)
def test_a_place_that_is_no_file_is_refused(desk: Any, place: Path, arguments: tuple[str, ...], why: str) -> None:
    said = desk.run("features", "ke-nano-loan", "1.0.0", "--partition", DAY, *arguments)

    assert said.exit_code == 2
    assert why in said.stderr
