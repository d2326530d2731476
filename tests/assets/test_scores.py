from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import pytest

from monitoring_assets.assets.factory import group
from monitoring_assets.assets.handing_over import hand_over
from resources.errors import InfrastructureError

DAY = "2026-01-02"
DAYS = ("2026-01-01", DAY, "2026-01-03")
FIRST = ("features", "scores")


@pytest.fixture
def landed(lender: Any) -> Any:
    """A lender with data for three days."""
    for day in DAYS:
        lender.land(day)
    return lender


@pytest.fixture
def raw(landed: Any, onnx_model_bytes: Callable[..., bytes]) -> Any:
    """A version whose ONNX model gives income / 100: nan for null, outside [0, 1] above 100."""
    return landed.onboard(artefact=onnx_model_bytes(raw=True))


def with_income(lender: Any, value: float | None) -> pl.DataFrame:
    """A partition whose first seven incomes are ``value``."""
    return lender.rows(DAY).with_columns(income=pl.when(pl.int_range(pl.len()) >= 7).then("income").otherwise(value))  # type: ignore[no-any-return]


def test_every_row_gets_its_own_score(landed: Any, run: Any, stored: Any) -> None:
    version = landed.onboard()
    assert run(version, [DAY], FIRST)["scores", DAY].result.status == "ok"
    rows = landed.rows(DAY)
    effect = rows["region"].replace_strict({"north": 0.0, "south": 0.3, "east": -0.3}).to_numpy()
    logit = (50 - rows["income"].to_numpy()) / 10 + (50 - rows["age"].to_numpy()) / 10 + effect
    found = stored(version, "scores", DAY)
    assert found.columns == ["application_id", "score"]
    assert found["application_id"].to_list() == rows["application_id"].to_list()
    np.testing.assert_allclose(found["score"].to_numpy(), 1 / (1 + np.exp(-logit)), atol=1e-6)


def test_precomputed_scores_are_taken_as_they_are(landed: Any, run: Any, stored: Any) -> None:
    version = landed.onboard(precomputed=True)
    recorded = run(version, [DAY], FIRST)["scores", DAY]
    assert stored(version, "scores", DAY)["vendor_score"].to_list() == landed.rows(DAY)["vendor_score"].to_list()
    assert {metric.metric for metric in recorded.result.metrics} == {"rows", "invalid_scores"}, "there is no canary"


def test_the_result_says_that_artefact_and_canary_were_checked(landed: Any, run: Any) -> None:
    version = landed.onboard()
    result = run(version, [DAY], FIRST)["scores", DAY].result
    values = {metric.metric: metric.value for metric in result.metrics}
    assert values == {"rows": 400.0, "invalid_scores": 0.0, "artefact_matches": 1.0, "canary_difference": 0.0}
    assert [(each.asset, each.partition) for each in result.inputs] == [("features", DAY), ("artefact", None)]
    assert result.inputs[1].digest == version.profile.artefact_sha256


@pytest.mark.parametrize(
    ("income", "found"), [(None, "7 missing"), (float("inf"), "7 infinite"), (250.0, "7 outside the range")]
)
def test_invalid_scores_of_a_model_block_their_partition(
    landed: Any, raw: Any, go_on: Any, income: float | None, found: str
) -> None:
    landed.land(DAY, with_income(landed, income))
    result = go_on(landed, raw, "scores")
    assert result.status == "breach"
    assert result.reason == f"'score': {found}, of 400 rows; score.range is [0, 1] and every row needs a score"
    [metric] = result.metrics
    assert (metric.metric, metric.column, metric.value, metric.n) == ("invalid_scores", "score", 7.0, 400)


@pytest.mark.parametrize(
    ("score", "found"),
    [(None, "missing"), (float("nan"), "missing"), (float("-inf"), "infinite"), (-0.01, "outside the range")],
)
def test_invalid_precomputed_scores_block_their_partition(
    landed: Any, go_on: Any, score: float | None, found: str
) -> None:
    version = landed.onboard(precomputed=True)
    landed.land(DAY, landed.rows(DAY).with_columns(vendor_score=pl.lit(score, pl.Float64)))
    assert go_on(landed, version, "scores").reason.startswith(f"'vendor_score': 400 {found}, of 400 rows")


