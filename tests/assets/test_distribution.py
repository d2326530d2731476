from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest

from monitoring_assets.stability.profile import WHOLE
from resources.errors import InfrastructureError

DAY = "2026-01-02"
UPSTREAM = ("features", "scores", "distribution")
MARKUP = "<script>alert('region')</script>"


@pytest.fixture
def counted(run: Any) -> Any:
    """Runs the stages up to the distribution for one day: its history, with one position."""
    from monitoring_assets.assets.history import Distributions

    def counted(version: Any) -> Any:
        recorded = run(version, [DAY], UPSTREAM)["distribution", DAY]
        assert recorded.outcome.state == "materialised", recorded.result.reason
        return Distributions(version).history([DAY])

    return counted


def bins_of(history: Any, column: str, segment: tuple[str, str] = WHOLE) -> list[int]:
    found: list[int] = history.bins[segment][column][0].tolist()
    return found


def profile_of(version: Any, column: str) -> Any:
    return next(each for each in version.profile.columns if each.name == column)


def by_label(version: Any, history: Any, column: str) -> dict[str, int]:
    """Counts of one column's bins that hold a row."""
    labels = profile_of(version, column).bins.labels()
    return {label: count for label, count in zip(labels, bins_of(history, column), strict=True) if count}


def test_every_row_is_in_the_bin_that_the_definition_says(lender: Any, counted: Any, bin_positions: Any) -> None:
    version = lender.onboard(precomputed=True, segments=["product"])
    lender.land(DAY)
    history, rows = counted(version), lender.rows(DAY)
    for name in ("income", "age", "vendor_score"):
        bins = profile_of(version, name).bins
        positions = bin_positions(bins, rows[name].cast(float).to_numpy())
        assert bins_of(history, name) == np.bincount(positions, minlength=len(bins.kinds())).tolist()
    assert by_label(version, history, "region") == dict(rows["region"].value_counts().iter_rows())
    assert history.rows.tolist() == [400]


def test_a_column_of_each_kind_adds_up_to_the_rows_in_each_segment(lender: Any, counted: Any) -> None:
    version = lender.onboard(precomputed=True, segments=["product", "region"])
    product = ["loan", "card", "lease", None]
    lender.land(DAY, lender.rows(DAY).with_columns(product=pl.Series(product * 100)))
    history = counted(version)
    assert set(history.bins) == {
        WHOLE,
        *(("product", value) for value in ("loan", "card", "other", "null")),
        *(("region", value) for value in ("north", "south", "east", "other", "null")),
    }
    for column in ("income", "age", "region", "vendor_score"):
        assert sum(bins_of(history, column)) == 400
        for value in ("loan", "card", "other", "null"):
            assert sum(bins_of(history, column, ("product", value))) == 100
        parts = [bins_of(history, column, key) for key in history.bins if key[0] == "product"]
        assert np.sum(parts, axis=0).tolist() == bins_of(history, column)


def test_segment_values_that_are_called_other_or_null_are_counted_once(lender: Any, counted: Any) -> None:
    values = pl.Series(["other", "null", "loan", None] * 100)
    reference = lender.rows("reference", 400).with_columns(product=values)
    version = lender.onboard(precomputed=True, rows=reference, segments=["product"])
    lender.land(DAY, lender.rows(DAY).with_columns(product=values))
    history = counted(version)
    parts = {key: sum(bins_of(history, "region", key)) for key in history.bins if key != WHOLE}
    assert parts == {("product", "other"): 100, ("product", "null"): 200, ("product", "loan"): 100}
    frozen = profile_of(version, "region").counts
    assert {key: sum(counts) for key, counts in frozen.items() if key != WHOLE} == parts


def test_null_special_unseen_and_infinite_values_have_bins(lender: Any, counted: Any) -> None:
    reference = lender.rows("reference", 3_000).with_columns(
        income=pl.when(pl.int_range(pl.len()) < 60).then(-999.0).otherwise("income"), age=pl.int_range(pl.len()) % 5
    )
    features = [
        {"name": "income", "kind": "numeric", "special_values": [-999]},
        {"name": "age", "kind": "numeric"},
        {"name": "region", "kind": "categorical", "special_values": ["n/a"]},
    ]
    version = lender.onboard(precomputed=True, rows=reference, features=features)
    inf = float("inf")
    rows = lender.rows(DAY, 8).with_columns(
        income=pl.Series([-999.0, -999.0, None, float("nan"), inf, inf, -inf, 1e300]),
        age=pl.Series([0, 1, 4, 5, -1, None, None, 3]),
        region=pl.Series(["n/a", "north", MARKUP, "", None, "NORTH", "north ", "south"]),
    )
    lender.land(DAY, rows)
    history = counted(version)
    income = by_label(version, history, "income")
    above = [label for label in income if label.startswith("> ")]
    below = [label for label in income if label.startswith("≤ ")]
    assert income == {"-999": 2, "null": 2, below[0]: 1, above[0]: 3}
    assert by_label(version, history, "age") == {"0": 1, "1": 1, "3": 1, "4": 1, "unseen": 2, "null": 2}
    assert by_label(version, history, "region") == {"n/a": 1, "north": 1, "south": 1, "unseen": 4, "null": 1}
    assert history.tails[WHOLE]["income"][0].tolist() == [1, 1, 3, 3]


