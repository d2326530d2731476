"""Levels of partitions under a policy, from the metrics that results keep."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitoring_assets.alerting.levels import CLEAR, CRITICAL, HOLD, SILENT, WARN, Levels, Shifts, levels

NAN = math.nan


def row(result: int, column: int, net: float, **more: Any) -> dict[str, Any]:
    usual = {"window": 1, "significant": True, "without_worst": NAN, "season_net": NAN, "season_significant": False}
    return {"result": result, "column": column, "net": net, "warn": 0.10, "critical": 0.25} | usual | more


def judged(*rows: dict[str, Any], results: int = 1) -> Levels:
    whole = {"result", "column", "window"}
    names = Shifts.__dataclass_fields__
    arrays = {name: [each[name] for each in rows] for name in names}
    kinds = {name: np.int64 if name in whole else bool if "significant" in name else np.float64 for name in names}
    return levels(Shifts(**{name: np.array(values, dtype=kinds[name]) for name, values in arrays.items()}), results)


@pytest.mark.parametrize(
    ("shift", "expected"),
    [
        ({"net": 0.0}, CLEAR),
        ({"net": 0.0799}, CLEAR),
        ({"net": 0.0801}, HOLD),
        ({"net": 0.0999}, HOLD),
        ({"net": 0.10}, WARN),
        ({"net": 0.2499}, WARN),
        ({"net": 0.25}, CRITICAL),
        ({"net": 0.9, "significant": False}, HOLD),
        ({"net": 0.9, "window": 7, "without_worst": 0.2}, CRITICAL),
        ({"net": 0.9, "window": 7, "without_worst": 0.1999}, WARN),
        ({"net": 0.9, "window": 7, "without_worst": 0.0799}, HOLD),
        ({"net": 0.9, "season_net": 0.25, "season_significant": True}, CRITICAL),
        ({"net": 0.9, "season_net": 0.9, "season_significant": False}, HOLD),
        ({"net": 0.9, "season_net": 0.12, "season_significant": True}, WARN),
        ({"net": 0.9, "season_net": 0.0799, "season_significant": True}, CLEAR),
        ({"net": 0.9, "season_net": 0.09, "season_significant": True}, HOLD),
    ],
)
def test_a_shift_counts_with_effect_evidence_and_no_excuse(shift: dict[str, Any], expected: int) -> None:
    assert judged(row(0, 0, **shift)).level.tolist() == [expected]


def test_a_result_without_a_metric_that_had_rows_enough_says_nothing() -> None:
    found = judged(row(1, 0, 0.0), results=3)
    assert found.level.tolist() == [SILENT, CLEAR, SILENT]
    assert judged(results=2).level.tolist() == [SILENT, SILENT]


def test_a_column_clears_in_its_shortest_window_only() -> None:
    long = row(0, 0, 0.09, window=7, without_worst=NAN)
    assert judged(row(0, 0, 0.01, window=1), long).level.tolist() == [CLEAR]
    assert judged(long, row(0, 0, 0.01, window=1)).level.tolist() == [CLEAR]
    assert judged(row(0, 0, 0.09, window=1), row(0, 0, 0.01, window=7)).level.tolist() == [HOLD]


def test_one_column_that_is_not_clear_keeps_the_partition_from_clearing() -> None:
    assert judged(row(0, 0, 0.01), row(0, 1, 0.09), row(0, 2, 0.01)).level.tolist() == [HOLD]


def test_the_columns_at_the_level_are_counted_and_the_worst_is_named() -> None:
    rows = [row(0, 0, 0.3), row(0, 0, 1.82, window=3), row(0, 1, 0.26), row(0, 2, 0.15), row(0, 3, 0.01)]
    found = judged(*rows)
    assert (found.level[0], found.columns[0], found.reached[0], found.worst[0]) == (CRITICAL, 4, 2, 1)
    assert judged(row(0, 0, 0.05)).worst.tolist() == [-1]


def test_thresholds_are_those_of_each_metric() -> None:
    found = judged(row(0, 0, 0.2, warn=0.02, critical=0.1), row(1, 0, 0.2, warn=0.3, critical=0.5), results=2)
    assert found.level.tolist() == [CRITICAL, CLEAR]


ROWS = st.builds(
    row,
    st.integers(0, 4),
    st.integers(0, 3),
    st.floats(0, 1),
    window=st.sampled_from([1, 2, 7]),
    significant=st.booleans(),
    without_worst=st.just(NAN) | st.floats(0, 1),
    season_net=st.just(NAN) | st.floats(0, 1),
    season_significant=st.booleans(),
)


@given(st.lists(ROWS, max_size=30), st.randoms())
def test_neither_the_order_of_metrics_nor_other_results_change_a_level(rows: list[Any], random: Any) -> None:
    whole = judged(*rows, results=5)
    shuffled = list(rows)
    random.shuffle(shuffled)
    again = judged(*shuffled, results=5)
    alone = [judged(*[each | {"result": 0} for each in rows if each["result"] == n]).level[0] for n in range(5)]
    # Two metrics of one column and window are never in one result.
    named = [(each["result"], each["column"], each["window"]) for each in rows]
    if len(set(named)) == len(named):
        assert whole.level.tolist() == again.level.tolist() == alone
        assert whole.reached.tolist() == again.reached.tolist()


@given(st.lists(ROWS, max_size=30), st.floats(1.0, 3.0))
def test_higher_thresholds_never_raise_a_level(rows: list[Any], factor: float) -> None:
    higher = [each | {"warn": each["warn"] * factor, "critical": each["critical"] * factor} for each in rows]
    assert (judged(*higher, results=5).level <= judged(*rows, results=5).level).all()