def test_every_kind_of_invalid_score_is_counted(landed: Any, run: Any) -> None:
    version = landed.onboard(precomputed=True)
    scores = [None, float("nan"), float("inf"), 2.0, -1.0, -2.0, 0.0, 1.0]
    landed.land(DAY, landed.rows(DAY, 8).with_columns(vendor_score=pl.Series(scores)))
    result = run(version, [DAY], FIRST)["scores", DAY].result
    assert "2 missing, 1 infinite, 3 outside the range, of 8 rows" in result.reason
    assert result.metrics[0].value == 6.0


def test_a_missing_artefact_stops_its_own_model_only(landed: Any, run: Any) -> None:
    broken, other = landed.onboard(), landed.onboard(model="ke-other", precomputed=True)
    landed.registry.delete("ke-nano-loan/1.0.0/model.onnx")
    recorded = run(broken, DAYS)
    for day in DAYS:
        each = recorded["scores", day]
        assert (each.outcome.state, each.result.status) == ("blocked", "breach")
        assert (
            f"score.artefact names 'model.onnx', and {broken.files.where('model.onnx')} does not exist"
            in each.result.reason
        )
        assert recorded["features", day].outcome.state == "materialised"
        assert recorded["psi", day].result.status == "insufficient_data"
    assert landed.listed("data/scores") == []
    assert {each.result.status for each in run(other, DAYS).values()} == {"ok"}


def test_a_swapped_artefact_is_not_run(landed: Any, run: Any, onnx_model_bytes: Callable[..., bytes]) -> None:
    version = landed.onboard()
    landed.registry.put("ke-nano-loan/1.0.0/model.onnx", onnx_model_bytes(raw=True))
    recorded = run(version, DAYS)
    result = recorded["scores", DAY].result
    assert (recorded["scores", DAY].outcome.state, result.status) == ("blocked", "breach")
    assert "model.onnx is not the artefact that was onboarded" in result.reason
    assert "restore it, or register a new version" in result.reason
    assert [(metric.metric, metric.value) for metric in result.metrics] == [("artefact_matches", 0.0)]
    assert landed.listed("data/scores") == []
    landed.registry.put("ke-nano-loan/1.0.0/model.onnx", onnx_model_bytes())
    assert {each.outcome.state for each in run(version, DAYS, FIRST).values()} == {"reused", "materialised"}


def test_reference_rows_that_get_other_scores_than_at_onboarding_block(landed: Any, run: Any) -> None:
    version = landed.onboard()
    canary = version.profile.canary
    assert len(canary.scores) == 200
    moved = replace(canary, scores=tuple(score + 0.002 for score in canary.scores))
    version = replace(version, profile=replace(version.profile, canary=moved))
    result = run(version, DAYS)["scores", DAY].result
    [matches, difference] = result.metrics
    assert (matches.status, difference.status) == ("ok", "breach")
    assert difference.value == pytest.approx(0.002)
    assert "200 reference rows no longer get their frozen scores (off by up to 0.002)" in result.reason
    assert "compare the runtime's version" in result.reason
    assert landed.listed("data/scores") == []


def test_reference_rows_that_get_no_score_block_with_a_result_without_nan(
    landed: Any, raw: Any, run: Any, attempts: Any
) -> None:
    canary = raw.profile.canary
    lost = replace(canary, rows={**canary.rows, "income": [None] * len(canary.scores)})
    version = replace(raw, profile=replace(raw.profile, canary=lost))
    result = run(version, [DAY])["scores", DAY].result
    assert attempts(version, DAY, "quality", "scores") == [result]
    assert "no longer get their frozen scores (some get none)" in result.reason
    assert result.metrics[1].value is None


def test_scores_need_features_first(landed: Any, run: Any) -> None:
    version = landed.onboard()
    recorded = run(version, [DAY], ("scores",))["scores", DAY]
    assert (recorded.outcome.state, recorded.result.status) == ("skipped", "insufficient_data")
    assert recorded.result.reason == "features is not materialised; run that stage first"


