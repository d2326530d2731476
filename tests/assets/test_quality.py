from __future__ import annotations

from datetime import date
from typing import Any

import polars as pl
import pytest

UPSTREAM = ("features", "scores", "distribution")
DAY = "2026-01-02"


def nulls(column: str, share: int) -> pl.Expr:
    """Every ``share``-th value of a column is null."""
    return pl.when(pl.int_range(pl.len()) % share > 0).then(column).alias(column)


@pytest.fixture
def judged(lender: Any, run: Any) -> Any:
    """``judged(frame, **manifest)``: the quality result of the distribution of one day with these rows."""

    def judged(frame: pl.DataFrame, **manifest: Any) -> Any:
        version = lender.onboard(precomputed=True, **manifest)
        lender.land(DAY, frame)
        return run(version, [DAY], UPSTREAM)["distribution", DAY].result

    return judged


def moved(result: Any) -> dict[tuple[str, str], str]:
    return {(metric.metric, metric.column): metric.status for metric in result.metrics if metric.column}


def test_a_partition_like_the_reference_is_ok(lender: Any, judged: Any) -> None:
    result = judged(lender.rows(DAY))
    assert (result.status, result.reason, result.asset, result.kind) == ("ok", "", "distribution", "quality")
    assert [(metric.metric, metric.value) for metric in result.metrics] == [("rows", 400.0)]


def test_new_nulls_warn_and_many_of_them_breach(lender: Any, judged: Any) -> None:
    result = judged(lender.rows(DAY, 2_000).with_columns(nulls("income", 20), nulls("region", 5)))
    assert moved(result) == {("null_rate", "income"): "warn", ("null_rate", "region"): "breach"}
    assert result.status == "breach"
    assert result.reason == "2 measures outside their limits: null_rate of region is 0.2 (0.00% in the reference)"
    region = next(metric for metric in result.metrics if metric.column == "region")
    assert (region.value, region.n, region.threshold) == (0.2, 2_000, 0.01)
    assert region.p_value < 1e-4


def test_nulls_beyond_what_the_manifest_allows_breach_however_few(lender: Any, judged: Any) -> None:
    reference = lender.rows("reference", 3_000).with_columns(nulls("income", 30))
    limited = [
        {"name": "income", "kind": "numeric", "max_null_rate": 0.01},
        {"name": "region", "kind": "categorical", "max_null_rate": 0.05},
    ]
    result = judged(lender.rows(DAY, 2_000).with_columns(nulls("income", 30)), rows=reference, features=limited)
    assert moved(result) == {("null_rate", "income"): "breach"}
    income = next(metric for metric in result.metrics if metric.column == "income")
    assert (income.threshold, income.note) == (0.01, "3.33% in the reference")


def test_special_values_unseen_categories_and_tails_are_watched(lender: Any, judged: Any) -> None:
    number = pl.int_range(pl.len())
    rows = lender.rows(DAY, 2_000).with_columns(
        income=pl.when(number < 400).then(-999.0).when(number < 560).then(5_000.0).otherwise("income"),
        region=pl.when(number % 10 > 0).then("region").otherwise(pl.lit("<b>west</b>")),
    )
    features = [
        {"name": "income", "kind": "numeric", "special_values": [-999]},
        {"name": "region", "kind": "categorical"},
    ]
    assert moved(judged(rows, features=features)) == {
        ("special_rate -999", "income"): "breach",
        ("above_p999_rate", "income"): "warn",
        ("above_max_rate", "income"): "warn",
        ("unseen_rate", "region"): "breach",
    }


@pytest.mark.parametrize(
    ("rows", "status"), [(500, "ok"), (300, "warn"), (180, "breach"), (2_500, "breach"), (0, "breach")]
)
def test_volume_is_compared_with_the_same_weekday(lender: Any, run: Any, rows: int, status: str) -> None:
    version = lender.onboard(precomputed=True)
    mondays = ["2026-01-05", "2026-01-12", "2026-01-19", "2026-01-26"]
    for monday, count in zip([*mondays, "2026-02-02"], [490, 500, 505, 510, rows], strict=True):
        lender.land(monday, lender.rows(monday, count))
    lender.land("2026-02-01", lender.rows("a Sunday", 20))
    recorded = run(version, [*mondays, "2026-02-01", "2026-02-02"], UPSTREAM)
    result = recorded["distribution", "2026-02-02"].result
    [metric] = [metric for metric in result.metrics if metric.metric == "volume_ratio"]
    assert (metric.status, result.status) == (status, status)
    assert metric.value == pytest.approx(rows / 502.5)
    for day in (*mondays[:3], "2026-02-01"):
        assert "volume_ratio" not in {metric.metric for metric in recorded["distribution", day].result.metrics}


def test_a_run_over_many_days_judges_each_as_a_daily_run_does(lender: Any, run: Any) -> None:
    start = {"every": "day", "timezone": "UTC", "start": date(2025, 12, 1)}
    daily = lender.onboard(precomputed=True, partitions=start)
    together = lender.onboard(version="2", precomputed=True, partitions=start)
    days = [*daily.calendar.keys("2025-12-01", "2025-12-29")[::7], "2025-12-30"]
    for number, day in enumerate(days):
        lender.land(day, lender.rows(day, 300 - 40 * number).with_columns(nulls("income", 10)))
    at_once = run(together, days, UPSTREAM)
    for day in days:
        alone = run(daily, [day], UPSTREAM)["distribution", day].result
        assert at_once["distribution", day].result.metrics == alone.metrics
        assert at_once["distribution", day].result.reason == alone.reason
    assert "volume_ratio" in {metric.metric for metric in at_once["distribution", "2025-12-29"].result.metrics}


def test_constant_and_all_null_columns_have_a_verdict_without_nan(lender: Any, run: Any, attempts: Any) -> None:
    constant = lender.rows("reference", 3_000).with_columns(age=pl.lit(30), region=pl.lit(None, pl.String))
    version = lender.onboard(precomputed=True, rows=constant)
    lender.land("2026-01-01", lender.rows("a").with_columns(age=pl.lit(30), region=pl.lit(None, pl.String)))
    lender.land(DAY, lender.rows(DAY).with_columns(income=pl.lit(None, pl.Float64)))
    recorded = run(version, ["2026-01-01", DAY])
    assert {each.result.status for (_, day), each in recorded.items() if day != DAY} == {"ok"}
    for kind in ("quality", "psi", "csi"):
        for day in ("2026-01-01", DAY):
            assert attempts(version, day, kind)
    [quality] = attempts(version, DAY, "quality", "distribution")
    assert moved(quality)["null_rate", "income"] == "breach"
    assert moved(quality)["unseen_rate", "age"] == "breach"
    csi = recorded["csi", DAY].result
    breached = {metric.column for metric in csi.metrics if metric.status == "breach"}
    assert breached == {"income", "age", "region"}
