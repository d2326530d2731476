from __future__ import annotations

import re
from collections import Counter
from datetime import date
from typing import Any

import polars as pl
import pytest
from scipy.stats import chi2

from monitoring_assets.stability.profile import WHOLE

DAYS = [f"2026-01-{day:02d}" for day in range(1, 11)]


@pytest.fixture
def land(lender: Any) -> Any:
    """``land(day, rows, income=0.0, age=0)``: a partition, its incomes and ages moved."""

    def land(day: str, rows: int = 400, *, income: float = 0.0, where: pl.Expr | None = None) -> None:
        moved = pl.col("income") + income
        frame = lender.rows(day, rows)
        lender.land(
            day, frame.with_columns(income=moved if where is None else pl.when(where).then(moved).otherwise("income"))
        )

    return land


def whole(result: Any, column: str) -> list[Any]:
    return [metric for metric in result.metrics if (metric.column, metric.segment) == (column, None)]


def profile_of(version: Any, column: str) -> Any:
    return next(each for each in version.profile.columns if each.name == column)


def test_a_shift_breaches_on_its_day_and_is_named_with_its_size(lender: Any, land: Any, run: Any) -> None:
    version = lender.onboard()
    for day in DAYS[:3]:
        land(day, income=8.0 if day == DAYS[2] else 0.0)
    recorded = run(version, DAYS[:3])
    assert [recorded["csi", day].result.status for day in DAYS[:3]] == ["ok", "ok", "breach"]
    result = recorded["csi", DAYS[2]].result
    first = whole(result, "income")[0]
    assert (first.status, first.window, first.n, first.partitions) == ("breach", 1, 400, (DAYS[2],))
    assert first.net_value > first.threshold == 0.25
    assert result.reason == (
        f"1 of 3 columns at or above 0.25: worst income with net PSI {first.net_value:.3g} over 1 partition (400 rows)"
    )
    assert {metric.status for metric in result.metrics if metric.column != "income"} == {"ok"}
    psi = recorded["psi", DAYS[2]].result
    assert {metric.column for metric in psi.metrics} == {"score"}
    assert psi.status in ("warn", "breach"), "the score follows its feature"


def test_the_value_is_the_psi_of_the_stored_counts(
    lender: Any, land: Any, run: Any, stored: Any, plain_psi: Any
) -> None:
    from monitoring_assets.assets.history import Distributions

    version = lender.onboard(precomputed=True)
    for day in DAYS[:3]:
        land(day, 500, income=4.0)
    result = run(version, DAYS[:3])["csi", DAYS[2]].result
    history = Distributions(version).history(DAYS[:3])
    reference = profile_of(version, "income").reference_counts().tolist()
    table = stored(version, "csi", DAYS[2])
    for length in (1, 2, 3):
        wanted = plain_psi(history.bins[WHOLE]["income"][3 - length :].sum(axis=0).tolist(), reference)
        [row] = table.filter(pl.col("column") == "income", pl.col("window") == length).to_dicts()
        assert row["psi"] == pytest.approx(wanted)
        assert row["rows"] == 500 * length
        assert [metric.value for metric in whole(result, "income") if metric.window == length] == [
            pytest.approx(wanted)
        ]


def test_windows_reach_back_over_the_counts_that_earlier_runs_stored(lender: Any, land: Any, run: Any) -> None:
    version = lender.onboard(precomputed=True)
    for day in DAYS[:5]:
        land(day, 60)
        result = run(version, [day])["psi", day].result
        metric = result.metrics[0]
        if day == DAYS[0]:
            assert (result.status, metric.n, metric.value is None) == ("insufficient_data", 60, False)
            assert "60 rows over the longest window; 100 are needed for 10 bins" in result.reason
    assert (result.status, metric.n) == ("ok", 120)
    digests = [version.current("distribution", day).digest for day in DAYS[:5]]
    assert [(each.asset, each.partition, each.digest) for each in result.inputs] == [
        *(("distribution", day, digest) for day, digest in zip(DAYS, digests, strict=False)),
        ("reference", None, version.reference_digest),
    ]


