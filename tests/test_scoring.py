from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import pytest

from monitoring_assets import scoring
from monitoring_assets.stability.profile import Canary
from resources.errors import BadInput

KINDS = (("income", True), ("region", False))
ROWS: dict[str, list[object]] = {"income": [1.0, None, 3.0], "region": ["north", None, "south"]}


def canary(*scores: float) -> Canary:
    return Canary(rows=dict(ROWS), scores=scores)


def given(*scores: float) -> scoring.Scorer:
    return lambda _: np.asarray(scores)


def test_the_canary_of_a_version_gets_its_own_scores_again(lender: Any) -> None:
    version = lender.onboard()
    profile, kinds = version.profile, scoring.feature_kinds(version.profile)
    assert kinds == (("income", True), ("age", True), ("region", False))
    data = scoring.load_artefact(version.files, version.manifest)
    scorer = scoring.onnx_scorer(version.manifest, data, kinds)
    assert scoring.canary_difference(profile.canary, scorer, kinds) == 0.0
    moved = replace(profile.canary, scores=(profile.canary.scores[0] - 0.25, *profile.canary.scores[1:]))
    assert scoring.canary_difference(moved, scorer, kinds) == pytest.approx(0.25)


def test_the_largest_difference_counts() -> None:
    assert scoring.canary_difference(canary(0.5, 0.5, 0.5), given(0.5, 0.7, 0.4), KINDS) == pytest.approx(0.2)


@pytest.mark.parametrize("lost", [float("nan"), float("inf")])
def test_a_canary_row_without_a_score_is_infinitely_far_off(lost: float) -> None:
    assert scoring.canary_difference(canary(0.5, 0.5, 0.5), given(0.5, lost, 0.5), KINDS) == float("inf")


def test_an_empty_canary_says_nothing() -> None:
    empty = Canary(rows={"income": [], "region": []}, scores=())
    assert scoring.canary_difference(empty, given(), KINDS) == 0.0


def test_a_canary_s_rows_have_the_types_that_stages_see() -> None:
    frame = scoring.canary_frame({"income": [1, None], "region": [None, None]}, KINDS)
    assert frame.schema == {"income": pl.Float64, "region": pl.String}


def test_a_column_gives_its_numbers_and_nan_for_null() -> None:
    frame = pl.DataFrame({"score": [0.25, None, float("nan")], "points": [600, None, 700]})
    np.testing.assert_array_equal(scoring.column_scorer("score")(frame), [0.25, np.nan, np.nan])
    np.testing.assert_array_equal(scoring.column_scorer("points")(frame), [600.0, np.nan, 700.0])


def test_the_container_s_scores_are_where_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCOREWATCH_SCORES_URI", "/scores/part.parquet")
    assert scoring.container_scores_location() == "/scores/part.parquet"
    monkeypatch.setenv("SCOREWATCH_SCORES_URI", "")
    with pytest.raises(BadInput, match="SCOREWATCH_SCORES_URI is not set"):
        scoring.container_scores_location()


def test_a_missing_artefact_is_named_with_its_key_and_place(lender: Any) -> None:
    version = lender.onboard()
    lender.registry.delete("ke-nano-loan/1.0.0/model.onnx")
    with pytest.raises(BadInput) as missing:
        scoring.load_artefact(version.files, version.manifest)
    place = f"{lender.registry.uri}/ke-nano-loan/1.0.0/model.onnx"
    assert f"ke-nano-loan 1.0.0: score.artefact names 'model.onnx', and {place} does not exist" in str(missing.value)
