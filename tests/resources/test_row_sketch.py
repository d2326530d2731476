from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from resources.engines import row_sketch
from resources.engines.row_sketch import SKETCH, Hashes, RowSketch, repeated_share

SMALL = st.lists(st.integers(0, 40), max_size=60)


def hashes(*values: int) -> Hashes:
    return np.array(values, dtype=np.uint64)


def spread(first: int, count: int) -> Hashes:
    """Distinct hashes that look random: the same ones for the same numbers."""
    numbers = np.arange(first, first + count, dtype=np.uint64)
    numbers = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9) + np.uint64(0x9E3779B97F4A7C15)
    numbers = (numbers ^ (numbers >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return numbers ^ (numbers >> np.uint64(31))


def sketch_of(*batches: Hashes) -> RowSketch:
    sketch = RowSketch()
    for batch in batches:
        sketch.add(batch, batch, 0)
    return sketch


def test_nothing_is_no_duplicate() -> None:
    sketch = RowSketch()
    assert (sketch.rows, sketch.null_keys, sketch.duplicate_keys(), sketch.duplicate_row_share()) == (0, 0, 0, 0.0)
    assert len(sketch.sketch()) == 0


@given(st.lists(SMALL, max_size=5), st.integers(0, 3))
def test_duplicates_are_counted_across_batches(batches: list[list[int]], nulls: int) -> None:
    sketch = RowSketch()
    for batch in batches:
        sketch.add(hashes(*batch), hashes(*batch), nulls)
    values = [value for batch in batches for value in batch]
    assert sketch.rows == len(values)
    assert sketch.null_keys == nulls * len(batches)
    assert sketch.duplicate_keys() == len(values) - len(set(values))
    assert sketch.duplicate_row_share() == pytest.approx((len(values) - len(set(values))) / max(len(values), 1))
    assert sketch.sketch().tolist() == sorted(set(values))


def test_keys_and_rows_are_told_apart() -> None:
    sketch = RowSketch()
    sketch.add(hashes(1, 2, 3), hashes(7, 7, 7, 8), null_keys=1)
    assert (sketch.rows, sketch.null_keys, sketch.duplicate_keys(), sketch.duplicate_row_share()) == (4, 1, 0, 0.5)


def test_beyond_the_limit_a_sample_holds_every_row_of_its_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_sketch, "MAX_KEYS", 20_000)
    keys = spread(0, 100_000)
    once, twice = sketch_of(*np.split(keys, 10)), sketch_of(*np.split(keys, 10), *np.split(keys, 10))
    assert once.rows == 100_000
    assert once.duplicate_keys() == 0
    assert once.duplicate_row_share() == 0.0
    assert twice.rows == 200_000
    assert twice.duplicate_row_share() == 0.5
    assert 4_000 < twice.duplicate_keys() <= 10_000


def test_the_sketch_is_the_smallest_hashes_however_the_rows_were_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = spread(0, 50_000)
    whole = sketch_of(rows).sketch()
    assert len(whole) == SKETCH
    assert whole.tolist() == sorted(rows.tolist())[:SKETCH]
    monkeypatch.setattr(row_sketch, "MAX_KEYS", 20_000)
    assert sketch_of(*np.split(rows, 7 * [7_000])).sketch().tolist() == whole.tolist()


@given(SMALL, SMALL)
def test_the_repeated_share_of_small_partitions_is_exact(now: list[int], before: list[int]) -> None:
    share = repeated_share(sketch_of(hashes(*now)).sketch(), sketch_of(hashes(*before)).sketch())
    distinct, earlier = set(now), set(before)
    assert share == (pytest.approx(len(distinct & earlier) / len(distinct)) if distinct and earlier else 0.0)


@pytest.mark.parametrize(("now", "before"), [(50_000, 50_000), (50_000, 200_000), (200_000, 50_000), (3_000, 200_000)])
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_the_repeated_share_of_large_partitions_is_estimated(now: int, before: int, share: float) -> None:
    common = min(int(now * share), before)
    rows, earlier = spread(0, now), spread(now - common, before)
    found = repeated_share(sketch_of(rows).sketch(), sketch_of(earlier).sketch())
    assert found == pytest.approx(common / now, abs=0.06)