def test_a_run_asks_the_store_for_each_earlier_distribution_once(
    lender: Any, land: Any, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    version, asked = lender.onboard(precomputed=True), Counter[str]()
    for number, day in enumerate(DAYS[:9]):
        land(day, 400, income=9.0 if number == 8 else 0.0)
    run(version, DAYS[:8])
    get = version.store.get

    def counted(key: str) -> Any:
        asked[key] += key.endswith(".parquet")
        return get(key)

    monkeypatch.setattr(version.store, "get", counted)
    assert run(version, [DAYS[8]])["csi", DAYS[8]].result.status == "breach", "so earlier cycles are looked at too"
    earlier = [key for key in lender.listed("data/distribution") if key.endswith(".parquet") and DAYS[8] not in key]
    assert +asked == dict.fromkeys(earlier, 1)


def test_a_run_over_many_days_finds_what_daily_runs_find(lender: Any, land: Any, run: Any) -> None:
    daily, together = lender.onboard(segments=["product"]), lender.onboard(version="2", segments=["product"])
    for number, day in enumerate(DAYS[:6]):
        if number != 3:
            land(day, 150, income=float(number))
    one_by_one: dict[tuple[str, str], Any] = {}
    for day in DAYS[:6]:
        one_by_one |= run(daily, [day])
    at_once = run(together, DAYS[:6])
    for key, each in one_by_one.items():
        assert at_once[key].result.metrics == each.result.metrics, key
        assert (at_once[key].result.status, at_once[key].result.reason) == (each.result.status, each.result.reason)
    for kind in ("psi", "csi"):
        for day in (*DAYS[:3], *DAYS[4:6]):
            assert together.current(kind, day).digest == daily.current(kind, day).digest


def test_a_day_without_data_is_a_gap_in_the_windows_that_hold_it(lender: Any, land: Any, run: Any) -> None:
    version = lender.onboard(precomputed=True)
    for day in (DAYS[0], DAYS[2]):
        land(day, income=8.0)
    recorded = run(version, DAYS[:3])
    assert recorded["csi", DAYS[1]].result.status == "insufficient_data"
    assert "no file matches" in recorded["csi", DAYS[1]].result.reason
    result = recorded["csi", DAYS[2]].result
    [three] = [metric for metric in whole(result, "income") if metric.window == 3]
    assert (three.n, three.partitions) == (800, (DAYS[0], DAYS[2]))
    assert DAYS[1] not in {each.partition for each in result.inputs}


def test_a_glitch_of_one_day_does_not_linger(lender: Any, land: Any, run: Any) -> None:
    version = lender.onboard(precomputed=True)
    for day in DAYS[:6]:
        land(day, income=25.0 if day == DAYS[2] else 0.0)
    recorded = run(version, DAYS[:6])
    assert [recorded["csi", day].result.status for day in DAYS[:6]] == ["ok", "ok", "breach", "ok", "ok", "ok"]
    after = [metric for metric in whole(recorded["csi", DAYS[3]].result, "income") if metric.window == 2]
    assert [metric.status for metric in after] == ["ok"]
    assert after[0].net_value > 0.25
    assert after[0].note.startswith("net PSI without the worst partition 0.0")


def test_nulls_are_told_apart_from_a_shift_of_the_values(lender: Any, run: Any) -> None:
    version = lender.onboard()
    frame = lender.rows(DAYS[0], 400)
    nulls = pl.when(pl.int_range(pl.len()) < 200).then(None).otherwise("income")
    lender.land(DAYS[0], frame.with_columns(income=nulls))
    metric = whole(run(version, DAYS[:1])["csi", DAYS[0]].result, "income")[0]
    assert metric.status == "breach"
    found = re.fullmatch(r"of the PSI null (\d\.\d+); among the valid values alone (\d\.\d+)", metric.note)
    assert found
    assert float(found[1]) > 0.8 * metric.value
    assert float(found[2]) < 0.1


def test_of_a_column_that_moved_the_shares_of_nulls_are_told_and_of_no_other(lender: Any, run: Any) -> None:
    def with_nulls(frame: pl.DataFrame, count: int) -> pl.DataFrame:
        return frame.with_columns(income=pl.when(pl.int_range(pl.len()) < count).then(None).otherwise("income"))

    version = lender.onboard(rows=with_nulls(lender.rows("the reference", 2_000), 100), precomputed=True)
    for day, count in zip(DAYS[:2], (20, 200), strict=True):
        lender.land(day, with_nulls(lender.rows(day, 400), count))
    recorded = run(version, DAYS[:2])
    calm, moved = (recorded["csi", day].result for day in DAYS[:2])
    first, *_ = whole(moved, "income")
    assert (first.status, first.window, first.null_share, first.reference_null_share) == ("breach", 1, 0.5, 0.05)
    [two] = [metric for metric in whole(moved, "income") if metric.window == 2]
    assert (two.null_share, two.reference_null_share) == (220 / 800, 0.05)
    lax = {kind: {"warn": 5.0, "critical": 9.0} for kind in ("psi", "csi")}
    other = lender.onboard(
        rows=with_nulls(lender.rows("the reference", 2_000), 100), precomputed=True, version="2", policy=lax
    )
    [quiet, *_] = whole(run(other, DAYS[:2])["csi", DAYS[1]].result, "income")
    assert (quiet.status, quiet.null_share) == ("ok", 0.5), "the fleet's thresholds may be lower than the manifest's"
    others = [*calm.metrics, *(metric for metric in moved.metrics if metric.column != "income")]
    assert {(metric.null_share, metric.reference_null_share) for metric in others} == {(None, None)}


def test_the_score_s_psi_is_drawn_with_what_no_drift_would_give(lender: Any, land: Any, run: Any) -> None:
    version = lender.onboard()
    land(DAYS[0])
    recorded = run(version, DAYS[:1])["psi", DAYS[0]]
    plots = recorded.outcome.plots
    assert 0 < plots["psi"] < 2 * plots["psi_without_drift_95"] < 0.5
    [alone] = [metric for metric in recorded.result.metrics if (metric.metric, metric.window) == ("psi", 1)]
    assert alone.band == plots["psi_without_drift_95"]


def test_every_window_has_the_band_of_its_rows_and_bins(lender: Any, land: Any, run: Any, stored: Any) -> None:
    version = lender.onboard(precomputed=True, segments=["product"])
    for day in DAYS[:3]:
        land(day, 1_000, income=9.0)
    recorded = run(version, DAYS[:3])
    seen = set()
    for kind in ("psi", "csi"):
        table = stored(version, kind, DAYS[2])
        for metric in recorded[kind, DAYS[2]].result.metrics:
            if metric.metric != kind:
                continue
            segment, value = (metric.segment or "=").split("=")
            [row] = table.filter(column=metric.column, segment=segment, value=value, window=metric.window).to_dicts()
            reference_rows = profile_of(version, metric.column).reference_counts((segment, value)).sum()
            wanted = chi2.ppf(0.95, row["bins"] - 1) * (1 / row["rows"] + 1 / reference_rows)
            assert metric.band == pytest.approx(wanted)
            seen.add((kind, metric.window, bool(segment)))
    assert seen >= {("psi", 1, False), ("csi", 1, False), ("csi", 3, False), ("csi", 1, True)}


def test_the_score_s_bins_are_those_of_its_psi_and_cost_little(
    lender: Any, land: Any, run: Any, attempts: Any, plain_psi: Any
) -> None:
    version = lender.onboard()
    for day in DAYS[:2]:
        land(day, 300, income=4.0)
    recorded = run(version, DAYS[:2])
    for day in DAYS[:2]:
        result = recorded["psi", day].result
        [bins] = [metric for metric in result.metrics if metric.metric == "score_bins"]
        [alone] = [metric for metric in result.metrics if (metric.metric, metric.window) == ("psi", 1)]
        assert (bins.column, bins.window, bins.n, bins.status) == ("score", 1, 300, "ok")
        assert sum(bins.counts) == 300
        assert sum(bins.reference_counts) == version.profile.rows
        assert plain_psi(bins.counts, bins.reference_counts) == pytest.approx(alone.value)
        assert len(bins.model_dump_json(exclude_none=True)) < 500
        assert attempts(version, day, "psi") == [result]
        assert {metric.counts for metric in recorded["csi", day].result.metrics} == {None}
    run(version, DAYS[:2])
    assert [len(attempts(version, day, "psi")) for day in DAYS[:2]] == [1, 1], "the same again is no new attempt"


def test_a_day_with_few_rows_has_bins_though_nothing_is_said_of_its_psi(lender: Any, land: Any, run: Any) -> None:
    version = lender.onboard(precomputed=True)
    land(DAYS[0], 30)
    result = run(version, DAYS[:1])["psi", DAYS[0]].result
    assert result.status == "insufficient_data"
    assert [sum(metric.counts) for metric in result.metrics if metric.counts] == [30]


def test_a_reference_of_training_rows_judges_features_but_not_the_score(lender: Any, land: Any, run: Any) -> None:
    version = lender.onboard(precomputed=True, reference={"sample": "train"})
    land(DAYS[0], income=8.0)
    recorded = run(version, DAYS[:1])
    psi = recorded["psi", DAYS[0]].result
    assert psi.status == "insufficient_data"
    assert "reference.sample is train: rows that the model was fitted on are a false reference" in psi.reason
    assert "give a holdout, oot or production sample" in psi.reason
    assert [metric.value for metric in psi.metrics] == [None]
    assert recorded["csi", DAYS[0]].result.status == "breach"


def test_a_segment_that_moved_is_shown_and_does_not_decide(lender: Any, land: Any, run: Any) -> None:
    version = lender.onboard(precomputed=True, segments=["product"])
    land(DAYS[0], 2_000, income=9.0, where=pl.col("product") == "card")
    result = run(version, DAYS[:1])["csi", DAYS[0]].result
    segments = [metric for metric in result.metrics if metric.segment is not None]
    assert {(metric.column, metric.segment) for metric in segments} == {("income", "product=card")}
    assert (segments[0].status, segments[0].window) == ("breach", 1)
    assert result.status == "ok"


def test_thresholds_of_the_policy_change_the_verdict_and_no_data(lender: Any, land: Any, run: Any) -> None:
    from monitoring_assets import deployment, onboarding

    version = lender.onboard(precomputed=True)
    land(DAYS[0], income=4.0)
    before = run(version, DAYS[:1])["csi", DAYS[0]]
    assert before.result.status == "warn"
    document = lender.manifest(precomputed=True, policy={"csi": {"warn": 0.02, "critical": 0.05}})
    deployment.update(lender.model_folder(document) / "model.yaml", lender.settings)
    stricter = onboarding.onboard(lender.settings, "ke-nano-loan", "1.0.0", lender.clock)
    after = run(stricter, DAYS[:1])["csi", DAYS[0]]
    assert (after.outcome.state, after.result.status, after.result.attempt) == ("reused", "breach", 2)
    assert after.outcome.digest == before.outcome.digest


def test_psi_alone_needs_a_distribution(lender: Any, run: Any) -> None:
    version = lender.onboard(precomputed=True)
    recorded = run(version, DAYS[:2], ("psi",))
    for day in DAYS[:2]:
        assert (recorded["psi", day].outcome.state, recorded["psi", day].result.status) == (
            "skipped",
            "insufficient_data",
        )
        assert recorded["psi", day].result.reason == "distribution is not materialised; run that stage first"


def test_the_longest_window_is_28_days_and_no_input_is_older(lender: Any, run: Any) -> None:
    version = lender.onboard(
        precomputed=True, partitions={"every": "day", "timezone": "UTC", "start": date(2025, 12, 1)}
    )
    days = version.calendar.keys("2025-12-01", "2025-12-30")
    for day in days:
        lender.land(day, lender.rows(day, 5))
    result = run(version, days)["psi", days[-1]].result
    used = [each.partition for each in result.inputs if each.asset == "distribution"]
    assert used == days[-28:]
    assert result.metrics[0].n == 28 * 5