def test_an_all_null_column_is_all_in_its_null_bin(lender: Any, counted: Any) -> None:
    version = lender.onboard(precomputed=True)
    lender.land(DAY, lender.rows(DAY).with_columns(income=pl.lit(None), region=pl.lit(None, pl.String)))
    history = counted(version)
    assert by_label(version, history, "income") == by_label(version, history, "region") == {"null": 400}


def test_scores_are_summed_exactly_beside_the_counts(lender: Any, run: Any, stored: Any) -> None:
    version = lender.onboard(precomputed=True)
    lender.land(DAY)
    run(version, [DAY], UPSTREAM)
    frame = stored(version, "distribution", DAY)
    total = int((lender.rows(DAY)["vendor_score"] * 1e6).round().cast(int).sum())
    bins = frame.filter(pl.col("part") == "bins")
    sums = dict(bins.group_by("column").agg(pl.col("score_sum").sum()).iter_rows())
    assert sums == dict.fromkeys(("income", "age", "region", "vendor_score"), total)
    cells = frame.filter(pl.col("part") == "score cells")
    assert cells["count"].sum() == 400
    micros = (lender.rows(DAY)["vendor_score"] * 1e6).round().cast(int) // 100
    assert dict(cells.select("index", "count").iter_rows()) == dict(micros.value_counts().iter_rows())


def test_a_partition_without_rows_has_an_empty_distribution(lender: Any, counted: Any) -> None:
    version = lender.onboard(segments=["product"])
    lender.land(DAY, lender.rows(DAY).head(0))
    history = counted(version)
    assert history.present.tolist() == [True]
    assert history.rows.tolist() == [0]
    assert not any(counts.any() for columns in history.bins.values() for counts in columns.values())


def test_it_counts_again_only_when_rows_or_scores_changed(lender: Any, run: Any) -> None:
    version = lender.onboard()
    lender.land(DAY)
    run(version, [DAY], UPSTREAM)
    first = version.current("distribution", DAY)
    assert run(version, [DAY], ("distribution",))["distribution", DAY].outcome.state == "reused"
    lender.land(DAY, lender.rows("corrected"))
    run(version, [DAY], UPSTREAM)
    second = version.current("distribution", DAY)
    assert second.digest != first.digest
    assert [each.digest for each in second.inputs] == [
        version.current("features", DAY).digest,
        version.current("scores", DAY).digest,
        version.reference_digest,
    ]


def test_scores_of_other_features_are_not_counted(lender: Any, run: Any) -> None:
    version = lender.onboard()
    lender.land(DAY)
    run(version, [DAY], UPSTREAM)
    before = version.current("distribution", DAY)
    lender.land(DAY, lender.rows("corrected", 300))
    run(version, [DAY], ("features",))
    recorded = run(version, [DAY], ("distribution",))
    result = recorded["distribution", DAY].result
    assert (recorded["distribution", DAY].outcome.state, result.status) == ("blocked", "breach")
    assert result.reason == "the scores were made from other features than there are now; run the scores stage again"
    assert recorded["psi", DAY].result.status == "insufficient_data"
    assert version.current("distribution", DAY) == before


@pytest.mark.parametrize("lost", ["features", "scores"])
def test_lost_rows_are_trouble_of_the_store_and_named(lender: Any, run: Any, lost: str) -> None:
    version = lender.onboard()
    lender.land(DAY)
    run(version, [DAY], ("features", "scores"))
    [key] = [key for key in lender.listed(f"data/{lost}") if key.endswith("part-00000.parquet")]
    lender.store.delete(key)
    with pytest.raises(InfrastructureError, match=f"stored features and scores of {DAY} cannot be read"):
        run(version, [DAY], ("distribution",))


def test_a_lost_distribution_is_trouble_of_the_store_until_it_is_counted_again(lender: Any, run: Any) -> None:
    version = lender.onboard()
    for day in ("2026-01-01", DAY):
        lender.land(day)
    run(version, ["2026-01-01"])
    [key] = [key for key in lender.listed("data/distribution") if key.endswith(".parquet")]
    lender.store.delete(key)
    with pytest.raises(InfrastructureError, match="stored distribution of 2026-01-01 cannot be read"):
        run(version, [DAY])
    run(version, ["2026-01-01"], ("distribution",), force=True)
    assert run(version, [DAY])["csi", DAY].result.status == "ok"