def test_a_stage_alone_works_on_what_the_stage_before_left(landed: Any, run: Any) -> None:
    version = landed.onboard()
    run(version, [DAY], ("features",))
    assert run(version, [DAY], ("scores",))["scores", DAY].outcome.state == "materialised"
    assert run(version, [DAY], ("scores",))["scores", DAY].outcome.state == "reused"


def test_lost_features_are_trouble_of_the_store_and_named(landed: Any, run: Any) -> None:
    version = landed.onboard()
    run(version, [DAY], ("features",))
    [key] = [key for key in landed.listed("data/features") if key.endswith("part-00000.parquet")]
    landed.store.put(key, b"PAR1 cut")
    for _ in ("damaged", "lost"):
        with pytest.raises(
            InfrastructureError, match=f"ke-nano-loan 1.0.0: the stored features of {DAY} cannot be read"
        ):
            run(version, [DAY], ("scores",))
        landed.store.delete(key)


class TestContainer:
    """The model's own image has scored the partition before this stage runs."""

    @pytest.fixture
    def version(self, landed: Any) -> Any:
        score = {
            "kind": "container",
            "image": f"registry.lender.example/score@sha256:{'ab' * 32}",
            "column": "vendor_score",
        }
        return landed.onboard(score=score)

    @pytest.fixture
    def written(self, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[[pl.DataFrame], None]:
        def write(scores: pl.DataFrame) -> None:
            place = tmp_path / "container.parquet"
            scores.select("application_id", "vendor_score").write_parquet(place)
            monkeypatch.setenv("SCOREWATCH_SCORES_URI", str(place))

        return write

    def test_its_scores_are_joined_by_key(self, landed: Any, run: Any, stored: Any, version: Any, written: Any) -> None:
        written(landed.rows(DAY).reverse())
        assert run(version, [DAY], FIRST)["scores", DAY].result.status == "ok"
        wanted = landed.rows(DAY).select("application_id", "vendor_score")
        assert stored(version, "scores", DAY).equals(wanted)

    def test_outside_its_pod_it_says_what_is_missing(
        self, run: Any, version: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("SCOREWATCH_SCORES_URI", raising=False)
        recorded = run(version, [DAY], FIRST)["scores", DAY]
        assert recorded.outcome.state == "blocked"
        assert "SCOREWATCH_SCORES_URI is not set. Run it in the version's pod" in recorded.result.reason

    def test_dagster_gives_it_a_run_a_partition(self, landed: Any, version: Any) -> None:
        def runs_of(manifest: Any) -> int | None:
            [stages] = [each for each in group(manifest) if len(getattr(each, "keys", ())) == 5]
            return stages.backfill_policy.max_partitions_per_run

        assert runs_of(version.manifest) == 1
        assert runs_of(landed.onboard(model="other").manifest) is None

    def test_a_run_that_was_given_other_features_is_to_be_tried_again(
        self, landed: Any, run: Any, version: Any, written: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        place = tmp_path / "features.parquet"
        monkeypatch.setenv("SCOREWATCH_FEATURES_URI", f"file://{place}")
        written(landed.rows(DAY))
        pl.DataFrame({"income": [1.0]}).write_parquet(place)
        with pytest.raises(InfrastructureError, match="are not those that its container was given"):
            run(version, [DAY], FIRST)
        assert hand_over(version, DAY, place) == 400
        assert run(version, [DAY], FIRST)["scores", DAY].result.status == "ok"

    def test_a_row_without_a_score_blocks(self, landed: Any, run: Any, version: Any, written: Any) -> None:
        written(landed.rows(DAY).head(399))
        assert "wrote 399 scores for 400 rows" in run(version, [DAY], FIRST)["scores", DAY].result.reason
        written(landed.rows("others"))
        assert "400 missing, of 400 rows" in run(version, [DAY], FIRST)["scores", DAY].result.reason

    def test_an_unreadable_file_blocks(
        self, run: Any, version: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("SCOREWATCH_SCORES_URI", str(tmp_path / "absent.parquet"))
        assert "absent.parquet cannot be read with" in run(version, [DAY], FIRST)["scores", DAY].result.reason
