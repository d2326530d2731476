from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from monitoring_assets.expectations.batch import PRESENT, ROWS, TARGET, Batch, CountHistory, measure_column, to_frame
from resources.errors import BadInput


@pytest.fixture
def history() -> CountHistory:
    return CountHistory(
        partitions=("2026-01-01", "2026-01-02", "2026-01-03"),
        present=np.array([True, False, True]),
        counts={"income": np.array([[5, 6, 7], [0, 0, 0], [8, 9, 1]]), "region": np.array([[17, 1], [0, 0], [2, 16]])},
        tails={"income": np.array([[1, 2, 3, 4], [0] * 4, [5, 6, 7, 8]]), "region": np.zeros((3, 4), dtype=np.int64)},
        rows=np.array([18, 0, 18]),
        measures={"duplicate_keys": np.array([4.0, np.nan, 2.0])},
    )


def test_a_column_holds_its_bins_then_its_tails_then_nulls(history: CountHistory) -> None:
    frame = to_frame(history, np.array([2]))
    assert len(frame) == 3 * 7
    np.testing.assert_array_equal(frame["income"][14:], [8, 9, 1, 5, 6, 7, 8])
    np.testing.assert_array_equal(frame["region"][:7], [17, 1, 0, 0, 0, 0, np.nan])


def test_measures_stand_in_the_first_slot_and_scalars_only_in_targets(history: CountHistory) -> None:
    frame = to_frame(history, np.array([2]))
    assert frame[ROWS].dropna().to_dict() == {0: 18.0, 7: 0.0, 14: 18.0}
    assert frame[PRESENT].dropna().to_dict() == {0: 1.0, 7: 0.0, 14: 1.0}
    assert frame[TARGET].dropna().to_dict() == {0: 0.0, 7: 0.0, 14: 1.0}
    assert frame[measure_column("duplicate_keys")].dropna().to_dict() == {14: 2.0}


def test_a_batch_gives_back_what_the_history_held(history: CountHistory) -> None:
    batch = Batch.of(to_frame(history, np.array([0, 2])))
    np.testing.assert_array_equal(batch.targets, [0, 2])
    for column, counts in history.counts.items():
        np.testing.assert_array_equal(batch.counts(column, counts.shape[1]), counts)
        np.testing.assert_array_equal(batch.tails(column, counts.shape[1]), history.tails[column])
    np.testing.assert_array_equal(batch.partition_values(ROWS), history.rows)


def test_a_batch_does_not_read_padding_as_counts(history: CountHistory) -> None:
    batch = Batch.of(to_frame(history, np.array([2])))
    with pytest.raises(ValueError, match=r"slots 0 to 6 of column 'region'"):
        batch.counts("region", 7)
    with pytest.raises(ValueError, match=r"slots 5 to 8 of column 'income'"):
        batch.tails("income", 5)


def test_a_history_without_columns_still_has_its_measures(history: CountHistory) -> None:
    frame = to_frame(replace(history, counts={}, tails={}), np.array([0, 1, 2]))
    assert frame[ROWS].tolist() == [18, 0, 18]


def test_a_feature_with_the_name_of_a_measure_is_refused(history: CountHistory) -> None:
    clash = replace(history, counts={**history.counts, ROWS: history.counts["income"]})
    with pytest.raises(BadInput, match=r"feature '\(partition\) rows'.*rename the feature"):
        to_frame(clash, np.array([2]))


@pytest.mark.parametrize("targets", [[], [2, 1], [1, 1], [-1], [3]])
def test_targets_must_be_increasing_row_numbers(history: CountHistory, targets: list[int]) -> None:
    with pytest.raises(ValueError, match="increasing row numbers of the 3 partitions"):
        to_frame(history, np.array(targets, dtype=np.int64))
