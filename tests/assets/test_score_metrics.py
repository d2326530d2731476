from __future__ import annotations

import math
from datetime import date
from typing import Any

import numpy as np
import polars as pl
import pytest

from monitoring_assets.stability.significance import alpha, pearson

DAYS = [f"2026-01-{day:02d}" for day in range(1, 4)]
RISK = {"kind": "precomputed", "column": "vendor_score"}
POINTS = {**RISK, "scale": "points", "range": [300, 850], "higher_is": "safety"}


def reference(lender: Any) -> pl.DataFrame:
    return lender.rows("the reference", 3_000)


def metric(result: Any, name: str) -> Any:
    [found] = [metric for metric in result.metrics if metric.metric == name]
    return found


def named(result: Any) -> list[str]:
    return [each.metric for each in result.metrics if each.metric not in (result.kind, "score_bins")]


def land(lender: Any, day: str, odds: float = 1.0, rows: int = 1_000) -> pl.DataFrame:
    """A partition in which the odds of the vendor's score are multiplied."""
    score = pl.col("vendor_score")
    frame = lender.rows(day, rows).with_columns(vendor_score=1 / (1 + (1 - score) / (score * odds)))
    lender.land(day, frame)
    return frame


def test_the_mean_log_odds_and_its_shift_are_those_of_the_scores(lender: Any, run: Any) -> None:
    version = lender.onboard(rows=reference(lender), score=RISK)
    logits = []
    for day, odds in zip(DAYS[:2], (1.0, 1.26), strict=True):
        score = land(lender, day, odds)["vendor_score"].to_numpy()
        logits.append(np.log(score / (1 - score)))
    recorded = run(version, DAYS[:2])
    then = reference(lender)["vendor_score"].to_numpy()
    logit = np.log(then / (1 - then))
    for day, each in zip(DAYS, logits, strict=False):
        found = metric(recorded["psi", day].result, "mean_log_odds")
        assert (found.column, found.segment, found.window, found.n, found.status) == (
            "vendor_score",
            None,
            1,
            1_000,
            "ok",
        )
        assert found.value == pytest.approx(each.mean(), abs=1e-3)
        error = math.sqrt(version.profile.score_column.dispersion * logit.var() * (1 / 1_000 + 1 / 3_000))
        assert found.net_value == pytest.approx((each.mean() - logit.mean()) / error, abs=0.05)
    assert found.net_value > 4
    assert recorded["psi", DAYS[1]].result.status == "ok", "which PSI does not see"
    assert named(recorded["csi", DAYS[0]].result) == []


def test_a_reference_that_varies_between_days_standardises_by_its_dispersion(lender: Any, run: Any) -> None:
    rows = reference(lender).with_row_index("day")
    day = pl.col("day") // 300
    moved = pl.when(day % 2 == 0).then(pl.col("vendor_score") * 0.8).otherwise(pl.col("vendor_score"))
    stamped = rows.with_columns(
        vendor_score=moved, applied_at=pl.lit(date(2025, 12, 1)).cast(pl.Datetime) + pl.duration(days=day)
    ).drop("day")
    land(lender, DAYS[0])
    settings = {"sample": "holdout", "timestamp": "applied_at"}
    dated = lender.onboard(rows=stamped, score=RISK, reference=settings)
    plain = lender.onboard(rows=stamped.drop("applied_at"), score=RISK, version="2")
    dispersion = dated.profile.score_column.dispersion
    assert dispersion > 2
    z, undispersed = (
        metric(run(version, DAYS[:1])["psi", DAYS[0]].result, "mean_log_odds").net_value for version in (dated, plain)
    )
    assert z == pytest.approx(undispersed / math.sqrt(dispersion))


def test_points_are_followed_as_they_are(lender: Any, run: Any) -> None:
    to_points = (600 - 40 * (pl.col("vendor_score") / (1 - pl.col("vendor_score"))).log()).clip(300, 850).round()
    version = lender.onboard(
        rows=reference(lender).with_columns(vendor_score=to_points),
        score={**POINTS, "cutoffs": [{"from": date(2026, 1, 1), "value": 600}]},
    )
    frame = lender.rows(DAYS[0], 1_000).with_columns(vendor_score=to_points)
    lender.land(DAYS[0], frame)
    result = run(version, DAYS[:1])["psi", DAYS[0]].result
    assert metric(result, "mean_log_odds").value == pytest.approx(frame["vendor_score"].mean(), abs=0.1)
    assert metric(result, "approval_rate").value == (frame["vendor_score"] >= 600).mean()


def test_the_approval_rate_at_the_cutoff_warns_from_three_points_on(lender: Any, run: Any) -> None:
    cutoffs = [{"from": date(2026, 1, 2), "value": 0.5}, {"from": date(2026, 1, 3), "value": 0.6}]
    version = lender.onboard(rows=reference(lender), score={**RISK, "cutoffs": cutoffs})
    frames = [land(lender, day, odds, 4_000) for day, odds in zip(DAYS, (1.0, 1.0, 1.35), strict=True)]
    recorded = run(version, DAYS)
    before, calm, moved = (recorded["psi", day].result for day in DAYS)
    assert named(before) == ["mean_log_odds"], "there is no cut-off yet"
    then = reference(lender)["vendor_score"].to_numpy()
    for result, frame, cutoff in ((calm, frames[1], 0.5), (moved, frames[2], 0.6)):
        found, approved = metric(result, "approval_rate"), frame["vendor_score"].to_numpy() <= cutoff
        assert found.value == pytest.approx(approved.mean(), abs=5e-4)
        assert found.net_value == pytest.approx(approved.mean() - (then <= cutoff).mean(), abs=5e-4)
        assert (found.column, found.n, found.threshold) == ("vendor_score", 4_000, 0.03)
    found = metric(calm, "approval_rate")
    assert (found.status, found.significant, calm.status) == ("ok", False, "ok")
    found = metric(moved, "approval_rate")
    approved, approved_then = round(found.value * 4_000), round((found.value - found.net_value) * 3_000)
    p_value = pearson([approved, 4_000 - approved], [approved_then, 3_000 - approved_then]).p_value
    assert found.p_value == pytest.approx(float(p_value), rel=1e-6)
    assert found.p_value < alpha(4)
    assert found.net_value < -0.03
    assert (found.status, found.significant, moved.status) == ("warn", True, "warn")
    share = f"{found.value:.1%} approved at the cut-off 0.6; {found.value - found.net_value:.1%} of the reference"
    assert moved.reason == found.note == share


def test_a_change_of_three_points_without_evidence_is_ok(lender: Any, run: Any) -> None:
    cutoffs = [{"from": date(2026, 1, 1), "value": 0.5}]
    version = lender.onboard(rows=reference(lender), score={**RISK, "cutoffs": cutoffs})
    land(lender, DAYS[0], 1.2, 150)
    result = run(version, DAYS[:1])["psi", DAYS[0]].result
    found = metric(result, "approval_rate")
    assert found.net_value <= -0.03
    assert (found.significant, found.status, result.status) == (False, "ok", "ok")


def test_a_shift_of_the_score_keeps_its_reason_beside_the_approval_rate(lender: Any, run: Any) -> None:
    cutoffs = [{"from": date(2026, 1, 1), "value": 0.5}]
    version = lender.onboard(rows=reference(lender), score={**RISK, "cutoffs": cutoffs})
    land(lender, DAYS[0], 1.5)
    result = run(version, DAYS[:1])["psi", DAYS[0]].result
    assert metric(result, "approval_rate").status == result.status == "warn"
    assert result.reason.startswith("1 of 1 columns at or above 0.1: worst vendor_score with net PSI 0.1")


def test_scores_of_training_rows_are_no_reference_for_either(lender: Any, run: Any) -> None:
    score = {**RISK, "cutoffs": [{"from": date(2026, 1, 1), "value": 0.5}]}
    version = lender.onboard(rows=reference(lender), score=score, reference={"sample": "train"})
    land(lender, DAYS[0])
    assert named(run(version, DAYS[:1])["psi", DAYS[0]].result) == []


def test_a_new_cutoff_changes_results_and_no_data(lender: Any, run: Any) -> None:
    from monitoring_assets import deployment, onboarding

    document = {"rows": reference(lender), "score": RISK}
    version = lender.onboard(**document)
    land(lender, DAYS[0])
    before = run(version, DAYS[:1])["psi", DAYS[0]]
    score = {**RISK, "cutoffs": [{"from": date(2026, 1, 1), "value": 0.5}]}
    deployment.update(lender.model_folder(lender.manifest(score=score)) / "model.yaml", lender.settings)
    later = onboarding.onboard(lender.settings, "ke-nano-loan", "1.0.0", lender.clock)
    after = run(later, DAYS[:1])["psi", DAYS[0]]
    assert (after.outcome.state, after.result.attempt) == ("reused", 2)
    assert after.outcome.digest == before.outcome.digest
    assert named(after.result) == ["mean_log_odds", "approval_rate"]
